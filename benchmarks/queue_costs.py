"""What each call of the queue costs its server: processor time and bytes, on a real one, with a realistic crowd.

Processor time of the server process, not the clock: a busy machine makes it no larger.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from model.params import GenerationParams
from service.embedded import EmbeddedServer
from service.job_events import Preview
from service.jobs import Done, ImageRef, Job, Priority, WatchLevel, new_job_id
from service.queue import JobQueue
from service.queue_server import MAX_TOGETHER
from service.queue_types import JobProgress, QueueLimits, WorkerInfo

MODEL = "nitro-e-512"
INBOX = "gateway"
NUM = 4000  # calls of each kind: processor time is read in hundredths of a second
NUM_TENANTS = 50
HELD = 32  # jobs that a worker holds
LATER = "9999999999999-0"  # after every event: what a look costs beside the events that it brings
PREVIEW_BYTES = 1200  # a small JPEG of 512 pixels' worth, as the page shows it
SUMMARY = {
    "rate": 1234.5,
    "max_rows": 64,
    "num_rows_held": 64,
    "share": 1.0,
    "steps": [[MODEL, 512, 512, 0.01, 0.001]],
    "decodes": [[MODEL, 512, 512, 0.01, 0.001]],
    "text": [0.01, 0.001],
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call, as the server has it."""

    server_us: float
    bytes_in: float
    bytes_out: float


class Meter:
    """Reads one server's processor time and traffic."""

    def __init__(self, server: EmbeddedServer, queue: JobQueue) -> None:
        self._process = psutil.Process(server.pid)
        self._commands = queue._commands

    async def cost(self, calls: Iterator[Awaitable[object]], num: int, num_together: int = MAX_TOGETHER) -> Cost:
        """The mean cost of `num` calls, so many of them at once."""
        before = await self._read()
        while crowd := list(itertools.islice(calls, num_together)):
            await asyncio.gather(*crowd)
        after = await self._read()
        seconds, received, sent = (later - earlier for later, earlier in zip(after, before, strict=True))
        return Cost(1e6 * seconds / num, received / num, sent / num)

    async def _read(self) -> tuple[float, float, float]:
        stats = await self._commands.info("stats")
        times = self._process.cpu_times()
        return times.user + times.system, stats["total_net_input_bytes"], stats["total_net_output_bytes"]


def make_job(number: int) -> Job:
    """A job as the gateway submits it: a prompt of usual length, four steps, one of fifty tenants."""
    prompt = f"a lighthouse on a rocky coast at dusk, long exposure, warm light in the windows, number {number}"
    params = GenerationParams(prompt, 512, 512, num_inference_steps=20, guidance_scale=4.5, seed=number)
    return Job(new_job_id(), MODEL, f"tenant-{number % NUM_TENANTS}", params, 1, Priority.NORMAL, 300.0, INBOX)


def result_of(job: Job, attempt: int) -> Done:
    """What a worker reports."""
    image = ImageRef(blob=f"{job.id}/{attempt}/0.png", seed=job.params.seed, num_bytes=400_000, sha256="0" * 64)
    return Done(images=(image,), prompt=job.params.prompt, model_version="1", inference_s=1.0)


def make_worker(number: int) -> WorkerInfo:
    """A worker with one model, as its heartbeat describes it."""
    return WorkerInfo(
        f"worker-host-{number}", MODEL, "1", "cuda:0", 1.0, 1234.5, costs=SUMMARY, models=[MODEL], memory={"all": 1}
    )


async def measure_costs(num_workers: Sequence[int]) -> dict[str, Cost]:
    """Costs by call. "workers N" is the look at N workers' records; "claim nothing" is an empty queue's answer."""
    with EmbeddedServerIn() as server:
        queue = JobQueue.connect(server.url, model=MODEL, limits=QueueLimits(capacity=10 * NUM, lease_s=3600))
        try:
            return await _measure(Meter(server, queue), queue, num_workers)
        finally:
            await queue.close()


class EmbeddedServerIn:
    """A server in a folder of its own that goes with it."""

    def __enter__(self) -> EmbeddedServer:
        import tempfile
        from pathlib import Path

        self._folder = tempfile.TemporaryDirectory(prefix="emmdit-growth-")
        self._server = EmbeddedServer(Path(self._folder.name))
        return self._server.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._server.close()
        self._folder.cleanup()


async def _measure(meter: Meter, queue: JobQueue, num_workers: Sequence[int]) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}
    jobs = [make_job(number) for number in range(NUM)]
    worker = make_worker(0)
    costs["claim nothing"] = await meter.cost(_times(lambda: queue.claim("worker-host-0", 8, 8, True)), NUM)
    costs["submit"] = await meter.cost((queue.submit(job) for job in jobs), NUM)
    costs["status"] = await meter.cost((queue.status(job.id, job.owner) for job in jobs), NUM)
    claimed: list[Job] = []

    async def claim(number: int) -> None:
        claimed.extend(await queue.claim(f"worker-host-{number}", 1, 1, False))

    # One at a time, and then so many at once that they get into one another's way.
    costs["claim"] = await meter.cost((claim(number) for number in range(NUM // 2)), NUM // 2, num_together=1)
    costs["claim among 100"] = await meter.cost(
        (claim(number) for number in range(NUM // 2)), NUM // 2, num_together=100
    )
    held = claimed[:HELD]
    progress = [JobProgress(job.id, job.attempt, 3, 20) for job in held]
    costs["heartbeat"] = await meter.cost(_times(lambda: queue.heartbeat(worker, ())), NUM)
    costs[f"heartbeat of {HELD} jobs"] = await meter.cost(
        _times(lambda: queue.heartbeat(worker, progress), NUM // 10), NUM // 10
    )
    costs["reap, nothing due"] = await meter.cost(_times(queue.reap), NUM)
    watched = claimed[:100]
    for job in watched:
        await queue.events.watch(job.id, job.owner, WatchLevel.PICTURES)
    preview = Preview(0, 3, 20, 64, 64, "image/jpeg", b"\0" * PREVIEW_BYTES)
    costs["preview"] = await meter.cost(
        (queue.events.report(job.id, job.attempt, 3, [preview]) for job in watched * (NUM // 100)), NUM
    )
    costs["look at a watched job"] = await meter.cost(
        (queue.events.look(job.id, job.owner, LATER) for job in watched * (NUM // 400)), NUM // 4
    )
    costs["finish"] = await meter.cost(
        (queue.finish(job.id, job.attempt, result_of(job, job.attempt), inbox=INBOX) for job in claimed), NUM
    )
    costs["inbox, an event"] = await meter.cost(iter([_read_all(queue)]), NUM)
    for num in num_workers:
        await meter.cost((queue.heartbeat(make_worker(number), ()) for number in range(num)), num)
        repeats = max(50, NUM // max(num, 10))
        costs[f"workers {num}"] = await meter.cost(_times(queue.workers, repeats), repeats, num_together=2)
    return costs


async def _read_all(queue: JobQueue) -> None:
    last = "0"
    while events := await queue.read_inbox(INBOX, last, 0.01):
        last = events[-1].id


def _times(call: Callable[[], Awaitable[object]], num: int = NUM) -> Iterator[Awaitable[object]]:
    return (call() for _ in range(num))
