"""Nobody's words or keys get into the log, the metrics or another's answer, at any level of logging."""

import asyncio
import logging
import traceback

import pytest

from service.errors import EmmditError
from service.jobs import Failed
from tests.edge.sockets import request, send_raw
from tests.support.server import MODEL, make_job
from tests.worker.test_worker import Bench, engine

__all__ = ["engine"]

PROMPT, NEGATIVE, QUERY = "canaryprompt", "canarynegative", "canaryquery"
KEY, AUTHORIZATION, COOKIE = "canaryidempotency", "canaryauthorization", "canarycookie"
CANARY = "canary"
SECRET_HEADERS = {"Authorization": f"Bearer {AUTHORIZATION}", "Cookie": COOKIE, "X-Api-Key": AUTHORIZATION}
JSON = ("Content-Type: application/json", "Connection: close", f"Authorization: Bearer {AUTHORIZATION}")


@pytest.fixture
def log(caplog):
    """What this service has logged, tracebacks too. The tests' own HTTP client logs addresses; that is not ours."""
    caplog.set_level(logging.DEBUG)

    def text():
        lines = []
        for record in caplog.records:
            if not record.name.startswith(("httpx", "httpcore")):
                lines.append(f"{record.name} {record.getMessage()}")
                if record.exc_info:
                    lines += traceback.format_exception(record.exc_info[1])
        return "\n".join(lines)

    return text


def ask_everything(gateway):
    """Requests of each kind: good, bad, failing. Returns a job's id."""
    words = {"prompt": f"a red {PROMPT}", "negative_prompt": NEGATIVE}
    for accept in ("application/json", "image/png", "multipart/mixed", "text/event-stream"):
        assert gateway.generate(words, headers={"Accept": accept} | SECRET_HEADERS, n=2).status_code in (200, 406)
    assert gateway.client.post("/v1/images/generations", json={"prompt": PROMPT}).status_code == 200
    kept = {"Prefer": "respond-async", "Idempotency-Key": KEY} | SECRET_HEADERS
    job_id = gateway.generate(words, headers=kept).json()["id"]
    gateway.wait_for_state(job_id, "done")
    assert gateway.generate(words, headers={"Idempotency-Key": KEY}, seed=5).status_code == 422
    for bad in ({"n": 0}, {CANARY: 1}, {"size": CANARY}, {"prompt": PROMPT + "\x07"}, {"model": CANARY}):
        assert gateway.generate(words | bad, headers=SECRET_HEADERS).status_code in (400, 404)
    for path in (f"/v1/jobs?x={QUERY}", f"/{QUERY}", f"/v1/jobs/{QUERY}", f"/v1/models/{QUERY}", f"/page/{QUERY}"):
        assert gateway.client.get(path, headers=SECRET_HEADERS).status_code in (400, 404)
    gateway.client.get(f"/v1/jobs/{job_id}/images/0?signature={QUERY}&expires=1")
    gateway.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": CANARY})
    gateway.client.post("/v1/generate", content=f'{{"prompt": "{PROMPT}', headers={"Content-Type": "application/json"})
    send_raw(gateway, request("POST", "/v1/generate", *JSON, "Content-Length: 500", body=PROMPT.encode()))
    send_raw(gateway, request("POST", "/v1/generate", *JSON, f"Content-Length: {CANARY}"))
    send_raw(gateway, f"GET /{QUERY} {CANARY}\r\n\r\n".encode())
    send_raw(gateway, request("GET", "/livez", f"X-A: {CANARY * 5000}"))
    return job_id


def test_requests_of_every_kind_leave_no_word_behind(start_gateway, log):
    with start_gateway(body_timeout_s=0.3) as gateway:
        ask_everything(gateway)
        gateway.worker.failure = Failed("generation_failed", "drawing failed (ValueError)")
        failed = gateway.generate(prompt=PROMPT)
        assert failed.status_code == 500
        assert CANARY not in failed.text
        gateway.worker.failure = None
        assert CANARY not in gateway.client.get("/metrics").text
        assert CANARY not in gateway.client.get("/v1/jobs/" + "0" * 32).text
        assert CANARY not in gateway.client.get("/readyz").text
    assert "prompt_sha256=" in log()
    assert "tenant=" in log()
    assert CANARY not in log()


def test_a_failure_of_the_queue_leaves_no_word_behind(start_gateway, log, monkeypatch):
    async def fail(*_):
        raise EmmditError("the queue's server reports an error")

    with start_gateway(has_worker=False) as gateway:
        monkeypatch.setattr("service.queue.JobQueue.submit", fail)
        for words in ({"prompt": PROMPT}, {"prompt": PROMPT, "seed": 7}):
            response = gateway.client.post("/v1/generate", json=words, headers=SECRET_HEADERS)
            assert response.status_code in (500, 503)
            assert CANARY not in response.text
    assert CANARY not in log()


@pytest.mark.anyio
async def test_a_worker_that_draws_or_fails_leaves_no_word_behind(queue, engine, tmp_path, log, monkeypatch):
    from model.engine import Engine

    job = make_job(size=64, steps=2, prompt=PROMPT)
    async with Bench(queue, engine, tmp_path, max_attempts=1).running() as bench:
        await queue.submit(job)
        await bench.ended(job)

        def fail(*_, **__):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(Engine, "begin", fail)
        failing = make_job(size=64, steps=2, prompt=PROMPT, timeout_s=1.5)
        await queue.submit(failing)
        status = await bench.ended(failing)
        assert CANARY not in repr(status.result)
        await asyncio.sleep(0)
    assert f"job {job.id}" in log()
    assert MODEL not in PROMPT
    assert CANARY not in log()
