"""What a worker shows of pictures under way: steps, small previews, full-size estimates, pictures that are done.

Only for jobs that somebody watches. Nothing here may cost a job: what cannot be shown is logged and left out. At most
one report of a job is on its way; what gathers meanwhile goes with the next, of several previews of a picture the last.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Coroutine, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.delivery import Delivery
from service.errors import EmmditError
from service.job_events import Drawn, JobEvent, Partial, Preview
from service.job_run import JobRow, JobRun
from service.jobs import ImageRef, WatchLevel
from service.logs import about, about_all, log_ids
from service.queues import Queues
from service.settings import Settings
from service.stages import Stages

logger = logging.getLogger(__name__)

JPEG_QUALITY = 85


class Reporter:
    """Belongs to one worker. `after_step` runs between two steps; what takes longer than a preview runs beside them."""

    def __init__(self, settings: Settings, queues: Queues, stages: Stages, delivery: Delivery) -> None:
        self._interval_s = settings.preview_interval_s
        self._queues = queues
        self._stages = stages
        self._delivery = delivery
        self._pending: dict[JobRun, dict[tuple[str, int, int], JobEvent]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def after_step(self, rows: Sequence[JobRow]) -> None:
        """These rows, of one group, have just taken a step together."""
        watched = [row for row in rows if row.run.watch_level and not row.run.is_dropped and not row.sample.is_finished]
        if not watched:
            return
        try:
            if partial := [row for row in watched if row.sample.step in partial_steps(row)]:
                for row, pixels in zip(partial, await self._stages.estimate(partial), strict=True):
                    self._start(row.run, self._store_partial(row, row.sample.step, pixels))
            now_s = time.monotonic()
            due = [row for row in watched if now_s - row.last_shown_s >= self._interval_s]
            for row in due:
                row.last_shown_s = now_s
                self._tell(row.run)
            if due := [row for row in due if row.run.watch_level >= WatchLevel.PREVIEWS]:
                for row, pixels in zip(due, await self._stages.preview(due), strict=True):
                    self._tell(row.run, _preview_of(row, pixels))
        except Exception:
            logger.exception("a preview failed; the pictures go on", extra=about_all(row.run.job for row in watched))

    def note_drawn(self, run: JobRun, index: int, image: ImageRef) -> None:
        """A picture is stored, and its job goes on with others."""
        if run.watch_level and not run.is_dropped:
            self._tell(run, Drawn(index, image))

    async def close(self) -> None:
        """Drop what is still to be said."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _store_partial(self, row: JobRow, step: int, pixels: NDArray[np.uint8]) -> None:
        place = partial_steps(row).index(step)
        image = await self._delivery.store_partial(row, place, pixels)
        self._tell(row.run, Partial(row.index, place, step, row.sample.num_steps, image))

    def _tell(self, run: JobRun, event: JobEvent | None = None) -> None:
        is_idle = run not in self._pending
        pending = self._pending.setdefault(run, {})
        if event is not None:
            place = event.partial_index if isinstance(event, Partial) else 0
            pending[(type(event).__name__, event.index, place)] = event
        if is_idle:
            self._start(run, self._send(run))

    async def _send(self, run: JobRun) -> None:
        events = self._queues[run.job.model].events
        is_told = False
        try:
            while not run.is_dropped and (self._pending[run] or not is_told):
                gathered, self._pending[run] = list(self._pending[run].values()), {}
                is_told = True
                await events.report(run.job.id, run.job.attempt, run.num_steps_done, gathered)
        finally:
            del self._pending[run]

    def _start(self, run: JobRun, work: Coroutine[object, object, None]) -> None:
        with log_ids(**about(run.job)):
            task = asyncio.create_task(self._unless_failed(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unless_failed(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except (EmmditError, OSError) as error:
            logger.warning("progress could not be shown: %s", error)
        except Exception:
            logger.exception("progress could not be shown")


def partial_steps(row: JobRow) -> list[int]:
    """After which steps a picture's full-size estimate is wanted: evenly between its first and its last. Pure."""
    wanted, num_steps = row.run.job.partial_images, row.sample.num_steps
    steps = {round(place * num_steps / (wanted + 1)) for place in range(1, wanted + 1)}
    return sorted(steps - {0, num_steps})


def _preview_of(row: JobRow, pixels: NDArray[np.uint8]) -> Preview:
    """Of a small picture (h, w, 3). Encoding one takes less than a tenth of a millisecond."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    height, width = pixels.shape[:2]
    return Preview(row.index, row.sample.step, row.sample.num_steps, width, height, "image/jpeg", file.getvalue())
