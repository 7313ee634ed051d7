"""Jobs after their acceptance: look, fetch a picture, cancel. Another owner's job does not exist."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.errors import JobNotFound, JobNotReady, ServerOverloaded
from service.gateway.auth import owner_of
from service.gateway.context import Gateway, gateway_of
from service.gateway.refusals import RequestRefused, shorten
from service.gateway.rendering import error_of, image_of, job_body, load, render_picture
from service.gateway.responses import error_detail
from service.gateway.schemas import ErrorBody, JobBody
from service.jobs import JobState, JobStatus

router = APIRouter(responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}})

MAX_POLL_S = 10
_JOB_ID = re.compile(r"[0-9a-f]{32}")
Owner = Annotated[str, Depends(owner_of)]


@router.get("/v1/jobs/{job_id}", response_model=JobBody)
async def get_job(request: Request, job_id: str, owner: Owner) -> Response:
    """State, place in the queue, step k of N, estimated seconds left, and where the pictures are."""
    gateway = gateway_of(request)
    return await _job_response(gateway, await _status(gateway, job_id, owner))


@router.get(
    "/v1/jobs/{job_id}/images/{index}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The PNG."}},
)
async def get_image(request: Request, job_id: str, index: str, owner: Owner) -> Response:
    """One picture of a job that is done, as PNG."""
    gateway = gateway_of(request)
    status = await _status(gateway, job_id, owner)
    image = image_of(status, index)
    try:
        (png,) = await load(gateway.blobs, (image,))
    except JobNotReady as error:  # done, but its time to live is over
        raise RequestRefused(410, error.code, f"picture {index} of job {job_id} is no longer stored") from None
    return render_picture(status, image, png)


@router.delete("/v1/jobs/{job_id}", response_model=JobBody, responses={202: {"model": JobBody}})
async def cancel_job(request: Request, job_id: str, owner: Owner) -> Response:
    """Cancel: at once while queued, at the next step while running (202 until then). Nothing changes after the end."""
    gateway = gateway_of(request)
    check_id(job_id)
    status = await gateway.queues.cancel(job_id, owner)
    return await _job_response(gateway, status, status_code=200 if status.state.is_terminal else 202)


async def describe(gateway: Gateway, status: JobStatus) -> JobBody:
    """The job for its client. An estimate that cannot be had is left out."""
    seconds_left = None
    if not status.state.is_terminal:
        model = gateway.model_of(status.job)
        with suppress(ServerOverloaded):
            seconds_left = model.workers.seconds_left(status, await model.queue.stats())
    error = error_of(status)
    return job_body(status, seconds_left=seconds_left, error=None if error is None else error_detail(error))


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


async def _status(gateway: Gateway, job_id: str, owner: str) -> JobStatus:
    check_id(job_id)
    return await gateway.queues.status(job_id, owner)


def check_id(job_id: str) -> None:
    """Raise JobNotFound for what is no id at all."""
    if not _JOB_ID.fullmatch(job_id):
        raise JobNotFound(f"no job {shorten(job_id, 40)}: an id is 32 hexadecimal digits")
