"""Writes the tables of docs/benchmarks.md from the results that are there; says what to run for those that are not.

    python -m benchmarks.tables

Everything between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced. A target that is missed says so.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
Result = Mapping[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(value: float, target: float, *, is_most: bool = False) -> str:
    """How a figure stands to its target: at least `target`, or at most it."""
    is_met = value <= target if is_most else value >= target
    return f"{'<=' if is_most else '>='} {target:g}: {'met' if is_met else 'missed'}"


def measured_on(result: Result) -> str:
    """The line below every table."""
    machine = result["machine"]
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, "
    versions = machine["versions"]
    return (
        f"{device}{machine['processor']}, {machine['num_cores']} cores, {machine['memory_gib']:g} GiB; torch "
        f"{versions['torch']}, Python {versions['python']}; commit {machine['commit'][:12]}"
        f"{'+changes' if machine['commit'].endswith('+changes') else ''}; {machine['measured_at'][:10]}; load average "
        f"at the end {machine['load_average']:g}."
    )


def engine_section(result: Result) -> str:
    """One run of benchmarks.engine."""
    rates = {
        name: max(rate for measured in pair for rate in measured.values())
        for name, pair in result["product_rates"].items()
    }
    best = rates[result["dtype"]]
    products = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in sorted(rates.items()))
    stages = [
        [
            figure["stage"],
            str(figure["num"]),
            f"{figure['median_s'] * 1000:.2f}",
            f"{figure['min_s'] * 1000:.2f} to {figure['max_s'] * 1000:.2f}",
            f"{figure['flops_per_s'] / 1e9:,.0f}" if figure["flops_per_s"] else "",
            f"{figure['flops_per_s'] / best:.0%}" if figure["flops_per_s"] else "",
        ]
        for figure in result["stages"]
    ]
    comparisons = [_comparison_row(each) for each in result["comparisons"]]
    floors = [_floor_row(each) for each in result["floors"]]
    return "\n\n".join(
        (
            f"**{result['model']}**, {result['size']}, {result['dtype']}. Measured product rate, GFLOP/s: {products}. "
            f"Loaded in {result['load_s']:.1f} s, {_compiling(result)}, warmed up in {result['warm_up_s']:.1f} s.",
            table(("stage", "at once", "ms", "min to max", "GFLOP/s", "of product rate"), stages),
            table(
                ("drawn", "ours, pictures/s", "plain loop", "ratio (min to max)", "pairs", "levels apart"), comparisons
            ),
            table(("one picture, ms", "floor at product rate", "measured", "where it goes", "floor at peak"), floors),
            measured_on(result),
        )
    )


def _compiling(result: Result) -> str:
    seconds = result["compile_s"]
    return "not compiled" if seconds is None else f"its compiled network there after {seconds:.1f} s"


def _setting(setting: Mapping[str, Any]) -> str:
    guidance = f"guidance {setting['guidance']:g}" if setting["guidance"] > 1 else "no guidance"
    return f"{setting['num_pictures']} x {setting['num_steps']} steps, {guidance}"


def _comparison_row(comparison: Mapping[str, Any]) -> list[str]:
    num, ratio = comparison["setting"]["num_pictures"], comparison["ratio"]
    return [
        _setting(comparison["setting"]),
        f"{num / statistics.median(comparison['engine_s']):.3f}",
        f"{num / statistics.median(comparison['baseline_s']):.3f}",
        f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
        str(len(comparison["engine_s"])),
        f"{comparison['mean_level_difference']:.2f}",
    ]


def _floor_row(floor: Mapping[str, Any]) -> list[str]:
    measured, least = floor["measured_ms"], floor["at_product_rate_ms"]
    parts = ", ".join(f"{name} {measured[name]:.1f} (floor {least[name]:.1f})" for name in measured)
    peak = floor["at_peak_ms"]
    return [
        _setting(floor["setting"]),
        f"{sum(least.values()):.1f}",
        f"{sum(measured.values()):.1f}",
        parts,
        "" if peak is None else f"{peak:.2f}",
    ]


def overhead_section(result: Result) -> str:
    """One run of benchmarks.overhead."""
    low, waiting, durable = result["low"], result["waiting"], result["durable"]
    rows = [
        ["added to a picture, p50", f"{low['p50_ms']:.1f} ms", verdict(low["p50_ms"], 5, is_most=True)],
        ["added to a picture, p95", f"{low['p95_ms']:.1f} ms", ""],
        ["GET /livez, p50", f"{result['http_floor']['p50_ms']:.1f} ms", ""],
        ["jobs/s, each waited for", f"{waiting['jobs_per_s']:.0f}", verdict(waiting["jobs_per_s"], 500)],
        [
            "jobs/s, sent off (202) until all are done",
            f"{durable['jobs_per_s']:.0f}",
            verdict(durable["jobs_per_s"], 500),
        ],
    ]
    costs = [
        [name, f"{waiting['cpu_ms_per_job'][name]:.2f}", f"{waiting['cores_used'][name]:.2f}"]
        for name in waiting["cpu_ms_per_job"]
    ]
    profiles = [
        [process, name, f"{cost:.2f}"]
        for process, profile in result["profile"].items()
        for name, cost in list(profile["packages_ms_per_job"].items())[:6]
    ]
    return "\n\n".join(
        (
            table(("with an engine that draws at once", "figure", "target"), rows),
            table(("process, while waited for", "processor ms a job", "cores"), costs),
            table(("event loop of", "code of", "processor ms a job under cProfile"), profiles),
            measured_on(result),
        )
    )


def trace_section(result: Result) -> str:
    """One run of benchmarks.trace."""
    runs = {"as it is": result["as_it_is"], "compiled": result["compiled"]}
    stages = [
        [stage, *(f"{run['stages'][stage]:.1%}" for run in runs.values())] for stage in runs["compiled"]["stages"]
    ]
    seconds = [run["duration_s"] / run["num_forwards"] * 1000 for run in runs.values()]
    stages.append(["**a round, ms**", *(f"{each:.0f}" for each in seconds)])
    operations = [
        [label, operation["name"], f"{operation['share']:.1%}", f"{operation['calls_per_forward']:.0f}"]
        for label, run in runs.items()
        for operation in run["operations"][:8]
    ]
    rows = ", ".join(f"{run['rows_per_forward']:.1f} ({label})" for label, run in runs.items())
    return "\n\n".join(
        (
            f"{result['model']}; rows of a forward: {rows}.",
            table(("stage of the engine's thread", *runs), stages),
            table(("network", "operation, without what it calls", "share", "calls a forward"), operations),
            measured_on(result),
        )
    )


PIPELINES = {"plain": "the plain loop", "engine": "this project's engine"}


def peers_section(result: Result) -> str:
    """One run of benchmarks.peers.run."""
    rows = []
    for name, server in result["servers"].items():
        p50, p95, p99 = (
            statistics.median(run["latency"][key] for run in server["runs"]) for key in ("p50_s", "p95_s", "p99_s")
        )
        rate = statistics.median(server["rates_within_objective"])
        tuning = f"{server['tuning']['batch_size']}, {server['tuning']['wait_s']:g} s"
        figures = (server["capacity_per_s"], p50, p95, p99, rate)
        rows.append([name, tuning, *(f"{figure:.2f}" for figure in figures)])
    rows += [[name, f"absent: {reason}", *[""] * 5] for name, reason in result["absent"].items()]
    p95_ratio, rate_ratio = (statistics.median(result[key] or [0.0]) for key in ("p95_ratio", "throughput_ratio"))
    mix = result["mix"]
    return "\n\n".join(
        (
            f"{result['model']}, peers with {PIPELINES[result['pipeline']]}, {mix['min_steps']} to {mix['max_steps']} "
            f"steps, {result['rate_per_s']:.2f} requests/s "
            f"({result['load']:.0%} of the best peer's capacity). Objective: p95 within {result['objective_s']:.2f} s.",
            table(("server", "batch, wait", "capacity/s", "p50 s", "p95 s", "p99 s", "rate within objective"), rows),
            f"p95 against the best peer's: {p95_ratio:.2f} ({verdict(p95_ratio, 0.5, is_most=True)}). Rate within the "
            f"objective against the best peer's: {rate_ratio:.2f} ({verdict(rate_ratio, 1.5)}).",
            measured_on(result),
        )
    )


def first_preview_section(result: Result) -> str:
    """One run of benchmarks.first_preview."""
    rows = []
    for model, runs in result["models"].items():
        alone, loaded = runs["alone"], runs["loaded"]
        for name, figures in alone["ms"].items():
            rows.append([f"{model}, one at a time", name, f"{figures['p50']:.0f}", f"{figures['p95']:.0f}"])
        rate = f"{model}, {loaded['rate_per_s']:.1f} a second"
        for name, key in (("first preview", "first_preview"), ("picture, streamed", "latency")):
            figures = loaded["report"][key]
            rows.append([rate, name, f"{1000 * figures['p50_s']:.0f}", f"{1000 * figures['p95_s']:.0f}"])
    ratios = ", ".join(
        f"{runs['alone']['streamed_to_plain']['p50']:.2f} ({model})" for model, runs in result["models"].items()
    )
    return "\n\n".join(
        (
            table(("load", "what", "p50 ms", "p95 ms"), rows),
            f"A streamed picture against the same one asked for as PNG, median of pairs: {ratios}.",
            measured_on(result),
        )
    )


def overload_section(result: Result) -> str:
    """One run of benchmarks.overload."""
    report, honest, recovery = result["report"], result["honesty"], result["recovery"]
    latency, refusal = report["latency"], result["refusal_s"]
    num_refused, num = sum(report["errors"].values()), report["num_requests"]
    as_idle = "not seen" if recovery["as_idle_s"] is None else f"{recovery['as_idle_s']:.0f} s"
    rows = [
        ["capacity, clients that always ask again", f"{result['capacity_per_s']:.2f} pictures/s", ""],
        ["offered", f"{report['offered_per_s']:.1f} requests/s for {result['minutes']:g} min", ""],
        ["drawn meanwhile", f"{report['throughput_per_s']:.2f} pictures/s", ""],
        ["accepted, p50", f"{latency['p50_s']:.1f} s", ""],
        ["accepted, p99", f"{latency['p99_s']:.1f} s", verdict(latency["p99_s"], result["bound_s"], is_most=True)],
        ["refused", f"{num_refused} of {num} ({num_refused / num:.0%}): {', '.join(report['errors'])}", ""],
        ["a refusal takes, p50 and p99", f"{refusal['p50_s'] * 1000:.0f} and {refusal['p99_s'] * 1000:.0f} ms", ""],
        [
            "Retry-After against the truth, p5, p50, p95",
            f"{honest['p5']:.2f}, {honest['p50']:.2f}, {honest['p95']:.2f}",
            f"within a factor of 2: {honest['share_honest']:.1%}",
        ],
        ["sent late by, p99 (this load's own delay)", f"{report['send_lag']['p99_s']:.2f} s", ""],
        ["afterwards: a request is accepted after", f"{recovery['accepted_s']:.1f} s", ""],
        ["afterwards: drawn as soon as in an idle service after", as_idle, ""],
    ]
    return "\n\n".join(
        (
            f"{result['model']}, {result['factor']:g} times the capacity; {result['queue_capacity']} jobs may wait.",
            table(("overload", "figure", "target"), rows),
            measured_on(result),
        )
    )


def soak_section(result: Result) -> str:
    """One run of benchmarks.soak."""
    mib = 2**20
    rows = []
    for name, figures in result["growth"].items():
        memory, descriptors, threads = (figures[key] for key in ("memory_bytes", "num_descriptors", "num_threads"))
        rows.append(
            [
                name,
                f"{memory['before'] / mib:.1f}",
                f"{memory['after'] / mib:.1f}",
                f"{memory['ratio']:.3f}",
                f"{descriptors['before']:.0f} and {descriptors['after']:.0f}",
                f"{threads['before']:.0f} and {threads['after']:.0f}",
            ]
        )
    latency = result["latency_s"]
    ends = ", ".join(f"{end} {num}" for end, num in result["ends"].items())
    return "\n\n".join(
        (
            f"{result['model']}, {result['minutes']:g} minutes at {result['rate_per_s']:.2f} clients a second "
            f"({result['load']:.0%} of {result['capacity_per_s']:.2f}). Second quarter of the run, and its last half:",
            table(
                ("process", "memory, MiB", "later", "ratio", "descriptors", "threads"),
                rows,
            ),
            f"Median latency {latency['before']:.2f} s and {latency['after']:.2f} s. Visits: {ends}.",
            measured_on(result),
        )
    )


def growth_section(result: Result) -> str:
    """One run of benchmarks.growth."""
    costs = [
        [name, f"{cost['server_us']:.0f}", f"{cost['bytes_in']:,.0f}", f"{cost['bytes_out']:,.0f}"]
        for name, cost in result["costs"].items()
    ]
    rows = [
        [
            device["name"],
            str(load["num_workers"]),
            f"{load['jobs_per_s']:,.0f}",
            str(load["num_gateways"]),
            f"{load['calls_per_s']:,.0f}",
            f"{load['cores']:.2f}",
            max(load["share_us"], key=load["share_us"].get),
            f"{load['bytes_per_s'] / 1e6:.1f}",
            f"{load['blob_bytes_per_s'] / 1e6:,.0f}",
        ]
        for device in result["devices"]
        for load in device["loads"]
    ]
    most = "; ".join(
        f"{device['name']}: {device['most_workers']} workers, {device['hours_per_million']:.1f} h a million"
        for device in result["devices"]
    )
    return "\n\n".join(
        (
            table(("call", "server, microseconds", "bytes in", "bytes out"), costs),
            table(
                (
                    "a worker draws",
                    "workers",
                    "jobs/s",
                    "gateways",
                    "calls/s",
                    "server's cores",
                    "most of it",
                    "queue MB/s",
                    "pictures MB/s",
                ),
                rows,
            ),
            f"What one server carries at {result['usable']:.0%} of its core. {most}.",
            measured_on(result),
        )
    )


# Section -> (result's file, what makes it, how it is shown).
SECTIONS: Mapping[str, tuple[str, str, Callable[[Result], str]]] = {
    "engine-demo": ("engine-demo.json", "python -m benchmarks.engine --model demo", engine_section),
    "engine-full": ("engine-full.json", "make bench-full", engine_section),
    "engine-gpu": ("engine-gpu.json", "make bench-gpu", engine_section),
    "trace": ("trace-demo.json", "python -m benchmarks.trace", trace_section),
    "overhead": ("overhead.json", "python -m benchmarks.overhead", overhead_section),
    "first-preview": ("first-preview.json", "python -m benchmarks.first_preview", first_preview_section),
    "overload": ("overload.json", "python -m benchmarks.overload", overload_section),
    "soak": ("soak.json", "python -m benchmarks.soak --plots docs/images", soak_section),
    "growth": ("growth.json", "python -m benchmarks.growth", growth_section),
    "peers": ("peers.json", "python -m benchmarks.peers.run --python PYTHON", peers_section),
}


def fill(page: str, results: Path) -> str:
    """The page with every section written anew. Raises ValueError for a section whose markers are missing."""
    for name, (file, command, show) in SECTIONS.items():
        path = results / file
        if path.exists():
            text = show(json.loads(path.read_text("utf-8")))
        else:
            text = f"Not measured yet: `{command} --out benchmarks/results/{file}`."
            if command.startswith("make"):
                text = f"Not measured yet: `{command}`."
        pattern = re.compile(f"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no section {name}")
        page = pattern.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text("utf-8"), RESULTS), "utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)} written\n")
