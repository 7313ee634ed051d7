"""README.md, docs/quickstart.md, docs/api.md: their curl and Python run as they stand there, and get what they show."""

import contextlib
import io
import json
import re
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.harness import Service
from tests.support.curl import parse_curl

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:8000"
PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "docs/quickstart.md", "docs/api.md")}
JOB_ID = re.compile(r"(?<=/v1/jobs/)[0-9a-f]{32}")


@dataclass
class Block:
    """Something between fences, and what stands between the next ones: perhaps what comes of it."""

    language: str
    text: str
    next_language: str = ""
    next_text: str = ""

    @property
    def commands(self):
        """The curl commands of a block for the shell."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.startswith("curl ")] if self.language == "sh" else []


def blocks_of(page):
    found = [Block(*pair) for pair in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)]
    for block, after in pairwise(found):
        block.next_language, block.next_text = after.language, after.text
    return found


def shown_status(block):
    """The status that the page shows beside the last command of a block."""
    if head := re.match(r"HTTP/1.1 (\d+)", block.next_text):
        return int(head[1])
    return 400 if block.next_text.startswith('{"error"') else 200


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(["demo", "demo-dist"], tmp_path_factory.mktemp("data"), lease_s=15) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def job_id(service):
    """A job of four pictures that is done."""
    with service.client() as client:
        answer = client.post("/v1/generate", json={"prompt": "a green car", "n": 4})
    return answer.json()["id"]


def test_there_is_something_to_try():
    numbers = {name: sum(len(block.commands) for block in blocks_of(page)) for name, page in PAGES.items()}
    assert numbers["docs/api.md"] >= 10
    assert numbers["docs/quickstart.md"] >= 8
    assert numbers["README.md"] >= 1


@pytest.mark.parametrize("name", PAGES)
def test_the_curl_commands_get_what_the_page_shows(service, job_id, name):
    with service.client() as client:
        for block in blocks_of(PAGES[name]):
            for place, command in enumerate(block.commands):
                text = JOB_ID.sub(job_id, command.replace(ADDRESS, service.address))
                response = parse_curl(text).send(client)
                is_last = place == len(block.commands) - 1
                assert response.status_code == (shown_status(block) if is_last else 200), (command, response.text)
                if is_last and block.next_text.startswith("HTTP/"):
                    names = [line.partition(":")[0] for line in block.next_text.splitlines()[1:]]
                    assert all(name in response.headers for name in names), response.headers
                if block.next_language == "json" and place == 0:
                    check_json(response.json(), json.loads(block.next_text))


def check_json(found, shown):
    """The same fields, and the same values where these do not depend on when and where it was drawn."""
    assert list(found) == list(shown)
    for name in ("model", "size", "prompt", "guidance_scale", "num_inference_steps", "output_format", "error"):
        if shown.get(name) is not None:
            assert found[name] == shown[name], name


def test_the_quickstarts_python_prints_what_it_says(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = [block for block in blocks_of(PAGES["docs/quickstart.md"]) if block.language == "python"]
    assert len(blocks) == 2
    for block in blocks:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # examples close nothing: they end soon
            exec(compile(block.text.replace(ADDRESS, service.address), "docs/quickstart.md", "exec"), names)
            names.pop("client").close()
        assert output.getvalue() == block.next_text
    assert (tmp_path / "cats.png").read_bytes().startswith(b"\x89PNG")
