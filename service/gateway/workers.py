"""Which workers are alive, as this gateway last saw it: readiness, admission and estimates read it without waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from service.blobs import STORE_RETRY_AFTER_S
from service.errors import DeadlineExceeded, NoWorker, ServerOverloaded
from service.estimates import CostSummary, Work, can_finish_by, seconds_left
from service.jobs import Job, JobState, JobStatus
from service.queue import JobQueue
from service.queue_types import QueueStats, WorkerInfo

LOOK_PERIOD_S = 1.0
NO_WORKER_RETRY_AFTER_S = 10.0  # about what a worker needs to load a small model


class WorkerWatch:
    """`look` is called every LOOK_PERIOD_S; everything else answers from memory."""

    def __init__(self, queue: JobQueue, *, model: str, grace_s: float) -> None:
        self._queue = queue
        self._model = model
        self._grace_s = grace_s
        self._seen_at = time.monotonic()  # a gateway that has just started gives its workers the same grace
        self.alive: tuple[WorkerInfo, ...] = ()
        self._summaries: tuple[CostSummary, ...] = ()
        self.has_looked = False

    async def look(self) -> None:
        """Ask the queue for live heartbeats. Raises ServerOverloaded."""
        self.alive = tuple(worker for worker in await self._queue.workers() if worker.model == self._model)
        self._summaries = tuple(_summaries_of(self.alive))
        self.has_looked = True
        if self.alive:
            self._seen_at = time.monotonic()

    def refuse_if_absent(self) -> None:
        """Raises NoWorker where none has been alive for longer than the grace.

        A worker that is killed or replaced must cost a pause and no request, so its brief absence refuses nothing.
        """
        absent_s = time.monotonic() - self._seen_at
        if not self.alive and absent_s > self._grace_s:
            raise NoWorker(
                f"no worker for model {self._model} has been alive for {absent_s:.0f} s",
                retry_after_s=NO_WORKER_RETRY_AFTER_S,
            )

    def refuse_if_none_can_store(self) -> None:
        """Raises ServerOverloaded where every worker that is alive has nowhere to put its pictures."""
        if self.alive and not any(worker.can_store for worker in self.alive):
            raise ServerOverloaded("pictures cannot be stored for now", retry_after_s=STORE_RETRY_AFTER_S)

    def seconds_left(self, status: JobStatus, stats: QueueStats) -> float | None:
        """An estimate from the workers' measured durations and the backlog; None where nothing was measured yet."""
        if status.state.is_terminal:
            return None
        work = work_of(status.job, share_left=1 - status.step / max(status.num_steps, 1))
        is_waiting = status.state is JobState.QUEUED
        mean_cost = stats.waiting_cost / max(stats.num_waiting, 1)
        cost_ahead = (status.position or 0) * mean_cost if is_waiting else None
        return seconds_left(work, self._summaries, cost_ahead=cost_ahead)

    def refuse_if_too_late(self, job: Job) -> None:
        """Raises DeadlineExceeded where not even the fastest worker could draw this in time, alone."""
        if not can_finish_by(work_of(job), self._summaries, job.timeout_s):
            raise DeadlineExceeded(
                f"timeout_s: {job.timeout_s:g} is not enough for this picture on the workers that are alive; "
                "allowed: a longer one, or fewer steps or pictures"
            )


def _summaries_of(workers: Sequence[WorkerInfo]) -> Iterator[CostSummary]:
    for worker in workers:
        with suppress(ValueError):  # a worker of another version: its speed is unknown here, its work is not
            yield CostSummary.from_dict(worker.costs)


def work_of(job: Job, share_left: float = 1.0) -> Work:
    """What is left to do for `job`, its pictures being equally far."""
    params = job.params
    return Work(
        group=(job.model, params.width, params.height),
        num_steps=math.ceil(params.num_forwards * share_left),
        rows_per_picture=params.num_rows,
        num_pictures=job.num_images,
    )
