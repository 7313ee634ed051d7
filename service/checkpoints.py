"""The progress of pictures under way, kept in the blob store, so that a rerun goes on where the last attempt was.

Written beside the next steps, and at most once at a time for a picture: what a slow store cannot take is left out.
Nothing here may cost a job: a picture whose progress cannot be kept or read begins anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from model.progress import Progress
from service.blobs import BlobStore, progress_key
from service.errors import EmmditError, JobNotReady
from service.job_run import JobRow, JobRun
from service.logs import about, about_all, log_ids
from service.stages import Stages

logger = logging.getLogger(__name__)

NUM_THREADS = 2
LAST_SAVE_S = 5.0  # what a worker that stops gives them: whoever stopped it waits
DIGEST_BYTES = 32


class Checkpoints:
    """Belongs to one worker. `every` so many steps; 0: never, and nothing is read either."""

    def __init__(self, every: int, blobs: BlobStore, stages: Stages) -> None:
        self._every = every
        self._blobs = blobs
        self._stages = stages
        self._threads = ThreadPoolExecutor(NUM_THREADS, "progress")
        self._saving: dict[str, asyncio.Task[None]] = {}  # by key
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self, run: JobRun) -> asyncio.Task[None] | None:
        """Fetch what earlier attempts at a job have kept, if there were any; the run is not ready until then."""
        if not self._every or run.job.attempt < 2:
            return None
        run.is_ready = False
        return asyncio.create_task(self._load(run))

    async def after_step(self, rows: Sequence[JobRow]) -> None:
        """These rows, of one group, have just taken a step together."""
        if self._every:
            await self._save([row for row in rows if row.sample.step % self._every == 0])

    async def save_all(self, rows: Sequence[JobRow]) -> None:
        """Keep all that these have done, in a few seconds at most: their worker stops."""
        if not self._every:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_SAVE_S):
                await asyncio.gather(*self._saving.values())
                for group in {row.group for row in rows}:
                    await self._save([row for row in rows if row.group == group and row.sample.step])
                await asyncio.gather(*self._saving.values())

    def forget(self, run: JobRun) -> None:
        """The job has ended: nobody needs its progress any more."""
        if self._every:
            keys = [progress_key(run.job.id, index) for index in range(run.job.num_images)]
            with log_ids(**about(run.job)):
                self._start(self._delete(keys))

    async def close(self) -> None:
        """Let what has begun end, for a moment."""
        if tasks := {*self._tasks, *self._saving.values()}:
            await asyncio.wait(tasks, timeout=1.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _save(self, rows: Sequence[JobRow]) -> None:
        """Take the rows' states now, and write them in the background."""
        due = {
            progress_key(row.run.job.id, row.index): row
            for row in rows
            if not (row.sample.is_finished or row.run.is_dropped)
        }
        due = {key: row for key, row in due.items() if key not in self._saving}
        if not due:
            return
        try:
            exported = await self._stages.export(list(due.values()))
        except Exception:
            extra = about_all(row.run.job for row in due.values())
            logger.exception("progress could not be kept; the pictures go on", extra=extra)
            return
        for key, progress in zip(due, exported, strict=True):
            with log_ids(**about(due[key].run.job)):
                self._saving[key] = asyncio.create_task(self._put(key, progress))

    async def _put(self, key: str, progress: Progress) -> None:
        def put() -> None:
            state = progress.to_bytes()
            self._blobs.put(key, hashlib.sha256(state).digest() + state)

        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, put)
        except (EmmditError, OSError) as error:
            logger.warning("progress could not be kept: %s", error)
        finally:
            del self._saving[key]

    async def _load(self, run: JobRun) -> None:
        try:
            for index in range(run.job.num_images):
                key = progress_key(run.job.id, index)
                with suppress(JobNotReady):  # it had not come far enough
                    data = await asyncio.get_running_loop().run_in_executor(self._threads, self._blobs.get, key, None)
                    digest, state = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
                    if hashlib.sha256(state).digest() == digest:
                        run.states[index] = state
                    else:
                        text = "job %s: the progress of picture %d is damaged"
                        logger.warning(text, run.job.id, index, extra=about(run.job))
        except (EmmditError, OSError) as error:
            logger.warning("job %s: progress could not be read: %s", run.job.id, error, extra=about(run.job))
        finally:
            run.is_ready = True

    async def _delete(self, keys: Sequence[str]) -> None:
        """After what is still being written, or that would stay."""
        await asyncio.gather(*(self._saving[key] for key in keys if key in self._saving))
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._blobs.delete, keys)
        except (EmmditError, OSError) as error:
            logger.warning("progress could not be removed: %s; it is swept later", error)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
