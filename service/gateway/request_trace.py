"""A request's place in its trace: the caller's, continued, or a new one; and its span, where traces are recorded."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import Scope

from service.trace_context import TraceContext, continue_trace, parse_traceparent
from service.tracing import Span, Tracing

TRACED_PATHS = "/v1/"  # probes, metrics and the page would bury the rest


class RequestTrace:
    """Begins with the request. `context` is what its job and its answer are told."""

    def __init__(self, tracing: Tracing | None, scope: Scope, headers: Headers) -> None:
        caller = parse_traceparent(headers.getlist("traceparent"))
        self._span: Span | None = None
        if tracing is not None and scope["path"].startswith(TRACED_PATHS):
            self._span = tracing.start("HTTP", caller, kind="SERVER")
        self.context: TraceContext = (
            self._span.context if self._span is not None else continue_trace(caller, secrets.token_hex)
        )

    def end(self, method: str, route: str, code: int, ids: Mapping[str, str]) -> None:
        """The answer is sent, or its client has gone (499)."""
        span = self._span
        if span is None or not span.is_recorded:
            return
        span.rename(f"{method} {route}")
        span.set({"http.request.method": method, "http.route": route, "http.response.status_code": code})
        span.set({f"emmdit.{name}": ids[name] for name in ("request_id", "job_id") if name in ids})
        span.end(str(code) if code >= 500 else "")


def trace_of(scope: Scope) -> TraceContext:
    """The trace of a request that came through the envelope."""
    trace: TraceContext = scope["state"]["trace"]
    return trace
