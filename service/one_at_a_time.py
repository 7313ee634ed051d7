"""Work that is begun again and again beside something else, and never twice at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class OneAtATime:
    """Of one event loop. What `work` raises, whoever waits for it next is told."""

    def __init__(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    async def do(self, timeout_s: float | None = None) -> None:
        """Begin, where it is not under way, and wait for its end, at most `timeout_s`. It goes on after that."""
        task = self._task = self._task or asyncio.create_task(self._work())
        await asyncio.wait((task,), timeout=timeout_s)
        if task.done():
            self._task = None
            await task

    @property
    def is_under_way(self) -> bool:
        """Whether it has begun and nobody has waited for its end yet."""
        return self._task is not None

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
