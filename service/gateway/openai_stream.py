"""A job as the openai SDKs stream it: pictures half drawn, then finished ones. A failure is an event of its own."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from service.errors import EmmditError
from service.gateway import sse
from service.gateway.admission import Entry, leave
from service.gateway.context import Gateway
from service.gateway.feed import Ended, FeedEvent, PartialReady, PictureReady, feed
from service.gateway.formats import encode
from service.gateway.openai_request import ImagesOrder
from service.gateway.openai_schemas import CompletedEvent, PartialImageEvent
from service.gateway.rendering import error_of, size_of
from service.gateway.responses import error_detail
from service.gateway.schemas import ErrorBody
from service.jobs import Job, WatchLevel


async def image_events(
    gateway: Gateway, entry: Entry, order: ImagesOrder, began_at_s: float
) -> AsyncGenerator[bytes, None]:
    """The whole stream. A client that hangs up leaves its job at once: these streams cannot be taken up again."""
    job = entry.status.job
    watched = feed(gateway, job.id, job.owner, level=WatchLevel.PICTURES)
    has_ended = False
    try:
        async with (
            aclosing(_events(gateway, watched, job, order, began_at_s)) as events,
            aclosing(sse.with_keep_alive(events)) as chunks,
        ):
            async for chunk in chunks:
                yield chunk
        has_ended = True
    finally:
        if not has_ended:
            await leave(gateway, entry)


async def _events(
    gateway: Gateway, watched: AsyncGenerator[FeedEvent, None], job: Job, order: ImagesOrder, began_at_s: float
) -> AsyncGenerator[bytes, None]:
    is_first = True
    async with aclosing(watched) as events:
        try:
            async for event in events:
                match event:
                    case PartialReady():
                        if is_first:
                            gateway.metrics.time_to_first_preview.observe(time.monotonic() - began_at_s)
                            is_first = False
                        yield _named(await _partial(gateway, event, job, order))
                    case PictureReady():
                        yield _named(await _completed(gateway, event, job, order))
                    case Ended(status) if (error := error_of(status)) is not None:
                        yield _failed(error)
        except EmmditError as error:
            yield _failed(error)


async def _partial(gateway: Gateway, event: PartialReady, job: Job, order: ImagesOrder) -> PartialImageEvent:
    return PartialImageEvent(
        b64_json=await _b64(gateway, event.png, order),
        index=event.index,
        partial_image_index=event.partial_index,
        created_at=int(time.time()),
        size=size_of(job),
        quality=order.quality,
        output_format=order.encoding.format.value,
    )


async def _completed(gateway: Gateway, event: PictureReady, job: Job, order: ImagesOrder) -> CompletedEvent:
    return CompletedEvent(
        b64_json=await _b64(gateway, event.png, order),
        index=event.index,
        seed=event.image.seed,
        created_at=int(time.time()),
        size=size_of(job),
        quality=order.quality,
        output_format=order.encoding.format.value,
    )


async def _b64(gateway: Gateway, png: bytes, order: ImagesOrder) -> str:
    (picture,) = await encode((png,), order.encoding, gateway.signer)
    return base64.b64encode(picture).decode()


def _named(event: PartialImageEvent | CompletedEvent) -> bytes:
    return sse.sse_event(event.model_dump_json(), name=event.type)


def _failed(error: EmmditError) -> bytes:
    """Without a name: that is where the SDKs look for it."""
    return sse.sse_event(ErrorBody(error=error_detail(error)).model_dump_json())
