"""`emmdit serve`: server, gateway and workers of one machine as child processes, started, watched, drained.

Every child dies with this process, however it ends (tether.py); a child that dies alone is started again. Surprising:
the gateway is stopped first and the workers after it, since its waiting clients need them to the last.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prometheus_client.multiprocess import mark_process_dead
from pydantic import SecretStr

from service import tether
from service.embedded import SERVER_FOLDER, EmbeddedServer
from service.errors import ConfigurationError, EmmditError
from service.gateway.auth import needs_keys, refuse_open_binding
from service.gateway.server import bind
from service.queue_types import QueueLimits, WorkerInfo
from service.queues import Queues
from service.settings import Settings, settings_environment
from service.variables import ENV_PREFIX

logger = logging.getLogger(__name__)

EXIT_CONFIGURATION = 78  # EX_CONFIG: starting again would change nothing
POLL_INTERVAL_S = 0.1
MAX_RESTART_DELAY_S = 10.0
STEADY_AFTER_S = 30.0
STOP_MARGIN_S = 10.0


@dataclass(slots=True, eq=False)
class Child:
    """One kind of process that should always run. `not_before_s` delays the next start after a death."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    not_before_s: float = 0.0
    restart_delay_s: float = field(default=0.2)


class Supervisor:
    """Runs the parts of the service until told to stop."""

    def __init__(self, settings: Settings, models: Sequence[str], report: Callable[[str], None]) -> None:
        self._settings = settings
        self._models = tuple(models)
        self._report = report
        self._started_s = time.monotonic()
        self._started_at = time.time()
        self._wake = threading.Event()
        self._num_stops = 0
        self._children: list[Child] = []
        self._metrics_dir = settings.data_dir / "metrics"
        self.address = ""  # where it draws, once it can

    def stop(self) -> None:
        """Drain and end. Asked twice, end at once. Safe in a signal handler."""
        self._num_stops += 1
        self._wake.set()

    def signal_children(self, number: int) -> None:
        """Pass a signal on to every child. Safe in a signal handler."""
        for child in self._children:
            if child.process is not None and child.process.returncode is None:
                child.process.send_signal(number)

    def run(self) -> None:
        """Start everything, watch it, return after `stop`. Raises ConfigurationError where it cannot begin."""
        settings = self._settings
        refuse_open_binding(settings)
        with bind(settings.host, settings.port) as probe:  # an address in use is said now, not by a child's log
            port = int(probe.getsockname()[1])
        shutil.rmtree(self._metrics_dir, ignore_errors=True)
        self._metrics_dir.mkdir(mode=0o700, parents=True)
        with ExitStack() as stack:
            url = settings.queue_url()
            if url is None:
                limit = settings.embedded_max_memory_bytes
                server = EmbeddedServer(settings.data_dir / SERVER_FOLDER, max_memory_bytes=limit)
                url = stack.enter_context(server).url
                settings = settings.model_copy(update={"redis_url": SecretStr(url)})
            # Workers show their metrics on the gateway's page: with a port of their own all would want the same one.
            settings = settings.model_copy(update={"port": port, "worker_metrics_port": 0})
            # What was left out of these settings on purpose must not come back from the variables of this process.
            inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(ENV_PREFIX)}
            environment = inherited | settings_environment(settings)
            environment["PROMETHEUS_MULTIPROC_DIR"] = str(self._metrics_dir)
            self._children = [Child("gateway", ["gateway"], environment)]
            for device in _devices(settings):
                self._children.append(Child(f"worker on {device}", ["worker", "--device", device], environment))
            try:
                self._watch(f"http://{_client_host(settings.host)}:{port}", url)
            finally:
                self._stop_children()

    def _watch(self, address: str, url: str) -> None:
        is_announced = False
        last_look_s = 0.0
        while not self._num_stops:
            for child in self._children:
                self._keep_running(child)
            now_s = time.monotonic()
            if not is_announced and now_s - last_look_s > 3 * POLL_INTERVAL_S:
                last_look_s = now_s
                is_announced = self._announce(address, url)
            self._wake.wait(POLL_INTERVAL_S)

    def _announce(self, address: str, url: str) -> bool:
        """Print the one line that says where the service is, once it can draw."""
        try:
            found = asyncio.run(_live_workers(url, self._models))
            # After a crash the record of a worker of the run before outlives it by a lease.
            workers = [worker for worker in found if worker.started_at >= self._started_at]
            if {worker.model for worker in workers} != set(self._models):
                return False
            if httpx.get(f"{address}/readyz", timeout=2.0).status_code != httpx.codes.OK:
                return False
        except (httpx.HTTPError, EmmditError):
            return False
        models, devices = ", ".join(self._models), ", ".join(sorted({worker.device for worker in workers}))
        ready_s = time.monotonic() - self._started_s
        self.address = address
        self._report(
            f"ready: {address}  model {models}  device {devices}  weights {_weights(workers)}  after {ready_s:.1f} s"
        )
        if needs_keys(self._settings):
            self._report("requests need an API key: emmdit keys create NAME makes one")
        return True

    def _keep_running(self, child: Child) -> None:
        now_s = time.monotonic()
        if child.process is None:
            if now_s >= child.not_before_s:
                self._start(child)
            return
        code = child.process.poll()
        if code is None:
            return
        mark_process_dead(child.process.pid, str(self._metrics_dir))  # type: ignore[no-untyped-call]
        child.process = None
        if code == EXIT_CONFIGURATION:
            raise ConfigurationError(f"{child.name} cannot start; its message is above")
        if now_s - child.started_s > STEADY_AFTER_S:
            child.restart_delay_s = 0.2
        child.not_before_s = now_s + child.restart_delay_s
        logger.warning("%s ended (%s); starting it again in %.1f s", child.name, _cause(code), child.restart_delay_s)
        child.restart_delay_s = min(2 * child.restart_delay_s, MAX_RESTART_DELAY_S)

    def _start(self, child: Child) -> None:
        command = [sys.executable, str(Path(tether.__file__)), str(os.getpid()), sys.executable, "-m", "service.cli"]
        # A session of its own: Ctrl-C in a terminal must reach this process alone, which then stops them in order.
        child.process = subprocess.Popen(
            [*command, *child.arguments], env=child.environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        child.started_s = time.monotonic()
        logger.debug("%s started: process %d", child.name, child.process.pid)

    def _stop_children(self) -> None:
        """Gateway first, then the workers; whoever takes longer than its drain time is killed."""
        settings = self._settings
        patience_s = settings.drain_timeout_s + settings.drain_delay_s + STOP_MARGIN_S
        gateways = [child for child in self._children if child.name == "gateway"]
        workers = [child for child in self._children if child.name != "gateway"]
        for group in (gateways, workers):
            processes = [child.process for child in group if child.process is not None]
            for process in processes:
                process.send_signal(signal.SIGTERM)
            deadline_s = time.monotonic() + patience_s
            for process in processes:
                while process.poll() is None and time.monotonic() < deadline_s and self._num_stops < 2:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_INTERVAL_S)
                if process.poll() is None:
                    process.kill()
                    process.wait()


async def _live_workers(url: str, models: Sequence[str]) -> list[WorkerInfo]:
    """One record for each model that a worker serves."""
    queues = Queues.connect(url, models=models, limits=QueueLimits())
    try:
        found = await asyncio.gather(*(queue.workers() for queue in queues.values()))
        return [worker for workers in found for worker in workers]
    finally:
        await queues.close()


def _weights(workers: Sequence[WorkerInfo]) -> str:
    """What lies in one worker's memory, in all and by part; what models share counts once."""
    sizes: dict[str, dict[tuple[str, ...], int]] = {}
    for worker in workers:
        if worker.id == workers[0].id:
            for part, num_bytes in worker.memory.items():
                owners = tuple(sorted((worker.model, *worker.shared_with.get(part, ()))))
                sizes.setdefault(part, {})[owners] = num_bytes
    parts = [
        f"{part.replace('_', ' ')} {' + '.join(f'{num_bytes / 1e6:.1f}' for num_bytes in by_owners.values())}"
        for part, by_owners in sizes.items()
    ]
    total = sum(num_bytes for by_owners in sizes.values() for num_bytes in by_owners.values())
    return f"{total / 1e6:.1f} MB ({', '.join(parts)})"


def _devices(settings: Settings) -> tuple[str, ...]:
    """One worker's device each. A CPU build of torch is told by its version: importing torch takes seconds."""
    try:
        build = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigurationError(
            "PyTorch is not installed. CPU: pip install torch --index-url https://download.pytorch.org/whl/cpu; "
            "ROCm and CUDA: https://pytorch.org/get-started/locally/"
        ) from None
    if settings.device != "auto" or build.endswith("+cpu"):
        return ("cpu" if settings.device == "auto" else settings.device,)
    from model.engine import visible_devices

    return visible_devices(settings.device)


def _client_host(host: str) -> str:
    """An address that reaches `host` from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # nosec B104 # compared, not bound
    return f"[{host}]" if ":" in host else host


def _cause(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
