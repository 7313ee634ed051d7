"""Models in different slots of a Cluster: the whole way of their jobs, and a node that goes and comes back."""

import asyncio
import time

import pytest

from service.errors import ConfigurationError, JobNotFound, ServerOverloaded
from service.job_events import Drawn
from service.jobs import Failed, ImageRef, JobState, WatchLevel
from service.queue_types import QueueLimits
from service.queues import Queues
from tests.support.redis_servers import HOST, ClusterOfThree, ServerProcess, debian_server, running, wait_until
from tests.support.server import DONE, eventually, job_of, make_worker

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
# One on each of three nodes, and a second on the first's node, in another slot.
MODELS = ["demo", "tuned", "painter-3", "few"]


@pytest.fixture(scope="module", params=["found", pytest.param("debian", marks=pytest.mark.system)])
def cluster(request, tmp_path_factory):
    binary = debian_server() if request.param == "debian" else None
    with ClusterOfThree(tmp_path_factory.mktemp("cluster"), binary).running() as cluster:
        nodes = [cluster.node_of("{" + model + "}") for model in MODELS]
        assert len(set(nodes)) == 3
        assert nodes[0] is nodes[3]
        yield cluster


@pytest.fixture
async def queues(cluster, anyio_backend):
    for node in cluster.nodes:
        with node.client() as client:
            client.flushall()
    queues = Queues.connect(cluster.url, models=MODELS, limits=QueueLimits(retry_delay_s=0, lease_s=5.0))
    yield queues
    await queues.close()


async def test_jobs_of_models_on_different_nodes_go_their_whole_way(queues):
    jobs = [job_of(model, watch_level=WatchLevel.PICTURES) for model in MODELS for _ in range(3)]
    news = queues.news()
    assert await news.read(0.01) is None
    for job in jobs:
        assert (await queues[job.model].submit(job)).is_new
    assert {(await queues[model].stats()).num_waiting for model in MODELS} == {3}
    assert len({await queues.link_secret() for _ in range(3)}) == 1

    claimed = await queues.claim("w1", 12, {})
    assert sorted(job.id for job in claimed) == sorted(job.id for job in jobs)
    image = ImageRef("a/1/0.png", 7, 3, "00")
    for job in claimed:
        queue = queues[job.model]
        await queue.heartbeat(make_worker(), [])
        assert await queue.events.report(job.id, job.attempt, 5, [Drawn(0, image)])
        assert await queue.finish(job.id, job.attempt, DONE, inbox=job.inbox)
        _, events = await queue.events.look(job.id, "ada", "0-0")
        assert [stored.event for stored in events] == [Drawn(0, image)]
        assert (await queues.status(job.id, "ada")).state is JobState.DONE

    told = set()

    async def has_told_all():
        told.add(await news.read(1.0))
        return told >= {job.id for job in jobs}

    await eventually(has_told_all)
    await news.close()
    for model in MODELS:
        events = await queues[model].read_inbox("gateway-1", "0", 0.1)
        assert {event.job_id for event in events} == {job.id for job in jobs if job.model == model}
    found, has_more = await queues.jobs("ada", limit=100)
    assert len(found) == 12
    assert not has_more
    assert len(await queues["few"].workers()) == 1
    assert (await queues.reap()).requeued == 0
    with pytest.raises(JobNotFound):
        await queues.status("0" * 32, "ada")


@pytest.mark.parametrize("model", MODELS)
async def test_who_waits_for_work_of_all_models_hears_of_each_at_once(queues, model):
    waiting = asyncio.create_task(queues.wait_for_work(5.0))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    submitted_s = time.monotonic()
    await queues[model].submit(job_of(model))
    await waiting
    assert time.monotonic() - submitted_s < 2.0
    assert [job.model for job in await queues.claim("w1", 8, {})] == [model]


async def test_dead_letters_and_cancels_find_their_node(queues):
    for model in MODELS:
        await queues[model].submit(job_of(model))
        [job] = await queues[model].claim("w1", 1, 1, True)
        await queues[model].finish(job.id, job.attempt, Failed("storage_failed", "the disk is full"))
        assert [letter.id for letter in await queues[model].dead.newest(9)] == [job.id]
        await queues[model].dead.requeue(job.id)
        assert (await queues.cancel(job.id, "ada")).state is JobState.CANCELLED


async def test_scripts_are_sent_whole_to_a_node_that_forgot_them(queues, cluster):
    for node in cluster.nodes:
        with node.client() as client:
            client.script_flush()
    for model in MODELS:
        assert (await queues[model].submit(job_of(model))).is_new


async def test_a_node_that_was_killed_and_comes_back_has_its_jobs_and_none_is_lost(queues, cluster):
    jobs = [job_of(model) for model in MODELS for _ in range(5)]
    for job in jobs:
        await queues[job.model].submit(job)
    running = await queues["tuned"].claim("w1", 1, 1, True)
    node = cluster.node_of("{tuned}")
    node.kill()

    refused_s = time.monotonic()
    with pytest.raises(ServerOverloaded):
        await queues["tuned"].submit(job_of("tuned"))
    assert time.monotonic() - refused_s < 5.0
    node.start()
    wait_until(lambda: all(cluster.is_whole(each) for each in cluster.nodes))

    async def is_served():
        try:
            await queues.reap()
        except ServerOverloaded:
            return False
        return True

    await eventually(is_served, 20.0)
    assert await queues["tuned"].finish(running[0].id, running[0].attempt, DONE)
    ended = {running[0].id}
    while claimed := await queues.claim("w2", 48, {}):
        for job in claimed:
            assert await queues[job.model].finish(job.id, job.attempt, DONE)
            ended.add(job.id)
    assert ended == {job.id for job in jobs}


async def test_a_slot_that_moves_to_another_node_takes_its_jobs_along(queues, cluster):
    """As `redis-cli --cluster reshard` does it, key by key."""
    await queues["few"].submit(job_of("few"))
    source = cluster.node_of("{few}")
    target = cluster.node_of("{tuned}")
    with source.client() as old, target.client() as new:
        slot = old.execute_command("CLUSTER", "KEYSLOT", "{few}")
        old_id, new_id = (client.execute_command("CLUSTER", "MYID") for client in (old, new))
        new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", old_id)
        old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)
        keys = old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        old.execute_command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
        with pytest.raises(ServerOverloaded):  # half here and half there
            await queues["few"].submit(job_of("few"))
        for client in (new, old):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", new_id)
        try:
            assert (await queues["few"].submit(job_of("few"))).is_new
            assert len(await queues.claim("w1", 8, {})) == 2
        finally:
            new.flushall()
            for client in (old, new):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", old_id)


async def test_a_server_that_is_no_cluster_is_a_configuration_error(tmp_path, anyio_backend):
    with running(ServerProcess(tmp_path / "alone")) as (server,):
        queues = Queues.connect(f"redis+cluster://{HOST}:{server.port}", models=["demo"], limits=QueueLimits())
        with pytest.raises(ConfigurationError, match="no Cluster"):
            await queues.ping()
        await queues.close()
