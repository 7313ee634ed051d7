"""What tenants are charged: once for each job, and in the end only for what is done. On a real server."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ServerOverloaded
from service.keys import TenantKeys
from service.ledger import Ledger, Limit, Outcome, pixels_of
from service.queue_server import QueueServer
from service.quotas import Quotas
from tests.support.server import in_crowds, make_job

pytestmark = pytest.mark.anyio

JOB = make_job(steps=20, size=512)
COST = JOB.cost  # megapixel-steps
PIXELS = 512 * 512


@pytest.fixture
async def server(redis_url, anyio_backend):
    server = QueueServer.connect(redis_url)
    yield server
    await server.close()


@pytest.fixture
def ledger(server):
    return Ledger(server)


def per_hour(num_jobs, **others):
    """A rate at which nothing comes back while a test runs."""
    return Quotas(rate_per_min=num_jobs * COST / 60, **others)


async def test_a_job_is_charged_once_however_often_it_is_asked_for(ledger):
    quotas = Quotas(max_jobs=5, daily_megapixels=10, rate_per_min=COST, burst=5 * COST)
    job = make_job()
    first = await ledger.charge(job, quotas)
    for _ in range(3):
        again = await ledger.charge(job, quotas)
        assert (again.exceeded, again.usage.num_jobs, again.usage.pixels) == (None, 1, PIXELS)
    assert first.usage.behind_s == pytest.approx(60, abs=1)
    assert again.usage.behind_s <= first.usage.behind_s


async def test_unfinished_jobs_are_limited_and_those_in_the_way_are_named(ledger):
    quotas = Quotas(max_jobs=2)
    jobs = [make_job() for _ in range(3)]
    assert [(await ledger.charge(job, quotas)).exceeded for job in jobs] == [None, None, Limit.JOBS]
    refused = await ledger.charge(jobs[2], quotas)
    assert {one.job_id for one in refused.reserved} == {job.id for job in jobs[:2]}
    assert all(one.model == "demo" and one.age_s >= 0 for one in refused.reserved)
    assert await ledger.settle("ada", {jobs[0]: Outcome.DONE}) == 1
    assert (await ledger.charge(jobs[2], quotas)).exceeded is None


async def test_jobs_that_run_do_not_count_as_queued(ledger):
    quotas = Quotas(max_queued_jobs=1)
    first, second = make_job(), make_job()
    assert (await ledger.charge(first, quotas)).exceeded is None
    assert (await ledger.charge(second, quotas)).exceeded is Limit.QUEUED_JOBS
    assert (await ledger.charge(second, quotas, running=[first])).exceeded is None


async def test_the_rate_lets_a_burst_in_and_says_when_it_lets_in_the_next(ledger):
    quotas = per_hour(60, burst=3 * COST)
    outcomes = [await ledger.charge(make_job(), quotas) for _ in range(4)]
    assert [one.exceeded for one in outcomes] == [None, None, None, Limit.RATE]
    assert 50 < outcomes[3].wait_s <= 60
    assert outcomes[3].usage.num_jobs == 3
    assert not outcomes[3].reserved


async def test_who_waits_as_long_as_told_is_let_in(ledger):
    quotas = Quotas(rate_per_min=COST * 60 / 0.3, burst=COST)
    await ledger.charge(make_job(), quotas)
    refused = await ledger.charge(make_job(), quotas)
    assert 0 < refused.wait_s <= 0.3
    await asyncio.sleep(refused.wait_s)
    assert (await ledger.charge(make_job(), quotas)).exceeded is None


async def test_a_job_larger_than_the_burst_may_come_when_nothing_else_has_been_charged(ledger):
    quotas = per_hour(60, burst=COST / 2)
    assert (await ledger.charge(make_job(), quotas)).exceeded is None
    refused = await ledger.charge(make_job(), quotas)
    assert refused.exceeded is Limit.RATE
    assert 55 < refused.wait_s <= 60  # until all of it has come back


async def test_a_days_pixels_are_limited_and_only_what_is_done_stays_charged(ledger):
    quotas = Quotas(daily_megapixels=3 * PIXELS / 1e6)
    jobs = [make_job() for _ in range(3)]
    for job in jobs:
        assert (await ledger.charge(job, quotas)).exceeded is None
    assert (await ledger.charge(make_job(), quotas)).exceeded is Limit.DAILY_PIXELS
    outcomes = dict(zip(jobs, (Outcome.DONE, Outcome.UNDONE, Outcome.DONE), strict=True))
    assert await ledger.settle("ada", outcomes) == 3
    assert await ledger.settle("ada", outcomes) == 0  # each once
    charged = await ledger.charge(make_job(), quotas)
    assert (charged.exceeded, charged.usage.pixels, charged.usage.num_jobs) == (None, 3 * PIXELS, 1)
    assert 0 < charged.usage.day_left_s <= 86400


async def test_pixels_of_yesterday_count_no_more_and_are_not_given_back_today(ledger, raw):
    quotas = Quotas(daily_megapixels=2 * PIXELS / 1e6)
    old = make_job()
    await ledger.charge(old, quotas)
    usage, reserved = TenantKeys.usage("ada"), TenantKeys.reserved("ada")
    today = int(await raw.hget(usage, "day"))
    await raw.hset(usage, "day", today - 1)
    record = (await raw.hget(reserved, f"demo/{old.id}")).split()
    await raw.hset(reserved, f"demo/{old.id}", " ".join([record[0], str(today - 1), *record[2:]]))
    assert (await ledger.charge(make_job(), quotas)).usage.pixels == PIXELS
    await ledger.settle("ada", {old: Outcome.UNDONE})
    assert (await ledger.charge(make_job(), quotas)).usage.pixels == 2 * PIXELS


async def test_what_never_became_a_job_gives_all_back(ledger):
    quotas = per_hour(60, burst=COST, max_jobs=1, daily_megapixels=PIXELS / 1e6)
    job = make_job()
    await ledger.charge(job, quotas)
    await ledger.settle("ada", {job: Outcome.REFUSED})
    assert (await ledger.charge(make_job(), quotas)).exceeded is None


async def test_a_job_that_was_cancelled_gives_its_pixels_back_and_not_its_part_of_the_rate(ledger):
    quotas = per_hour(60, burst=COST, daily_megapixels=PIXELS / 1e6)
    job = make_job()
    await ledger.charge(job, quotas)
    await ledger.settle("ada", {job: Outcome.UNDONE})
    refused = await ledger.charge(make_job(), quotas)
    assert (refused.exceeded, refused.usage.pixels) == (Limit.RATE, 0)


async def test_tenants_do_not_pay_for_each_other(ledger):
    quotas = Quotas(max_jobs=1)
    assert (await ledger.charge(make_job("ada"), quotas)).exceeded is None
    assert (await ledger.charge(make_job("bob"), quotas)).exceeded is None
    assert (await ledger.charge(make_job("ada"), quotas)).exceeded is Limit.JOBS


async def test_of_a_crowd_exactly_as_many_are_let_in_as_may_come(ledger):
    quotas = per_hour(60, burst=7 * COST, max_jobs=50)
    charges = await in_crowds([ledger.charge(make_job(), quotas) for _ in range(40)])
    assert [one.exceeded for one in charges].count(None) == 7


async def test_a_charge_that_comes_too_late_is_none(ledger, server, monkeypatch):
    async def long_ago():
        return 1

    monkeypatch.setattr(server, "valid_until_ms", long_ago)
    with pytest.raises(ServerOverloaded):
        await ledger.charge(make_job(), Quotas(max_jobs=1))
    monkeypatch.undo()
    assert (await ledger.charge(make_job(), Quotas(max_jobs=1))).exceeded is None


async def test_what_is_kept_of_a_tenant_goes_by_itself(ledger, raw):
    await ledger.charge(make_job(), Quotas(max_jobs=1))
    for key in (TenantKeys.usage("ada"), TenantKeys.reserved("ada")):
        assert 86400_000 < await raw.pttl(key) <= 2 * 86400_000


STEPS = st.lists(st.tuples(st.sampled_from(["charge", *Outcome]), st.integers(0, 5)), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happens_a_tenant_is_charged_for_what_is_under_way_or_done_and_no_more(embedded_server, steps):
    """A model of the ledger beside the ledger: unfinished jobs and the day's pixels agree after each step."""

    async def walk():
        server = QueueServer.connect(embedded_server.url)
        try:
            await server.commands.flushall()
            ledger, quotas = Ledger(server), Quotas(max_jobs=4, daily_megapixels=5 * PIXELS / 1e6)
            jobs = [make_job() for _ in range(6)]
            open_jobs, done = set(), 0
            for action, index in steps:
                job = jobs[index]
                if action == "charge":
                    charged = await ledger.charge(job, quotas)
                    may = job in open_jobs or (len(open_jobs) < 4 and len(open_jobs) + done < 5)
                    assert (charged.exceeded is None) == may
                    if may:
                        open_jobs.add(job)
                    assert charged.usage.num_jobs == len(open_jobs)
                    assert charged.usage.pixels == (len(open_jobs) + done) * pixels_of(job)
                else:
                    assert await ledger.settle("ada", {job: action}) == (job in open_jobs)
                    done += job in open_jobs and action is Outcome.DONE
                    open_jobs.discard(job)
        finally:
            await server.close()

    asyncio.run(walk())


async def test_a_server_that_is_away_is_said_to_be(tmp_path):
    server = QueueServer.connect(f"unix://{tmp_path}/none.sock")
    try:
        with pytest.raises(ServerOverloaded):
            await Ledger(server).settle("ada", {make_job(): Outcome.DONE})
    finally:
        await server.close()
