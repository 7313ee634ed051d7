"""What a fault is, and what it has at hand."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import httpx

from tests.chaos.client import Clients
from tests.chaos.record import Record
from tests.chaos.stack import LEASE_S, Stack
from tests.chaos.wanted import Wanted, draw_request

FIRST_EXTRA = 1_000_000  # numbers of the requests that faults send themselves
SUBMIT_LIMIT_S = 3.5  # two seconds are promised, four would be two calls one after the other
RERUN_S = LEASE_S + 1.0  # the lease, and a look of whoever reaps
CROWDED_S = 3.0  # what a crowded machine may add to any promised time before it counts as broken


@dataclass(slots=True)
class Outcome:
    """How often it happened, to which worker (its index), and what was not as promised.

    What that worker had claimed before must have moved on `promised_s` after the fault.
    """

    num_injected: int = 1
    victim: int | None = None
    promised_s: float = math.inf
    broken: list[str] = field(default_factory=list)

    def expect(self, is_so: bool, sentence: str) -> None:
        """Note the sentence unless it is so."""
        if not is_so:
            self.broken.append(sentence)


@dataclass(slots=True)
class Scene:
    """A stack under load. `extra` makes further requests, `wanted` has all there were."""

    stack: Stack
    record: Record
    clients: Clients
    rng: random.Random
    wanted: dict[int, Wanted] = field(default_factory=dict)
    num_extra: int = 0

    def extra(self, kind: str, **changes: object) -> Wanted:
        """A request of the fault's own."""
        number = FIRST_EXTRA + self.num_extra
        self.num_extra += 1
        one = replace(draw_request(self.rng, number, kind=kind), **changes)
        self.wanted[number] = one
        return one

    async def submit_once(self) -> tuple[httpx.Response | None, float]:
        """One asynchronous request to one gateway, and how long its answer took; no answer is None."""
        one = self.extra("async", key=None)
        sent_s = self.record.now_s()
        response = await self.clients.submit_once(one)
        return response, self.record.now_s() - sent_s

    def any_worker(self) -> int:
        """Index of a worker."""
        return self.rng.randrange(len(self.stack.workers))


Fault = Callable[[Scene], Awaitable[Outcome]]


async def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time."""
    for _ in range(max(int(timeout_s / 0.05), 1)):
        if condition():
            return True
        await asyncio.sleep(0.05)
    return condition()
