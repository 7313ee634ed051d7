"""22: the server is lost, and Sentinels put a replica in its place that has not heard of everything."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.chaos.run import Row
from tests.chaos.scenarios.scene import ended, eventually, expect, recovered, served, state_of, submit
from tests.chaos.stack import Nurseries

NUM_OLD, NUM_LATE = 30, 5
PATIENCE_S = 60.0


async def lagging_replica(nurseries: Nurseries) -> Row:
    """What the replica had is done, at least once; of what it had not, clients are told that it does not exist."""
    from tests.support.redis_servers import Sentinels, wait_until

    row = Row(num_injected=1)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, Sentinels(Path(folder)).running() as sentinels:
        async with served(nurseries, redis_url=sentinels.url) as (_, client):
            old = [await submit(client, seed=index, num_inference_steps=20) for index in range(NUM_OLD)]
            with sentinels.first.client() as first, sentinels.second.client() as second:
                await asyncio.to_thread(wait_until, lambda: _offset(first) == _offset(second))
            os.kill(sentinels.second.pid, signal.SIGSTOP)
            late = [await submit(client, seed=100 + index, num_inference_steps=20) for index in range(NUM_LATE)]
            sentinels.first.kill()
            os.kill(sentinels.second.pid, signal.SIGCONT)
            await recovered(client, row, PATIENCE_S)
            states = {(await ended(client, job, PATIENCE_S))["state"] for job in old}
            expect(row, states == {"done"}, f"jobs that the replica knew ended as {states}")

            async def settled() -> bool:
                return {await state_of(client, job) for job in late} <= {"done", "404"}

            with suppress(TimeoutError):
                await eventually(settled, PATIENCE_S)
            expect(row, await settled(), "a job that the replica did not know is neither done nor unknown")
    return row


def _offset(server: object) -> int:
    """How far the server has come in the stream of changes."""
    return int(server.info("replication")["master_repl_offset"])  # type: ignore[attr-defined]


SCENARIOS = {22: lagging_replica}
