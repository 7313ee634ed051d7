"""`emmdit serve` itself: 29 two on one data directory, 30 killed outright."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from tests.chaos.parts import tethered
from tests.chaos.run import Row
from tests.chaos.scenarios.scene import eventually, expect
from tests.chaos.stack import SETTINGS, Nurseries
from tests.support.tiny_bundle import write_tiny_bundle


async def two_on_one_directory(_: Nurseries) -> Row:
    """29: the second refuses by name, the first goes on."""
    row = Row(num_injected=1)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        async with _serve(Path(folder)) as first:
            await eventually(lambda: _has_children(first, 1))
            async with _serve(Path(folder)) as second:
                async with asyncio.timeout(60):
                    _, said = await second.communicate()
                expect(row, second.returncode == 78, f"the second one's exit status is {second.returncode}, not 78")
                expect(row, b"data directory" in said, f"the second one says {said[-300:]!r}")
            expect(row, first.returncode is None, "the first one ended too")
            expect(row, await _has_children(first, 1), "the first one's server is gone")
    return row


async def killed_supervisor(_: Nurseries) -> Row:
    """30: kill -9: server, gateway and worker go with it."""
    row = Row(num_injected=1)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        async with _serve(Path(folder)) as supervisor:
            await eventually(lambda: _has_children(supervisor, 3))
            below = psutil.Process(supervisor.pid).children(recursive=True)
            supervisor.kill()
            await supervisor.wait()
            began_s = time.monotonic()
            _, alive = await asyncio.to_thread(psutil.wait_procs, below, timeout=10)
            row.recovery_s.append(time.monotonic() - began_s)
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            expect(row, not alive, f"left running: {alive}")
    return row


@asynccontextmanager
async def _serve(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`emmdit serve` on a port of its own; whatever is left of it is killed."""
    bundle = folder / "bundle"
    if not bundle.exists():
        write_tiny_bundle(bundle)
    settings = {**SETTINGS, "models": bundle, "data_dir": folder / "data", "port": 0}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EMMDIT_")}
    environment = {**kept, **{f"EMMDIT_{name.upper()}": str(value) for name, value in settings.items()}}
    pipe = asyncio.subprocess.PIPE
    process = await tethered(
        *(sys.executable, "-m", "service.cli", "serve"),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=pipe,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _has_children(process: asyncio.subprocess.Process, least: int) -> bool:
    """Whether it has started so many, tethers that became them counted once."""
    if process.returncode is not None:
        said = await process.stderr.read() if process.stderr else b""
        raise RuntimeError(f"emmdit serve ended with {process.returncode}: {said[-500:]!r}")
    return len(psutil.Process(process.pid).children()) >= least


SCENARIOS = {29: two_on_one_directory, 30: killed_supervisor}
