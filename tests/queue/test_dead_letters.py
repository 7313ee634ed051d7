"""Jobs that failed for good: kept, found, put back, dropped. Beside them tests/queue/test_state_machine.py."""

import asyncio

import pytest

from service.errors import JobNotFound, QueueFull
from service.jobs import Cancelled, Failed, JobState
from service.queue import JobQueue
from service.queue_types import JobProgress, QueueLimits
from tests.support.server import (
    DONE,
    MODEL,
    PREFIX,
    count_events,
    eventually,
    let_lease_end,
    make_job,
    make_worker,
)

pytestmark = pytest.mark.anyio
FAILED = Failed("storage_failed", "the disk is full")


async def fail(queue, worker="w1", **changes):
    """A job that failed for good; in a queue in which nothing else waits."""
    await queue.submit(make_job(**changes))
    [job] = await queue.claim(worker, 1, 1, True)
    assert await queue.finish(job.id, job.attempt, FAILED)
    return job


async def claim_when_due(queue):
    """The next job, which may have to sit out its delay first."""

    async def claim():
        await queue.reap()
        return await queue.claim("w1", 1, 1, True)

    [job] = await eventually(claim)
    return job


def queue_with(redis_url, **limits):
    return JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(retry_delay_s=0, **limits))


async def test_a_job_that_fails_for_good_is_kept_with_its_reason_and_its_recipe(queue):
    job = await fail(queue, prompt="a red apple, peeled")
    [letter] = await queue.dead.newest(10)
    assert letter == await queue.dead.find(job.id)
    assert (letter.id, letter.owner, letter.failure, letter.attempts) == (job.id, "ada", FAILED, 1)
    assert letter.job == job
    assert letter.accepted_at <= letter.failed_at
    assert (await queue.stats()).num_dead_letters == 1


async def test_after_the_last_attempt_that_failed_or_was_lost_a_job_is_kept(redis_url, raw):
    queue = queue_with(redis_url, max_attempts=2)
    for name in "ab":
        await queue.submit(make_job(id=name * 32))
        for _ in range(2):
            job = await claim_when_due(queue)
            if name == "a":
                await queue.retry(job.id, job.attempt, FAILED)
            else:
                await let_lease_end(raw, job.id)
                await queue.reap()
    found = {letter.id[0]: (letter.failure.code, letter.attempts) for letter in await queue.dead.newest(10)}
    assert found == {"a": ("storage_failed", 2), "b": ("worker_lost", 2)}
    await queue.close()


@pytest.mark.parametrize("result", [DONE, Cancelled("running")])
async def test_other_ends_are_no_dead_letters(queue, result):
    await queue.submit(make_job())
    [job] = await queue.claim("w1", 1, 1, True)
    await queue.finish(job.id, job.attempt, result)
    assert await queue.dead.newest(10) == []
    with pytest.raises(JobNotFound):
        await queue.dead.find(job.id)


async def test_the_last_so_many_are_kept_for_their_time(redis_url, raw):
    queue = queue_with(redis_url, max_dead_letters=3)
    jobs = []
    for _ in range(5):
        jobs.append(await fail(queue))
        await asyncio.sleep(0.002)  # another millisecond: what is older must be told
    kept = {letter.id for letter in await queue.dead.newest(10)}
    assert kept == {job.id for job in jobs[2:]}
    assert await raw.hlen(PREFIX + "dead_letters") == 3
    await raw.zadd(PREFIX + "dead", {jobs[2].id: 1, jobs[3].id: 2})
    await queue.reap()
    assert [letter.id for letter in await queue.dead.newest(10)] == [jobs[4].id]
    assert await raw.hlen(PREFIX + "dead_letters") == 1
    await queue.close()

    none = queue_with(redis_url, max_dead_letters=0)
    await fail(none)
    assert await none.dead.newest(10) == []
    await none.close()


async def test_more_than_a_page_of_them_is_read_newest_first(queue, raw):
    jobs = [await fail(queue) for _ in range(3)]
    text = await raw.hget(PREFIX + "dead_letters", jobs[0].id)
    many = {f"{number:032}": number for number in range(150)}
    await raw.hset(PREFIX + "dead_letters", mapping=dict.fromkeys(many, text))
    await raw.zadd(PREFIX + "dead", many)
    assert len(await queue.dead.newest(1000)) == 153
    assert [letter.id for letter in await queue.dead.newest(120)][3:5] == [f"{149:032}", f"{148:032}"]


@pytest.mark.parametrize("has_expired", [False, True], ids=["while it can be read", "past its time"])
async def test_a_dead_letter_is_accepted_again_as_it_was_with_its_whole_time_and_all_attempts(queue, raw, has_expired):
    job = await fail(queue)
    if has_expired:
        await raw.delete(PREFIX + "job:" + job.id, PREFIX + "owner_jobs:ada")
    await queue.dead.requeue(job.id)

    status = await queue.status(job.id, "ada")
    assert (status.state, status.step, status.result, status.started_at, status.finished_at) == (
        JobState.QUEUED, 0, None, None, None
    )  # fmt: skip
    assert status.job.params == job.params
    assert await raw.ttl(PREFIX + "job:" + job.id) == -1
    assert [found.job.id for found in await queue.owned.newest("ada", limit=10)] == [job.id]
    left_s = float(await raw.zscore(PREFIX + "deadlines", job.id)) / 1000 - status.created_at
    assert left_s == pytest.approx(job.timeout_s)
    assert await queue.dead.newest(10) == []

    [again] = await queue.claim("w2", 1, 1, True)
    assert (again.id, again.attempt) == (job.id, job.attempt + 1)
    assert await queue.finish(again.id, again.attempt, DONE)
    assert await count_events(raw) == {job.id: 2}, "each time that it was accepted it ends once"


async def test_whoever_held_it_before_stays_fenced_off(queue):
    job = await fail(queue)
    await queue.dead.requeue(job.id)
    [again] = await queue.claim("w2", 1, 1, True)
    assert not await queue.finish(job.id, job.attempt, DONE)
    assert not await queue.retry(job.id, job.attempt, FAILED)
    assert (await queue.heartbeat(make_worker(), [JobProgress(job.id, job.attempt, 1, 20)])).lost == (job.id,)
    assert await queue.finish(job.id, again.attempt, DONE)


async def test_it_runs_alone_since_it_may_take_others_along(queue):
    job = await fail(queue)
    await queue.submit(make_job("bob"))
    await queue.dead.requeue(job.id)
    assert [claimed.id for claimed in await queue.claim("w1", 9, 9, False)] != [job.id]
    assert await queue.claim("w1", 9, 9, False) == ()
    [alone] = await queue.claim("w2", 9, 9, True)
    assert alone.id == job.id


async def test_it_fails_for_good_again_and_is_kept_again(redis_url):
    queue = queue_with(redis_url, max_attempts=2)
    job = await fail(queue)
    await queue.dead.requeue(job.id)
    for _ in range(2):
        again = await claim_when_due(queue)
        await queue.retry(again.id, again.attempt, FAILED)
    [letter] = await queue.dead.newest(10)
    assert (letter.id, letter.attempts) == (job.id, 2)
    await queue.close()


async def test_ten_operators_at_once_put_it_back_once(queue):
    job = await fail(queue)
    outcomes = await asyncio.gather(*(queue.dead.requeue(job.id) for _ in range(10)), return_exceptions=True)
    assert sorted(map(repr, outcomes)).count("None") == 1
    assert sum(isinstance(outcome, JobNotFound) for outcome in outcomes) == 9
    assert (await queue.stats()).num_waiting == 1


async def test_a_full_queue_takes_none_back(redis_url):
    queue = queue_with(redis_url, capacity=1)
    job = await fail(queue)
    await queue.submit(make_job())
    with pytest.raises(QueueFull):
        await queue.dead.requeue(job.id)
    assert (await queue.dead.find(job.id)).id == job.id
    await queue.close()


async def test_a_job_that_lives_is_not_put_back(queue, raw):
    job = await fail(queue)
    text = await raw.hget(PREFIX + "dead_letters", job.id)
    await queue.dead.requeue(job.id)
    await raw.hset(PREFIX + "dead_letters", job.id, text)  # what no script leaves behind
    with pytest.raises(JobNotFound):
        await queue.dead.requeue(job.id)
    assert (await queue.stats()).num_waiting == 1


async def test_one_that_is_dropped_is_forgotten_here_and_can_be_read_up_to_its_own_time(queue, raw):
    job = await fail(queue)
    await queue.dead.drop(job.id)
    assert await raw.hlen(PREFIX + "dead_letters") == await raw.zcard(PREFIX + "dead") == 0
    assert (await queue.status(job.id, "ada")).state is JobState.FAILED
    for act in (queue.dead.drop, queue.dead.requeue, queue.dead.find):
        with pytest.raises(JobNotFound):
            await act(job.id)


async def test_what_another_version_wrote_is_kept_and_put_back_unread(queue, raw):
    job = await fail(queue)
    text = await raw.hget(PREFIX + "dead_letters", job.id)
    await raw.hset(PREFIX + "dead_letters", job.id, text.replace('\\"v\\":1', '\\"v\\":99'))
    [letter] = await queue.dead.newest(10)
    assert (letter.job, letter.owner, letter.failure.code) == (None, "ada", "unreadable_result")
    await queue.dead.requeue(job.id)
    assert (await queue.stats()).num_waiting == 1
