"""Faults of single jobs, looked at closely: 2 the orphan, 10 who hangs up, 24 races, 25 deadlines."""

from __future__ import annotations

import asyncio
import random
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import httpx

from service.jobs import Cancelled, JobResult
from service.queue import JobQueue
from service.queue_types import JobProgress, QueueLimits
from tests.chaos.journal import read_journal
from tests.chaos.look import all_jobs, snapshot
from tests.chaos.run import Row
from tests.chaos.scenarios.scene import body, ended, eventually, expect, served, submit
from tests.chaos.server import Server
from tests.chaos.stack import MODEL, Nurseries
from tests.support.server import DONE, make_job, make_worker

NUM_RACES = 1000
NUM_AT_ONCE = 20


async def orphan(nurseries: Nurseries) -> Row:
    """2: the job is drawn again and charged once, its first blob is swept when its time is over."""
    row = Row(num_injected=1)
    settings = {"result_ttl_s": 12, "max_timeout_s": 12, "default_timeout_s": 12}
    async with served(nurseries, settings=settings) as (stack, client):
        stack.controls[0].write(die_before_finish=True)
        job = await submit(client)
        await stack.workers[0].ended(1, 20.0)
        expect(row, len(list(stack.images.glob(f"{job}-1-0.png"))) == 1, "there is no blob of the attempt that died")
        shown = await ended(client, job)
        expect(row, shown["state"] == "done", f"the job ended as {shown['state']}")
        expect(row, bool(list(stack.images.glob(f"{job}-2-0.png"))), "the second attempt has no blob of its own")
        await stack.server.kill()
        journal = read_journal(stack.server.journal_paths())
        await stack.server.start()
        expect(row, journal.charged[job] == 1, f"the job was charged {journal.charged[job]} times")
        expect(row, journal.ends[job] == ["done"], f"the job's ends are {journal.ends[job]}")
        # Blobs live as long as a job may run and its result be read; a gateway sweeps when it starts.
        await asyncio.sleep(24.5)
        stack.gateways[0].signal(signal.SIGKILL)

        async def is_swept() -> bool:
            return not list(stack.images.glob(f"{job}-1-0.png"))

        with suppress(TimeoutError):
            await eventually(is_swept, 20.0)
        expect(row, await is_swept(), "the orphan is still there")
    return row


async def hang_up(nurseries: Nurseries) -> Row:
    """10: who waits and leaves cancels his job; who does not wait may leave."""
    row = Row(num_injected=2)
    async with served(nurseries, settings={"lease_s": 10}) as (stack, client):
        headers = {"Accept": "image/png"}
        waiting = asyncio.create_task(
            client.post("/v1/generate", json=body(5, num_inference_steps=100), headers=headers)
        )
        async with httpx.AsyncClient(base_url=stack.urls[0], timeout=20) as other:
            other_job = await submit(other, seed=6, num_inference_steps=30)

        async def running() -> str | None:
            jobs = await all_jobs(stack.server.direct)
            return next((one.id for one in jobs.values() if one.seed == 5 and one.state == "running"), None)

        job = await eventually(running)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        shown = await ended(client, job)
        expect(row, shown["state"] == "cancelled", f"the job of a client that left ended as {shown['state']}")
        expect(row, shown["step"] < shown["num_steps"], "it was drawn to its end for nobody")
        shown = await ended(client, other_job)
        expect(row, shown["state"] == "done", f"an asynchronous job ended as {shown['state']}")
    return row


async def race_cancels(nurseries: Nurseries) -> Row:
    """24: a worker's claim and finish and a client's cancel, a thousand times as near to each other as they get."""
    row = Row(num_injected=NUM_RACES)
    rng = random.Random(24)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        server = Server(Path(folder) / "redis")
        await server.start()
        limits = QueueLimits(capacity=NUM_RACES)
        client, worker = (JobQueue.connect(server.url, model=MODEL, limits=limits) for _ in range(2))
        try:
            for _ in range(NUM_RACES // NUM_AT_ONCE):
                await asyncio.gather(*(_race(client, worker, rng) for _ in range(NUM_AT_ONCE)))
            while await _work(worker, rng):
                pass
            quiet = await snapshot(server.direct)
        finally:
            await asyncio.gather(client.close(), worker.close())
            await server.close()
        journal = read_journal(server.journal_paths())
    expect(row, not quiet.states, f"left in the sets: {dict(quiet.states)}")
    expect(row, len(journal.ends) == NUM_RACES, f"{len(journal.ends)} jobs ended, not {NUM_RACES}")
    twice = [job for job, ends in journal.ends.items() if len(ends) != 1 or journal.told[job] != 1]
    expect(row, not twice, f"{len(twice)} jobs ended or were told other than once")
    states = {state for ends in journal.ends.values() for state in ends}
    expect(row, states == {"done", "cancelled"}, f"every race ended alike, so it was none: {states}")
    return row


async def _race(client: JobQueue, worker: JobQueue, rng: random.Random) -> None:
    job = make_job(inbox="gateway-1")
    await client.submit(job)

    async def cancel() -> None:
        await asyncio.sleep(rng.uniform(0, 0.01))
        await client.cancel(job.id, job.owner)

    await asyncio.gather(_work(worker, rng), cancel())


async def _work(worker: JobQueue, rng: random.Random) -> bool:
    """Whatever job comes first; half of the time with a look whether it is wanted still."""
    jobs = await worker.claim(f"w{rng.random()}", 1, 1, True)
    for job in jobs:
        result: JobResult = DONE
        if rng.random() < 0.5:
            await asyncio.sleep(rng.uniform(0, 0.005))
            reply = await worker.heartbeat(make_worker(), [JobProgress(job.id, job.attempt, 1, 20)])
            result = Cancelled("running") if job.id in reply.cancelled else DONE
        await worker.finish(job.id, job.attempt, result)
    return bool(jobs)


async def miss_deadlines(nurseries: Nurseries) -> Row:
    """25: jobs that wait behind a stopped worker until their time is over are never handed out."""
    row = Row(num_injected=NUM_AT_ONCE)
    async with served(nurseries, settings={"lease_s": 10}) as (stack, client):
        stack.workers[0].signal(signal.SIGSTOP)
        # The worker may hold a call open: one job is its, whatever becomes of it.
        await submit(client, seed=100, timeout_s=60)
        await asyncio.sleep(0.5)
        jobs = [await submit(client, seed=200 + index, timeout_s=3.0) for index in range(NUM_AT_ONCE)]
        shown = [await ended(client, job) for job in jobs]
        stack.workers[0].signal(signal.SIGCONT)
        states = {one["state"] for one in shown}
        expect(row, states == {"expired"}, f"jobs past their deadline ended as {sorted(states)}")
        codes = {one["error"]["code"] for one in shown if one["error"]}
        expect(row, codes == {"deadline_exceeded"}, f"and say {sorted(codes)}")
        known = await all_jobs(stack.server.direct)
        tried = [job for job in jobs if known[job].attempt]
        expect(row, not tried, f"{len(tried)} of them were handed out")
    return row


SCENARIOS = {2: orphan, 10: hang_up, 24: race_cancels, 25: miss_deadlines}
