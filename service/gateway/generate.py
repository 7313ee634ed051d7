"""POST /v1/generate: admit, submit, wait, answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.errors import EmmditError
from service.gateway.accept import MediaType, choose_form, wants_async
from service.gateway.admission import (
    CLIENT_CLOSED_REQUEST,
    Entry,
    enter,
    entry_headers,
    failed,
    leave_later,
    log_entered,
    read_fields,
    wait_for_end,
)
from service.gateway.auth import owner_of
from service.gateway.context import Gateway, gateway_of
from service.gateway.events import event_stream, event_stream_response
from service.gateway.formats import Encoding
from service.gateway.jobs import describe, poll_headers
from service.gateway.multipart import multipart_response
from service.gateway.rendering import Finished, done_of, load_to_send, render
from service.gateway.validation import encoding_of
from service.jobs import WatchLevel

router = APIRouter()


@router.post("/v1/generate")
async def generate(request: Request, owner: Annotated[str, Depends(owner_of)]) -> Response:
    """Draw pictures: a picture, JSON or multipart, by Accept; `Prefer: respond-async` answers at once with a job."""
    began_at = time.monotonic()
    gateway = gateway_of(request)
    is_async = wants_async(request.headers.get("prefer"))
    model = "unknown"
    try:
        fields = await read_fields(request, gateway)
        model = gateway.validator.model_named(fields)
        body = gateway.validator.parse(fields)
        form = choose_form(request.headers.get("accept"), body.n or 1, body.output_format)
        media_type, encoding = form.media_type, encoding_of(form.format, body.output_compression)
        job = gateway.validator.to_job(body, owner=owner, inbox=gateway.waiters.inbox, encoding=encoding)
        is_stream = media_type is MediaType.EVENTS and not is_async
        if is_stream:
            job = replace(job, watch_level=WatchLevel.PREVIEWS)
        elif media_type is MediaType.MULTIPART and not is_async:
            job = replace(job, watch_level=max(job.watch_level, WatchLevel.PICTURES))
        waits_for_end = not (is_async or is_stream)
        entry = await enter(request, gateway, job, body, is_kept=is_async, waits_for_end=waits_for_end)
    except EmmditError as error:
        gateway.metrics.count_rejection(model, error.code)
        raise

    log_entered(request, entry)
    response: Response
    try:
        if is_async:
            response = await _accepted(gateway, entry)
        elif is_stream:
            response = event_stream_response(_events_while_wanted(gateway, entry, began_at), entry.status.job.id)
        elif media_type is MediaType.MULTIPART:
            response = await multipart_response(request, gateway, entry, began_at)
        else:
            response = await _finished(request, gateway, entry, media_type, began_at)
    except EmmditError as error:
        response = failed(request, entry, error)
    response.headers.update(gateway.state_headers | entry_headers(entry, response.status_code))
    return response


async def _finished(
    request: Request, gateway: Gateway, entry: Entry, media_type: MediaType, began_at: float
) -> Response:
    """Wait for the job's end and show it. Raises what the job ended with if not pictures."""
    status = await wait_for_end(request, gateway, entry)
    if status is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    done = done_of(status)
    encoding = Encoding.of_job(entry.status.job)
    pictures = await load_to_send(gateway, done.images, encoding)
    finished = Finished(
        status,
        done,
        pictures,
        encoding,
        total_s=time.monotonic() - began_at,
        content_filter=gateway.content_filter,
        provenance=gateway.provenance,
    )
    return render(finished, media_type)


async def _events_while_wanted(gateway: Gateway, entry: Entry, began_at: float) -> AsyncGenerator[bytes, None]:
    """The job's events. A client that hangs up has some seconds to come back before it is taken to have left."""
    job = entry.status.job
    has_ended = False
    try:
        async with aclosing(event_stream(gateway, job, began_at_s=began_at)) as events:
            async for chunk in events:
                yield chunk
        has_ended = True
    finally:
        if not has_ended:
            leave_later(gateway, entry)


async def _accepted(gateway: Gateway, entry: Entry) -> Response:
    """202."""
    body = await describe(gateway, entry.status)
    headers = {"Location": f"/v1/jobs/{body.id}", "Preference-Applied": "respond-async"}
    return JSONResponse(body.model_dump(), status_code=202, headers=headers | poll_headers(body))
