import asyncio
import json
import time

import pytest

from service.jobs import Failed, JobState, Priority
from service.queue import JobQueue
from service.queue_types import QueueLimits
from tests.support.server import DONE, MODEL, PREFIX, count_events, let_deadline_pass, make_job, submit_all

pytestmark = pytest.mark.anyio
OOM = Failed("generation_failed", "out of memory")


async def claim_ids(queue, count, worker="w1", is_idle=True):
    return [job.id for job in await queue.claim(worker, count, 1000, is_idle)]


async def make_retried(queue, **changes):
    """A job that has lost its first attempt and waits at the head of the queue."""
    job = make_job(**changes)
    await queue.submit(job)
    [claimed] = await queue.claim("w0", 1, 1, True)
    assert claimed.id == job.id
    assert await queue.retry(job.id, claimed.attempt, OOM)
    await asyncio.sleep(0.005)
    await queue.reap()
    return job


async def test_one_tenants_jobs_run_in_the_order_of_their_coming(queue):
    ids = await submit_all(queue, [make_job(steps=1 + 7 * i % 5) for i in range(12)])

    assert await claim_ids(queue, 5) == ids[:5]
    assert await claim_ids(queue, 100) == ids[5:]
    assert await claim_ids(queue, 100) == []


async def test_a_claim_counts_the_attempt_and_starts_the_job(queue):
    job = make_job(prompt='a "red" äpple \U0001f34e', timeout_s=30)
    await queue.submit(job)

    [claimed] = await queue.claim("w1", 8, 8, True)

    assert claimed.attempt == 1
    assert claimed.params == job.params
    status = await queue.status(job.id, "ada")
    assert (status.state, status.position) == (JobState.RUNNING, None)
    assert status.started_at >= status.created_at


async def test_a_higher_priority_runs_first(queue):
    low, normal, high = (make_job(priority=priority) for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH))
    await submit_all(queue, [low, normal, high])

    assert (await queue.status(low.id, "ada")).position == 2
    assert await claim_ids(queue, 3) == [high.id, normal.id, low.id]


async def test_a_tenant_with_a_long_queue_does_not_hold_up_another(queue):
    await submit_all(queue, [make_job("ada") for _ in range(20)])
    bobs = await submit_all(queue, [make_job("bob") for _ in range(3)])

    first_eight = await claim_ids(queue, 8)

    assert set(bobs) <= set(first_eight)


async def test_tenants_share_by_cost_and_not_by_number_of_jobs(queue):
    await submit_all(queue, [make_job("cheap", steps=5) for _ in range(40)])
    await submit_all(queue, [make_job("dear", steps=20) for _ in range(40)])

    served = {"cheap": 0.0, "dear": 0.0}
    for _ in range(25):
        for job in await queue.claim("w1", 1, 1, True):
            served[job.owner] += job.cost

    assert served["cheap"] == pytest.approx(served["dear"], rel=0.25)


async def test_a_tenant_that_comes_back_owes_nothing_for_the_past_and_has_saved_nothing_up(queue):
    await submit_all(queue, [make_job("ada") for _ in range(10)])
    await claim_ids(queue, 9)  # ada was alone: nobody was kept waiting
    await submit_all(queue, [make_job("bob") for _ in range(10)])
    await submit_all(queue, [make_job("ada") for _ in range(10)])

    owners = [job.owner for job in await queue.claim("w1", 10, 10, False)]

    assert 4 <= owners.count("ada") <= 6


async def test_a_cancelled_job_is_not_charged_to_its_tenant(queue):
    await submit_all(queue, [make_job("bob") for _ in range(6)])
    cancelled = await submit_all(queue, [make_job("ada", steps=1000) for _ in range(3)])
    for job_id in cancelled:
        await queue.cancel(job_id, "ada")
    [job_id] = await submit_all(queue, [make_job("ada")])

    assert job_id in await claim_ids(queue, 2)


async def test_cancelling_a_retried_job_does_not_touch_its_tenants_place(queue, raw):
    """Found by the state machine: a class that empties starts its tags again, so two jobs may carry the same one."""
    retried = make_job()
    await queue.submit(retried)
    [claimed] = await queue.claim("w1", 1, 1, True)
    await queue.retry(retried.id, claimed.attempt, OOM)
    ids = await submit_all(queue, [make_job()])
    await queue.cancel(retried.id, "ada")
    ids += await submit_all(queue, [make_job(), make_job()])

    assert await raw.zcard(PREFIX + "tenant_jobs") == 3
    assert await claim_ids(queue, 10) == ids


async def test_cancelling_in_the_middle_keeps_a_tenants_order(queue):
    ids = await submit_all(queue, [make_job() for _ in range(6)])
    for job_id in ids[:3]:
        await queue.cancel(job_id, "ada")
    ids += await submit_all(queue, [make_job() for _ in range(3)])

    assert await claim_ids(queue, 10) == ids[3:]


async def test_jobs_are_handed_out_while_rows_are_left(queue):
    ids = await submit_all(queue, [make_job(num_images=count) for count in (3, 4, 5, 1)])

    assert [job.id for job in await queue.claim("w1", 8, 8, True)] == ids[:3]
    assert [job.id for job in await queue.claim("w1", 8, 8, False)] == ids[3:]


async def test_two_workers_never_get_the_same_job(queue):
    ids = await submit_all(queue, [make_job() for _ in range(60)])

    claims = await asyncio.gather(*(queue.claim(f"w{i}", 4, 4, True) for i in range(20)))

    assert sorted(job.id for claim in claims for job in claim) == sorted(ids)


async def test_a_job_past_its_deadline_expires_at_the_claim_and_the_next_one_is_handed_out(queue, raw):
    late = await submit_all(queue, [make_job() for _ in range(30)])
    good = make_job()
    await queue.submit(good)
    for job_id in late:
        await let_deadline_pass(raw, job_id)

    assert await claim_ids(queue, 1) == [good.id]

    status = await queue.status(late[0], "ada")
    assert (status.state, status.result.phase) == (JobState.EXPIRED, "queued")
    assert await count_events(raw) == dict.fromkeys(late, 1)


async def test_a_retried_job_is_handed_out_alone_and_to_an_idle_worker_only(queue):
    retried = await make_retried(queue)
    neighbours = await submit_all(queue, [make_job() for _ in range(2)])

    assert await claim_ids(queue, 8, is_idle=False) == []
    [claimed] = await queue.claim("w1", 8, 8, True)
    assert (claimed.id, claimed.attempt) == (retried.id, 2)
    assert await claim_ids(queue, 8, is_idle=False) == [], "nothing joins a retried job"
    assert await claim_ids(queue, 8, worker="w2") == neighbours, "another worker is free to go on"

    assert await queue.finish(retried.id, 2, DONE)
    more = await submit_all(queue, [make_job()])
    assert await claim_ids(queue, 8, is_idle=False) == more


async def test_a_claim_stops_before_a_retried_job_so_that_the_worker_runs_dry(queue):
    first = make_job("ada", priority=Priority.HIGH)
    retried = await make_retried(queue)
    await queue.submit(first)
    await queue.submit(make_job())

    assert await claim_ids(queue, 8) == [first.id]
    assert await claim_ids(queue, 8, is_idle=False) == []
    assert await claim_ids(queue, 8, is_idle=True) == [retried.id]


async def test_a_worker_that_never_heard_of_its_lone_job_may_claim_again(queue):
    await make_retried(queue)
    assert len(await claim_ids(queue, 8)) == 1  # suppose the reply was lost: the worker believes itself idle
    ids = await submit_all(queue, [make_job()])

    assert await claim_ids(queue, 8, is_idle=True) == ids


async def test_a_job_of_another_codec_version_fails_after_its_attempts_and_harms_nobody(queue, raw):
    job, good = make_job(), make_job()
    await submit_all(queue, [job, good])
    stored = json.loads(await raw.hget(PREFIX + "job:" + job.id, "job")) | {"v": 99}
    await raw.hset(PREFIX + "job:" + job.id, "job", json.dumps(stored))

    assert await claim_ids(queue, 8) == [good.id]
    for _ in range(2):
        await asyncio.sleep(0.005)
        await queue.reap()
        assert await claim_ids(queue, 8) == []
    assert await raw.hget(PREFIX + "job:" + job.id, "state") == "failed"


async def test_an_idle_worker_is_woken_by_a_submit(queue):
    async def wait():
        started_at = time.monotonic()
        await queue.wait_for_work(5.0)
        return time.monotonic() - started_at

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0.05)
    await queue.submit(make_job())
    assert await waiting < 3


async def test_two_submits_wake_two_idle_workers(queue):
    waiting = [asyncio.create_task(queue.wait_for_work(5.0)) for _ in range(2)]
    await asyncio.sleep(0.05)
    await asyncio.gather(queue.submit(make_job()), queue.submit(make_job()))
    async with asyncio.timeout(3):
        await asyncio.gather(*waiting)


async def test_who_is_woken_by_an_arrival_claims_it_without_looking_first(queue, monkeypatch):
    asked, run = [], queue._run

    async def noted(name, *arguments):
        asked.append(name)
        return await run(name, *arguments)

    monkeypatch.setattr(queue, "_run", noted)
    job = make_job()
    await queue.submit(job)
    await queue.wait_for_work(1)
    assert [found.id for found in await queue.claim("w1", 1, 1, is_idle=True)] == [job.id]
    assert asked == ["submit", "claim"]
    assert await queue.claim("w1", 1, 1, is_idle=False) == ()
    assert asked[2:] == ["peek"]


async def test_who_is_woken_by_an_arrival_that_another_has_taken_gets_what_is_there(queue):
    taken, there = make_job(), make_job()
    await queue.submit(taken)
    await queue.wait_for_work(1)
    other = queue.of_model(MODEL)
    assert [found.id for found in await other.claim("w2", 1, 1, is_idle=True)] == [taken.id]
    await queue.submit(there)
    assert [found.id for found in await queue.claim("w1", 4, 4, is_idle=True)] == [there.id]


async def test_the_wake_list_is_bounded_and_emptied_with_the_queue(queue, raw):
    await submit_all(queue, [make_job() for _ in range(90)])
    assert await raw.llen(PREFIX + "wake") == 64

    await claim_ids(queue, 100)

    assert await raw.llen(PREFIX + "wake") == 0


async def test_tags_of_tenants_that_are_served_do_not_pile_up(redis_url, raw):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(capacity=1000))
    try:
        await queue.submit(make_job("keeps-the-queue-filled", priority=Priority.LOW))
        for i in range(100):
            await queue.submit(make_job(f"tenant-{i}"))
            await claim_ids(queue, 1, is_idle=False)
        assert await raw.zcard(PREFIX + "finish_tags") < 10
        assert await raw.zcard(PREFIX + "tenant_jobs") == 1
    finally:
        await queue.close()
