"""Two submits with one key are one job, whoever sends them, for as long as the key is remembered."""

import asyncio

import pytest

from service.errors import IdempotencyKeyReused, QueueFull
from service.jobs import JobState
from service.queue import JobQueue
from service.queue_types import IdempotencyKey, QueueLimits
from service.queues import Queues
from tests.support.server import DONE, MODEL, PREFIX, eventually, job_of, make_job

pytestmark = pytest.mark.anyio

KEY = IdempotencyKey("aa", "11")
OTHER_BODY = IdempotencyKey("aa", "22")
OTHER_KEY = IdempotencyKey("bb", "11")


async def test_a_second_submit_with_the_same_key_gives_the_first_job(queue):
    first, second = make_job(), make_job()
    assert (await queue.submit(first, KEY)).is_new
    again = await queue.submit(second, KEY)
    assert (again.is_new, again.earlier.job, again.earlier.state) == (False, first, JobState.QUEUED)
    assert (await queue.submit(first, KEY)).is_new is False  # its own repetition, after a lost reply
    assert (await queue.stats()).num_waiting == 1

    (claimed,) = await queue.claim("w1", 8, 8, True)
    await queue.finish(claimed.id, claimed.attempt, DONE)
    assert (await queue.submit(second, KEY)).earlier.result == DONE
    assert (await queue.submit(second, OTHER_KEY)).is_new


async def test_another_body_under_the_same_key_is_refused(queue):
    await queue.submit(make_job(), KEY)
    with pytest.raises(IdempotencyKeyReused):
        await queue.submit(make_job(), OTHER_BODY)
    with pytest.raises(IdempotencyKeyReused):
        await queue.keyed(OTHER_BODY, "ada")
    assert (await queue.stats()).num_waiting == 1


async def test_twenty_submits_with_one_key_from_two_gateways_are_one_job(redis_url):
    gateways = [JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits()) for _ in range(2)]
    try:
        jobs = [make_job() for _ in range(20)]
        outcomes = await asyncio.gather(*(gateways[i % 2].submit(job, KEY) for i, job in enumerate(jobs)))
        (accepted,) = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.is_new]
        assert {outcome.earlier.job.id for outcome in outcomes if not outcome.is_new} == {accepted.id}
        assert (await gateways[0].stats()).num_waiting == 1
    finally:
        for gateway in gateways:
            await gateway.close()


async def test_a_key_whose_job_is_past_its_time_gets_one_new_job_from_a_crowd(queue, raw):
    first = make_job()
    await queue.submit(first, KEY)
    await queue.cancel(first.id, "ada")
    await raw.delete(PREFIX + "job:" + first.id)
    assert await queue.keyed(KEY, "ada") is None
    with pytest.raises(IdempotencyKeyReused):
        await queue.submit(make_job(), OTHER_BODY)

    outcomes = await asyncio.gather(*(queue.submit(make_job(), KEY) for _ in range(20)))
    assert sum(outcome.is_new for outcome in outcomes) == 1
    assert (await queue.stats()).num_waiting == 1


async def test_a_key_is_remembered_for_its_time_from_the_last_accepted_job(redis_url, raw):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(idempotency_ttl_s=0.3))
    try:
        await queue.submit(make_job(), KEY)
        assert 0 < await raw.pttl(PREFIX + "idempotency:aa") <= 300

        async def is_forgotten():
            return not await raw.exists(PREFIX + "idempotency:aa")

        await eventually(is_forgotten)
        assert (await queue.submit(make_job(), OTHER_BODY)).is_new
    finally:
        await queue.close()


async def test_a_refused_job_leaves_its_key_free_and_a_full_queue_refuses_no_repetition(redis_url):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(capacity=1))
    try:
        first = make_job()
        await queue.submit(first, KEY)
        with pytest.raises(QueueFull):
            await queue.submit(make_job(), OTHER_KEY)
        assert (await queue.submit(make_job(), KEY)).earlier.job == first
        await queue.cancel(first.id, "ada")
        assert (await queue.submit(make_job(), OTHER_KEY)).is_new
    finally:
        await queue.close()


async def test_a_key_is_found_whichever_model_its_job_is_of(redis_url):
    queues = Queues.connect(redis_url, models=[MODEL, "few"], limits=QueueLimits())
    try:
        job = job_of("few")
        await queues["few"].submit(job, KEY)
        assert (await queues.keyed(KEY, "ada")).job == job
        assert await queues.keyed(OTHER_KEY, "ada") is None
        with pytest.raises(IdempotencyKeyReused):
            await queues.keyed(OTHER_BODY, "ada")
    finally:
        await queues.close()
