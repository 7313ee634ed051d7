"""Several pictures in one answer, as they are done."""

import email
import email.policy
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from service.job_events import Drawn
from service.jobs import Failed
from tests.gateway.harness import wait_until

BODY = b'{"prompt": "a red apple", "n": 3}'
REQUEST = (
    b"POST /v1/generate HTTP/1.1\r\nHost: here\r\nAccept: multipart/mixed\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


def posted(gateway, **fields):
    body = {"prompt": "a red apple", "n": 3, "seed": 7} | fields
    return gateway.client.stream("POST", "/v1/generate", json=body, headers={"Accept": "multipart/mixed"})


def parts_of(response, body):
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    return list(email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts())


def start(gateway):
    """The job under way, held by its worker, with the picture that each index will be."""
    wait_until(lambda: gateway.worker.held)
    (job,) = gateway.worker.held.values()
    assert job.watch_level >= 1
    return job, gateway.worker._draw(job).images


def report(gateway, job, *drawn):
    gateway.call(gateway.queue.events.report(job.id, 1, 1, [Drawn(index, image) for index, image in drawn]))


def test_a_picture_is_sent_while_the_others_are_drawn(start_gateway):
    with start_gateway() as gateway:
        gateway.worker.is_holding = True
        with in_background(start_and_report, gateway), posted(gateway) as response:
            assert response.headers["x-seed"] == "7"
            chunks = response.iter_bytes()
            body = next(chunks)
            assert b"X-Image-Index: 1" in body
            assert gateway.job(response.headers["x-job-id"])["state"] == "running"
            gateway.worker.is_holding = False
            body += b"".join(chunks)
        parts = parts_of(response, body)
    assert [(part["x-image-index"], part["x-seed"]) for part in parts] == [("1", "8"), ("0", "7"), ("2", "9")]
    assert all(part.get_payload(decode=True).startswith(b"\x89PNG") for part in parts)
    assert "x-inference-time" in parts[-1]


@contextmanager
def in_background(work, *arguments):
    """Runs beside the block, which the client needs for itself."""
    with ThreadPoolExecutor(1) as threads:
        outcome = threads.submit(work, *arguments)
        yield
        outcome.result(10)


def start_and_report(gateway):
    job, images = start(gateway)
    report(gateway, job, (1, images[1]))


def test_what_goes_wrong_after_the_first_picture_is_the_last_part(start_gateway):
    with start_gateway() as gateway:
        gateway.worker.is_holding = True
        with in_background(start_and_report, gateway), posted(gateway) as response:
            chunks = response.iter_bytes()
            body = next(chunks)
            gateway.worker.failure = Failed("generation_failed", "drawing failed (ValueError)")
            gateway.worker.is_holding = False
            body += b"".join(chunks)
        first, last = parts_of(response, body)
    assert first.get_content_type() == "image/png"
    assert json.loads(last.get_payload(decode=True))["error"]["code"] == "generation_failed"


def test_what_goes_wrong_before_the_first_picture_is_an_error_with_its_own_status(start_gateway):
    with start_gateway() as gateway:
        gateway.worker.failure = Failed("generation_failed", "drawing failed (ValueError)")
        with posted(gateway) as response:
            response.read()
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "generation_failed"


def test_a_client_that_leaves_cancels_its_job_before_and_after_the_first_picture(start_gateway):
    with start_gateway() as gateway:
        gateway.worker.is_holding = True
        with in_background(start_and_report, gateway), posted(gateway) as response:
            next(response.iter_bytes())
        gateway.wait_for_state(response.headers["x-job-id"], "cancelled")
        wait_until(lambda: not gateway.worker.held)
        with socket.create_connection(("127.0.0.1", httpx.URL(gateway.base_url).port)) as connection:
            connection.sendall(REQUEST)
            wait_until(lambda: gateway.worker.held)
            (job_id,) = gateway.worker.held
        gateway.wait_for_state(job_id, "cancelled")
