"""Who waits for news of which job: one subscription of this gateway, a bell for each event stream that is open.

News only say "look". They can be missed, so whoever waits looks now and then by himself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import ServerOverloaded
from service.gateway.background import is_cancelled
from service.job_events import News

logger = logging.getLogger(__name__)

READ_TIMEOUT_S = 1.0
RECONNECT_PAUSE_S = 0.2


class Bell:
    """Rings when a job may have something to show, and for good when this gateway stops."""

    def __init__(self) -> None:
        self._has_rung = asyncio.Event()
        self.is_closing = False

    def ring(self) -> None:
        """Wake the one who waits, or the next one who does."""
        self._has_rung.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when it has rung since the last time, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_rung.wait()
        except TimeoutError:
            return
        if not self.is_closing:
            self._has_rung.clear()


class Bells:
    """Belongs to one event loop. `run` is its reader task.

    It listens from the gateway's start, whether a bell hangs or not: what is said while a subscription is only being
    made is missed, and the first stream of a quiet gateway is as good as any.
    """

    def __init__(self, news: News) -> None:
        self._news = news
        self._bells: dict[str, set[Bell]] = {}
        self._is_closing = False

    @contextmanager
    def hang(self, job_id: str) -> Iterator[Bell]:
        """A bell for news of this job."""
        bell = Bell()
        if self._is_closing:
            self._stop(bell)
        self._bells.setdefault(job_id, set()).add(bell)
        try:
            yield bell
        finally:
            self._bells[job_id].discard(bell)
            if not self._bells[job_id]:
                del self._bells[job_id]

    def close(self) -> None:
        """Tell all who wait, and all who will, that this gateway stops."""
        self._is_closing = True
        for bells in self._bells.values():
            for bell in bells:
                self._stop(bell)

    async def run(self) -> None:
        """Listen until cancelled."""
        try:
            while not is_cancelled():
                try:
                    job_id = await self._news.read(READ_TIMEOUT_S)
                except ServerOverloaded:
                    await asyncio.sleep(RECONNECT_PAUSE_S)
                except Exception:  # the edge of this process: streams would stutter for ever
                    logger.exception("listening for news failed and goes on")
                    await asyncio.sleep(RECONNECT_PAUSE_S)
                else:
                    for bell in self._bells.get(job_id or "", ()):
                        bell.ring()
        finally:
            await self._news.close()

    def _stop(self, bell: Bell) -> None:
        bell.is_closing = True
        bell.ring()
