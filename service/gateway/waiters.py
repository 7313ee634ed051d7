"""Who waits for which job: one inbox stream a model and one reader of it for all handlers of this gateway.

Every job that this gateway accepts is watched until its end, asynchronous ones too, so that each end is counted once.
An event only says "look": the job's state is always read from the queue, and read again every few seconds and after
every reconnect, so that a lost event costs a pause and not an answer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import DeadlineExceeded, EmmditError, JobNotFound, ServerOverloaded
from service.gateway.background import is_cancelled
from service.gateway.settlements import Settlements
from service.jobs import Job, JobStatus
from service.metrics import Metrics
from service.queue import JobQueue
from service.queues import Queues

logger = logging.getLogger(__name__)

LOOK_BATCH = 128  # jobs read in one round trip
READ_TIMEOUT_S = 2.0  # shorter than the client's socket timeout
RECONNECT_PAUSE_S = 0.2
REREAD_PERIOD_S = 5.0
DEADLINE_SLACK_S = 5.0  # the queue ends a job at its deadline; this gateway gives up only where the queue did not


@dataclass(slots=True, weakref_slot=True)
class Watch:
    """One job's place in the waiting room. `end` gets the terminal status, or None where the job has vanished;
    it is cancelled where this gateway stops.

    `accepted` gets the job's first place in the queue, or what it was refused for. `num_wanted` counts the requests
    that its end will answer, or would have. What `is_charged` to its tenant is settled at its end.
    """

    job: Job
    end: asyncio.Future[JobStatus | None]
    accepted: asyncio.Future[int]
    deadline_at: float
    gives_up_at: float
    num_wanted: int = 1
    is_charged: bool = False

    @property
    def is_submitted(self) -> bool:
        """Whether the job was accepted: only then does its absence from the queue mean that it was lost."""
        return self.accepted.done() and not self.accepted.cancelled() and self.accepted.exception() is None


class Waiters:
    """Belongs to one event loop. `run` is its reader task, `reread` is called every REREAD_PERIOD_S."""

    def __init__(self, queues: Queues, metrics: Metrics, settlements: Settlements, *, keep_s: float) -> None:
        self._queues = queues
        self._metrics = metrics
        self._settlements = settlements
        self._keep_s = keep_s
        self._watches: dict[str, Watch] = {}
        self._is_closing = False
        self.inbox = f"gateway-{secrets.token_hex(8)}"

    def watch(self, job: Job) -> Watch:
        """Begin before the job is submitted: its end may come before the submit's reply."""
        loop = asyncio.get_running_loop()
        deadline_at = time.monotonic() + job.timeout_s
        watch = Watch(job, loop.create_future(), loop.create_future(), deadline_at, deadline_at + self._keep_s)
        self._watches[job.id] = watch
        return watch

    def forget(self, watch: Watch, error: EmmditError) -> None:
        """The job was not accepted: `error` is for all others who wanted it, if there are any."""
        self._watches.pop(watch.job.id, None)
        watch.accepted.set_exception(error)
        watch.accepted.exception()  # nobody has to ask for it

    def close(self) -> None:
        """Send all waiting handlers home: this gateway stops, their jobs go on."""
        self._is_closing = True
        for watch in self._watches.values():
            watch.end.cancel()

    async def wait(self, watch: Watch, *, unless: asyncio.Future[None]) -> JobStatus | None:
        """The job's terminal status, or None as soon as `unless` is done: who waits here wants it no more.

        Raises DeadlineExceeded where even the queue has not ended the job in time, JobNotFound where it was lost,
        ServerOverloaded where this gateway stops.
        """
        job, end = watch.job, watch.end
        if self._is_closing and not end.done():
            raise self._stopping(job)
        timeout_s = watch.deadline_at + DEADLINE_SLACK_S - time.monotonic()
        await asyncio.wait((end, unless), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if end.cancelled():
            raise self._stopping(job)
        if end.done():
            if (status := end.result()) is None:
                raise JobNotFound(f"job {job.id} was accepted and then lost with the queue's data; send it again")
            return status
        if unless.done():
            return None
        raise DeadlineExceeded(f"no result within timeout_s = {job.timeout_s:g}")

    async def run(self) -> None:
        """Read every model's inbox until cancelled."""
        await asyncio.gather(*(self._read(queue) for queue in self._queues.values()))

    async def _read(self, queue: JobQueue) -> None:
        last_id = "0"
        is_connected = True
        while not is_cancelled():
            try:
                events = await queue.read_inbox(self.inbox, last_id, READ_TIMEOUT_S)
                if events:
                    last_id = events[-1].id
                await self._look([watch for event in events if (watch := self._watches.get(event.job_id))])
                if not is_connected:
                    await self.reread()
                    is_connected = True
            except ServerOverloaded:
                is_connected = False
                await asyncio.sleep(RECONNECT_PAUSE_S)
            except Exception:  # the edge of this process: a reader that ended would let every client hang
                logger.exception("reading the inbox failed and goes on")
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def reread(self) -> None:
        """Look at every watched job, whatever the inbox said; drop what nobody can be waiting for any more.

        Raises ServerOverloaded.
        """
        now_s = time.monotonic()
        for watch in [watch for watch in self._watches.values() if watch.gives_up_at < now_s]:
            self._watches.pop(watch.job.id, None)
        await self._look([watch for watch in self._watches.values() if watch.is_submitted])

    async def _look(self, watches: Sequence[Watch]) -> None:
        """Read these jobs' states and let those who wait for the ended ones go."""
        by_model: dict[str, list[Watch]] = {}
        for watch in watches:
            by_model.setdefault(watch.job.model, []).append(watch)
        for model, own in by_model.items():
            for start in range(0, len(own), LOOK_BATCH):
                batch = own[start : start + LOOK_BATCH]
                statuses = await self._queues[model].statuses([watch.job for watch in batch])
                for watch, status in zip(batch, statuses, strict=True):
                    if status is None or status.state.is_terminal:
                        self._end(watch, status)

    def _end(self, watch: Watch, status: JobStatus | None) -> None:
        if self._watches.pop(watch.job.id, None) is None:
            return  # somebody else looked meanwhile; an end is counted once
        if not watch.end.done():
            watch.end.set_result(status)
        if watch.is_charged:
            self._settlements.note_end(watch.job, status)
        if status is not None:
            self._metrics.count_end(status, num_requests=watch.num_wanted)

    def _stopping(self, job: Job) -> ServerOverloaded:
        message = f"this gateway is stopping; the job goes on and can be had at /v1/jobs/{job.id}"
        return ServerOverloaded(message, retry_after_s=1)
