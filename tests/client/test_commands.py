"""`emmdit generate` and `emmdit jobs` against a server that does what a test's script says."""

import asyncio
import io
import json
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from service.cli.app import app
from service.cli.display import JsonLines
from service.cli.draw import Studio
from service.cli.orders import plan
from service.client import AsyncClient
from tests.client.scripted_server import JOB_ID, Reply, ScriptedServer, as_json, event, image, job, refusal, stream


def coloured_png():
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (250, 10, 20)).save(file, "png")
    return file.getvalue()


PICTURE = coloured_png()


def drawn(*indices):
    """The whole stream of a job whose pictures are done."""
    pictures = [event("image", image(index, PICTURE), id=str(index + 1)) for index in indices]
    return stream(event("job", job("running")), *pictures, event("done", job("done"), id="end"))


def failed(code="worker_lost", message="broken"):
    said = {"message": message, "type": "t", "param": None, "code": code}
    return stream(event("job", job("running")), event("error", {"error": said, "job": job("failed", error=said)}))


pytestmark = pytest.mark.anyio


@pytest.fixture
def emmdit(tmp_path, monkeypatch):
    """Runs a command in an empty folder against a scripted server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMMDIT_URL", raising=False)

    def run(*arguments, script=(), input=None, needs_url=True):
        with ScriptedServer() as server:
            server.script = script if callable(script) else list(script)
            place = ["--url", server.url] if needs_url else []
            result = CliRunner().invoke(app, [*map(str, arguments), *place], input=input)
            result.seen = server.seen
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def test_one_picture_into_one_file(emmdit, tmp_path):
    result = emmdit("generate", "a red apple", "-o", "apple.png", "--seed", 7, script=[drawn(0)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "apple.png").read_bytes() == PICTURE
    assert list(tmp_path.iterdir()) == [tmp_path / "apple.png"]
    assert "apple.png  demo  64x64  20 steps  guidance 4.5  seed 7" in result.stderr
    assert result.stdout == ""


def test_every_option_is_sent(emmdit):
    result = emmdit(
        *("generate", "a red apple", "-m", "demo", "--size", "64x64", "--steps", 9, "--guidance", 2.5, "--seed", 1),
        *("--negative", "blue", "-n", 2, "--priority", "low", "--timeout", 60, "-o", "{index}.webp", "--quality", 80),
        script=[drawn(0, 1)],
    )
    assert result.exit_code == 0, result.output
    assert result.seen[0].fields == {
        "prompt": "a red apple",
        "model": "demo",
        "size": "64x64",
        "num_inference_steps": 9,
        "guidance_scale": 2.5,
        "seed": 1,
        "negative_prompt": "blue",
        "n": 2,
        "priority": "low",
        "timeout_s": 60.0,
        "output_format": "webp",
        "output_compression": 80,
    }


def test_prompts_come_from_a_file_from_stdin_and_from_the_line(emmdit, tmp_path):
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    command = ("generate", "three", "-", "--from", "prompts.txt", "-o", "pictures/{index}-{slug}.png")
    result = emmdit(*command, input="four\n", script=lambda request: drawn(0))
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["1-three.png", "2-one.png", "3-two.png", "4-four.png"]


def test_what_exists_is_not_replaced_and_nothing_is_drawn_in_vain(emmdit, tmp_path):
    (tmp_path / "apple.png").write_bytes(b"mine")
    result = emmdit("generate", "a red apple", "-o", "apple.png")
    assert (result.exit_code, result.seen) == (2, [])
    assert "apple.png exists; --force replaces" in result.stderr
    assert (tmp_path / "apple.png").read_bytes() == b"mine"
    assert emmdit("generate", "a red apple", "-o", "apple.png", "--force", script=[drawn(0)]).exit_code == 0
    assert (tmp_path / "apple.png").read_bytes() == PICTURE


def test_a_line_of_json_for_every_picture_drawn_or_not(emmdit):
    def script(request):
        return failed() if request.fields["prompt"] == "two" else drawn(0)

    result = emmdit("generate", "one", "two", "-o", "{index}.png", "--json", "--concurrency", 1, script=script)
    assert result.exit_code == 1
    done, lost = map(json.loads, result.stdout.splitlines())
    assert (done["state"], done["file"], done["index"], done["job_id"]) == ("done", "1.png", 1, JOB_ID)
    assert (done["num_bytes"], done["content_type"], done["model"]) == (len(PICTURE), "image/png", "demo")
    assert lost == {
        "index": 2,
        "state": "failed",
        "prompt": "two",
        "error": {"code": "worker_lost", "message": "broken"},
    }
    assert result.stderr == ""


def test_a_picture_goes_to_stdout_alone(emmdit):
    result = emmdit("generate", "a red apple", "-o", "-", script=[drawn(0)])
    assert result.exit_code == 0
    assert result.stdout_bytes == PICTURE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate",), "nothing to draw"),
        (("generate", " "), "a prompt is empty"),
        (("generate", "a", "b", "-o", "-"), "hands one picture"),
        (("generate", "a", "-o", "-", "--json"), "hands one picture"),
        (("generate", "a", "-o", "a.gif"), "does not end in .png"),
        (("generate", "a", "-o", "a.png", "--format", "jpeg"), "contradict"),
        (("generate", "a", "--from", "missing.txt"), "cannot read missing.txt"),
        (("generate", "a", "--preview", "sixel"), "allowed: auto, kitty, iterm, blocks, none"),
        (("generate", "a", "--device", "cpu"), "is for a service that this command starts"),
        (("generate", "a", "--url", "nonsense"), "base_url"),
        (("jobs", "show", "../models"), "job_id"),
        (("jobs", "list", "--state", "lost"), "allowed: queued, running"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(emmdit, arguments, message):
    result = emmdit(*arguments, needs_url="--url" not in arguments)
    assert (result.exit_code, result.seen) == (2, [])
    assert message in result.stderr


def test_what_the_server_refuses_altogether_is_bad_usage_too(emmdit):
    refused = refusal(400, "invalid_value", "num_inference_steps: 9999 is not allowed")
    result = emmdit("generate", "a red apple", "--steps", 9999, script=[refused])
    assert result.exit_code == 2
    assert "9999 is not allowed (invalid_value)" in result.stderr


def test_a_busy_server_ends_the_command_once_and_not_for_every_prompt(emmdit):
    full = refusal(429, "rate_limit_exceeded", "full", retry_after="30")
    result = emmdit("generate", "a", "b", "c", "--patience", 1, "--concurrency", 1, script=[full])
    assert result.exit_code == 3
    assert len(result.seen) == 1
    assert "try again in 30 s" in result.stderr


def test_a_picture_that_cannot_be_written_fails_and_its_job_is_cancelled(emmdit, tmp_path):
    (tmp_path / "file").touch()
    first = stream(event("job", job("running")), event("image", image(0, PICTURE)), event("image", image(1, PICTURE)))
    result = emmdit("generate", "a", "-n", 2, "-o", "file/{index}.png", script=[first, as_json(job("running"), 202)])
    assert result.exit_code == 1
    assert "cannot write file" in result.stderr
    assert [request.method for request in result.seen] == ["POST", "DELETE"]


async def test_a_job_whose_id_is_not_known_yet_is_found_by_its_key_and_cancelled(anyio_backend):
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def never():
        loop.call_soon_threadsafe(asked.set)
        await asyncio.sleep(60)

    silent = Reply(200, {"content-type": "text/event-stream"}, [never])
    with ScriptedServer(silent, as_json(job("running"), 202), as_json(job("running"), 202)) as server:
        async with AsyncClient(server.url) as client:
            studio = Studio(client, JsonLines(), is_forced=False)
            drawing = asyncio.create_task(studio.draw_all(plan(["a"], {"seed": 1}, None, int), 1))
            await asked.wait()
            drawing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await drawing
    assert [request.method for request in server.seen] == ["POST", "POST", "DELETE"]
    first, second, _ = server.seen
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_the_picture_itself_is_shown_where_that_was_asked_for(emmdit):
    result = emmdit("generate", "a red apple", "-o", "a.png", "--preview", "kitty", script=[drawn(0)])
    assert "\x1b_Ga=T,f=100" in result.stderr


def test_jobs_are_listed_page_by_page(emmdit):
    page = {"object": "list", "data": [job("done")] * 100, "has_more": True, "last_id": JOB_ID}
    last = {"object": "list", "data": [job("running")], "has_more": False, "last_id": JOB_ID}
    result = emmdit("jobs", "list", "--limit", 150, script=[as_json(page), as_json(last)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 102
    assert lines[-1].split()[:6] == [JOB_ID, "running", "demo", "64x64", "1", "3/19"]
    paths = [request.path for request in result.seen]
    assert paths == ["/v1/jobs?limit=100", f"/v1/jobs?limit=50&after={JOB_ID}"]
    empty = {"object": "list", "data": [], "has_more": False, "last_id": None}
    assert emmdit("jobs", "list", script=[as_json(empty)]).stdout == "no jobs\n"


def test_a_job_is_shown_with_what_it_is_about(emmdit):
    said = {"message": "too late", "type": "t", "param": None, "code": "deadline_exceeded"}
    result = emmdit("jobs", "show", JOB_ID, script=[as_json(job("expired", error=said, warnings=["careful"]))])
    assert result.exit_code == 0, result.output
    assert "state     expired, step 3 of 19" in result.stdout
    assert "error     too late (deadline_exceeded)" in result.stdout
    assert "warning   careful" in result.stdout
    queued = emmdit("jobs", "show", JOB_ID, "--json", script=[as_json(job("queued"))])
    assert json.loads(queued.stdout)["position"] == 2


def test_jobs_are_cancelled_and_an_unknown_one_says_so(emmdit):
    replies = [as_json(job("cancelled")), as_json(job("running"), 202), refusal(404, "job_not_found", "there is none")]
    result = emmdit("jobs", "cancel", JOB_ID, "b", "c", script=replies)
    assert result.stdout == f"{JOB_ID}  cancelled\n{JOB_ID}  ends at its next step\n"
    assert result.exit_code == 1
    assert "there is none (job_not_found)" in result.stderr


def test_a_jobs_pictures_are_fetched_once_it_is_done(emmdit, tmp_path):
    picture = Reply(200, {"content-type": "image/png"}, [PICTURE])
    waiting = emmdit("jobs", "fetch", JOB_ID, script=[as_json(job("running"))])
    assert waiting.exit_code == 1
    assert "--wait" in waiting.stderr
    script = [as_json(job("running")), as_json(job("done")), picture]
    result = emmdit("jobs", "fetch", JOB_ID, "--wait", "-o", "{slug}.png", script=script)
    assert result.stdout == f"{JOB_ID}.png\n"
    assert (tmp_path / f"{JOB_ID}.png").read_bytes() == PICTURE
    again = emmdit("jobs", "fetch", JOB_ID, "-o", "{slug}.png", script=[as_json(job("done")), picture])
    assert again.exit_code == 2
    said = {"message": "broken", "type": "t", "param": None, "code": "worker_lost"}
    assert emmdit("jobs", "fetch", JOB_ID, script=[as_json(job("failed", error=said))]).exit_code == 1


def test_an_address_where_nobody_is_ends_with_3(emmdit):
    result = emmdit("jobs", "list", "--url", "http://127.0.0.1:1", "--patience", 0, needs_url=False)
    assert result.exit_code == 3
    assert "server_unreachable" in result.stderr


def test_help_and_completion_answer_without_loading_anything_heavy():
    code = "import sys, service.cli.app; print({'torch', 'fastapi', 'redis', 'PIL', 'httpx'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
    for command in ([], ["generate"], ["jobs"], ["doctor"]):
        result = CliRunner().invoke(app, [*command, "--help"])
        assert result.exit_code == 0
        assert not command or "Examples" in result.output


def test_the_shell_completes_the_names_of_models(emmdit, monkeypatch):
    def complete(line):
        monkeypatch.setenv("_EMMDIT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - (not line.endswith(" "))))
        return CliRunner().invoke(app, [], prog_name="emmdit").output.split()

    assert complete("emmdit generate --model demo-") == ["demo-dist", "demo-grpo"]
    models = {"data": [{"id": "far-away", "description": "one"}, {"id": "near", "description": "two"}]}
    with ScriptedServer(as_json(models)) as server:
        assert complete(f"emmdit generate --url {server.url} --model f") == ["far-away"]
    assert complete("emmdit generate --url http://127.0.0.1:1 --model f") == []


def test_shell_completion_can_be_installed():
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
