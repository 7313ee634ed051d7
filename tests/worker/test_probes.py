"""The probes of a worker that runs apart, over real HTTP."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter

from service.errors import ServerOverloaded
from service.probes import ProbeServer, WorkerHealth
from tests.support.server import eventually
from tests.worker.test_worker import Bench, engine  # noqa: F401  (a fixture)

SOUND = WorkerHealth()


@contextmanager
def probes(health, registry=None):
    server = ProbeServer("127.0.0.1", 0, registry or CollectorRegistry(), health)
    try:
        yield server
    finally:
        server.close()


def ask(server, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    ("health", "alive", "ready"),
    [
        (SOUND, 200, 200),
        (WorkerHealth(idle="the queue has not been reached"), 200, 503),
        (WorkerHealth(stuck="no step advanced for 300 s"), 503, 503),
    ],
)
def test_only_a_stuck_worker_is_to_be_started_again_and_only_a_sound_one_is_ready(health, alive, ready):
    with probes(lambda: health) as server:
        assert ask(server, "/livez")[0] == alive
        assert ask(server, "/readyz")[0] == ready
        assert ask(server, "/startupz")[0] == 200


def test_a_probe_that_fails_says_why_in_the_one_error_shape():
    with probes(lambda: WorkerHealth(stuck="no step advanced for 300 s")) as server:
        error = json.loads(ask(server, "/livez")[1])["error"]
        assert error == {
            "message": "no step advanced for 300 s",
            "type": "server_error",
            "param": None,
            "code": "not_ready",
        }
        code, body = ask(server, "/secret")
        assert (code, json.loads(body)["error"]["code"]) == (404, "not_found")


def test_the_metrics_are_on_the_same_port():
    registry = CollectorRegistry()
    Counter("pictures", "Pictures.", registry=registry).inc(3)
    with probes(lambda: SOUND, registry) as server:
        code, text = ask(server, "/metrics")
        assert code == 200
        assert b"pictures_total 3.0" in text


@pytest.mark.anyio
async def test_a_worker_is_ready_once_its_heartbeat_was_taken_and_until_it_stops(queue, engine, tmp_path):  # noqa: F811
    bench = Bench(queue, engine, tmp_path)
    assert bench.worker.health().idle == "the queue has not been reached"
    async with bench.running():

        async def is_ready():
            return bench.worker.health() == SOUND

        assert await eventually(is_ready)
        bench.worker.stop()
        assert bench.worker.health() == WorkerHealth(idle="this worker is stopping")


@pytest.mark.anyio
async def test_an_unreachable_queue_makes_a_worker_idle_and_never_stuck(queue, engine, tmp_path, monkeypatch):  # noqa: F811
    bench = Bench(queue, engine, tmp_path, lease_s=0.3)
    async with bench.running():

        async def reaches(is_wanted):
            return (bench.worker.health().idle is None) is is_wanted

        assert await eventually(lambda: reaches(True))
        with monkeypatch.context() as patch:
            patch.setattr(queue, "heartbeat", cut_off)
            assert await eventually(lambda: reaches(False))
            assert bench.worker.health().stuck is None
        assert await eventually(lambda: reaches(True))


@pytest.mark.anyio
async def test_an_event_loop_that_stands_still_is_seen_from_the_probes_thread(queue, engine, tmp_path):  # noqa: F811
    bench = Bench(queue, engine, tmp_path, stall_limit_s=0.2)
    async with bench.running():
        with probes(bench.worker.health) as server:
            assert (await asyncio.to_thread(ask, server, "/livez"))[0] == 200
            code, give_up_at_s = 200, time.monotonic() + 30
            while code == 200 and time.monotonic() < give_up_at_s:
                code = ask(server, "/livez")[0]  # blocking on purpose: this is the worker's loop
            assert code == 503


async def cut_off(*_):
    raise ServerOverloaded("the queue is not reachable", retry_after_s=1)
