"""A wire that can go bad, between one part and the server: cut, slow, silent in either direction, or losing one reply.

Bytes of a silent direction are kept and delivered afterwards, as a network that comes back delivers what was sent
again: requests that were given up may still be carried out late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

CHUNK_BYTES = 65536


class Wire:
    """A unix socket at `path` that leads to the one at `target`."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        self.num_replies_lost = 0
        self.delay_s = 0.0
        self._target = target
        self._is_cut = False
        self._open = {"requests": asyncio.Event(), "replies": asyncio.Event()}
        for direction in self._open.values():
            direction.set()
        self._lost_call: bytes | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """What the part is given as the server's address."""
        return f"unix://{self.path}"

    async def open(self) -> None:
        """Begin to listen."""
        self._listener = await asyncio.start_unix_server(self._accept, str(self.path), limit=CHUNK_BYTES)

    async def close(self) -> None:
        """Cut everything and stop listening."""
        if self._listener is not None:
            self._listener.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break all connections, and every new one, until `heal`."""
        self._is_cut = True
        for link in list(self._links):
            link.abort()

    def silence(self, *directions: str) -> None:
        """Let nothing through in these directions ("requests", "replies") until `heal`."""
        for direction in directions:
            self._open[direction].clear()

    def lose_reply_to(self, call: bytes) -> None:
        """Of the next request that holds `call`, pass it on and break the connection instead of its reply."""
        self._lost_call = call

    def heal(self) -> None:
        """As if nothing had been."""
        self._is_cut = False
        self._lost_call = None
        self.delay_s = 0.0
        for direction in self._open.values():
            direction.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            to_server = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        link = _Link(reader, writer, *to_server)
        self._links.add(link)
        try:
            await link.run(self._pass_requests(link), self._pass_replies(link))
        finally:
            self._links.discard(link)
            link.abort()

    async def _pass_requests(self, link: _Link) -> None:
        while data := await link.client_reader.read(CHUNK_BYTES):
            await self._passage("requests")
            if self._lost_call is not None and self._lost_call in data:
                self._lost_call = None
                link.loses_next_reply = True
            link.server_writer.write(data)
            await link.server_writer.drain()

    async def _pass_replies(self, link: _Link) -> None:
        while data := await link.server_reader.read(CHUNK_BYTES):
            await self._passage("replies")
            if link.loses_next_reply:
                self.num_replies_lost += 1
                return
            link.client_writer.write(data)
            await link.client_writer.drain()

    async def _passage(self, direction: str) -> None:
        await self._open[direction].wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)


class _Link:
    """One connection through the wire. When one side ends, so does the other."""

    def __init__(
        self,
        client_reader: asyncio.StreamReader,
        client_writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        self.client_reader, self.client_writer = client_reader, client_writer
        self.server_reader, self.server_writer = server_reader, server_writer
        self.loses_next_reply = False

    async def run(self, *passing: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.create_task(one) for one in passing]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            with suppress(OSError):
                await asyncio.gather(*tasks, return_exceptions=True)

    def abort(self) -> None:
        for writer in (self.client_writer, self.server_writer):
            writer.transport.abort()
