"""The queue of one model in Redis or Valkey: who waits, who runs, who ended and how.

Every move of a job is one Lua script (service/scripts), fenced by the attempt and timed by the server's clock alone.
Scripts declare all their keys, so a script that cannot know its jobs beforehand comes in two: one that names them
(peek, due) and one that looks again and acts (claim, reap).
No call waits for the server longer than two seconds, but for the two that are there to wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from service import queue_wire as wire
from service.dead_letters import DeadLetters
from service.errors import ConfigurationError, IdempotencyKeyReused, JobNotFound, QueueFull, ServerOverloaded
from service.job_events import JobEvents
from service.jobs import Failed, Job, JobResult, JobStatus, WatchLevel, decode_job, encode_result
from service.keys import LINK_SECRET, QueueKeys
from service.many_queues import pop_any, set_sizes
from service.owner_jobs import OwnerJobs
from service.queue_server import CALL_BUDGET_S, MAX_BLOCK_S, SERVER_RETRY_AFTER_S, QueueServer, translated
from service.queue_types import (
    HeartbeatReply,
    IdempotencyKey,
    InboxEvent,
    JobProgress,
    QueueLimits,
    QueueStats,
    ReapReport,
    Submitted,
    WorkerInfo,
    retry_after_s,
)

MAX_MEMORY_RATIO = 0.8
REAP_BATCH = 100
MAX_ROUNDS = 5
COMES_TOO_LATE = -2
KEY_REUSED = -3
KEY_KNOWN = -4


class JobQueue:
    """One model's queue. Made by `connect`; its methods may be called from many tasks of one event loop.

    Every method raises ServerOverloaded (retry_after_s) while the server cannot be reached or refuses work. The
    outcome of the call is then unknown, and the same call may safely be made again: `submit` is idempotent by job
    id, everything about a running job by its attempt.
    """

    def __init__(self, server: QueueServer, keys: QueueKeys, limits: QueueLimits) -> None:
        self.limits = limits
        self._server = server.serving(keys.queue)
        self._commands = self._server.commands
        self._keys = keys
        self.events = JobEvents(self._server, keys)
        self.owned = OwnerJobs(self._server, keys)
        self.dead = DeadLetters(self._server, keys, limits)
        self._arrival = ""  # what woke this worker: a job and its inbox, probably the queue's head

    @property
    def server(self) -> QueueServer:
        """Where it is: for what belongs to no model."""
        return self._server

    @classmethod
    def connect(cls, url: str, *, model: str, limits: QueueLimits) -> Self:
        """A queue on the server at `url` (service/redis_address.py); connections are made when first needed.

        Raises ConfigurationError for a URL or a model name that cannot be used.
        """
        try:
            keys = QueueKeys(model)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        return cls(QueueServer.connect(url), keys, limits)

    def of_model(self, model: str) -> Self:
        """The queue of another model, over the same connections. Raises ConfigurationError for its name."""
        try:
            keys = QueueKeys(model)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        return type(self)(self._server, keys, self.limits)

    async def submit(self, job: Job, key: IdempotencyKey | None = None) -> Submitted:
        """Accept a job. Once this returns, the job reaches exactly one end, whatever happens to any process.

        An id accepted before is left alone and reported as not new. So is a job that was accepted before under the same
        `key`, as long as it can be read: it is reported in place of this one. Raises QueueFull (retry_after_s from the
        backlog and the workers' measured rate), IdempotencyKeyReused, and ServerOverloaded also where the server is
        short of memory.
        """
        gone = ""
        for _ in range(MAX_ROUNDS):
            outcome = await self._submit_once(job, key, gone)
            if isinstance(outcome, Submitted):
                return outcome
            try:
                earlier = await self.status(outcome, job.owner)
            except JobNotFound:  # past its time, for good: the key may name another now
                gone = outcome
            else:
                return Submitted(earlier.position or 0, is_new=False, earlier=earlier)
        raise ServerOverloaded("too many requests with one key at a time", retry_after_s=SERVER_RETRY_AFTER_S)

    async def keyed(self, key: IdempotencyKey, owner: str) -> JobStatus | None:
        """The job that was accepted under this key; None where there is none, or it is past its time.

        Raises IdempotencyKeyReused where the key was used for something else.
        """
        async with translated(CALL_BUDGET_S):
            fingerprint, job_id = await self._commands.hmget(self._keys.idempotency(key.digest), "fingerprint", "job")
        if fingerprint is None:
            return None
        if fingerprint != key.fingerprint:
            raise _key_reused()
        try:
            return await self.status(job_id, owner)
        except JobNotFound:
            return None

    # Pipelines here are no transactions: Redis refuses even reads within MULTI while it is over its memory limit.

    async def status(self, job_id: str, owner: str | None) -> JobStatus:
        """The job as it stands. Raises JobNotFound for an unknown id, an ended job past its time, another's job.

        Without an owner it is anybody's: the caller has proof that it may be seen.
        """
        async with translated(CALL_BUDGET_S), self._commands.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._keys.job(job_id))
            pipe.zrank(self._keys.queue, job_id)
            fields, rank = await pipe.execute()
        if not fields or owner not in (None, fields.get("owner")):
            raise wire.job_not_found(job_id)
        return wire.decode_status(fields, rank)

    async def statuses(self, jobs: Sequence[Job]) -> tuple[JobStatus | None, ...]:
        """These jobs as they stand, without their places in the queue; None for one that is gone. One round trip."""
        async with translated(CALL_BUDGET_S), self._commands.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.hmget(self._keys.job(job.id), wire.STATUS_FIELDS)
            replies = await pipe.execute()
        return tuple(wire.decode_known_status(job, reply) for job, reply in zip(jobs, replies, strict=True))

    async def cancel(self, job_id: str, owner: str) -> JobStatus:
        """End a waiting job at once; ask a running one's worker, which learns it from its next heartbeat, to stop.

        An ended job stays as it is. Raises JobNotFound as `status` does.
        """
        async with translated(CALL_BUDGET_S):
            keys, (_, inbox_key) = await self._declare(job_id)
            ttl = wire.to_ms(self.limits.result_ttl_s)
            fields = await self._run("cancel", keys, job_id, owner, wire.CANCELLED_QUEUED, inbox_key, ttl)
        if not fields:
            raise wire.job_not_found(job_id)
        return wire.decode_status(dict(zip(fields[::2], fields[1::2], strict=True)), None)

    async def claim(self, worker_id: str, max_jobs: int, max_rows: int, is_idle: bool) -> tuple[Job, ...]:
        """Take jobs off the queue's head and lease them to the worker, `attempt` counted up.

        Order: priority, then the tenants' virtual time, then first come first served. Jobs are taken while rows are
        left, so the last one may have more pictures than that. A job that lost an attempt before is handed out only
        to an idle worker and alone, holds the queue up until there is one, and the worker gets nothing else while it
        runs. Jobs past their deadline end as expired on the way.
        """
        jobs: list[Job] = []
        rows_left = max_rows
        is_more_likely = True
        while is_more_likely and len(jobs) < max_jobs and rows_left > 0:
            try:
                reply = await self._claim_once(worker_id, max_jobs - len(jobs), rows_left, is_idle and not jobs)
            except ServerOverloaded:
                if jobs:
                    break
                raise
            is_more_likely = bool(reply[0])
            for job_id, text, attempt, left_ms, level in zip(*(reply[start::5] for start in range(1, 6)), strict=True):
                try:
                    job = decode_job(text, attempt, left_ms / 1000)
                    jobs.append(replace(job, watch_level=WatchLevel(int(level))))
                except ValueError as error:
                    # Written by another version of this program: perhaps a worker of that version is about too.
                    await self.retry(job_id, attempt, Failed("unreadable_job", f"no worker can read this job: {error}"))
            rows_left = max_rows - sum(job.num_images for job in jobs)
        return tuple(jobs)

    async def wait_for_work(self, timeout_s: float, others: Sequence[JobQueue] = ()) -> None:
        """Return when a job may have come, here or to one of the `others`, or after `timeout_s` (5 s at most).

        One arrival wakes one waiter.
        """
        wait_s = min(max(timeout_s, 0.01), MAX_BLOCK_S)
        async with translated(wait_s + CALL_BUDGET_S):
            by_list = {queue._keys.wake: queue for queue in (self, *others)}
            found = await pop_any([(queue._server, key) for key, queue in by_list.items()], wait_s)
        for key, arrival in found.items():
            by_list[key]._arrival = arrival

    async def count_queued(self, others: Sequence[JobQueue] = ()) -> tuple[int, ...]:
        """Jobs that may run now, here and in each of the `others`, in one round trip to each server."""
        async with translated(CALL_BUDGET_S):
            return await set_sizes([(queue._server, queue._keys.queue) for queue in (self, *others)])

    async def heartbeat(self, worker: WorkerInfo, progress: Sequence[JobProgress]) -> HeartbeatReply:
        """Say that the worker lives, how far its jobs are, and renew their leases; learn which of them to drop."""
        keys = [self._keys.job(job.job_id) for job in progress]
        async with translated(CALL_BUDGET_S):
            arguments = wire.heartbeat_arguments(worker, progress, self.limits)
            cancelled, expired, lost, watched = await self._run("heartbeat", keys, *arguments)
        levels = {job_id: WatchLevel(int(level)) for job_id, level in zip(watched[::2], watched[1::2], strict=True)}
        return HeartbeatReply(tuple(cancelled), tuple(expired), tuple(lost), levels)

    async def finish(self, job_id: str, attempt: int, result: JobResult, *, inbox: str | None = None) -> bool:
        """End a running job with what this attempt made of it, and tell its inbox, once.

        False if the attempt no longer counts: the job ended otherwise, or runs elsewhere by now. `inbox` is the job's
        own; None where the caller does not know it, which costs a look.
        """
        results = [str(result.state), encode_result(result)]
        return await self._end_attempt("finish", job_id, attempt, results, [self.limits.max_dead_letters], inbox=inbox)

    async def retry(self, job_id: str, attempt: int, failure: Failed) -> bool:
        """Give a job back whose attempt failed: it waits for another, alone, or ends as `failure` after the last.

        False if the attempt no longer counts.
        """
        limits = (self.limits.max_attempts, wire.to_ms(self.limits.retry_delay_s), self.limits.max_dead_letters)
        results = [encode_result(failure), wire.CANCELLED_RUNNING]
        return await self._end_attempt("retry", job_id, attempt, results, limits)

    async def release(self, job_id: str, attempt: int) -> bool:
        """Give a job back unharmed, to the front of its class and with no attempt used up: this worker stops.

        False if the attempt no longer counts.
        """
        return await self._end_attempt("release", job_id, attempt, [wire.CANCELLED_RUNNING])

    async def reap(self) -> ReapReport:
        """Put right what time has changed: leases and deadlines run out, retries due. Cheap when nothing has.

        Every gateway and worker calls this about once a second; any number may do so at once.
        """
        report = ReapReport()
        for _ in range(MAX_ROUNDS):
            async with translated(CALL_BUDGET_S):
                ttls = [wire.to_ms(self.limits.lease_s), wire.to_ms(self.limits.dead_letter_ttl_s)]
                due = await self._run("due", [], REAP_BATCH, *ttls)
                if not due:
                    break
                keys, jobs = self._keys.declare(due)
                report += ReapReport(*await self._run("reap", keys, *wire.reap_arguments(self.limits), *jobs))
            if len(due) < 2 * REAP_BATCH:
                break
        return report

    async def stats(self) -> QueueStats:
        """How much waits and runs, and how long the oldest has waited."""
        keys = self._keys
        async with translated(CALL_BUDGET_S), self._commands.pipeline(transaction=False) as pipe:
            pipe.time()
            for key in (keys.waiting, keys.running, keys.delayed):
                pipe.zcard(key)
            pipe.zrange(keys.waiting, 0, 0, withscores=True)
            pipe.hget(keys.totals, "waiting_cost")
            pipe.zcard(keys.dead)
            reply = await pipe.execute()
        return wire.decode_stats(*reply, capacity=self.limits.capacity)

    async def workers(self) -> tuple[WorkerInfo, ...]:
        """The workers heard of within the last `lease_s`, by id."""
        async with translated(CALL_BUDGET_S):
            return await self._live_workers()

    async def remove_worker(self, worker_id: str) -> None:
        """Forget a worker that says goodbye. Its jobs, if any are left, come back when their leases end."""
        async with translated(CALL_BUDGET_S), self._commands.pipeline(transaction=False) as pipe:
            pipe.zrem(self._keys.workers, worker_id)
            pipe.hdel(self._keys.worker_records, worker_id)
            await pipe.execute()

    async def read_inbox(self, inbox: str, after: str, timeout_s: float) -> tuple[InboxEvent, ...]:
        """Jobs of this inbox that ended after the event `after` ("0" for all); waits `timeout_s` (5 s at most) for one.

        The stream is bounded in length and time, so a reader that fell behind asks `status` for what it waits for.
        """
        wait_s = min(max(timeout_s, 0.01), MAX_BLOCK_S)
        async with translated(wait_s + CALL_BUDGET_S):
            streams = {self._keys.inbox(inbox): after}
            reply = await self._server.blocking.xread(streams, count=512, block=wire.to_ms(wait_s))
        return tuple(InboxEvent(event, fields["job"]) for _, events in reply for event, fields in events)

    async def link_secret(self) -> str:
        """What all gateways sign links to pictures with, whatever the model."""
        async with translated(CALL_BUDGET_S):
            return await self._server.serving(LINK_SECRET).shared_secret(LINK_SECRET)

    async def ping(self) -> None:
        """Return if the server answers."""
        async with translated(CALL_BUDGET_S):
            await self._commands.ping()

    async def server_memory_ratio(self) -> float:
        """Share of the server's memory limit in use, 0 where it has no limit."""
        async with translated(CALL_BUDGET_S):
            await self._server.ask()
        return self._server.memory_ratio

    async def close(self) -> None:
        """Close every connection."""
        await self._server.close()

    async def _run(self, name: str, keys: Sequence[str], *arguments: str | int) -> Any:  # noqa: ANN401  (Lua's reply)
        return await self._server.run(name, (*self._keys.shared, *keys), *arguments)

    async def _submit_once(self, job: Job, key: IdempotencyKey | None, gone: str) -> Submitted | str:
        """What became of the job; or the id of another that was accepted under its key, unless that is `gone`."""
        keys = [self._keys.job(job.id), self._keys.owner_jobs(job.owner)]
        if key:
            keys.append(self._keys.idempotency(key.digest))
        async with translated(CALL_BUDGET_S):
            valid_until_ms = await self._server.valid_until_ms()
            if self._server.memory_ratio > MAX_MEMORY_RATIO:
                raise ServerOverloaded("the queue's server is short of memory", retry_after_s=SERVER_RETRY_AFTER_S)
            arguments = wire.submit_arguments(job, self.limits, valid_until_ms, key, gone)
            outcome, *details = await self._run("submit", keys, *arguments)
            if outcome >= 0:
                return Submitted(position=details[0], is_new=bool(outcome))
            if outcome == COMES_TOO_LATE:
                raise self._server.too_late()
            if outcome == KEY_REUSED:
                raise _key_reused()
            if outcome == KEY_KNOWN:
                return str(details[0])
            rates = [worker.rate_cost_per_s for worker in await self._live_workers()]
        raise QueueFull(
            f"the queue is full: {details[0]} jobs wait and {self.limits.capacity} may",
            retry_after_s=retry_after_s(wire.from_ticks(details[1]), rates),
        )

    async def _claim_once(self, worker_id: str, max_jobs: int, max_rows: int, is_idle: bool) -> list[Any]:
        async with translated(CALL_BUDGET_S):
            head, self._arrival = self._arrival.split(" "), ""
            if len(head) != 2:
                # A few more than asked for, since some may turn out to be past their deadline.
                head = await self._run("peek", [], max_jobs + 8)
            if not head:
                return [0]
            keys, jobs = self._keys.declare(head)
            until_ms = await self._server.valid_until_ms()
            arguments = wire.claim_arguments(worker_id, max_jobs, max_rows, is_idle, self.limits, until_ms)
            reply: list[Any] = await self._run("claim", keys, *arguments, *jobs)
        if reply[0] == COMES_TOO_LATE:
            raise self._server.too_late()
        return reply

    async def _end_attempt(
        self,
        script: str,
        job_id: str,
        attempt: int,
        results: Sequence[str],
        limits: Sequence[int] = (),
        inbox: str | None = None,
    ) -> bool:
        async with translated(CALL_BUDGET_S):
            keys, (_, inbox_key) = await self._declare(job_id, inbox)
            ttl = wire.to_ms(self.limits.result_ttl_s)
            return bool(await self._run(script, keys, job_id, attempt, *results, inbox_key, ttl, *limits))

    async def _declare(self, job_id: str, inbox: str | None = None) -> tuple[list[str], list[str]]:
        """Keys and arguments of one job. A job's inbox never changes, so reading it first is safe."""
        if inbox is None:
            inbox = await self._commands.hget(self._keys.inboxes, job_id)
        return self._keys.declare([job_id, inbox or ""])

    async def _live_workers(self) -> tuple[WorkerInfo, ...]:
        async with self._commands.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.zrange(self._keys.workers, 0, -1, withscores=True)
            pipe.hgetall(self._keys.worker_records)
            return wire.decode_workers(*await pipe.execute(), lease_s=self.limits.lease_s)


def _key_reused() -> IdempotencyKeyReused:
    return IdempotencyKeyReused("this idempotency key was used for another request; allowed: a new one for each")
