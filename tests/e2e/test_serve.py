"""The whole service as its users see it, with processes killed while they work."""

import io
import os
import signal
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from model.engine import Engine
from model.params import GenerationParams
from tests.e2e.harness import Service, wait_for
from tests.support.tiny_bundle import write_tiny_bundle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MAX_LEVEL_DIFFERENCE = 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine.load(bundle, "cpu")


@pytest.fixture(scope="module")
def service(bundle, tmp_path_factory):
    # Workers of one machine share the gateway's page and open no port: that this one is taken does not matter.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Service(bundle.folder, tmp_path_factory.mktemp("data"), worker_metrics_port=port) as running:
            yield running
            assert running.stop() == 0


def body_of(index, steps=None):
    return {
        "prompt": f"prompt number {index}",
        "seed": 1000 + index,
        "num_inference_steps": steps or 2 + index % 7,
        "guidance_scale": (0.0, 2.0, 4.5)[index % 3],
    }


def drawn_alone(engine, body):
    params = GenerationParams(body["prompt"], 64, 64, body["num_inference_steps"], body["guidance_scale"], body["seed"])
    (sample,) = engine.begin([params])
    while not sample.is_finished:
        engine.step([sample])
    return engine.decode([sample])[0]


def assert_is(png, picture):
    received = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert np.abs(received - picture.astype(int)).max() <= MAX_LEVEL_DIFFERENCE


def post_png(client, body):
    started_s = time.monotonic()
    response = client.post("/v1/generate", json=body, headers={"Accept": "image/png"})
    assert response.status_code == 200, response.text
    return response.content, time.monotonic() - started_s


def submit(client, body):
    response = client.post("/v1/generate", json=body, headers={"Prefer": "respond-async"})
    assert response.status_code == 202, response.text
    return response.headers["Location"]


def finished_png(client, location):
    status = wait_for(lambda: ended(client, location), 120)
    assert status["state"] == "done", status
    return client.get(f"{location}/images/0").content


def ended(client, location):
    response = client.get(location)
    if response.status_code == 503:  # the server is coming back
        return None
    status = response.json()
    return status if status["state"] not in ("queued", "running") else None


def metric(client, name, **labels):
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


def test_64_concurrent_prompts_all_return_the_right_picture_in_full_batches(service, engine):
    bodies = [body_of(index) for index in range(64)]
    with service.client() as client, ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda body: post_png(client, body), bodies))
        steps = metric(client, "emmdit_batch_size_count", stage="denoise")
        small = metric(client, "emmdit_batch_size_bucket", stage="denoise", le="4.0")
    for body, (png, _) in zip(bodies, answers, strict=True):
        assert_is(png, drawn_alone(engine, body))
    durations = sorted(duration_s for _, duration_s in answers)
    full_share = (steps - small) / steps
    print(f"p50 {statistics.median(durations):.2f} s, p95 {durations[60]:.2f} s, batches over 4 rows: {full_share:.0%}")
    assert full_share > 0.7


def test_a_worker_killed_with_16_jobs_under_way_costs_a_pause_and_no_picture(service, engine):
    bodies = [body_of(index, steps=60) for index in range(16)]
    with service.client() as client, ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(post_png, client, body) for body in bodies]
        wait_for(lambda: metric(client, "emmdit_num_requests_running") > 0, 30, service.log)
        (worker,) = service.processes("worker")
        num_drawn = metric(client, "emmdit_images_total")
        worker.kill()
        answers = [future.result() for future in waiting]
        assert metric(client, "emmdit_redeliveries_total") > 0
        # One page for all: what the dead one counted is still there, and only the live one counts as up.
        assert metric(client, "emmdit_images_total") >= num_drawn + len(bodies)
        assert metric(client, "emmdit_worker_up") == 1
    for body, (png, _) in zip(bodies, answers, strict=True):
        assert_is(png, drawn_alone(engine, body))


def test_accepted_jobs_survive_the_end_of_everything(bundle, engine, tmp_path):
    bodies = [body_of(index, steps=40) for index in range(12)]
    with Service(bundle.folder, tmp_path) as first:
        with first.client() as client:
            locations = [submit(client, body) for body in bodies]
            time.sleep(1.1)  # the append-only file is flushed once a second: what a power cut could cost
        first.kill_everything()
    with Service(bundle.folder, tmp_path) as second, second.client() as client:
        told = [line.startswith("ready: ") for line in second.lines].index(True)
        assert any("loaded on" in line for line in second.lines[:told]), "ready on the word of a dead worker"
        for body, location in zip(bodies, locations, strict=True):
            assert_is(finished_png(client, location), drawn_alone(engine, body))
        assert second.stop() == 0


def test_the_gateway_killed_while_jobs_run_comes_back_and_knows_them(service, engine):
    body = body_of(3, steps=80)
    with service.client() as client:
        location = submit(client, body)
        (gateway,) = service.processes("gateway")
        gateway.kill()
        wait_for(lambda: service.processes("gateway") and _answers(client), 60, service.log)
        assert_is(finished_png(client, location), drawn_alone(engine, body))


def test_a_killed_queue_server_is_restarted_and_loses_nothing(service, engine):
    body = body_of(4, steps=80)
    with service.client() as client:
        location = submit(client, body)
        time.sleep(1.1)
        (server,) = service.processes("server")
        server.kill()
        assert_is(finished_png(client, location), drawn_alone(engine, body))


def test_ctrl_c_finishes_what_is_under_way_and_leaves_nothing_running(bundle, engine, tmp_path):
    body = body_of(5, steps=60)
    with Service(bundle.folder, tmp_path) as service, service.client() as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post_png, client, body)
        wait_for(lambda: metric(client, "emmdit_num_requests_running") > 0, 30, service.log)
        assert service.stop() == 0
        assert_is(waiting.result()[0], drawn_alone(engine, body))


def test_two_services_do_not_share_one_data_directory(service, bundle, tmp_path):
    with pytest.raises(AssertionError, match="data directory"):
        Service(bundle.folder, _data_dir_of(service))
    os.kill(service.process.pid, 0)


def test_an_address_in_use_is_said_at_once(service, bundle, tmp_path):
    port = service.address.rsplit(":", 1)[1]
    with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{port}"):
        Service(bundle.folder, tmp_path, port=port)


def test_sigterm_ends_the_service_as_ctrl_c_does(bundle, tmp_path):
    with Service(bundle.folder, tmp_path) as service:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
        service._close()


def _answers(client):
    try:
        return client.get("/livez").status_code == 200
    except httpx.HTTPError:
        return False


def _data_dir_of(service):
    (worker,) = service.processes("worker")
    return worker.environ()["EMMDIT_DATA_DIR"]
