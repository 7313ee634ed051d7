import asyncio
import random
from collections import Counter

import pytest

from service.jobs import Cancelled, Done, Expired, Failed, JobState, decode_result
from service.queue import JobQueue
from service.queue_types import JobProgress, QueueLimits
from tests.support.server import (
    DONE,
    MODEL,
    PREFIX,
    count_events,
    let_deadline_pass,
    let_lease_end,
    make_job,
    make_worker,
)

pytestmark = pytest.mark.anyio
FAILED = Failed("generation_failed", "not a number")


async def start(queue, worker="w1", **changes):
    """A running job, as its worker holds it."""
    await queue.submit(make_job(**changes))
    [job] = await queue.claim(worker, 1, 1, True)
    return job


async def beat(queue, job, step=1, *, is_renewed=True, worker="w1", attempt=None):
    progress = JobProgress(job.id, attempt or job.attempt, step, 20, is_renewed)
    return await queue.heartbeat(make_worker(worker), [progress])


@pytest.mark.parametrize("result", [DONE, FAILED, Cancelled("running"), Expired("running")])
async def test_a_finish_ends_the_job_once_with_one_event(queue, raw, result):
    job = await start(queue)

    assert await queue.finish(job.id, job.attempt, result)
    assert await queue.finish(job.id, job.attempt, result), "the same finish again, after a lost reply, is no refusal"
    assert not await queue.finish(job.id, job.attempt, Failed("other", "another end"))

    status = await queue.status(job.id, "ada")
    assert (status.state, status.result) == (result.state, result)
    assert status.finished_at >= status.started_at
    assert await count_events(raw) == {job.id: 1}


async def test_an_inbox_tells_each_end_to_a_reader_that_waits(queue):
    job = await start(queue)
    reading = asyncio.create_task(queue.read_inbox("gateway-1", "0", 5.0))
    await asyncio.sleep(0.05)
    await queue.finish(job.id, job.attempt, DONE)

    [event] = await reading
    assert event.job_id == job.id
    assert await queue.read_inbox("gateway-1", event.id, 0.01) == ()
    assert await queue.read_inbox("gateway-2", "0", 0.01) == ()


async def test_a_job_without_an_inbox_ends_without_an_event(queue, raw):
    job = await start(queue, inbox="")
    assert await queue.finish(job.id, job.attempt, DONE)
    assert [key async for key in raw.scan_iter(PREFIX + "inbox:*")] == []


async def test_an_ended_job_and_its_inbox_live_for_the_results_time(redis_url, raw):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(result_ttl_s=50))
    try:
        job = await start(queue)
        assert await raw.pttl(PREFIX + "job:" + job.id) == -1
        await queue.finish(job.id, job.attempt, DONE)
        assert 40_000 < await raw.pttl(PREFIX + "job:" + job.id) <= 50_000
        assert 40_000 < await raw.pttl(PREFIX + "inbox:gateway-1") <= 50_000
    finally:
        await queue.close()


async def test_a_finished_jobs_pictures_and_warnings_come_back_unchanged(queue):
    job = await start(queue)
    result = Done(DONE.images * 3, "ein Öl-Gemälde", "demo-1", 1.25, ("a sentence", "another"))
    await queue.finish(job.id, job.attempt, result)
    status = await queue.status(job.id, "ada")
    assert status.result == result
    assert (status.step, status.num_steps) == (19, 19)


async def test_a_worker_that_lost_its_job_is_refused_whatever_it_says(queue, raw):
    first = await start(queue)
    await let_lease_end(raw, first.id)
    await queue.reap()
    await asyncio.sleep(0.005)
    await queue.reap()
    [second] = await queue.claim("w2", 1, 1, True)
    assert (second.id, second.attempt) == (first.id, 2)

    assert not await queue.finish(first.id, first.attempt, DONE)
    assert not await queue.retry(first.id, first.attempt, FAILED)
    assert not await queue.release(first.id, first.attempt)
    assert (await beat(queue, first)).lost == (first.id,)

    assert (await queue.status(first.id, "ada")).state is JobState.RUNNING
    assert await queue.finish(second.id, second.attempt, DONE)
    assert await count_events(raw) == {first.id: 1}


async def test_a_finish_for_a_job_that_nobody_knows_is_refused(queue):
    assert not await queue.finish("0" * 32, 1, DONE)
    assert not await queue.retry("0" * 32, 1, FAILED)
    assert not await queue.release("0" * 32, 1)


async def test_cancelling_a_waiting_job_ends_it_at_once(queue, raw):
    job = make_job()
    await queue.submit(job)

    status = await queue.cancel(job.id, "ada")

    assert (status.state, status.result) == (JobState.CANCELLED, Cancelled("queued"))
    assert await queue.claim("w1", 1, 1, True) == ()
    assert await queue.cancel(job.id, "ada") == status
    assert await count_events(raw) == {job.id: 1}
    assert (await queue.stats()).waiting_cost == 0


async def test_cancelling_a_running_job_reaches_its_worker_with_the_next_heartbeat(queue, raw):
    job = await start(queue)

    assert (await queue.cancel(job.id, "ada")).state is JobState.RUNNING
    assert (await beat(queue, job)).cancelled == (job.id,)
    assert await queue.finish(job.id, job.attempt, Cancelled("running"))

    assert (await queue.status(job.id, "ada")).result == Cancelled("running")
    assert await count_events(raw) == {job.id: 1}


@pytest.mark.parametrize("way", ["retry", "release", "lost"])
async def test_a_cancelled_job_is_not_run_again(queue, raw, way):
    job = await start(queue)
    await queue.cancel(job.id, "ada")

    if way == "retry":
        assert await queue.retry(job.id, job.attempt, FAILED)
    elif way == "release":
        assert await queue.release(job.id, job.attempt)
    else:
        await let_lease_end(raw, job.id)
        assert (await queue.reap()).cancelled == 1

    assert (await queue.status(job.id, "ada")).result == Cancelled("running")
    assert await count_events(raw) == {job.id: 1}


async def test_cancel_races_finish_a_thousand_times_into_one_end_each(redis_url, raw):
    """Half of each crowd runs when the race begins, the other half is claimed and finished during it."""
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(capacity=1000))
    dice = random.Random(7)

    async def finish(job):
        await asyncio.sleep(0.01 * dice.random())
        assert await queue.finish(job.id, job.attempt, dice.choice([DONE, Cancelled("running")]))

    async def cancel(job):
        await asyncio.sleep(0.01 * dice.random())
        await queue.cancel(job.id, "ada")

    async def claim_and_finish():
        await asyncio.sleep(0.005)
        await asyncio.gather(*(finish(job) for job in await queue.claim("w1", 20, 20, False)))

    try:
        jobs = [make_job() for _ in range(1000)]
        for start in range(0, 1000, 40):
            crowd = jobs[start : start + 40]
            await asyncio.gather(*(queue.submit(job) for job in crowd))
            running = await queue.claim("w1", 20, 20, False)
            sides = [claim_and_finish(), *(finish(job) for job in running), *(cancel(job) for job in crowd)]
            dice.shuffle(sides)
            await asyncio.gather(*sides)

        async with raw.pipeline() as pipe:
            for job in jobs:
                pipe.hget(PREFIX + "job:" + job.id, "result")
            ends = Counter(decode_result(text) for text in await pipe.execute())
        assert set(ends) == {DONE, Cancelled("queued"), Cancelled("running")}
        assert min(ends.values()) > 20, f"the race was no race: {ends}"
        assert await count_events(raw) == {job.id: 1 for job in jobs}
    finally:
        await queue.close()


async def test_a_failing_job_is_tried_three_times_and_then_fails_with_its_last_error(queue, raw):
    job = make_job()
    await queue.submit(job)
    for attempt in (1, 2, 3):
        [claimed] = await queue.claim("w1", 8, 8, True)
        assert claimed.attempt == attempt
        assert await queue.retry(job.id, attempt, FAILED)
        assert await queue.retry(job.id, attempt, FAILED), "again, after a lost reply"
        await asyncio.sleep(0.005)
        await queue.reap()

    assert await queue.claim("w1", 8, 8, True) == ()
    assert (await queue.status(job.id, "ada")).result == FAILED
    assert await count_events(raw) == {job.id: 1}


async def test_a_retry_waits_out_its_delay(redis_url):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(retry_delay_s=0.3))
    try:
        job = await start(queue)
        await queue.retry(job.id, job.attempt, FAILED)

        assert (await queue.reap()).promoted == 0
        assert await queue.claim("w1", 8, 8, True) == ()
        stats = await queue.stats()
        assert (stats.num_waiting, stats.num_delayed) == (1, 1)
        status = await queue.status(job.id, "ada")
        assert (status.state, status.position) == (JobState.QUEUED, 0)

        await asyncio.sleep(0.31)
        assert (await queue.reap()).promoted == 1
        assert [claimed.id for claimed in await queue.claim("w1", 8, 8, True)] == [job.id]
    finally:
        await queue.close()


async def test_a_released_job_goes_to_the_front_and_has_used_no_attempt(queue):
    job = make_job()
    await queue.submit(job)
    others = [make_job(), make_job()]
    for other in others:
        await queue.submit(other)

    for attempt in range(1, 6):  # more often than a job may fail
        [claimed] = await queue.claim("w1", 1, 1, True)
        assert (claimed.id, claimed.attempt) == (job.id, attempt)
        assert await queue.release(job.id, attempt)

    assert (await queue.status(job.id, "ada")).position == 0
    together = await queue.claim("w1", 8, 8, False)
    assert [each.id for each in together] == [job.id, *(other.id for other in others)], "it is no suspect"


async def test_a_batch_that_is_released_keeps_its_order(queue):
    ids = []
    for _ in range(6):
        job = make_job()
        ids.append(job.id)
        await queue.submit(job)
    claimed = await queue.claim("w1", 3, 3, True)
    for job in reversed(claimed):
        assert await queue.release(job.id, job.attempt)

    assert [job.id for job in await queue.claim("w2", 6, 6, True)] == ids


async def test_a_heartbeat_stores_progress_and_the_workers_own_record(queue):
    job = await start(queue)
    worker = make_worker(rate_cost_per_s=2.5)

    reply = await queue.heartbeat(worker, [JobProgress(job.id, job.attempt, 13, 20, True)])

    assert (reply.cancelled, reply.expired, reply.lost) == ((), (), ())
    status = await queue.status(job.id, "ada")
    assert (status.step, status.num_steps) == (13, 20)
    assert await queue.workers() == (worker,)
    await queue.remove_worker("w1")
    assert await queue.workers() == ()


async def test_a_lease_is_renewed_only_where_the_worker_says_so(queue, raw):
    job = await start(queue)
    before = await raw.zscore(PREFIX + "leases", job.id)
    await asyncio.sleep(0.02)
    await beat(queue, job, is_renewed=False)
    assert await raw.zscore(PREFIX + "leases", job.id) == before
    await beat(queue, job, is_renewed=True)
    assert await raw.zscore(PREFIX + "leases", job.id) > before


async def test_a_heartbeat_tells_of_a_passed_deadline(queue, raw):
    job = await start(queue)
    await let_deadline_pass(raw, job.id)

    assert (await beat(queue, job)).expired == (job.id,)
    assert (await queue.reap()).expired == 1
    assert (await beat(queue, job)).expired == (job.id,), "also where the reaper was faster"
    assert await queue.finish(job.id, job.attempt, Expired("running")), "both say the same"
    assert await count_events(raw) == {job.id: 1}


async def test_a_silent_worker_is_no_longer_listed(redis_url, raw):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(lease_s=0.1))
    try:
        await queue.heartbeat(make_worker(), [])
        await asyncio.sleep(0.15)
        assert await queue.workers() == ()
        await queue.reap()
        assert await raw.hlen(PREFIX + "worker_records") == 0
    finally:
        await queue.close()
