"""The queues of several models on one server: fair parts, retried jobs alone, one wait for all."""

import asyncio
import time

import pytest

from service.errors import ConfigurationError, JobNotFound
from service.jobs import Failed, JobState
from service.queue_types import QueueLimits
from service.queues import Queues, fair_places
from tests.support.server import MODEL, fail_once, job_of

pytestmark = pytest.mark.anyio

FAILED = Failed("broken", "no")


@pytest.fixture
async def queues(redis_url, anyio_backend):
    queues = Queues.connect(redis_url, models=[MODEL, "few", "tuned"], limits=QueueLimits(retry_delay_s=0))
    yield queues
    await queues.close()


async def submit(queues, *jobs):
    for job in jobs:
        await queues[job.model].submit(job)
    return jobs


def held_by(jobs):
    counts = {}
    for job in jobs:
        counts[job.model] = counts.get(job.model, 0) + job.num_images
    return counts


@pytest.mark.parametrize(
    ("held", "num_free", "places"),
    [
        ({}, 8, {}),
        ({"a": 0}, 8, {"a": 8}),
        ({"a": 0, "b": 0}, 8, {"a": 4, "b": 4}),
        ({"a": 0, "b": 0, "c": 0}, 8, {"a": 3, "b": 3, "c": 2}),
        ({"a": 40, "b": 0}, 8, {"b": 8}),
        ({"a": 4, "b": 0}, 8, {"a": 2, "b": 6}),
        ({"a": 0, "b": 0}, 0, {}),
        ({"a": 0, "b": 0}, 1, {"a": 1}),
    ],
)
def test_free_places_make_the_models_even(held, num_free, places):
    assert fair_places(held, num_free) == places


async def test_a_model_with_a_long_queue_leaves_the_others_their_part(queues):
    await submit(queues, *[job_of(MODEL) for _ in range(30)], *[job_of("few") for _ in range(30)])
    jobs = await queues.claim("w1", 8, {})
    assert held_by(jobs) == {MODEL: 4, "few": 4}
    late = await submit(queues, *[job_of("tuned") for _ in range(10)])
    more = await queues.claim("w1", 4, held_by(jobs))
    assert [job.id for job in more] == [job.id for job in late[:4]]


async def test_places_that_nobody_else_wants_are_all_taken(queues):
    await submit(queues, *[job_of("few") for _ in range(10)])
    assert len(await queues.claim("w1", 8, {})) == 8


async def test_places_that_the_poorer_model_leaves_go_to_the_other(queues):
    await submit(queues, job_of("few"), *[job_of(MODEL) for _ in range(10)])
    jobs = await queues.claim("w1", 8, {MODEL: 1})
    assert held_by(jobs) == {"few": 1, MODEL: 4}
    assert held_by(await queues.claim("w1", 3, {MODEL: 5, "few": 1})) == {MODEL: 3}


async def test_never_more_jobs_than_free_places(queues):
    await submit(queues, *[job_of(model, num_images=3) for model in queues for _ in range(3)])
    assert sum(job.num_images for job in await queues.claim("w1", 3, {})) == 3


async def test_a_retried_job_comes_alone_whatever_waits_for_other_models(queues):
    (retried,) = await submit(queues, job_of("few"))
    await fail_once(queues, retried)
    await submit(queues, *[job_of("tuned") for _ in range(3)])
    (alone,) = await queues.claim("w1", 8, {})
    assert (alone.id, alone.attempt) == (retried.id, 2)
    assert await queues.claim("w1", 7, {"few": 1}, runs_alone=True) == ()


async def test_while_a_retried_job_waits_for_a_worker_to_run_dry_it_gets_nothing_else(queues):
    (retried,) = await submit(queues, job_of("few"))
    await fail_once(queues, retried)
    await submit(queues, *[job_of("tuned") for _ in range(3)])
    assert await queues.claim("busy", 8, {MODEL: 3}) == ()
    assert await queues.claim("busy", 8, {MODEL: 1}) == ()
    (alone,) = await queues.claim("busy", 8, {})
    assert alone.id == retried.id
    await queues["few"].finish(alone.id, alone.attempt, FAILED)
    assert len(await queues.claim("busy", 8, {})) == 3


async def test_a_retried_job_that_somebody_else_took_holds_nothing_up(queues):
    (retried,) = await submit(queues, job_of("few"))
    await fail_once(queues, retried)
    await submit(queues, job_of("tuned"))
    assert await queues.claim("busy", 8, {MODEL: 3}) == ()
    assert len(await queues["few"].claim("idle", 8, 8, is_idle=True)) == 1
    assert held_by(await queues.claim("busy", 8, {MODEL: 3})) == {"tuned": 1}


async def test_one_wait_is_for_all_models(queues):
    async def submit_soon():
        await asyncio.sleep(0.1)
        await submit(queues, job_of("tuned"))

    soon = asyncio.create_task(submit_soon())
    started_s = time.monotonic()
    await queues.wait_for_work(5.0)
    assert time.monotonic() - started_s < 4
    await soon


async def test_a_job_is_found_and_cancelled_whichever_models_it_is(queues):
    (job,) = await submit(queues, job_of("tuned"))
    assert (await queues.status(job.id, job.owner)).job.model == "tuned"
    for owner, job_id in (("eve", job.id), (job.owner, "0" * 32)):
        with pytest.raises(JobNotFound, match=job_id):
            await queues.status(job_id, owner)
        with pytest.raises(JobNotFound):
            await queues.cancel(job_id, owner)
    assert (await queues.cancel(job.id, job.owner)).state is JobState.CANCELLED


async def test_the_reaper_looks_after_every_model(queues):
    await submit(queues, *[job_of(model, timeout_s=0.001) for model in queues])
    await asyncio.sleep(0.005)
    assert (await queues.reap()).expired == 3


def test_a_name_that_could_break_out_of_its_keys_is_refused(redis_url):
    with pytest.raises(ConfigurationError, match="a}b"):
        Queues.connect(redis_url, models=["fine", "a}b"], limits=QueueLimits())
