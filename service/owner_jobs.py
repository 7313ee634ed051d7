"""The jobs of one tenant in one model's queue, newest first.

submit.lua writes the index, bounded in length and time. A job's hash may go before its entry does: whoever reads past
such an entry leaves it out and removes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from service import queue_wire as wire
from service.jobs import JobState, JobStatus
from service.keys import QueueKeys
from service.queue_server import CALL_BUDGET_S, QueueServer, translated

READ_BATCH = 101  # jobs read in one round trip: the most that a page can ask for, and one that says that there are more


def place_of(status: JobStatus) -> tuple[int, str]:
    """What jobs are ordered by, over all models: when they were accepted, in milliseconds, then by id."""
    return round(status.created_at * 1000), status.job.id


class OwnerJobs:
    """JobQueue.owned: one queue's jobs by their tenants. Raises ServerOverloaded as the queue does."""

    def __init__(self, server: QueueServer, keys: QueueKeys) -> None:
        self._commands = server.commands
        self._keys = keys

    async def newest(
        self, owner: str, *, limit: int, before: JobStatus | None = None, state: JobState | None = None
    ) -> list[JobStatus]:
        """The owner's jobs, newest first, at most `limit`: those older than `before`, and in `state` if one is named.

        Only the newest thousand are known by owner.
        """
        index = self._keys.owner_jobs(owner)
        end = place_of(before) if before else None
        size = min(limit, READ_BATCH) if state is None else READ_BATCH
        found: list[JobStatus] = []
        gone: list[str] = []
        async with translated(CALL_BUDGET_S):
            # The whole index in one look, since it is bounded: pages of it would shift while others write.
            newest = end[0] if end else "+inf"
            entries = await self._commands.zrevrangebyscore(index, newest, "-inf", withscores=True)
            ids = [job_id for job_id, created_ms in entries if end is None or (int(created_ms), job_id) < end]
            for start in range(0, len(ids), size):
                for job_id, fields, rank in await self._read(ids[start : start + size]):
                    if not fields:
                        gone.append(job_id)
                    elif fields["owner"] == owner and state in (None, fields["state"]):
                        with suppress(ValueError):  # written by another version of this program: show the others
                            found.append(wire.decode_status(fields, rank))
                if len(found) >= limit:
                    break
            if gone:
                await self._commands.zrem(index, *gone)
        return found[:limit]

    async def read(self, owner: str, ids: Sequence[str]) -> list[JobStatus | None]:
        """These jobs as they stand; None for one that is gone, another owner's, or of another version's making."""
        async with translated(CALL_BUDGET_S):
            found = await self._read(list(ids))
        statuses: list[JobStatus | None] = [None] * len(found)
        for place, (_, fields, rank) in enumerate(found):
            if fields.get("owner") == owner:
                with suppress(ValueError):
                    statuses[place] = wire.decode_status(fields, rank)
        return statuses

    async def _read(self, ids: list[str]) -> list[tuple[str, dict[str, str], int | None]]:
        """Each job's id, its hash, empty where it is gone, and its place in the queue."""
        async with self._commands.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(self._keys.job(job_id))
                pipe.zrank(self._keys.queue, job_id)
            replies = await pipe.execute()
        return list(zip(ids, replies[::2], replies[1::2], strict=True))
