"""A job's charge against its tenant's quotas, before it is submitted, and back again where it does not become one.

Charge and submit are two steps, since a tenant's keys and a model's queue lie in different slots of a Cluster. So a
reservation may be out of date; before a tenant is refused because of what it holds, that is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.errors import EmmditError, ServerOverloaded
from service.gateway.context import Gateway
from service.gateway.jobs import seconds_left_of
from service.gateway.rate_limits import rate_limit_headers
from service.gateway.refusals import RequestRefused
from service.gateway.responses import DEFAULT_RETRY_AFTER_S, MAX_RETRY_AFTER_S, exact_retry_headers
from service.jobs import Job, JobState, JobStatus
from service.ledger import Charge, Limit, Outcome, pixels_of
from service.queue_server import CALL_BUDGET_S
from service.quotas import Quotas, Reservation

IN_FLIGHT_S = 3 * CALL_BUDGET_S  # so long after its charge a job may still be on its way into the queue
CODES: Mapping[Limit, str] = {
    Limit.JOBS: "too_many_jobs",
    Limit.QUEUED_JOBS: "too_many_queued_jobs",
    Limit.RATE: "tenant_rate_exceeded",
    Limit.DAILY_PIXELS: "daily_pixels_exceeded",
}


@dataclass(frozen=True, slots=True)
class _Held:
    """What a tenant's reservations turned out to be: by reservation what ended, what runs, and all that goes on."""

    ended: Mapping[Job | Reservation, Outcome]
    running: Sequence[Reservation]
    unfinished: Sequence[JobStatus]


async def charge(gateway: Gateway, job: Job, quotas: Quotas) -> Mapping[str, str] | None:
    """Charge the job's owner; the response's headers that say where that leaves it. None where there is no quota.

    Raises RequestRefused: 429 with the time after which the job will be let in, 403 where it never will.
    """
    if quotas.are_unlimited:
        return None
    _refuse_hopeless(job, quotas)
    ledger = gateway.settlements.ledger
    charged = await ledger.charge(job, quotas)
    held = _Held({}, (), ())
    if charged.reserved:
        held = await _look_at(gateway, job.owner, charged.reserved)
        if held.ended:
            await ledger.settle(job.owner, held.ended)
        if held.ended or held.running:
            charged = await ledger.charge(job, quotas, running=held.running)
    headers = rate_limit_headers(quotas, charged.usage)
    if charged.exceeded is None:
        return headers
    wait_s = await _wait_s(gateway, charged, held.unfinished)
    retries = exact_retry_headers(wait_s)
    if wait_s > MAX_RETRY_AFTER_S:
        retries["x-should-retry"] = "false"  # clients that wait by themselves would come back too early
    message = _sentence(charged, quotas, job)
    raise RequestRefused(429, CODES[charged.exceeded], message, headers=headers | retries, retry_after_s=wait_s)


async def give_back(gateway: Gateway, job: Job, error: BaseException) -> None:
    """The job was charged and not accepted. Where that is not certain it is found out later, by its reservation."""
    if not isinstance(error, EmmditError) or isinstance(error, ServerOverloaded):
        return
    await refund(gateway, job)


async def refund(gateway: Gateway, job: Job) -> None:
    """The job was charged and never became one."""
    try:
        await gateway.settlements.ledger.settle(job.owner, {job: Outcome.REFUSED})
    except ServerOverloaded:
        return  # found again by its reservation


def _refuse_hopeless(job: Job, quotas: Quotas) -> None:
    """Raises RequestRefused (403) for a job that is more than a whole day's quota."""
    if quotas.daily_pixels and pixels_of(job) > quotas.daily_pixels:
        raise RequestRefused(
            403,
            "exceeds_quota",
            f"this request is for {pixels_of(job) / 1e6:g} megapixels; allowed: your {quotas.daily_megapixels:g} a day",
        )


async def _look_at(gateway: Gateway, tenant: str, reserved: Sequence[Reservation]) -> _Held:
    """What has become of the jobs that hold these reservations."""
    ended: dict[Job | Reservation, Outcome] = {}
    running, unfinished = [], []
    for model in {one.model for one in reserved}:
        own = [one for one in reserved if one.model == model]
        statuses = await gateway.queues.of_model(model).owned.read(tenant, [one.job_id for one in own])
        for reservation, status in zip(own, statuses, strict=True):
            if status is None:
                if reservation.age_s > IN_FLIGHT_S:
                    ended[reservation] = Outcome.UNDONE
            elif status.state.is_terminal:
                ended[reservation] = Outcome.DONE if status.state is JobState.DONE else Outcome.UNDONE
            else:
                unfinished.append(status)
                if status.state is JobState.RUNNING:
                    running.append(reservation)
    return _Held(ended, running, unfinished)


async def _wait_s(gateway: Gateway, charged: Charge, unfinished: Sequence[JobStatus]) -> float:
    """When to come back: when there is room, as far as that is known."""
    match charged.exceeded:
        case Limit.RATE:
            return charged.wait_s
        case Limit.DAILY_PIXELS:
            return charged.usage.day_left_s
        case _:
            known = [status for status in unfinished if status.job.model in gateway.models]
            estimates = [left_s for left_s in await seconds_left_of(gateway, known) if left_s is not None]
            return max(min(estimates, default=DEFAULT_RETRY_AFTER_S), 0.1)


def _sentence(charged: Charge, quotas: Quotas, job: Job) -> str:
    usage = charged.usage
    match charged.exceeded:
        case Limit.JOBS:
            return f"you have {usage.num_jobs} jobs that are not finished; allowed: {quotas.max_jobs}"
        case Limit.QUEUED_JOBS:
            return f"as many of your jobs wait as are allowed: {quotas.max_queued_jobs}"
        case Limit.DAILY_PIXELS:
            left = max(quotas.daily_pixels - usage.pixels, 0) / 1e6
            return (
                f"this request is for {pixels_of(job) / 1e6:g} megapixels and {left:g} are left of today's "
                f"{quotas.daily_megapixels:g}; the day ends at midnight UTC"
            )
        case _:
            return (
                f"this request costs {job.cost:g} megapixel-steps, and you may have {quotas.rate_per_min:g} a minute, "
                f"{quotas.burst_cost:g} of them at once; come back in {math.ceil(charged.wait_s)} s"
            )
