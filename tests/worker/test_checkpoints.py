"""A job that is begun again goes on where its last attempt had come to, and gives the same picture."""

import asyncio
import logging
import time

import numpy as np
import pytest

from service.blobs import DirectoryBlobs, progress_key
from service.errors import ServerOverloaded
from service.jobs import JobState
from tests.support.server import eventually
from tests.worker.test_worker import Bench, _Wrapped, engine, tiny_job

pytestmark = pytest.mark.anyio
__all__ = ["engine"]


def draw_alone(engine, job, index=0):
    samples = engine.begin([job.params_of_image(index)])
    while not samples[0].is_finished:
        engine.step(samples)
    return engine.decode(samples)[0]


def kept(bench, job):
    folder = bench.blobs._root
    return {path.name for path in folder.glob(f"{job.id}-*.progress")}


class SlowEngine(_Wrapped):
    """Leaves time to stop its worker in the middle of a picture."""

    def step(self, samples):
        time.sleep(0.05)
        self._engine.step(samples)


async def begin_and_stop(queue, engine, tmp_path, job, **options):
    """One worker takes some steps of the job, and is told to stop."""
    async with Bench(queue, SlowEngine(engine), tmp_path, drain_timeout_s=0, **options).running() as bench:
        await queue.submit(job)

        async def has_come_some_way():
            return (await queue.status(job.id, job.owner)).step >= 5

        await eventually(has_come_some_way)
    assert (await queue.status(job.id, job.owner)).state is JobState.QUEUED
    return bench


async def test_a_job_given_back_goes_on_where_it_was_and_draws_the_same_pictures(queue, engine, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="service.worker")
    job = tiny_job(steps=41, num_images=2)
    bench = await begin_and_stop(queue, engine, tmp_path, job, checkpoint_every=20)
    assert kept(bench, job) == {progress_key(job.id, 0), progress_key(job.id, 1)}
    steps_before = int(bench.sample("emmdit_denoise_steps_total"))

    async with Bench(queue, engine, tmp_path, checkpoint_every=20).running() as second:

        async def shows_steps():
            return (await queue.status(job.id, job.owner)).step

        assert await eventually(shows_steps) >= steps_before
        status = await second.ended(job)

        async def is_cleared_away():
            return not kept(second, job)

        await eventually(is_cleared_away)
    assert status.job.attempt == 2
    assert (status.step, status.num_steps) == (2 * 40, 2 * 40)
    assert steps_before + second.sample("emmdit_denoise_steps_total") == 2 * 40
    assert caplog.text.count("goes on after step") == 2
    for index, picture in enumerate(second.pictures(status.result)):
        difference = np.asarray(picture).astype(int) - draw_alone(engine, job, index)
        assert np.abs(difference).max() <= 2  # two pictures share each forward


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 20, None])
async def test_progress_that_is_damaged_is_ignored(queue, engine, tmp_path, caplog, damage):
    job = tiny_job(steps=41)
    bench = await begin_and_stop(queue, engine, tmp_path, job, checkpoint_every=20)
    key = progress_key(job.id, 0)
    data = bench.blobs.get(key, None)
    bench.blobs.put(key, data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    async with Bench(queue, engine, tmp_path, checkpoint_every=20).running() as second:
        status = await second.ended(job)
    assert "is damaged" in caplog.text
    assert second.sample("emmdit_denoise_steps_total") == 40
    np.testing.assert_array_equal(np.asarray(second.pictures(status.result)[0]), draw_alone(engine, job))


async def test_without_the_setting_nothing_is_kept(queue, engine, tmp_path):
    bench = await begin_and_stop(queue, engine, tmp_path, tiny_job(steps=41))
    assert list(bench.blobs._root.glob("*.progress")) == []


class NoProgressBlobs(DirectoryBlobs):
    """Takes pictures and refuses progress."""

    def put(self, key, data):
        if key.endswith(".progress"):
            raise ServerOverloaded("full")
        super().put(key, data)

    def get(self, key, sha256):
        if key.endswith(".progress"):
            raise ServerOverloaded("away")
        return super().get(key, sha256)


async def test_a_store_that_refuses_progress_costs_no_job(queue, engine, tmp_path):
    store = NoProgressBlobs(tmp_path / "images")
    job = tiny_job(steps=41)
    await begin_and_stop(queue, engine, tmp_path, job, checkpoint_every=1, store=store)
    async with Bench(queue, engine, tmp_path, checkpoint_every=1, store=store).running() as second:
        status = await second.ended(job)
    assert status.state is JobState.DONE


async def test_a_slow_store_holds_no_step_up(queue, engine, tmp_path, monkeypatch):
    is_let_go = asyncio.Event()
    loop = asyncio.get_running_loop()

    class SlowBlobs(DirectoryBlobs):
        def put(self, key, data):
            if key.endswith(".progress"):
                asyncio.run_coroutine_threadsafe(is_let_go.wait(), loop).result(30)
            super().put(key, data)

    job = tiny_job(steps=12)
    async with Bench(queue, engine, tmp_path, checkpoint_every=1, store=SlowBlobs(tmp_path / "i")).running() as bench:
        await queue.submit(job)
        assert (await bench.ended(job)).state is JobState.DONE
        is_let_go.set()

        async def is_cleared_away():
            return not kept(bench, job)

        await eventually(is_cleared_away)
