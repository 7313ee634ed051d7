"""What running jobs show: their streams, who watches, and the channel that says when to look."""

import asyncio
import time

import pytest

from service.errors import JobNotFound
from service.job_events import MAX_EVENTS, Drawn, Partial, Preview
from service.jobs import ImageRef, JobState, WatchLevel
from service.queue_types import JobProgress
from tests.support.server import DONE, PREFIX, make_job, make_worker

pytestmark = pytest.mark.anyio
IMAGE = ImageRef("a-1-0.png", 7, 3, "00")


def preview(step=1, index=0):
    return Preview(index, step, 19, 32, 32, "image/jpeg", bytes([step, 255]))


async def start(queue, **changes):
    """A job that w1 draws."""
    job = make_job(**changes)
    await queue.submit(job)
    (claimed,) = await queue.claim("w1", 1, 8, is_idle=True)
    return claimed


async def test_events_come_back_in_order_and_as_they_were(queue):
    job = await start(queue)
    events = [preview(1), Partial(0, 0, 5, 19, IMAGE), Drawn(0, IMAGE), preview(9)]
    assert await queue.events.report(job.id, job.attempt, 5, events[:2])
    assert await queue.events.report(job.id, job.attempt, 19, events[2:])
    status, stored = await queue.events.look(job.id, job.owner)
    assert [entry.event for entry in stored] == events
    assert (status.state, status.step) == (JobState.RUNNING, 19)
    _, rest = await queue.events.look(job.id, job.owner, after=stored[1].id)
    assert rest == stored[2:]


async def test_an_attempt_that_no_longer_counts_shows_nothing(queue):
    job = await start(queue)
    assert not await queue.events.report(job.id, job.attempt + 1, 5, [preview()])
    await queue.finish(job.id, job.attempt, DONE)
    assert not await queue.events.report(job.id, job.attempt, 5, [preview()])
    assert (await queue.events.look(job.id, job.owner))[1] == ()


async def test_a_stream_is_bounded_in_length_and_in_time(queue, raw):
    job = await start(queue)
    for step in range(MAX_EVENTS + 10):
        await queue.events.report(job.id, job.attempt, step, [preview(step)])
    _, stored = await queue.events.look(job.id, job.owner)
    assert [entry.event.step for entry in stored] == list(range(10, MAX_EVENTS + 10))
    assert 0 < await raw.pttl(f"{PREFIX}events:{job.id}") <= 120_000


async def test_events_of_a_later_version_are_passed_over(queue, raw):
    job = await start(queue)
    await raw.xadd(f"{PREFIX}events:{job.id}", {"kind": "hologram", "data": "{}"})
    await queue.events.report(job.id, job.attempt, 1, [preview()])
    assert len((await queue.events.look(job.id, job.owner))[1]) == 1


async def test_anothers_job_can_be_neither_watched_nor_looked_at(queue):
    job = await start(queue)
    with pytest.raises(JobNotFound):
        await queue.events.look(job.id, "eve")
    with pytest.raises(JobNotFound):
        await queue.events.watch(job.id, "eve", WatchLevel.PREVIEWS)
    with pytest.raises(JobNotFound):
        await queue.events.watch("0" * 32, job.owner, WatchLevel.PREVIEWS)


async def test_watchers_are_counted_and_the_closest_look_counts(queue, raw):
    job = await start(queue)
    assert await queue.events.watch(job.id, job.owner, WatchLevel.PREVIEWS) == 1
    assert await queue.events.watch(job.id, job.owner, WatchLevel.PICTURES) == 2
    assert await queue.events.watch(job.id, job.owner, WatchLevel.NOTHING) == 1
    progress = [JobProgress(job.id, job.attempt, 1, 19)]
    assert (await queue.heartbeat(make_worker(), progress)).watched == {job.id: WatchLevel.PREVIEWS}


async def test_a_worker_hears_with_the_job_that_somebody_watches_it(queue):
    assert (await start(queue)).watch_level is WatchLevel.NOTHING
    assert (await start(queue, watch_level=WatchLevel.PREVIEWS)).watch_level is WatchLevel.PREVIEWS
    late = make_job()
    await queue.submit(late)
    await queue.events.watch(late.id, late.owner, WatchLevel.PICTURES)
    assert (await queue.claim("w1", 1, 8, is_idle=True))[0].watch_level is WatchLevel.PICTURES


async def test_every_move_of_a_watched_job_is_news_and_no_other_is(queue):
    news = queue.events.news()
    try:
        assert await news.read(0.01) is None  # listening from here on
        plain = await start(queue)
        await queue.finish(plain.id, plain.attempt, DONE)
        job = await start(queue, watch_level=WatchLevel.PICTURES)
        assert await news.read(5) == job.id, "claimed"
        await queue.events.report(job.id, job.attempt, 5, [])
        assert await news.read(5) == job.id, "a step"
        await queue.finish(job.id, job.attempt, DONE)
        assert await news.read(5) == job.id, "the end"
        assert await news.read(0.01) is None
    finally:
        await news.close()


async def test_news_that_come_while_somebody_waits_come_at_once(queue):
    news = queue.events.news()
    try:
        await news.read(0.01)
        waiting = asyncio.create_task(news.read(5))
        job = await start(queue, watch_level=WatchLevel.PICTURES)
        began_at_s = time.monotonic()
        assert await waiting == job.id
        assert time.monotonic() - began_at_s < 1
    finally:
        await news.close()
