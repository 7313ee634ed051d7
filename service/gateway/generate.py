"""POST /v1/generate: admit, submit, wait, answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.errors import EmmditError
from service.gateway.accept import MediaType, choose_media_type, wants_async
from service.gateway.admission import (
    CLIENT_CLOSED_REQUEST,
    log_accepted,
    read_fields,
    refuse_impossible,
    submit,
    wait_unless_disconnected,
)
from service.gateway.auth import owner_of
from service.gateway.context import Gateway, gateway_of
from service.gateway.events import event_stream, event_stream_response
from service.gateway.jobs import describe, poll_headers
from service.gateway.multipart import multipart_response
from service.gateway.rendering import Finished, done_of, load, render
from service.gateway.responses import error_response
from service.gateway.schemas import ErrorBody, GenerateRequest, GenerateResponse, JobBody
from service.gateway.waiters import Watch
from service.jobs import Job, JobState, JobStatus, WatchLevel

router = APIRouter()

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
            "content": {MediaType.PNG: {}, MediaType.MULTIPART: {}, MediaType.EVENTS: {}},
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
        fields = await read_fields(request, gateway)
        model = gateway.validator.model_named(fields)
        job, media_type = _admit(request, gateway, fields, owner, is_async=is_async)
        watch, position = await submit(gateway, job)
    except EmmditError as error:
        gateway.metrics.count_rejection(model, error.code)
        raise

    log_accepted(request, job)
    if is_async:
        return await _accepted(gateway, job, position)
    if media_type is MediaType.EVENTS:
        return event_stream_response(_events_while_wanted(gateway, job, began_at), job.id)
    try:
        if media_type is MediaType.MULTIPART:
            return await multipart_response(request, gateway, job, began_at)
        return await _finished(request, gateway, watch, media_type, began_at)
    except EmmditError as error:
        response = error_response(error, request.state.request_id)
        response.headers["X-Job-ID"] = job.id
        return response


async def _finished(
    request: Request, gateway: Gateway, watch: Watch, media_type: MediaType, began_at: float
) -> Response:
    """Wait for the job's end and show it. Raises what the job ended with if not pictures."""

    status = await wait_unless_disconnected(request, gateway, watch)
    if status is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    done = done_of(status)
    pngs = await load(gateway.blobs, done.images)
    return render(Finished(status, done, pngs, total_s=time.monotonic() - began_at), media_type)


def _admit(
    request: Request, gateway: Gateway, fields: Mapping[str, Any], owner: str, *, is_async: bool
) -> tuple[Job, MediaType]:
    """Everything that can be known before the queue is asked. Raises what makes the request impossible."""
    body = gateway.validator.parse(fields)
    job = gateway.validator.to_job(body, owner=owner, inbox=gateway.waiters.inbox)
    media_type = choose_media_type(request.headers.get("accept"), job.num_images)
    refuse_impossible(gateway, job)
    if not is_async and media_type is MediaType.EVENTS:
        job = replace(job, watch_level=WatchLevel.PREVIEWS)
    elif not is_async and media_type is MediaType.MULTIPART:
        job = replace(job, watch_level=max(job.watch_level, WatchLevel.PICTURES))
    return job, media_type


async def _events_while_wanted(gateway: Gateway, job: Job, began_at: float) -> AsyncGenerator[bytes, None]:
    """The job's events. A client that hangs up has some seconds to come back, then the job is cancelled."""
    has_ended = False
    try:
        async with aclosing(event_stream(gateway, job.id, job.owner, began_at_s=began_at)) as events:
            async for chunk in events:
                yield chunk
        has_ended = True
    finally:
        if not has_ended:
            gateway.abandoned.note(job)


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
