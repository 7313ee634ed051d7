"""Streams whose client has gone: it has some seconds to come back, perhaps through another gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

GRACE_S = 10.0  # a stream that broke is taken up again within some seconds


class Abandoned:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, give_up: Callable[[], Awaitable[None]], grace_s: float = GRACE_S) -> None:
        """The client of a stream has gone: `give_up` looks after the grace whether it has come back."""
        task = asyncio.create_task(self._after_grace(give_up, grace_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """This gateway stops: what has not been called off by now goes on."""
        for task in self._tasks:
            task.cancel()

    async def _after_grace(self, give_up: Callable[[], Awaitable[None]], grace_s: float) -> None:
        await asyncio.sleep(grace_s)
        await give_up()
