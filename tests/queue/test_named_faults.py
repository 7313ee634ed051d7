"""Faults by their numbers in the table of promised outcomes, as far as the queue alone meets them.

More are in test_server_faults.py and test_sentinel.py (22).
"""

import asyncio
import os
import signal
import time

import pytest

from service.embedded import EmbeddedServer
from service.errors import JobNotFound, ServerOverloaded
from service.jobs import JobState
from service.keys import QueueKeys
from service.queue import JobQueue
from service.queue_types import JobProgress, QueueLimits
from tests.support.lossy_link import LossyLink
from tests.support.server import DONE, MODEL, PREFIX, count_events, eventually, make_job, make_worker, submit_all

pytestmark = pytest.mark.anyio
LIMITS = QueueLimits(capacity=1000, lease_s=1.0, retry_delay_s=0)


def connect(url):
    return JobQueue.connect(url, model=MODEL, limits=LIMITS)


@pytest.fixture
async def own(tmp_path, anyio_backend):
    """A server that the test may ruin, and a queue on it."""
    with EmbeddedServer(tmp_path / "server") as server:
        queue = connect(server.url)
        yield server, queue
        await queue.close()


@pytest.fixture
async def lossy(embedded_server, redis_url, tmp_path, anyio_backend):
    """A link that loses replies, and a queue over it."""
    link = LossyLink(str(tmp_path / "link.sock"), embedded_server.url.removeprefix("unix://"))
    async with link.running():
        queue = connect(link.url)
        yield link, queue
        await queue.close()


async def is_served(queue):
    try:
        await queue.submit(make_job())
    except ServerOverloaded:
        return False
    return True


async def test_13_while_a_killed_server_is_away_submits_are_refused_and_two_seconds_after_its_return_they_are_not(own):
    server, queue = own
    await queue.submit(make_job())
    os.kill(server.pid, signal.SIGKILL)
    refusals = []

    async def has_returned():
        try:
            await queue.submit(make_job())
        except ServerOverloaded as refusal:
            refusals.append(refusal.retry_after_s)
        return server.num_restarts and server.is_alive()

    await eventually(has_returned)
    assert set(refusals) == {2}
    await eventually(lambda: is_served(queue), 2.0)


@pytest.mark.slow
async def test_14_a_server_frozen_for_ten_seconds_takes_nothing_twice(own):
    server, queue = own
    await queue.submit(make_job())
    job = make_job()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        frozen_s = time.monotonic()
        num_refused = 0
        while time.monotonic() - frozen_s < 10.0:
            asked_s = time.monotonic()
            with pytest.raises(ServerOverloaded):
                await queue.submit(job)
            assert time.monotonic() - asked_s < 4.0, "bounded; twice what is promised, on a busy machine"
            num_refused += 1
            await asyncio.sleep(0.05)
        assert num_refused >= 3
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await eventually(lambda: is_served(queue))
    assert (await queue.submit(job)).is_new
    assert not (await queue.submit(job)).is_new


async def test_15_of_wiped_data_every_waiter_hears_in_time(own):
    _, queue = own
    job = make_job()
    await queue.submit(job)
    await queue.claim("w1", 1, 1, True)
    waiting = asyncio.gather(queue.read_inbox("gateway-1", "0", 1.0), queue.wait_for_work(1.0))
    news = queue.events.news()
    await news.read(0.01)
    await queue._commands.flushall()
    assert await queue.statuses([job]) == (None,), "what a gateway looks at every few seconds for whoever waits"
    for look in (queue.status(job.id, "ada"), queue.events.look(job.id, "ada"), queue.cancel(job.id, "ada")):
        with pytest.raises(JobNotFound):
            await look
    assert await news.read(0.2) is None
    await news.close()
    await asyncio.wait_for(waiting, 10.0)
    assert (await queue.submit(job)).is_new


async def test_18_a_torn_file_loads_and_lacks_the_last_job_at_most(tmp_path, anyio_backend):
    jobs = [make_job() for _ in range(50)]
    with EmbeddedServer(tmp_path) as server:
        queue = connect(server.url)
        await submit_all(queue, jobs)
        await queue.close()
    (file,) = [*tmp_path.glob("appendonlydir/*.incr.aof"), *tmp_path.glob("appendonly.aof")]
    os.truncate(file, file.stat().st_size - 37)
    with EmbeddedServer(tmp_path) as server:
        queue = connect(server.url)
        assert [job.id for job in await queue.claim("w1", 100, 100, True)] == [job.id for job in jobs[:49]]
        assert (await queue.submit(jobs[49])).is_new
        await queue.close()


async def test_19_a_worker_cut_off_loses_its_job_to_another_and_its_finish_is_refused(redis_url, raw):
    alone, other = connect(redis_url), connect(redis_url)
    await alone.submit(make_job())
    [job] = await alone.claim("cut-off", 1, 1, True)

    async def claim_again():
        await other.reap()
        return await other.claim("w2", 1, 1, True)

    [again] = await eventually(claim_again)
    assert (await alone.heartbeat(make_worker("cut-off"), [JobProgress(job.id, job.attempt, 9, 20)])).lost == (job.id,)
    assert not await alone.finish(job.id, job.attempt, DONE)
    assert await other.finish(again.id, again.attempt, DONE)
    assert await count_events(raw) == {job.id: 1}
    await alone.close()
    await other.close()


async def test_20_a_job_whose_claim_was_never_heard_of_comes_back_by_its_lease(lossy):
    link, queue = lossy
    job = make_job()
    await queue.submit(job)
    assert await queue.claim("w1", 1, 1, False)
    assert await queue.release(job.id, 1)  # by now the server knows the scripts
    link.lose(2, queue._server._scripts["claim"].sha1.encode())
    with pytest.raises(ServerOverloaded):
        await queue.claim("w1", 1, 1, True)
    assert link.num_lost == 2
    assert (await queue.status(job.id, "ada")).state is JobState.RUNNING

    async def claim_again():
        await queue.reap()
        return await queue.claim("w1", 1, 1, True)

    [again] = await eventually(claim_again)
    assert (again.id, again.attempt) == (job.id, 3)


@pytest.mark.parametrize("num_losses", [1, 2], ids=["the library asks again", "the caller asks again"])
async def test_21_a_submit_whose_reply_was_lost_is_the_same_job(lossy, num_losses):
    link, queue = lossy
    await queue.submit(make_job())
    job = make_job()
    link.lose(num_losses, queue._server._scripts["submit"].sha1.encode())
    if num_losses == 2:
        with pytest.raises(ServerOverloaded):
            await queue.submit(job)
    assert not (await queue.submit(job)).is_new
    assert link.num_lost == num_losses
    assert (await queue.stats()).num_waiting == 2


@pytest.mark.parametrize("wrong_s", [-3600.0, 3600.0], ids=["behind", "ahead"])
async def test_23_a_clock_of_ours_that_is_wrong_by_an_hour_decides_nothing(queue, raw, monkeypatch, wrong_s):
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + wrong_s)
    jobs = [make_job(timeout_s=30.0) for _ in range(2)]
    await submit_all(queue, jobs)
    claimed = await queue.claim("w1", 2, 2, True)
    assert all(20 < job.time_left_s <= 30 for job in claimed)
    beats = [JobProgress(job.id, job.attempt, 1, 20) for job in claimed]
    reply = await queue.heartbeat(make_worker(), beats)
    assert (reply.lost, reply.expired) == ((), ())
    assert [worker.id for worker in await queue.workers()] == ["w1"]
    report = await queue.reap()
    assert (report.requeued, report.expired) == (0, 0)
    for job in claimed:
        assert await queue.finish(job.id, job.attempt, DONE)
        status = await queue.status(job.id, "ada")
        assert abs(status.created_at - right()) < 60
    assert await raw.pttl(QueueKeys(MODEL).job(jobs[0].id)) > 0
    assert await raw.zcard(PREFIX + "running") == 0
