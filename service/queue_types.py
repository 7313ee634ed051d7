"""The values that go into and come out of the queue. Plain and frozen; nothing here talks to Redis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.jobs import JobStatus, WatchLevel

MAX_RETRY_AFTER_S = 120
UNKNOWN_RATE_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What the queue promises at most.

    `capacity` counts jobs that wait (queued or in a retry's delay). `lease_s` is how long a worker may stay silent
    about a job, and how long its own record lives. `max_attempts` counts attempts that failed or were lost, not those
    given back by `JobQueue.release`. `result_ttl_s` is how long a finished job can be read, `idempotency_ttl_s` how
    long a client's own key is remembered; of jobs that failed for good the last `max_dead_letters` are kept for
    `dead_letter_ttl_s`. Raises ValueError for a limit with which no job could run.
    """

    capacity: int = 256
    lease_s: float = 15.0
    max_attempts: int = 3
    retry_delay_s: float = 1.0
    result_ttl_s: float = 3600.0
    idempotency_ttl_s: float = 86400.0
    dead_letter_ttl_s: float = 604800.0
    max_dead_letters: int = 1000

    def __post_init__(self) -> None:
        if self.capacity < 1 or self.max_attempts < 1:
            raise ValueError(f"capacity and max_attempts must be >= 1, got {self.capacity} and {self.max_attempts}")
        if self.dead_letter_ttl_s <= 0 or self.max_dead_letters < 0:
            raise ValueError(
                "dead_letter_ttl_s must be positive and max_dead_letters >= 0, "
                f"got {self.dead_letter_ttl_s} and {self.max_dead_letters}"
            )
        if min(self.lease_s, self.result_ttl_s, self.idempotency_ttl_s) <= 0 or self.retry_delay_s < 0:
            raise ValueError(
                "lease_s, result_ttl_s and idempotency_ttl_s must be positive and retry_delay_s >= 0, "
                f"got {self.lease_s}, {self.result_ttl_s}, {self.idempotency_ttl_s} and {self.retry_delay_s}"
            )


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's own key for one request: two that bear the same are one.

    `digest` stands for the owner and the key, `fingerprint` for what was asked for. Both are hex digests, so that
    neither can break out of a name.
    """

    digest: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """`position` is 0 for the next to run; `is_new` is False where the id had been accepted before.

    `earlier` is another job, as it stands, which was accepted before under the same key in place of this one.
    """

    position: int
    is_new: bool
    earlier: JobStatus | None = None


@dataclass(frozen=True, slots=True)
class JobProgress:
    """What a worker says about one job it holds.

    `step` of `num_steps` are denoising steps summed over the job's pictures. The lease is renewed only where
    `is_renewed`: a worker whose steps no longer advance stops renewing and so gives the job up.
    """

    job_id: str
    attempt: int
    step: int
    num_steps: int
    is_renewed: bool = True


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """Jobs that the worker must stop drawing, by id. One id is in one of the three at most.

    `cancelled`: finish with `Cancelled`. `expired`: past the deadline, finish with `Expired`. `lost`: no longer this
    worker's (ended, or given to another); drop the rows, say nothing. `watched` has what somebody wants to see of those
    that go on.
    """

    cancelled: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    watched: Mapping[str, WatchLevel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as it describes itself.

    A worker with several models does so once for each. `started_at` is seconds since the epoch on its own clock, shown
    and never computed with; `rate_cost_per_s` is its measured speed with `model` in megapixel-steps per second, as its
    other models let it be, 0 while unknown; `costs` is a `CostSummary` (service/estimates.py) as a dictionary, empty
    while nothing was measured. `models` are all that it serves; `memory` has the bytes of this one's parts, and
    `shared_with` the other models of those parts that are not its own. It `can_store` unless the store of pictures
    refuses them.
    """

    id: str
    model: str
    version: str
    device: str
    started_at: float
    rate_cost_per_s: float = 0.0
    costs: dict[str, Any] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    shared_with: dict[str, list[str]] = field(default_factory=dict)
    can_store: bool = True


@dataclass(frozen=True, slots=True)
class ReapReport:
    """Counts of jobs that `JobQueue.reap` moved.

    `requeued` lost their worker and wait for another attempt; `failed` lost their last one; `cancelled` were asked to
    stop and lost their worker; `promoted` have sat out a retry's delay and are in the queue again.
    """

    requeued: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    promoted: int = 0

    def __add__(self, other: ReapReport) -> ReapReport:
        return ReapReport(
            self.requeued + other.requeued,
            self.failed + other.failed,
            self.expired + other.expired,
            self.cancelled + other.cancelled,
            self.promoted + other.promoted,
        )


@dataclass(frozen=True, slots=True)
class QueueStats:
    """`num_waiting` counts every accepted job that is not running, `num_delayed` those of them in a retry's delay.

    `oldest_age_s` is the age of the job that has waited longest since it was accepted, 0 if none waits.
    `waiting_cost` is the backlog in megapixel-steps. `num_dead_letters` counts jobs that failed for good and are kept.
    """

    num_waiting: int
    num_running: int
    oldest_age_s: float
    capacity: int
    num_delayed: int = 0
    waiting_cost: float = 0.0
    num_dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class InboxEvent:
    """One job has ended. `id` is the event's place in the stream: pass the last one seen to `JobQueue.read_inbox`."""

    id: str
    job_id: str


def retry_after_s(waiting_cost: float, rates: Sequence[float]) -> int:
    """Whole seconds, 1..120, until workers of these measured rates have worked off the backlog. Pure.

    `waiting_cost` in megapixel-steps, `rates` in megapixel-steps per second; 5 where no worker has measured its rate.
    """
    total_rate = math.fsum(rates)
    if total_rate <= 0:
        return UNKNOWN_RATE_RETRY_AFTER_S
    return min(max(math.ceil(waiting_cost / total_rate), 1), MAX_RETRY_AFTER_S)
