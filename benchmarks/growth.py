"""How far one queue server goes: measured costs of the queue's calls, counted up for 1 to 1,000 workers.

    python -m benchmarks.growth --out benchmarks/results/growth.json

The costs are measured (benchmarks/queue_costs.py, the smallest of several rounds). The crowd is not there: how often
each call is made follows from the code (one heartbeat and one reaper a second in each process, one look at the workers
a second in each gateway, one claim a forward in a worker with free places) and from the load.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.queue_costs import HELD, Cost, measure_costs

NUM_WORKERS = (1, 10, 100, 1000)
ROUNDS = 3
JOBS_PER_GATEWAY = 200.0  # a second; benchmarks.overhead measures about twice that on one core
USABLE = 0.7  # of the server's one core: beyond, waiting in its own queue begins to show
PREVIEWS_PER_S = 10.0  # of a watched picture, EMMDIT_PREVIEW_INTERVAL_S
PICTURE_BYTES = 400_000  # of a 512 px PNG: 1.5 bytes a pixel


@dataclass(frozen=True, slots=True)
class Device:
    """One worker's device: pictures a second at full batches, forwards a second, and seconds a picture is under way."""

    name: str
    pictures_per_s: float
    forwards_per_s: float
    picture_s: float


# Published for one MI300X at batch 32 (Nitro-E's model card and paper): 20 steps with guidance, and four without.
DEVICES = (
    Device("20 steps, 18.83 pictures/s", 18.83, 18.83 / 32 * 20, 32 / 18.83),
    Device("4 steps, 39.36 pictures/s", 39.36, 39.36 / 32 * 4, 32 / 39.36),
)


@dataclass(frozen=True, slots=True)
class Load:
    """A second of the server with `num_workers` busy ones. `share_us` are microseconds by what they go to."""

    num_workers: int
    num_gateways: int
    jobs_per_s: float
    calls_per_s: float
    share_us: Mapping[str, float]
    bytes_per_s: float

    @property
    def cores(self) -> float:
        """Of the server's processor; a server has one for commands."""
        return sum(self.share_us.values()) / 1e6


def load_of(costs: Mapping[str, Cost], device: Device, num_workers: int, share_watched: float = 0.2) -> Load:
    """One model's queue with so many workers, all busy, a share of the pictures watched as they are drawn. Pure."""
    jobs_per_s = num_workers * device.pictures_per_s
    num_gateways = math.ceil(jobs_per_s / JOBS_PER_GATEWAY)
    previews_per_s = jobs_per_s * share_watched * PREVIEWS_PER_S * device.picture_s
    rates: dict[str, list[tuple[float, Cost]]] = {
        "jobs": [
            (jobs_per_s, costs["submit"]),
            (jobs_per_s, costs["claim"]),
            (jobs_per_s, costs["status"]),
            (jobs_per_s, costs["finish"]),
            (jobs_per_s, costs["inbox, an event"]),
        ],
        "heartbeats": [(num_workers, costs[f"heartbeat of {HELD} jobs"])],
        "reapers": [(num_workers + num_gateways, costs["reap, nothing due"])],
        "claims that find nothing": [(num_workers * device.forwards_per_s, costs["claim nothing"])],
        "gateways' looks at the workers": [(num_gateways, _at(costs, num_workers))],
        "previews": [(previews_per_s, costs["preview"]), (previews_per_s, costs["look at a watched job"])],
    }
    calls = [call for group in rates.values() for call in group]
    return Load(
        num_workers,
        num_gateways,
        jobs_per_s,
        sum(rate for rate, _ in calls),
        {name: sum(rate * cost.server_us for rate, cost in group) for name, group in rates.items()},
        sum(rate * (cost.bytes_in + cost.bytes_out) for rate, cost in calls),
    )


def most_workers(costs: Mapping[str, Cost], device: Device) -> int:
    """The most workers of one queue that leave its server within its usable part."""
    low, high = 0, 100_000
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if load_of(costs, device, middle).cores <= USABLE else (low, middle - 1)
    return low


def _at(costs: Mapping[str, Cost], num_workers: int) -> Cost:
    """What a look at so many workers' records costs, between those measured and beyond in proportion."""
    known = [(num, costs[f"workers {num}"]) for num in NUM_WORKERS]
    if num_workers >= known[-1][0]:
        num, cost = known[-1]
        return Cost(*(value * num_workers / num for value in (cost.server_us, cost.bytes_in, cost.bytes_out)))
    for (low, low_cost), (high, high_cost) in itertools.pairwise(known):
        if num_workers <= high:
            part = (num_workers - low) / (high - low)
            pairs = zip(asdict(low_cost).values(), asdict(high_cost).values(), strict=True)
            return Cost(*(a + part * (b - a) for a, b in pairs))
    raise AssertionError(num_workers)


def smallest(rounds: Sequence[Mapping[str, Cost]]) -> dict[str, Cost]:
    """Of each call the cost in the round that was disturbed least."""
    return {name: min((one[name] for one in rounds), key=lambda cost: cost.server_us) for name in rounds[0]}


def main() -> None:
    """Measure, count up, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    costs = smallest([asyncio.run(measure_costs(NUM_WORKERS)) for _ in range(ROUNDS)])
    devices: list[dict[str, Any]] = []
    for device in DEVICES:
        loads = [load_of(costs, device, num) for num in NUM_WORKERS]
        devices.append(
            {
                **asdict(device),
                "most_workers": most_workers(costs, device),
                "hours_per_million": 1e6 / device.pictures_per_s / 3600,
                "loads": [
                    {**asdict(load), "cores": load.cores, "blob_bytes_per_s": load.jobs_per_s * PICTURE_BYTES}
                    for load in loads
                ],
            }
        )
    result = {
        "machine": asdict(describe_machine()),
        "usable": USABLE,
        "picture_bytes": PICTURE_BYTES,
        "costs": {name: asdict(cost) for name, cost in costs.items()},
        "devices": devices,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["costs"] | {"most": [device["most_workers"] for device in devices]}, indent=1))


if __name__ == "__main__":
    main()
