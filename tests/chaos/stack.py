"""The real service as processes on loopback: server, gateways and workers, each with a wire of its own to the server.

Parts are forked from nurseries and started again when they end, as `emmdit serve` and Kubernetes do. The model is a
tiny one in exact mode, so that a picture is the same to the bit whoever draws it, when, and in what company.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from service.blobs import BLOBS_FOLDER
from service.gateway.server import bind
from tests.chaos.control import Control
from tests.chaos.parts import Nursery, Part
from tests.chaos.proxy import Wire
from tests.chaos.server import Server
from tests.support.tiny_bundle import write_tiny_bundle

MODEL = "tiny"
START_TIMEOUT_S = 120.0
LEASE_S = 3.0
STALL_LIMIT_S = 5.0
MAX_ATTEMPTS = 3
MAX_ROWS = 8
STEP_S = 0.01
SETTINGS: Mapping[str, object] = {
    "device": "cpu",
    "num_threads": 1,
    "exact": True,
    "compile_network": False,
    "max_batch_rows": MAX_ROWS,
    "max_active_images": 12,
    "queue_capacity": 400,
    "lease_s": LEASE_S,
    "heartbeat_s": 0.4,
    "stall_limit_s": STALL_LIMIT_S,
    "max_attempts": MAX_ATTEMPTS,
    "retry_delay_s": 0.2,
    "drain_timeout_s": 1.5,
    "no_worker_grace_s": 60,
    "default_timeout_s": 120,
    "log_level": "info",
}
GATEWAY_IMPORTS = ("service.cli.app", "service.gateway.server")
WORKER_IMPORTS = (
    "tests.chaos.device",
    "model.engine",
    "service.blobs",
    "service.metrics",
    "service.queues",
    "service.warming",
    "service.worker",
)


class Nurseries:
    """Both kinds, shared by the stacks of one run. A context manager."""

    def __init__(self) -> None:
        self.gateways = Nursery(*GATEWAY_IMPORTS)
        self.workers = Nursery(*WORKER_IMPORTS)
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Nurseries:
        await asyncio.gather(*(self._exits.enter_async_context(one) for one in (self.gateways, self.workers)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()


class Stack:
    """A context manager: ready on entry, everything ended on exit. With a `redis_url` it has no server of its own."""

    def __init__(
        self,
        nurseries: Nurseries,
        *,
        num_gateways: int = 2,
        num_workers: int = 2,
        bundle: Path | None = None,
        settings: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        is_awaited: bool = True,
        redis_url: str | None = None,
    ) -> None:
        self._nurseries = nurseries
        self._counts = (num_gateways, num_workers)
        self._bundle = bundle
        self._settings = {**SETTINGS, **(settings or {})}
        self._environment = environment or {}
        self._is_awaited = is_awaited
        self._redis_url = redis_url
        self._exits = AsyncExitStack()
        self.gateways: list[Part] = []
        self.workers: list[Part] = []
        self.controls: list[Control] = []
        self.wires: dict[str, Wire] = {}
        self.urls: list[str] = []

    async def __aenter__(self) -> Stack:
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    @property
    def images(self) -> Path:
        """Where finished pictures lie."""
        return self.folder / "data" / BLOBS_FOLDER

    def logs(self, num_lines: int = 30) -> str:
        """The ends of what the parts have said."""
        texts = []
        for path in sorted(self.folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-num_lines:]
            texts.append("\n".join([f"--- {path.name}", *lines]))
        return "\n".join(texts)

    async def _start(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True)
        self.folder = Path(self._exits.enter_context(temporary))
        if self._bundle is None:
            self._bundle = self.folder / "bundle"
            write_tiny_bundle(self._bundle)
        if self._redis_url is None:
            self.server = Server(self.folder / "redis")
            self._exits.push_async_callback(self.server.close)
            await self.server.start()
        for index in range(self._counts[0]):
            await self._add_gateway(index)
        for index in range(self._counts[1]):
            await self._add_worker(index)
        if self._is_awaited:
            await self._wait_until_ready()

    async def _add_gateway(self, index: int) -> None:
        with bind("127.0.0.1", 0) as probe:
            port = int(probe.getsockname()[1])
        name = f"gateway-{index}"
        environment = await self._environment_of(name, {"port": port})
        argv = ["emmdit", "gateway"]
        self._add(
            self.gateways, Part(name, self._nurseries.gateways, "service.cli.app", argv, environment, self._log(name))
        )
        self.urls.append(f"http://127.0.0.1:{port}")

    async def _add_worker(self, index: int) -> None:
        name = f"worker-{index}"
        control = self.folder / f"{name}.json"
        extra = {"CHAOS_CONTROL": str(control), "CHAOS_STEP_S": str(STEP_S), **self._environment}
        environment = {**await self._environment_of(name, {}), **extra}
        argv = ["emmdit", "worker"]
        self._add(
            self.workers, Part(name, self._nurseries.workers, "tests.chaos.device", argv, environment, self._log(name))
        )
        self.controls.append(Control(control))

    def _add(self, parts: list[Part], part: Part) -> None:
        parts.append(part)
        self._exits.push_async_callback(part.stop)
        part.start()

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    async def _environment_of(self, name: str, own: Mapping[str, object]) -> dict[str, str]:
        """Settings as variables."""
        settings = {
            **self._settings,
            "models": self._bundle,
            "data_dir": self.folder / "data",
            "redis_url": self._redis_url or await self._wire(name),
            **own,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EMMDIT_")}
        return {**kept, **{f"EMMDIT_{name.upper()}": str(value) for name, value in settings.items()}}

    async def _wire(self, name: str) -> str:
        """A wire to the server, and what the part is given as its address."""
        wire = self.wires[name] = Wire(self.folder / f"{name}.s", self.server.socket_path)
        await wire.open()
        self._exits.push_async_callback(wire.close)
        return wire.url

    async def _wait_until_ready(self) -> None:
        """Every gateway serves, every worker is known."""
        async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient(timeout=5.0) as client:
            for url in self.urls:
                while not await _is_ready(client, url, self._counts[1]):
                    self._refuse_failed_starts()
                    await asyncio.sleep(0.05)

    def _refuse_failed_starts(self) -> None:
        parts: Sequence[Part] = [*self.gateways, *self.workers]
        if any(len(part.exit_statuses) > 3 for part in parts):
            raise RuntimeError(f"a part does not start\n{self.logs()}")


async def _is_ready(client: httpx.AsyncClient, url: str, num_workers: int) -> bool:
    try:
        found = await client.get(f"{url}/readyz")
        return found.status_code == httpx.codes.OK and found.json()["models"][MODEL] >= num_workers
    except (httpx.HTTPError, KeyError, ValueError):
        return False
