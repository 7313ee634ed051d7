"""One service, one worker process, two models: as a user starts it, and with the worker killed while both draw."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.harness import Service, wait_for
from tests.support.tiny_bundle import write_tiny_bundle, write_tiny_relative

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    home = tmp_path_factory.mktemp("bundles")
    base = write_tiny_bundle(home / "base", name="base")
    few = write_tiny_relative(home / "few", base, name="few", default_steps=2, default_guidance=0.0)
    return [base, few]


@pytest.fixture(scope="module")
def service(bundles, tmp_path_factory):
    with Service([bundle.folder for bundle in bundles], tmp_path_factory.mktemp("data")) as running:
        yield running
        assert running.stop() == 0


def body_of(model, index=0, **fields):
    return {"model": model, "prompt": f"prompt number {index}", "seed": 100 + index, **fields}


def post_png(client, body):
    response = client.post("/v1/generate", json=body, headers={"Accept": "image/png"})
    assert response.status_code == 200, response.text
    assert response.headers["X-Model"] == body["model"]
    return response.content


def test_both_models_are_drawn_by_one_worker_to_the_byte_as_by_a_worker_of_their_own(service, bundles, tmp_path):
    ready = next(line for line in service.lines if line.startswith("ready: "))
    assert "model base, few " in ready
    assert "weights " in ready
    (loaded,) = [line for line in service.lines if "loaded on cpu" in line]
    for phase in ("imports", "cards", "text encoder", "autoencoder", "networks", "fusing"):
        assert f"{phase} " in loaded
    assert len(service.processes("worker")) == 1
    with service.client() as client:
        together = {model: post_png(client, body_of(model)) for model in ("base", "few")}
        models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
        unknown = client.post("/v1/generate", json=body_of("other"))
    assert together["base"] != together["few"]
    for model, other in (("base", "few"), ("few", "base")):
        (worker,) = models[model]["workers"]
        shared = {part["part"]: part["shared_with"] for part in worker["memory"]}
        assert shared == {"network": [], "text_encoder": [other], "autoencoder": [other]}
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")
    with Service(bundles[1].folder, tmp_path) as alone, alone.client() as client:
        assert post_png(client, body_of("few")) == together["few"]
        assert alone.stop() == 0


def test_a_worker_killed_while_it_draws_with_two_models_loses_no_job_of_either(service):
    bodies = [body_of(model, index, num_inference_steps=60) for index in range(6) for model in ("base", "few")]
    with service.client() as client, ThreadPoolExecutor(len(bodies)) as pool:
        waiting = [pool.submit(post_png, client, body) for body in bodies]

        def are_both_running():
            page = client.get("/metrics").text.splitlines()
            running = dict(line.rsplit(" ", 1) for line in page if line.startswith("emmdit_num_requests_running{"))
            return len(running) == 2 and all(float(value) > 0 for value in running.values())

        wait_for(are_both_running, 60, service.log)
        (worker,) = service.processes("worker")
        worker.kill()
        pictures = [future.result() for future in waiting]
    assert len(set(pictures)) == len(bodies)
