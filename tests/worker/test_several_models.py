"""One worker with two models: the pictures of each, nobody in the other's way, every job one end."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from model.loading import load_engines
from service.blobs import DirectoryBlobs
from service.estimates import CostSummary
from service.jobs import Done, JobState
from service.metrics import Metrics
from service.queue_types import QueueLimits
from service.queues import Queues
from service.settings import Settings
from service.worker import Worker
from tests.support.server import eventually, fail_once, job_of
from tests.support.tiny_bundle import write_tiny_bundle, write_tiny_relative

pytestmark = pytest.mark.anyio

BASE, FEW = "base", "few"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    home = tmp_path_factory.mktemp("bundles")
    base = write_tiny_bundle(home / BASE, name=BASE)
    return base, write_tiny_relative(home / FEW, base, name=FEW, version="random-1")


@pytest.fixture
async def queues(redis_url, anyio_backend):
    queues = Queues.connect(redis_url, models=[BASE, FEW], limits=QueueLimits(retry_delay_s=0))
    yield queues
    await queues.close()


class Bench:
    """A worker with the models of `loaded`; leaves the context drained."""

    def __init__(self, loaded, queues, folder, **settings):
        values = {"heartbeat_s": 0.05, "max_batch_rows": 4, "drain_timeout_s": 20.0, **settings}
        self.registry = CollectorRegistry()
        self.queues = Queues({model: queues[model] for model in loaded.engines})
        self.blobs = DirectoryBlobs(folder)
        self.worker = Worker("w1", Settings(**values), self.queues, self.blobs, loaded, Metrics(self.registry))

    async def __aenter__(self):
        self._task = asyncio.create_task(self.worker.run())
        return self

    async def __aexit__(self, *_):
        self.worker.stop()
        await asyncio.wait_for(self._task, 30)

    async def ended(self, job):
        async def status():
            found = await self.queues.status(job.id, job.owner)
            return found if found.state.is_terminal else None

        return await eventually(status, timeout_s=30)

    async def png(self, job):
        status = await self.ended(job)
        assert isinstance(status.result, Done), status
        (image,) = status.result.images
        return self.blobs.get(image.blob, image.sha256)


def tiny_job(model, **changes):
    return job_of(model, size=64, **{"steps": 3, **changes})


async def submit(queues, *jobs):
    for job in jobs:
        await queues[job.model].submit(job)


async def is_running(queues, job):
    return (await queues.status(job.id, job.owner)).state is JobState.RUNNING


@pytest.fixture(scope="module")
def both(bundles):
    return load_engines(bundles, "cpu")


async def test_each_picture_is_to_the_byte_what_a_worker_of_one_model_draws(bundles, both, queues, tmp_path):
    alone = {}
    for bundle in bundles:
        async with Bench(load_engines([bundle], "cpu"), queues, tmp_path / bundle.card.name) as bench:
            job = tiny_job(bundle.card.name)
            await submit(queues, job)
            alone[job.model] = await bench.png(job)
    jobs = [tiny_job(model) for model in (BASE, FEW)]
    async with Bench(both, queues, tmp_path / "both") as bench:
        await submit(queues, *jobs)
        together = {job.model: await bench.png(job) for job in jobs}
    assert together == alone
    assert together[BASE] != together[FEW]


async def test_a_flood_of_one_model_does_not_hold_up_another(both, queues, tmp_path):
    flood, few = [tiny_job(BASE, steps=40) for _ in range(30)], [tiny_job(FEW) for _ in range(3)]
    await submit(queues, *flood)
    async with Bench(both, queues, tmp_path, max_active_images=6) as bench:
        await eventually(lambda: is_running(queues, flood[0]))
        await submit(queues, *few)
        for job in few:
            await bench.ended(job)
        states = [(await queues.status(job.id, job.owner)).state for job in flood]
        assert states.count(JobState.DONE) <= 12  # those that held all places when the others came, and as many more
        for job in flood:
            await queues.cancel(job.id, job.owner)
        for job in flood:
            await bench.ended(job)


async def test_a_heartbeat_for_each_model_tells_what_it_shares_and_how_fast_it_is(both, queues, tmp_path):
    async with Bench(both, queues, tmp_path) as bench:
        for model in (BASE, FEW):
            job = tiny_job(model)
            await submit(queues, job)
            await bench.ended(job)

        async def measured():
            found = {model: await queues[model].workers() for model in (BASE, FEW)}
            ready = all(workers and workers[0].rate_cost_per_s for workers in found.values())
            return {model: workers[0] for model, workers in found.items()} if ready else None

        workers = await eventually(measured)
        sample = bench.registry.get_sample_value
        assert sample("emmdit_model_memory_bytes", {"model": "base+few", "part": "text_encoder"}) > 0
        assert sample("emmdit_model_memory_bytes", {"model": "few", "part": "network"}) > 0
    for model, other in ((BASE, FEW), (FEW, BASE)):
        worker = workers[model]
        assert (worker.model, worker.models) == (model, [BASE, FEW])
        assert worker.version == both.engines[model].card.version
        assert set(worker.memory) == {"network", "text_encoder", "autoencoder"}
        assert worker.shared_with == {"text_encoder": [other], "autoencoder": [other]}
        assert CostSummary.from_dict(worker.costs).steps[model, 64, 64](2) > 0
    assert await queues[FEW].workers() == ()


async def test_the_version_of_a_picture_is_that_of_its_model(both, queues, tmp_path):
    jobs = [tiny_job(model) for model in (BASE, FEW)]
    async with Bench(both, queues, tmp_path) as bench:
        await submit(queues, *jobs)
        versions = [(await bench.ended(job)).result.model_version for job in jobs]
    assert versions == ["random-0", "random-1"]


async def test_jobs_of_both_models_are_cancelled_between_two_steps(both, queues, tmp_path):
    jobs = [tiny_job(model, steps=900) for model in (BASE, FEW)]
    async with Bench(both, queues, tmp_path) as bench:
        await submit(queues, *jobs)
        for job in jobs:
            await eventually(lambda job=job: is_running(queues, job))
            await queues.cancel(job.id, job.owner)
        for job in jobs:
            assert (await bench.ended(job)).state is JobState.CANCELLED


async def test_a_retried_job_runs_alone_whatever_other_models_have_waiting(both, queues, tmp_path):
    retried, others = tiny_job(FEW, steps=30), [tiny_job(BASE) for _ in range(3)]
    await submit(queues, retried)
    await fail_once(queues, retried)
    await submit(queues, *others)
    async with Bench(both, queues, tmp_path) as bench:
        alone = await bench.ended(retried)
        company = [await bench.ended(job) for job in others]
    for other in company:
        assert other.finished_at <= alone.started_at or other.started_at >= alone.finished_at
    assert alone.state is JobState.DONE


async def test_stopping_gives_the_jobs_of_every_model_back(both, queues, tmp_path):
    jobs = [tiny_job(model, steps=1000, num_images=4) for model in (BASE, FEW)]
    async with Bench(both, queues, tmp_path, drain_timeout_s=0.3):
        await submit(queues, *jobs)
        for job in jobs:
            await eventually(lambda job=job: is_running(queues, job))
    for job in jobs:
        assert (await queues.status(job.id, job.owner)).state is JobState.QUEUED
