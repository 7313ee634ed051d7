"""A store without room: drawn pictures wait for it, nothing more is claimed, and everything goes on by itself."""

import os
import shutil
import subprocess

import pytest

from service import delivery
from service.blobs import STORE_RETRY_AFTER_S, DirectoryBlobs
from service.errors import ServerOverloaded
from service.jobs import JobState
from tests.support.server import eventually
from tests.worker.test_worker import Bench, engine, tiny_job

pytestmark = pytest.mark.anyio
__all__ = ["engine"]


class FullBlobs(DirectoryBlobs):
    """Refuses while it `is_full`, and counts how often it had to."""

    is_full = True
    num_refused = 0

    def put(self, key, data):
        if self.is_full:
            self.num_refused += 1
            raise ServerOverloaded("pictures cannot be stored for now: full", retry_after_s=STORE_RETRY_AFTER_S)
        super().put(key, data)


async def can_store(queue):
    return [worker.can_store for worker in await queue.workers()]


async def test_a_picture_waits_for_room_and_costs_no_attempt(queue, engine, tmp_path):
    store = FullBlobs(tmp_path / "images")
    first, second = tiny_job(num_images=2), tiny_job()
    async with Bench(queue, engine, tmp_path, store=store).running() as bench:
        await queue.submit(first)

        async def has_said_so():
            return await can_store(queue) == [False]

        await eventually(has_said_so)
        await queue.submit(second)

        async def has_tried_again():
            return store.num_refused >= 4

        await eventually(has_tried_again)
        assert (await queue.status(first.id, first.owner)).state is JobState.RUNNING
        assert (await queue.status(second.id, second.owner)).state is JobState.QUEUED
        store.is_full = False
        for job in (first, second):
            status = await bench.ended(job)
            assert (status.state, status.job.attempt) == (JobState.DONE, 1)

        async def has_said_that_too():
            return await can_store(queue) == [True]

        await eventually(has_said_that_too)
    assert bench.sample("emmdit_store_refusals_total") >= 2


async def test_a_store_that_stays_full_is_an_honest_failure(queue, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "STORE_PATIENCE_S", 0.05)
    store = FullBlobs(tmp_path / "images")
    job = tiny_job()
    async with Bench(queue, engine, tmp_path, store=store).running():
        await queue.submit(job)

        async def is_given_back():
            status = await queue.status(job.id, job.owner)
            return status.state is JobState.QUEUED and status.job.attempt == 1

        await eventually(is_given_back)


async def test_a_job_whose_picture_waits_for_room_can_be_cancelled(queue, engine, tmp_path):
    store = FullBlobs(tmp_path / "images")
    job = tiny_job()
    async with Bench(queue, engine, tmp_path, store=store, drain_timeout_s=0.2).running() as bench:
        await queue.submit(job)

        async def is_refused():
            return store.num_refused

        await eventually(is_refused)
        await queue.cancel(job.id, job.owner)
        assert (await bench.ended(job)).state is JobState.CANCELLED


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small file system")
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounting.returncode:
        pytest.skip(f"no file system may be mounted here: {mounting.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.system
async def test_a_really_full_disk_is_waited_for(queue, engine, tmp_path, tiny_disk):
    store = DirectoryBlobs(tiny_disk / "images")
    ballast = tiny_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(2 * 1024**2))
    job = tiny_job()
    async with Bench(queue, engine, tmp_path, store=store).running() as bench:
        await queue.submit(job)

        async def has_said_so():
            return await can_store(queue) == [False]

        await eventually(has_said_so)
        assert [path.name for path in (tiny_disk / "images").iterdir()] == []
        ballast.unlink()
        status = await bench.ended(job)
        assert (status.state, status.job.attempt) == (JobState.DONE, 1)
        assert len(bench.pictures(status.result)) == 1
