"""`emmdit bench serve` against a fake service on a real port."""

import json
import socket
import threading
import time

import pytest
import uvicorn
from PIL import Image
from typer.testing import CliRunner

from service.cli.bench import bench_app
from tests.bench.fake_server import FakeService


@pytest.fixture
def service():
    """(fake service, its address)."""
    fake = FakeService(delay_s=lambda body: 0.02)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(fake.app, log_config=None, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline_s = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        yield fake, f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


def run(*arguments):
    return CliRunner().invoke(bench_app, ["serve", *map(str, arguments)])


def test_a_run_prints_its_figures_and_writes_json_and_a_plot(service, tmp_path):
    fake, url = service
    out, plot = tmp_path / "run.json", tmp_path / "run.png"
    result = run("--url", url, "--rate", 50, "--num-requests", 8, "--mix", "4:0=1", "--out", out, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert "8 of 8 pictures" in result.output
    values = json.loads(out.read_text())
    assert values["model"] == "fake 1"
    assert values["report"]["num_pictures"] == len(values["requests"]) == 8
    assert values["report"]["batches"]["mean_rows"] == 3
    assert values["report"]["first_preview"] is None
    assert {body["num_inference_steps"] for body in fake.bodies} == {4}
    assert {body["prompt"] for body in fake.bodies} == {"a cat", "a dog"}
    with Image.open(plot) as picture:
        assert picture.format == "PNG"


def test_the_same_seed_sends_the_same_requests(service):
    fake, url = service
    for _ in range(2):
        assert (
            run("--url", url, "--rate", 200, "--num-requests", 4, "--mix", "2", "--mix", "3", "--seed", 5).exit_code
            == 0
        )
    by_seed = sorted((body["seed"], body["num_inference_steps"]) for body in fake.bodies)
    assert by_seed[::2] == by_seed[1::2]


def test_a_trace_and_a_file_of_prompts_are_replayed(service, tmp_path):
    fake, url = service
    (tmp_path / "trace.jsonl").write_text('{"at_s": 0, "num_inference_steps": 9}\n{"at_s": 0.01}\n')
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    result = run("--url", url, "--trace", tmp_path / "trace.jsonl", "--prompts", tmp_path / "prompts.txt", "--previews")
    assert result.exit_code == 0, result.output
    assert "offers no previews" in result.output
    assert sorted(body["prompt"] for body in fake.bodies) == ["one", "two"]
    assert [body.get("num_inference_steps") for body in fake.bodies if body["prompt"] == "one"] == [9]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mix", "many"], "many"),
        (["--url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["--rate", "0"], "--rate"),
    ],
)
def test_what_cannot_be_run_is_said_by_name(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_the_key_comes_out_of_the_environment(service, monkeypatch):
    fake, url = service
    monkeypatch.setenv("EMMDIT_API_KEY", "emmdit_1.secret")
    assert run("--url", url, "--rate", 200, "--num-requests", 2).exit_code == 0
    assert fake.keys == ["Bearer emmdit_1.secret"] * 2
