import asyncio

import pytest

from service.jobs import Expired, JobState
from service.queue import JobQueue
from service.queue_types import QueueLimits, ReapReport
from tests.support.server import (
    DONE,
    MODEL,
    PREFIX,
    count_events,
    eventually,
    in_crowds,
    let_deadline_pass,
    let_lease_end,
    make_job,
)

pytestmark = pytest.mark.anyio


async def test_a_reap_of_a_healthy_queue_moves_nothing(queue):
    for _ in range(5):
        await queue.submit(make_job())
    await queue.claim("w1", 2, 2, True)
    assert await queue.reap() == ReapReport()
    assert (await queue.stats()).num_running == 2


async def test_a_lost_workers_jobs_run_again_each_alone(redis_url):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(lease_s=0.2, retry_delay_s=0.0))
    try:
        ids = []
        for _ in range(3):
            job = make_job()
            ids.append(job.id)
            await queue.submit(job)
        assert len(await queue.claim("killed", 8, 8, True)) == 3

        async def claim_again():
            await queue.reap()
            return await queue.claim("w2", 8, 8, True)

        for job_id in ids:
            [job] = await eventually(claim_again)
            assert (job.id, job.attempt) == (job_id, 2)
            assert await queue.finish(job.id, job.attempt, DONE)
    finally:
        await queue.close()


async def test_a_poisonous_job_fails_after_three_lost_workers_and_its_neighbours_are_done(queue, raw):
    poison, *neighbours = [make_job() for _ in range(4)]
    for job in (poison, *neighbours):
        await queue.submit(job)

    num_killed = 0
    while claimed := await queue.claim(f"w{num_killed}", 8, 8, True):
        if poison.id in {job.id for job in claimed}:
            num_killed += 1  # the worker dies with everything it holds
            for job in claimed:
                await let_lease_end(raw, job.id)
        else:
            for job in claimed:
                assert await queue.finish(job.id, job.attempt, DONE)
        await queue.reap()
        await asyncio.sleep(0.005)
        await queue.reap()

    assert num_killed == 3
    status = await queue.status(poison.id, "ada")
    assert (status.state, status.result.code) == (JobState.FAILED, "worker_lost")
    assert [(await queue.status(job.id, "ada")).state for job in neighbours] == [JobState.DONE] * 3
    assert set((await count_events(raw)).values()) == {1}


async def test_a_running_job_without_a_lease_is_found(queue, raw):
    job = make_job()
    await queue.submit(job)
    await queue.claim("w1", 1, 1, True)
    await raw.zrem(PREFIX + "leases", job.id)

    assert (await queue.reap()).requeued == 1
    await asyncio.sleep(0.005)
    assert (await queue.reap()).promoted == 1
    assert [job.id for job in await queue.claim("w2", 1, 1, True)] == [job.id]


async def test_a_leased_job_missing_among_the_running_is_put_back_there(queue, raw):
    job = make_job()
    await queue.submit(job)
    [claimed] = await queue.claim("w1", 1, 1, True)
    await raw.delete(PREFIX + "running")

    assert await queue.reap() == ReapReport()
    assert (await queue.stats()).num_running == 1
    assert await queue.finish(job.id, claimed.attempt, DONE)
    assert await count_events(raw) == {job.id: 1}


async def test_a_waiting_job_that_fell_out_of_the_queue_is_put_back(queue, raw):
    first, second = make_job(), make_job()
    await queue.submit(first)
    await queue.submit(second)
    await raw.zrem(PREFIX + "queue", first.id)

    assert (await queue.reap()).promoted == 1
    assert [job.id for job in await queue.claim("w1", 2, 2, True)] == [first.id, second.id]


async def test_a_queued_job_that_nobody_counts_is_counted_again(queue, raw):
    job = make_job()
    await queue.submit(job)
    await raw.delete(PREFIX + "waiting")
    await raw.hset(PREFIX + "totals", "waiting_cost", 0)

    await queue.reap()

    stats = await queue.stats()
    assert (stats.num_waiting, stats.waiting_cost) == (1, pytest.approx(job.cost, abs=0.001))


async def test_traces_of_a_job_whose_record_is_gone_are_cleared(queue, raw):
    running, waiting, good = make_job(), make_job(), make_job()
    await queue.submit(running)
    await queue.claim("w1", 1, 1, True)
    await queue.submit(waiting)
    await queue.submit(good)
    await raw.delete(PREFIX + "job:" + running.id, PREFIX + "job:" + waiting.id)

    assert [job.id for job in await queue.claim("w2", 2, 2, True)] == [good.id]
    await let_lease_end(raw, running.id)
    await queue.reap()

    stats = await queue.stats()
    assert (stats.num_waiting, stats.num_running) == (0, 1)
    assert await raw.hlen(PREFIX + "inboxes") == 1


async def test_a_deadline_is_kept_in_the_queue_in_a_delay_and_on_the_device(redis_url, raw):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(retry_delay_s=60))
    try:
        delayed, running, waiting = make_job(), make_job(), make_job()
        await queue.submit(delayed)
        [claimed] = await queue.claim("w1", 1, 1, True)
        await let_lease_end(raw, delayed.id)
        assert (await queue.reap()).requeued == 1
        await queue.submit(running)
        [claimed] = await queue.claim("w1", 1, 1, True)
        await queue.submit(waiting)
        for job in (delayed, running, waiting):
            await let_deadline_pass(raw, job.id)

        assert (await queue.reap()).expired == 3

        results = [(await queue.status(job.id, "ada")).result for job in (delayed, running, waiting)]
        assert results == [Expired("queued"), Expired("running"), Expired("queued")]
        assert not await queue.finish(running.id, claimed.attempt, DONE)
        assert await count_events(raw) == dict.fromkeys([delayed.id, running.id, waiting.id], 1)
        assert (await queue.stats()).waiting_cost == 0
    finally:
        await queue.close()


async def test_a_real_deadline_passes_on_the_servers_clock(queue):
    job = make_job(timeout_s=0.05)
    await queue.submit(job)

    async def has_expired():
        await queue.reap()
        return (await queue.status(job.id, "ada")).state is JobState.EXPIRED

    await eventually(has_expired)


async def test_many_due_jobs_are_reaped_at_once_and_by_several_reapers(redis_url, raw):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(capacity=500))
    try:
        jobs = [make_job() for _ in range(350)]
        await in_crowds([queue.submit(job) for job in jobs])
        await in_crowds([let_deadline_pass(raw, job.id) for job in jobs])

        reports = await asyncio.gather(*(queue.reap() for _ in range(3)))

        assert sum(report.expired for report in reports) == 350
        assert await count_events(raw) == {job.id: 1 for job in jobs}
    finally:
        await queue.close()
