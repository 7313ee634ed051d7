"""Jobs of one model that failed for good, kept for whoever looks after the service: to look at, to run again, to drop.

The scripts that fail a job keep it as it was then, beyond its own time to live, bounded in number and time. Surprising:
a job that is put back is accepted anew, under its old id: it ends once more, and says so once more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from service import queue_wire as wire
from service.errors import QueueFull
from service.jobs import Failed, Job, JobResult, decode_job, decode_result
from service.keys import QueueKeys
from service.queue_server import CALL_BUDGET_S, SERVER_RETRY_AFTER_S, QueueServer, translated
from service.queue_types import QueueLimits

READ_BATCH = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One job as it was when it failed.

    `attempts` failed or were lost since it was accepted. `job` is None where this version of the program can't read it.
    Times are seconds since the epoch on the server's clock.
    """

    id: str
    owner: str
    failure: Failed
    attempts: int
    accepted_at: float
    failed_at: float
    job: Job | None


class DeadLetters:
    """JobQueue.dead. Raises ServerOverloaded as the queue does."""

    def __init__(self, server: QueueServer, keys: QueueKeys, limits: QueueLimits) -> None:
        self._server = server
        self._commands = server.commands
        self._keys = keys
        self._limits = limits

    async def newest(self, limit: int) -> list[DeadLetter]:
        """Those that failed last, the newest first."""
        found: list[DeadLetter] = []
        while len(found) < limit:
            first, size = len(found), min(limit - len(found), READ_BATCH)
            async with translated(CALL_BUDGET_S):
                ids = await self._commands.zrevrange(self._keys.dead, first, first + size - 1)
                texts = await self._commands.hmget(self._keys.dead_letters, ids) if ids else []
            found += [_decoded(job_id, text) for job_id, text in zip(ids, texts, strict=True) if text is not None]
            if len(ids) < size:
                break
        return found

    async def find(self, job_id: str) -> DeadLetter:
        """Raises JobNotFound where it is not among them."""
        async with translated(CALL_BUDGET_S):
            text = await self._commands.hget(self._keys.dead_letters, job_id)
        if text is None:
            raise wire.job_not_found(job_id)
        return _decoded(job_id, text)

    async def requeue(self, job_id: str) -> None:
        """Accept the job again: the same id and seed, all of its time and attempts. It runs alone, like a retried one.

        Raises JobNotFound where it is not among them (any more), QueueFull.
        """
        letter = await self.find(job_id)
        keys: list[str | bytes] = [*self._keys.shared, self._keys.job(job_id), self._keys.owner_jobs(letter.owner)]
        ttl_ms = wire.to_ms(self._limits.result_ttl_s)
        inbox = letter.job.inbox if letter.job else ""
        async with translated(CALL_BUDGET_S):
            outcome, *details = await self._server.run("requeue", keys, job_id, inbox, self._limits.capacity, ttl_ms)
        if outcome < 0:
            message = f"the queue is full: {details[0]} jobs wait and {self._limits.capacity} may"
            raise QueueFull(message, retry_after_s=SERVER_RETRY_AFTER_S)
        if not outcome:
            raise wire.job_not_found(job_id)

    async def drop(self, job_id: str) -> None:
        """Forget it here; the job itself can be read up to its own time. Raises JobNotFound."""
        async with translated(CALL_BUDGET_S), self._commands.pipeline(transaction=False) as pipe:
            pipe.zrem(self._keys.dead, job_id)
            pipe.hdel(self._keys.dead_letters, job_id)
            found = await pipe.execute()
        if not any(found):
            raise wire.job_not_found(job_id)


def _decoded(job_id: str, text: str) -> DeadLetter:
    values = json.loads(text)
    fields = dict(zip(values[::2], values[1::2], strict=True))
    try:
        job = decode_job(fields["job"], int(fields["attempt"]))
    except ValueError:
        job = None
    return DeadLetter(
        id=job_id,
        owner=fields["owner"],
        failure=_failure(fields["result"]),
        attempts=max(int(fields["failures"]), 1),
        accepted_at=int(fields["created"]) / 1000,
        failed_at=int(fields["finished"]) / 1000,
        job=job,
    )


def _failure(text: str) -> Failed:
    try:
        result: JobResult | None = decode_result(text)
    except ValueError:
        result = None
    if isinstance(result, Failed):
        return result
    return Failed("unreadable_result", "another version of this program wrote the result")
