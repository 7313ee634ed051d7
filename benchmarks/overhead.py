"""What gateway, queue and events cost: the real service around an engine that draws at once.

    python -m benchmarks.overhead --out benchmarks/results/overhead.json

Three loads. Low: one request at a time, with pauses: the time added to every picture. Waiting: many connections that
each wait for their PNG: the most jobs a second. Durable: jobs sent off with `Prefer: respond-async`, timed until the
last is done. Then waiting again under cProfile, which says what
bounds it but not how fast it is: it slows Python down.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import pstats
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import Machine, describe_machine
from benchmarks.stack import Stack
from benchmarks.wire import Connection, Reply, request_bytes

NUM_WARM = 50
TOP_FUNCTIONS = 20
PAUSE_S = (0.01, 0.05)
POLL_S = 0.02
PROGRAM = "load"  # this process, in the list of those that use the processor


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds."""

    num: int
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latencies:
        """Of at least two requests."""
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(len(seconds), cuts[49] * 1000, cuts[94] * 1000, cuts[98] * 1000)


@dataclass(frozen=True, slots=True)
class Saturation:
    """Many requests at once. `cpu_ms_per_job` is processor time by process; `accepted_per_s` counts the 202s."""

    num_jobs: int
    num_refused: int
    connections: int
    duration_s: float
    jobs_per_s: float
    accepted_per_s: float | None
    latency: Latencies | None
    cpu_ms_per_job: dict[str, float]
    cores_used: dict[str, float]


@dataclass(frozen=True, slots=True)
class Function:
    """One line of a profile. `own_ms_per_job` is its own time, `total_ms_per_job` with what it called."""

    name: str
    calls_per_job: float
    own_ms_per_job: float
    total_ms_per_job: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One process's main thread, its event loop, in processor milliseconds a job (cProfile's own cost included).

    `packages_ms_per_job` adds up own time by package; what C code takes stands under "(built in)".
    """

    packages_ms_per_job: dict[str, float]
    functions: list[Function]


@dataclass(frozen=True, slots=True)
class OverheadReport:
    """One run. `http_floor` is GET /livez: client, sockets and framework, no job."""

    machine: Machine
    settings: dict[str, int | str]
    http_floor: Latencies
    low: Latencies
    waiting: Saturation
    durable: Saturation
    profile: dict[str, Profile]


def measure(options: argparse.Namespace) -> OverheadReport:
    """All loads, one after the other, each on a fresh service but for the first two."""
    settings: dict[str, int | str] = {
        "max_batch_rows": options.batch_rows,
        "max_active_images": options.batch_rows,
        "queue_capacity": max(10 * options.jobs, 1000),
        "log_level": options.log_level,
        "png_compress_level": options.png_compress_level,
    }
    livez = request_bytes("GET", "/livez")
    with Stack(settings) as stack:
        http_floor = Latencies.of(asyncio.run(_one_by_one(stack.url, [livez] * (NUM_WARM + options.requests))))
        pictures = _picture_requests(NUM_WARM + options.requests)
        low = Latencies.of(asyncio.run(_one_by_one(stack.url, pictures)))
        waiting = _saturate_waiting(stack, options)
    with Stack(settings) as stack:
        durable = _saturate_durable(stack, options)
    with tempfile.TemporaryDirectory() as folder:
        with Stack(settings, profile_dir=Path(folder)) as stack:
            asyncio.run(_crowd(stack.url, _picture_requests(NUM_WARM), options.connections))
            stack.begin_profile()
            asyncio.run(_crowd(stack.url, _picture_requests(options.jobs), options.connections))
            paths = stack.end_profile()
        profile = {name: _read_profile(path, options.jobs) for name, path in paths.items()}
    return OverheadReport(describe_machine(), settings, http_floor, low, waiting, durable, profile)


def _picture_requests(num: int, *, is_async: bool = False) -> list[bytes]:
    """Each with a seed of its own: identical ones under way would share one generation."""
    headers = {"Prefer": "respond-async"} if is_async else {"Accept": "image/png"}
    body = {"prompt": "a photo of a red apple", "num_inference_steps": 1, "guidance_scale": 0}
    return [request_bytes("POST", "/v1/generate", body | {"seed": seed}, headers) for seed in range(num)]


async def _one_by_one(url: str, requests: Sequence[bytes]) -> list[float]:
    """Seconds of each request, with pauses so that none meets another; the first NUM_WARM are left out."""
    source = random.Random(0)
    connection = await Connection.open(url)
    seconds = []
    for number, request in enumerate(requests):
        await asyncio.sleep(source.uniform(*PAUSE_S))
        started_s = time.perf_counter()
        reply = await connection.ask(request)
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {reply.body[:200]!r}")
        if number >= NUM_WARM:
            seconds.append(time.perf_counter() - started_s)
    await connection.close()
    return seconds


def _saturate_waiting(stack: Stack, options: argparse.Namespace) -> Saturation:
    asyncio.run(_crowd(stack.url, _picture_requests(NUM_WARM), options.connections))
    requests = _picture_requests(options.jobs)
    before, own_before_s, started_s = stack.cpu_s(), time.process_time(), time.monotonic()
    replies = asyncio.run(_crowd(stack.url, requests, options.connections))
    duration_s = time.monotonic() - started_s
    cpu_s = _cpu_since(stack, before, own_before_s)
    seconds = [taken_s for reply, taken_s in replies if reply.status == 200]
    return _saturation(options, len(seconds), duration_s, cpu_s, None, Latencies.of(seconds))


def _saturate_durable(stack: Stack, options: argparse.Namespace) -> Saturation:
    asyncio.run(_crowd(stack.url, _picture_requests(NUM_WARM), options.connections))
    requests = _picture_requests(options.jobs, is_async=True)
    before, own_before_s, started_s = stack.cpu_s(), time.process_time(), time.monotonic()
    replies = asyncio.run(_crowd(stack.url, requests, options.connections))
    accepted_s = time.monotonic() - started_s
    num_accepted = sum(reply.status == 202 for reply, _ in replies)
    while (stats := stack.queue_stats()).num_waiting + stats.num_running:
        time.sleep(POLL_S)
    duration_s = time.monotonic() - started_s
    cpu_s = _cpu_since(stack, before, own_before_s)
    return _saturation(options, num_accepted, duration_s, cpu_s, num_accepted / accepted_s, None)


async def _crowd(url: str, requests: Sequence[bytes], num_connections: int) -> list[tuple[Reply, float]]:
    """Every connection asks again as soon as it is answered, until all `requests` are."""
    left = iter(requests)
    replies: list[tuple[Reply, float]] = []

    async def customer() -> None:
        connection = await Connection.open(url)
        for request in left:
            started_s = time.perf_counter()
            reply = await connection.ask(request)
            replies.append((reply, time.perf_counter() - started_s))
        await connection.close()

    await asyncio.gather(*(customer() for _ in range(min(num_connections, len(requests)))))
    return replies


def _cpu_since(stack: Stack, before: dict[str, float], own_before_s: float) -> dict[str, float]:
    now = stack.cpu_s()
    return {name: now[name] - before[name] for name in now} | {PROGRAM: time.process_time() - own_before_s}


def _saturation(
    options: argparse.Namespace,
    num_jobs: int,
    duration_s: float,
    cpu_s: dict[str, float],
    accepted_per_s: float | None,
    latency: Latencies | None,
) -> Saturation:
    return Saturation(
        num_jobs=num_jobs,
        num_refused=options.jobs - num_jobs,
        connections=options.connections,
        duration_s=duration_s,
        jobs_per_s=num_jobs / duration_s,
        accepted_per_s=accepted_per_s,
        latency=latency,
        cpu_ms_per_job={name: seconds / max(num_jobs, 1) * 1000 for name, seconds in cpu_s.items()},
        cores_used={name: seconds / duration_s for name, seconds in cpu_s.items()},
    )


def _read_profile(path: Path, num_jobs: int) -> Profile:
    entries = list(pstats.Stats(str(path)).stats.items())  # type: ignore[attr-defined]
    packages: dict[str, float] = {}
    for (file, _, _), (_, _, own_s, _, _) in entries:
        name = _package_of(file)
        packages[name] = packages.get(name, 0.0) + own_s / num_jobs * 1000
    ranked = sorted(entries, key=lambda entry: entry[1][2], reverse=True)[:TOP_FUNCTIONS]
    functions = [
        Function(
            name=f"{_package_of(file)} {Path(file).name}:{line} {name}" if line else name,
            calls_per_job=num_calls / num_jobs,
            own_ms_per_job=own_s / num_jobs * 1000,
            total_ms_per_job=total_s / num_jobs * 1000,
        )
        for (file, line, name), (_, num_calls, own_s, total_s, _) in ranked
    ]
    return Profile(dict(sorted(packages.items(), key=lambda item: -item[1])), functions)


def _package_of(file: str) -> str:
    """ ".../site-packages/redis/asyncio/client.py" -> "redis"; "~" -> "(built in)"."""
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1].removesuffix(".py")
    known = [part for part in parts[:-1] if part in ("service", "model", "asyncio", "json", "logging", "concurrent")]
    return known[-1] if known else "(built in)" if parts == ("~",) else "standard library"


def summary(report: OverheadReport) -> str:
    """The report for a terminal."""
    lines = []
    for name, latency in (("GET /livez", report.http_floor), ("one picture", report.low)):
        lines.append(f"{name:12} p50 {latency.p50_ms:6.2f} ms  p95 {latency.p95_ms:6.2f}  p99 {latency.p99_ms:6.2f}")
    for name, load in (("waiting", report.waiting), ("durable", report.durable)):
        costs = ", ".join(f"{process} {cost:.2f}" for process, cost in load.cpu_ms_per_job.items())
        lines.append(f"{name:12} {load.jobs_per_s:6.0f} jobs/s; processor ms a job: {costs}")
    for process, profile in report.profile.items():
        packages = ", ".join(f"{name} {cost:.2f}" for name, cost in list(profile.packages_ms_per_job.items())[:10])
        lines += ["", f"{process}, its event loop under cProfile, processor ms a job: {packages}"]
        lines += [
            f"  {entry.own_ms_per_job:7.3f} {entry.calls_per_job:8.1f}x {entry.name}" for entry in profile.functions
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500, help="at low load")
    parser.add_argument("--jobs", type=int, default=5000, help="at saturation")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--batch-rows", type=int, default=64, help="rows of the worker")
    parser.add_argument("--log-level", default="warning", help="as `emmdit serve` has it; a gateway alone: info")
    parser.add_argument("--png-compress-level", type=int, default=6)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args(arguments)
    report = measure(options)
    print(summary(report))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"kind": "overhead"} | dataclasses.asdict(report), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
