"""The engines' side of a worker: text, steps and decoding of every model on one thread, timed and counted.

One thread for all models: they share one device, and the same modules. What the device has no memory for is halved and
done in two pieces, and so on down to one picture; the forwards after it are smaller for a while (row_limit.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.engine import Engine, Sample
from model.memory import is_out_of_memory, release_memory
from model.params import GenerationParams
from model.progress import Progress
from service.batch import Batch
from service.job_run import JobRow
from service.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")


class Stages:
    """`note_progress` is called whenever a piece of work is done. What a stage raises, an engine has raised."""

    def __init__(
        self, engines: Mapping[str, Engine], batch: Batch, metrics: Metrics, note_progress: Callable[[], None]
    ) -> None:
        self._engines = engines
        self._batch = batch
        self._metrics = metrics
        self._note_progress = note_progress
        self._thread = ThreadPoolExecutor(1, "engine")

    async def begin(
        self, model: str, wanted: Sequence[GenerationParams], states: Sequence[bytes | None]
    ) -> list[Sample]:
        """Start pictures of one model, their prompts encoded together; those with a state go on where it was kept."""
        engine = self._engines[model]
        samples: list[Sample] = []
        hits, misses = engine.cache_counts
        pictures = list(zip(wanted, states, strict=True))

        def begin(some: Sequence[tuple[GenerationParams, bytes | None]]) -> list[Sample]:
            return _begin(engine, [params for params, _ in some], [state for _, state in some])

        async for some, begun, duration_s in self._in_pieces("text_encode", pictures, begin):
            samples += begun
            self._batch.costs.observe_text(engine.cache_counts[1] - misses, duration_s)
            self._metrics.cache_events.labels("text", "hit").inc(engine.cache_counts[0] - hits)
            self._metrics.cache_events.labels("text", "miss").inc(engine.cache_counts[1] - misses)
            self._metrics.stage_duration.labels("text_encode").observe(duration_s)
            self._metrics.batch_size.labels("text_encode").observe(len(some))
            hits, misses = engine.cache_counts
        return samples

    async def step(self, rows: Sequence[JobRow]) -> float:
        """One forward for rows of one group. Returns its work in megapixel-steps."""
        engine = self._engines[rows[0].model]
        width, height = rows[0].size

        def step(some: Sequence[JobRow]) -> None:
            engine.step([row.sample for row in some])

        async for some, _, duration_s in self._in_pieces("denoise", rows, step):
            self._batch.note_step(some, duration_s)
            num_rows = sum(row.sample.params.num_rows for row in some)
            self._metrics.observe_step(f"{width}x{height}", len(some), num_rows, self._batch.max_rows, duration_s)
            if len(some) < len(rows):
                self._batch.row_limit.lower_to(num_rows)
        return sum(row.sample.params.cost_per_step for row in rows)

    async def decode(self, rows: Sequence[JobRow]) -> list[NDArray[np.uint8]]:
        """Pictures (H, W, 3) of finished rows of one group."""
        engine = self._engines[rows[0].model]
        pictures: list[NDArray[np.uint8]] = []

        def decode(some: Sequence[JobRow]) -> list[NDArray[np.uint8]]:
            return engine.decode([row.sample for row in some], self._note_progress)

        async for some, decoded, duration_s in self._in_pieces("decode", rows, decode):
            pictures += decoded
            self._batch.costs.observe_decode(rows[0].group, len(some), duration_s)
            self._metrics.stage_duration.labels("decode").observe(duration_s)
            self._metrics.batch_size.labels("decode").observe(len(some))
        return pictures

    async def export(self, rows: Sequence[JobRow]) -> list[Progress]:
        """How far rows of one group have come."""
        engine = self._engines[rows[0].model]
        states, _ = await self._run(partial(engine.export, [row.sample for row in rows]))
        return states

    async def preview(self, rows: Sequence[JobRow]) -> list[NDArray[np.uint8]]:
        """Small pictures (h, w, 3) of what rows of one group will be."""
        engine = self._engines[rows[0].model]
        pictures, duration_s = await self._run(partial(engine.preview, [row.sample for row in rows]))
        self._metrics.stage_duration.labels("preview").observe(duration_s)
        return pictures

    async def estimate(self, rows: Sequence[JobRow]) -> list[NDArray[np.uint8]]:
        """Full-size pictures (H, W, 3) of what rows of one group will be, at the cost of decoding them."""
        engine = self._engines[rows[0].model]
        samples = [row.sample for row in rows]
        pictures, duration_s = await self._run(partial(engine.decode_estimates, samples, self._note_progress))
        self._metrics.stage_duration.labels("decode").observe(duration_s)
        return pictures

    def close(self) -> None:
        """Let the thread go; it may hang in a forward."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_pieces(
        self, stage: str, items: Sequence[Item], work: Callable[[Sequence[Item]], T]
    ) -> AsyncGenerator[tuple[Sequence[Item], T, float], None]:
        """(items, outcome, seconds) of each piece, in order: one, unless the device has no memory for all of it."""
        pieces = [items]
        while pieces:
            piece = pieces.pop(0)
            try:
                outcome, duration_s = await self._run(partial(work, piece))
            except Exception as error:
                if len(piece) == 1 or not is_out_of_memory(error):
                    raise
            else:
                yield piece, outcome, duration_s
                continue
            # Only here, where the error and with it the forward's tensors are no longer held.
            logger.warning("%s: no memory for %d together, trying halves", stage, len(piece))
            self._metrics.out_of_memory.labels(stage).inc()
            await self._run(release_memory)
            half = (len(piece) + 1) // 2
            pieces[:0] = [piece[:half], piece[half:]]

    async def _run(self, work: Callable[[], T]) -> tuple[T, float]:
        """What `work` returns, and the seconds that it took."""
        started_s = time.perf_counter()
        outcome = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._note_progress()
        return outcome, time.perf_counter() - started_s


def _begin(engine: Engine, wanted: Sequence[GenerationParams], states: Sequence[bytes | None]) -> list[Sample]:
    samples = engine.begin(wanted)
    for sample, state in zip(samples, states, strict=True):
        if state is not None:
            try:
                engine.resume(sample, state)
            except ValueError as error:
                logger.warning("a picture begins anew: %s", error)
    return samples
