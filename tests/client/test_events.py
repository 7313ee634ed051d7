"""The parser of server-sent events, and the events of this service."""

import pytest

from service.client.errors import ApiError, BadAnswer
from service.client.events import EventParser, ImageEvent, JobEvent, RawEvent, typed
from service.errors import JobFailed
from tests.client.scripted_server import PNG, event, image, job

TEXT = (
    b"\xef\xbb\xbf: hello\r\nretry: 1500\r\n\r\n"
    b"id: 1\revent: job\rdata: one\r\r"
    b"event: image\ndata: two\ndata:three\nid: 2\n\n"
    b"data\n\n"
    b"event: empty\n\n"
    b": keep-alive\n\n"
    b"unknown: field\ndata: caf\xc3\xa9\nid: no\0\n\n"
    b"data: unfinished\n"
)
EVENTS = [
    RawEvent("job", "one", "1"),
    RawEvent("image", "two\nthree", "2"),
    RawEvent("message", "", "2"),
    RawEvent("message", "café", "2"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(TEXT)])
def test_the_stream_may_be_cut_anywhere(size):
    parser = EventParser()
    found = [raw for at in range(0, len(TEXT), size) for raw in parser.feed(TEXT[at : at + size])]
    assert found == EVENTS
    assert parser.last_id == "2"
    assert parser.retry_s == 1.5


def test_an_id_counts_once_its_event_is_complete():
    parser = EventParser(last_id="5")
    assert list(parser.feed(b"id: 6\ndata: x\n")) == []
    assert parser.last_id == "5"
    assert [raw.id for raw in parser.feed(b"\n")] == ["6"]


def test_an_endless_event_is_refused(monkeypatch):
    monkeypatch.setattr("service.client.events.MAX_EVENT_BYTES", 1000)
    parser = EventParser()
    assert [len(raw.data) for _ in range(20) for raw in parser.feed(b"data: " + b"x" * 80 + b"\n\n")] == [80] * 20
    with pytest.raises(BadAnswer, match="more than 1000 bytes"):
        list(parser.feed(b"data: " + b"x" * 1000))


def parse(name, value):
    (raw,) = EventParser().feed(event(name, value))
    return typed(raw)


def test_events_have_types():
    assert parse("job", job("queued")) == JobEvent(job=parse("job", job("queued")).job)
    picture = parse("image", image(2))
    assert isinstance(picture, ImageEvent)
    assert (picture.index, picture.seed, picture.data) == (2, 9, PNG)
    assert parse("image", {**image(), "b64_json": None}).data is None
    assert "picture" not in repr(picture)  # the bytes are in no log


def test_what_only_newer_clients_know_is_passed_over():
    assert parse("weather", {"sun": True}) is None
    assert parse("job", job() | {"mood": "good"}).job.state == "running"


def test_an_event_that_does_not_hold_what_it_should_is_named():
    with pytest.raises(BadAnswer, match=r"'image'.*seed"):
        parse("image", {name: value for name, value in image().items() if name != "seed"})
    with pytest.raises(BadAnswer, match="'job'"):
        typed(RawEvent("job", "{", ""))


def test_the_end_of_a_failed_job_is_an_error_of_the_tree():
    end = {"error": {"message": "broken", "type": "server_error", "param": None, "code": "worker_lost"}}
    failure = parse("error", end | {"job": job("failed", error=end["error"])})
    assert isinstance(failure, ApiError)
    assert isinstance(failure, JobFailed)
    assert (failure.code, failure.message, failure.job_id) == ("worker_lost", "broken", job()["id"])
    assert not failure.should_retry
    assert parse("error", end | {"job": job("running")}).should_retry
