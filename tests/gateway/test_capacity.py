"""Too much work, no worker, no server: bounded refusals that say when to come back, and waits that survive."""

import asyncio
import os
import signal
import threading

import pytest

from service.embedded import EmbeddedServer
from tests.gateway.harness import wait_until


def assert_come_back(response, status, code):
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code
    assert 1 <= int(response.headers["retry-after"]) <= 120
    assert 1 <= int(response.headers["retry-after-ms"]) <= 120_000


@pytest.mark.parametrize("prefer", [None, "respond-async"])
def test_a_full_queue_is_429_with_a_time_to_come_back(start_gateway, prefer):
    with start_gateway(queue_capacity=3) as gateway:
        gateway.worker.is_claiming = False
        jobs = [gateway.submit(num_inference_steps=50) for _ in range(3)]
        response = gateway.generate(headers={"Prefer": prefer} if prefer else {})
        assert_come_back(response, 429, "rate_limit_exceeded")
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert gateway.value("rejections_total", reason="rate_limit_exceeded") == 1
        assert gateway.stats().num_waiting == 3
        gateway.worker.is_claiming = True
        for job_id in jobs:
            gateway.wait_for_state(job_id, "done")
        assert gateway.generate().status_code == 200


@pytest.mark.parametrize("prefer", [None, "respond-async"])
def test_without_a_worker_requests_are_refused_after_a_grace(start_gateway, prefer):
    with start_gateway(has_worker=False, no_worker_grace_s=0) as gateway:
        response = gateway.generate(headers={"Prefer": prefer} if prefer else {})
        assert_come_back(response, 503, "no_worker")
        assert gateway.stats().num_waiting == 0
        assert_come_back(gateway.client.get("/readyz"), 503, "no_worker")
        assert gateway.client.get("/livez").status_code == 200
        assert gateway.client.get("/v1/models").json()["data"][0]["is_ready"] is False
        wait_until(lambda: gateway.client.get("/startupz").status_code == 200)


def test_a_brief_absence_of_workers_refuses_nothing(start_gateway):
    with start_gateway(has_worker=False, no_worker_grace_s=60) as gateway:
        assert gateway.job(gateway.submit())["state"] == "queued"
        assert gateway.client.get("/readyz").status_code == 503


@pytest.mark.parametrize("prefer", [None, "respond-async"])
def test_while_no_worker_can_store_pictures_requests_are_refused_and_then_no_longer(start_gateway, prefer):
    headers = {"Prefer": prefer} if prefer else {}
    with start_gateway() as gateway:
        waiting = gateway.submit()
        gateway.worker.can_store = False
        watch = gateway.gateway.models[gateway.model].workers
        wait_until(lambda: not watch.alive[0].can_store)
        response = gateway.generate(headers=headers)
        assert_come_back(response, 503, "server_is_overloaded")
        assert "stored" in response.json()["error"]["message"]
        assert gateway.job(waiting)["state"] in ("queued", "running", "done")
        assert gateway.client.get("/readyz").status_code == 200
        gateway.worker.can_store = True
        wait_until(lambda: watch.alive[0].can_store)
        assert gateway.generate(headers=headers).status_code in (200, 202)


def test_bad_input_is_told_even_where_no_worker_is(start_gateway):
    with start_gateway(has_worker=False, no_worker_grace_s=0) as gateway:
        assert gateway.generate(n=0).status_code == 400


@pytest.fixture
def own_server(tmp_path):
    with EmbeddedServer(tmp_path / "own-server") as server:
        yield server


def test_without_its_server_the_gateway_refuses_within_bounds_and_lives(start_gateway, own_server):
    with start_gateway(own_server.url) as gateway:
        job_id = gateway.submit()
        gateway.wait_for_state(job_id, "done")
        own_server.close()
        for response in (
            gateway.generate(),
            gateway.generate(headers={"Prefer": "respond-async"}),
            gateway.client.get(f"/v1/jobs/{job_id}"),
            gateway.client.delete(f"/v1/jobs/{job_id}"),
            gateway.client.get("/readyz"),
        ):
            assert_come_back(response, 503, "server_is_overloaded")
            assert response.elapsed.total_seconds() < 4
        assert gateway.client.get("/livez").status_code == 200
        assert gateway.client.get("/v1/models").status_code == 200
        page = gateway.client.get("/metrics")
        assert page.status_code == 200
        assert "emmdit_http_requests_total" in page.text
        assert "emmdit_queue_up 0.0" in page.text
        assert "emmdit_queue_capacity" not in page.text


def test_a_waiting_client_notices_only_a_pause_when_the_server_is_killed(start_gateway, own_server):
    with start_gateway(own_server.url) as gateway:
        gateway.worker.is_holding = True
        responses = []
        client = threading.Thread(target=lambda: responses.append(gateway.generate(seed=9)))
        client.start()
        wait_until(lambda: gateway.worker.held)
        os.kill(own_server.pid, signal.SIGKILL)
        wait_until(lambda: own_server.num_restarts == 1 and own_server.is_alive())
        gateway.worker.is_holding = False
        client.join(20)
        assert responses[0].status_code == 200
        assert responses[0].headers["x-seed"] == "9"


def test_a_waiting_client_is_told_when_the_servers_data_is_gone(start_gateway, own_server, monkeypatch):
    monkeypatch.setattr("service.gateway.app.REREAD_PERIOD_S", 0.1)
    with start_gateway(own_server.url) as gateway:
        gateway.worker.is_claiming = False
        responses = []
        client = threading.Thread(target=lambda: responses.append(gateway.generate()))
        client.start()
        wait_until(lambda: gateway.stats().num_waiting == 1)
        gateway.call(gateway.queue._server.commands.execute_command("FLUSHALL"))
        client.join(20)
        assert responses[0].status_code == 404
        assert responses[0].json()["error"]["code"] == "job_not_found"


def test_an_event_that_never_comes_costs_a_pause_and_not_the_answer(start_gateway, monkeypatch):
    monkeypatch.setattr("service.gateway.app.REREAD_PERIOD_S", 0.1)

    async def deaf(*_):
        await asyncio.sleep(0.05)
        return ()

    monkeypatch.setattr("service.queue.JobQueue.read_inbox", deaf)
    with start_gateway() as gateway:
        assert gateway.generate().status_code == 200


def test_a_gateway_that_stops_tells_its_waiting_clients_where_their_jobs_go_on(start_gateway):
    with start_gateway(drain_timeout_s=0.3) as gateway:
        gateway.worker.is_holding = True
        responses = []
        client = threading.Thread(target=lambda: responses.append(gateway.generate()))
        client.start()
        wait_until(lambda: gateway.worker.held)
        (job_id,) = gateway.worker.held
        gateway.loop.call_soon_threadsafe(gateway.server.stop)
        client.join(20)
        assert_come_back(responses[0], 503, "server_is_overloaded")
        assert f"/v1/jobs/{job_id}" in responses[0].json()["error"]["message"]


def test_a_gateway_that_stops_lets_its_waiting_clients_have_their_pictures(start_gateway):
    with start_gateway(drain_delay_s=0.2, drain_timeout_s=20) as gateway:
        gateway.worker.is_holding = True
        responses = []
        client = threading.Thread(target=lambda: responses.append(gateway.generate(headers={"Accept": "image/png"})))
        client.start()
        wait_until(lambda: gateway.worker.held)
        gateway.loop.call_soon_threadsafe(gateway.server.stop)
        wait_until(lambda: gateway.gateway.is_draining)
        assert_come_back(gateway.client.get("/readyz"), 503, "server_is_overloaded")
        wait_until(lambda: gateway.server.should_exit)
        gateway.worker.is_holding = False
        client.join(20)
        assert responses[0].status_code == 200
        assert responses[0].content.startswith(b"\x89PNG")


def test_a_deadline_that_no_worker_can_meet_is_refused_at_once(start_gateway):
    with start_gateway() as gateway:
        assert gateway.generate().status_code == 200
        response = gateway.generate(num_inference_steps=50, timeout_s=0.01)  # a step of this size takes 8 ms there
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "0.01" in response.json()["error"]["message"]
        assert "x-job-id" not in response.headers
        assert len(gateway.worker.seen) == 1
        assert gateway.value("rejections_total", reason="deadline_exceeded") == 1
