"""Loops that run beside the requests: each does one thing again and again and outlives the queue's absence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from service.errors import ServerOverloaded

logger = logging.getLogger(__name__)

CANCEL_AGAIN_S = 3.0  # longer than what a task has to clean up may take: a call to the queue


async def repeat(name: str, period_s: float, action: Callable[[], Awaitable[object]]) -> None:
    """Run `action` every `period_s` until cancelled.

    A queue that is away is no news here: requests report it. Any other failure is a bug: it is logged, and the loop
    goes on, because a gateway whose loops ended silently would let every client hang.
    """
    while not is_cancelled():
        try:
            await action()
        except ServerOverloaded:
            logger.debug("background task %s: the queue is away", name)
        except Exception:  # the edge of this process, as far as the loop is concerned
            logger.exception("background task %s failed and goes on", name)
        await asyncio.sleep(period_s)


def is_cancelled() -> bool:
    """Whether this task was told to end. Loops ask, because Python 3.11's `asyncio.wait_for`, which the queue's client
    uses, sometimes swallows the exception that should have told them."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and return once it has ended, however: told again after a while, since one time can be swallowed.

    Who is cancelled while waiting here waits all the same, and is cancelled then: what the task holds is still in use.
    """
    task.cancel()
    has_to_end_too = False
    while not task.done():
        try:
            ended, _ = await asyncio.wait((task,), timeout=CANCEL_AGAIN_S)
        except asyncio.CancelledError:
            has_to_end_too = True
            continue
        if not ended:
            task.cancel()
    if not task.cancelled():
        task.exception()  # looked at: what nobody looks at is complained of in the log
    if has_to_end_too:
        raise asyncio.CancelledError
