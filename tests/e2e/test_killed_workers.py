"""kill -9 of a real worker process, in the two moments in which something of a job lies in the store."""

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from model.engine import Engine
from service.blobs import DirectoryBlobs, blob_key
from service.errors import JobNotReady
from service.jobs import Done
from tests.support.blob_stores import open_store, s3_store, s3_url
from tests.support.processes import ENVIRONMENT
from tests.support.server import MODEL, count_events, eventually, let_lease_end
from tests.support.swift_process import ACCESS_KEY, SECRET_KEY
from tests.support.tiny_bundle import write_tiny_bundle
from tests.worker.test_worker import Bench, tiny_job

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
__all__ = ["open_store", "s3_store", "s3_url"]

STUCK_WORKER = Path(__file__).parents[1] / "support" / "stuck_worker_process.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"), name=MODEL)


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine.load(bundle, "cpu")


@contextmanager
def worker_process(bundle, url, tmp_path, *command, **settings):
    variables = {"REDIS_URL": url, "MODELS": bundle.folder, "DATA_DIR": tmp_path, "HEARTBEAT_S": 0.05, **settings}
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("EMMDIT_")}
    environment |= {f"EMMDIT_{name}": str(value) for name, value in variables.items()}
    environment |= {"EMMDIT_COMPILE_NETWORK": "false", "AWS_ACCESS_KEY_ID": ACCESS_KEY}
    environment |= {"AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with subprocess.Popen([sys.executable, *command, "worker"], env=environment, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


async def is_requeued(queue, raw, job):
    await let_lease_end(raw, job.id)
    return (await queue.reap()).requeued


@pytest.mark.parametrize("kind", ["directory", "redis", "s3"])
async def test_killed_between_blob_and_finish_a_job_is_drawn_again_charged_once_and_its_orphan_goes(
    queue, raw, redis_url, bundle, engine, tmp_path, kind, open_store, request
):
    store = open_store(kind)
    settings = {"directory": {"BLOB_URL": tmp_path / "blobs"}, "redis": {"BLOB_URL": "redis"}}.get(kind)
    if settings is None:
        settings = {"BLOB_URL": f"s3://pictures/{tmp_path.name}", "S3_ENDPOINT_URL": request.getfixturevalue("s3_url")}
    settings |= {"RESULT_TTL_S": 4, "MAX_TIMEOUT_S": 2, "DEFAULT_TIMEOUT_S": 2}
    job = tiny_job(timeout_s=300.0)
    await queue.submit(job)
    with worker_process(bundle, redis_url, tmp_path, str(STUCK_WORKER), **settings) as process:
        line = await asyncio.to_thread(process.stdout.readline)
        assert line.decode().strip() == f"stored {job.id}"
        process.send_signal(signal.SIGKILL)
        process.wait()
    orphan, stored_at = blob_key(job.id, 1, 0), time.monotonic()
    assert store.get(orphan, None)

    await eventually(lambda: is_requeued(queue, raw, job))
    async with Bench(queue, engine, tmp_path, store=store).running() as bench:
        status = await bench.ended(job)
    assert isinstance(status.result, Done)
    (image,) = status.result.images
    assert image.blob == blob_key(job.id, 2, 0)
    assert await count_events(raw) == {job.id: 1}

    # As the killed worker's settings have it, or longer: on a slow machine what counts must not grow old meanwhile.
    sweeper = open_store(kind, keep_s=max(6.0, time.monotonic() - stored_at))
    picture = store.get(image.blob, image.sha256)

    async def is_collected():
        store.put(image.blob, picture)  # young again
        await asyncio.to_thread(sweeper.sweep)
        try:
            await asyncio.to_thread(store.get, orphan, None)
        except JobNotReady:
            return True
        return False

    await eventually(is_collected, timeout_s=60)
    assert hashlib.sha256(store.get(image.blob, image.sha256)).hexdigest() == image.sha256


async def test_killed_in_mid_picture_a_job_goes_on_where_it_was_and_gives_the_same_picture(
    queue, raw, redis_url, bundle, engine, tmp_path, caplog
):
    caplog.set_level("INFO", logger="service.worker")
    job = tiny_job(steps=400, timeout_s=300.0)
    store = DirectoryBlobs(tmp_path / "images")
    await queue.submit(job)
    with worker_process(bundle, redis_url, tmp_path, "-m", "service.cli", CHECKPOINT_EVERY=5) as process:

        async def has_come_some_way():
            assert process.poll() is None
            return (await queue.status(job.id, job.owner)).step >= 20

        await eventually(has_come_some_way, timeout_s=90)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (await queue.status(job.id, job.owner)).result is None

    await eventually(lambda: is_requeued(queue, raw, job))
    async with Bench(queue, engine, tmp_path, store=store, checkpoint_every=5).running() as bench:
        status = await bench.ended(job)
    step = int(re.search(r"goes on after step (\d+)", caplog.text)[1])
    assert step >= 15
    assert step % 5 == 0
    assert bench.sample("emmdit_denoise_steps_total") == 399 - step
    (sample,) = engine.begin([job.params])
    while not sample.is_finished:
        engine.step([sample])
    np.testing.assert_array_equal(np.asarray(bench.pictures(status.result)[0]), engine.decode([sample])[0])
