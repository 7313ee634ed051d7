"""An hour at 70% of what the service can draw, with clients that come and go: does anything grow?

    python -m benchmarks.soak --out benchmarks/results/soak.json --plots docs/images

A service of its own on loopback. Clients arrive at random times and differ: some want a PNG, some watch events, some
hang up in the middle, some come back for their picture later, some cancel. Every ten seconds each process's memory,
descriptors and threads are read. Finished jobs are kept for five minutes instead of an hour, so that as many go as come
long before the end. What counts is the last half of the run beside the quarter before it: by then caches have filled,
and whatever still grows would go on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.machine import describe_machine
from benchmarks.prompts import fresh_prompts
from model.training.plots import Curve, draw_curves
from service.bench.plan import poisson_times
from service.cli.local import local_service
from service.client.calls import EVENT_STREAM, GENERATE_PATH

SAMPLE_S = 10.0
LATER_S = 20.0
NUM_CROWD = 128  # clients who measure the capacity: enough beside those who wait for LATER_S
CROWD_S = 60.0
KEEP_S = 300.0
# How often each kind of client comes.
KINDS = {"png": 6, "events": 3, "gone in the middle": 2, "later": 2, "cancelled": 1, "jpeg": 1}


@dataclass(frozen=True, slots=True)
class Reading:
    """One process at one time."""

    at_s: float
    memory_bytes: int
    num_descriptors: int
    num_threads: int


@dataclass(slots=True)
class Record:
    """What the clients saw: latencies of plain pictures by when they were due, and how every visit ended."""

    latencies: list[tuple[float, float]] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)


class Visitors:
    """Clients of one service, each with a connection of its own."""

    def __init__(self, url: str, source: random.Random, prompts: Iterator[str]) -> None:
        self.record = Record()
        self._url = url
        self._source = source
        self._prompts = prompts

    async def visit(self, at_s: float) -> None:
        """One client, whatever it wants, to its end."""
        kind = self._source.choices(list(KINDS), list(KINDS.values()))[0]
        body = {"prompt": next(self._prompts)}
        try:
            async with httpx.AsyncClient(base_url=self._url, timeout=120) as client:
                end = await self._ask(client, kind, body, at_s)
        except httpx.HTTPError as error:
            end = type(error).__name__
        self.record.ends[f"{kind}: {end}"] += 1

    async def _ask(self, client: httpx.AsyncClient, kind: str, body: dict[str, Any], at_s: float) -> str:
        if kind in ("png", "jpeg"):
            began_at_s = time.monotonic()
            accept = {"Accept": "image/png"} if kind == "png" else {}
            wanted = body if kind == "png" else body | {"output_format": "jpeg"}
            response = await client.post(GENERATE_PATH, json=wanted, headers=accept)
            if response.is_success:
                self.record.latencies.append((at_s, time.monotonic() - began_at_s))
            return str(response.status_code)
        if kind in ("events", "gone in the middle"):
            return await self._watch(client, body, leaves_early=kind != "events")
        accepted = await client.post(GENERATE_PATH, json=body, headers={"Prefer": "respond-async"})
        if accepted.status_code != httpx.codes.ACCEPTED:
            return str(accepted.status_code)
        job = accepted.headers["location"]
        if kind == "cancelled":
            return f"cancelled {(await client.delete(job)).status_code}"
        await asyncio.sleep(LATER_S)
        return str((await client.get(f"{job}/images/0")).status_code)

    async def _watch(self, client: httpx.AsyncClient, body: dict[str, Any], *, leaves_early: bool) -> str:
        async with client.stream("POST", GENERATE_PATH, json=body, headers={"Accept": EVENT_STREAM}) as response:
            if not response.is_success:
                return str(response.status_code)
            last = "nothing"
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    last = line.removeprefix("event: ")
                    if leaves_early and last == "preview":
                        return "left"
            return last


def read_processes() -> dict[str, psutil.Process]:
    """The service's processes below this one, by what they are."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            command = child.cmdline()
            if "-server" in (command[0] if command else ""):
                found["server"] = child
            for kind in ("gateway", "worker"):
                if "service.cli" in command and kind in command:
                    found[kind] = child
    return found


def read(processes: Mapping[str, psutil.Process], at_s: float) -> dict[str, Reading]:
    """Each process now. Memory is what is the process's own (USS): pages shared with others say nothing about it."""
    readings = {}
    for name, process in processes.items():
        with process.oneshot():
            memory = process.memory_full_info().uss
            readings[name] = Reading(at_s, memory, process.num_fds(), process.num_threads())
    return readings


async def soak(url: str, rate_per_s: float, duration_s: float) -> tuple[dict[str, list[Reading]], Record]:
    """Clients at random times for so long, and readings meanwhile."""
    source = random.Random(0)
    visitors = Visitors(url, source, fresh_prompts())
    processes = read_processes()
    readings: dict[str, list[Reading]] = {name: [] for name in processes}
    start_s = time.monotonic()

    async def watch() -> None:
        while True:
            now_s = time.monotonic() - start_s
            for name, reading in (await asyncio.to_thread(read, processes, now_s)).items():
                readings[name].append(reading)
            if int(now_s / SAMPLE_S) % 6 == 0:
                print(f"{now_s / 60:.0f} min: {visitors.record.ends.total()} visits", flush=True)
            await asyncio.sleep(SAMPLE_S)

    watching = asyncio.create_task(watch())
    visits = []
    for at_s in poisson_times(rate_per_s, int(rate_per_s * duration_s), source):
        await asyncio.sleep(max(0.0, start_s + at_s - time.monotonic()))
        visits.append(asyncio.create_task(visitors.visit(at_s)))
    await asyncio.gather(*visits)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return readings, visitors.record


async def capacity(url: str) -> float:
    """Clients a second, of all kinds as they come, where each is followed by the next."""
    visitors = Visitors(url, random.Random(1), fresh_prompts())
    start_s = time.monotonic()

    async def come_again_and_again() -> None:
        while time.monotonic() < start_s + CROWD_S:
            await visitors.visit(0.0)

    crowd = [asyncio.create_task(come_again_and_again()) for _ in range(NUM_CROWD)]
    await asyncio.sleep(CROWD_S)
    num_visits = visitors.record.ends.total()
    await asyncio.gather(*crowd)
    return num_visits / CROWD_S


def growth(values: Sequence[float]) -> dict[str, float]:
    """Medians of the second quarter and of the last half, and their ratio."""
    num = len(values)
    before, after = statistics.median(values[num // 4 : num // 2]), statistics.median(values[num // 2 :])
    return {"before": before, "after": after, "ratio": after / before if before else float("nan"), "last": values[-1]}


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plots", type=Path, help="folder for soak-memory.png and soak-latency.png")
    parser.add_argument("--model", default="demo-dist")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--load", type=float, default=0.7)
    given = parser.parse_args()
    os.environ |= {"EMMDIT_RESULT_TTL_S": str(KEEP_S), "EMMDIT_URL_TTL_S": str(KEEP_S)}
    with local_service(given.model, None) as url:
        capacity_per_s = asyncio.run(capacity(url))
        rate_per_s = given.load * capacity_per_s
        print(f"capacity {capacity_per_s:.2f}/s, offered {rate_per_s:.2f}/s", flush=True)
        readings, record = asyncio.run(soak(url, rate_per_s, given.minutes * 60))
    latencies = [latency_s for _, latency_s in sorted(record.latencies)]
    result = {
        "machine": asdict(describe_machine()),
        "model": given.model,
        "minutes": given.minutes,
        "kept_s": KEEP_S,
        "load": given.load,
        "capacity_per_s": capacity_per_s,
        "rate_per_s": rate_per_s,
        "ends": dict(sorted(record.ends.items())),
        "latency_s": growth(latencies),
        "growth": {
            name: {
                "memory_bytes": growth([one.memory_bytes for one in series]),
                "num_descriptors": growth([one.num_descriptors for one in series]),
                "num_threads": growth([one.num_threads for one in series]),
            }
            for name, series in readings.items()
        },
        "readings": {name: [asdict(one) for one in series[::6]] for name, series in readings.items()},
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.plots:
        write_plots(given.plots, readings, record)
    print(json.dumps(result["growth"] | {"latency_s": result["latency_s"], "ends": result["ends"]}, indent=1))


def write_plots(folder: Path, readings: Mapping[str, Sequence[Reading]], record: Record) -> None:
    """Memory of every process against its first reading, and the latency's median and 95th percentile by minute."""
    memory = [
        Curve(name, tuple(one.at_s / 60 for one in series), tuple(one.memory_bytes / 2**20 for one in series))
        for name, series in readings.items()
    ]
    draw_curves(memory, "memory of its own, MiB", "minutes").save(folder / "soak-memory.png")
    by_minute: dict[int, list[float]] = {}
    for at_s, latency_s in record.latencies:
        by_minute.setdefault(int(at_s / 60), []).append(latency_s)
    minutes = sorted(minute for minute, values in by_minute.items() if len(values) > 1)
    curves = [
        Curve(
            name,
            tuple(float(minute) for minute in minutes),
            tuple(statistics.quantiles(by_minute[minute], n=20, method="inclusive")[cut] for minute in minutes),
        )
        for name, cut in (("p50", 9), ("p95", 18))
    ]
    draw_curves(curves, "seconds from the request to the picture", "minutes").save(folder / "soak-latency.png")


if __name__ == "__main__":
    main()
