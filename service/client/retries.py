"""When to try again, and when no more. Pure: the clock and the dice are passed in, and nobody sleeps here."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import httpx

from service.client.errors import TWIN_UNDER_WAY, ApiError, ServerUnreachable

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0


class Patience:
    """One request's attempts. It runs out `limit_s` after the first of several failures in a row."""

    def __init__(
        self,
        limit_s: float,
        now_s: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._limit_s = limit_s
        self._now_s = now_s
        self._dice = dice
        self._since_s: float | None = None
        self._num_failures = 0

    def renew(self) -> None:
        """Something went well: the next failure is a first one."""
        self._since_s = None
        self._num_failures = 0

    def pause_s(self, failure: httpx.TransportError | ApiError, *, wish_s: float | None = None) -> float:
        """How long to wait before the next attempt; `wish_s` is what the server would like where it said nothing.

        Raises the failure itself, or ServerUnreachable for one of the connection, where trying again makes no sense
        or patience has run out.
        """
        if isinstance(failure, ApiError) and failure.code == TWIN_UNDER_WAY:
            self.renew()  # no trouble at all: our first attempt is being drawn, and its deadline ends that
        now_s = self._now_s()
        if self._since_s is None:
            self._since_s = now_s
        asked_s = failure.retry_after_s if isinstance(failure, ApiError) else None
        pause_s = self._backoff_s(wish_s) if asked_s is None else asked_s
        self._num_failures += 1
        is_hopeless = not _is_passing(failure)
        if is_hopeless or now_s + pause_s - self._since_s > self._limit_s:
            if isinstance(failure, ApiError):
                raise failure
            tried = f"{self._num_failures} attempts" if self._num_failures > 1 else "one attempt"
            cause = str(failure) or type(failure).__name__
            raise ServerUnreachable(f"no connection after {tried}: {cause}") from failure
        return pause_s

    def _backoff_s(self, wish_s: float | None) -> float:
        """Twice as long each time, and by chance up to half less, so that many clients don't come back together."""
        first_s = FIRST_PAUSE_S if wish_s is None else wish_s
        pause_s = min(first_s * 2.0 ** min(self._num_failures, 10), LONGEST_PAUSE_S)
        return pause_s * (1 - self._dice() / 2)


def _is_passing(failure: httpx.TransportError | ApiError) -> bool:
    if isinstance(failure, ApiError):
        return failure.should_retry
    return not isinstance(failure, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
