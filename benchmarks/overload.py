"""Ten times as many requests as the service can draw: who waits how long, what the refused are told, when it is over.

    python -m benchmarks.overload --out benchmarks/results/overload.json

A service of its own on loopback. First its capacity, by clients that always ask again; then Poisson arrivals at ten
times that. The truth about a refusal's Retry-After is when the last request that was accepted before it had left the
queue: all that took up the room which the refused one wanted was then gone. Last, one request a second, until one is
drawn as soon as in an idle service. EMMDIT_QUEUE_CAPACITY says how many may wait, and so how long.

The load comes from one process of the same machine: a model that draws more than a few pictures a second would be
offered more than that process can send (`send_lag` tells).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import describe_machine
from benchmarks.prompts import fresh_prompts
from service.bench.load import Outcome
from service.bench.plan import Way, plan_requests, poisson_times
from service.bench.report import Quantiles, summarize
from service.bench.run import measure
from service.cli.local import local_service
from service.client.calls import GENERATE_PATH
from service.settings import load_settings

REFUSALS = ("rate_limit_exceeded", "server_is_overloaded", "no_worker")
NUM_CLIENTS = 32
HONEST_FACTOR = 2.0
TURNS = 1.5  # pictures take turns, so some take longer than the queue's length and the speed say
AS_IDLE = 2.0  # a picture that takes at most so many times what it takes in an idle service is as soon
MAX_RECOVERY_S = 600.0


async def closed_loop(url: str, duration_s: float, prompts: Iterator[str]) -> float:
    """Pictures a second that clients get who always ask again."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        ends_at_s = time.monotonic() + duration_s

        async def ask_again_and_again() -> int:
            num = 0
            while time.monotonic() < ends_at_s:
                (await client.post(GENERATE_PATH, json={"prompt": next(prompts)})).raise_for_status()
                num += 1
            return num

        began_at_s = time.monotonic()
        nums = await asyncio.gather(*(ask_again_and_again() for _ in range(NUM_CLIENTS)))
        return sum(nums) / (time.monotonic() - began_at_s)


async def alone(url: str, num: int, prompts: Iterator[str]) -> float:
    """Median seconds of a picture that nobody else wants one beside."""
    seconds = []
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        for _ in range(num):
            began_at_s = time.monotonic()
            (await client.post(GENERATE_PATH, json={"prompt": next(prompts)})).raise_for_status()
            seconds.append(time.monotonic() - began_at_s)
    return statistics.median(seconds)


async def recovery(url: str, idle_s: float, prompts: Iterator[str]) -> dict[str, float | None]:
    """Seconds until a request is accepted again, and until one is drawn as soon as in an idle service."""
    began_at_s = time.monotonic()
    accepted_s: float | None = None
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        while (now_s := time.monotonic() - began_at_s) < MAX_RECOVERY_S:
            response = await client.post(GENERATE_PATH, json={"prompt": next(prompts)})
            if response.is_success:
                took_s = time.monotonic() - began_at_s - now_s
                accepted_s = now_s if accepted_s is None else accepted_s
                if took_s <= AS_IDLE * idle_s:
                    return {"accepted_s": accepted_s, "as_idle_s": now_s}
            await asyncio.sleep(1.0)
    return {"accepted_s": accepted_s, "as_idle_s": None}


def honesty(outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """What refusals said, divided by what would have been true; None where nobody was refused while others waited."""
    accepted = sorted((one for one in outcomes if one.error is None), key=lambda one: one.sent_s)
    sent_s = [one.sent_s for one in accepted]
    last_begin_s = list(itertools.accumulate((one.sent_s + (one.queue_s or 0.0) for one in accepted), max))
    ratios = []
    for one in outcomes:
        num_before = bisect_left(sent_s, one.sent_s)
        if one.error not in REFUSALS or one.retry_after_s is None or not num_before:
            continue
        truth_s = last_begin_s[num_before - 1] - one.ended_s
        if truth_s > 0:
            ratios.append(one.retry_after_s / truth_s)
    if not ratios:
        return None
    honest = sum(1 / HONEST_FACTOR <= ratio <= HONEST_FACTOR for ratio in ratios)
    cuts = statistics.quantiles(ratios, n=20, method="inclusive") if len(ratios) > 1 else ratios * 19
    return {"num": len(ratios), "share_honest": honest / len(ratios), "p5": cuts[0], "p50": cuts[9], "p95": cuts[18]}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--factor", type=float, default=10.0, help="how many times the capacity is offered")
    given = parser.parse_args()
    prompts, source = fresh_prompts(), random.Random(0)
    with local_service(given.model, None) as url:
        asyncio.run(closed_loop(url, 5.0, prompts))  # warm up
        idle_s = asyncio.run(alone(url, 20, prompts))
        capacity_per_s = asyncio.run(closed_loop(url, 40.0, prompts))
        print(f"{idle_s:.3f} s alone, capacity {capacity_per_s:.2f}/s", flush=True)
        rate_per_s = given.factor * capacity_per_s
        num = int(rate_per_s * given.minutes * 60)
        planned = plan_requests(
            poisson_times(rate_per_s, num, source), list(itertools.islice(prompts, num)), [Way()], source
        )
        outcomes, recovered = asyncio.run(_flood(url, planned, given.minutes * 60, idle_s, prompts))
    report = summarize(outcomes, objective_s=60)
    refused = [one for one in outcomes if one.error in REFUSALS]
    settings = load_settings()
    num_accepted = settings.queue_capacity + settings.max_active_images
    result = {
        "machine": asdict(describe_machine()),
        "model": given.model,
        "minutes": given.minutes,
        "factor": given.factor,
        "idle_s": idle_s,
        "capacity_per_s": capacity_per_s,
        "queue_capacity": settings.queue_capacity,
        "bound_s": TURNS * num_accepted / report.throughput_per_s,
        "report": asdict(report),
        "refusal_s": asdict(refused_s) if (refused_s := Quantiles.of([one.latency_s for one in refused])) else None,
        "honesty": honesty(outcomes),
        "recovery": recovered,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


async def _flood(
    url: str, planned: Sequence[Any], duration_s: float, idle_s: float, prompts: Iterator[str]
) -> tuple[list[Outcome], dict[str, float | None]]:
    """Outcomes and recovery, which counts from the last request sent, not from the last answer."""
    flood = asyncio.create_task(measure(url, planned, objective_s=60, timeout_s=600))
    await asyncio.sleep(duration_s)
    recovered = await recovery(url, idle_s, prompts)
    return (await flood).outcomes, recovered


if __name__ == "__main__":
    main()
