"""23: gateways and workers whose clocks are wrong by an hour, each in another direction."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos.look import all_jobs
from tests.chaos.parts import tethered
from tests.chaos.run import Row
from tests.chaos.scenarios.scene import body, ended, expect, recovered, served, submit
from tests.chaos.stack import Nurseries

HOUR_S = 3600
DEADLINE_S = 5.0  # enough on the slowest machine, or the job would be refused at once


async def wrong_clocks(_: Nurseries) -> Row:
    """Leases, deadlines, states and times of jobs are the server's, whatever the others believe."""
    row = Row(num_injected=2)
    library = find_faketime()
    if library is None:
        row.broken.append("libfaketime is not installed here")
        return row
    nurseries = _Clocks(library)
    # libfaketime refuses time.sleep in its processes, which is what slows the steps elsewhere.
    async with served(nurseries, settings={"lease_s": 10}, environment={"CHAOS_STEP_S": "0"}) as (stack, client):
        await recovered(client, row)
        jobs = [await submit(client, seed=index, timeout_s=20) for index in range(10)]
        shown = [await ended(client, job) for job in jobs]
        expect(row, {one["state"] for one in shown} == {"done"}, "a deadline of 20 s was missed")
        created = {abs(one["created"] - time.time()) < HOUR_S / 2 for one in shown}
        expect(row, created == {True}, "a job's time of acceptance is a wrong clock's")
        stack.workers[0].hold_down()
        stack.workers[0].signal(9)
        await stack.workers[0].ended(1, 20)
        began_s = time.monotonic()
        late = await ended(client, await submit(client, seed=77, timeout_s=DEADLINE_S))
        took_s = time.monotonic() - began_s
        expect(row, late["state"] == "expired", f"a job that nobody drew ended as {late['state']}")
        expect(row, 0.9 * DEADLINE_S < took_s < 20, f"its {DEADLINE_S:.0f} s took {took_s:.1f} s")
        attempts = {one.attempt for one in (await all_jobs(stack.server.direct)).values() if one.state == "done"}
        expect(row, attempts == {1}, f"jobs took {attempts} attempts")
        answer = await client.post("/v1/images/generations", json={"prompt": body(5)["prompt"], "size": "1x1"})
        expect(row, answer.status_code == 400, f"a bad request is answered with {answer.status_code}")
    return row


def find_faketime() -> Path | None:
    """Debian's libfaketime, where it is installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


class _Clocks:
    """Starts parts as commands of their own, which is when a library can be put before the C library's clock."""

    def __init__(self, library: Path) -> None:
        self.gateways = _Commands({"LD_PRELOAD": str(library), "FAKETIME": f"+{HOUR_S}"})
        self.workers = _Commands({"LD_PRELOAD": str(library), "FAKETIME": f"-{HOUR_S}"})


class _Commands:
    """What a nursery does, without its advantage."""

    def __init__(self, extra: Mapping[str, str]) -> None:
        self._extra = {**extra, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    async def fork(
        self, module: str, argv: Sequence[str], env: Mapping[str, str], log: Path
    ) -> tuple[int, asyncio.Future[int]]:
        """See Nursery."""
        start = f"import {module}; {module}.main()"
        command = [sys.executable, "-c", start, *argv[1:]]
        with log.open("ab") as file:
            process = await tethered(*command, env={**env, **self._extra}, stdout=file, stderr=file)
        return process.pid, asyncio.ensure_future(process.wait())


SCENARIOS = {23: wrong_clocks}
