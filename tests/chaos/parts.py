"""Processes of the service under test: started, watched, restarted, killed. None outlives this process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from service import tether

RESTART_DELAY_S = 0.2
START_TIMEOUT_S = 120.0
ROOT = Path(__file__).parents[2]


async def tethered(*command: str, **options: object) -> asyncio.subprocess.Process:
    """A child that dies with this process, whatever becomes of it."""
    return await asyncio.create_subprocess_exec(
        sys.executable, str(tether.__file__), str(os.getpid()), *command, cwd=ROOT, start_new_session=True, **options
    )


class Nursery:
    """Forks parts from a process that has imported what they need (nursery.py). A context manager."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._ended: dict[int, asyncio.Future[int]] = {}
        self._born: asyncio.Queue[int] = asyncio.Queue()
        self._ordering = asyncio.Lock()

    async def __aenter__(self) -> Nursery:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.chaos.nursery", *self._modules]
        pipe = asyncio.subprocess.PIPE
        self._process = await tethered(*command, env=environment, stdin=pipe, stdout=pipe)
        async with asyncio.timeout(START_TIMEOUT_S):
            assert self._process.stdout is not None
            if not await self._process.stdout.readline():
                raise RuntimeError(f"the nursery of {self._modules} did not start")
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()
        await self._listening

    async def fork(
        self, module: str, argv: Sequence[str], env: Mapping[str, str], log: Path
    ) -> tuple[int, asyncio.Future[int]]:
        """A new part: its process id, and a future of its exit status (negative: the signal that ended it)."""
        order = {"module": module, "argv": list(argv), "env": dict(env), "log": str(log)}
        async with self._ordering:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            pid = await self._born.get()
        return pid, self._ended[pid]

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "status" in message:
                self._ended.pop(message["pid"]).set_result(message["status"])
            else:
                self._ended[message["pid"]] = asyncio.get_running_loop().create_future()
                self._born.put_nowait(message["pid"])
        for ended in self._ended.values():
            ended.set_result(-signal.SIGKILL)


class Part:
    """A gateway or a worker that is started again whenever it ends, unless it is held down."""

    def __init__(
        self, name: str, nursery: Nursery, module: str, argv: Sequence[str], env: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self.pid = 0
        self.num_starts = 0
        self.exit_statuses: list[int] = []
        self._order = (module, argv, env, log)
        self._nursery = nursery
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._ended: asyncio.Future[int] | None = None
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Keep it running from now on."""
        self._keeping = asyncio.create_task(self._keep_running())

    async def _keep_running(self) -> None:
        while True:
            await self._may_run.wait()
            self.pid, self._ended = await self._nursery.fork(*self._order)
            self.num_starts += 1
            self.exit_statuses.append(await asyncio.shield(self._ended))
            self.pid = 0
            await asyncio.sleep(RESTART_DELAY_S)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False where there is no process now."""
        if not self.pid:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False

    def hold_down(self) -> None:
        """Not to be started again until `release`."""
        self._may_run.clear()

    def release(self) -> None:
        """May be started again."""
        self._may_run.set()

    async def ended(self, num_ends: int, timeout_s: float) -> None:
        """Return once it has ended so many times in all."""
        async with asyncio.timeout(timeout_s):
            while len(self.exit_statuses) < num_ends:
                await asyncio.sleep(0.02)

    async def stop(self, patience_s: float = 0.0) -> None:
        """End it for good: SIGTERM where there is patience, then SIGKILL."""
        self.hold_down()
        if self._keeping is None:
            return
        if self.pid and patience_s:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await self.ended(self.num_starts, patience_s)
        self.signal(signal.SIGKILL)
        if self._ended is not None:
            await asyncio.shield(self._ended)
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
