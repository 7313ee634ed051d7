"""Several pictures in one answer, each sent as it is done (RFC 2046, 5.1.3).

Nothing is sent before the first picture, so that what goes wrong until then is still an error with a status of its
own. What goes wrong later is the last part, in JSON.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping

from fastapi import Request
from fastapi.responses import Response

from service.errors import EmmditError
from service.gateway.accept import MediaType
from service.gateway.admission import CLIENT_CLOSED_REQUEST, Entry, leave
from service.gateway.background import end
from service.gateway.context import Gateway
from service.gateway.feed import Ended, PictureReady, feed
from service.gateway.formats import Encoding, encode
from service.gateway.rendering import clean_headers, done_of, outcome_headers, recipe_headers
from service.gateway.responses import error_detail
from service.gateway.schemas import ErrorBody
from service.gateway.streaming import StreamedResponse, disconnect
from service.jobs import Job, JobStatus, WatchLevel


async def multipart_response(request: Request, gateway: Gateway, entry: Entry, began_at_s: float) -> Response:
    """Wait for the first picture and answer. A client that hangs up leaves its job.

    Raises what the job ended with before it had a picture.
    """
    job = entry.status.job
    pictures = _pictures(gateway, job)
    first = asyncio.ensure_future(anext(pictures))
    leaving = asyncio.ensure_future(disconnect(request.receive))
    try:
        await asyncio.wait((first, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        has_left = not first.done()
        if has_left:
            await end(first)
            await pictures.aclose()
            await leave(gateway, entry)
    if has_left:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    boundary = secrets.token_hex(16)
    return StreamedResponse(
        _parts(gateway, entry, first.result(), pictures, boundary, began_at_s),
        media_type=f"{MediaType.MULTIPART}; boundary={boundary}",
        headers=clean_headers(recipe_headers(job, gateway.model_of(job).card.version)),
    )


async def _pictures(gateway: Gateway, job: Job) -> AsyncGenerator[tuple[PictureReady, JobStatus | None], None]:
    """Each picture; with the last comes how the job ended. Raises what it ended with if not pictures."""
    last: PictureReady | None = None
    num_told = 0
    events = feed(gateway, job.id, job.owner, level=WatchLevel.PICTURES)
    try:
        async for event in events:
            if isinstance(event, PictureReady):
                num_told += 1
                if num_told == job.num_images:
                    last = event
                else:
                    yield event, None
            elif isinstance(event, Ended):
                done_of(event.status)
                if last is not None:
                    yield last, event.status
    finally:
        await events.aclose()


async def _parts(
    gateway: Gateway,
    entry: Entry,
    first: tuple[PictureReady, JobStatus | None],
    others: AsyncGenerator[tuple[PictureReady, JobStatus | None], None],
    boundary: str,
    began_at_s: float,
) -> AsyncGenerator[bytes, None]:
    encoding = Encoding.of_job(entry.status.job)
    has_ended = False
    try:
        try:
            yield await _part(gateway, *first, encoding, boundary, began_at_s)
            async for picture, status in others:
                yield await _part(gateway, picture, status, encoding, boundary, began_at_s)
        except EmmditError as error:
            body = ErrorBody(error=error_detail(error)).model_dump_json().encode()
            yield _framed(body, boundary, {"Content-Type": "application/json"})
        has_ended = True
        yield f"--{boundary}--\r\n".encode()
    finally:
        await others.aclose()
        if not has_ended:
            await leave(gateway, entry)


async def _part(
    gateway: Gateway,
    picture: PictureReady,
    status: JobStatus | None,
    encoding: Encoding,
    boundary: str,
    began_at_s: float,
) -> bytes:
    (data,) = await encode((picture.png,), encoding, gateway.signer)
    headers = {
        "Content-Type": encoding.media_type,
        "X-Image-Index": str(picture.index),
        "X-Seed": str(picture.image.seed),
    }
    total_s = time.monotonic() - began_at_s
    headers |= {"x-total-time": f"{total_s:.3f}"} if status is None else outcome_headers(status, total_s)
    return _framed(data, boundary, headers)


def _framed(data: bytes, boundary: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"--{boundary}", *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(data)}"]
    return "\r\n".join((*lines, "", "")).encode() + data + b"\r\n"
