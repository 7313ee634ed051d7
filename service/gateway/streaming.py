"""A response that goes on for as long as its source and its client do. Surprising: the framework's own notices that a
client has gone only when it next has something to send to it, which may be never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from service.gateway.background import end


class StreamedResponse(Response):
    """Sends chunks as they come. Closes the source when that has ended, when the client has gone, or with the server.

    For requests whose body has been read or that have none.
    """

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], *, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._chunks = chunks
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(disconnect(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            await end(sending)
            await self._chunks.aclose()
        if not sending.cancelled() and (error := sending.exception()) is not None:
            raise error

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def disconnect(receive: Receive) -> None:
    """Return when the client hangs up. The body must have been read: no other message can come then."""
    while (await receive())["type"] != "http.disconnect":
        continue
