"""`emmdit jobs dead`, `requeue` and `drop`, on a Redis that is named and on the one of a running `emmdit serve`."""

import asyncio
import json
import os

import pytest
from typer.testing import CliRunner

from service.cli.app import app
from service.embedded import SERVER_FOLDER, EmbeddedServer
from service.errors import ConfigurationError
from service.jobs import Failed
from service.queue import JobQueue
from service.queue_types import QueueLimits
from tests.support.server import MODEL, make_job

PROMPT = "a secret apple"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("EMMDIT_"):
            monkeypatch.delenv(name)


def call(*arguments):
    return CliRunner().invoke(app, ["jobs", *arguments, "--model", MODEL])


def on_queue(url, act):
    async def run():
        queue = JobQueue.connect(url, model=MODEL, limits=QueueLimits())
        try:
            return await act(queue)
        finally:
            await queue.close()

    return asyncio.run(run())


def fail(url, **changes):
    """The id of a job that failed for good."""

    async def act(queue):
        await queue.submit(make_job(prompt=PROMPT, **changes))
        [job] = await queue.claim("w1", 1, 1, True)
        await queue.finish(job.id, job.attempt, Failed("storage_failed", "the disk is full"))
        return job.id

    return on_queue(url, act)


@pytest.fixture
def url(redis_url, monkeypatch):
    monkeypatch.setenv("EMMDIT_REDIS_URL", redis_url)
    return redis_url


def test_without_any_it_says_so(url):
    done = call("dead")
    assert (done.exit_code, done.output.strip()) == (0, "no dead letters")


def test_they_are_listed_without_their_prompts_unless_asked(url):
    ids = [fail(url), fail(url, owner="bob")]
    listed = call("dead")
    assert listed.exit_code == 0
    assert PROMPT not in listed.output
    for word in (*ids, "ada", "bob", MODEL, "storage_failed"):
        assert word in listed.output
    assert PROMPT in call("dead", "--prompts").output

    lines = [json.loads(line) for line in call("dead", "--json").output.splitlines()]
    assert {line["id"] for line in lines} == set(ids)
    assert {line["prompt"] for line in lines} == {None}
    assert {line["prompt_chars"] for line in lines} == {len(PROMPT)}


def test_one_is_shown_with_its_reason_and_its_recipe(url):
    job_id = fail(url)
    shown = call("dead", job_id).output
    for words in (job_id, "the disk is full", "512x512", "seed            7"):
        assert words in shown
    assert PROMPT not in shown
    unknown = call("dead", "0" * 32)
    assert unknown.exit_code == 1
    assert "there is no dead letter" in unknown.stderr


def test_one_is_put_back_or_all_are(url):
    ids = [fail(url) for _ in range(3)]
    assert call("requeue", ids[1]).output == f"{ids[1]}  requeued\n"
    assert call("requeue", ids[1]).exit_code == 1
    assert sorted(call("requeue", "--all").output.split()[::2]) == sorted([ids[0], ids[2]])
    assert {job.id for job in on_queue(url, claim_each)} == set(ids)


async def claim_each(queue):
    return [job for number in range(3) for job in await queue.claim(f"w{number}", 1, 1, True)]


def test_one_is_dropped_or_all_are(url):
    ids = [fail(url) for _ in range(3)]
    assert call("drop", ids[0]).exit_code == 0
    assert len(call("drop", "--all").output.splitlines()) == 2
    assert call("dead").output.strip() == "no dead letters"


@pytest.mark.parametrize("arguments", [["requeue"], ["drop", "0" * 32, "--all"]])
def test_it_is_either_one_or_all(url, arguments):
    done = call(*arguments)
    assert done.exit_code == 2
    assert "either an ID or --all" in done.stderr


def test_the_server_of_a_running_service_is_found_by_its_data_directory(tmp_path):
    with EmbeddedServer(tmp_path / SERVER_FOLDER) as server:
        job_id = fail(server.url)
        done = call("dead", "--data-dir", str(tmp_path))
        assert job_id in done.output
    done = call("dead", "--data-dir", str(tmp_path))
    assert isinstance(done.exception, ConfigurationError)
    assert "no emmdit serve runs" in str(done.exception)


def test_a_redis_that_is_away_is_told_apart_from_a_no(monkeypatch, tmp_path):
    monkeypatch.setenv("EMMDIT_REDIS_URL", f"unix://{tmp_path}/none.sock")
    assert call("dead").exit_code == 3
