"""Which workers are alive, as this gateway last saw it: readiness, admission and estimates read it without waiting."""

from __future__ import annotations

import math
import time

from service.errors import NoWorker
from service.jobs import JobState, JobStatus
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
        self.has_looked = False

    async def look(self) -> None:
        """Ask the queue for live heartbeats. Raises ServerOverloaded."""
        self.alive = tuple(worker for worker in await self._queue.workers() if worker.model == self._model)
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

    def seconds_left(self, status: JobStatus, stats: QueueStats) -> float | None:
        """An estimate from the workers' measured rates and the backlog; None where nothing was measured yet."""
        rate = math.fsum(worker.rate_cost_per_s for worker in self.alive)
        if rate <= 0 or status.state.is_terminal:
            return None
        own_s = status.job.cost * (1 - status.step / max(status.num_steps, 1)) / rate
        if status.state is JobState.RUNNING:
            # The job shares its worker's rate with the pictures beside it.
            num_rows = sum(worker.num_rows for worker in self.alive) / len(self.alive)
            return own_s * len(self.alive) * max(1.0, num_rows / status.job.num_images)
        num_ahead = status.position or 0
        mean_cost = stats.waiting_cost / max(stats.num_waiting, 1)
        return own_s + num_ahead * mean_cost / rate
