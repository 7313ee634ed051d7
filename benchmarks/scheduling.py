"""What step-level batching buys: one trace through our scheduler and through request-level batching, in simulated time.

Durations come from scheduling_times.json, where their source is told. Prints tables, writes
benchmarks/results/scheduling.json; the same numbers every time, on any machine.

    python -m benchmarks.scheduling [--requests 400] [--loads 0.6 0.9 1.2] [--machine gpu] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.scheduling_sim import Machine, Picture, Run, Server, by_requests, by_steps, make_trace, simulate
from service.estimates import Line
from service.scheduler import Policy

HERE = Path(__file__).parent
SEEDS = (11, 12, 13, 14, 15)  # not 1 to 3, which the rules were tried on while they were made
NEVER_SPLIT = Policy(min_split_saving=1.0)
COLUMNS = ("all", "4 steps", "20 steps", "50 steps", "1024px", "high")


def main() -> None:
    arguments = _arguments()
    machines = json.loads((HERE / "scheduling_times.json").read_text("utf-8"))
    results = {
        name: {"source": values["source"], "loads": _measure(values, arguments.loads, arguments.requests)}
        for name, values in machines.items()
        if arguments.machine in (None, name)
    }
    for name, result in results.items():
        _print(name, result)
    written = {"requests": arguments.requests, "seeds": SEEDS, "machines": results}
    arguments.out.write_text(json.dumps(written, indent=1) + "\n", "utf-8")


def _measure(values: dict[str, Any], loads: Sequence[float], num_requests: int) -> dict[str, Any]:
    machine = Machine(
        steps={int(size): Line(*line) for size, line in values["steps"].items()},
        decodes={int(size): Line(*line) for size, line in values["decodes"].items()},
        text=Line(*values["text"]),
        buckets=tuple(values["buckets"]),
    )
    rows = values["max_rows"]
    servers: dict[str, Server] = {
        "requests, same steps": by_requests(rows, same_steps=True),
        "requests, any steps": by_requests(rows, same_steps=False),
        f"steps, {rows} held": by_steps(rows, rows),
        f"steps, {3 * rows} held": by_steps(rows, 3 * rows),
    }
    if machine.buckets:
        servers[f"steps, {3 * rows} held, none left out"] = by_steps(rows, 3 * rows, NEVER_SPLIT)
    measured: dict[str, Any] = {}
    for load in loads:
        traces = [(seed, make_trace(machine, num_requests, load, rows, seed)) for seed in SEEDS]
        measured[f"{load:g}"] = {
            name: _figures(machine, [simulate(serve, machine, trace, seed) for seed, trace in traces])
            for name, serve in servers.items()
        }
    return measured


def _figures(machine: Machine, runs: Sequence[Run]) -> dict[str, Any]:
    """Of all runs together: latencies by class of request, and what each tenant had."""
    pictures = [picture for run in runs for picture in run.pictures]
    latencies: dict[str, list[float]] = defaultdict(list)
    slowdowns: dict[str, list[float]] = defaultdict(list)
    for picture in pictures:
        latency_s = picture.done_at_s - picture.request.at_s
        for label in _labels(picture):
            latencies[label].append(latency_s)
        for label in ("all", picture.request.owner):
            slowdowns[label].append(latency_s / machine.alone_s(picture.request))
    pressed = [picture.request for picture in pictures if picture.request.is_pressed]
    met = [p for p in pictures if p.request.is_pressed and p.done_at_s <= p.request.at_s + p.request.timeout_s]
    contended_s = math.fsum(seconds for run in runs for seconds in run.shares.values())
    tenants = sorted(slowdowns.keys() - {"all"})
    return {
        "pictures_per_s": round(len(pictures) / math.fsum(run.wall_s for run in runs), 4),
        "rows_per_forward": round(sum(run.num_rows for run in runs) / sum(run.num_forwards for run in runs), 2),
        "latency_s": {
            label: {f"p{percent}": round(percentile(values, percent), 2) for percent in (50, 95, 99)}
            for label, values in sorted(latencies.items())
        },
        "mean_slowdown": round(fmean(slowdowns["all"]), 2),
        "jain_of_slowdowns": round(jain(slowdowns["all"]), 3),
        "deadlines_met": round(len(met) / max(len(pressed), 1), 3),
        "tenants": {
            owner: {
                "mean_slowdown": round(fmean(slowdowns[owner]), 2),
                "device_share_while_all_want": round(
                    math.fsum(run.shares.get(owner, 0.0) for run in runs) / contended_s if contended_s else 0.0, 3
                ),
            }
            for owner in tenants
        },
        "jain_of_tenants": round(jain([fmean(slowdowns[owner]) for owner in tenants]), 3),
    }


def _labels(picture: Picture) -> list[str]:
    request = picture.request
    labels = ["all", f"{request.num_steps} steps", request.owner, ("high", "normal", "low")[request.priority]]
    return [*labels, "1024px"] if request.group[1] == 1024 else labels


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def jain(values: Iterable[float]) -> float:
    """Jain's index: 1 where all are equal, 1/n where one has everything."""
    known = list(values)
    return math.fsum(known) ** 2 / (len(known) * math.fsum(value**2 for value in known))


def _print(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}: {result['source']}\n")
    tenants = list(next(iter(next(iter(result["loads"].values())).values()))["tenants"])
    latencies = _Table("load", "way", "pictures/s", "rows", *(f"{label}, s" for label in COLUMNS))
    fairness = _Table("load", "way", "slowdown", "Jain", "deadlines met", *tenants, "Jain of tenants")
    for load, ways in result["loads"].items():
        for way, figures in ways.items():
            percentiles = (" / ".join(f"{s:.3g}" for s in figures["latency_s"][label].values()) for label in COLUMNS)
            rate, rows = f"{figures['pictures_per_s']:.3g}", f"{figures['rows_per_forward']:.1f}"
            latencies.add(load, way, rate, rows, *percentiles)
            fairness.add(
                load,
                way,
                f"{figures['mean_slowdown']:.1f}",
                f"{figures['jain_of_slowdowns']:.2f}",
                f"{figures['deadlines_met']:.0%}",
                *(
                    f"{had['mean_slowdown']:.1f}, {had['device_share_while_all_want']:.0%}"
                    for had in figures["tenants"].values()
                ),
                f"{figures['jain_of_tenants']:.2f}",
            )
    print(latencies, fairness, sep="\n\n")


class _Table:
    """Rows of text as Markdown."""

    def __init__(self, *heads: str) -> None:
        self._lines = [heads, ("---",) * len(heads)]

    def add(self, *cells: str) -> None:
        self._lines.append(cells)

    def __str__(self) -> str:
        return "\n".join(f"| {' | '.join(cells)} |" for cells in self._lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400, help="per trace; there are five traces a load")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.6, 0.9, 1.2], help="of what full forwards bear")
    parser.add_argument("--machine", help="one of scheduling_times.json; without it, all")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scheduling.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
