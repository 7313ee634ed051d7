"""Which request is sent when: drawn from a seed or read from a trace, all of it before the first is sent. Pure.

A trace is one JSON object a line: "at_s" (seconds after the start) and, as wanted, "prompt", "seed",
"num_inference_steps", "guidance_scale" and "size" as in POST /v1/generate.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Way:
    """One way of drawing in a mix, taken `weight` times as often as one of weight 1. None: the model's own setting."""

    num_steps: int | None = None
    guidance: float | None = None
    size: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request, to be sent `at_s` after the start. Field names but for the first are those of the API."""

    at_s: float
    prompt: str
    seed: int
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    size: str | None = None

    def body(self) -> dict[str, Any]:
        """JSON for POST /v1/generate."""
        return {name: value for name, value in asdict(self).items() if name != "at_s" and value is not None}


def parse_way(text: str) -> Way:
    """ "20:4.5:512x512=3" -> 20 steps, guidance 4.5, that size, weight 3; what is left empty is the model's own.

    Raises ValueError.
    """
    settings, _, weight = text.partition("=")
    steps, guidance, size = [*settings.split(":"), "", ""][:3]
    try:
        way = Way(
            int(steps) if steps else None, float(guidance) if guidance else None, size or None, float(weight or 1)
        )
        is_possible = settings.count(":") <= 2 and math.isfinite(way.weight) and way.weight > 0
    except ValueError:
        is_possible = False
    if not is_possible:
        raise ValueError(f"{text!r} is no way of drawing; allowed: STEPS:GUIDANCE:SIZE=WEIGHT, each part optional")
    return way


def poisson_times(rate_per_s: float, num: int, source: random.Random) -> list[float]:
    """`num` rising times in seconds, the first after the first gap, as of independent customers."""
    times, now_s = [], 0.0
    for _ in range(num):
        now_s += source.expovariate(rate_per_s)
        times.append(now_s)
    return times


def plan_requests(
    times_s: Sequence[float], prompts: Sequence[str], ways: Sequence[Way], source: random.Random
) -> list[PlannedRequest]:
    """One request for each time: prompts in turn, a way by weight, a seed of its own."""
    weights = [way.weight for way in ways]
    planned = []
    for index, at_s in enumerate(times_s):
        (way,) = source.choices(ways, weights)
        seed = source.randint(0, MAX_SEED)
        prompt = prompts[index % len(prompts)]
        planned.append(PlannedRequest(at_s, prompt, seed, way.num_steps, way.guidance, way.size))
    return planned


def read_trace(text: str, prompts: Sequence[str], source: random.Random) -> list[PlannedRequest]:
    """The requests of a trace, in order of time; missing prompts and seeds are filled in.

    Raises ValueError naming the line, or for a trace without requests.
    """
    planned: list[PlannedRequest] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            filled = {"prompt": prompts[len(planned) % len(prompts)], "seed": source.randint(0, MAX_SEED)} | values
            request = PlannedRequest(**filled)
            is_possible = math.isfinite(request.at_s) and request.at_s >= 0
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {number} of the trace: {error}") from error
        if not is_possible:
            raise ValueError(f"line {number} of the trace: at_s is {request.at_s}; allowed: seconds from 0")
        planned.append(request)
    if not planned:
        raise ValueError("the trace is empty")
    return sorted(planned, key=lambda request: request.at_s)


def write_trace(planned: Sequence[PlannedRequest]) -> str:
    """The trace that `read_trace` makes these requests of again."""
    return "".join(json.dumps({"at_s": request.at_s} | request.body()) + "\n" for request in planned)


def scale_times(planned: Sequence[PlannedRequest], factor: float) -> list[PlannedRequest]:
    """The same requests with every gap `factor` times as long."""
    return [PlannedRequest(**{**asdict(request), "at_s": request.at_s * factor}) for request in planned]
