"""The examples of docs/client.md and docs/commands.md are true."""

import re
from pathlib import Path

from typer.main import get_command

from service.cli.app import app
from service.cli.remote import Exit
from tests.gateway.harness import running_gateway

DOCS = Path(__file__).parents[2] / "docs"


def test_the_pages_python_runs_from_top_to_bottom(redis_url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "client.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 6
    with running_gateway(redis_url, tmp_path, "demo") as harness:
        names = {}
        for block in blocks:
            exec(block.replace("http://127.0.0.1:8000", harness.base_url), names)
        names["client"].close()
    assert (tmp_path / "apple.png").read_bytes().startswith(b"\x89PNG")
    output = capsys.readouterr().out
    assert "picture 1 is done" in output
    assert "num_inference_steps: 100000 is not allowed" in output


def test_every_command_and_option_that_the_page_names_exists():
    page = (DOCS / "commands.md").read_text("utf-8")
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    lines = re.findall(r"emmdit ([^|\n]*)", shell)
    assert len(lines) > 10
    for line in lines:
        command = get_command(app)
        for word in line.split():
            command = getattr(command, "commands", {}).get(word, command)
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", line)) <= known, line


def test_every_exit_code_is_told():
    page = (DOCS / "commands.md").read_text("utf-8")
    for code in Exit:
        assert f"| {int(code)} |" in page
