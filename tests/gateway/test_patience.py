"""A submit never takes longer than two seconds, however the server behaves: it is let in or told to come back."""

import asyncio
import os
import signal
import threading
import time

import pytest

from service.embedded import EmbeddedServer
from service.queue_server import CALL_BUDGET_S
from tests.gateway.harness import running_gateway, wait_until
from tests.support.lossy_link import LossyLink

ASYNC = {"Prefer": "respond-async"}
SLACK_S = 0.6  # what a crowded machine adds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("patience")) as server:
        yield server


@pytest.fixture(scope="module")
def link(server, tmp_path_factory):
    """A link to the server in a thread of its own."""
    link = LossyLink(tmp_path_factory.mktemp("link") / "socket", server.url.removeprefix("unix://"))
    is_ready, is_over = threading.Event(), threading.Event()

    async def serve():
        async with link.running():
            is_ready.set()
            await asyncio.to_thread(is_over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert is_ready.wait(20)
    yield link
    is_over.set()
    thread.join()


@pytest.fixture(scope="module")
def gateway(link, tmp_path_factory):
    """A gateway at the other end of the link, whose tenant has a key and quotas: all that a submit can ask about."""
    with running_gateway(link.url, tmp_path_factory.mktemp("gateway"), "patient") as harness:
        tenants = harness.gateway.keyring.tenants
        harness.call(tenants.set_quotas("ada", {"max_jobs": 1000}))
        harness.client.headers["X-API-Key"] = harness.key_of("ada")
        wait_until(lambda: harness.generate(headers=ASYNC).status_code == 202)
        yield harness


def timed(gateway, **headers):
    """The answer to a submit, and how long it took."""
    gateway.gateway.keyring._held.clear()  # as if it had been looked up long ago
    started_s = time.monotonic()
    response = gateway.generate(headers=ASYNC | headers)
    return response, time.monotonic() - started_s


@pytest.mark.parametrize("delay_s", [0.3, 0.45, 0.6, 1.2])
def test_a_server_that_answers_slowly_is_not_waited_for_again_and_again(gateway, link, delay_s):
    link.delay_s = delay_s
    try:
        response, taken_s = timed(gateway, **{"Idempotency-Key": f"slow-{delay_s}"})
    finally:
        link.delay_s = 0.0
    assert response.status_code in (202, 503)
    assert taken_s < CALL_BUDGET_S + SLACK_S
    if response.status_code == 503:
        assert int(response.headers["retry-after"]) >= 1
    wait_until(lambda: gateway.generate(headers=ASYNC).status_code == 202)


def test_a_server_that_hangs_between_two_questions_costs_two_seconds_in_all(gateway, server):
    os.kill(server.pid, signal.SIGSTOP)
    try:
        response, taken_s = timed(gateway)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert taken_s < CALL_BUDGET_S + SLACK_S
    wait_until(lambda: gateway.generate(headers=ASYNC).status_code == 202)
