"""A request's trace: continued from its caller, told to its job and its client, in the log, in exemplars, exported."""

import json
import logging
import re
import time

import pytest
from prometheus_client import CollectorRegistry

from service.logs import JsonFormatter
from service.metrics import Metrics
from service.settings import Settings
from service.tracing import tracing_of
from tests.gateway.harness import running_gateway, wait_until
from tests.support.otlp import receiving

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
FORM = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")
DRAWS = {"/v1/generate": {"prompt": "a red apple"}, "/v1/images/generations": {"prompt": "a red apple"}}


@pytest.fixture
def lines():
    """Every line of the log from now on, as JSON has it."""
    found = []

    class Keeping(logging.Handler):
        def emit(self, record):
            found.append(json.loads(JsonFormatter({}).format(record)))

    root, handler, level = logging.getLogger(), Keeping(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield found
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="module")
def exporting(embedded_server, tmp_path_factory):
    """(gateway, receiver) of a gateway that sends its spans."""
    with receiving() as receiver:
        settings = Settings(otlp_endpoint=receiver.url)
        tracing = tracing_of(settings, Metrics(CollectorRegistry()), process="gateway", instance="g1")
        folder = tmp_path_factory.mktemp("traced")
        try:
            with running_gateway(embedded_server.url, folder, "traced", tracing=tracing) as gateway:
                yield gateway, receiver
        finally:
            tracing.close()


@pytest.mark.parametrize("path", DRAWS)
def test_a_trace_goes_on_to_the_job_and_comes_back(gateway, path):
    response = gateway.client.post(path, json=DRAWS[path], headers={"traceparent": SAMPLED})
    told = response.headers["traceresponse"]
    assert FORM.fullmatch(told)
    assert told.startswith(f"00-{TRACE}-")
    assert told.endswith("-01")
    assert CALLER not in told
    assert gateway.worker.seen[-1].traceparent == told


@pytest.mark.parametrize(
    "header", [None, "nonsense", SAMPLED.upper(), f"ff{SAMPLED[2:]}", f"00-{'0' * 32}-{CALLER}-01"]
)
def test_without_a_valid_one_a_trace_begins_that_nobody_records(gateway, header):
    response = gateway.generate(headers={"traceparent": header} if header else {})
    assert response.status_code == 200
    told = response.headers["traceresponse"]
    assert FORM.fullmatch(told)
    assert TRACE not in told
    assert told.endswith("-00")


def test_two_of_them_are_none(gateway):
    headers = [("traceparent", SAMPLED), ("traceparent", SAMPLED)]
    assert TRACE not in gateway.client.get("/livez", headers=headers).headers["traceresponse"]


@pytest.mark.parametrize(("path", "code"), [("/livez", 200), ("/nothing", 404), (f"/v1/jobs/{'0' * 32}", 404)])
def test_every_answer_says_its_trace(gateway, path, code):
    response = gateway.client.get(path, headers={"traceparent": SAMPLED})
    assert response.status_code == code
    assert TRACE in response.headers["traceresponse"]


def test_who_is_traced_otherwise_shares_a_job_all_the_same(gateway):
    gateway.worker.is_holding = True
    try:
        first = gateway.submit(seed=5)
        second = gateway.generate(headers={"Prefer": "respond-async", "traceparent": SAMPLED}, seed=5).json()["id"]
    finally:
        gateway.worker.is_holding = False
    assert first == second


def test_lines_of_a_request_bear_its_ids_and_those_about_its_job_that_too(gateway, lines):
    response = gateway.generate(headers={"traceparent": SAMPLED, "X-Request-ID": "find-me"})

    def own():
        return [line for line in lines if line.get("request_id") == "find-me"]

    wait_until(lambda: any(line["logger"] == "service.gateway.access" for line in own()))
    assert {line["trace_id"] for line in own()} == {TRACE}
    job_id = response.headers["x-job-id"]
    assert {line["logger"] for line in own() if line.get("job_id") == job_id} == {
        "service.gateway.admission",
        "service.gateway.access",
    }
    (access,) = [line for line in own() if line["logger"] == "service.gateway.access"]
    assert (access["method"], access["route"], access["code"]) == ("POST", "/v1/generate", 200)
    assert access["duration_s"] > 0
    assert "apple" not in json.dumps(lines)


def test_a_recorded_trace_is_an_exemplar_and_no_other(gateway):
    def page():
        accept = "application/openmetrics-text;version=1.0.0"
        return gateway.client.get("/metrics", headers={"Accept": accept}).text

    silent, recorded = "c" * 32, "d" * 32
    gateway.client.get("/livez", headers={"traceparent": f"00-{silent}-{CALLER}-00"})
    gateway.client.get("/livez", headers={"traceparent": f"00-{recorded}-{CALLER}-01"})
    wait_until(lambda: recorded in page())
    assert silent not in re.findall(r'# \{trace_id="(\w+)"\}', page())


def spans_of(receiver, trace_id, count):
    wait_until(lambda: len(receiver.of_trace(trace_id)) >= count, 30)
    return receiver.of_trace(trace_id)


def test_a_request_is_a_span_below_its_callers(exporting):
    gateway, receiver = exporting
    trace_id = TRACE[::-1]
    began_at_s = time.time()
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-01", "X-Request-ID": "find-me"}
    response = gateway.client.post("/v1/generate", json={"prompt": "a red apple"}, headers=headers)
    (span,) = spans_of(receiver, trace_id, 1)
    assert (span.service, span.name, span.kind) == ("emmdit-gateway", "POST /v1/generate", "SERVER")
    assert (span.parent_id, span.error) == (CALLER, "")
    assert response.headers["traceresponse"] == f"00-{trace_id}-{span.span_id}-01"
    assert gateway.worker.seen[-1].traceparent == response.headers["traceresponse"]
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/generate",
        "http.response.status_code": 200,
        "emmdit.request_id": "find-me",
        "emmdit.job_id": response.headers["x-job-id"],
    }
    assert abs(span.began_at_ns / 1e9 - began_at_s) < 60


def test_paths_are_told_by_their_templates_and_a_fault_of_ours_is_an_error(exporting, monkeypatch):
    gateway, receiver = exporting
    trace_id = "a" * 32

    def ask(path):
        return gateway.client.get(path, headers={"traceparent": f"00-{trace_id}-{CALLER}-01"}).status_code

    assert ask("/v1/jobs/secret-path?key=swordfish") == 404
    assert ask("/v1/nothing/swordfish") == 404
    monkeypatch.setattr("service.gateway.models.ModelBody", None)
    assert ask("/v1/models") == 500
    spans = {span.name: span for span in spans_of(receiver, trace_id, 3)}
    assert {name: span.error for name, span in spans.items()} == {
        "GET /v1/jobs/{job_id}": "",
        "GET unmatched": "",
        "GET /v1/models": "500",
    }
    sent = b"".join(receiver.bodies)
    assert b"swordfish" not in sent
    assert b"secret-path" not in sent


def test_probes_and_what_the_caller_does_not_record_are_not_exported(exporting):
    gateway, receiver = exporting
    trace_id = "b" * 32
    gateway.client.get("/livez", headers={"traceparent": f"00-{trace_id}-{CALLER}-01"})
    silent = gateway.generate(headers={"traceparent": f"00-{trace_id}-{CALLER}-00"})
    assert silent.headers["traceresponse"].endswith("-00")
    gateway.client.get("/v1/models", headers={"traceparent": f"00-{trace_id}-{CALLER}-01"})
    (span,) = spans_of(receiver, trace_id, 1)
    assert span.name == "GET /v1/models"
