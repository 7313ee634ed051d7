import asyncio
import time

import pytest

from service.errors import ConfigurationError, JobNotFound, QueueFull, ServerOverloaded
from service.jobs import JobState
from service.queue import JobQueue
from service.queue_types import QueueLimits
from tests.support.server import DONE, MODEL, make_job, make_worker

pytestmark = pytest.mark.anyio


async def test_an_accepted_job_waits_and_can_be_read_by_its_owner(queue):
    job = make_job()

    submitted = await queue.submit(job)
    status = await queue.status(job.id, "ada")

    assert (submitted.position, submitted.is_new) == (0, True)
    assert (status.job, status.state, status.position) == (job, JobState.QUEUED, 0)
    assert (status.step, status.num_steps, status.result) == (0, 19, None)
    assert abs(status.created_at - time.time()) < 60


async def test_anothers_job_and_an_unknown_job_are_both_not_found(queue):
    job = make_job()
    await queue.submit(job)

    for job_id, owner in [(job.id, "bob"), ("0" * 32, "ada")]:
        with pytest.raises(JobNotFound):
            await queue.status(job_id, owner)
        with pytest.raises(JobNotFound):
            await queue.cancel(job_id, owner)
    assert (await queue.status(job.id, "ada")).state is JobState.QUEUED


async def test_submitting_an_id_again_changes_nothing_whatever_the_jobs_state(queue):
    job = make_job()
    await queue.submit(make_job())

    assert (await queue.submit(job)).is_new
    again = await queue.submit(job)
    assert (again.position, again.is_new) == (1, False)
    assert (await queue.stats()).num_waiting == 2

    claimed = await queue.claim("w1", 8, 8, True)
    assert not (await queue.submit(job)).is_new
    for each in claimed:
        assert await queue.finish(each.id, each.attempt, DONE)
    assert not (await queue.submit(job)).is_new
    assert (await queue.status(job.id, "ada")).result == DONE
    assert await queue.claim("w1", 8, 8, True) == ()


async def test_one_id_submitted_by_many_at_once_is_accepted_once(queue):
    job = make_job()

    outcomes = await asyncio.gather(*(queue.submit(job) for _ in range(50)))

    assert sum(outcome.is_new for outcome in outcomes) == 1
    assert len(await queue.claim("w1", 8, 8, True)) == 1


async def test_a_full_queue_refuses_and_takes_no_more_than_its_capacity_from_a_crowd(redis_url):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(capacity=5))
    try:
        outcomes = await asyncio.gather(*(queue.submit(make_job()) for _ in range(40)), return_exceptions=True)

        assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 5
        refusals = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert {type(refusal) for refusal in refusals} == {QueueFull}
        assert {refusal.retry_after_s for refusal in refusals} == {5}  # nobody has measured a rate
        assert (await queue.stats()).num_waiting == 5
    finally:
        await queue.close()


async def test_retry_after_of_a_full_queue_is_its_backlog_over_the_workers_measured_rate(redis_url):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(capacity=4))
    try:
        for _ in range(4):
            await queue.submit(make_job(size=1000, steps=20))  # 19 forwards of two rows each: 38 megapixel-steps
        await queue.heartbeat(make_worker("w1", rate_cost_per_s=3.0), [])
        await queue.heartbeat(make_worker("w2", rate_cost_per_s=1.0), [])

        with pytest.raises(QueueFull) as refusal:
            await queue.submit(make_job())

        assert refusal.value.retry_after_s == 38
    finally:
        await queue.close()


async def test_a_refused_job_leaves_nothing_behind(redis_url, raw):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(capacity=1))
    try:
        await queue.submit(make_job())
        before = await raw.dbsize()
        refused = make_job()
        with pytest.raises(QueueFull):
            await queue.submit(refused)
        assert await raw.dbsize() == before
        with pytest.raises(JobNotFound):
            await queue.status(refused.id, "ada")
    finally:
        await queue.close()


async def test_stats_count_the_waiting_the_running_and_the_oldest_age(queue):
    stats = await queue.stats()
    assert (stats.num_waiting, stats.num_running, stats.oldest_age_s, stats.capacity) == (0, 0, 0.0, 100)

    first, second = make_job(steps=10), make_job(steps=30)
    await queue.submit(first)
    await asyncio.sleep(0.1)
    await queue.submit(second)
    stats = await queue.stats()
    assert stats.num_waiting == 2
    assert 0.1 <= stats.oldest_age_s < 10
    assert stats.waiting_cost == pytest.approx(first.cost + second.cost, abs=0.002)

    await queue.claim("w1", 1, 1, True)
    stats = await queue.stats()
    assert (stats.num_waiting, stats.num_running) == (1, 1)
    assert stats.waiting_cost == pytest.approx(second.cost, abs=0.001)


async def test_every_key_of_a_model_carries_its_hash_tag(queue, raw):
    job = make_job()
    await queue.submit(job)
    await queue.submit(make_job("bob"))
    await queue.heartbeat(make_worker(), [])
    [claimed] = await queue.claim("w1", 1, 1, True)
    await queue.finish(claimed.id, claimed.attempt, DONE)

    assert all(key.startswith("emmdit:{demo}:") for key in await raw.keys("*"))


@pytest.mark.parametrize("url", ["", "http://localhost", "localhost:6379", "redis://localhost:port"])
async def test_an_unusable_url_is_a_configuration_error(url):
    with pytest.raises(ConfigurationError):
        JobQueue.connect(url, model=MODEL, limits=QueueLimits())


async def test_a_model_name_that_breaks_the_hash_tag_is_a_configuration_error(redis_url):
    with pytest.raises(ConfigurationError):
        JobQueue.connect(redis_url, model="a}b", limits=QueueLimits())


async def test_a_server_that_is_not_there_costs_a_bounded_time_and_says_when_to_come_back(tmp_path):
    queue = JobQueue.connect(f"unix://{tmp_path}/none.sock", model=MODEL, limits=QueueLimits())
    try:
        for call in [
            queue.submit(make_job()),
            queue.status("x", "ada"),
            queue.claim("w1", 1, 1, True),
            queue.wait_for_work(0.1),
            queue.read_inbox("gateway-1", "0", 0.1),
            queue.ping(),
        ]:
            started_at = time.monotonic()
            with pytest.raises(ServerOverloaded) as refusal:
                await call
            assert refusal.value.retry_after_s
            assert time.monotonic() - started_at < 2.5
    finally:
        await queue.close()
