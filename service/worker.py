"""The worker: claim -> admit -> step -> decode -> complete, over and over, with a batch that refills between steps.

The event loop talks to Redis, one thread owns the engine, a small pool makes PNGs and stores them: neither a
heartbeat nor a picture's compression waits for the other. Surprising: a job that a worker holds may have pictures
that wait for free rows; and a failed batch sends all its jobs back, to be retried alone (RELIABILITY, rule 7).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.loading import LoadedEngines
from service.attempt_trace import begin_attempt, traced
from service.batch import Batch
from service.blobs import BlobStore
from service.checkpoints import Checkpoints
from service.delivery import OUTAGE_PAUSE_S, Delivery
from service.errors import EmmditError, ServerOverloaded
from service.job_run import JobRow, JobRun
from service.jobs import Cancelled, Expired, Failed, JobResult
from service.logs import about, about_all
from service.metrics import Metrics, WorkerGauges
from service.one_at_a_time import OneAtATime
from service.probes import WorkerHealth
from service.pulse import Pulse
from service.queue_types import HeartbeatReply
from service.queues import Queues
from service.reporting import Reporter
from service.settings import Settings
from service.stages import Stages
from service.tracing import Tracing
from service.worker_facts import WorkerFacts

logger = logging.getLogger(__name__)

EXIT_STALLED = 70  # EX_SOFTWARE: the device hangs; whoever supervises us starts a new process
REAP_INTERVAL_S = 1.0
STORE_LOOK_S = 1.0
CLAIM_AHEAD_S = 0.005  # a claim takes a millisecond or two
T = TypeVar("T")


def _exit_now() -> NoReturn:
    os._exit(EXIT_STALLED)  # a hung device never gives its thread back, so no orderly exit can


class Worker:
    """Engines on one device, each serving its model's queue. `run` returns after `stop` once nothing is under way."""

    def __init__(
        self,
        worker_id: str,
        settings: Settings,
        queues: Queues,
        blobs: BlobStore,
        loaded: LoadedEngines,
        metrics: Metrics,
        *,
        tracing: Tracing | None = None,
        on_stall: Callable[[], None] = _exit_now,
    ) -> None:
        self._tracing = tracing
        self._settings = settings
        self._queues = queues
        self._versions = {model: engine.card.version for model, engine in loaded.engines.items()}
        self._delivery = Delivery(settings, queues, blobs, metrics, self._versions)
        self._metrics = metrics
        self.gauges = WorkerGauges(metrics.registry)
        self._on_stall = on_stall
        self._id = worker_id
        self._runs: dict[str, JobRun] = {}
        self._pulse = Pulse(settings.stall_limit_s, settings.lease_s)
        self._batch = Batch(settings.max_batch_rows, settings.max_active_images)
        self._facts = WorkerFacts(worker_id, loaded, self._batch)
        self._stages = Stages(loaded.engines, self._batch, metrics, self._pulse.note_progress)
        self._reporter = Reporter(settings, queues, self._stages, self._delivery)
        self._checkpoints = Checkpoints(settings.checkpoint_every, blobs, self._stages)
        self._drain_deadline_s: float | None = None
        self._has_ended = False  # what background loops ask: redis-py on Python 3.11 can swallow a cancellation
        self._completions: set[asyncio.Task[None]] = set()
        self._claiming = OneAtATime(self._claim)

    def stop(self) -> None:
        """Drain: claim nothing more, finish what fits into drain_timeout_s, give the rest back. Called once or more."""
        if self._drain_deadline_s is None:
            self._drain_deadline_s = time.monotonic() + self._settings.drain_timeout_s

    def health(self) -> WorkerHealth:
        """What probes are told. Reads a few values only, from any thread."""
        return self._pulse.health(is_busy=bool(self._runs), is_stopping=self._drain_deadline_s is not None)

    async def run(self) -> None:
        """Serve until `stop`."""
        self._pulse.begin()
        self.gauges.up.set(1)
        self._facts.show_weights(self.gauges)
        background = [asyncio.create_task(loop()) for loop in (self._heartbeats, self._reaping, self._store_watch)]
        drawing = asyncio.create_task(self._draw())
        try:
            ended, _ = await asyncio.wait((drawing, *background), return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # a loop that failed ends the worker: without heartbeats it would draw for nobody
            if self._completions:
                await asyncio.wait(self._completions, timeout=self._settings.drain_timeout_s)
            await self._release_rest()
        finally:
            self._has_ended = True
            self.gauges.up.set(0)
            for task in [drawing, *background, *self._completions]:
                task.cancel()
            await asyncio.gather(drawing, *background, *self._completions, return_exceptions=True)
            await self._claiming.close()
            await self._reporter.close()
            await self._checkpoints.close()
            self._stages.close()
            self._delivery.close()
            await self._unless_overloaded(self._queues.remove_worker(self._id))

    async def _draw(self) -> None:
        while not self._is_drained():
            if not (len(self._batch) or any(run.num_waiting and run.is_ready for run in self._runs.values())):
                await self._claiming.do()
            started_s = time.monotonic()
            await self._admit()
            model, cost = await self._step_and_claim()
            await self._decode_finished()  # what this step has finished: the same model's
            if cost:
                self._batch.costs.observe_work(model, cost, time.monotonic() - started_s)
            else:
                await self._wait_for_work()
        if self._claiming.is_under_way:
            await self._claiming.do()

    def _is_drained(self) -> bool:
        if self._drain_deadline_s is None:
            return False
        return not self._runs or time.monotonic() > self._drain_deadline_s

    # -- claim and admit

    async def _claim(self) -> None:
        """Take as many jobs as there are free places, never more: a prefetched job would wait here for no reason."""
        num_free = self._batch.max_images - len(self._batch) - sum(run.num_waiting for run in self._runs.values())
        if num_free <= 0 or self._drain_deadline_s is not None or not self._delivery.can_store:
            return
        held: Counter[str] = Counter()
        for run in self._runs.values():
            held[run.job.model] += run.job.num_images
        # A retried job runs alone, and comes alone. One that was given back unharmed is not told from it here.
        runs_alone = len(self._runs) == 1 and next(iter(self._runs.values())).job.attempt > 1
        try:
            jobs = await self._queues.claim(self._id, num_free, held, runs_alone=runs_alone)
        except ServerOverloaded as error:
            await self._pause(error)
            return
        now_s = time.monotonic()
        if jobs and not self._runs:
            self._pulse.note_progress()  # the stall watch counts from the first job, not from the idle time before
        for job in jobs:
            logger.info("job %s claimed: attempt %d, n=%d", job.id, job.attempt, job.num_images, extra=about(job))
            trace = begin_attempt(self._tracing, job, self._id)
            run = self._runs[job.id] = JobRun(job, now_s, watch_level=job.watch_level, trace=trace)
            if loading := self._checkpoints.load(run):
                self._note_completion(loading)

    async def _wait_for_work(self) -> None:
        """Sleep until there may be something to do: a job arrives, or a completion frees its run."""
        if self._claiming.is_under_way:
            await self._claiming.do()
        elif self._completions:
            await asyncio.wait(self._completions, timeout=OUTAGE_PAUSE_S, return_when=asyncio.FIRST_COMPLETED)
        elif not self._delivery.can_store:
            await asyncio.sleep(OUTAGE_PAUSE_S)
        elif not self._runs and self._drain_deadline_s is None:
            try:
                await self._queues.wait_for_work(self._settings.heartbeat_s)
            except ServerOverloaded as error:
                await self._pause(error)

    async def _admit(self) -> None:
        """Begin waiting pictures, in the order their jobs were claimed, while there are free places."""
        num_free = self._batch.max_images - len(self._batch)
        admitted: dict[str, list[tuple[JobRun, int]]] = {}
        for run in self._runs.values():
            while run.num_waiting and run.is_ready and num_free > 0:
                admitted.setdefault(run.job.model, []).append((run, run.num_begun))
                run.num_begun += 1
                num_free -= 1
        for model, pictures in admitted.items():
            wanted = [run.job.params_of_image(index) for run, index in pictures]
            begun = self._stages.begin(model, wanted, [run.states.pop(index, None) for run, index in pictures])
            samples = await self._unless_failed("text encode", [run for run, _ in pictures], begun)
            if samples is None:
                continue
            for (run, index), sample in zip(pictures, samples, strict=True):
                run.prompt, run.unknown_words = sample.prompt, sample.unknown_words
                run.num_steps_done += sample.step
                if sample.step:
                    text = "job %s: picture %d goes on after step %d"
                    logger.info(text, run.job.id, index, sample.step, extra=about(run.job))
                if not run.is_dropped:
                    self._batch.add(run, index, sample)

    # -- step and decode

    async def _step_and_claim(self) -> tuple[str, float]:
        """One forward for those whose turn it is. Returns its model and megapixel-steps, 0 where there was none.

        More jobs are claimed just before its end, so that the device does not wait for the queue's server.
        """
        rows = self._batch.choose(time.monotonic())
        if not rows:
            return "", 0.0
        step = asyncio.create_task(self._step(rows))
        try:
            if self._batch.goes_on_after(rows):  # else there is a claim anyway
                await asyncio.wait((step,), timeout=self._batch.expected_s(rows) - CLAIM_AHEAD_S)
                await self._claiming.do(0 if step.done() else CLAIM_AHEAD_S)
            return await step
        finally:
            step.cancel()

    async def _step(self, rows: Sequence[JobRow]) -> tuple[str, float]:
        runs, forward = [row.run for row in rows], self._batch.num_forwards
        work = await self._unless_failed("denoise", runs, self._stages.step(rows), forward=forward) or 0.0
        await self._reporter.after_step(rows)
        await self._checkpoints.after_step(rows)
        return rows[0].model, work

    async def _decode_finished(self) -> None:
        """Turn finished rows into pixels, and hand them to the PNG threads without waiting for those."""
        for rows in self._batch.take_finished():
            pictures = await self._unless_failed("decode", [row.run for row in rows], self._stages.decode(rows))
            if pictures is None:
                continue
            for row, pixels in zip(rows, pictures, strict=True):
                if not row.run.is_dropped:
                    self._start_completion(row, pixels)

    async def _unless_failed(
        self, name: str, runs: Sequence[JobRun], stage: Awaitable[T], *, forward: int | None = None
    ) -> T | None:
        """Await a stage, which has a run for each of its pictures. If it fails, give its jobs back and return None."""
        try:
            with traced(name, [run.trace for run in runs], forward):
                return await stage
        except Exception as error:
            extra = about_all(run.job for run in runs)
            logger.exception("drawing failed for jobs %s", ", ".join(extra["job_ids"]), extra=extra)
            await self._give_back(runs, Failed("generation_failed", f"drawing failed ({type(error).__name__})"))
            return None

    # -- complete

    def _start_completion(self, row: JobRow, pixels: NDArray[np.uint8]) -> None:
        self._note_completion(asyncio.create_task(self._complete(row, pixels)))

    def _note_completion(self, task: asyncio.Task[None]) -> None:
        self._completions.add(task)
        task.add_done_callback(self._completions.discard)

    async def _complete(self, row: JobRow, pixels: NDArray[np.uint8]) -> None:
        run = row.run
        try:
            run.images[row.index] = await self._delivery.store(row, pixels)
        except (OSError, ValueError, EmmditError) as error:
            if run.is_dropped:
                return
            logger.exception("job %s: picture %d could not be stored", run.job.id, row.index, extra=about(run.job))
            await self._give_back([run], Failed("storage_failed", f"the picture could not be stored ({error})"))
            return
        if not run.is_complete:
            self._reporter.note_drawn(run, row.index, run.images[row.index])
        elif not run.is_dropped:
            await self._finish(run, run.result(self._versions[run.job.model], time.monotonic()))

    async def _finish(self, run: JobRun, result: JobResult) -> None:
        self._drop(run)
        with traced("finish", [run.trace]):
            is_accepted = await self._delivery.finish(run.job, result)
        run.trace.end(str(result.state))
        if is_accepted:
            self._checkpoints.forget(run)

    async def _give_back(self, runs: Sequence[JobRun], failure: Failed) -> None:
        for run in dict.fromkeys(runs):
            if not run.is_dropped:
                self._drop(run)
                queue = self._queues[run.job.model]
                run.trace.end("given back", failure.code)
                await self._unless_overloaded(queue.retry(run.job.id, run.job.attempt, failure))

    def _drop(self, run: JobRun) -> None:
        """Forget a run: its rows leave the batch before the next step."""
        run.is_dropped = True
        self._runs.pop(run.job.id, None)
        self._batch.drop(run)

    def _lose(self, run: JobRun) -> None:
        self._drop(run)
        run.trace.end("lost", "lost")

    async def _release_rest(self) -> None:
        await self._checkpoints.save_all(self._batch.rows)
        for run in list(self._runs.values()):
            self._drop(run)
            run.trace.end("given back")
            logger.info("job %s given back: this worker stops", run.job.id, extra=about(run.job))
            await self._unless_overloaded(self._queues[run.job.model].release(run.job.id, run.job.attempt))

    # -- heartbeats

    async def _heartbeats(self) -> None:
        while not self._has_ended:
            await self._heartbeat()
            await asyncio.sleep(self._settings.heartbeat_s)

    async def _heartbeat(self) -> None:
        """Renew leases while steps advance, report progress, learn which jobs to stop."""
        self._pulse.note_beat()
        self.gauges.active_images.set(sum(run.job.num_images - len(run.images) for run in self._runs.values()))
        if is_stalled := self._pulse.is_stalled(is_busy=bool(self._runs)):
            limit_s = self._settings.stall_limit_s
            logger.critical("no step advanced for %.0f s: the device hangs; this worker ends", limit_s)
            self._on_stall()
        try:
            replies = await asyncio.gather(*(self._beat(model, is_renewed=not is_stalled) for model in self._queues))
        except ServerOverloaded as error:
            logger.warning("no heartbeat: %s", error.message)
            if self._pulse.is_cut_off() and self._runs:
                logger.error("cut off for longer than the lease: %d job(s) are somebody else's now", len(self._runs))
                for run in list(self._runs.values()):
                    self._lose(run)
            return
        self._pulse.note_heard()
        self.gauges.last_heartbeat.set_to_current_time()
        self._facts.show_device(self.gauges)
        for reply in replies:
            for job_id, level in reply.watched.items():
                if watched := self._runs.get(job_id):
                    watched.watch_level = level
            endings: list[tuple[tuple[str, ...], JobResult | None]] = [
                (reply.cancelled, Cancelled("running")),
                (reply.expired, Expired("running")),
                (reply.lost, None),
            ]
            for job_ids, ending in endings:
                for job_id in job_ids:
                    await self._stop_drawing(job_id, ending)

    async def _beat(self, model: str, *, is_renewed: bool) -> HeartbeatReply:
        """One model's heartbeat, with the progress of its jobs."""
        runs = [run for run in self._runs.values() if run.job.model == model]
        info = self._facts.info(model, can_store=self._delivery.can_store)
        return await self._queues[model].heartbeat(info, [run.progress(is_renewed) for run in runs])

    async def _stop_drawing(self, job_id: str, ending: JobResult | None) -> None:
        """What the queue said about a job of ours: end it so, or (None) forget it without a word."""
        run = self._runs.get(job_id)
        if run is None:
            return
        if ending is None:
            logger.warning("job %s is not ours any more", job_id, extra=about(run.job))
            self._lose(run)
        else:
            await self._finish(run, ending)

    async def _reaping(self) -> None:
        while not self._has_ended:
            report = await self._unless_overloaded(self._queues.reap())
            if report is not None and report.requeued:
                self._metrics.redeliveries.inc(report.requeued)
            await asyncio.sleep(REAP_INTERVAL_S)

    async def _store_watch(self) -> None:
        while not self._has_ended:
            self.gauges.can_store.set(self._delivery.can_store)
            await self._delivery.try_store_again()
            await asyncio.sleep(STORE_LOOK_S)

    async def _unless_overloaded(self, call: Awaitable[T]) -> T | None:
        """Await a queue call whose failure the reaper puts right: during an outage it is logged and left."""
        try:
            return await call
        except ServerOverloaded as error:
            logger.warning("queue unreachable: %s", error.message)
            return None

    async def _pause(self, error: ServerOverloaded) -> None:
        logger.warning("queue unreachable: %s", error.message)
        await asyncio.sleep(OUTAGE_PAUSE_S)
