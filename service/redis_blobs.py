"""Pictures in Redis or Valkey, within a budget of bytes: what does not fit is refused, and nothing promised is evicted.

A store's methods block and the connections are an event loop's, so one thread of its own runs that loop. All keys
carry one hash tag: on a Cluster they lie on one node, and each script stays atomic, which keeps the budget exact.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, TypeVar

from service.blobs import STORE_RETRY_AFTER_S, check_key, checked, not_stored
from service.errors import EmmditError, ServerOverloaded
from service.queue_server import CALL_BUDGET_S, QueueServer, translated

PREFIX = "emmdit:{blobs}:"
SIZES = PREFIX + "sizes"  # hash: name -> bytes
ENDS = PREFIX + "ends"  # zset: names, by when their time is over
SUM = PREFIX + "sum"  # bytes of all of them
SWEEP_BATCH = 1000
T = TypeVar("T")


class RedisBlobs:
    """A `BlobStore` on the server at `url`: at most `max_bytes` of pictures, each for `keep_s`.

    Raises ConfigurationError for a URL that cannot be used.
    """

    sweep_period_s = 60.0

    def __init__(self, url: str, *, keep_s: float, max_bytes: int) -> None:
        self._root = QueueServer.connect(url, is_text=False)
        self._server = self._root.serving(SIZES)
        self._keep_ms = max(round(keep_s * 1000), 1)
        self._max_bytes = max_bytes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="blobs", daemon=True)
        self._starting = threading.Lock()

    def put(self, key: str, data: bytes) -> None:
        """One script. Where there is no room, what is over is cleared away first."""
        keys = [_data_key(key), SIZES, ENDS, SUM]

        async def put() -> bool:
            return bool(await self._run("blob_put", keys, key, data, self._keep_ms, self._max_bytes))

        if self._wait(put()):
            return
        if not (self.sweep() and self._wait(put())):
            message = f"pictures cannot be stored for now: {self._max_bytes} bytes of them may be kept"
            raise ServerOverloaded(message, retry_after_s=STORE_RETRY_AFTER_S)

    def get(self, key: str, sha256: str | None) -> bytes:
        """Read and check."""
        name = _data_key(key)

        async def get() -> bytes | None:
            async with translated(CALL_BUDGET_S):
                data: bytes | None = await self._server.commands.get(name)
            return data

        data = self._wait(get())
        if data is None:
            raise not_stored()
        return checked(data, sha256)

    def delete(self, keys: Sequence[str]) -> None:
        """One script."""
        if keys:
            self._wait(self._run("blob_delete", [SIZES, ENDS, SUM, *map(_data_key, keys)], *keys))

    def sweep(self) -> int:
        """Take what the server has let expire out of the sum."""
        num_removed = num_now = int(self._wait(self._run("blob_sweep", [SIZES, ENDS, SUM], SWEEP_BATCH)))
        while num_now == SWEEP_BATCH:
            num_now = int(self._wait(self._run("blob_sweep", [SIZES, ENDS, SUM], SWEEP_BATCH)))
            num_removed += num_now
        return num_removed

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._thread.is_alive():
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(CALL_BUDGET_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """Whoever still waits for a reply is told that there will be none."""
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._root.close()

    async def _run(self, name: str, keys: Sequence[str], *arguments: str | bytes | int) -> Any:  # noqa: ANN401  (Lua's reply)
        async with translated(CALL_BUDGET_S):
            return await self._server.run(name, keys, *arguments)

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        with self._starting:
            if not self._thread.is_alive():
                self._thread.start()
        reply = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return reply.result(CALL_BUDGET_S + 1.0)  # the call ends by itself before, unless this store is closed
        except (EmmditError, TimeoutError, CancelledError) as error:
            # A wrong password too: an operator mends it, and the work goes on.
            reply.cancel()
            message = f"the server that keeps the pictures does not answer, or refuses ({error})"
            raise ServerOverloaded(message, retry_after_s=STORE_RETRY_AFTER_S) from error


def _data_key(key: str) -> str:
    return f"{PREFIX}data:{check_key(key)}"
