"""One server under one load: its capacity, its latency on a trace, the highest rate at which it keeps an objective."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.bench.plan import PlannedRequest, Way, plan_requests, poisson_times, scale_times
from service.bench.report import LoadReport
from service.bench.run import measure

TIMEOUT_S = 3600.0
NUM_HALVINGS = 4
MAX_SPEED_UP = 4.0


@dataclass(frozen=True, slots=True)
class Mix:
    """What is drawn: steps evenly between two bounds, guided as the model is or not at all."""

    min_steps: int
    max_steps: int
    guidance: float | None

    def ways(self, num: int = 8) -> list[Way]:
        """`num` numbers of steps, evenly spaced, the bounds among them."""
        stride = (self.max_steps - self.min_steps) / max(num - 1, 1)
        return [Way(round(self.min_steps + index * stride), self.guidance) for index in range(num)]


def make_trace(mix: Mix, prompts: Sequence[str], rate_per_s: float, num: int, seed: int) -> list[PlannedRequest]:
    """Poisson arrivals of mixed requests, the same for the same arguments."""
    source = random.Random(seed)
    return plan_requests(poisson_times(rate_per_s, num, source), prompts, mix.ways(), source)


def drive(url: str, planned: Sequence[PlannedRequest], objective_s: float = 0.0) -> LoadReport:
    """Send a trace. Raises RuntimeError where a request got no picture: no figure is made of half a run."""
    report = asyncio.run(measure(url, planned, objective_s=objective_s, timeout_s=TIMEOUT_S)).report
    if report.errors:
        raise RuntimeError(f"{url}: {report.errors}")
    return report


def capacity_per_s(url: str, trace: Sequence[PlannedRequest]) -> float:
    """Pictures a second with all of `trace` there from the start: batches as full as they get."""
    return drive(url, scale_times(trace, 0.0)).throughput_per_s


def highest_rate(
    p95_at: Callable[[float], float], objective_s: float, rate_per_s: float, num_halvings: int = NUM_HALVINGS
) -> float:
    """The highest arrival rate whose p95 stays within `objective_s`, between 0 and four times `rate_per_s`.

    Doubles or halves until the objective lies in between, then halves that span. `p95_at` draws a trace at a rate.
    0 where even a sixteenth of `rate_per_s` is too much.
    """
    low, high = 0.0, rate_per_s
    if p95_at(high) <= objective_s:
        while high < MAX_SPEED_UP * rate_per_s:
            low, high = high, high * 1.5
            if p95_at(high) > objective_s:
                break
        else:
            return high
    for _ in range(num_halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if p95_at(middle) <= objective_s else (low, middle)
    return low
