"""The queue's server under test: the embedded one's binary and options, on a unix socket, to be killed and started."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from service.embedded import find_server_binary
from tests.chaos.parts import tethered

START_TIMEOUT_S = 60.0


class Server:
    """One process. Its append-only file is never rewritten: it is the journal that the checks read (journal.py)."""

    def __init__(self, folder: Path, *, max_memory_bytes: int = 256 * 2**20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.socket_path = folder / "s"
        self._max_memory_bytes = max_memory_bytes
        self._process: asyncio.subprocess.Process | None = None
        # One that is never stopped by a fault: for looking, and for faults that are commands.
        self.direct: Any = Redis(unix_socket_path=str(self.socket_path), decode_responses=True, socket_timeout=60)

    @property
    def url(self) -> str:
        """Its address, without any proxy."""
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        """Process id, 0 while it is down."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start it, and return once it answers."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "dir": str(self.folder),
            "logfile": str(self.folder / "server.log"),
            "databases": "1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "auto-aof-rewrite-percentage": "0",
            "maxmemory": str(self._max_memory_bytes),
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = await tethered(str(find_server_binary()), *arguments)
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await self.is_up():
                await asyncio.sleep(0.01)

    async def is_up(self) -> bool:
        """Whether it answers, and has loaded its data."""
        with suppress(Exception):
            return bool(await self.direct.ping())
        return False

    async def kill(self) -> None:
        """kill -9, and return once it is gone."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Stop or continue it."""
        os.kill(self.pid, number)

    async def close(self) -> None:
        """End it for good."""
        if self.pid:
            await self.kill()
        await self.direct.aclose()

    def journal_paths(self) -> list[Path]:
        """Its append-only files, in order."""
        folder = self.folder / "appendonlydir"
        if not folder.exists():
            return sorted(self.folder.glob("*.aof"))
        return sorted(folder.glob("*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))
