"""A tenant's own jobs, newest first, over models and pages; nobody else's, and none that are gone."""

import asyncio
from dataclasses import replace

import pytest

from service.errors import JobNotFound
from service.jobs import CODEC_VERSION, JobState
from service.queue import JobQueue
from service.queue_types import QueueLimits
from service.queues import Queues
from tests.support.server import DONE, MODEL, PREFIX, job_of, make_job, submit_all

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queues(redis_url, anyio_backend):
    queues = Queues.connect(redis_url, models=[MODEL, "few"], limits=QueueLimits())
    yield queues
    await queues.close()


async def ids_of(queues, owner="ada", **page):
    jobs, _ = await queues.jobs(owner, **({"limit": 100} | page))
    return [status.job.id for status in jobs]


async def submit_apart(queues, jobs):
    """Each in a millisecond of its own, so that the order is known."""
    for job in jobs:
        await queues[job.model].submit(job)
        await asyncio.sleep(0.002)
    return [job.id for job in reversed(jobs)]


async def test_jobs_of_all_models_come_newest_first_and_of_one_owner_only(queues):
    ids = await submit_apart(queues, [job_of(model) for model in (MODEL, "few", "few", MODEL, "few")])
    (other,) = await submit_apart(queues, [make_job("bob")])
    assert await ids_of(queues) == ids
    assert await ids_of(queues, "bob") == [other]
    assert await ids_of(queues, "eve") == []


async def test_pages_follow_one_another_without_gap_or_repetition_also_where_jobs_came_in_one_millisecond(queues):
    jobs = [job_of(model) for model in (MODEL, "few") for _ in range(15)]
    await asyncio.gather(*(queues[job.model].submit(job) for job in jobs))
    seen, after, has_more = [], None, True
    while has_more:
        page, has_more = await queues.jobs("ada", limit=4, after=after)
        assert len(page) == 4 or not has_more
        seen += [status.job.id for status in page]
        after = seen[-1]
    assert len(seen) == 30
    assert set(seen) == {job.id for job in jobs}
    assert seen == await ids_of(queues)
    assert await queues.jobs("ada", limit=4, after=after) == ([], False)


async def test_a_page_can_not_begin_after_a_job_that_is_gone_or_somebody_elses(queues):
    (other,) = await submit_apart(queues, [make_job("bob")])
    for after in (other, "0" * 32):
        with pytest.raises(JobNotFound):
            await queues.jobs("ada", limit=4, after=after)


async def test_a_state_can_be_named(queues):
    queue = queues[MODEL]
    first, second, third = [make_job() for _ in range(3)]
    await submit_apart(queues, [first, second, third])
    (running,) = await queue.claim("w1", 1, 1, True)
    await queue.finish(running.id, running.attempt, DONE)
    await queue.cancel(third.id, "ada")
    for state, job in ((JobState.DONE, first), (JobState.QUEUED, second), (JobState.CANCELLED, third)):
        assert await ids_of(queues, state=state) == [job.id]
    assert await ids_of(queues, state=JobState.FAILED) == []
    page, has_more = await queues.jobs("ada", limit=1, state=JobState.QUEUED)
    assert (page[0].position, has_more) == (0, False)


async def test_jobs_that_are_gone_vanish_by_themselves(queues, raw):
    kept, gone = await submit_apart(queues, [make_job(), make_job()])
    await raw.delete(PREFIX + "job:" + gone)
    assert await ids_of(queues) == [kept]
    assert await raw.zrange(PREFIX + "owner_jobs:ada", 0, -1) == [kept]


async def test_a_job_of_another_version_hides_no_other(queues, raw):
    unreadable, readable = await submit_apart(queues, [make_job(), make_job()])
    text = await raw.hget(PREFIX + "job:" + unreadable, "job")
    await raw.hset(PREFIX + "job:" + unreadable, "job", text.replace(f'"v":{CODEC_VERSION}', '"v":99'))
    assert await ids_of(queues) == [readable]


async def test_the_index_lives_as_long_as_the_longest_job_in_it_can_be_read(redis_url, raw):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(result_ttl_s=100))
    try:
        for timeout_s, total_s in ((10.0, 110), (50.5, 150.5), (20.0, 150.5)):
            await queue.submit(make_job(timeout_s=timeout_s))
            assert await raw.pttl(PREFIX + "owner_jobs:ada") == pytest.approx(total_s * 1000, abs=5000)
    finally:
        await queue.close()


async def test_the_index_is_bounded_and_drops_the_oldest(redis_url, raw):
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(capacity=2000))
    try:
        old = {f"old-{number}": number for number in range(1100)}
        await raw.zadd(PREFIX + "owner_jobs:ada", old)
        job = make_job()
        await queue.submit(job)
        assert await raw.zcard(PREFIX + "owner_jobs:ada") == 1000
        assert await raw.zrange(PREFIX + "owner_jobs:ada", -2, -1) == ["old-1099", job.id]
        assert [status.job.id for status in await queue.owned.newest("ada", limit=10)] == [job.id]
        assert await raw.zcard(PREFIX + "owner_jobs:ada") == 1
    finally:
        await queue.close()


async def test_an_owner_s_name_can_be_anything(queues):
    jobs = [replace(make_job(), owner=owner) for owner in ("a}b", "{x}", "a:b c\n", "ü", "")]
    await submit_all(queues[MODEL], jobs)
    for job in jobs:
        assert await ids_of(queues, job.owner) == [job.id]


async def test_jobs_are_read_by_their_ids_in_order_and_only_ones_own(queues, raw):
    first, second, unreadable = await submit_all(queues[MODEL], [make_job() for _ in range(3)])
    (other,) = await submit_all(queues[MODEL], [make_job("bob")])
    await raw.hset(PREFIX + "job:" + unreadable, "job", "{}")
    found = await queues[MODEL].owned.read("ada", [second, other, "0" * 32, unreadable, first])
    assert [status and status.job.id for status in found] == [second, None, None, None, first]
    assert found[4].position < found[0].position  # bob's first is as early as ada's: either may be before the other
