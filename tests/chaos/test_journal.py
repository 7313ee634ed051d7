"""The server's own file, read beside what the queue was asked to do."""

import pytest

from service.jobs import Failed
from service.queue import JobQueue
from service.queue_types import QueueLimits
from tests.chaos.journal import read_journal
from tests.chaos.server import Server
from tests.support.server import DONE, eventually, make_job

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path_factory, anyio_backend):
    server = Server(tmp_path_factory.mktemp("s"))
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def queue(server):
    limits = QueueLimits(max_attempts=2, retry_delay_s=0)
    queue = JobQueue.connect(server.url, model="tiny", limits=limits)
    yield queue
    await queue.close()


async def test_the_journal_tells_every_jobs_life(server, queue):
    done, failed, released, cancelled, expired = jobs = [make_job() for _ in range(5)]
    for job in jobs:
        await queue.submit(job)
    assert not (await queue.submit(done)).is_new
    for _ in range(3):
        await queue.claim("w", 1, 1, True)
    await queue.finish(done.id, 1, DONE)
    await queue.finish(done.id, 1, DONE)
    await queue.retry(failed.id, 1, Failed("broken", "no"))
    await queue.release(released.id, 1)
    await queue.cancel(cancelled.id, cancelled.owner)
    await server.direct.hset(f"emmdit:{{tiny}}:job:{expired.id}", "deadline", 1)
    await server.direct.zadd("emmdit:{tiny}:deadlines", {expired.id: 1})

    async def is_back():
        return (await queue.reap()).promoted

    await eventually(is_back)
    for attempt in (2, 2):
        (job,) = await queue.claim("w", 1, 1, True)
        ended = (
            queue.retry(job.id, attempt, Failed("broken", "no"))
            if job.id == failed.id
            else queue.finish(job.id, attempt, DONE)
        )
        await ended

    await server.kill()
    journal = read_journal(server.journal_paths())
    everyone = [job.id for job in jobs]
    assert journal.accepted == journal.charged == dict.fromkeys(everyone, 1)
    assert journal.ends == {
        done.id: ["done"],
        failed.id: ["failed"],
        released.id: ["done"],
        cancelled.id: ["cancelled"],
        expired.id: ["expired"],
    }
    assert journal.told == dict.fromkeys(everyone, 1)
    assert journal.claims == {done.id: 1, failed.id: 2, released.id: 2}
    assert journal.releases == {released.id: 1}
    assert journal.failures == {failed.id: 2}
    assert +journal.given_back == {cancelled.id: 1, expired.id: 1}


async def test_a_torn_end_and_an_emptied_server_are_read_as_the_server_reads_them(server, queue):
    await queue.submit(make_job())
    await server.direct.flushall()
    last = make_job()
    await queue.submit(last)
    await server.kill()
    (path,) = server.journal_paths()
    whole = read_journal([path])
    assert (whole.num_wipes, whole.accepted) == (1, {last.id: 1})
    path.write_bytes(path.read_bytes()[:-3])
    assert read_journal([path]).accepted == {}, "a transaction without its end was never carried out"
