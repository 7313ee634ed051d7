"""A job as it happens: server-sent events that can be taken up again, and a picture that changes by itself."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel

from service.errors import EmmditError, JobNotFound, ServerOverloaded
from service.gateway import sse
from service.gateway.auth import owner_of
from service.gateway.context import Gateway, gateway_of
from service.gateway.event_schemas import ErrorEvent, PartialPictureEvent, PictureEvent, PreviewEvent
from service.gateway.feed import Changed, Ended, FeedEvent, PartialReady, PictureReady, PreviewReady, feed
from service.gateway.formats import PNG, Encoding, encode
from service.gateway.jobs import check_id, describe
from service.gateway.provenance import PROVENANCE_HEADER
from service.gateway.query import read_flags, read_index
from service.gateway.refusals import RequestRefused, shorten
from service.gateway.rendering import error_of, image_path
from service.gateway.responses import error_detail
from service.gateway.streaming import StreamedResponse
from service.jobs import Job, JobState, JobStatus, WatchLevel

router = APIRouter()

END_ID = "end"  # the last event's: who comes back after it is told that there is nothing more
BOUNDARY = "emmdit-frame"
_EVENT_ID = "[0-9]{1,20}-[0-9]{1,20}"
LAST_EVENT_PATTERN = f"{_EVENT_ID}|{END_ID}"
Owner = Annotated[str, Depends(owner_of)]


@router.get("/v1/jobs/{job_id}/events")
async def get_events(request: Request, job_id: str, owner: Owner) -> Response:
    """The job as server-sent events: state and steps, previews, pictures, its end.

    Can be taken up again with Last-Event-ID, at any gateway. `pictures=false` leaves the pictures' bytes out,
    `previews=false` the previews.
    """
    gateway = gateway_of(request)
    check_id(job_id)
    flags = read_flags(request, "pictures", "previews")
    after = request.headers.get("last-event-id", "")
    if after == END_ID:
        await gateway.queues.status(job_id, owner)
        return Response(status_code=204)
    if after and not re.fullmatch(_EVENT_ID, after):
        message = f"Last-Event-ID: {shorten(after)} is not allowed; allowed: the id of an event of this job"
        raise RequestRefused(400, "invalid_value", message, param="Last-Event-ID")
    status = await gateway.queues.status(job_id, owner)  # what is wrong is still an error of its own here
    level = WatchLevel.PREVIEWS if flags["previews"] else WatchLevel.PICTURES
    events = event_stream(gateway, status.job, after=after, level=level, has_pictures=flags["pictures"])
    response = event_stream_response(events, job_id)
    response.headers[PROVENANCE_HEADER] = gateway.provenance
    return response


@router.get("/v1/jobs/{job_id}/live")
async def get_live(request: Request, job_id: str, owner: Owner) -> Response:
    """A picture that forms before one's eyes in a plain <img>: previews at full size, then the picture itself.

    `index` says which of the job's pictures.
    """
    gateway = gateway_of(request)
    check_id(job_id)
    index = read_index(request)
    status = await gateway.queues.status(job_id, owner)
    if index >= status.job.num_images:
        raise JobNotFound(f"job {job_id} has no picture {index}; allowed: 0 to {status.job.num_images - 1}")
    return StreamedResponse(
        _frames(gateway, status, index),
        media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}",
        headers={PROVENANCE_HEADER: gateway.provenance},
    )


def event_stream_response(events: AsyncGenerator[bytes, None], job_id: str) -> StreamedResponse:
    """The response around a stream of events."""
    return StreamedResponse(events, media_type=sse.MEDIA_TYPE, headers={"X-Job-ID": job_id, **sse.HEADERS})


async def event_stream(
    gateway: Gateway,
    job: Job,
    *,
    after: str = "",
    level: WatchLevel = WatchLevel.PREVIEWS,
    has_pictures: bool = True,
    began_at_s: float | None = None,
) -> AsyncGenerator[bytes, None]:
    """The job's feed as server-sent events. Where this gateway stops it just ends: the client comes back elsewhere."""
    watched = feed(gateway, job.id, job.owner, after=after, level=level, has_pictures=has_pictures)
    async with (
        aclosing(_events(gateway, watched, job, began_at_s)) as events,
        aclosing(sse.with_keep_alive(events)) as chunks,
    ):
        yield sse.BEGINNING
        async for chunk in chunks:
            yield chunk


async def _events(
    gateway: Gateway, watched: AsyncGenerator[FeedEvent, None], job: Job, began_at_s: float | None
) -> AsyncGenerator[bytes, None]:
    async with aclosing(watched) as events:
        try:
            async for event in events:
                if began_at_s is not None and isinstance(event, PreviewReady | PartialReady):
                    gateway.metrics.time_to_first_preview.observe(time.monotonic() - began_at_s)
                    began_at_s = None
                yield await _as_sse(gateway, job, event)
        except ServerOverloaded:
            return
        except EmmditError as error:
            yield _sse("error", ErrorEvent(error=error_detail(error), job=None), END_ID)


async def _as_sse(gateway: Gateway, job: Job, event: FeedEvent) -> bytes:
    match event:
        case Changed(status):
            return _sse("job", await describe(gateway, status))
        case PreviewReady():
            preview = PreviewEvent(
                job_id=job.id,
                index=event.index,
                step=event.step,
                num_steps=event.num_steps,
                width=event.width,
                height=event.height,
                content_type=event.content_type,
                b64_json=_b64(event.data),
            )
            return _sse("preview", preview, event.id)
        case PartialReady():
            partial = PartialPictureEvent(
                job_id=job.id,
                index=event.index,
                partial_image_index=event.partial_index,
                step=event.step,
                num_steps=event.num_steps,
                content_type="image/png",
                b64_json=_b64(await _to_send(gateway, event.png, PNG)),
            )
            return _sse("partial_image", partial, event.id)
        case PictureReady():
            return _sse("image", await _picture_event(gateway, job, event), event.id)
        case Ended(status):
            body = await describe(gateway, status)
            if status.state is JobState.DONE:
                return _sse("done", body, END_ID)
            error = error_of(status)
            return _sse("error", ErrorEvent(error=None if error is None else error_detail(error), job=body), END_ID)


async def _picture_event(gateway: Gateway, job: Job, event: PictureReady) -> PictureEvent:
    encoding = Encoding.of_job(job)
    picture = await _to_send(gateway, event.png, encoding) if event.png else b""
    return PictureEvent(
        job_id=job.id,
        index=event.index,
        seed=event.image.seed,
        url=image_path(job.id, event.index) + encoding.query,
        num_bytes=event.image.num_bytes,
        content_type=encoding.media_type,
        b64_json=_b64(picture) if picture else None,
    )


async def _to_send(gateway: Gateway, png: bytes, encoding: Encoding) -> bytes:
    (picture,) = await encode((png,), encoding, gateway.signer)
    return picture


async def _frames(gateway: Gateway, status: JobStatus, index: int) -> AsyncGenerator[bytes, None]:
    job = status.job
    size = (job.params.width, job.params.height)
    yield f"--{BOUNDARY}\r\n".encode()
    async with aclosing(feed(gateway, job.id, job.owner)) as events:
        try:
            async for event in events:
                match event:
                    case PreviewReady(index=found) if found == index:
                        yield _frame("image/jpeg", await asyncio.to_thread(_enlarge, event.data, size))
                    case PictureReady(index=found) if found == index:
                        yield _frame(PNG.media_type, await _to_send(gateway, event.png, PNG))
                        return
        except EmmditError:
            return  # what was shown last stays


def _frame(content_type: str, data: bytes) -> bytes:
    """A part and the boundary after it: browsers show a part when they see that it is over."""
    head = f"Content-Type: {content_type}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data + f"\r\n--{BOUNDARY}\r\n".encode()


def _enlarge(jpeg: bytes, size: tuple[int, int]) -> bytes:
    """A preview at the picture's own size, so that an <img> keeps its place on the page."""
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return file.getvalue()


def _sse(name: str, body: BaseModel, event_id: str = "") -> bytes:
    left_out = {"b64_json"} if getattr(body, "b64_json", "") is None else None
    return sse.sse_event(body.model_dump_json(exclude=left_out), name=name, event_id=event_id)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
