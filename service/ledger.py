"""What tenants have used up of their quotas: charged when a job is let in, settled when it has ended.

A job is charged at once what it may cost, and keeps a reservation until it is settled: that is what makes the charge
one of a job and not of a call, and what an unfinished job is counted by. docs/decisions/quotas.md says what can get
lost between here and the queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from service.jobs import Job
from service.keys import TenantKeys
from service.queue_server import CALL_BUDGET_S, QueueServer, translated
from service.quotas import SECONDS_PER_DAY, Quotas, Reservation, Usage

COMES_TOO_LATE = -5


class Limit(IntEnum):
    """Which quota a job would exceed, as charge.lua says it."""

    JOBS = -1
    QUEUED_JOBS = -2
    RATE = -3
    DAILY_PIXELS = -4


class Outcome(StrEnum):
    """What became of a charged job: `DONE` alone stays charged. `REFUSED` never was a job."""

    DONE = "done"
    UNDONE = "undone"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Charge:
    """Where the tenant stands now. Where `exceeded` is set the job was not charged.

    `wait_s` is how long until the rate lets it in; `reserved` is what its other jobs hold, where they are in the way.
    """

    usage: Usage
    exceeded: Limit | None = None
    wait_s: float = 0.0
    reserved: tuple[Reservation, ...] = ()


class Ledger:
    """Belongs to one server. Every method raises ServerOverloaded while that cannot be asked."""

    def __init__(self, server: QueueServer) -> None:
        self._server = server.serving(TenantKeys.api_keys)

    async def charge(self, job: Job, quotas: Quotas, *, running: Sequence[Job | Reservation] = ()) -> Charge:
        """Charge the job's owner for it, unless that would exceed a quota. Calling again charges nothing more.

        `running` are those of the owner's jobs that are known not to wait any more.
        """
        us_per_cost = 60e6 / quotas.rate_per_min if quotas.rate_per_min else 0.0
        async with translated(CALL_BUDGET_S):
            reply = await self._server.run(
                "charge",
                _keys(job.owner),
                _member(job),
                pixels_of(job),
                round(job.cost * us_per_cost),
                quotas.max_jobs,
                quotas.max_queued_jobs,
                round(quotas.burst_cost * us_per_cost),
                quotas.daily_pixels,
                await self._server.valid_until_ms(),
                *map(_member, running),
            )
        outcome, num_jobs, pixels, behind_us, now_ms, wait_ms, *listing = reply
        if outcome == COMES_TOO_LATE:
            raise self._server.too_late()
        reserved = zip(listing[::2], listing[1::2], strict=True)
        return Charge(
            Usage(num_jobs, pixels, behind_us / 1e6, SECONDS_PER_DAY - now_ms / 1000 % SECONDS_PER_DAY),
            Limit(outcome) if outcome < 0 else None,
            wait_ms / 1000,
            tuple(_reservation(member, now_ms - int(since_ms)) for member, since_ms in reserved),
        )

    async def settle(self, tenant: str, outcomes: Mapping[Job | Reservation, Outcome]) -> int:
        """These jobs of the tenant have ended. How many of them had not been settled before."""
        arguments = [text for job, outcome in outcomes.items() for text in (_member(job), outcome.value)]
        async with translated(CALL_BUDGET_S):
            return int(await self._server.run("settle", _keys(tenant), *arguments))


def pixels_of(job: Job) -> int:
    """What counts against a day's quota."""
    return job.params.width * job.params.height * job.num_images


def _keys(tenant: str) -> tuple[str, str]:
    return TenantKeys.usage(tenant), TenantKeys.reserved(tenant)


def _member(job: Job | Reservation) -> str:
    return f"{job.model}/{job.id if isinstance(job, Job) else job.job_id}"


def _reservation(member: str, age_ms: int) -> Reservation:
    model, _, job_id = member.rpartition("/")
    return Reservation(model, job_id, age_ms / 1000)
