"""Streams whose client has gone: their jobs are called off unless somebody comes back for them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from service.errors import EmmditError, JobNotFound
from service.jobs import Job
from service.queues import Queues

logger = logging.getLogger(__name__)

GRACE_S = 10.0  # a stream that broke is taken up again within some seconds, perhaps through another gateway


class Abandoned:
    """Belongs to one event loop."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, job: Job, grace_s: float = GRACE_S) -> None:
        """The client of this job's stream has gone."""
        task = asyncio.create_task(self._cancel_unless_watched(job, grace_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """This gateway stops: what has not been called off by now goes on."""
        for task in self._tasks:
            task.cancel()

    async def _cancel_unless_watched(self, job: Job, grace_s: float) -> None:
        await asyncio.sleep(grace_s)
        queue = self._queues[job.model]
        try:
            with suppress(JobNotFound):
                if await queue.events.count_watchers(job.id) == 0:
                    await queue.cancel(job.id, job.owner)
        except EmmditError as error:
            logger.warning("job %s could not be cancelled: %s; it ends at its deadline", job.id, error.code)
