"""How soon a client sees something: the first preview and the picture of a streamed request, beside a plain one.

    python -m benchmarks.first_preview --out benchmarks/results/first-preview.json

A service of its own on loopback. First one request at a time, in pairs of the same prompt and seed, one streamed and
one plain, now this one first and now that: what the stream costs the picture is a ratio within each pair. Then many
at random times, all streamed, at half the rate at which single pictures are drawn.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import describe_machine
from benchmarks.prompts import fresh_prompts
from service.bench.plan import Way, plan_requests, poisson_times
from service.bench.run import measure
from service.cli.local import local_service

MODELS = ("demo", "demo-dist")
WARM_UP = 5
EVENTS = {"Accept": "text/event-stream"}
LOAD = 0.5


def streamed(client: httpx.Client, body: dict[str, Any]) -> dict[str, float]:
    """Seconds from sending to the first event, the first preview and the picture, as far as they came."""
    times: dict[str, float] = {}
    began_at_s = time.perf_counter()
    with client.stream("POST", "/v1/generate", json=body, headers=EVENTS) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("event: "):
                times.setdefault(line.removeprefix("event: "), time.perf_counter() - began_at_s)
    return times


def plain(client: httpx.Client, body: dict[str, Any]) -> float:
    """Seconds from sending to the PNG's last byte."""
    began_at_s = time.perf_counter()
    client.post("/v1/generate", json=body, headers={"Accept": "image/png"}).raise_for_status()
    return time.perf_counter() - began_at_s


def alone(url: str, num_pairs: int) -> dict[str, Any]:
    """One request at a time, in pairs. Times in milliseconds."""
    times: dict[str, list[float]] = {"first event": [], "first preview": [], "picture, streamed": [], "picture": []}
    prompts = fresh_prompts()
    with httpx.Client(base_url=url, timeout=60) as client:
        for index in range(WARM_UP + num_pairs):
            body = {"prompt": next(prompts), "seed": index}
            if index % 2:
                as_events, at_once = streamed(client, body), plain(client, body)
            else:
                at_once, as_events = plain(client, body), streamed(client, body)
            if index < WARM_UP:
                continue
            times["first event"].append(as_events["job"])
            times["first preview"].append(as_events.get("preview", float("nan")))
            times["picture, streamed"].append(as_events["image"])
            times["picture"].append(at_once)
    shown = [one == one for one in times["first preview"]]  # NaN: the picture was there before any preview
    times["first preview"] = [one for one in times["first preview"] if one == one]
    pairs = zip(times["picture, streamed"], times["picture"], strict=True)
    return {
        "num_pairs": num_pairs,
        "has_preview_ratio": sum(shown) / len(shown),
        "streamed_to_plain": quantiles([one / other for one, other in pairs]),
        "ms": {name: quantiles([1000 * one for one in values]) for name, values in times.items()},
    }


def loaded(url: str, rate_per_s: float, num_requests: int) -> dict[str, Any]:
    """Poisson arrivals, all streamed."""
    source = random.Random(0)
    prompts = list(itertools.islice(fresh_prompts(), num_requests))
    planned = plan_requests(poisson_times(rate_per_s, num_requests, source), prompts, [Way()], source)
    run = asyncio.run(measure(url, planned, objective_s=1.0, timeout_s=60, wants_previews=True))
    return {"rate_per_s": rate_per_s, "num_requests": num_requests, "report": asdict(run.report)}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    ordered = sorted(values)
    return {"p50": statistics.median(ordered), "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-pairs", type=int, default=40)
    parser.add_argument("--num-requests", type=int, default=60)
    given = parser.parse_args()
    models = {}
    for model in MODELS:
        with local_service(model, None) as url:
            single = alone(url, given.num_pairs)
            rate_per_s = LOAD * 1000 / single["ms"]["picture"]["p50"]
            models[model] = {"alone": single, "loaded": loaded(url, rate_per_s, given.num_requests)}
    result = {"machine": asdict(describe_machine()), "load": LOAD, "models": models}
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["models"], indent=1))


if __name__ == "__main__":
    main()
