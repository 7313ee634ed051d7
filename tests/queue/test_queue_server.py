"""What callers of one server share: a pipeline, a look at its clock, and no failure that is not their own."""

import asyncio

import pytest

from service.errors import EmmditError, JobNotFound
from service.jobs import JobState
from service.keys import LINK_SECRET
from service.queue_server import translated
from tests.support.server import DONE, make_job

pytestmark = pytest.mark.anyio


@pytest.fixture
def pipelines(queue, monkeypatch):
    """How many scripts went with each pipeline so far."""
    counts = []
    evaluate = queue._server._evaluate

    async def note(calls):
        counts.append(len(calls))
        return await evaluate(calls)

    monkeypatch.setattr(queue._server, "_evaluate", note)
    return counts


async def test_scripts_asked_for_at_the_same_time_travel_together_and_each_caller_gets_its_own_reply(queue, pipelines):
    await queue.submit(make_job())
    pipelines.clear()
    jobs = [make_job(owner=f"tenant-{number}") for number in range(40)]
    accepted = await asyncio.gather(*(queue.submit(job) for job in jobs), queue.submit(jobs[0]))
    assert [reply.is_new for reply in accepted] == [True] * 40 + [False]
    assert sum(pipelines) == 41
    assert len(pipelines) <= 3
    claimed = await queue.claim("w1", 100, 100, True)
    assert {job.id for job in jobs} < {job.id for job in claimed}


async def test_a_lone_script_waits_for_nobody(queue, pipelines):
    for _ in range(3):
        await queue.submit(make_job())
    assert pipelines == [1, 1, 1]


async def test_scripts_that_the_server_forgot_are_sent_whole(queue, raw, pipelines):
    await queue.submit(make_job())
    await raw.script_flush()
    accepted = await asyncio.gather(*(queue.submit(make_job()) for _ in range(5)))
    assert all(reply.is_new for reply in accepted)
    assert (await queue.stats()).num_waiting == 6


async def test_the_failure_of_one_script_is_nobody_elses(queue):
    good, bad = make_job(), make_job()
    call = queue._server.run

    async def broken():
        async with translated(2.0):
            await call("submit", [queue._keys.job(bad.id)], bad.id)

    outcomes = await asyncio.gather(broken(), queue.submit(good), broken(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[::2]] == [EmmditError] * 2
    assert outcomes[1].is_new


async def test_who_gives_up_takes_nothing_from_the_others(queue):
    await queue.submit(make_job())
    calls = [asyncio.create_task(queue.submit(make_job())) for _ in range(10)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
    assert all(outcome.is_new for outcome in outcomes[1::2])
    assert (await queue.submit(make_job())).is_new


async def test_the_servers_clock_is_asked_once_for_all_who_need_it(queue, monkeypatch):
    num_questions = 0
    ask = queue._server._ask

    async def note():
        nonlocal num_questions
        num_questions += 1
        await ask()

    monkeypatch.setattr(queue._server, "_ask", note)
    await asyncio.gather(*(queue.submit(make_job()) for _ in range(20)))
    assert num_questions == 1


async def test_who_gives_up_on_the_clock_leaves_the_question_to_the_others(queue):
    first, second = (asyncio.create_task(queue.submit(make_job())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).is_new
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_queue_can_be_closed_while_a_caller_waits(queue):
    call = asyncio.create_task(queue.submit(make_job()))
    await asyncio.sleep(0)
    await queue.close()
    await asyncio.wait([call], timeout=5)
    assert call.done()


async def test_the_states_of_many_jobs_are_read_at_once(queue):
    waiting, done, strange, gone = make_job(), make_job(), make_job(owner="eve"), make_job()
    await queue.submit(done)
    [claimed] = await queue.claim("w1", 1, 1, True)
    assert await queue.finish(claimed.id, claimed.attempt, DONE, inbox=claimed.inbox)
    for job in (waiting, strange):
        await queue.submit(job)

    mine = make_job(owner="ada", id=strange.id)
    statuses = await queue.statuses([waiting, done, mine, gone])
    assert [status and status.state for status in statuses] == [JobState.QUEUED, JobState.DONE, None, None]
    known = await queue.status(done.id, "ada")
    assert statuses[1] == known
    assert await queue.statuses([]) == ()
    with pytest.raises(JobNotFound):
        await queue.status(gone.id, "ada")


async def test_a_finish_with_the_jobs_own_inbox_tells_that_inbox(queue):
    await queue.submit(make_job(inbox="gateway-7"))
    [job] = await queue.claim("w1", 1, 1, True)
    assert await queue.finish(job.id, job.attempt, DONE, inbox=job.inbox)
    assert await queue.finish(job.id, job.attempt, DONE, inbox=job.inbox), "again, after a lost reply"
    assert [event.job_id for event in await queue.read_inbox("gateway-7", "0", 0.01)] == [job.id]


async def test_the_secret_of_links_is_one_for_all_who_ask_and_a_new_one_when_the_data_is_gone(queue, raw):
    await raw.delete(LINK_SECRET)
    others = [queue.of_model("another"), queue.of_model("a-third")]
    asked = await asyncio.gather(*(one.link_secret() for one in (queue, *others) for _ in range(10)))
    (secret,) = set(asked)
    assert len(secret) == 64
    await raw.delete(LINK_SECRET)
    assert await queue.link_secret() != secret
