"""The jobs of one tenant in one model's queue, newest first.

submit.lua writes the index, bounded in length and time. A job's hash may go before its entry does: whoever reads past
such an entry leaves it out and removes it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from service import queue_wire as wire
from service.jobs import JobState, JobStatus
from service.keys import QueueKeys

READ_BATCH = 101  # jobs read in one round trip: the most that a page can ask for, and one that says that there are more


def place_of(status: JobStatus) -> tuple[int, str]:
    """What jobs are ordered by, over all models: when they were accepted, in milliseconds, then by id."""
    return round(status.created_at * 1000), status.job.id


async def newest_jobs(
    commands: Any,  # noqa: ANN401  (the server's client; see QueueServer)
    keys: QueueKeys,
    owner: str,
    *,
    limit: int,
    before: JobStatus | None,
    state: JobState | None,
) -> list[JobStatus]:
    """At most `limit` jobs older than `before`, in `state` where one is named."""
    index = keys.owner_jobs(owner)
    end = place_of(before) if before else None
    # The whole index in one look, since it is bounded: pages of it would shift while others write.
    entries = await commands.zrevrangebyscore(index, end[0] if end else "+inf", "-inf", withscores=True)
    ids = [job_id for job_id, created_ms in entries if end is None or (int(created_ms), job_id) < end]
    size = min(limit, READ_BATCH) if state is None else READ_BATCH
    found: list[JobStatus] = []
    gone: list[str] = []
    for start in range(0, len(ids), size):
        batch = ids[start : start + size]
        for job_id, (fields, rank) in zip(batch, await _read(commands, keys, batch), strict=True):
            if not fields:
                gone.append(job_id)
            elif fields["owner"] == owner and state in (None, fields["state"]):
                with suppress(ValueError):  # written by another version of this program: the others can be shown
                    found.append(wire.decode_status(fields, rank))
        if len(found) >= limit:
            break
    if gone:
        await commands.zrem(index, *gone)
    return found[:limit]


async def _read(commands: Any, keys: QueueKeys, ids: list[str]) -> list[tuple[dict[str, str], int | None]]:  # noqa: ANN401
    async with commands.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hgetall(keys.job(job_id))
            pipe.zrank(keys.queue, job_id)
        replies = await pipe.execute()
    return list(zip(replies[::2], replies[1::2], strict=True))
