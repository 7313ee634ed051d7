"""This service against LitServe, mosec and Ray Serve: same model, same machine, same trace, one after the other.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r benchmarks/peers/requirements.txt
    python -m benchmarks.peers.run --python /tmp/peers/bin/python --out benchmarks/results/peers.json

Each peer is tuned first: the batch size by capacity, then the wait by p95 at the load. The load is a share of the best
peer's capacity. All servers then draw one trace, in turn, several times; last, each one's highest rate within the p95
that the best peer had is searched for.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import Machine, describe_machine
from benchmarks.peers.experiment import Mix, capacity_per_s, drive, highest_rate, make_trace
from benchmarks.peers.servers import OURS, RunningServer, Tuning, missing_packages
from benchmarks.prompts import PATH as PROMPTS_PATH
from service.bench.plan import PlannedRequest
from service.bench.report import LoadReport


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """One server. `runs` are its turns on the trace; `rates_within_objective` one search for each turn."""

    tuning: Tuning
    tried: list[tuple[Tuning, str, float]]
    capacity_per_s: float
    runs: list[LoadReport]
    rates_within_objective: list[float]

    @property
    def p95_s(self) -> float:
        """Median over the turns."""
        return statistics.median(run.latency.p95_s for run in self.runs if run.latency)


@dataclass(frozen=True, slots=True)
class PeersReport:
    """The whole comparison. `absent` are peers that this machine could not install or start, and why."""

    machine: Machine
    model: str
    pipeline: str
    mix: Mix
    rate_per_s: float
    load: float
    objective_s: float
    servers: dict[str, ServerFigures]
    absent: dict[str, str]
    p95_ratio: list[float]
    throughput_ratio: list[float]


class Comparison:
    """Runs the comparison that the options describe."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._mix = Mix(options.min_steps, options.max_steps, options.guidance)
        self._prompts = PROMPTS_PATH.read_text("utf-8").split("\n")[:-1]
        self._figures: dict[str, ServerFigures] = {}

    def run(self) -> PeersReport:
        """Tune, load in turn, search. Raises RuntimeError where this service or every peer fails."""
        options = self._options
        absent = missing_packages(options.python)
        names = [name for name in options.servers if name not in absent]
        peers = [name for name in names if name != OURS]
        if OURS not in names or not peers:
            raise RuntimeError(f"there must be {OURS} and a peer to compare; absent: {absent}")
        for name in names:
            self._figures[name] = self._tuned(name)
            print(
                f"{name}: {self._figures[name].tuning}, {self._figures[name].capacity_per_s:.2f} pictures/s", flush=True
            )
        rate = options.load * max(self._figures[name].capacity_per_s for name in peers)
        for turn in range(options.repeats):
            trace = self._trace(rate, options.requests, seed=turn)
            for name in names:
                with self._server(name, self._figures[name].tuning) as server:
                    self._figures[name].runs.append(drive(server.url, trace))
                print(f"turn {turn}, {name}: p95 {_p95(self._figures[name].runs[-1]):.2f} s", flush=True)
        objective_s = options.objective_s or min(self._figures[name].p95_s for name in peers)
        for turn in range(options.repeats):
            for name in names:
                self._figures[name].rates_within_objective.append(self._search(name, objective_s, rate, seed=turn))
        best_p95 = [min(_p95(self._figures[name].runs[turn]) for name in peers) for turn in range(options.repeats)]
        best_rate = [
            max(self._figures[name].rates_within_objective[turn] for name in peers) for turn in range(options.repeats)
        ]
        ours = self._figures[OURS]
        return PeersReport(
            machine=describe_machine(),
            model=options.model,
            pipeline=options.pipeline,
            mix=self._mix,
            rate_per_s=rate,
            load=options.load,
            objective_s=objective_s,
            servers=self._figures,
            absent=absent,
            p95_ratio=[_p95(run) / peer for run, peer in zip(ours.runs, best_p95, strict=True)],
            throughput_ratio=[
                mine / peer for mine, peer in zip(ours.rates_within_objective, best_rate, strict=True) if peer
            ],
        )

    def _tuned(self, name: str) -> ServerFigures:
        options = self._options
        tried: list[tuple[Tuning, str, float]] = []
        sizes = {}
        for size in options.batch_sizes:
            tuning = Tuning(size, 0.0 if name == OURS else options.waits_s[0])
            with self._server(name, tuning) as server:
                sizes[size] = capacity_per_s(server.url, self._trace(1.0, options.tune_requests, seed=1000))
            tried.append((tuning, "capacity_per_s", sizes[size]))
        size = max(sizes, key=lambda each: sizes[each])
        waits = {}
        trace = self._trace(options.load * sizes[size], options.tune_requests, seed=1001)
        for wait_s in [0.0] if name == OURS else options.waits_s:
            tuning = Tuning(size, wait_s)
            with self._server(name, tuning) as server:
                waits[wait_s] = _p95(drive(server.url, trace))
            tried.append((tuning, "p95_s", waits[wait_s]))
        return ServerFigures(Tuning(size, min(waits, key=lambda each: waits[each])), tried, sizes[size], [], [])

    def _search(self, name: str, objective_s: float, rate: float, seed: int) -> float:
        with self._server(name, self._figures[name].tuning) as server:

            def p95_at(rate_per_s: float) -> float:
                return _p95(drive(server.url, self._trace(rate_per_s, self._options.requests, seed=seed)))

            return highest_rate(p95_at, objective_s, rate)

    def _trace(self, rate_per_s: float, num: int, seed: int) -> list[PlannedRequest]:
        return make_trace(self._mix, self._prompts, rate_per_s, num, seed)

    def _server(self, name: str, tuning: Tuning) -> RunningServer:
        options = self._options
        return RunningServer(
            name,
            tuning,
            python=options.python,
            model=options.model,
            num_threads=options.num_threads,
            pipeline=options.pipeline,
        )


def _p95(report: LoadReport) -> float:
    assert report.latency is not None, "a run without a picture raises"
    return report.latency.p95_s


def summary(report: PeersReport) -> str:
    """The report for a terminal."""
    lines = [
        f"{report.model}, peers: {report.pipeline}; {report.mix.min_steps} to {report.mix.max_steps} steps, "
        f"{report.rate_per_s:.2f} requests/s ({report.load:.0%} of the best peer's capacity), "
        f"objective p95 <= {report.objective_s:.2f} s",
        f"{'server':10} {'batch':>5} {'wait s':>7} {'capacity/s':>10} {'p50 s':>7} {'p95 s':>7} {'rate within':>11}",
    ]
    for name, found in report.servers.items():
        p50_s = statistics.median(run.latency.p50_s for run in found.runs if run.latency)
        rate = statistics.median(found.rates_within_objective)
        lines.append(
            f"{name:10} {found.tuning.batch_size:5} {found.tuning.wait_s:7.2f} {found.capacity_per_s:10.2f} "
            f"{p50_s:7.2f} {found.p95_s:7.2f} {rate:11.2f}"
        )
    lines += [f"{name:10} absent: {reason}" for name, reason in report.absent.items()]
    for label, ratios in (
        ("p95, ours over the best peer's", report.p95_ratio),
        ("rate, likewise", report.throughput_ratio),
    ):
        if ratios:
            lines.append(f"{label}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return "\n".join(lines)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that has the peers and this project")
    parser.add_argument("--servers", nargs="+", default=[OURS, "litserve", "mosec", "ray"])
    parser.add_argument("--model", default="demo")
    parser.add_argument(
        "--pipeline", choices=["plain", "engine"], default="plain", help="what the peers draw with (drawing.py)"
    )
    parser.add_argument("--num-threads", type=int, default=2, help="of the engine, the same everywhere")
    parser.add_argument("--min-steps", type=int, default=4)
    parser.add_argument("--max-steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=None, help="the model's own if not given")
    parser.add_argument("--load", type=float, default=0.8, help="share of the best peer's capacity")
    parser.add_argument("--requests", type=int, default=120, help="of one turn")
    parser.add_argument("--tune-requests", type=int, default=40, help="of one tuning run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--waits-s", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--objective-s", type=float, default=0.0, help="0: the p95 of the best peer at the load")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, write."""
    options = _arguments(arguments)
    report = Comparison(options).run()
    print(summary(report))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"kind": "peers"} | dataclasses.asdict(report), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
