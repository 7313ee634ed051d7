"""The real service around an instant engine: embedded server, gateway and worker as processes on loopback.

Started like `emmdit serve` starts them, with its environment; apart from it so that each can run under a profiler
and its processor time be read.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
import psutil
from pydantic import SecretStr

from benchmarks import profiled
from service import tether
from service.embedded import EmbeddedServer
from service.gateway.server import bind
from service.queue import JobQueue
from service.queue_types import QueueLimits, QueueStats
from service.settings import load_settings, settings_environment

MODEL = "demo"
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0


class Stack:
    """A context manager: ready on entry, everything ended on exit. With `profile_dir`, see `begin_profile`."""

    def __init__(self, settings: Mapping[str, object], *, profile_dir: Path | None = None) -> None:
        self._profile_dir = profile_dir
        self._given = settings
        self._exits = ExitStack()
        self._processes: dict[str, psutil.Process] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self._redis_url = ""
        self.url = ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gateway first, as `emmdit serve` does; then the worker, the server, the files."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running = []
        self._exits.close()

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds that each process has used so far, user and system."""
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: time.user + time.system for name, time in times.items()}

    def begin_profile(self) -> None:
        """From here on the profile counts."""
        for process in self._running:
            process.send_signal(profiled.BEGIN)

    def end_profile(self) -> dict[str, Path]:
        """The finished profiles by process, once they are written."""
        assert self._profile_dir is not None
        paths = {name: self._profile_dir / f"{name}.prof" for name in ("gateway", "worker")}
        for process in self._running:
            process.send_signal(profiled.END)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while not all(path.exists() for path in paths.values()):
            if time.monotonic() > deadline_s:
                raise RuntimeError("no profile was written")
            time.sleep(0.05)
        return paths

    def queue_stats(self) -> QueueStats:
        """What waits and runs, asked of the server itself."""

        async def ask() -> QueueStats:
            queue = JobQueue.connect(self._redis_url, model=MODEL, limits=QueueLimits())
            try:
                return await queue.stats()
            finally:
                await queue.close()

        return asyncio.run(ask())

    def _start(self) -> None:
        folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="emmdit-bench-")))
        with bind("127.0.0.1", 0) as probe:
            port = int(probe.getsockname()[1])
        settings = load_settings(**{"data_dir": folder, "port": port, "models": MODEL, **self._given})
        server = self._exits.enter_context(
            EmbeddedServer(folder / "redis", max_memory_bytes=settings.embedded_max_memory_bytes)
        )
        self._redis_url = server.url
        metrics_dir = folder / "metrics"
        metrics_dir.mkdir()
        settings = settings.model_copy(update={"redis_url": SecretStr(server.url)})
        environment = {**os.environ, **settings_environment(settings), "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir)}
        self._processes["server"] = psutil.Process(server.pid)
        self._spawn("gateway", ["service.cli", "gateway"], environment, folder)
        self._spawn("worker", ["benchmarks.instant_worker", "worker"], environment, folder)
        self.url = f"http://127.0.0.1:{port}"
        self._wait_until_ready(folder)

    def _spawn(self, name: str, module: list[str], environment: Mapping[str, str], folder: Path) -> None:
        profiler = ["benchmarks.profiled", str(self._profile_dir / f"{name}.prof")] if self._profile_dir else []
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, tether.__file__, str(os.getpid()), sys.executable, "-m", *profiler, *module],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running.append(process)
        self._processes[name] = psutil.Process(process.pid)

    def _wait_until_ready(self, folder: Path) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2.0).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass  # not listening yet
            if time.monotonic() > deadline_s or any(process.poll() is not None for process in self._running):
                logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log")))
                raise RuntimeError(f"the service did not become ready:\n{logs}")
            time.sleep(0.1)
