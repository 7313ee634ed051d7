"""Event streams over a real connection: what comes, in which order, and what happens when somebody leaves."""

import base64
import io
import json

import pytest
from PIL import Image

from service.gateway import events
from service.job_events import Drawn, Partial, Preview
from service.jobs import Failed, ImageRef
from tests.gateway.harness import wait_until


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "JPEG")
    return file.getvalue()


def preview(step, index=0):
    return Preview(index, step, 3, 8, 8, "image/jpeg", jpeg("red"))


class Stream:
    """Events of a response, one at a time, as {"event", "id", "data"}."""

    def __init__(self, response):
        self.response = response
        self._lines = response.iter_lines()

    def __iter__(self):
        return self

    def __next__(self):
        found = {}
        for line in self._lines:
            if line == "" and "data" in found:
                return found | {"data": json.loads(found["data"])}
            name, _, value = line.partition(": ")
            if name and line:
                found[name] = value
        raise StopIteration

    def until(self, name):
        """Events up to the next of this name, which is the last."""
        found = []
        for event in self:
            found.append(event)
            if event["event"] == name:
                return found
        raise AssertionError(f"the stream ended without {name}: {found}")


@pytest.fixture
def held(start_gateway):
    """A gateway whose worker keeps its jobs under way."""
    with start_gateway() as gateway:
        gateway.worker.is_holding = True
        yield gateway


def opened(gateway, path, **headers):
    return gateway.client.stream("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})


def posted(gateway, **fields):
    body = {"prompt": "a red apple"} | fields
    return gateway.client.stream("POST", "/v1/generate", json=body, headers={"Accept": "text/event-stream"})


def report(gateway, job_id, step, *shown):
    assert gateway.call(gateway.queue.events.report(job_id, 1, step, shown))


def test_a_request_that_accepts_events_gets_its_whole_story(held):
    with posted(held, seed=7) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        job_id = response.headers["x-job-id"]
        stream = Stream(response)
        held.wait_for_state(job_id, "running")
        report(held, job_id, 1, preview(1))
        shown = stream.until("preview")
        assert [event["event"] for event in shown[:-1]] == ["job"] * (len(shown) - 1)
        assert shown[0]["data"]["id"] == job_id
        assert shown[-1]["data"]["step"] == 1
        assert Image.open(io.BytesIO(base64.b64decode(shown[-1]["data"]["b64_json"]))).size == (8, 8)
        held.worker.is_holding = False
        rest = stream.until("done")
    image = next(event["data"] for event in rest if event["event"] == "image")
    assert (image["index"], image["seed"]) == (0, 7)
    assert base64.b64decode(image["b64_json"]) == held.client.get(image["url"]).content
    assert rest[-1]["data"]["state"] == "done"
    assert held.value("time_to_first_preview_seconds_count") == 1
    assert held.value("requests_total", model=held.model, status="success") == 1


def test_the_worker_is_told_from_the_first_step_that_a_stream_waits(held):
    with posted(held):
        wait_until(lambda: held.worker.seen)
        assert held.worker.seen[0].watch_level == 2


def test_a_stream_is_taken_up_after_the_event_that_was_seen_last(held):
    job_id = held.submit(n=2)
    held.wait_for_state(job_id, "running")
    image = stored_image(held, job_id)
    report(held, job_id, 1, preview(1), Drawn(0, image), preview(2, index=1))
    with opened(held, f"/v1/jobs/{job_id}/events") as response:
        stream = Stream(response)
        seen = [*stream.until("image")]
    last_id = seen[-1]["id"]
    with opened(held, f"/v1/jobs/{job_id}/events", Last_Event_ID=last_id) as response:
        stream = Stream(response)
        again = stream.until("preview")
        assert [(event["event"], event["data"].get("index")) for event in again][-1] == ("preview", 1)
        held.worker.is_holding = False
        rest = stream.until("done")
    told = [event["data"]["index"] for event in [*again, *rest] if event["event"] == "image"]
    assert told == [1], "the first was told before the stream broke"


def stored_image(gateway, job_id):
    job = gateway.worker.held[job_id]
    return gateway.worker._draw(job).images[0]


def test_who_comes_back_after_the_end_is_told_that_there_is_nothing_more(gateway):
    job_id = gateway.submit()
    gateway.wait_for_state(job_id, "done")
    with opened(gateway, f"/v1/jobs/{job_id}/events") as response:
        told = [*Stream(response)]
    assert [event["event"] for event in told] == ["job", "image", "done"]
    response = gateway.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": told[-1]["id"]})
    assert response.status_code == 204


def test_the_place_in_the_queue_is_told_as_it_changes(start_gateway):
    with start_gateway(has_worker=False, no_worker_grace_s=60) as gateway:
        first, second = gateway.submit(), gateway.submit()
        with opened(gateway, f"/v1/jobs/{second}/events") as response:
            stream = Stream(response)
            assert next(stream)["data"]["position"] == 1
            gateway.client.delete(f"/v1/jobs/{first}")
            assert next(stream)["data"]["position"] == 0


def test_of_previews_that_piled_up_only_the_last_is_shown(held):
    job_id = held.submit(n=2)
    held.wait_for_state(job_id, "running")
    report(held, job_id, 2, preview(1), preview(1, index=1), preview(2))
    with opened(held, f"/v1/jobs/{job_id}/events") as response:
        shown = [event["data"] for event in Stream(response).until("job") if event["event"] == "preview"]
    assert [(event["index"], event["step"]) for event in shown] == [(1, 1), (0, 2)]


def test_pictures_and_previews_can_be_left_out(held):
    job_id = held.submit()
    held.wait_for_state(job_id, "running")
    with opened(held, f"/v1/jobs/{job_id}/events?pictures=false&previews=false") as response:
        stream = Stream(response)
        next(stream)
        held.worker.is_holding = False
        told = stream.until("done")
    image = next(event["data"] for event in told if event["event"] == "image")
    assert "b64_json" not in image
    assert image["url"] == f"/v1/jobs/{job_id}/images/0"


def test_partial_images_are_sent_at_full_size(held):
    with posted(held, partial_images=2) as response:
        job_id = response.headers["x-job-id"]
        held.wait_for_state(job_id, "running")
        assert held.worker.held[job_id].partial_images == 2
        image = stored_image(held, job_id)
        report(held, job_id, 2, Partial(0, 1, 2, 3, image))
        told = Stream(response).until("partial_image")[-1]
        held.worker.is_holding = False
    assert told["data"]["partial_image_index"] == 1
    assert len(base64.b64decode(told["data"]["b64_json"])) == image.num_bytes


def test_a_job_that_fails_ends_its_stream_with_the_error(held):
    with posted(held) as response:
        job_id = response.headers["x-job-id"]
        held.wait_for_state(job_id, "running")
        held.worker.failure = Failed("generation_failed", "drawing failed (ValueError)")
        held.worker.is_holding = False
        told = Stream(response).until("error")[-1]["data"]
    assert told["error"]["code"] == "generation_failed"
    assert told["job"]["state"] == "failed"


def test_a_picture_that_is_damaged_ends_the_stream_with_an_error(held):
    with posted(held) as response:
        job_id = response.headers["x-job-id"]
        held.wait_for_state(job_id, "running")
        image = stored_image(held, job_id)
        report(held, job_id, 3, Drawn(0, ImageRef(image.blob, 7, image.num_bytes, "0" * 64)))
        assert Stream(response).until("error")[-1]["data"]["error"]["code"] == "image_corrupt"


def test_a_stream_whose_client_leaves_for_good_is_called_off(held, monkeypatch):
    monkeypatch.setattr("service.gateway.abandoned.Abandoned.note.__defaults__", (0.05,))
    with posted(held) as response:
        job_id = response.headers["x-job-id"]
        held.wait_for_state(job_id, "running")
    assert held.wait_for_state(job_id, "cancelled")


def test_a_stream_whose_client_comes_back_goes_on(held, monkeypatch):
    noted = []
    note = held.gateway.abandoned.note

    def note_soon(give_up):
        noted.append(give_up)
        note(give_up, 0.2)

    monkeypatch.setattr(held.gateway.abandoned, "note", note_soon)
    with posted(held) as response:
        job_id = response.headers["x-job-id"]
        held.wait_for_state(job_id, "running")
    with opened(held, f"/v1/jobs/{job_id}/events") as response:
        stream = Stream(response)
        next(stream)
        wait_until(lambda: len(noted) == 1)
        wait_until(lambda: not held.gateway.abandoned._tasks)
        held.worker.is_holding = False
        assert stream.until("done")


def test_an_asynchronous_job_goes_on_when_its_watcher_leaves(held):
    job_id = held.submit()
    held.wait_for_state(job_id, "running")
    with opened(held, f"/v1/jobs/{job_id}/events") as response:
        next(Stream(response))

    def watchers():
        return held.call(held.queue.events.count_watchers(job_id))

    wait_until(lambda: watchers() == 0)
    assert held.job(job_id)["state"] == "running"
    held.worker.is_holding = False


def test_a_gateway_that_stops_ends_streams_without_an_end_of_the_job(start_gateway):
    with start_gateway(drain_timeout_s=0.1) as gateway:
        gateway.worker.is_holding = True
        with posted(gateway) as response:
            stream = Stream(response)
            next(stream)
            gateway.loop.call_soon_threadsafe(gateway.server.stop)
            assert all(event["event"] == "job" for event in stream)
        assert not gateway.gateway.abandoned._tasks


def test_a_live_picture_is_shown_frame_by_frame_and_ends_with_the_png(held):
    job_id = held.submit()
    held.wait_for_state(job_id, "running")
    with opened(held, f"/v1/jobs/{job_id}/live") as response:
        assert response.headers["content-type"] == f"multipart/x-mixed-replace; boundary={events.BOUNDARY}"
        chunks = response.iter_raw()
        got = b""
        report(held, job_id, 1, preview(1))
        while got.count(b"--" + events.BOUNDARY.encode()) < 2:
            got += next(chunks)
        first = got.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
        assert Image.open(io.BytesIO(first)).size == (64, 64)
        held.worker.is_holding = False
        got = b"".join(chunks)
    assert b"Content-Type: image/png" in got
    png = got.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
    assert png == held.client.get(f"/v1/jobs/{job_id}/images/0").content


@pytest.mark.parametrize(
    ("path", "headers", "status", "word"),
    [
        ("events?colour=red", {}, 400, "colour"),
        ("events?pictures=maybe", {}, 400, "maybe"),
        ("events?pictures=true&pictures=true", {}, 400, "twice"),
        ("events", {"Last-Event-ID": "the third"}, 400, "the third"),
        ("live?index=7", {}, 404, "7"),
        ("live?index=-1", {}, 400, "-1"),
    ],
)
def test_what_a_stream_cannot_be_asked_for_is_refused_by_name(gateway, path, headers, status, word):
    job_id = gateway.submit()
    response = gateway.client.get(f"/v1/jobs/{job_id}/{path}", headers=headers)
    assert response.status_code == status
    assert word in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["events", "live"])
@pytest.mark.parametrize("job_id", ["0" * 32, "x"])
def test_a_job_that_does_not_exist_has_no_stream(gateway, path, job_id):
    response = gateway.client.get(f"/v1/jobs/{job_id}/{path}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "job_not_found"


def test_a_silent_stream_is_kept_alive(held, monkeypatch):
    monkeypatch.setattr("service.gateway.sse.with_keep_alive.__defaults__", (0.05,))
    with posted(held) as response:
        assert any(line == ": keep-alive" for line in response.iter_lines())
