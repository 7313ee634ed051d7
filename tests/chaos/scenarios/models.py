"""8: a model whose weights cannot be loaded."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.chaos.run import Row
from tests.chaos.scenarios.scene import ended, eventually, expect, recovered, served, submit
from tests.chaos.stack import Nurseries
from tests.support.tiny_bundle import write_tiny_bundle


async def broken_bundle(nurseries: Nurseries) -> Row:
    """Never ready, one clear sentence in the log, jobs expire and say so; whole again, it serves."""
    row = Row(num_injected=1)
    with tempfile.TemporaryDirectory(prefix="chaos-bundle-") as folder:
        bundle = write_tiny_bundle(Path(folder))
        weights = bundle.parts.transformer
        whole = weights.read_bytes()
        weights.write_bytes(whole[: len(whole) // 2])
        async with served(nurseries, bundle=Path(folder), is_awaited=False) as (stack, client):

            async def has_given_up() -> bool:
                return len(stack.workers[0].exit_statuses) >= 2

            await eventually(has_given_up)
            ready = await client.get("/readyz")
            expect(
                row, ready.status_code == 503, f"/readyz says {ready.status_code} with a model that cannot be loaded"
            )
            statuses = set(stack.workers[0].exit_statuses)
            expect(row, statuses == {78}, f"the worker's exit statuses are {statuses}, not 78 (a configuration error)")
            said = [line for line in stack.workers[0].log.read_text().splitlines() if line.startswith("emmdit: ")]
            expect(row, bool(said) and weights.name in said[-1], f"the log does not name the file: {said[-1:]}")
            job = await ended(client, await submit(client, timeout_s=1.0))
            code = (job["error"] or {}).get("code")
            is_told = (job["state"], code) == ("expired", "deadline_exceeded")
            expect(row, is_told, f"a job without a model ended as {job['state']} {code}")
            expect(row, bool((job["error"] or {}).get("message")), "an expired job without a sentence")
            weights.write_bytes(whole)
            await asyncio.sleep(0)
            await recovered(client, row)
    return row


SCENARIOS = {8: broken_bundle}
