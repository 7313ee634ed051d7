"""POST /v1/generate: admit, submit, wait, answer."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.errors import DeadlineExceeded, EmmditError
from service.gateway.accept import MediaType, choose_media_type, wants_async
from service.gateway.auth import owner_of
from service.gateway.body import read_json_object
from service.gateway.context import Gateway, gateway_of
from service.gateway.jobs import describe, poll_headers
from service.gateway.refusals import RequestRefused, shorten
from service.gateway.rendering import Finished, done_of, load, render
from service.gateway.responses import error_response
from service.gateway.schemas import ErrorBody, GenerateRequest, GenerateResponse, JobBody
from service.gateway.waiters import Watch
from service.jobs import Job, JobState, JobStatus

logger = logging.getLogger(__name__)
router = APIRouter()

CLIENT_CLOSED_REQUEST = 499  # nobody reads it but the access log and the metrics

_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": GenerateRequest.model_json_schema()}},
    }
}


@router.post(
    "/v1/generate",
    openapi_extra=_OPENAPI,
    responses={
        200: {
            "model": GenerateResponse,
            "content": {MediaType.PNG: {}, MediaType.MULTIPART: {}},
            "description": "The pictures, in the form that Accept names.",
        },
        202: {"model": JobBody, "description": "Accepted, to be fetched later (Prefer: respond-async)."},
        "4XX": {"model": ErrorBody},
        "5XX": {"model": ErrorBody},
    },
)
async def generate(request: Request, owner: Annotated[str, Depends(owner_of)]) -> Response:
    """Draw pictures: PNG, JSON or multipart, by Accept; `Prefer: respond-async` answers at once with a job."""
    began_at = time.monotonic()
    gateway = gateway_of(request)
    is_async = wants_async(request.headers.get("prefer"))
    model = "unknown"
    try:
        fields = await _read(request, gateway)
        model = gateway.validator.model_named(fields)
        job, media_type = _admit(request, gateway, fields, owner)
        watch, position = await _submit(gateway, job)
    except EmmditError as error:
        gateway.metrics.count_rejection(model, error.code)
        raise

    _log_accepted(request, job)
    if is_async:
        return await _accepted(gateway, job, position)
    try:
        return await _finished(request, gateway, watch, media_type, began_at)
    except EmmditError as error:
        response = error_response(error, request.state.request_id)
        response.headers["X-Job-ID"] = job.id
        return response


async def _finished(
    request: Request, gateway: Gateway, watch: Watch, media_type: MediaType, began_at: float
) -> Response:
    """Wait for the job's end and show it. Raises what the job ended with if not pictures."""

    status = await _wait_unless_disconnected(request, gateway, watch)
    if status is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    done = done_of(status)
    pngs = await load(gateway.blobs, done.images)
    return render(Finished(status, done, pngs, total_s=time.monotonic() - began_at), media_type)


async def _read(request: Request, gateway: Gateway) -> Mapping[str, Any]:
    """The body's fields. Raises what is wrong with the request before any field of it could be."""
    settings = gateway.settings
    if query := request.url.query:
        message = f"the query {shorten(query)} is not read; allowed: fields in the body"
        raise RequestRefused(400, "unknown_field", message)
    return await read_json_object(request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)


def _admit(request: Request, gateway: Gateway, fields: Mapping[str, Any], owner: str) -> tuple[Job, MediaType]:
    """Everything that can be known before the queue is asked. Raises what makes the request impossible."""
    body = gateway.validator.parse(fields)
    job = gateway.validator.to_job(body, owner=owner, inbox=gateway.waiters.inbox)
    media_type = choose_media_type(request.headers.get("accept"), job.num_images)
    workers = gateway.model_of(job).workers
    workers.refuse_if_absent()
    workers.refuse_if_too_late(job)
    return job, media_type


async def _submit(gateway: Gateway, job: Job) -> tuple[Watch, int]:
    """Put the job into the queue, watched from before; its position. Raises QueueFull or ServerOverloaded."""
    watch = gateway.waiters.watch(job)
    try:
        submitted = await gateway.model_of(job).queue.submit(job)
    except BaseException:  # a cancelled handler too: nobody will wait for this job
        gateway.waiters.forget(watch)
        raise
    watch.is_submitted = True
    return watch, submitted.position


async def _accepted(gateway: Gateway, job: Job, position: int) -> Response:
    """202. Made from what is known here: the job is accepted, and no further trouble may turn that into an error."""
    status = JobStatus(
        job=job,
        state=JobState.QUEUED,
        step=0,
        num_steps=job.params.num_forwards * job.num_images,
        created_at=time.time(),
        position=position,
    )
    body = await describe(gateway, status)
    headers = {"Location": f"/v1/jobs/{job.id}", "Preference-Applied": "respond-async", "X-Job-ID": job.id}
    return JSONResponse(body.model_dump(), status_code=202, headers=headers | poll_headers(body))


async def _wait_unless_disconnected(request: Request, gateway: Gateway, watch: Watch) -> JobStatus | None:
    """The job's end; None where the client has gone, in which case the job is cancelled."""
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        status = await gateway.waiters.wait(watch, unless=leaving)
    except DeadlineExceeded:
        await _cancel(gateway, watch.job)
        raise
    finally:
        leaving.cancel()
    if status is None:
        await _cancel(gateway, watch.job)
    return status


async def _disconnect(request: Request) -> None:
    """Return when the client hangs up. The body has been read, so no other message can come."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _log_accepted(request: Request, job: Job) -> None:
    """Ties the request's id to the job's. Of the prompt only its length and a hash: it is somebody's own words."""
    if not logger.isEnabledFor(logging.INFO):
        return  # the hash below is not free
    params = job.params
    logger.info(
        "job=%s accepted request_id=%s size=%dx%d num_inference_steps=%d n=%d prompt_chars=%d prompt_sha256=%s",
        job.id,
        request.state.request_id,
        params.width,
        params.height,
        params.num_inference_steps,
        job.num_images,
        len(params.prompt),
        hashlib.sha256(params.prompt.encode()).hexdigest()[:16],
    )


async def _cancel(gateway: Gateway, job: Job) -> None:
    try:
        await gateway.model_of(job).queue.cancel(job.id, job.owner)
    except EmmditError as error:
        logger.warning("job %s could not be cancelled: %s; it ends at its deadline", job.id, error.code)
