"""Spans against a receiver: what is sent, what is dropped, and that nobody waits for it."""

import logging
import subprocess
import sys
import threading
import time

import pytest
from prometheus_client import CollectorRegistry

from service.attempt_trace import AttemptTrace, begin_attempt, traced
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.settings import Settings
from service.trace_context import parse_traceparent
from service.tracing import MAX_WAITING_SPANS, Outbox, tracing_of
from tests.support.otlp import receiving
from tests.support.server import make_job

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = PARENT[:-1] + "0"
NOBODY_LISTENS = "http://127.0.0.1:9"


class Sender:
    """Tracing with its metrics. `close` sends what waits."""

    def __init__(self, endpoint, **settings):
        self.metrics = Metrics(CollectorRegistry())
        settings = Settings(otlp_endpoint=endpoint, drain_timeout_s=settings.pop("drain_timeout_s", 10.0), **settings)
        self.tracing = tracing_of(settings, self.metrics, process="test", instance="t1")

    @property
    def num_lost(self):
        return self.metrics.registry.get_sample_value("emmdit_trace_spans_lost_total")


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def sender(receiver):
    sender = Sender(receiver.url)
    yield sender
    sender.tracing.close()


def begin(sender, **changes):
    return begin_attempt(sender.tracing, make_job(traceparent=PARENT, **changes), "w1")


def test_nothing_is_loaded_where_no_collector_is_named():
    code = "import sys, service.gateway.server, service.attempt_trace; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    # The client of Redis loads the SDK wherever it is installed, so the exporter alone is a sign of ours.
    assert not [name for name in loaded if name.startswith(("opentelemetry.exporter", "opentelemetry.proto"))]
    assert tracing_of(Settings(), Metrics(CollectorRegistry()), process="test", instance="t") is None


def test_without_the_extra_start_up_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'emmdit\[tracing\]'"):
        Sender("http://127.0.0.1:4318")


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4318", "http://", "grpc://a:1", "http://me:secret@a:1", "http://a/?k=1"]
)
def test_an_address_that_cannot_be_or_holds_a_secret_is_refused(endpoint):
    with pytest.raises(ValueError, match="otlp_endpoint"):
        Settings(otlp_endpoint=endpoint)


def test_an_attempt_is_a_span_with_its_stages_below_and_its_wait_beside_it(sender, receiver):
    attempt = begin(sender, timeout_s=60.0, time_left_s=58.5, attempt=2, num_images=2)
    other = AttemptTrace()
    with traced("text encode", [attempt, attempt, other]):
        pass
    for forward in (1, 2, 3):
        with traced("denoise", [attempt, other], forward):
            pass
    with traced("denoise", [attempt, attempt, other], 4):
        pass
    with traced("decode", [attempt]):
        pass
    attempt.end("done")
    sender.tracing.close()
    spans = {span.name: span for span in receiver.spans}
    assert sorted(spans) == ["decode", "denoise", "draw", "queue wait", "text encode"]
    assert {span.trace_id for span in receiver.spans} == {PARENT[3:35]}
    wait, draw, steps = spans["queue wait"], spans["draw"], spans["denoise"]
    assert wait.parent_id == draw.parent_id == PARENT[36:52]
    assert wait.duration_s == pytest.approx(1.5)
    assert wait.ended_at_ns == draw.began_at_ns
    assert draw.kind == "CONSUMER"
    assert (draw.attributes["emmdit.attempt"], draw.attributes["emmdit.outcome"]) == (2, "done")
    for name in ("text encode", "denoise", "decode"):
        assert spans[name].parent_id == draw.span_id
        assert draw.began_at_ns <= spans[name].began_at_ns <= spans[name].ended_at_ns <= draw.ended_at_ns
    assert spans["text encode"].attributes == {"emmdit.pictures": 2, "emmdit.batch_pictures": 3}
    assert steps.attributes == {
        "emmdit.forwards": 4,
        "emmdit.steps": 5,
        "emmdit.batch_pictures_min": 2,
        "emmdit.batch_pictures_max": 3,
    }


def test_steps_in_a_row_are_one_span_a_pause_begins_another_and_none_is_too_long(sender, receiver):
    attempt = begin(sender)
    for forward in (*range(1, 24), 30, 31):
        with traced("denoise", [attempt], forward):
            pass
    attempt.end("done")
    sender.tracing.close()
    sizes = [span.attributes["emmdit.forwards"] for span in receiver.spans if span.name == "denoise"]
    assert sizes == [10, 10, 3, 2]


def test_a_stage_that_fails_says_so_by_its_class_alone(sender, receiver):
    attempt = begin(sender)
    with pytest.raises(RuntimeError), traced("denoise", [attempt], 1):
        raise RuntimeError("a prompt, perhaps")
    attempt.end("given back", "generation_failed")
    sender.tracing.close()
    errors = {span.name: span.error for span in receiver.spans}
    assert errors == {"queue wait": "", "denoise": "RuntimeError", "draw": "generation_failed"}
    assert b"perhaps" not in b"".join(receiver.bodies)


@pytest.mark.parametrize("traceparent", [UNSAMPLED, "", "nonsense"])
def test_what_nobody_records_costs_nothing_and_sends_nothing(sender, receiver, traceparent):
    attempt = begin_attempt(sender.tracing, make_job(traceparent=traceparent), "w1")
    assert not attempt.is_recorded
    with traced("decode", [attempt]):
        pass
    attempt.end("done")
    sender.tracing.close()
    assert receiver.num_requests == 0


def test_the_caller_decides_and_where_there_is_none_the_ratio(receiver):
    never = Sender(receiver.url, trace_sample_ratio=0.0)
    started = [never.tracing.start("HTTP", parse_traceparent([header])) for header in ("", UNSAMPLED, PARENT)]
    assert [span.is_recorded for span in started] == [False, False, True]
    assert len({span.context.trace_id for span in started}) == 2
    for span in started:
        span.end()
    never.tracing.close()
    (sent,) = receiver.spans
    assert (sent.trace_id, sent.parent_id) == (PARENT[3:35], PARENT[36:52])


def test_a_collector_that_is_away_costs_spans_which_are_counted_and_said_once(caplog):
    sender = Sender(NOBODY_LISTENS)
    before_s = time.monotonic()
    for _ in range(10):
        sender.tracing.start("x", None).end()
    assert time.monotonic() - before_s < 1.0
    sender.tracing.close()
    assert time.monotonic() - before_s < 20.0
    assert sender.num_lost == 10


def test_trouble_is_told_when_it_begins_and_when_it_ends(receiver, caplog):
    caplog.set_level(logging.WARNING, "service.tracing")
    sender = Sender(receiver.url)

    def send_one():
        num_requests = receiver.num_requests
        sender.tracing.start("x", None).end()
        give_up_at_s = time.monotonic() + 20
        while receiver.num_requests == num_requests:
            assert time.monotonic() < give_up_at_s
            time.sleep(0.02)

    receiver.status = 400  # which is not tried again
    send_one()
    send_one()
    receiver.status = 200
    send_one()
    sender.tracing.close()
    assert sender.num_lost == 2
    told = [record.getMessage() for record in caplog.records if record.name == "service.tracing"]
    assert told == [
        "the collector does not take spans; they are dropped until it does",
        "the collector takes spans again",
    ]


def test_a_collector_that_hangs_holds_nobody_up_and_the_rest_is_dropped_at_the_end():
    lost, is_let_go = [], threading.Event()

    class Hanging:
        def export(self, _):
            is_let_go.wait(30)

        def shutdown(self):
            is_let_go.set()

    outbox = Outbox(Hanging(), lost.append)
    before_s = time.monotonic()
    num_spans = MAX_WAITING_SPANS + 1000
    for _ in range(num_spans):
        outbox.put(object())
    outbox.close(0.2)
    assert time.monotonic() - before_s < 20
    assert sum(lost) >= 500
