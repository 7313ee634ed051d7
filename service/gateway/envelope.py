"""What every request goes through, whatever its route: ids, headers, one log line, one count, one catch.

Surprising: a refused request may still have megabytes of body on their way. Closing on it at once would reset the
connection before the client has read why, so a bounded rest is read and thrown away first.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api_keys import without_keys
from service.gateway.heads import refusal_of
from service.gateway.request_trace import RequestTrace
from service.gateway.responses import error_response, internal_error_response
from service.logs import current_ids, log_ids
from service.metrics import Metrics, method_label
from service.tracing import Tracing

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("service.gateway.access")

UNMATCHED = "unmatched"
LINGER_S = 1.0
LINGER_BYTES = 16 * 1024**2
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:-]{1,128}")
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Envelope:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._tracing)
        context = exchange.trace.context
        scope.setdefault("state", {}).update(request_id=exchange.request_id, trace=context)
        with log_ids(request_id=exchange.request_id, trace_id=context.trace_id):
            refusal = refusal_of(scope)
            app = self._app if refusal is None else error_response(refusal, exchange.request_id)
            try:
                await app(scope, exchange.receive, exchange.send)
            except Exception:  # the edge of this process
                logger.exception("request_id=%s failed", exchange.request_id)
                if exchange.code == 0:
                    await internal_error_response()(scope, exchange.receive, exchange.send)
            finally:
                self._count(scope, exchange)

    def _count(self, scope: Scope, exchange: _Exchange) -> None:
        duration_s = time.monotonic() - exchange.began_at
        method, code = scope["method"], exchange.code or 499
        route = getattr(scope.get("route"), "path", UNMATCHED)
        trace = exchange.trace.context
        self._metrics.count_http(method, route, code, duration_s, trace.trace_id if trace.is_sampled else None)
        exchange.trace.end(method_label(method), route, code, current_ids())
        access_logger.info(
            "method=%s route=%s code=%d duration_s=%.4f request_id=%s",
            method,
            route,
            code,
            duration_s,
            exchange.request_id,
            extra={"method": method, "route": route, "code": code, "duration_s": round(duration_s, 4)},
        )


class _Exchange:
    """One request and its response. `code` is 0 until the response has begun."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, tracing: Tracing | None) -> None:
        headers = Headers(scope=scope)
        self.trace = RequestTrace(tracing, scope, headers)
        given_id = headers.get("x-request-id", "")
        is_usable = _REQUEST_ID.fullmatch(given_id) and without_keys(given_id) == given_id  # it is logged
        self.request_id = given_id if is_usable else secrets.token_hex(16)
        self.began_at = time.monotonic()
        self.code = 0
        self._receive = receive
        self._send = send
        self._has_unread_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        # Such a client sends no body before it is asked to, and receiving is what asks it.
        self._is_body_held_back = headers.get("expect", "").lower() == "100-continue"

    async def receive(self) -> Message:
        self._is_body_held_back = False
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._has_unread_body = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
            headers = message["headers"]
            present = {name for name, _ in headers}  # lower case, as ASGI has them
            headers.extend(header for header in SECURITY_HEADERS if header[0] not in present)
            headers.append((b"x-request-id", self.request_id.encode()))
            headers.append((b"traceresponse", self.trace.context.traceparent.encode()))
            if self._has_unread_body:
                MutableHeaders(raw=headers)["Connection"] = "close"
        elif message["type"] == "http.response.body" and self._is_last_but_body_comes(message):
            await self._send({**message, "more_body": True})
            await self._discard_body()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _is_last_but_body_comes(self, message: Message) -> bool:
        return self._has_unread_body and not self._is_body_held_back and not message.get("more_body", False)

    async def _discard_body(self) -> None:
        num_bytes = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while self._has_unread_body and num_bytes < LINGER_BYTES:
                    num_bytes += len((await self.receive()).get("body", b""))
