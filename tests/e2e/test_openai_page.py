"""docs/openai.md: its examples run as they stand there, against `emmdit serve`, and print what it says they print."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

from tests.e2e.harness import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PAGE = (Path(__file__).parents[2] / "docs" / "openai.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def examples(language):
    """(code, what it prints) of every block."""
    assert ADDRESS in PAGE
    return re.findall(rf"```{language}\n(.*?)```\n\n```text\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service("demo-dist", tmp_path_factory.mktemp("data"), lease_s=15) as running:
        yield running
        assert running.stop() == 0


def test_every_block_of_code_says_what_it_prints():
    assert len(examples("python")) + len(examples("js")) == PAGE.count("```python") + PAGE.count("```js") > 5


def test_the_python_examples_print_what_the_page_says(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code, printed in examples("python"):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # examples close nothing: they end soon
            exec(compile(code.replace(ADDRESS, service.address), "docs/openai.md", "exec"), names)
        assert output.getvalue() == printed
    names["client"].close()
    assert (tmp_path / "apple.png").read_bytes().startswith(b"\x89PNG")


def test_the_node_example_prints_what_the_page_says(service, openai_node):
    ((code, printed),) = examples("js")
    (openai_node.folder / "example.mjs").write_text(code.replace(ADDRESS, service.address))
    assert openai_node.run("example.mjs") == printed
