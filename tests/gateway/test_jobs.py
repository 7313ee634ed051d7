"""Jobs after their acceptance: state, pictures, cancelling."""

import pytest

from service.blobs import blob_key
from service.errors import JobNotFound
from service.jobs import Failed
from tests.gateway.harness import wait_until

NO_SUCH_ID = "0" * 32


@pytest.fixture
def painter(gateway):
    yield gateway
    worker = gateway.worker
    worker.is_claiming, worker.is_holding, worker.failure = True, False, None
    wait_until(gateway.is_idle)


def test_a_queued_job_tells_its_position(painter):
    painter.worker.is_claiming = False
    first, second = painter.submit(), painter.submit(n=2, seed=3, priority="normal")
    assert painter.job(first)["position"] == 0
    job = painter.job(second)
    assert (job["state"], job["position"], job["n"], job["seed"], job["priority"]) == ("queued", 1, 2, 3, "normal")
    assert job["timings"] == {"queue_s": None, "inference_s": None, "total_s": None}
    assert job["prompt"] is None
    assert job["error"] is None


def test_a_high_priority_overtakes(painter):
    painter.worker.is_claiming = False
    low, high = painter.submit(priority="low"), painter.submit(priority="high")
    assert painter.job(high)["position"] == 0
    assert painter.job(low)["position"] == 1


def test_a_running_job_tells_its_step_and_an_estimate(painter):
    painter.worker.is_holding = True
    job_id = painter.submit()
    wait_until(lambda: painter.job(job_id)["step"] == 1)
    response = painter.client.get(f"/v1/jobs/{job_id}")
    job = response.json()
    assert (job["state"], job["num_steps"], job["position"]) == ("running", 4, None)
    assert job["estimated_seconds_left"] is not None
    assert int(response.headers["retry-after"]) >= 1


def test_a_job_that_is_done_names_its_pictures(painter):
    job_id = painter.submit(n=2, seed=41)
    job = painter.wait_for_state(job_id, "done")
    assert [image["seed"] for image in job["images"]] == [41, 42]
    assert job["prompt"] == "a red apple"
    assert job["model_version"] == "v1"
    assert job["timings"]["total_s"] >= job["timings"]["queue_s"] >= 0
    for image in job["images"]:
        response = painter.client.get(image["url"])
        assert response.headers["content-type"] == "image/png"
        assert len(response.content) == image["num_bytes"]
        assert response.headers["x-seed"] == str(image["seed"])
    assert "retry-after" not in painter.client.get(f"/v1/jobs/{job_id}").headers


def test_a_job_that_failed_says_why(painter):
    painter.worker.failure = Failed("out_of_memory", "no room")
    job = painter.wait_for_state(painter.submit(), "failed")
    assert job["error"] == {"message": "no room", "type": "server_error", "param": None, "code": "out_of_memory"}
    response = painter.client.get(f"/v1/jobs/{job['id']}/images/0")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "out_of_memory"


def test_cancelling_a_queued_job_is_done_at_once_and_twice_changes_nothing(painter):
    painter.worker.is_claiming = False
    job_id = painter.submit()
    for _ in range(2):
        response = painter.client.delete(f"/v1/jobs/{job_id}")
        assert response.status_code == 200
        assert response.json()["state"] == "cancelled"
        assert response.json()["error"]["code"] == "cancelled"
    image = painter.client.get(f"/v1/jobs/{job_id}/images/0")
    assert image.status_code == 409
    assert image.json()["error"]["code"] == "cancelled"


def test_cancelling_a_running_job_takes_until_the_next_step(painter):
    painter.worker.is_holding = True
    job_id = painter.submit()
    painter.wait_for_state(job_id, "running")
    response = painter.client.delete(f"/v1/jobs/{job_id}")
    assert response.status_code in (200, 202)
    painter.wait_for_state(job_id, "cancelled")


def test_cancelling_a_job_that_is_done_leaves_it_done(painter):
    job_id = painter.submit()
    painter.wait_for_state(job_id, "done")
    response = painter.client.delete(f"/v1/jobs/{job_id}")
    assert (response.status_code, response.json()["state"]) == (200, "done")
    assert painter.client.get(f"/v1/jobs/{job_id}/images/0").status_code == 200


def test_a_picture_that_is_not_drawn_yet_is_409_with_a_hint(painter):
    painter.worker.is_claiming = False
    response = painter.client.get(f"/v1/jobs/{painter.submit()}/images/0")
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "job_not_ready"
    assert response.headers["retry-after"] == "1"


def test_a_picture_that_is_gone_is_410(painter):
    job_id = painter.submit()
    painter.wait_for_state(job_id, "done")
    painter.blobs.delete([blob_key(job_id, 1, 0)])
    response = painter.client.get(f"/v1/jobs/{job_id}/images/0")
    assert response.status_code == 410
    assert response.json()["error"]["code"] == "job_not_ready"


@pytest.mark.parametrize("index", ["2", "-1", "x", "0.png", "99999999999999999999", "٣"])
def test_a_picture_that_the_job_never_had_is_404(painter, index):
    job_id = painter.submit(n=2)
    painter.wait_for_state(job_id, "done")
    response = painter.client.get(f"/v1/jobs/{job_id}/images/{index}")
    assert response.status_code == 404
    assert "allowed: 0 to 1" in response.json()["error"]["message"]


@pytest.mark.parametrize("job_id", [NO_SUCH_ID, "x", "A" * 32, "0" * 31, "..%2f..%2fetc", "%00", "*" * 5000])
@pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("GET", "/images/0"), ("DELETE", "")])
def test_an_unknown_job_is_404(painter, method, tail, job_id):
    response = painter.client.request(method, f"/v1/jobs/{job_id}{tail}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] in ("job_not_found", "not_found")


def test_somebody_elses_job_does_not_exist(painter):
    job_id = painter.submit()
    with pytest.raises(JobNotFound):
        painter.call(painter.queue.status(job_id, "somebody else"))
    with painter.as_somebody_else():
        for method, tail in (("GET", ""), ("GET", "/images/0"), ("DELETE", "")):
            assert painter.client.request(method, f"/v1/jobs/{job_id}{tail}").status_code == 404
