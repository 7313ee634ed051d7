"""A request that is sent twice with one Idempotency-Key is drawn once."""

import itertools
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.blobs import blob_key
from service.jobs import Failed
from tests.gateway.harness import running_gateway, wait_until

ASYNC = {"Prefer": "respond-async"}
_numbers = itertools.count()


@pytest.fixture
def painter(gateway):
    yield gateway
    worker = gateway.worker
    worker.is_claiming, worker.is_holding, worker.failure = True, False, None
    wait_until(gateway.is_idle)


@pytest.fixture
def key():
    return {"Idempotency-Key": f"key-{next(_numbers)}"}


def requests_total(gateway, status):
    return gateway.value("requests_total", model=gateway.model, status=status)


def test_the_same_request_gets_the_same_pictures_again_without_being_drawn_again(painter, key):
    num_before = requests_total(painter, "success")
    first = painter.generate(n=2, headers=key)
    num_seen = len(painter.worker.seen)
    again = painter.generate(n=2, headers=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json()["data"] == first.json()["data"]
    assert again.json()["id"] == first.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(painter.worker.seen) == num_seen
    assert requests_total(painter, "success") == num_before + 2


def test_an_answer_can_be_had_again_in_another_form(painter, key):
    first = painter.generate(n=2, headers=key | {"Accept": "image/png"})
    assert first.headers["content-type"].startswith("multipart/mixed")
    again = painter.generate(n=2, headers=key | {"Accept": "image/png"})
    assert again.headers["content-type"].startswith("multipart/mixed")
    assert again.headers["idempotency-replayed"] == "true"
    stream = painter.generate(n=2, headers=key | {"Accept": "text/event-stream"})
    assert stream.headers["x-job-id"] == first.headers["x-job-id"]
    assert stream.headers["idempotency-replayed"] == "true"
    assert stream.text.count("event: image\n") == 2
    assert "event: done\n" in stream.text


def test_how_the_body_is_written_makes_no_difference(painter, key):
    first = painter.generate({"guidance_scale": 3, "n": 1}, headers=key)
    headers = key | {"Content-Type": "application/json"}
    body = b'{ "n":1, "guidance_scale":3.0,  "prompt":"a red apple", "seed":null }'
    again = painter.client.post("/v1/generate", content=body, headers=headers)
    assert again.json()["id"] == first.json()["id"]


@pytest.mark.parametrize("change", [{"prompt": "another"}, {"seed": 3}, {"n": 2}, {"priority": "low"}])
def test_another_request_under_the_same_key_is_refused(painter, key, change):
    painter.generate(headers=key)
    response = painter.generate(change, headers=key)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "idempotency_key_reused"


def test_another_model_under_the_same_key_is_refused(start_gateway, key):
    with start_gateway(num_models=2) as gateway:
        for index, model in enumerate(gateway.gateway.models):
            response = gateway.generate(model=model, headers=key | ASYNC)
            assert response.status_code == (422 if index else 202)


def test_while_the_job_goes_on_a_synchronous_repetition_is_told_when_to_come_back(painter, key):
    painter.worker.is_holding = True
    num_rejected = requests_total(painter, "rejected")
    job = painter.generate(headers=key | ASYNC).json()
    painter.wait_for_state(job["id"], "running")
    response = painter.generate(headers=key)
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "idempotency_in_progress"
    assert job["id"] in response.json()["error"]["message"]
    assert response.headers["x-job-id"] == job["id"]
    assert int(response.headers["retry-after"]) >= 1
    assert int(response.headers["retry-after-ms"]) >= 1000
    assert "x-should-retry" not in response.headers
    assert requests_total(painter, "rejected") == num_rejected + 1


def test_while_the_job_goes_on_an_asynchronous_repetition_is_that_job(painter, key):
    painter.worker.is_holding = True
    first = painter.generate(headers=key | ASYNC)
    painter.wait_for_state(first.json()["id"], "running")
    again = painter.generate(headers=key | ASYNC)
    assert again.status_code == 202
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["state"] == "running"


def test_a_client_that_hangs_up_and_comes_back_finds_its_job_done(painter, key):
    painter.worker.is_holding = True
    body = b'{"prompt": "a red apple"}'
    with socket.create_connection((painter.client.base_url.host, painter.client.base_url.port)) as connection:
        connection.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Idempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s" % (key["Idempotency-Key"].encode(), len(body), body)
        )
        wait_until(lambda: painter.worker.held)
        (job_id,) = painter.worker.held
    wait_until(lambda: painter.value("http_requests_total", method="POST", route="/v1/generate", code="499") > 0)
    painter.worker.is_holding = False
    painter.wait_for_state(job_id, "done")
    assert painter.generate(headers=key).json()["id"] == job_id


def test_a_job_that_failed_gives_the_same_error_again_and_says_that_asking_again_is_no_use(painter, key):
    painter.worker.failure = Failed("out_of_memory", "no room")
    first = painter.generate(headers=key)
    painter.worker.failure = None
    again = painter.generate(headers=key)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-should-retry"] == "false"
    assert again.headers["x-job-id"] == first.headers["x-job-id"]


def test_a_job_that_expired_or_was_cancelled_gives_the_same_error_again(painter, key):
    painter.worker.is_claiming = False
    expired = painter.generate(timeout_s=0.1, headers=key)
    again = painter.generate(timeout_s=0.1, headers=key)
    assert (expired.status_code, again.status_code) == (504, 504)
    assert again.headers["x-should-retry"] == "false"
    other = {"Idempotency-Key": key["Idempotency-Key"] + "!"}
    job_id = painter.generate(headers=other | ASYNC).json()["id"]
    painter.client.delete(f"/v1/jobs/{job_id}")
    assert painter.generate(headers=other).json()["error"]["code"] == "cancelled"
    assert painter.generate(headers=other | ASYNC).json()["state"] == "cancelled"


def test_a_picture_that_was_removed_before_its_time_is_410(painter, key):
    job_id = painter.generate(headers=key).json()["id"]
    painter.blobs.delete([blob_key(job_id, 1, 0)])
    response = painter.generate(headers=key)
    assert response.status_code == 410
    assert response.json()["error"]["code"] == "job_not_ready"


def test_a_refused_request_leaves_its_key_free(start_gateway, key):
    with start_gateway(queue_capacity=1) as gateway:
        gateway.worker.is_claiming = False
        filler = gateway.submit()
        assert gateway.generate(headers=key).status_code == 429
        gateway.client.delete(f"/v1/jobs/{filler}")
        gateway.worker.is_claiming = True
        response = gateway.generate(headers=key)
        assert (response.status_code, "idempotency-replayed" in response.headers) == (200, False)


def test_after_the_results_time_the_same_recipe_is_drawn_again(start_gateway, key):
    with start_gateway(result_ttl_s=0.2) as gateway:
        first = gateway.generate(headers=key)
        job_id = first.headers["x-job-id"]
        wait_until(lambda: gateway.client.get(f"/v1/jobs/{job_id}").status_code == 404)
        again = gateway.generate(headers=key)
        assert "idempotency-replayed" not in again.headers
        assert again.headers["x-job-id"] != job_id
        assert again.headers["x-seed"] == first.headers["x-seed"]
        assert gateway.generate(seed=1, headers=key).status_code == 422


def test_keys_belong_to_their_owners(painter, key):
    first = painter.generate(headers=key)
    with painter.as_somebody_else():
        other = painter.generate(prompt="another", headers=key)
    assert other.status_code == 200
    assert other.headers["x-seed"] != first.headers["x-seed"]


def test_of_a_crowd_with_one_key_at_two_gateways_one_is_drawn(service_url, tmp_path, key):
    with (
        running_gateway(service_url, tmp_path, "twins") as one,
        running_gateway(service_url, tmp_path, "twins", has_worker=False) as two,
        ThreadPoolExecutor(20) as pool,
    ):
        one.worker.is_holding = True
        gateways = [one, two] * 10
        responses = list(pool.map(lambda gateway: gateway.generate(headers=key | ASYNC), gateways))
        assert {response.status_code for response in responses} == {202}
        (job_id,) = {response.json()["id"] for response in responses}
        one.worker.is_holding = False
        one.wait_for_state(job_id, "done")
        assert [job.id for job in one.worker.seen] == [job_id]
        assert two.generate(headers=key).json()["id"] == job_id


@pytest.mark.parametrize("value", [b"", b"a b", b"x" * 256, b"\xc3\xbc", b"a\tb", b'"a', b"~" * 255])
def test_a_key_is_visible_ascii_of_bounded_length(painter, value):
    response = painter.client.post("/v1/generate", json={"prompt": "apple"}, headers=[(b"Idempotency-Key", value)])
    if value in (b'"a', b"~" * 255):
        assert response.status_code == 200
        return
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "Idempotency-Key")
    assert "allowed: once, 1 to 255 visible ASCII characters" in error["message"]


def test_a_key_is_given_once(painter):
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    response = painter.client.post("/v1/generate", json={"prompt": "apple"}, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "Idempotency-Key")


def openai(gateway, headers, **fields):
    body = {"prompt": "a red apple"} | fields
    return gateway.client.post("/v1/images/generations", json=body, headers=headers)


def test_openais_route_honours_keys_too(painter, key):
    first, again = (openai(painter, key, output_format="webp", n=2) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert [item["b64_json"] for item in again.json()["data"]] == [item["b64_json"] for item in first.json()["data"]]
    assert again.headers["x-job-id"] == first.headers["x-job-id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert openai(painter, key, output_format="png", n=2).status_code == 422
    assert painter.generate(headers=key).json()["error"]["code"] == "idempotency_key_reused"


def test_openais_route_tells_when_to_come_back_and_streams_join(painter, key):
    painter.worker.is_holding = True
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(openai, painter, key, stream=True) for _ in range(2)]
        wait_until(lambda: painter.worker.held)
        (job_id,) = painter.worker.held
        assert openai(painter, key, stream=False).status_code == 422
        painter.worker.is_holding = False
        answers = [answer.result(20) for answer in waiting]
    assert {answer.headers["x-job-id"] for answer in answers} == {job_id}
    assert all("image_generation.completed" in answer.text for answer in answers)


def test_a_repetition_in_another_picture_format_is_sent_so(painter, key):
    first = painter.generate(headers=key | {"Accept": "image/png"})
    again = painter.generate(headers=key | {"Accept": "image/webp"})
    assert (first.headers["content-type"], again.headers["content-type"]) == ("image/png", "image/webp")
    assert again.headers["x-job-id"] == first.headers["x-job-id"]


def test_look_ups_are_counted(painter, key):
    def counts():
        return [painter.value("cache_events_total", cache="idempotency", result=name) for name in ("hit", "miss")]

    hits, misses = counts()
    painter.generate(headers=key)
    painter.generate(headers=key)
    painter.generate()
    assert counts() == [hits + 1, misses + 1]
