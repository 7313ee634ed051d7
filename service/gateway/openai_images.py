"""POST /v1/images/generations: pictures for an unmodified openai SDK. The steps are those of POST /v1/generate."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.errors import EmmditError
from service.gateway import sse
from service.gateway.admission import (
    CLIENT_CLOSED_REQUEST,
    Entry,
    enter,
    entry_headers,
    failed,
    log_entered,
    read_fields,
    wait_for_end,
)
from service.gateway.auth import owner_of
from service.gateway.context import Gateway, gateway_of
from service.gateway.openai_request import ImagesOrder, read_order
from service.gateway.openai_schemas import ImageData, ImagesResponse
from service.gateway.openai_stream import image_events
from service.gateway.rendering import (
    clean_headers,
    done_of,
    image_path,
    load_to_send,
    outcome_headers,
    recipe_headers,
    size_of,
)
from service.gateway.signing import signed_url
from service.gateway.streaming import StreamedResponse
from service.jobs import Done, Job, WatchLevel

router = APIRouter()


@router.post("/v1/images/generations")
async def create_images(request: Request, owner: Annotated[str, Depends(owner_of)]) -> Response:
    """Draw pictures, in OpenAI's words. `stream` alone decides the answer's form: Accept and Prefer are not read."""
    began_at_s = time.monotonic()
    gateway = gateway_of(request)
    model = "unknown"
    try:
        fields = await read_fields(request, gateway)
        model = gateway.validator.model_named(fields)
        order = read_order(fields, gateway.validator)
        inbox = gateway.waiters.inbox
        job = gateway.validator.to_job(order.generate, owner=owner, inbox=inbox, encoding=order.encoding)
        if order.is_streamed:  # these streams have no place for small previews
            job = replace(job, watch_level=WatchLevel.PICTURES)
        waits_for_end = not order.is_streamed
        entry = await enter(request, gateway, job, order.asked, is_kept=False, waits_for_end=waits_for_end)
    except EmmditError as error:
        gateway.metrics.count_rejection(model, error.code)
        raise

    log_entered(request, entry)
    response: Response
    try:
        if order.is_streamed:
            response = _streamed(gateway, entry, order, began_at_s)
        else:
            response = await _finished(request, gateway, entry, order, began_at_s)
    except EmmditError as error:
        response = failed(request, entry, error)
    response.headers.update(gateway.state_headers | entry_headers(entry, response.status_code))
    return response


def _streamed(gateway: Gateway, entry: Entry, order: ImagesOrder, began_at_s: float) -> Response:
    job = entry.status.job
    headers = recipe_headers(job, gateway.model_of(job).card.version)
    return StreamedResponse(
        image_events(gateway, entry, order, began_at_s),
        media_type=sse.MEDIA_TYPE,
        headers={**clean_headers(headers), **sse.HEADERS},
    )


async def _finished(
    request: Request, gateway: Gateway, entry: Entry, order: ImagesOrder, began_at_s: float
) -> Response:
    """Wait for the job's end and show it. Raises what the job ended with if not pictures."""
    status = await wait_for_end(request, gateway, entry)
    if status is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    job, done = status.job, done_of(status)
    body = ImagesResponse(
        created=int(status.created_at),
        data=await (_links(request, gateway, job, done, order) if order.has_urls else _pictures(gateway, done, order)),
        output_format=order.encoding.format.value,
        size=size_of(job),
        quality=order.quality,
    )
    headers = clean_headers(recipe_headers(job, done.model_version))
    headers |= outcome_headers(status, time.monotonic() - began_at_s)
    return JSONResponse(body.model_dump(exclude_none=True), headers=headers)


async def _pictures(gateway: Gateway, done: Done, order: ImagesOrder) -> list[ImageData]:
    pictures = await load_to_send(gateway, done.images, order.encoding)
    return [
        ImageData(b64_json=base64.b64encode(picture).decode(), revised_prompt=done.prompt, seed=image.seed)
        for picture, image in zip(pictures, done.images, strict=True)
    ]


async def _links(request: Request, gateway: Gateway, job: Job, done: Done, order: ImagesOrder) -> list[ImageData]:
    return [
        ImageData(
            url=await signed_url(request, gateway, image_path(job.id, index), order.encoding),
            revised_prompt=done.prompt,
            seed=image.seed,
        )
        for index, image in enumerate(done.images)
    ]
