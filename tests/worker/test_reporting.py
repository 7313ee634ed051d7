"""What a watched job shows while a real (tiny) engine draws it."""

import asyncio
import io

import pytest
from PIL import Image

from model.engine import Engine
from service.errors import ServerOverloaded
from service.job_events import Drawn, JobEvents, Partial, Preview
from service.jobs import JobState, WatchLevel
from tests.support.server import MODEL, eventually
from tests.support.tiny_bundle import write_tiny_bundle
from tests.worker.test_worker import Bench, tiny_job

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("tiny"), name=MODEL, vocabulary=("a", "red", "apple"))
    return Engine.load(bundle, "cpu")


async def shown(queue, engine, tmp_path, job, **settings):
    """Everything that one job showed, and how it stands at its end."""
    async with Bench(queue, engine, tmp_path, preview_interval_s=0.0, **settings).running() as bench:
        await queue.submit(job)
        status = await bench.ended(job)
    _, stored = await queue.events.look(job.id, job.owner)
    return status, [entry.event for entry in stored], bench


async def test_previews_show_every_step_but_the_last_and_which_it_was(queue, engine, tmp_path):
    job = tiny_job(steps=12, watch_level=WatchLevel.PREVIEWS)
    status, events, _ = await shown(queue, engine, tmp_path, job)
    assert status.state is JobState.DONE
    assert all(isinstance(event, Preview) and event.num_steps == 11 for event in events)
    steps = [event.step for event in events]
    assert steps == sorted(set(steps)), "in order; where reports take longer than steps, some are left out"
    assert len(steps) >= 3
    assert set(steps) <= set(range(1, 11))
    for event in events:
        picture = Image.open(io.BytesIO(event.data))
        assert (picture.format, picture.size) == ("JPEG", (event.width, event.height))


async def test_an_interval_keeps_previews_apart(queue, engine, tmp_path):
    async with Bench(queue, engine, tmp_path, preview_interval_s=3600).running() as bench:
        job = tiny_job(steps=12, watch_level=WatchLevel.PREVIEWS)
        await queue.submit(job)
        await bench.ended(job)
    _, stored = await queue.events.look(job.id, job.owner)
    assert [entry.event.step for entry in stored] == [1]


async def test_who_wants_only_pictures_gets_no_previews(queue, engine, tmp_path):
    job = tiny_job(steps=4, num_images=3, watch_level=WatchLevel.PICTURES)
    status, events, _ = await shown(queue, engine, tmp_path, job, max_active_images=1)
    assert [(type(event), event.index) for event in events] == [(Drawn, 0), (Drawn, 1)], "the end tells of the last"
    assert [event.image for event in events] == list(status.result.images[:2])


async def test_nothing_is_published_of_a_job_that_nobody_watches(queue, engine, tmp_path, raw):
    job = tiny_job(steps=12, num_images=2)
    _, events, bench = await shown(queue, engine, tmp_path, job)
    assert events == []
    assert bench.sample("emmdit_stage_duration_seconds_count", stage="preview") == 0


async def test_partial_images_are_full_size_and_spread_over_the_steps(queue, engine, tmp_path):
    job = tiny_job(steps=13, watch_level=WatchLevel.PICTURES, partial_images=3)
    _, events, bench = await shown(queue, engine, tmp_path, job)
    assert [(event.partial_index, event.step) for event in events] == [(0, 3), (1, 6), (2, 9)]
    for event in events:
        assert isinstance(event, Partial)
        png = bench.blobs.get(event.image.blob, event.image.sha256)
        assert Image.open(io.BytesIO(png)).size == (64, 64)


async def test_fewer_steps_than_partial_images_give_fewer(queue, engine, tmp_path):
    job = tiny_job(steps=3, watch_level=WatchLevel.PICTURES, partial_images=3)
    _, events, _ = await shown(queue, engine, tmp_path, job)
    assert [(event.partial_index, event.step) for event in events] == [(0, 1)]


async def test_a_watcher_who_comes_late_sees_the_rest(queue, engine, tmp_path):
    async with Bench(queue, engine, tmp_path, preview_interval_s=0.0).running() as bench:
        job = tiny_job(steps=900)
        await queue.submit(job)

        async def is_running():
            return (await queue.status(job.id, job.owner)).state is JobState.RUNNING

        await eventually(is_running)
        await queue.events.watch(job.id, job.owner, WatchLevel.PREVIEWS)

        async def has_previews():
            return (await queue.events.look(job.id, job.owner))[1]

        await eventually(has_previews)
        await queue.cancel(job.id, job.owner)
        await bench.ended(job)


async def test_a_picture_is_the_same_whether_watched_or_not(queue, engine, tmp_path):
    plain, watched = tiny_job(steps=8), tiny_job(steps=8, watch_level=WatchLevel.PREVIEWS, partial_images=2)
    first, _, bench = await shown(queue, engine, tmp_path, plain)
    second, _, _ = await shown(queue, engine, tmp_path, watched)
    (one,), (other,) = bench.pictures(first.result), bench.pictures(second.result)
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("failing", ["preview", "decode_estimates"])
async def test_a_preview_that_fails_costs_no_picture(queue, engine, tmp_path, monkeypatch, failing, caplog):
    def fail(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr(engine, failing, fail)
    job = tiny_job(steps=6, watch_level=WatchLevel.PREVIEWS, partial_images=1)
    status, _, _ = await shown(queue, engine, tmp_path, job)
    assert status.state is JobState.DONE
    assert "a preview failed" in caplog.text


async def test_reports_that_the_server_refuses_cost_no_picture(queue, engine, tmp_path, monkeypatch):
    async def refuse(*_):
        await asyncio.sleep(0)
        raise ServerOverloaded("full", retry_after_s=1)

    monkeypatch.setattr(JobEvents, "report", refuse)
    status, events, _ = await shown(queue, engine, tmp_path, tiny_job(steps=6, watch_level=WatchLevel.PREVIEWS))
    assert status.state is JobState.DONE
    assert events == []
