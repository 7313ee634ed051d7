"""What can be wrong with a request's head before any route looks at it: its size, its framing, or the moment.

Surprising: the parser below bounds only heads that come in pieces; one that arrives whole is as large as a read.
"""

from __future__ import annotations

from starlette.types import Scope

from service.gateway.refusals import RequestRefused

MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100
VERSIONS = ("1.1", "1.0")
PROBES = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
IS_SURPLUS = "is_surplus"  # key of a connection's state: it came when all places were taken
_CLOSE = {"Connection": "close"}


def refusal_of(scope: Scope) -> RequestRefused | None:
    """Why this request goes no further; None for nearly every one. The connection ends with such an answer."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    num_bytes = len(scope["raw_path"]) + len(scope["query_string"])
    num_bytes += sum(len(name) + len(value) for name, value in headers)
    if num_bytes > MAX_HEAD_BYTES:
        return too_large_head(f"{num_bytes} bytes")
    if len(headers) > MAX_HEADERS:
        return too_large_head(f"{len(headers)} headers")
    if scope["http_version"] not in VERSIONS:
        return malformed(f"HTTP/{scope['http_version']} is not spoken here; allowed: HTTP/{', HTTP/'.join(VERSIONS)}")
    names = {name for name, _ in headers}
    if b"transfer-encoding" in names and (b"content-length" in names or scope["http_version"] == "1.0"):
        # A proxy in front may read the one and we the other: its next request would begin at another byte than ours.
        seen = "Transfer-Encoding stands beside Content-Length or in HTTP/1.0"
        return malformed(f"{seen}; allowed: one way to say how long a body is")
    if scope["state"].get(IS_SURPLUS) and scope["path"] not in PROBES:
        message = "all connections of this server are taken; try again later"
        return RequestRefused(503, "server_is_overloaded", message, headers=_CLOSE)
    return None


def too_large_head(seen: str) -> RequestRefused:
    """431."""
    message = f"the request's head is too large: {seen}; allowed: {MAX_HEAD_BYTES} bytes in {MAX_HEADERS} headers"
    return RequestRefused(431, "headers_too_large", message, headers=_CLOSE)


def malformed(message: str) -> RequestRefused:
    """400. Also where 501 or 505 would fit: clients try again after those, and it would be in vain."""
    return RequestRefused(400, "malformed_request", message, headers=_CLOSE)


def too_slow_head(limit_s: float) -> RequestRefused:
    """408."""
    message = f"the request's head did not arrive within {limit_s:g} s"
    return RequestRefused(408, "request_timeout", message, headers=_CLOSE)
