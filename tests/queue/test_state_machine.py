"""Any sequence of calls, losses and passed times, on a real server, against what must hold whatever happens.

Time is moved by hand: a lease or a deadline "passes" by being set into the past on the server.
"""

import asyncio
import os
import signal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as LostConnection

from service.errors import IdempotencyKeyReused, JobNotFound, QueueFull, ServerOverloaded
from service.jobs import Cancelled, Failed, JobState, Priority
from service.queue import JobQueue
from service.queue_types import IdempotencyKey, JobProgress, QueueLimits
from tests.support.server import (
    DONE,
    MODEL,
    PREFIX,
    add_service_user,
    count_events,
    eventually,
    let_deadline_pass,
    let_lease_end,
    make_job,
    make_worker,
)

MAX_ATTEMPTS = 2
FAILED = Failed("generation_failed", "not a number")
RESULTS = st.sampled_from([DONE, FAILED, Cancelled("running")])
WORKERS = st.sampled_from(["w1", "w2"])
# Of waiting jobs, running jobs, or all there were: which one is meant.
PICK = st.integers(min_value=0, max_value=10)


class QueueMachine(RuleBasedStateMachine):
    url = ""
    server = None
    attempts = Bundle("attempts")

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.queue = JobQueue.connect(
            self.url, model=MODEL, limits=QueueLimits(capacity=4, max_attempts=MAX_ATTEMPTS, retry_delay_s=3600)
        )
        self.raw = Redis.from_url(self.server.url, decode_responses=True)
        self.accepted = {}
        self.ended = {}
        self.keyed = {}
        self.orders = {}
        self.num_ends = {}  # of jobs that were accepted again: how often they had ended before
        self.dropped = set()
        self.num_kills_left = 0

    def run(self, call):
        return self.runner.run(call)

    @initialize(luck=st.integers(0, 3))
    def empty_the_server(self, luck):
        self.run(self.raw.flushall())
        self.num_kills_left = int(luck == 3)  # a restart takes as long as everything else

    def pick(self, pick):
        return list(self.accepted)[pick % len(self.accepted)] if self.accepted else "0" * 32

    @rule(
        owner=st.sampled_from(["ada", "bob"]),
        priority=st.sampled_from(list(Priority)),
        num_images=st.integers(1, 3),
        inbox=st.sampled_from(["gateway-1", "gateway-1", ""]),
    )
    def submit(self, owner, priority, num_images, inbox):
        job = make_job(owner, priority=priority, num_images=num_images, inbox=inbox)
        num_waiting = self.run(self.queue.stats()).num_waiting
        try:
            submitted = self.run(self.queue.submit(job))
        except QueueFull:
            assert num_waiting == 4
        else:
            assert num_waiting < 4
            assert submitted.is_new
            self.accepted[job.id] = job

    @rule(owner=st.sampled_from(["ada", "bob"]), name=st.sampled_from("ab"), body=st.sampled_from("xy"))
    def submit_with_a_key(self, owner, name, body):
        key = IdempotencyKey(owner + name, body)
        known_body, known_id = self.keyed.get(key.digest, (body, None))
        job = make_job(owner)
        is_full = self.run(self.queue.stats()).num_waiting == 4
        try:
            submitted = self.run(self.queue.submit(job, key))
        except IdempotencyKeyReused:
            assert known_body != body
        except QueueFull:
            assert is_full
            assert known_id is None
        else:
            assert known_body == body
            assert submitted.is_new == (known_id is None)
            if submitted.is_new:
                self.accepted[job.id] = job
                self.keyed[key.digest] = (body, job.id)
            else:
                assert submitted.earlier.job.id == known_id

    @rule(pick=PICK)
    def submit_again(self, pick):
        if job := self.accepted.get(self.pick(pick)):
            assert not self.run(self.queue.submit(job)).is_new

    @rule(
        target=attempts, worker=WORKERS, max_jobs=st.integers(1, 3), max_rows=st.integers(1, 4), is_idle=st.booleans()
    )
    def claim(self, worker, max_jobs, max_rows, is_idle):
        claimed = self.run(self.queue.claim(worker, max_jobs, max_rows, is_idle))
        assert len(claimed) <= max_jobs
        assert sum(job.num_images for job in claimed[:-1]) < max_rows
        failures = [int(self.run(self.raw.hget(PREFIX + "job:" + job.id, "failures"))) for job in claimed]
        assert not any(failures) or (is_idle and len(claimed) == 1), "a retried job runs alone"
        return [(job.id, job.attempt) for job in claimed]

    def counts(self, job_id, attempt):
        """Whether this attempt is the one that runs."""
        state, current = self.run(self.raw.hmget(PREFIX + "job:" + job_id, "state", "attempt"))
        return state == "running" and current == str(attempt)

    @rule(attempts=attempts, result=RESULTS)
    def finish(self, attempts, result):
        for job_id, attempt in attempts:
            counts = self.counts(job_id, attempt)
            accepted = self.run(self.queue.finish(job_id, attempt, result))
            assert accepted or not counts
            if counts:
                assert self.run(self.queue.status(job_id, self.accepted[job_id].owner)).result == result

    @rule(attempts=attempts)
    def retry(self, attempts):
        for job_id, attempt in attempts:
            counts = self.counts(job_id, attempt)
            assert self.run(self.queue.retry(job_id, attempt, FAILED)) or not counts

    @rule(attempts=attempts)
    def release(self, attempts):
        for job_id, attempt in attempts:
            counts = self.counts(job_id, attempt)
            assert self.run(self.queue.release(job_id, attempt)) or not counts

    @rule(attempts=attempts, worker=WORKERS)
    def heartbeat(self, attempts, worker):
        progress = [JobProgress(job_id, attempt, 3, 20) for job_id, attempt in attempts]
        counts = {job_id for job_id, attempt in attempts if self.counts(job_id, attempt)}
        reply = self.run(self.queue.heartbeat(make_worker(worker), progress))
        assert not counts & set(reply.lost)

    @rule(pick=PICK)
    def cancel(self, pick):
        job_id = self.pick(pick)
        if job_id in self.accepted:
            before = self.run(self.queue.status(job_id, self.accepted[job_id].owner))
            after = self.run(self.queue.cancel(job_id, self.accepted[job_id].owner))
            if before.state is JobState.QUEUED:
                assert after.result == Cancelled("queued")
            else:
                assert after.state is before.state

    @rule(pick=PICK)
    def requeue_a_dead_letter(self, pick):
        job_id = self.pick(pick)
        has_failed = self.ended.get(job_id, ("",))[0] == "failed"
        try:
            self.run(self.queue.dead.requeue(job_id))
        except JobNotFound:
            assert not has_failed or job_id in self.dropped
        except QueueFull:
            assert has_failed
        else:
            assert has_failed
            # Accepted anew: it is to end once more, and to say so once more.
            del self.ended[job_id], self.orders[job_id]
            self.num_ends[job_id] = self.num_ends.get(job_id, 0) + 1

    @rule(pick=PICK)
    def drop_a_dead_letter(self, pick):
        job_id = self.pick(pick)
        try:
            self.run(self.queue.dead.drop(job_id))
        except JobNotFound:
            assert self.ended.get(job_id, ("",))[0] != "failed" or job_id in self.dropped
        else:
            self.dropped.add(job_id)

    @rule()
    def reap(self):
        self.run(self.queue.reap())

    @rule(attempts=attempts)
    def lose_the_worker(self, attempts):
        for job_id, attempt in attempts:
            if self.counts(job_id, attempt):
                self.run(let_lease_end(self.raw, job_id))

    @rule(pick=PICK)
    def miss_the_deadline(self, pick):
        job_id = self.pick(pick)
        if job_id in self.accepted and job_id not in self.ended:
            self.run(let_deadline_pass(self.raw, job_id))

    @rule()
    def sit_out_the_delays(self):
        for job_id in self.run(self.raw.zrange(PREFIX + "delayed", 0, -1)):
            self.run(self.raw.zadd(PREFIX + "delayed", {job_id: 1}))

    @rule()
    def forget_the_scripts(self):
        self.run(self.raw.script_flush())

    @rule(seconds=st.sampled_from([-3600, 3600]))
    def set_the_clock(self, seconds):
        """The server's clock is set forward or back by an hour since this process last asked for it."""
        self.queue._server._time_s += seconds
        job = make_job()
        try:
            submitted = self.run(self.queue.submit(job))
        except (QueueFull, ServerOverloaded):
            with pytest.raises(JobNotFound):
                self.run(self.queue.status(job.id, job.owner))
        else:
            assert submitted.is_new
            self.accepted[job.id] = job
        self.queue._server._asked_at_s = float("-inf")

    @precondition(lambda self: self.num_kills_left)
    @rule()
    def kill_the_server(self):
        self.num_kills_left -= 1
        self.run(self.raw.connection_pool.disconnect())
        os.kill(self.server.pid, signal.SIGKILL)
        self.run(eventually(self.is_back, timeout_s=30))
        add_service_user(self.server.url)  # users are no part of its data
        self.run(eventually(self.is_served, timeout_s=30))

    async def is_back(self):
        try:
            return await self.raw.ping()
        except LostConnection:
            return False

    async def is_served(self):
        try:
            await self.queue.ping()
        except ServerOverloaded:
            return False
        return True

    @invariant()
    def every_job_is_in_one_place_and_ends_once(self):
        self.run(self.check())

    async def check(self):
        async with self.raw.pipeline(transaction=True) as pipe:
            for name in ("queue", "delayed", "waiting", "running", "leases", "deadlines"):
                pipe.zrange(PREFIX + name, 0, -1)
            pipe.hgetall(PREFIX + "totals")
            pipe.zcard(PREFIX + "tenant_jobs")
            pipe.zrange(PREFIX + "finish_tags", 0, -1, withscores=True)
            for owner in ("ada", "bob"):
                pipe.zrange(PREFIX + "owner_jobs:" + owner, 0, -1)
            pipe.zrange(PREFIX + "dead", 0, -1)
            pipe.hkeys(PREFIX + "dead_letters")
            for job_id in self.accepted:
                pipe.hgetall(PREFIX + "job:" + job_id)
            *sets, totals, num_tenant_jobs, tags, ada, bob, dead, letters = (replies := await pipe.execute())[:13]
        queued, delayed, waiting, running, leases, deadlines, dead = map(set, [*sets, dead])
        jobs = dict(zip(self.accepted, replies[13:], strict=True))
        events = await count_events(self.raw)

        in_state = {state: {i for i, job in jobs.items() if job["state"] == state} for state in JobState}
        assert not queued & delayed
        assert queued | delayed == waiting == in_state["queued"]  # I6
        assert running == leases == in_state["running"]  # I6
        assert deadlines == waiting | running
        for job_id, job in jobs.items():
            has_ended = JobState(job["state"]).is_terminal
            has_inbox = bool(self.accepted[job_id].inbox)
            num_ends = self.num_ends.get(job_id, 0) + has_ended
            assert events.get(job_id, 0) == num_ends * has_inbox  # I4: one each time that it was accepted
            assert int(job["failures"]) <= MAX_ATTEMPTS  # I5
            if has_ended:
                outcome = (job["state"], job["result"])
                assert self.ended.setdefault(job_id, outcome) == outcome  # I1: one end, for good
        assert int(totals.get("waiting_cost", 0)) == sum(int(jobs[job_id]["cost"]) for job_id in waiting)
        for job_id, job in jobs.items():  # I2: charged with the acceptance, and never again
            charge = (job["order"], job["cost"])
            assert self.orders.setdefault(job_id, charge) == charge
        for tenant, tag in tags:
            priority, owner, _ = tenant.split("\0")
            own = [job for job in jobs.values() if (job["priority"], job["owner"]) == (priority, owner)]
            assert tag <= max(int(job["order"]) + int(job["cost"]) for job in own)
        for owner, listed in (("ada", ada), ("bob", bob)):
            assert sorted(listed) == sorted(job_id for job_id, job in jobs.items() if job["owner"] == owner)
        assert dead == set(letters) == in_state["failed"] - self.dropped
        assert num_tenant_jobs == sum(jobs[job_id]["attempt"] == "0" for job_id in queued)

    def teardown(self):
        try:
            self.run(self.bring_to_an_end())
        finally:
            self.run(self.queue.close())
            self.run(self.raw.aclose())
            self.runner.close()

    async def bring_to_an_end(self):
        """I1: whatever state it was left in, every accepted job ends once somebody works and reaps."""
        for job_id in await self.raw.zrange(PREFIX + "leases", 0, -1):
            await let_lease_end(self.raw, job_id)
        for _ in range(len(self.accepted) + 2):
            await self.queue.reap()
            for job_id in await self.raw.zrange(PREFIX + "delayed", 0, -1):
                await self.raw.zadd(PREFIX + "delayed", {job_id: 1})
            await self.queue.reap()
            for job in await self.queue.claim("last", 9, 9, True):
                assert await self.queue.finish(job.id, job.attempt, DONE)
        await self.check()
        assert set(self.ended) == set(self.accepted)


@pytest.mark.parametrize("num_examples", [15, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_whatever_is_called_in_whatever_order_every_job_is_in_one_place_and_ends_once(
    redis_url, embedded_server, num_examples
):
    class Machine(QueueMachine):
        url = redis_url
        server = embedded_server

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=25,
            deadline=None,
            derandomize=num_examples < 100,
            suppress_health_check=list(HealthCheck),
        ),
    )
