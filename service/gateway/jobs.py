"""Jobs after their acceptance: look, cancel. Another owner's job does not exist."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.errors import JobNotFound, ServerOverloaded
from service.gateway.auth import owner_of
from service.gateway.context import Gateway, gateway_of
from service.gateway.refusals import shorten
from service.gateway.rendering import error_of, job_body
from service.gateway.responses import error_detail
from service.gateway.schemas import JobBody
from service.jobs import JobState, JobStatus
from service.queue_types import QueueStats

router = APIRouter()

MAX_POLL_S = 10
JOB_ID_PATTERN = "[0-9a-f]{32}"
Owner = Annotated[str, Depends(owner_of)]


@router.get("/v1/jobs/{job_id}")
async def get_job(request: Request, job_id: str, owner: Owner) -> Response:
    """State, place in the queue, step k of N, estimated seconds left, and where the pictures are."""
    gateway = gateway_of(request)
    check_id(job_id)
    return await _job_response(gateway, await gateway.queues.status(job_id, owner))


@router.delete("/v1/jobs/{job_id}")
async def cancel_job(request: Request, job_id: str, owner: Owner) -> Response:
    """Cancel: at once while queued, at the next step while running (202 until then). Nothing changes after the end."""
    gateway = gateway_of(request)
    check_id(job_id)
    status = await gateway.queues.cancel(job_id, owner)
    gateway.sharing.withdraw(status.job)
    return await _job_response(gateway, status, status_code=200 if status.state.is_terminal else 202)


async def describe(gateway: Gateway, status: JobStatus) -> JobBody:
    """The job for its client. An estimate that cannot be had is left out."""
    (body,) = await describe_all(gateway, [status])
    return body


async def seconds_left_of(gateway: Gateway, statuses: Sequence[JobStatus]) -> list[float | None]:
    """Estimates; None where there is none. Each model is asked once for its backlog."""
    stats: dict[str, QueueStats] = {}
    for model in {status.job.model for status in statuses if not status.state.is_terminal}:
        with suppress(ServerOverloaded):
            stats[model] = await gateway.models[model].queue.stats()
    backlogs = [stats.get(status.job.model) for status in statuses]
    return [
        None if backlog is None else gateway.model_of(status.job).workers.seconds_left(status, backlog)
        for status, backlog in zip(statuses, backlogs, strict=True)
    ]


async def describe_all(gateway: Gateway, statuses: Sequence[JobStatus]) -> list[JobBody]:
    """As `describe`."""
    bodies = []
    for status, seconds_left in zip(statuses, await seconds_left_of(gateway, statuses), strict=True):
        error = error_of(status)
        detail = None if error is None else error_detail(error)
        bodies.append(job_body(status, seconds_left=seconds_left, error=detail))
    return bodies


def poll_headers(body: JobBody) -> dict[str, str]:
    """When to look again: `Retry-After`, while there is something to wait for."""
    if JobState(body.state).is_terminal:
        return {}
    seconds = math.ceil(body.estimated_seconds_left or 1)
    return {"Retry-After": str(min(max(seconds, 1), MAX_POLL_S))}


async def _job_response(gateway: Gateway, status: JobStatus, *, status_code: int = 200) -> Response:
    body = await describe(gateway, status)
    headers = {"X-Job-ID": body.id} | poll_headers(body)
    return JSONResponse(body.model_dump(), status_code=status_code, headers=headers)


def check_id(job_id: str) -> None:
    """Raises JobNotFound for what cannot be an id: it never gets near a key."""
    if not re.fullmatch(JOB_ID_PATTERN, job_id):
        raise JobNotFound(f"no job {shorten(job_id, 40)}: an id is 32 hexadecimal digits")
