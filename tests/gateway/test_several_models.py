"""One gateway for several models: each with its own card, its own queue and its own workers."""

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.harness import PaintingWorker, card_named, wait_until


def cards(name):
    """The second model is small, quick and unguided."""
    card = card_named(name)
    if name.startswith("sketcher"):
        return replace(card, sizes=("16x16",), default_steps=2, default_guidance=0.0, max_steps=8, vocabulary=None)
    return card


@pytest.fixture
def pair(start_gateway):
    """A gateway of two models, of which only the first has a worker."""
    with start_gateway(num_models=2, cards=cards, no_worker_grace_s=0) as gateway:
        yield gateway


def names_of(gateway):
    return list(gateway.gateway.models)


def recipe_of(answer):
    return {key: answer[key] for key in ("model", "size", "num_inference_steps", "guidance_scale")}


async def beat_once(gateway, model):
    await PaintingWorker(gateway.gateway.queues[model], gateway.blobs, model)._beat()


def test_the_first_model_draws_where_none_is_named(pair):
    answer = pair.generate().json()
    assert recipe_of(answer) == {
        "model": names_of(pair)[0],
        "size": "64x64",
        "num_inference_steps": 4,
        "guidance_scale": 2.5,
    }


def test_each_model_fills_in_its_own_settings_and_has_its_own_worker(pair):
    model = names_of(pair)[1]
    pair.call(beat_once(pair, model))
    wait_until(lambda: pair.gateway.models[model].workers.alive)
    job_id = pair.submit(model=model)
    assert recipe_of(pair.job(job_id)) == {
        "model": model,
        "size": "16x16",
        "num_inference_steps": 2,
        "guidance_scale": 0.0,
    }
    assert pair.job(job_id)["position"] == 0
    assert pair.worker.seen == []
    pair.call(beat_once(pair, model))
    pair.wait_for_state(job_id, "done")
    assert pair.client.get(f"/v1/jobs/{job_id}/images/0").content.startswith(b"\x89PNG")
    wait_until(lambda: pair.value("requests_total", model=model, status="success") == 1)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [({"size": "64x64"}, "16x16"), ({"size": 5}, "16x16"), ({"num_inference_steps": 9}, "1 to 8")],
)
def test_what_is_allowed_is_said_of_the_model_that_was_named(pair, fields, allowed):
    model = names_of(pair)[1]
    response = pair.generate(model=model, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["message"].endswith(allowed)
    assert pair.value("requests_total", model=model, status="rejected") == 1


def test_an_unknown_model_is_404_and_all_that_there_are_are_named(pair):
    response = pair.generate(model="dall-e-3")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert response.json()["error"]["message"].endswith(f"allowed: {', '.join(names_of(pair))}")


def test_a_model_without_a_worker_is_refused_and_the_others_go_on(pair):
    first, second = names_of(pair)
    assert pair.generate().status_code == 200
    response = pair.generate(model=second)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_worker")
    assert second in response.json()["error"]["message"]
    ready = pair.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ok", "num_workers": 1, "models": {first: 1, second: 0}}


def test_the_list_of_models_tells_of_each_who_draws_it_and_what_it_takes_up(pair):
    first, second = pair.client.get("/v1/models").json()["data"]
    assert [first["id"], second["id"]] == names_of(pair)
    assert (first["is_default"], second["is_default"]) == (True, False)
    assert (first["is_ready"], second["is_ready"]) == (True, False)
    assert (first["default_size"], second["default_size"]) == ("64x64", "16x16")
    assert (first["vocabulary"], second["vocabulary"]) == (["red", "apple"], None)
    assert second["workers"] == []
    (worker,) = first["workers"]
    assert worker["models"] == [first["id"]]
    assert worker["memory"] == [
        {"part": "network", "num_bytes": 1000, "shared_with": []},
        {"part": "text_encoder", "num_bytes": 200, "shared_with": ["another"]},
    ]


def test_a_full_queue_refuses_its_own_model_only(start_gateway):
    with start_gateway(num_models=2, queue_capacity=1) as gateway:
        gateway.worker.is_claiming = False
        gateway.submit()
        assert gateway.generate().status_code == 429
        other = gateway.submit(model=names_of(gateway)[1])
        assert gateway.job(other)["state"] == "queued"


def test_waiting_and_running_jobs_are_counted_by_model(start_gateway):
    with start_gateway(num_models=3) as gateway:
        gateway.worker.is_claiming = False
        first, second, third = names_of(gateway)
        for model in (first, second, second):
            gateway.submit(model=model)
        page = gateway.client.get("/metrics").text
        families = {family.name: family for family in text_string_to_metric_families(page)}
        waiting = families["emmdit_num_requests_waiting"].samples
        assert {sample.labels["model"]: sample.value for sample in waiting} == {first: 1, second: 2, third: 0}
        gateway.worker.is_claiming = True


def test_a_job_of_any_model_can_be_cancelled(start_gateway):
    with start_gateway(num_models=2) as gateway:
        job_id = gateway.submit(model=names_of(gateway)[1])
        assert gateway.client.delete(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
        assert gateway.client.delete(f"/v1/jobs/{'0' * 32}").status_code == 404
