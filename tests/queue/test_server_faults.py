import asyncio
import os
import signal
import time

import pytest

from service.embedded import EmbeddedServer
from service.errors import ConfigurationError, JobNotFound, ServerOverloaded
from service.jobs import Failed, JobState
from service.queue import JobQueue
from service.queue_types import JobProgress, QueueLimits
from tests.support.server import DONE, MODEL, eventually, make_job, make_worker, submit_all

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_server(tmp_path):
    """A server that the test may ruin."""
    with EmbeddedServer(tmp_path, max_memory_bytes=16 * 2**20) as server:
        yield server


@pytest.fixture
async def own_queue(own_server, anyio_backend):
    queue = JobQueue.connect(own_server.url, model=MODEL, limits=QueueLimits(capacity=10_000))
    yield queue
    await queue.close()


async def answers(queue):
    try:
        await queue.ping()
    except ServerOverloaded:
        return False
    return True


async def test_a_server_that_forgets_its_scripts_goes_unnoticed(queue, raw):
    job = make_job()
    for step in (
        lambda: queue.submit(job),
        lambda: queue.claim("w1", 1, 1, True),
        lambda: queue.heartbeat(make_worker(), [JobProgress(job.id, 1, 1, 20)]),
        lambda: queue.cancel(job.id, "ada"),
        lambda: queue.reap(),
        lambda: queue.release(job.id, 1),
    ):
        await raw.script_flush()
        await step()
    assert (await queue.status(job.id, "ada")).state is JobState.CANCELLED


async def test_a_server_killed_and_restarted_keeps_what_was_accepted(own_server, own_queue):
    ids = await submit_all(own_queue, [make_job() for _ in range(50)])
    [running] = await own_queue.claim("w1", 1, 1, True)
    pid = own_server.pid

    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: answers(own_queue))

    assert own_server.pid != pid
    assert (await own_queue.status(running.id, "ada")).state is JobState.RUNNING
    assert (await own_queue.stats()).num_waiting == 49
    assert await own_queue.finish(running.id, 1, DONE)
    assert [job.id for job in await own_queue.claim("w1", 100, 100, True)] == ids[1:]


async def test_a_wiped_server_knows_no_job_and_refuses_its_worker(own_queue):
    job = make_job()
    await own_queue.submit(job)
    [claimed] = await own_queue.claim("w1", 1, 1, True)
    await own_queue._server.commands.flushall()

    with pytest.raises(JobNotFound):
        await own_queue.status(job.id, "ada")
    reply = await own_queue.heartbeat(make_worker(), [JobProgress(job.id, 1, 1, 20)])
    assert reply.lost == (job.id,)
    assert not await own_queue.finish(job.id, claimed.attempt, DONE)


async def test_what_a_frozen_server_was_asked_is_refused_in_time_and_does_not_happen_later(own_server, own_queue):
    first, refused = make_job(), make_job()
    await own_queue.submit(first)
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        started_at = time.monotonic()
        outcomes = await asyncio.gather(
            own_queue.submit(refused),
            own_queue.claim("w1", 8, 8, True),
            own_queue.cancel("0" * 32, "ada"),
            return_exceptions=True,
        )
        assert time.monotonic() - started_at < 2.5
        assert [type(outcome) for outcome in outcomes] == [ServerOverloaded] * 3
        assert {outcome.retry_after_s for outcome in outcomes} == {2}
    finally:
        await asyncio.sleep(0.2)
        os.kill(own_server.pid, signal.SIGCONT)

    await eventually(lambda: answers(own_queue))
    assert (await own_queue.stats()).num_waiting == 1
    assert (await own_queue.status(first.id, "ada")).job.attempt == 0
    assert (await own_queue.submit(refused)).is_new, "the client may come back with the same id"
    assert len(await own_queue.claim("w1", 8, 8, True)) == 2


async def test_a_server_whose_clock_is_set_forward_takes_jobs_again_at_once(own_queue):
    await own_queue.ping()
    await own_queue.submit(make_job())
    own_queue._server._time_s -= 3600  # the same as a server's clock set forward by an hour since it was asked
    with pytest.raises(ServerOverloaded):
        await own_queue.submit(make_job())
    assert (await own_queue.submit(make_job())).is_new
    own_queue._server._time_s -= 3600
    with pytest.raises(ServerOverloaded):
        await own_queue.claim("w1", 1, 1, True)
    assert len(await own_queue.claim("w1", 1, 1, True)) == 1


async def test_a_full_server_refuses_jobs_and_lets_running_ones_end(own_queue):
    running, waiting, doomed, retried, released = jobs = [make_job() for _ in range(5)]
    await submit_all(own_queue, jobs)
    [claimed] = await own_queue.claim("w1", 1, 1, True)
    await own_queue._server.commands.config_set("maxmemory", 500_000)
    assert await own_queue.server_memory_ratio() > 1

    for is_known in (True, False):
        # Whether or not this process has noticed: the script itself must refuse.
        await own_queue.ping()
        own_queue._server.memory_ratio = 2.0 * is_known
        refused = make_job()
        with pytest.raises(ServerOverloaded) as refusal:
            await own_queue.submit(refused)
        assert refusal.value.retry_after_s == 2
        with pytest.raises(JobNotFound):
            await own_queue.status(refused.id, "ada")
    assert (await own_queue.heartbeat(make_worker(), [JobProgress(claimed.id, 1, 5, 20)])).lost == ()
    assert await own_queue.finish(running.id, 1, DONE)
    assert (await own_queue.cancel(doomed.id, "ada")).state is JobState.CANCELLED
    assert len(await own_queue.claim("w1", 3, 3, True)) == 3
    assert await own_queue.retry(retried.id, 1, Failed("generation_failed", "not a number"))
    assert await own_queue.release(released.id, 1)
    await own_queue.cancel(waiting.id, "ada")
    assert (await own_queue.heartbeat(make_worker(), [JobProgress(waiting.id, 1, 5, 20)])).cancelled == (waiting.id,)
    await eventually(lambda: promoted(own_queue))
    events = await own_queue.read_inbox("gateway-1", "0", 0.1)
    assert {event.job_id for event in events} == {running.id, doomed.id}


async def test_above_four_fifths_of_its_memory_a_server_gets_no_new_jobs(own_queue):
    await own_queue.submit(make_job())
    used = (await own_queue._server.commands.info("memory"))["used_memory"]
    await own_queue._server.commands.config_set("maxmemory", int(used / 0.85))

    async def is_refused():
        try:
            await own_queue.submit(make_job())
        except ServerOverloaded:
            return True
        return False

    await eventually(is_refused)
    assert len(await own_queue.claim("w1", 1, 1, True)) == 1
    await own_queue._server.commands.config_set("maxmemory", int(used / 0.5))
    await eventually(lambda: accepts(own_queue))


async def test_a_wrong_password_is_a_configuration_error(own_server):
    socket_path = own_server.url.removeprefix("unix://")
    queue = JobQueue.connect(f"unix://ada:secret@{socket_path}", model=MODEL, limits=QueueLimits())
    try:
        with pytest.raises(ConfigurationError) as refusal:
            await queue.ping()
        assert "secret" not in str(refusal.value)
    finally:
        await queue.close()


async def test_a_cancelled_call_does_not_poison_the_next_one(queue):
    jobs = [make_job() for _ in range(20)]
    await submit_all(queue, jobs)
    for i in range(40):
        task = asyncio.create_task(queue.status(jobs[i % 20].id, "ada"))
        await asyncio.sleep(0.0001 * (i % 7))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        other = jobs[(i + 1) % 20]
        assert (await queue.status(other.id, "ada")).job == other


async def accepts(queue):
    try:
        await queue.submit(make_job())
    except ServerOverloaded:
        return False
    return True


async def promoted(queue):
    return (await queue.reap()).promoted == 1
