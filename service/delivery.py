"""From a worker's pixels to a finished job: PNG, blob first, then the fenced finish. Owns the PNG threads."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.attempt_trace import traced
from service.blobs import BlobStore, blob_key, partial_key, try_out
from service.errors import EmmditError, ServerOverloaded
from service.job_run import JobRow
from service.jobs import ImageRef, Job, JobResult
from service.logs import about
from service.metrics import Metrics
from service.png import encode_png, png_text
from service.queues import Queues
from service.settings import Settings

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

OUTAGE_PAUSE_S = 0.25
STORE_PATIENCE_S = 60.0  # how long a drawn picture waits for a store that refuses it before its job is given back
NUM_STORING = 8  # threads: most wait for the disk, which flushes the files of several as fast as that of one
NUM_ENCODING = 2  # of them at a time, so that compression leaves cores to the engine


class Delivery:
    """What a worker does with finished pictures and ended jobs.

    A store that refuses a picture, being full or away, is tried out until it takes one of that size again. Meanwhile
    drawn pictures wait, and the worker claims nothing and says so.
    """

    def __init__(
        self, settings: Settings, queues: Queues, blobs: BlobStore, metrics: Metrics, versions: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._queues = queues
        self._blobs = blobs
        self._metrics = metrics
        self._versions = versions
        self._threads = ThreadPoolExecutor(NUM_STORING, "png")
        self._encoding = threading.Semaphore(NUM_ENCODING)
        # Waiting is no progress: the stall watch must not take a full disk for a device that hangs.
        self._patience_s = min(STORE_PATIENCE_S, settings.stall_limit_s / 2)
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._refused_bytes = 0

    @property
    def can_store(self) -> bool:
        """Whether the store took the last picture that it was given."""
        return self._is_open.is_set()

    async def store(self, row: JobRow, pixels: NDArray[np.uint8]) -> ImageRef:
        """Compress and store one picture (H, W, 3). Raises ServerOverloaded where the store stays without room."""
        key = blob_key(row.run.job.id, row.run.job.attempt, row.index)
        with traced("png", [row.run.trace]):
            png = await self._in_thread(self._encode, row, pixels)
        with traced("store", [row.run.trace]):
            image = await self._put_in_the_end(key, row, png)
        width, height = row.size
        self._metrics.images.labels(row.run.job.model, f"{width}x{height}").inc()
        self._metrics.image_bytes.observe(len(png))
        return image

    async def store_partial(self, row: JobRow, place: int, pixels: NDArray[np.uint8]) -> ImageRef:
        """Compress and store the `place`-th estimate (H, W, 3) of a picture under way. Raises ServerOverloaded."""
        key = partial_key(row.run.job.id, row.run.job.attempt, row.index, place)
        png = await self._in_thread(self._encode, row, pixels)
        return await self._in_thread(self._put, key, row, png)

    async def try_store_again(self) -> None:
        """Where the store refuses, find out whether it still does. To be called over and over."""
        if not self.can_store:
            try:
                await self._in_thread(try_out, self._blobs, self._refused_bytes)
            except (EmmditError, OSError):
                return
            logger.warning("pictures can be stored again")
            self._is_open.set()

    async def _put_in_the_end(self, key: str, row: JobRow, png: bytes) -> ImageRef:
        """Store a picture, now or once the store has room again, as long as somebody wants it."""
        give_up_at_s = time.monotonic() + self._patience_s
        while True:
            try:
                return await self._in_thread(self._put, key, row, png)
            except ServerOverloaded as error:
                self._note_refusal(error, len(png))
                seconds_left = give_up_at_s - time.monotonic()
                if seconds_left <= 0 or row.run.is_dropped:
                    raise
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds_left):
                        await self._is_open.wait()

    def _note_refusal(self, error: ServerOverloaded, num_bytes: int) -> None:
        self._metrics.store_refusals.inc()
        if self.can_store:
            logger.error("%s; drawn pictures wait, and no jobs are claimed", error.message)
        self._is_open.clear()
        self._refused_bytes = num_bytes

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    def _encode(self, row: JobRow, pixels: NDArray[np.uint8]) -> bytes:
        job, params = row.run.job, row.sample.params
        text = png_text(
            params,
            model=job.model,
            model_version=self._versions[job.model],
            prompt=row.sample.prompt,
            mode=self._settings.metadata,
        )
        with self._encoding:
            started_s = time.perf_counter()
            png = encode_png(pixels, text, compress_level=self._settings.png_compress_level)
        self._metrics.stage_duration.labels("png").observe(time.perf_counter() - started_s)
        return png

    def _put(self, key: str, row: JobRow, png: bytes) -> ImageRef:
        started_s = time.perf_counter()
        self._blobs.put(key, png)
        self._metrics.stage_duration.labels("store").observe(time.perf_counter() - started_s)
        return ImageRef(key, row.sample.params.seed, len(png), hashlib.sha256(png).hexdigest())

    async def finish(self, job: Job, result: JobResult) -> bool:
        """Write a job's end; whether it counts. Through an outage, keep trying: one that comes too late is refused."""
        give_up_at_s = time.monotonic() + 2 * self._settings.lease_s
        while time.monotonic() < give_up_at_s:
            try:
                is_accepted = await self._queues[job.model].finish(job.id, job.attempt, result, inbox=job.inbox)
            except ServerOverloaded:
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            refusal = "" if is_accepted else " (refused: not ours any more)"
            logger.info("job %s %s%s", job.id, result.state, refusal, extra=about(job))
            return is_accepted
        logger.error("job %s: its end could not be written; it will be drawn again", job.id, extra=about(job))
        return False

    def close(self) -> None:
        """Let the threads go; what they have begun is finished."""
        self._threads.shutdown(wait=False, cancel_futures=True)
