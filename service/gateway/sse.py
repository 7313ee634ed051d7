"""Server-sent events (the WHATWG's HTML standard, 9.2), as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from service.gateway.background import end

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_S = 15.0  # shorter than the minute after which proxies call a connection idle
RECONNECT_MS = 1000
# nginx would otherwise gather events until they fill a buffer.
HEADERS: Mapping[str, str] = {"X-Accel-Buffering": "no"}
BEGINNING = b"retry: %d\n\n" % RECONNECT_MS


def sse_event(data: str, *, name: str = "", event_id: str = "") -> bytes:
    """One event. `data` is one line, as JSON is; the last `event_id` set comes back as Last-Event-ID."""
    head = (f"id: {event_id}\n" if event_id else "") + (f"event: {name}\n" if name else "")
    return f"{head}data: {data}\n\n".encode()


async def with_keep_alive(chunks: AsyncIterator[bytes], period_s: float = KEEP_ALIVE_S) -> AsyncGenerator[bytes, None]:
    """The same chunks, and a comment whenever there is none for `period_s`: silence looks like a dead connection."""
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(chunks))
            await asyncio.wait((coming,), timeout=period_s)
            if not coming.done():
                yield b": keep-alive\n\n"
                continue
            finished, coming = coming, None
            try:
                chunk = finished.result()
            except StopAsyncIteration:
                return
            yield chunk
    finally:
        if coming is not None:
            await end(coming)
