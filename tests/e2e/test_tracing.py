"""Traces and logs of a whole service: real processes, and a receiver that takes what they send as a collector would."""

import json
import os
import signal
import time

import pytest

from tests.e2e.harness import Service, wait_for
from tests.support.otlp import receiving
from tests.support.tiny_bundle import write_tiny_bundle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CALLER = "00f067aa0ba902b7"
PROMPT = "a very private armadillo"
STAGES = {"text encode", "denoise", "decode", "png", "store", "finish"}
NOBODY_LISTENS = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def traced(bundle, tmp_path_factory):
    """(service, receiver), with the log in JSON; a rare picture at a time, so that some wait."""
    with receiving() as receiver:
        settings = {"otlp_endpoint": receiver.url, "log_format": "json", "max_active_images": 1}
        with Service(bundle.folder, tmp_path_factory.mktemp("data"), **settings) as service:
            yield service, receiver


def post(client, trace_id, flags="01", **fields):
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-{flags}", "Authorization": "Bearer swordfish"}
    body = {"prompt": PROMPT, "num_inference_steps": 12, "size": "64x64"} | fields
    return client.post("/v1/generate", json=body, headers=headers)


def spans_once(receiver, trace_id, is_whole):
    def look():
        spans = receiver.of_trace(trace_id)
        return spans if is_whole({span.name for span in spans}) else None

    return wait_for(look, 30)


def test_one_trace_leads_from_the_callers_span_to_the_last_stage(traced):
    service, receiver = traced
    trace_id = "1" * 32
    with service.client() as client:
        response = post(client, trace_id)
    assert response.status_code == 200, response.text
    whole = STAGES | {"POST /v1/generate", "queue wait", "draw"}
    spans = spans_once(receiver, trace_id, whole.issubset)
    by_name = {span.name: span for span in spans}
    assert set(by_name) == whole
    request, wait, draw = by_name["POST /v1/generate"], by_name["queue wait"], by_name["draw"]
    assert (request.service, request.kind, request.parent_id) == ("emmdit-gateway", "SERVER", CALLER)
    assert {span.service for span in spans if span is not request} == {"emmdit-worker"}
    assert wait.parent_id == draw.parent_id == request.span_id
    assert {by_name[name].parent_id for name in STAGES} == {draw.span_id}
    assert response.headers["traceresponse"] == f"00-{trace_id}-{request.span_id}-01"
    assert draw.attributes["emmdit.job_id"] == request.attributes["emmdit.job_id"] == response.headers["x-job-id"]
    assert (draw.attributes["emmdit.attempt"], draw.attributes["emmdit.outcome"]) == (1, "done")
    groups = [span.attributes["emmdit.forwards"] for span in spans if span.name == "denoise"]
    assert groups == [10, 1], "the last two of twelve steps are one forward"
    assert draw.duration_s >= sum(span.duration_s for span in spans if span.name in ("denoise", "decode"))
    assert not any(span.error for span in spans)


def test_a_span_says_of_the_wait_what_the_service_says(traced):
    service, receiver = traced
    trace_id = "2" * 32
    headers = {"Prefer": "respond-async"}
    with service.client() as client:
        for seed in range(3):  # they are drawn one at a time
            body = {"prompt": "red", "num_inference_steps": 50, "n": 3, "seed": seed}
            assert client.post("/v1/generate", json=body, headers=headers).status_code == 202
        response = post(client, trace_id, num_inference_steps=2)
    told_s = response.json()["timings"]["queue_s"]
    spans = spans_once(receiver, trace_id, {"queue wait", "POST /v1/generate"}.issubset)
    (wait,) = [span for span in spans if span.name == "queue wait"]
    assert told_s > 0.05
    assert wait.duration_s == pytest.approx(told_s, abs=0.05)


def test_an_attempt_that_was_lost_is_followed_by_another_in_the_same_trace(traced):
    service, receiver = traced
    trace_id = "3" * 32
    with service.client() as client:
        headers = {"traceparent": f"00-{trace_id}-{CALLER}-01", "Prefer": "respond-async"}
        body = {"prompt": PROMPT, "num_inference_steps": 50, "n": 5}
        job = client.post("/v1/generate", json=body, headers=headers).json()["id"]
        wait_for(lambda: client.get(f"/v1/jobs/{job}").json()["step"] > 0, 60, service.log)
        (worker,) = service.processes("worker")
        worker.kill()
        wait_for(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "done", 120, service.log)
    spans = spans_once(receiver, trace_id, {"POST /v1/generate", "finish", "draw"}.issubset)
    (draw,) = [span for span in spans if span.name == "draw"]  # the first went down with its worker
    assert draw.attributes["emmdit.attempt"] == 2


def test_what_the_caller_does_not_record_is_sent_by_nobody(traced):
    service, receiver = traced
    silent, marker = "4" * 32, "5" * 32
    with service.client() as client:
        assert post(client, silent, flags="00").headers["traceresponse"].endswith("-00")
        post(client, marker)
    spans_once(receiver, marker, {"POST /v1/generate", "finish", "draw"}.issubset)
    assert not receiver.of_trace(silent)


def test_nothing_that_is_sent_or_logged_holds_a_prompt_or_a_key(traced):
    service, receiver = traced
    assert receiver.bodies
    for secret in ("armadillo", "swordfish"):
        assert secret.encode() not in b"".join(receiver.bodies)
        assert not [line for line in service.lines if secret in line]


def test_every_line_is_an_object_and_a_jobs_lines_are_found_by_its_ids(traced):
    service, _ = traced
    trace_id = "6" * 32
    with service.client() as client:
        job = post(client, trace_id).headers["x-job-id"]

    def objects():
        return [json.loads(line) for line in list(service.lines) if not line.startswith("ready: ")]

    def told():
        about = [line for line in objects() if line.get("job_id") == job]
        loggers = {"service.worker", "service.delivery", "service.gateway.access"}
        return about if loggers <= {line["logger"] for line in about} else None

    lines = wait_for(told, 20, service.log)
    assert {line["trace_id"] for line in lines} == {trace_id}
    assert all(line["time"].endswith("Z") and line["pid"] for line in objects())
    assert all(line["request_id"] for line in lines if line["process"] == "gateway")
    assert all(line["worker"] for line in lines if line["process"] == "worker")


def test_signals_change_the_level_of_every_process_and_harm_none(traced):
    service, _ = traced

    def processes_saying(text):
        return {json.loads(line)["process"] for line in list(service.lines) if text in line}

    before = {process.pid for kind in ("gateway", "worker") for process in service.processes(kind)}
    for number, level in ((signal.SIGUSR1, "debug"), (signal.SIGUSR2, "info")):
        os.kill(service.process.pid, number)
        text = f"the log's level is {level} now"
        wait_for(lambda text=text: processes_saying(text) == {"serve", "gateway", "worker"}, 20, service.log)
    assert {process.pid for kind in ("gateway", "worker") for process in service.processes(kind)} == before
    with service.client() as client:
        assert post(client, "7" * 32).status_code == 200


def test_a_collector_that_is_away_harms_no_request_and_delays_no_stop(bundle, tmp_path):
    with Service(bundle.folder, tmp_path, otlp_endpoint=NOBODY_LISTENS, drain_timeout_s=5) as service:
        with service.client() as client:
            for number in range(8):
                assert post(client, f"{number + 1:032x}").status_code == 200

            def num_lost():
                rows = client.get("/metrics").text.splitlines()
                return sum(float(row.split()[-1]) for row in rows if row.startswith("emmdit_trace_spans_lost"))

            wait_for(lambda: num_lost() >= 8, 60, service.log)
        started_s = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started_s < 20
    told = [line for line in service.lines if "the collector does not take spans" in line]
    assert 1 <= len(told) <= 2, "once for each process"
