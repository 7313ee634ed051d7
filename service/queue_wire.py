"""Between the queue's values and what travels to its scripts and back. Pure.

Scripts count in whole milliseconds and whole thousandths of a megapixel-step ("ticks").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.errors import JobNotFound
from service.jobs import (
    Cancelled,
    Expired,
    Failed,
    Job,
    JobResult,
    JobState,
    JobStatus,
    decode_job,
    decode_result,
    encode_job,
    encode_result,
)
from service.queue_types import IdempotencyKey, JobProgress, QueueLimits, QueueStats, WorkerInfo
from service.records import from_fields, to_fields, to_json

CANCELLED_QUEUED = encode_result(Cancelled("queued"))
CANCELLED_RUNNING = encode_result(Cancelled("running"))
EXPIRED_QUEUED = encode_result(Expired("queued"))
EXPIRED_RUNNING = encode_result(Expired("running"))
STATUS_FIELDS = ("owner", "state", "attempt", "step", "num_steps", "created", "started", "finished", "result")
WORKER_LOST = encode_result(Failed("worker_lost", "every attempt at this job ended with the loss of its worker"))


def to_ms(seconds: float) -> int:
    """Whole milliseconds, at least one."""
    return max(round(seconds * 1000), 1)


def to_ticks(cost: float) -> int:
    """Megapixel-steps in whole thousandths, at least one."""
    return max(round(cost * 1000), 1)


def from_ticks(ticks: str | int | None) -> float:
    """Megapixel-steps; 0 for a missing field."""
    return int(ticks or 0) / 1000


def submit_arguments(
    job: Job, limits: QueueLimits, valid_until_ms: int, key: IdempotencyKey | None, gone: str
) -> list[str | int]:
    """ARGV of submit.lua."""
    return [
        job.id,
        encode_job(job),
        job.owner,
        job.inbox,
        int(job.priority),
        to_ticks(job.cost),
        job.num_images,
        to_ms(job.timeout_s),
        job.params.num_forwards * job.num_images,
        limits.capacity,
        valid_until_ms,
        int(job.watch_level),
        to_ms(limits.result_ttl_s),
        key.fingerprint if key else "",
        gone,
        to_ms(limits.idempotency_ttl_s),
    ]


def claim_arguments(
    worker_id: str, max_jobs: int, max_rows: int, is_idle: bool, limits: QueueLimits, valid_until_ms: int
) -> list[str | int]:
    """ARGV of claim.lua, up to the jobs."""
    ttl = to_ms(limits.result_ttl_s)
    return [worker_id, max_jobs, max_rows, int(is_idle), to_ms(limits.lease_s), ttl, EXPIRED_QUEUED, valid_until_ms]


def heartbeat_arguments(worker: WorkerInfo, progress: Sequence[JobProgress], limits: QueueLimits) -> list[str | int]:
    """ARGV of heartbeat.lua."""
    arguments: list[str | int] = [worker.id, to_json(to_fields(worker)), to_ms(limits.lease_s)]
    for job in progress:
        arguments += [job.job_id, job.attempt, job.step, job.num_steps, int(job.is_renewed)]
    return arguments


def reap_arguments(limits: QueueLimits) -> list[str | int]:
    """ARGV of reap.lua, up to the jobs."""
    return [
        to_ms(limits.result_ttl_s),
        limits.max_attempts,
        to_ms(limits.retry_delay_s),
        WORKER_LOST,
        CANCELLED_RUNNING,
        EXPIRED_QUEUED,
        EXPIRED_RUNNING,
        limits.max_dead_letters,
    ]


def decode_status(fields: Mapping[str, str], rank: int | None) -> JobStatus:
    """From a job's hash and its rank in the queue (None if it is not in it)."""
    state = JobState(fields["state"])
    # A job in a retry's delay is in no queue, and comes back to the front.
    position = (rank or 0) if state is JobState.QUEUED else None
    return _status_of(decode_job(fields["job"], int(fields["attempt"])), fields, position)


def decode_known_status(job: Job, values: Sequence[str | None]) -> JobStatus | None:
    """From the `STATUS_FIELDS` of a job that the caller has; None if it is gone, or not this one's."""
    fields = {name: value for name, value in zip(STATUS_FIELDS, values, strict=True) if value is not None}
    if fields.get("owner") != job.owner:
        return None
    return _status_of(replace(job, attempt=int(fields["attempt"])), fields, None)


def _status_of(job: Job, fields: Mapping[str, str], position: int | None) -> JobStatus:
    state = JobState(fields["state"])
    num_steps = int(fields["num_steps"])
    result: JobResult | None = None
    if text := fields.get("result"):
        try:
            result = decode_result(text)
        except ValueError as error:
            # It has ended, and whoever waits must hear so rather than wait for what cannot be read.
            state = JobState.FAILED
            result = Failed("unreadable_result", f"another version of this program wrote the result: {error}")
    return JobStatus(
        job=job,
        state=state,
        step=num_steps if state is JobState.DONE else int(fields["step"]),
        num_steps=num_steps,
        created_at=int(fields["created"]) / 1000,
        started_at=int(fields["started"]) / 1000 if "started" in fields else None,
        finished_at=int(fields["finished"]) / 1000 if "finished" in fields else None,
        position=position,
        result=result,
    )


def decode_stats(
    now: tuple[int, int],
    num_waiting: int,
    num_running: int,
    num_delayed: int,
    oldest: Sequence[tuple[str, float]],
    waiting_ticks: str | None,
    num_dead_letters: int,
    *,
    capacity: int,
) -> QueueStats:
    """From the server's time, the sizes of its sets, and the job accepted first with its time in milliseconds."""
    return QueueStats(
        num_waiting=num_waiting,
        num_running=num_running,
        oldest_age_s=max(seconds(now) - oldest[0][1] / 1000, 0.0) if oldest else 0.0,
        capacity=capacity,
        num_delayed=num_delayed,
        waiting_cost=from_ticks(waiting_ticks),
        num_dead_letters=num_dead_letters,
    )


def decode_workers(
    now: tuple[int, int], seen: Sequence[tuple[str, float]], records: Mapping[str, str], *, lease_s: float
) -> tuple[WorkerInfo, ...]:
    """The workers heard of less than `lease_s` ago, by id; `seen` has the times in milliseconds."""
    oldest_ms = (seconds(now) - lease_s) * 1000
    live = sorted(worker_id for worker_id, seen_ms in seen if seen_ms > oldest_ms and worker_id in records)
    return tuple(from_fields(WorkerInfo, json.loads(records[worker_id])) for worker_id in live)


def job_not_found(job_id: str) -> JobNotFound:
    """What to raise for an unknown id, an ended job past its time, another's job: they look the same."""
    return JobNotFound(f"there is no job {job_id[:64]!r}")


def memory_ratio(memory: Mapping[str, int]) -> float:
    """From INFO memory: the share in use of the server's limit, 0 where it has none."""
    limit = memory.get("maxmemory", 0)
    return (memory["used_memory"] - memory.get("mem_not_counted_for_evict", 0)) / limit if limit else 0.0


def seconds(server_time: tuple[int, int]) -> float:
    """From the reply to TIME."""
    return server_time[0] + server_time[1] / 1e6
