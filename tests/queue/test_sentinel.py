"""A master that is killed: clients find the one that Sentinels make of its replica, by themselves."""

import asyncio
import os
import signal
import time

import pytest
from redis.asyncio import Redis

from service.errors import ConfigurationError, JobNotFound, ServerOverloaded
from service.jobs import JobState
from service.queue_types import QueueLimits
from service.queues import Queues
from tests.support.redis_servers import HOST, Sentinels, debian_server, wait_until
from tests.support.server import DONE, MODEL, PREFIX, count_events, eventually, make_job

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
LIMITS = QueueLimits(capacity=10_000, lease_s=2.0, retry_delay_s=0.1)
BACK_WITHIN_S = 20.0  # Sentinels take two or three seconds; the machine may be busy


@pytest.fixture
def sentinels(request, tmp_path):
    binary = debian_server() if getattr(request, "param", None) == "debian" else None
    with Sentinels(tmp_path, binary).running() as servers:
        yield servers


@pytest.fixture
async def queues(sentinels, anyio_backend):
    queues = Queues.connect(sentinels.url, models=[MODEL, "few"], limits=LIMITS)
    yield queues
    await queues.close()


async def work(queues, worker, is_over):
    """A worker that draws in no time, reaps and survives whatever the server does."""
    ended = []
    while not is_over():
        try:
            await queues.reap()
            jobs = await queues.claim(worker, 8, {})
            if not jobs:
                await queues.wait_for_work(0.2)
            for job in jobs:
                if await queues[job.model].finish(job.id, job.attempt, DONE):
                    ended.append(job.id)
        except ServerOverloaded:
            await asyncio.sleep(0.05)
    return ended


async def submit_for(queues, time_s):
    """Submits all the while; returns what was accepted and the longest time without an answer."""
    accepted, longest_s, asked_s = [], 0.0, time.monotonic()
    end_s = asked_s + time_s
    while time.monotonic() < end_s:
        job = make_job()
        try:
            await queues[MODEL].submit(job)
        except ServerOverloaded:
            await asyncio.sleep(0.05)
        else:
            longest_s, asked_s = max(longest_s, time.monotonic() - asked_s), time.monotonic()
            accepted.append(job.id)
            await asyncio.sleep(0.01)
    return accepted, max(longest_s, time.monotonic() - asked_s)


async def is_served(queues):
    try:
        await queues[MODEL].submit(make_job())
    except ServerOverloaded:
        return False
    return True


@pytest.mark.parametrize("sentinels", ["found", pytest.param("debian", marks=pytest.mark.system)], indirect=True)
async def test_a_killed_master_under_load_loses_no_replicated_job_and_ends_none_twice(queues, sentinels):
    before = [make_job() for _ in range(200)]
    for job in before:
        await queues[MODEL].submit(job)
    with sentinels.first.client() as first, sentinels.second.client() as second:
        wait_until(lambda: first.info()["master_repl_offset"] == second.info()["master_repl_offset"])

    is_over = False
    workers = [asyncio.create_task(work(queues, f"w{number}", lambda: is_over)) for number in range(2)]
    submitting = asyncio.create_task(submit_for(queues, 10.0))
    await asyncio.sleep(0.3)
    sentinels.first.kill()
    accepted, longest_s = await submitting
    assert longest_s < BACK_WITHIN_S
    assert len(accepted) > 20

    async def is_empty():
        stats = await queues[MODEL].stats()
        return stats.num_waiting == stats.num_running == 0

    await eventually(is_empty, 60.0)
    is_over = True
    ended = [job_id for found in await asyncio.gather(*workers) for job_id in found]
    ids = [job.id for job in before]
    states = [await queues[MODEL].status(job_id, "ada") for job_id in ids]
    assert {status.state for status in states} == {"done"}
    # What a master accepted and had not sent to its replica is gone with it: none of that is in `before`.
    lost = [job_id for job_id in accepted if job_id not in ended]
    assert len(lost) < len(accepted) / 4
    async with sentinels_client(sentinels) as raw:
        assert set((await count_events(raw)).values()) == {1}


async def test_a_master_that_hangs_is_left_and_taken_as_a_replica_when_it_comes_back(queues, sentinels):
    assert await is_served(queues)
    os.kill(sentinels.first.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: is_served(queues), BACK_WITHIN_S)
    finally:
        os.kill(sentinels.first.pid, signal.SIGCONT)
    with sentinels.first.client() as first, sentinels.second.client() as second:
        assert second.info()["role"] == "master"
        wait_until(lambda: first.info()["role"] == "slave")
        num_waiting = (await queues[MODEL].stats()).num_waiting
        assert second.zcard(PREFIX + "waiting") == num_waiting


async def test_22_of_a_lagging_replica_what_it_never_heard_is_lost_and_what_it_knew_is_done_at_least_once(
    queues, sentinels
):
    queue = queues[MODEL]
    known, unknown = [make_job() for _ in range(20)], [make_job() for _ in range(20)]
    for job in known:
        await queue.submit(job)
    with sentinels.first.client() as first, sentinels.second.client() as second:
        wait_until(lambda: first.info()["master_repl_offset"] == second.info()["master_repl_offset"])
    os.kill(sentinels.second.pid, signal.SIGSTOP)
    try:
        for job in unknown:
            await queue.submit(job)
        early = await queue.claim("w1", 5, 5, True)
        for job in early[:4]:
            assert await queue.finish(job.id, job.attempt, DONE)
        sentinels.first.kill()
    finally:
        os.kill(sentinels.second.pid, signal.SIGCONT)
    await eventually(lambda: is_served(queues), BACK_WITHIN_S)

    # What the dead master sent lies in the frozen one's socket: how much of it arrives is up to the kernel.
    async def is_known(job):
        try:
            return (await queue.status(job.id, "ada")).state
        except JobNotFound:
            return None

    states = [await is_known(job) for job in (*known, *unknown)]
    assert None not in states[:20], "what the replica had before is not lost"
    again = await queue.claim("w2", 50, 50, True)
    for job in again:
        assert await queue.finish(job.id, job.attempt, DONE)
    done = {job.id for job in (*known, *unknown) if await is_known(job) is JobState.DONE}
    running = {job.id for job in known if await is_known(job) is JobState.RUNNING}
    assert {job.id for job in known} == (done | running) & {job.id for job in known}
    async with sentinels_client(sentinels) as raw:
        assert set((await count_events(raw)).values()) == {1}


async def test_a_master_that_becomes_a_replica_is_left_at_once(queues, sentinels):
    """As after a failover that no connection was broken by: READONLY makes clients look for the master anew."""
    assert await is_served(queues)
    with sentinels.sentinels[0].client() as sentinel, sentinels.first.client() as first:
        sentinel.execute_command("SENTINEL", "FAILOVER", sentinels.SERVICE)
        wait_until(lambda: first.info()["role"] == "slave")
    await eventually(lambda: is_served(queues))
    assert await queues.link_secret() == await queues.link_secret()


async def test_an_unknown_service_is_a_configuration_error_and_a_dead_sentinel_is_none(queues, sentinels):
    unknown = Queues.connect(sentinels.url.replace("/mymaster", "/other"), models=[MODEL], limits=LIMITS)
    with pytest.raises(ConfigurationError, match="'other'"):
        await unknown.ping()
    await unknown.close()
    sentinels.sentinels[0].kill()
    late = Queues.connect(sentinels.url, models=[MODEL], limits=LIMITS)
    assert await eventually(lambda: is_served(late))
    await late.close()


def sentinels_client(sentinels):
    return Redis(host=HOST, port=sentinels.second.port, decode_responses=True)
