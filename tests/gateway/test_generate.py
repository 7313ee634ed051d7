"""A prompt goes in, pictures come back: in every form, with effective values, and with one clear end for every job."""

import base64
import email
import io
import logging
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from service.jobs import Failed
from tests.gateway.harness import paint, wait_until

PNG = {"Accept": "image/png"}
JSON = {"Accept": "application/json"}


@pytest.fixture
def painter(gateway):
    """The gateway whose worker a test may bend; straight again afterwards."""
    yield gateway
    worker = gateway.worker
    worker.is_claiming, worker.is_holding, worker.failure, worker.warnings = True, False, None, ()
    wait_until(gateway.is_idle)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def last_params(gateway, index=0):
    return gateway.worker.seen[-1].params_of_image(index)


class Waiting(threading.Thread):
    """A synchronous request in a thread of its own."""

    def __init__(self, gateway, **fields):
        super().__init__()
        self._send = lambda: gateway.generate(**fields)
        self.response = None
        self.start()

    def run(self):
        self.response = self._send()

    def get(self):
        self.join(20)
        assert self.response is not None, "no answer"
        return self.response


def test_a_png_comes_back_and_is_the_picture_that_was_asked_for(gateway):
    response = gateway.generate(seed=5, num_inference_steps=7, size="32x48", headers=PNG)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert int(response.headers["content-length"]) == len(response.content)
    np.testing.assert_array_equal(pixels(response.content), paint(last_params(gateway)))
    assert pixels(response.content).shape == (48, 32, 3)


def test_headers_tell_the_effective_values(gateway):
    headers = gateway.generate(seed=5, guidance_scale=3, headers=PNG).headers
    assert headers["x-seed"] == "5"
    assert headers["x-num-inference-steps"] == "4"
    assert headers["x-guidance-scale"] == "3"
    assert headers["x-size"] == "64x64"
    assert headers["x-model"] == gateway.model
    assert headers["x-model-version"] == "v1"
    assert headers["x-job-id"] == gateway.worker.seen[-1].id
    queue_s, inference_s, total_s = (float(headers[f"x-{part}-time"]) for part in ("queue", "inference", "total"))
    assert inference_s == 0.012
    assert 0 <= queue_s < total_s < 10


def test_json_carries_pictures_and_effective_values(gateway):
    response = gateway.generate(prompt=" a red apple ", n=2, seed=2**32 - 1, headers=JSON)
    assert response.status_code == 200
    answer = response.json()
    assert answer["prompt"] == "a red apple"  # as the model saw it
    assert answer["size"] == "64x64"
    assert answer["num_inference_steps"] == 4
    assert answer["guidance_scale"] == 2.5
    assert answer["model"] == gateway.model
    assert answer["model_version"] == "v1"
    assert answer["warnings"] == []
    assert answer["timings"]["inference_s"] == 0.012
    assert [picture["seed"] for picture in answer["data"]] == [2**32 - 1, 0]
    for index, picture in enumerate(answer["data"]):
        png = base64.b64decode(picture["b64_json"])
        np.testing.assert_array_equal(pixels(png), paint(last_params(gateway, index)))
        assert picture["url"] == f"/v1/jobs/{answer['id']}/images/{index}"
        assert gateway.client.get(picture["url"]).content == png


def test_several_pngs_come_as_parts_of_one_multipart_body(gateway):
    response = gateway.generate(n=3, seed=10, headers=PNG)
    assert response.status_code == 200
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + response.content)
    parts = message.get_payload()
    assert message.get_content_type() == "multipart/mixed"
    assert [part.get_content_type() for part in parts] == ["image/png"] * 3
    assert [part["X-Seed"] for part in parts] == ["10", "11", "12"]
    # The email package cannot be trusted with binary parts: cut them out by their length.
    rest = response.content
    for index, part in enumerate(parts):
        start = rest.index(b"\r\n\r\n") + 4
        png, rest = rest[start : start + int(part["Content-Length"])], rest[start + int(part["Content-Length"]) :]
        np.testing.assert_array_equal(pixels(png), paint(last_params(gateway, index)))


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/png, */*;q=0.1", "image/png"),
        ("application/json;q=0.5, image/png;q=0.4", "application/json"),
        ("text/html, image/avif, image/png, */*;q=0.8", "image/png"),
        ("multipart/mixed", "multipart/mixed"),
    ],
)
def test_the_accept_header_chooses_the_form(gateway, accept, content_type):
    headers = {"Accept": accept} if accept else {}
    request = gateway.client.build_request("POST", "/v1/generate", json={"prompt": "apple"}, headers=headers)
    if accept is None:
        del request.headers["accept"]
    response = gateway.client.send(request)
    assert response.headers["content-type"].split(";")[0] == content_type


def test_a_seed_that_is_not_given_is_drawn_and_told(gateway):
    seeds = {gateway.generate().headers["x-seed"] for _ in range(4)}
    assert len(seeds) == 4
    assert all(0 <= int(seed) < 2**32 for seed in seeds)


def test_a_field_that_is_null_counts_as_not_given(gateway):
    names = ("negative_prompt", "model", "size", "num_inference_steps", "guidance_scale", "seed", "n", "priority")
    response = gateway.generate(dict.fromkeys((*names, "timeout_s", "clean_prompt")))
    assert response.status_code == 200
    assert response.json()["num_inference_steps"] == 4


def test_everything_that_was_asked_for_reaches_the_worker(gateway):
    fields = {
        "prompt": "a\tred\napple 🍎",
        "negative_prompt": "blurry",
        "model": gateway.model,
        "size": "32x48",
        "num_inference_steps": 50,
        "guidance_scale": 0,
        "seed": 0,
        "n": 2,
        "priority": "low",
        "timeout_s": 12.5,
        "clean_prompt": False,
    }
    assert gateway.generate(fields).status_code == 200
    job = gateway.worker.seen[-1]
    params = job.params
    assert (params.prompt, params.negative_prompt) == (fields["prompt"], "blurry")
    assert (params.width, params.height, params.num_inference_steps, params.guidance_scale) == (32, 48, 50, 0.0)
    assert (params.seed, params.clean_prompt) == (0, False)
    assert (job.num_images, job.priority.name, job.timeout_s, job.owner) == (2, "LOW", 12.5, "anonymous")


def test_warnings_come_back_and_can_not_forge_a_header(painter):
    painter.worker.warnings = ("unknown word: zebra\r\nX-Evil: 1 ü",)
    response = painter.generate(negative_prompt="fog", guidance_scale=1, headers=JSON)
    assert len(response.json()["warnings"]) == 2
    assert "no effect" in response.json()["warnings"][0]
    assert "x-evil" not in response.headers
    assert response.headers["x-warning"].endswith("unknown word: zebra??X-Evil: 1 ?")


def test_a_failed_job_is_500_with_its_own_code(painter):
    painter.worker.failure = Failed("out_of_memory", "the device has no memory for this picture")
    response = painter.generate(headers=PNG)
    assert response.status_code == 500
    assert response.headers["x-job-id"] == painter.worker.seen[-1].id
    assert response.json()["error"] == {
        "message": "the device has no memory for this picture",
        "type": "server_error",
        "param": None,
        "code": "out_of_memory",
    }
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("phase", ["queued", "running"])
def test_a_deadline_that_passes_is_504(painter, phase):
    painter.worker.is_claiming = phase == "running"
    painter.worker.is_holding = True
    response = painter.generate(timeout_s=0.2)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert phase in response.json()["error"]["message"]
    assert "0.2" in response.json()["error"]["message"]


def test_a_job_cancelled_by_somebody_else_ends_its_waiting_request(painter):
    painter.worker.is_holding = True
    waiting = Waiting(painter, prompt="one to cancel")
    wait_until(lambda: painter.worker.held)
    (job_id,) = painter.worker.held
    assert painter.client.delete(f"/v1/jobs/{job_id}").status_code in (200, 202)
    response = waiting.get()
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "cancelled"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("phase", ["queued", "running"])
def test_a_client_that_hangs_up_cancels_its_job(painter, phase):
    painter.worker.is_claiming = phase == "running"
    painter.worker.is_holding = True
    cancelled = painter.value("cancellations_total", phase=phase)
    host, port = painter.client.base_url.host, painter.client.base_url.port
    body = b'{"prompt": "nobody waits for me"}'
    with socket.create_connection((host, port)) as connection:
        connection.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until(lambda: painter.worker.held if phase == "running" else painter.stats().num_waiting)
    wait_until(lambda: painter.value("cancellations_total", phase=phase) == cancelled + 1)
    wait_until(painter.is_idle)


def test_an_asynchronous_job_outlives_its_request(painter):
    painter.worker.is_claiming = False
    response = painter.generate(headers={"Prefer": "Respond-Async, wait=5", "Accept": "image/png"})
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert response.headers["preference-applied"] == "respond-async"
    assert int(response.headers["retry-after"]) >= 1
    assert (job["state"], job["position"], job["step"], job["num_steps"]) == ("queued", 0, 0, 3)
    painter.worker.is_claiming = True
    assert painter.wait_for_state(job["id"], "done")["images"]


def test_waiting_requests_share_one_reader_and_each_gets_its_own_picture(gateway):
    waiting = [Waiting(gateway, prompt=f"apple {index}", seed=index, headers=PNG) for index in range(16)]
    for index, request in enumerate(waiting):
        response = request.get()
        assert response.headers["x-seed"] == str(index)
        job = next(job for job in gateway.worker.seen if job.id == response.headers["x-job-id"])
        assert job.params.prompt == f"apple {index}"
        np.testing.assert_array_equal(pixels(response.content), paint(job.params))


def test_nothing_is_remembered_of_requests_that_are_over(painter):
    painter.generate()
    painter.generate(n=0)
    painter.wait_for_state(painter.submit(), "done")
    painter.worker.failure = Failed("broken", "no")
    painter.generate()
    wait_until(lambda: not painter.gateway.waiters._watches)


def test_a_damaged_picture_is_an_error_and_never_sent(painter, monkeypatch):
    monkeypatch.setattr("tests.gateway.harness.DirectoryBlobs.put", _put_damaged(painter.blobs))
    response = painter.generate(headers=PNG)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "image_corrupt"


def _put_damaged(blobs):
    put = type(blobs).put
    return lambda self, key, data: put(self, key, data[:-1] + b"\0")


def test_prompts_are_never_logged(painter, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "a very private armadillo"
    painter.generate(prompt=secret)
    painter.generate(prompt=secret + "\x07")
    for fields in ({"response_format": "url"}, {"stream": True}, {"style": secret}):
        painter.client.post("/v1/images/generations", json={"prompt": secret, "user": secret} | fields)
    painter.worker.failure = Failed("broken", "no")
    painter.generate(prompt=secret)

    def lines():
        messages = [record.getMessage() for record in caplog.records if record.name == "service.gateway.access"]
        return [message for message in messages if message.startswith("method=POST")]

    wait_until(lambda: len(lines()) >= 6)
    assert "method=POST route=/v1/generate code=200 duration_s=" in lines()[0]
    accepted = [record.getMessage() for record in caplog.records if record.name == "service.gateway.admission"]
    assert f"prompt_chars={len(secret)}" in accepted[0]
    assert "armadillo" not in caplog.text
