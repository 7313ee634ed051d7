"""Ray Serve: one replica, its own dynamic batching; drawing in a thread, so that the next batch fills meanwhile."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.drawing import PeerSettings, open_drawer

SETTINGS = PeerSettings.from_environment()
OBJECT_STORE_BYTES = 128 * 1024**2
MAX_REQUESTS = 4096


@serve.deployment(num_replicas=1, max_ongoing_requests=MAX_REQUESTS, ray_actor_options={"num_cpus": 1})
class Drawing:
    """Bodies in, PNGs out."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.drawer = self._thread.submit(open_drawer, SETTINGS).result()

    @serve.batch(max_batch_size=SETTINGS.batch_size, batch_wait_timeout_s=SETTINGS.wait_s)
    async def draw(self, bodies: list[dict[str, Any]]) -> list[bytes]:
        """Draw one batch."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.drawer.draw, bodies)

    async def __call__(self, request: Request) -> Response:
        """As the service answers."""
        return Response(await self.draw(await request.json()), media_type="image/png")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # an orderly end takes Ray's processes along
    ray.init(
        num_cpus=4,  # bookkeeping, not a limit: the proxy and the controller want some too
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        runtime_env={"env_vars": SETTINGS.environment()},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": SETTINGS.port})
        serve.run(Drawing.bind(), route_prefix="/", blocking=True)
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()
        ray.shutdown()
