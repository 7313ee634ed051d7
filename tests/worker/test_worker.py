"""The worker against a real server and a real (tiny) engine; only the process around it is missing."""

import asyncio
import io
from contextlib import asynccontextmanager

import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from model.engine import Engine
from model.loading import LoadedEngines, memory_by_part
from model.params import seed_of_image
from service.blobs import DirectoryBlobs
from service.estimates import CostSummary
from service.jobs import Cancelled, Done, Failed, JobState
from service.metrics import Metrics
from service.queues import Queues
from service.settings import Settings
from service.worker import Worker
from tests.support.server import MODEL, count_events, eventually, let_lease_end, make_job
from tests.support.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("tiny"), name=MODEL, vocabulary=("a", "red", "apple"))
    return Engine.load(bundle, "cpu")


class Bench:
    """One worker under test, with everything around it in reach."""

    def __init__(self, queue, engine, tmp_path, *, store=None, **settings):
        self.queue = queue
        self.blobs = store or DirectoryBlobs(tmp_path / "images")
        self.registry = CollectorRegistry()
        values = {"heartbeat_s": 0.05, "max_batch_rows": 4, "drain_timeout_s": 10.0, **settings}
        self.stalls = []
        self.worker = Worker(
            "w1",
            Settings(**values),
            Queues({MODEL: queue}),
            self.blobs,
            LoadedEngines({MODEL: engine}, memory_by_part({MODEL: engine}), {}),
            Metrics(self.registry),
            on_stall=lambda: self.stalls.append(1),
        )

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.worker.run())
        try:
            yield self
        finally:
            self.worker.stop()
            await asyncio.wait_for(task, 30)

    async def ended(self, job):
        async def status():
            found = await self.queue.status(job.id, job.owner)
            return found if found.state.is_terminal else None

        return await eventually(status, timeout_s=30)

    def pictures(self, result):
        return [Image.open(io.BytesIO(self.blobs.get(image.blob, image.sha256))) for image in result.images]

    def sample(self, name, **labels):
        return self.registry.get_sample_value(name, labels) or 0.0


def tiny_job(**changes):
    return make_job(size=64, **{"steps": 3, **changes})


async def test_a_job_comes_back_as_the_pictures_it_asked_for(queue, engine, tmp_path, raw):
    job = tiny_job(num_images=3)
    async with Bench(queue, engine, tmp_path).running() as bench:
        await queue.submit(job)
        status = await bench.ended(job)
    assert isinstance(status.result, Done)
    assert [image.seed for image in status.result.images] == [seed_of_image(7, index) for index in range(3)]
    pictures = bench.pictures(status.result)
    assert [picture.size for picture in pictures] == [(64, 64)] * 3
    assert pictures[0].text["Seed"] == "7"
    assert "Prompt" not in pictures[0].text
    assert (status.step, status.num_steps) == (6, 6)
    assert await count_events(raw) == {job.id: 1}


async def test_many_jobs_with_mixed_steps_and_guidance_fill_the_batch(queue, engine, tmp_path):
    jobs = [tiny_job(steps=2 + index % 4, prompt=f"apple {index}") for index in range(16)]
    for job in jobs:
        await queue.submit(job)
    async with Bench(queue, engine, tmp_path).running() as bench:
        for job in jobs:
            assert (await bench.ended(job)).state is JobState.DONE
    full = bench.sample("emmdit_batch_size_count", stage="denoise") - bench.sample(
        "emmdit_batch_size_bucket", stage="denoise", le="2.0"
    )
    assert full >= 0.7 * bench.sample("emmdit_batch_size_count", stage="denoise")
    assert bench.sample("emmdit_images_total", model=MODEL, resolution="64x64") == 16
    assert bench.sample("emmdit_denoise_steps_total") == sum(job.params.num_forwards for job in jobs)


async def test_a_short_job_behind_a_long_one_leaves_first(queue, engine, tmp_path):
    long, short = tiny_job(steps=300), tiny_job(steps=2)
    async with Bench(queue, engine, tmp_path).running() as bench:
        await queue.submit(long)
        await eventually(lambda: _is_running(queue, long))
        await queue.submit(short)
        await bench.ended(short)
        assert (await queue.status(long.id, long.owner)).state is JobState.RUNNING
        await queue.cancel(long.id, long.owner)
        await bench.ended(long)


async def test_a_short_job_overtakes_a_batch_that_is_full_of_long_ones(queue, engine, tmp_path):
    long_ones, short = [tiny_job(steps=300) for _ in range(3)], tiny_job(steps=3)  # two rows each, four in a forward
    async with Bench(queue, engine, tmp_path).running() as bench:
        for long in long_ones:
            await queue.submit(long)
        for long in long_ones:
            await eventually(lambda job=long: _is_running(queue, job))
        await queue.submit(short)
        await bench.ended(short)
        for long in long_ones:
            assert (await queue.status(long.id, long.owner)).state is JobState.RUNNING
            await queue.cancel(long.id, long.owner)
        for long in long_ones:
            await bench.ended(long)


async def test_pictures_are_drawn_on_while_the_queue_is_slow_to_hand_out_more(queue, engine, tmp_path, monkeypatch):
    claim, is_released, num_calls = queue.claim, asyncio.Event(), 0

    async def slow_claim(*arguments, **options):
        nonlocal num_calls
        num_calls += 1
        if num_calls > 1:
            await is_released.wait()
        return await claim(*arguments, **options)

    monkeypatch.setattr(queue, "claim", slow_claim)
    job, late = tiny_job(steps=8), tiny_job()
    await queue.submit(job)
    async with Bench(queue, engine, tmp_path).running() as bench:
        assert isinstance((await bench.ended(job)).result, Done)
        assert num_calls == 2  # one at a time, and that one still waits
        await queue.submit(late)
        is_released.set()
        assert isinstance((await bench.ended(late)).result, Done)


async def test_what_is_claimed_while_a_worker_stops_is_drawn_or_given_back(queue, engine, tmp_path, monkeypatch):
    claim, is_asked, is_released = queue.claim, asyncio.Event(), asyncio.Event()

    async def slow_claim(worker_id, max_jobs, max_rows, is_idle):
        if not is_idle:
            is_asked.set()
            await is_released.wait()
        return await claim(worker_id, max_jobs, max_rows, is_idle)

    monkeypatch.setattr(queue, "claim", slow_claim)
    first, second = tiny_job(steps=8), tiny_job()
    await queue.submit(first)
    async with Bench(queue, engine, tmp_path).running() as bench:
        await asyncio.wait_for(is_asked.wait(), 30)
        await queue.submit(second)
        bench.worker.stop()
        assert isinstance((await bench.ended(first)).result, Done)
        is_released.set()
    assert (await queue.status(second.id, second.owner)).state in (JobState.DONE, JobState.QUEUED)
    assert (await queue.stats()).num_running == 0


async def test_a_heartbeat_tells_what_steps_and_decoding_took(queue, engine, tmp_path):
    job = tiny_job()
    async with Bench(queue, engine, tmp_path).running() as bench:
        await queue.submit(job)
        await bench.ended(job)

        async def measured():
            costs = [CostSummary.from_dict(worker.costs) for worker in await queue.workers() if worker.costs]
            return [summary for summary in costs if summary.steps and summary.decodes]

        (summary,) = await eventually(measured)
    assert summary.max_rows == 4
    assert summary.steps[MODEL, 64, 64](2) > 0
    assert summary.decodes[MODEL, 64, 64](1) > 0


async def test_words_the_model_does_not_know_come_back_as_a_warning(queue, engine, tmp_path):
    job = tiny_job(prompt="a red dragon")
    async with Bench(queue, engine, tmp_path).running() as bench:
        await queue.submit(job)
        status = await bench.ended(job)
    (warning,) = status.result.warnings
    assert '"dragon"' in warning
    assert "apple" not in warning


async def test_a_running_job_is_cancelled_between_two_steps(queue, engine, tmp_path, raw):
    job = tiny_job(steps=900)
    async with Bench(queue, engine, tmp_path).running() as bench:
        await queue.submit(job)
        await eventually(lambda: _is_running(queue, job))
        await queue.cancel(job.id, job.owner)
        status = await bench.ended(job)
    assert status.result == Cancelled("running")
    assert status.step < status.num_steps
    assert await count_events(raw) == {job.id: 1}


async def test_a_poisonous_job_fails_alone_and_its_neighbours_are_done(queue, engine, tmp_path):
    poison, neighbours = tiny_job(prompt="poison"), [tiny_job() for _ in range(3)]
    for job in (*neighbours, poison):
        await queue.submit(job)
    async with Bench(queue, _Poisoned(engine), tmp_path).running() as bench:
        failed = await bench.ended(poison)
        done = [await bench.ended(job) for job in neighbours]
    assert failed.result == Failed("generation_failed", "drawing failed (RuntimeError)")
    assert [status.state for status in done] == [JobState.DONE] * 3


async def test_a_worker_that_lost_its_lease_drops_the_job_and_another_attempt_wins(queue, engine, tmp_path, raw):
    job = tiny_job(steps=500)

    async def is_taken_away():
        if not await _is_running(queue, job):
            return True  # the worker's own reaper was faster
        await let_lease_end(raw, job.id)
        return (await queue.reap()).requeued  # unless a heartbeat came in between and renewed it

    async with Bench(queue, engine, tmp_path).running() as bench:
        await queue.submit(job)
        await eventually(lambda: _is_running(queue, job))
        await eventually(is_taken_away)
        status = await bench.ended(job)
    assert status.state is JobState.DONE
    assert status.job.attempt >= 2
    assert await count_events(raw) == {job.id: 1}


async def test_stopping_finishes_what_fits_and_gives_the_rest_back_unharmed(queue, engine, tmp_path):
    job = tiny_job(steps=1000, num_images=4)
    async with Bench(queue, engine, tmp_path, drain_timeout_s=0.3).running():
        await queue.submit(job)
        await eventually(lambda: _is_running(queue, job))
    assert (await queue.status(job.id, job.owner)).state is JobState.QUEUED
    assert await queue.workers() == ()


async def test_stopping_waits_for_a_job_that_is_nearly_done(queue, engine, tmp_path):
    job = tiny_job(steps=40)
    async with Bench(queue, engine, tmp_path).running():
        await queue.submit(job)
        await eventually(lambda: _is_running(queue, job))
    assert (await queue.status(job.id, job.owner)).state is JobState.DONE


async def test_a_device_that_hangs_is_noticed_and_its_leases_are_let_go(queue, engine, tmp_path):
    job = tiny_job()
    hanging = _Hanging(engine)
    bench = Bench(queue, hanging, tmp_path, stall_limit_s=0.3)
    async with bench.running():
        await queue.submit(job)

        async def has_stalled():
            return bench.stalls

        await eventually(has_stalled)
        hanging.release.set()


async def _is_running(queue, job):
    return (await queue.status(job.id, job.owner)).state is JobState.RUNNING


class _Wrapped:
    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)


class _Poisoned(_Wrapped):
    """Breaks every batch that holds a certain prompt, as a device fault would."""

    def step(self, samples):
        if any(sample.prompt == "poison" for sample in samples):
            raise RuntimeError("device-side assert")
        self._engine.step(samples)


class _Hanging(_Wrapped):
    """A device that does not answer until it is let go."""

    def __init__(self, engine):
        super().__init__(engine)
        import threading

        self.release = threading.Event()

    def step(self, samples):
        self.release.wait(20)
        self._engine.step(samples)
