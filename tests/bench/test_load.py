"""The open loop against a service whose speed is known."""

import asyncio

import httpx
import pytest

from service.bench.batches import batches_between, read_counts
from service.bench.load import offers_previews, run_load
from service.bench.plan import PlannedRequest
from service.bench.report import describe, summarize
from tests.bench.fake_server import FakeService

pytestmark = pytest.mark.anyio


def at(times_s, prompt="a cat"):
    return [PlannedRequest(at_s, prompt, index) for index, at_s in enumerate(times_s)]


def client_of(service):
    return httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://fake")


async def test_requests_are_sent_when_due_whatever_becomes_of_the_earlier_ones():
    service = FakeService(delay_s=lambda _: 0.5)
    async with client_of(service) as client:
        outcomes = await run_load(client, at([0.0, 0.05, 0.1, 0.15]), timeout_s=10)
    assert service.max_working == 4
    assert all(outcome.error is None and outcome.latency_s >= 0.5 for outcome in outcomes)
    assert summarize(outcomes, objective_s=1.0).duration_s < 4 * 0.5


async def test_latency_counts_from_when_a_request_was_due_and_not_from_when_it_was_sent():
    """A server that blocks this very event loop delays later sends; a closed loop would never show it."""

    def block(body):
        import time

        if body["seed"] == 0:
            time.sleep(0.3)
        return 0.0

    async with client_of(FakeService(delay_s=block)) as client:
        outcomes = await run_load(client, at([0.0, 0.01]), timeout_s=10)
    late = outcomes[1]
    assert late.send_lag_s > 0.2
    assert late.latency_s >= late.send_lag_s
    report = summarize(outcomes, objective_s=0.1)
    assert report.send_lag is not None
    assert report.send_lag.max_s > 0.2
    assert report.goodput_per_s == 0


async def test_refusals_timeouts_and_broken_connections_are_counted_by_code():
    async with client_of(FakeService(delay_s=lambda body: 5.0 if body["prompt"] == "slow" else 0.0)) as client:
        planned = [*at([0.0], "fail"), *at([0.0], "slow"), *at([0.0])]
        outcomes = await run_load(client, planned, timeout_s=0.3)
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9") as nobody:
        outcomes += await run_load(nobody, at([0.0]), timeout_s=5)
    report = summarize(outcomes, objective_s=10)
    assert report.errors == {"server_is_overloaded": 1, "timeout": 1, "connection": 1}
    assert (report.num_requests, report.num_pictures) == (4, 1)
    assert report.share_within_objective == 0.25
    assert "timeout 1" in describe(report)


async def test_queue_and_inference_times_come_from_the_servers_headers():
    async with client_of(FakeService()) as client:
        report = summarize(await run_load(client, at([0.0, 0.0]), timeout_s=5), objective_s=1)
    assert report.queue is not None
    assert report.inference is not None
    assert (report.queue.p50_s, report.inference.p95_s) == (0.25, 0.75)
    assert report.first_preview is None


async def test_previews_are_timed_only_where_the_server_offers_them():
    async with client_of(FakeService()) as client:
        assert not await offers_previews(client)
    async with client_of(FakeService(offers_events=True)) as client:
        assert await offers_previews(client)
        (outcome,) = await run_load(client, at([0.0]), timeout_s=5, with_previews=True)
    assert outcome.error is None
    assert outcome.first_preview_s is not None
    assert 0 < outcome.first_preview_s <= outcome.latency_s


async def test_batches_are_the_difference_between_two_looks_at_the_metrics():
    service = FakeService()
    async with client_of(service) as client:
        await run_load(client, at([0.0]), timeout_s=5)
        before = read_counts((await client.get("/metrics")).text)
        await asyncio.gather(run_load(client, at([0.0, 0.0]), timeout_s=5))
        batches = batches_between(before, read_counts((await client.get("/metrics")).text))
    assert batches is not None
    assert (batches.num_forwards, batches.mean_rows, batches.occupancy) == (2, 3.0, None)


def test_a_page_without_batches_gives_none():
    assert batches_between({}, {}) is None
