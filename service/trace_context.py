"""Which trace a request belongs to: the `traceparent` header of W3C Trace Context, level 1, read and written. Pure.

Read strictly: whatever the recommendation calls invalid counts as not sent. `tracestate` is not carried on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SAMPLED = 0x01
_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
)
_VERSION_00_CHARS = 55


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One span's place: the trace it is in and its own id, in lower-case hex. `is_sampled`: somebody records it."""

    trace_id: str
    span_id: str
    is_sampled: bool

    @property
    def traceparent(self) -> str:
        """What children of this span are told."""
        return f"00-{self.trace_id}-{self.span_id}-{SAMPLED if self.is_sampled else 0:02x}"


def parse_traceparent(headers: Sequence[str]) -> TraceContext | None:
    """The caller's span from every `traceparent` header of a request; None unless there is one, and it is valid."""
    if len(headers) != 1:
        return None
    found = _TRACEPARENT.match(headers[0])
    if found is None or found["version"] == "ff":
        return None
    rest = headers[0][_VERSION_00_CHARS:]
    if rest and (found["version"] == "00" or not rest.startswith("-")):  # later versions may have more to say
        return None
    if not int(found["trace"], 16) or not int(found["span"], 16):
        return None
    return TraceContext(found["trace"], found["span"], is_sampled=bool(int(found["flags"], 16) & SAMPLED))


def continue_trace(caller: TraceContext | None, random_hex: Callable[[int], str]) -> TraceContext:
    """A span below the caller's, or the first of a new trace, which nobody records.

    `random_hex` gives so many random bytes in hex (secrets.token_hex).
    """
    if caller is None:
        return TraceContext(random_hex(16), random_hex(8), is_sampled=False)
    return TraceContext(caller.trace_id, random_hex(8), caller.is_sampled)
