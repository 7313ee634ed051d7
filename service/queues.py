"""The queues of several models on one server: a worker claims from all of its models', a gateway looks into all.

Each model has keys of its own (service/keys.py), so nothing here is atomic over models: what holds for a job holds in
its own queue. Surprising: while one queue holds a retried job back for a worker that runs dry, nothing is claimed from
the others either, or a busy model would keep it waiting for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Self

from service.errors import JobNotFound, ServerOverloaded
from service.job_events import News
from service.jobs import Job, JobState, JobStatus
from service.ledger import Ledger
from service.owner_jobs import place_of
from service.queue import JobQueue
from service.queue_types import IdempotencyKey, QueueLimits, ReapReport
from service.tenants import Tenants


class Queues(Mapping[str, JobQueue]):
    """Queues by model, over one set of connections. Methods raise what those of JobQueue do.

    One worker at most claims through one of these.
    """

    def __init__(self, by_model: Mapping[str, JobQueue]) -> None:
        self._by_model = dict(by_model)
        self._held_up: str | None = None  # the model whose next job waits for this worker to run dry

    @classmethod
    def connect(cls, url: str, *, models: Collection[str], limits: QueueLimits) -> Self:
        """Queues of these models on the server at `url`; see JobQueue.connect."""
        first, *others = models
        queue = JobQueue.connect(url, model=first, limits=limits)
        return cls({first: queue} | {model: queue.of_model(model) for model in others})

    def __getitem__(self, model: str) -> JobQueue:
        return self._by_model[model]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_model)

    def __len__(self) -> int:
        return len(self._by_model)

    async def claim(
        self, worker_id: str, num_free: int, held: Mapping[str, int], *, runs_alone: bool = False
    ) -> tuple[Job, ...]:
        """Take jobs for `num_free` pictures, the models with the fewest first, so that each gets its part.

        `held` counts pictures that the worker has by model, without those models of which it has none; nothing is
        claimed where it `runs_alone`. JobQueue.claim says what the jobs of one model are.
        """
        if runs_alone:
            return ()
        jobs: list[Job] = []
        for model, num_places in (await self._places(num_free, held)).items():
            num_left = num_free - sum(job.num_images for job in jobs)
            if num_left <= 0:
                break
            wanted = min(num_places, num_left)
            try:
                found = await self[model].claim(worker_id, wanted, wanted, is_idle=not held and not jobs)
            except ServerOverloaded:
                if jobs:
                    break
                raise
            jobs += found
            if not found:  # its jobs wait, and none is for a worker that has others: let it run dry
                self._held_up = model
                break
            if found[0].attempt > 1:
                break  # perhaps it has to be alone
            if model == self._held_up:
                self._held_up = None
        return tuple(jobs)

    async def _places(self, num_free: int, held: Mapping[str, int]) -> dict[str, int]:
        """Free places by model, those that were held up first and then who has the fewest pictures."""
        if len(self) == 1:
            return dict.fromkeys(self, num_free)
        queues = list(self.values())
        waiting = await queues[0].count_queued(queues[1:])
        hopeful = {model: held.get(model, 0) for model, num_jobs in zip(self, waiting, strict=True) if num_jobs}
        if self._held_up not in hopeful:
            self._held_up = None
        places = fair_places(hopeful, num_free)
        order = sorted(places, key=lambda model: (model != self._held_up, hopeful[model]))
        return {model: places[model] for model in order}

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return when a job of any model may have come, or after `timeout_s` (5 s at most)."""
        first, *others = self.values()
        await first.wait_for_work(timeout_s, others)

    def news(self) -> News:
        """Which watched jobs of any model have something to show, over one connection. The caller closes it."""
        first, *others = (queue.events for queue in self.values())
        return first.news(others)

    async def reap(self) -> ReapReport:
        """JobQueue.reap of every model."""
        return sum(await asyncio.gather(*(queue.reap() for queue in self.values())), ReapReport())

    async def status(self, job_id: str, owner: str | None) -> JobStatus:
        """The job, whichever model's it is. Raises JobNotFound where none of them knows it for this owner (or any)."""
        return _found(await asyncio.gather(*(_status(queue, job_id, owner) for queue in self.values())), job_id)

    async def cancel(self, job_id: str, owner: str) -> JobStatus:
        """JobQueue.cancel, whichever model's job it is. Raises JobNotFound as `status` does."""
        status = await self.status(job_id, owner)
        return await self[status.job.model].cancel(job_id, owner)

    async def keyed(self, key: IdempotencyKey, owner: str) -> JobStatus | None:
        """JobQueue.keyed, whichever model's the job is.

        A look only: of two requests that come with one key for two models at the same moment both may be accepted.
        """
        found = await asyncio.gather(*(queue.keyed(key, owner) for queue in self.values()))
        return next((status for status in found if status is not None), None)

    async def jobs(
        self, owner: str, *, limit: int, after: str | None = None, state: JobState | None = None
    ) -> tuple[list[JobStatus], bool]:
        """The owner's jobs of all models, newest first: `limit` at most, and whether there are more.

        Those that come after the job `after` in that order. Raises JobNotFound where the owner has no such job.
        """
        before = await self.status(after, owner) if after is not None else None
        pages = await asyncio.gather(
            *(queue.owned.newest(owner, limit=limit + 1, before=before, state=state) for queue in self.values())
        )
        jobs = sorted((status for page in pages for status in page), key=place_of, reverse=True)
        return jobs[:limit], len(jobs) > limit

    def tenants(self) -> Tenants:
        """Who may ask, whatever the model, over the same connections."""
        return Tenants(next(iter(self.values())).server)

    def ledger(self) -> Ledger:
        """What tenants have used up, whatever the model, over the same connections."""
        return Ledger(next(iter(self.values())).server)

    def of_model(self, model: str) -> JobQueue:
        """The queue of any model on this server, also where it is none of these."""
        return self._by_model.get(model) or next(iter(self.values())).of_model(model)

    async def link_secret(self) -> str:
        """JobQueue.link_secret."""
        return await next(iter(self.values())).link_secret()

    async def ping(self) -> None:
        """Return if the server answers."""
        await next(iter(self.values())).ping()

    async def remove_worker(self, worker_id: str) -> None:
        """JobQueue.remove_worker for every model."""
        await asyncio.gather(*(queue.remove_worker(worker_id) for queue in self.values()))

    async def close(self) -> None:
        """Close the connections, which all share."""
        await next(iter(self.values())).close()


def fair_places(held: Mapping[str, int], num_free: int) -> dict[str, int]:
    """Deal `num_free` places out so that the models come to hold as equal numbers as they can; 0 is left out. Pure.

    `held` has a model for each queue in which jobs wait. Between equals the first in `held` gets one more.
    """
    totals = dict(held)
    for _ in range(num_free if totals else 0):
        poorest = min(totals, key=lambda model: totals[model])
        totals[poorest] += 1
    return {model: total - held[model] for model, total in totals.items() if total > held[model]}


async def _status(queue: JobQueue, job_id: str, owner: str | None) -> JobStatus | None:
    try:
        return await queue.status(job_id, owner)
    except JobNotFound:
        return None


def _found(statuses: Sequence[JobStatus | None], job_id: str) -> JobStatus:
    for status in statuses:
        if status is not None:
            return status
    raise JobNotFound(f"there is no job {job_id[:64]!r}")
