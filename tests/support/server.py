"""A real server for tests: one embedded Valkey per session on a unix socket, emptied before each test."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from model.params import GenerationParams
from service.embedded import EmbeddedServer
from service.jobs import Done, Failed, ImageRef, Job, Priority, new_job_id
from service.queue import JobQueue
from service.queue_types import QueueLimits, WorkerInfo

USERS = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl"
SERVICE_PASSWORD = "the-services-password"
MODEL = "demo"
PREFIX = f"emmdit:{{{MODEL}}}:"
DONE = Done(
    images=(ImageRef(blob="a/1/0.png", seed=7, num_bytes=3, sha256="00"),),
    prompt="a red apple",
    model_version="demo-1",
    inference_s=0.5,
)


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def service_url(embedded_server):
    """The server for a user who may do what the documented one may (deploy/redis/users.acl), and nothing else."""
    add_service_user(embedded_server.url)
    return embedded_server.url.replace("unix://", f"unix://emmdit:{SERVICE_PASSWORD}@")


@pytest.fixture
def redis_url(embedded_server, service_url):
    with BlockingRedis.from_url(embedded_server.url) as client:
        client.flushall()
    return service_url


@pytest.fixture
async def queue(redis_url, anyio_backend):
    """A queue with room for 100 jobs, long leases and no delay before a retry."""
    queue = JobQueue.connect(redis_url, model=MODEL, limits=QueueLimits(capacity=100, retry_delay_s=0))
    yield queue
    await queue.close()


@pytest.fixture
async def raw(redis_url, embedded_server, anyio_backend):
    """The server itself, to look behind the queue or to damage what it keeps."""
    async with Redis.from_url(embedded_server.url, decode_responses=True) as client:
        yield client


def add_service_user(url):
    """Makes the documented user on the server at `url`, with SERVICE_PASSWORD."""
    [line] = [line for line in USERS.read_text("utf-8").splitlines() if line.startswith("user emmdit ")]
    rules = ["reset", *line.split()[2:]]
    with BlockingRedis.from_url(url) as client:
        client.execute_command(
            "ACL", "SETUSER", "emmdit", *(f">{SERVICE_PASSWORD}" if rule[0] == ">" else rule for rule in rules)
        )


def make_job(owner="ada", *, prompt="a red apple", steps=20, size=512, **changes):
    params = GenerationParams(prompt, size, size, num_inference_steps=steps, guidance_scale=4.5, seed=7)
    values = {"num_images": 1, "priority": Priority.NORMAL, "timeout_s": 60.0, "inbox": "gateway-1"} | changes
    return Job(id=values.pop("id", None) or new_job_id(), model=MODEL, owner=owner, params=params, **values)


def job_of(model, **changes):
    """`make_job` for another model."""
    return replace(make_job(**changes), model=model)


async def fail_once(queues, job):
    """Makes `job`, which alone waits in its queue, a retried one that waits."""
    queue = queues[job.model]
    (claimed,) = await queue.claim("somebody", 1, 1, is_idle=True)
    await queue.retry(claimed.id, claimed.attempt, Failed("broken", "no"))

    async def is_back():
        return (await queue.reap()).promoted == 1

    await eventually(is_back)


def make_worker(worker_id="w1", rate_cost_per_s=0.0):
    return WorkerInfo(worker_id, MODEL, "demo-1", "cpu", 1.0, rate_cost_per_s)


async def submit_all(queue, jobs):
    """Submits one after the other, returns the ids."""
    for job in jobs:
        await queue.submit(job)
    return [job.id for job in jobs]


async def in_crowds(calls, size=25):
    """Runs calls side by side, but not so many that the last would outlast its two seconds on a busy machine."""
    outcomes = []
    for start in range(0, len(calls), size):
        outcomes += await asyncio.gather(*calls[start : start + size])
    return outcomes


async def eventually(condition, timeout_s=10.0):
    """Polls an async condition until it is true and returns what it gave; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (outcome := await condition()):
        assert time.monotonic() < deadline, f"still not true after {timeout_s} s: {condition}"
        await asyncio.sleep(0.01)
    return outcome


async def let_lease_end(raw, job_id):
    """The lease of a running job is over now, whatever the clock says."""
    async with raw.pipeline(transaction=True) as pipe:  # between two commands its worker's heartbeat may come
        pipe.zadd(PREFIX + "leases", {job_id: 0}, xx=True)
        pipe.zscore(PREFIX + "leases", job_id)
        _, score = await pipe.execute()
    assert score == 0


async def let_deadline_pass(raw, job_id):
    await raw.zadd(PREFIX + "deadlines", {job_id: 1})
    await raw.hset(PREFIX + "job:" + job_id, "deadline", 1)


async def count_events(raw, inbox="gateway-1"):
    """Number of terminal events of each job in an inbox."""
    counts: dict[str, int] = {}
    for _, fields in await raw.xrange(PREFIX + "inbox:" + inbox):
        counts[fields["job"]] = counts.get(fields["job"], 0) + 1
    return counts
