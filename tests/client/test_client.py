"""Both clients against a server that does what a test's script says."""

import asyncio
import threading
import time
from contextlib import contextmanager

import pytest

from service import errors
from service.client import ApiError, AsyncClient, BadAnswer, Client, DoneEvent, ImageEvent, JobEvent, StillUnderWay
from service.client.clients import DEFAULT_URL
from service.client.errors import ServerUnreachable
from tests.client.scripted_server import (
    JOB_ID,
    PNG,
    Reply,
    ScriptedServer,
    as_json,
    event,
    generation,
    hang_up,
    image,
    job,
    preview,
    refusal,
    stream,
)

DONE = event("done", job("done"), id="9")


class Awaited:
    """The asynchronous client behind the synchronous one's face, so that both go through the same tests."""

    def __init__(self, url, **options):
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if name in ("stream", "events"):
            return lambda *args, **options: self._iterate(method(*args, **options))
        return lambda *args, **options: self._runner.run(method(*args, **options))

    def _iterate(self, events):
        try:
            while True:
                try:
                    yield self._runner.run(anext(events))
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(events.aclose())

    def __repr__(self):
        return repr(self._client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def connect(request, monkeypatch):
    """`with connect(reply, ...) as (client, server)`; pauses take no time but for the patience's own clock."""
    monkeypatch.setattr("service.client.retries.FIRST_PAUSE_S", 0.01)

    @contextmanager
    def connected(*script, **options):
        kind = Client if request.param == "sync" else Awaited
        with ScriptedServer(*script) as server, kind(server.url, **{"patience_s": 5} | options) as client:
            yield client, server

    return connected


def test_a_generation_has_bytes_and_values(connect):
    with connect(as_json(generation(7, 8))) as (client, server):
        made = client.generate("a red apple", seed=7, n=2, size=None)
        assert [picture.data for picture in made.pictures] == [PNG, PNG]
        assert [picture.seed for picture in made.pictures] == [7, 8]
        assert made.picture.content_type == "image/png"
        assert (made.model, made.num_inference_steps, made.timings.total_s) == ("demo", 20, 0.43)
        assert server.seen[0].fields == {"prompt": "a red apple", "seed": 7, "n": 2}
        assert "accept: application/json" in [f"{k}: {v}" for k, v in server.seen[0].headers.items()]


def test_an_option_that_does_not_exist_is_an_error_before_anything_is_sent(connect):
    with connect() as (client, server), pytest.raises(TypeError, match="unknown option stepps"):
        client.generate("a red apple", stepps=7)
    assert server.seen == []


def test_a_full_queue_is_waited_for_and_the_request_keeps_its_key(connect):
    full = refusal(429, "rate_limit_exceeded", retry_after="7", retry_after_ms="20")
    away = refusal(503, "server_is_overloaded", retry_after="0")
    with connect(full, away, hang_up(), as_json(generation())) as (client, server):
        began_s = time.monotonic()
        assert client.generate("a red apple").picture.data == PNG
        assert time.monotonic() - began_s < 5
    keys = {request.headers["idempotency-key"] for request in server.seen}
    assert len(server.seen) == 4
    assert len(keys) == 1


def test_two_requests_have_two_keys_and_a_key_of_the_callers_own_is_sent(connect):
    with connect(*[as_json(job("queued"), 202)] * 3) as (client, server):
        client.submit("a red apple")
        client.submit("a red apple")
        assert client.submit("a red apple", idempotency_key="mine").position == 2
    first, second, third = (request.headers["idempotency-key"] for request in server.seen)
    assert first != second
    assert third == "mine"
    assert server.seen[0].headers["prefer"] == "respond-async"


def test_the_twin_of_a_request_under_way_is_waited_for_without_end_of_patience(connect):
    twin = refusal(409, "idempotency_in_progress", retry_after_ms="50")
    with connect(*[twin] * 4, as_json(generation()), patience_s=0.1) as (client, server):
        client.generate("a red apple")
    assert len(server.seen) == 5


def test_the_servers_wish_not_to_be_asked_again_is_respected(connect):
    with connect(refusal(503, "no_worker", x_should_retry="false")) as (client, server):
        with pytest.raises(errors.NoWorker):
            client.generate("a red apple")
        assert len(server.seen) == 1


def test_a_pause_longer_than_the_patience_is_not_begun(connect):
    with connect(refusal(429, "rate_limit_exceeded", "full", retry_after="100"), patience_s=2) as (client, _):
        began_s = time.monotonic()
        with pytest.raises(errors.QueueFull, match="full") as raised:
            client.generate("a red apple")
        assert time.monotonic() - began_s < 2
    assert isinstance(raised.value, ApiError)
    assert (raised.value.status, raised.value.retry_after_s) == (429, 100)


def test_errors_are_those_of_the_service_with_what_the_answer_said(connect):
    detail = {"message": "n: 99 is not allowed", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}
    reply = as_json({"error": detail}, 400, x_request_id="r1", x_job_id="j1")
    with connect(reply) as (client, _), pytest.raises(errors.InvalidValue, match="99") as raised:
        client.generate("a red apple", n=99)
    error = raised.value
    assert (error.status, error.code, error.param) == (400, "invalid_value", "n")
    assert (error.request_id, error.job_id) == ("r1", "j1")


def test_a_code_that_only_newer_clients_know_is_an_error_all_the_same(connect):
    with connect(refusal(418, "teapot", "short and stout")) as (client, _), pytest.raises(ApiError) as raised:
        client.generate("a red apple")
    assert type(raised.value) is ApiError
    assert (raised.value.status, raised.value.code, raised.value.message) == (418, "teapot", "short and stout")


def test_another_server_at_that_address_is_told_from_ours(connect):
    page = Reply(404, {"content-type": "text/html"}, [b"<h1>no</h1>"])
    with connect(page, as_json({"hello": 1}), as_json([])) as (client, _):
        with pytest.raises(BadAnswer) as raised:
            client.generate("a red apple")
        assert raised.value.code == "http_404"
        with pytest.raises(BadAnswer, match="model"):
            client.generate("a red apple")
        with pytest.raises(BadAnswer, match="did not answer with events"):
            list(client.stream("a red apple"))


def test_where_nobody_listens_patience_ends_in_one_clear_error(connect):
    with connect(patience_s=0.3) as (client, server):
        server.go_away()
        with pytest.raises(ServerUnreachable, match="no connection after"):
            client.models()
        with pytest.raises(ServerUnreachable, match="no connection after"):
            list(client.stream("a red apple"))
        server.come_back()


def test_a_stream_is_told_as_it_comes(connect):
    events = [event("job", job("queued")), event("preview", preview()), event("image", image(), id="8"), DONE]
    with connect(stream(*events, split=11)) as (client, server):
        seen = list(client.stream("a red apple", n=1, previews=True))
    assert [type(one).__name__ for one in seen] == ["JobEvent", "PreviewEvent", "ImageEvent", "DoneEvent"]
    assert seen[2].data == PNG
    assert server.seen[0].headers["accept"] == "text/event-stream"
    assert server.seen[0].fields["previews"] is True


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_broken_stream_is_resumed_where_it_broke(connect, is_cut):
    first = stream(event("job", job("running"), id="3"), event("image", image(0), id="4"), is_cut=is_cut)
    second = stream(event("image", image(0), id="4"), event("image", image(1), id="5"), DONE)
    with connect(first, hang_up(), second) as (client, server):
        seen = list(client.stream("a red apple", n=2))
    assert [one.index for one in seen if isinstance(one, ImageEvent)] == [0, 1]
    assert isinstance(seen[-1], DoneEvent)
    paths = [(request.method, request.path) for request in server.seen]
    assert paths == [("POST", "/v1/generate"), *[("GET", f"/v1/jobs/{JOB_ID}/events")] * 2]
    assert [request.headers.get("last-event-id") for request in server.seen] == [None, "4", "4"]


def test_before_the_job_is_known_the_request_itself_is_sent_again(connect):
    with connect(hang_up(), stream(DONE)) as (client, server):
        assert isinstance(list(client.stream("a red apple"))[-1], DoneEvent)
    assert [request.path for request in server.seen] == ["/v1/generate"] * 2
    assert len({request.headers["idempotency-key"] for request in server.seen}) == 1


def test_a_gateway_that_is_gone_for_a_while_costs_only_time(connect):
    with connect(stream(event("job", job("running"), id="3"), is_cut=True), stream(DONE)) as (client, server):
        seen = []
        returning = threading.Timer(0.3, server.come_back)
        for one in client.stream("a red apple"):
            if not seen:
                server.go_away()
                returning.start()
            seen.append(one)
        returning.join()
    assert [type(one) for one in seen] == [JobEvent, DoneEvent]


def test_where_the_last_event_was_lost_the_job_itself_tells_the_end(connect):
    first = stream(event("job", job("running"), id="3"), is_cut=True)
    with connect(first, Reply(204), as_json(job("done"))) as (client, _):
        assert list(client.stream("a red apple"))[-1].job.state == "done"
    failed = job("expired", error={"message": "too late", "type": "t", "param": None, "code": "deadline_exceeded"})
    with connect(first, Reply(204), as_json(failed)) as (client, _), pytest.raises(errors.DeadlineExceeded):
        list(client.stream("a red apple"))


def test_a_gateway_that_stops_hands_its_streams_to_the_next(connect):
    said = {"error": {"message": "stopping", "type": "t", "param": None, "code": "server_is_overloaded"}}
    first = stream(event("job", job(), id="3"), event("error", {**said, "job": job("running")}))
    with connect(first, stream(DONE)) as (client, server):
        assert isinstance(list(client.stream("a red apple"))[-1], DoneEvent)
    assert server.seen[1].headers["last-event-id"] == "3"


def test_a_job_that_fails_raises_from_its_stream(connect):
    said = {"message": "cancelled while running", "type": "t", "param": None, "code": "cancelled"}
    ending = event("error", {"error": said, "job": job("cancelled", error=said)})
    reply, raises = stream(event("job", job()), ending), pytest.raises(errors.JobWasCancelled, match="while running")
    with connect(reply) as (client, server), raises:
        list(client.events(JOB_ID, pictures=False))
    assert server.seen[0].path == f"/v1/jobs/{JOB_ID}/events?pictures=false"


def test_jobs_are_listed_looked_at_fetched_and_cancelled(connect):
    page = {"object": "list", "data": [job("done")], "has_more": True, "last_id": JOB_ID}
    picture = Reply(200, {"content-type": "image/png"}, [PNG])
    with connect(as_json(page), as_json(job("queued")), picture, as_json(job("running"), 202)) as (client, server):
        found = client.jobs(limit=1, state="done")
        assert (found.data[0].images[0].seed, found.has_more, found.last_id) == (7, True, JOB_ID)
        assert client.job(JOB_ID).position == 2
        assert client.image(JOB_ID) == PNG
        assert not client.cancel(JOB_ID).is_over
    paths = [f"{request.method} {request.path}" for request in server.seen]
    assert paths == [
        "GET /v1/jobs?limit=1&state=done",
        f"GET /v1/jobs/{JOB_ID}",
        f"GET /v1/jobs/{JOB_ID}/images/0",
        f"DELETE /v1/jobs/{JOB_ID}",
    ]


def test_waiting_ends_with_the_job_or_with_the_time_given(connect):
    with connect(*[as_json(job("running"))] * 2, as_json(job("done"))) as (client, _):
        assert client.wait(JOB_ID).images[0].num_bytes == len(PNG)
    said = {"message": "broken", "type": "t", "param": None, "code": "worker_lost"}
    with connect(as_json(job("failed", error=said))) as (client, _), pytest.raises(errors.JobFailed, match="broken"):
        client.wait(JOB_ID)
    with connect(*[as_json(job("running"))] * 3) as (client, _), pytest.raises(StillUnderWay, match="still running"):
        client.wait(JOB_ID, timeout_s=0.05)


def test_an_id_cannot_lead_to_another_path(connect):
    with connect() as (client, _), pytest.raises(ValueError, match="job_id"):
        client.cancel("../models")


def test_the_key_is_sent_and_shown_nowhere(connect):
    with connect(as_json({"data": []}), api_key="emmdit_1.secret") as (client, server):
        assert client.models() == ()
        assert "secret" not in repr(client) + repr(vars(client))
    assert server.seen[0].headers["authorization"] == "Bearer emmdit_1.secret"
    with pytest.raises(ValueError, match="printable") as raised:
        Client(api_key="geheim\n")
    assert "geheim" not in str(raised.value)
    assert repr(Client("http://ada:secret@localhost:1/")) == "Client('http://localhost:1/')"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="base_url"):
        Client(url)


def test_every_code_of_the_service_has_its_class_here():
    from service.client.errors import error_in

    for kind in vars(errors).values():
        if isinstance(kind, type) and kind is not errors.EmmditError:
            body = b'{"error": {"code": "%s", "message": "no"}}' % kind.code.encode()
            assert isinstance(error_in(400, {}, body), kind)


def test_the_client_needs_nothing_of_the_server():
    import subprocess
    import sys

    code = "import sys, service.client; print({'torch', 'redis', 'fastapi', 'starlette'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
    assert DEFAULT_URL.startswith("http://127.0.0.1")
