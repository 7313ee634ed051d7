"""From a worker's pixels to a finished job: PNG, blob first, then the fenced finish. Owns the PNG threads."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from service.blobs import BlobStore, blob_key, partial_key
from service.errors import ServerOverloaded
from service.job_run import JobRow
from service.jobs import ImageRef, Job, JobResult
from service.metrics import Metrics
from service.png import encode_png, png_text
from service.queues import Queues
from service.settings import Settings

logger = logging.getLogger(__name__)

OUTAGE_PAUSE_S = 0.25
NUM_STORING = 8  # threads: most wait for the disk, which flushes the files of several as fast as that of one
NUM_ENCODING = 2  # of them at a time, so that compression leaves cores to the engine


class Delivery:
    """What a worker does with finished pictures and ended jobs."""

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

    async def store(self, row: JobRow, pixels: NDArray[np.uint8]) -> ImageRef:
        """Compress and store one picture (H, W, 3). Raises ServerOverloaded where the store has no room."""
        image = await asyncio.get_running_loop().run_in_executor(self._threads, self._store, row, pixels)
        width, height = row.size
        self._metrics.images.labels(row.run.job.model, f"{width}x{height}").inc()
        self._metrics.image_bytes.observe(image.num_bytes)
        return image

    async def store_partial(self, row: JobRow, place: int, pixels: NDArray[np.uint8]) -> ImageRef:
        """Compress and store the `place`-th estimate (H, W, 3) of a picture under way. Raises as `store` does."""
        key = partial_key(row.run.job.id, row.run.job.attempt, row.index, place)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._put, key, row, pixels)

    def _store(self, row: JobRow, pixels: NDArray[np.uint8]) -> ImageRef:
        return self._put(blob_key(row.run.job.id, row.run.job.attempt, row.index), row, pixels)

    def _put(self, key: str, row: JobRow, pixels: NDArray[np.uint8]) -> ImageRef:
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
        encoded_s = time.perf_counter()
        self._metrics.stage_duration.labels("png").observe(encoded_s - started_s)
        self._blobs.put(key, png)
        self._metrics.stage_duration.labels("store").observe(time.perf_counter() - encoded_s)
        return ImageRef(key, params.seed, len(png), hashlib.sha256(png).hexdigest())

    async def finish(self, job: Job, result: JobResult) -> None:
        """Write a job's end. Through an outage, keep trying: the attempt's number keeps a late finish harmless."""
        give_up_at_s = time.monotonic() + 2 * self._settings.lease_s
        while time.monotonic() < give_up_at_s:
            try:
                is_accepted = await self._queues[job.model].finish(job.id, job.attempt, result, inbox=job.inbox)
            except ServerOverloaded:
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            logger.info("job %s %s%s", job.id, result.state, "" if is_accepted else " (refused: not ours any more)")
            return
        logger.error("job %s: its end could not be written; it will be drawn again", job.id)

    def close(self) -> None:
        """Let the threads go; what they have begun is finished."""
        self._threads.shutdown(wait=False, cancel_futures=True)
