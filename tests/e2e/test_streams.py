"""Event streams through real processes, which die while they stream."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from service.embedded import EmbeddedServer
from tests.e2e.harness import Service, wait_for
from tests.support.tiny_bundle import write_tiny_bundle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BODY = {"prompt": "a red apple", "seed": 7, "num_inference_steps": 100, "n": 6}
EVENTS = {"Accept": "text/event-stream"}


@contextmanager
def second_gateway(url, bundle, data_dir):
    """`emmdit gateway` beside the service's own, around the same queue and pictures."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EMMDIT_")}
    settings = {"REDIS_URL": url, "MODELS": str(bundle), "DATA_DIR": str(data_dir), "PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "gateway"],
        env=environment | {f"EMMDIT_{name}": value for name, value in settings.items()},
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"

    def is_up():
        assert process.poll() is None
        try:
            return httpx.get(address + "/livez").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(is_up, 60)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def events_of(response):
    """Events as (name, id, data), until the connection ends, however."""
    name = event_id = ""
    try:
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                event_id = value
            elif field == "data":
                yield name, event_id, json.loads(value)
                name = ""
    except httpx.TransportError:
        return


def test_an_event_stream_survives_the_death_of_its_gateway(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny").folder
    data_dir = tmp_path / "data"
    with (
        EmbeddedServer(tmp_path / "server") as server,
        Service(bundle, data_dir, redis_url=server.url) as service,
        second_gateway(server.url, bundle, data_dir) as other,
        service.client() as client,
    ):
        before, last_id = [], ""
        with client.stream("POST", "/v1/generate", json=BODY, headers=EVENTS) as response:
            assert response.status_code == 200, response.read()
            job_id = response.headers["x-job-id"]
            for name, event_id, data in events_of(response):
                before.append((name, data))
                last_id = event_id or last_id
                if sum(name == "preview" for name, _ in before) == 3:
                    (gateway,) = service.processes("gateway")
                    gateway.send_signal(signal.SIGKILL)
        assert before[-1][0] in ("preview", "job"), "it broke off"
        with httpx.stream(
            "GET", f"{other}/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last_id}, timeout=120
        ) as response:
            after = [(name, data) for name, _, data in events_of(response)]

        last_step = max(data["step"] for name, data in before if name == "preview" and data["index"] == 0)
        steps = [data["step"] for name, data in after if name == "preview" and data["index"] == 0]
        assert steps, "previews go on"
        assert all(step >= last_step for step in steps)
        images = [data for name, data in after if name == "image"]
        assert sorted(image["index"] for image in images) == list(range(6))
        assert after[-1][0] == "done"
        for image in images:
            png = httpx.get(f"{other}{image['url']}").content
            assert base64.b64decode(image["b64_json"]) == png
        assert service.stop() == 0


def test_a_stream_goes_on_when_its_worker_is_killed(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny").folder
    with Service(bundle, tmp_path / "data") as service, service.client() as client:
        has_killed = False
        told = []
        with client.stream("POST", "/v1/generate", json=BODY, headers=EVENTS) as response:
            for name, _, data in events_of(response):
                told.append((name, data))
                if name == "preview" and not has_killed:
                    has_killed = True
                    (worker,) = service.processes("worker")
                    worker.send_signal(signal.SIGKILL)
        states = [data["state"] for name, data in told if name == "job"]
        assert states[-1] == "done", states
        assert "queued" in states[states.index("running") :], "it waits for its second attempt"
        assert sorted(data["index"] for name, data in told if name == "image") == list(range(6))
        assert told[-1][0] == "done"
        assert service.stop() == 0
