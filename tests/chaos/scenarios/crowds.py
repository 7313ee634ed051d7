"""27: ten times as many requests as can be drawn."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx

from tests.chaos.run import Row
from tests.chaos.scenarios.scene import body, draws, expect, recovered, served
from tests.chaos.stack import Nurseries

CAPACITY = 20  # jobs that may wait
MEASURED_JOBS = 30
OVERLOAD_S = 10.0
FACTOR = 10
NUM_STEPS = 12
MARGIN_S = 5.0
MAX_RETRY_AFTER_S = 120


async def overload(nurseries: Nurseries) -> Row:
    """Most are refused, honestly; those that are accepted wait no longer than a full queue takes."""
    row = Row(num_injected=1)
    async with served(nurseries, settings={"queue_capacity": CAPACITY, "max_active_images": 8}) as (_, client):
        await draws(client)
        rate_per_s = await _capacity(client)
        promised_s = 2 * (CAPACITY + 8) / rate_per_s + MARGIN_S
        answers: list[tuple[int, float, float]] = []
        asking = set()
        began_s = time.monotonic()
        number = 10_000
        while time.monotonic() - began_s < OVERLOAD_S:
            task = asyncio.create_task(_ask(client, number, answers))
            asking.add(task)
            task.add_done_callback(asking.discard)
            number += 1
            await asyncio.sleep(1 / (FACTOR * rate_per_s))
        await asyncio.gather(*asking)
        await recovered(client, row)
    drawn_s = sorted(took_s for status, took_s, _ in answers if status == 200)
    refused = [(status, after_s) for status, _, after_s in answers if status != 200]
    expect(row, {status for status, _ in refused} <= {429, 503}, f"refused with {sorted({s for s, _ in refused})}")
    expect(row, len(refused) > len(drawn_s), f"{len(refused)} refused of {len(answers)}: that was no overload")
    expect(row, bool(drawn_s), "nothing was drawn")
    p99_s = drawn_s[int(0.99 * (len(drawn_s) - 1))] if drawn_s else 0.0
    expect(row, p99_s < promised_s, f"p99 of what was accepted is {p99_s:.1f} s; a full queue takes {promised_s:.1f} s")
    said_s = statistics.median([after_s for _, after_s in refused]) if refused else 0.0
    drain_s = CAPACITY / rate_per_s
    is_honest = 1 <= said_s <= max(2 * drain_s, 2.0) + 1
    expect(row, is_honest, f"Retry-After says {said_s:.0f} s where the queue is worked off in {drain_s:.1f} s")
    return row


async def _capacity(client: httpx.AsyncClient) -> float:
    """Pictures per second with as many requests as fit."""
    answers: list[tuple[int, float, float]] = []
    began_s = time.monotonic()
    for start in range(0, MEASURED_JOBS, 15):
        await asyncio.gather(*(_ask(client, number, answers) for number in range(start, start + 15)))
    return sum(status == 200 for status, _, _ in answers) / (time.monotonic() - began_s)


async def _ask(client: httpx.AsyncClient, number: int, answers: list[tuple[int, float, float]]) -> None:
    """(status, seconds, Retry-After) of one waiting request."""
    began_s = time.monotonic()
    asked = body(number, num_inference_steps=NUM_STEPS)
    answer = await client.post("/v1/generate", json=asked, headers={"Accept": "image/png"}, timeout=120)
    after_s = float(answer.headers.get("Retry-After", 0))
    answers.append((answer.status_code, time.monotonic() - began_s, after_s))


SCENARIOS = {27: overload}
