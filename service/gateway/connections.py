"""Connections: uvicorn's HTTP/1.1 with the deadlines and limits that it lacks, so that nobody holds a place for free.

A client has `header_timeout_s` for a request's head, and has to take what it asked for at a least pace. Where all
places are taken, the connection that has idled longest makes room; where none idles, newcomers get 503, and probes
their answer. Surprising: a transport that is closed lives on until its reader has taken everything, so slow readers
are cut by `abort`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import sys
from collections import Counter
from enum import StrEnum
from functools import partial
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from service.gateway.envelope import LINGER_S, SECURITY_HEADERS, UNMATCHED
from service.gateway.heads import IS_SURPLUS, malformed, too_large_head, too_slow_head
from service.gateway.refusals import RequestRefused, shorten
from service.gateway.responses import error_response
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger(__name__)

RESERVED_CONNECTIONS = 64  # beyond max_connections: enough to say 503 to some and to answer probes
KERNEL_BUFFER_BYTES = 128 * 1024  # per connection; left to itself Linux would take up to 4 MiB for a slow reader
LEAST_TAKEN_BYTES = 16 * 1024  # within write_timeout_s; less is nothing, or a byte now and then would hold a place


class Cut(StrEnum):
    """Why a connection was ended from here."""

    SLOW_HEAD = "slow_head"
    SLOW_READER = "slow_reader"
    MADE_ROOM = "made_room"
    REFUSED = "refused"
    MALFORMED = "malformed"


class Connections:
    """All that are open: how many, whose, and which of them wait for a request, longest first."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self._open: dict[Connection, str] = {}
        self._num_of_address: Counter[str] = Counter()
        self._idle: dict[Connection, None] = {}

    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes a connection with."""
        return cast("type[asyncio.Protocol]", partial(Connection, connections=self))

    def enter(self, connection: Connection, address: str) -> bool | None:
        """Whether it has a place of its own; False for one that may only be told so, None for one to close at once."""
        limit = self.settings.max_connections
        limit_of_address = self.settings.max_connections_per_address
        if 0 < limit_of_address <= self._num_of_address[address]:
            return None
        if len(self._open) >= limit and self._idle:
            next(iter(self._idle)).cut(Cut.MADE_ROOM)
        if len(self._open) >= limit + RESERVED_CONNECTIONS:
            return None
        has_place = len(self._open) < limit
        self._open[connection] = address
        self._num_of_address[address] += 1
        self.metrics.http_connections.inc()
        return has_place

    def leave(self, connection: Connection) -> None:
        """Called once or more for each, also for one that never got in."""
        self._idle.pop(connection, None)
        address = self._open.pop(connection, None)
        if address is None:
            return
        self.metrics.http_connections.dec()
        self._num_of_address[address] -= 1
        if not self._num_of_address[address]:
            del self._num_of_address[address]

    def note(self, connection: Connection, *, is_idle: bool) -> None:
        """An idle one has nothing to lose but its place."""
        if not is_idle:
            self._idle.pop(connection, None)
        elif connection in self._open:
            self._idle.setdefault(connection)


class Connection(H11Protocol):
    """One client's. Everything that uvicorn's own does, with an end to it."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        has_place = self._all.enter(self, self.client[0] if self.client else "")
        if has_place is None:
            self.cut(Cut.REFUSED)
            return
        self.app_state = {**self.app_state, IS_SURPLUS: not has_place}
        transport.set_write_buffer_limits(high=0)  # so that pause_writing and resume_writing tell what a reader takes
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, whoever ended it."""
        self._all.leave(self)
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request. What comes after a refusal is thrown away, so that the client reads why."""
        if not self._is_refused:
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """All of an answer is on its way."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The reader has not yet taken everything."""
        super().pause_writing()
        self._watch()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self._watch()

    def shutdown(self) -> None:
        """The server stops."""
        if self._is_refused:
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls while it handles the parser's complaint: answered in the one shape."""
        fault = sys.exc_info()[1]
        assert isinstance(fault, h11.RemoteProtocolError)
        if fault.error_status_hint == 431:
            refusal = too_large_head("it has not ended yet")
        else:
            refusal = malformed(f"this is not HTTP/1.1: {shorten(str(fault))}")
        self._refuse(refusal, Cut.MALFORMED)

    def cut(self, reason: Cut) -> None:
        """End it at once, whatever is under way."""
        self._all.metrics.http_connections_cut.labels(reason).inc()
        self._all.leave(self)
        self._stop_timers()
        self.transport.abort()

    def _watch(self) -> None:
        """Run the clock while a head is due: the first one, or a later one from its first byte on."""
        if self._is_refused or self.transport.is_closing():
            return
        has_request = self.cycle is not None and not self.cycle.response_complete
        self._all.note(self, is_idle=not has_request and not self.flow.write_paused)
        is_due = self.conn.their_state is h11.IDLE and (self.cycle is None or self._has_part_of_head())
        if is_due and self._head_timer is None:
            limit_s = self._all.settings.header_timeout_s
            self._head_timer = self.loop.call_later(limit_s, self._end_slow_head)
        elif not is_due and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _has_part_of_head(self) -> bool:
        return bool(self.conn.trailing_data[0])

    def _end_slow_head(self) -> None:
        if self._has_part_of_head():
            self._refuse(too_slow_head(self._all.settings.header_timeout_s), Cut.SLOW_HEAD)
        else:
            self.cut(Cut.SLOW_HEAD)  # it asked nothing: an answer could be taken for that to a question still to come

    def _await_reader(self, num_left: int) -> None:
        limit_s = self._all.settings.write_timeout_s
        self._write_timer = self.loop.call_later(limit_s, self._check_reader, num_left)

    def _check_reader(self, num_before: int) -> None:
        num_left = self.transport.get_write_buffer_size()
        if num_before - num_left < LEAST_TAKEN_BYTES:
            self.cut(Cut.SLOW_READER)
        else:
            self._await_reader(num_left)

    def _refuse(self, refusal: RequestRefused, reason: Cut) -> None:
        """Answer in the parser's place and close, once the client had time to read it."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.cut(reason)  # in the middle of another answer
            return
        self._is_refused = True
        self._stop_timers()
        self._all.note(self, is_idle=False)
        self._all.metrics.http_connections_cut.labels(reason).inc()
        self._all.metrics.count_http("", UNMATCHED, refusal.status, 0.0)
        if self.cycle is not None:  # a request whose body is broken: its handler has nobody to answer any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        request_id = secrets.token_hex(16)
        extra = {"request_id": request_id}
        logger.info("request_id=%s refused before any route: %s", request_id, refusal.code, extra=extra)
        response = error_response(refusal, request_id)
        headers = [*response.raw_headers, *SECURITY_HEADERS, (b"x-request-id", request_id.encode())]
        for event in (
            h11.Response(status_code=refusal.status, headers=headers),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)

    def _stop_timers(self) -> None:
        self._unset_keepalive_if_required()
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None
