"""How much a tenant may ask for: refusals that say when to come back, headers, and charges that end as jobs end."""

import itertools
import re
import threading

import pytest

from service.errors import QueueFull, ServerOverloaded
from service.gateway import charging
from service.gateway.rate_limits import rate_limit_headers
from service.jobs import Failed
from service.ledger import Ledger
from service.quotas import Quotas, Usage
from tests.gateway.harness import wait_until

_numbers = itertools.count()
PIXELS = 64 * 64
PICTURE_MEGAPIXELS = PIXELS / 1e6
COST = 2 * 3 * PIXELS / 1e6  # guidance takes two rows, four steps three forwards
ASYNC = {"Prefer": "respond-async"}
ITEM = r'"[a-z-]+"(;[a-z]+=(\d{1,15}|"[a-z-]+"))+'  # a structured field's list of strings with parameters


class Tenant:
    """Asks a gateway with a key of its own."""

    def __init__(self, gateway, **quotas):
        self.gateway = gateway
        self.name = f"quotas-{next(_numbers)}"
        tenants = gateway.gateway.keyring.tenants
        if quotas:
            gateway.call(tenants.set_quotas(self.name, quotas))
        self.headers = {"X-API-Key": gateway.key_of(self.name)}

    def generate(self, headers=None, **fields):
        return self.gateway.generate(headers=self.headers | (headers or {}), **fields)

    def job(self, job_id):
        return self.gateway.client.get(f"/v1/jobs/{job_id}", headers=self.headers).json()

    def submit(self, **fields):
        response = self.generate(ASYNC, **fields)
        assert response.status_code == 202, response.text
        return response.json()["id"]

    def cancel(self, job_id):
        return self.gateway.client.delete(f"/v1/jobs/{job_id}", headers=self.headers)

    def usage(self):
        """(unfinished jobs, pixels of the day), as the ledger has them."""
        commands = self.gateway.queue.server.commands

        async def read():
            from service.keys import TenantKeys

            pixels = await commands.hget(TenantKeys.usage(self.name), "pixels")
            return await commands.hlen(TenantKeys.reserved(self.name)), int(pixels or 0)

        return self.gateway.call(read())


@pytest.fixture
def painter(gateway):
    yield gateway
    worker = gateway.worker
    worker.is_claiming, worker.is_holding, worker.failure = True, False, None
    wait_until(gateway.is_idle)


def refused(response, code):
    assert response.status_code == 429, response.text
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", code)
    return int(response.headers["retry-after-ms"]) / 1000


def items(header):
    """{name: {parameter: value}} of a RateLimit or RateLimit-Policy header."""
    assert re.fullmatch(f"{ITEM}(, {ITEM})*", header), header
    found = {}
    for item in header.split(", "):
        name, *parameters = item.split(";")
        found[name.strip('"')] = dict(part.split("=") for part in parameters)
    return found


def test_without_quotas_nothing_is_counted_and_nothing_said(painter):
    tenant = Tenant(painter)
    response = tenant.generate()
    assert response.status_code == 200
    assert "ratelimit" not in response.headers
    assert tenant.usage() == (0, 0)


def test_unfinished_jobs_are_limited_until_one_has_ended(painter):
    painter.worker.is_holding = True
    tenant = Tenant(painter, max_jobs=2)
    first = tenant.submit()
    tenant.submit()
    wait_until(lambda: tenant.job(first)["state"] == "running")
    response = tenant.generate()
    assert 0 < refused(response, "too_many_jobs") <= 120
    assert items(response.headers["ratelimit"])["jobs"]["r"] == "0"
    assert Tenant(painter, max_jobs=2).generate(ASYNC).status_code == 202  # another's jobs are another's
    painter.worker.is_holding = False
    wait_until(lambda: tenant.job(first)["state"] == "done")
    assert tenant.generate().status_code == 200  # at once: what has ended is looked up


def test_who_comes_back_when_told_is_let_in(painter):
    """The rate's answer is exact: waiting that long is enough, and a good part less is not."""
    tenant = Tenant(painter, rate_per_min=COST * 60 / 0.8, burst=COST)
    assert tenant.generate(ASYNC).status_code == 202
    wait_s = refused(tenant.generate(ASYNC), "tenant_rate_exceeded")
    assert 0 < wait_s <= 0.8
    threading.Event().wait(wait_s)
    assert tenant.generate(ASYNC).status_code == 202


def test_waiting_jobs_are_limited_and_running_ones_are_none(painter):
    painter.worker.is_holding = True
    tenant = Tenant(painter, max_queued_jobs=1)
    first = tenant.submit()
    wait_until(lambda: tenant.job(first)["state"] == "running")
    painter.worker.is_claiming = False
    tenant.submit()
    refused(tenant.generate(), "too_many_queued_jobs")


def test_a_day_has_so_many_pixels_and_only_finished_pictures_take_of_them(painter):
    tenant = Tenant(painter, daily_megapixels=3 * PICTURE_MEGAPIXELS)
    assert tenant.generate(n=2).status_code == 200
    wait_until(lambda: tenant.usage() == (0, 2 * PIXELS))
    painter.worker.failure = Failed("broken", "no")
    assert tenant.generate().status_code == 500
    wait_until(lambda: tenant.usage() == (0, 2 * PIXELS))
    painter.worker.failure = None
    painter.worker.is_claiming = False
    cancelled = tenant.submit()
    assert tenant.usage() == (1, 3 * PIXELS)
    tenant.cancel(cancelled)
    wait_until(lambda: tenant.usage() == (0, 2 * PIXELS))
    assert tenant.generate(timeout_s=0.05).status_code == 504
    wait_until(lambda: tenant.usage() == (0, 2 * PIXELS))
    painter.worker.is_claiming = True
    assert tenant.generate().status_code == 200
    response = tenant.generate()
    wait_s = refused(response, "daily_pixels_exceeded")
    assert 0 < wait_s <= 86400
    assert response.headers["retry-after"] == str(-int(-wait_s // 1))
    if wait_s > 120:  # no client should sit and wait for midnight
        assert response.headers["x-should-retry"] == "false"
    assert items(response.headers["ratelimit"])["daily"]["r"] == "0"


def test_a_request_for_more_than_a_whole_day_is_refused_for_good(painter):
    response = Tenant(painter, daily_megapixels=3 * PICTURE_MEGAPIXELS).generate(n=4)
    assert response.status_code == 403
    assert (response.json()["error"]["type"], response.json()["error"]["code"]) == ("permission_error", "exceeds_quota")
    assert "retry-after" not in response.headers


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/images/generations"])
def test_headers_say_what_one_may_and_what_is_left(painter, path):
    quotas = {"max_jobs": 5, "max_queued_jobs": 4, "rate_per_min": 60 * COST, "burst": 90 * COST, "daily_megapixels": 1}
    tenant = Tenant(painter, **quotas)
    response = painter.client.post(path, json={"prompt": "a red apple"}, headers=tenant.headers)
    assert response.status_code == 200
    policy, limit = [items(response.headers[name]) for name in ("ratelimit-policy", "ratelimit")]
    assert policy["jobs"] == {"q": "5", "qu": '"concurrent-requests"'}
    assert policy["queued-jobs"] == {"q": "4", "qu": '"concurrent-requests"'}
    assert policy["daily"] == {"q": "1000000", "w": "86400", "qu": '"pixels"'}
    assert policy["rate"] == {"q": str(int(90_000 * COST)), "w": "90", "qu": '"kilopixel-steps"'}
    assert limit["jobs"] == {"r": "4"}
    assert limit["daily"]["r"] == str(10**6 - PIXELS)
    assert 0 < int(limit["daily"]["t"]) <= 86400
    assert int(90_000 * COST) - int(limit["rate"]["r"]) in (int(1000 * COST), int(1000 * COST) + 1)
    assert limit["rate"]["t"] == "1"


def test_streams_and_async_answers_have_the_headers_too(painter):
    for headers in (ASYNC, {"Accept": "text/event-stream"}, {"Accept": "multipart/mixed"}):
        response = Tenant(painter, max_jobs=5).generate(headers)
        assert items(response.headers["ratelimit"]) == {"jobs": {"r": "4"}}


def test_defaults_are_the_settings_and_count_for_anonymous_too(start_gateway):
    with start_gateway(tenant_max_jobs=1) as gateway:
        gateway.worker.is_holding = True
        gateway.submit()
        refused(gateway.generate(), "too_many_jobs")
        assert Tenant(gateway).generate(ASYNC).headers["ratelimit-policy"] == '"jobs";q=1;qu="concurrent-requests"'
        tenant = Tenant(gateway, max_jobs=0)
        assert [tenant.generate(ASYNC).status_code for _ in range(3)] == [202] * 3
        gateway.worker.is_holding = False


def test_refusals_are_counted_by_their_reason(painter):
    def count():
        return painter.value("rejections_total", reason="tenant_rate_exceeded")

    before = count()
    tenant = Tenant(painter, rate_per_min=COST, burst=COST)
    for _ in range(3):
        tenant.generate(ASYNC)
    assert count() == before + 2


def test_a_repetition_and_a_shared_generation_are_charged_once(painter):
    tenant = Tenant(painter, max_jobs=10, daily_megapixels=1)
    key = {"Idempotency-Key": tenant.name}
    for _ in range(3):
        assert tenant.generate(key).status_code == 200
    wait_until(lambda: tenant.usage() == (0, PIXELS))
    painter.worker.is_claiming = False
    jobs = {tenant.submit(seed=5) for _ in range(3)}
    assert len(jobs) == 1
    assert tenant.usage() == (1, 2 * PIXELS)


def test_of_a_crowd_with_one_idempotency_key_one_is_charged(painter):
    painter.worker.is_claiming = False
    tenant = Tenant(painter, max_jobs=20, rate_per_min=COST, burst=20 * COST)
    key = ASYNC | {"Idempotency-Key": tenant.name}
    crowd = [threading.Thread(target=tenant.generate, args=(key,)) for _ in range(8)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(20)
    assert tenant.usage()[0] == 1
    limit = items(tenant.generate(ASYNC).headers["ratelimit"])
    assert int(limit["rate"]["r"]) >= int(1000 * COST * 18) - 2  # the others have got their part of the rate back


def test_what_the_queue_refuses_is_given_back(painter, monkeypatch):
    tenant = Tenant(painter, max_jobs=1, rate_per_min=COST, burst=COST)

    async def full(*_):
        raise QueueFull("full", retry_after_s=3)

    with monkeypatch.context() as patched:
        patched.setattr(painter.queue, "submit", full)
        for _ in range(3):
            assert refused(tenant.generate(), "rate_limit_exceeded") == 3
    assert tenant.usage()[0] == 0
    assert tenant.generate().status_code == 200


def test_where_it_is_not_certain_what_became_of_a_job_it_is_found_out_later(painter, monkeypatch):
    """The reply to a submit is lost: the job may be there, or not. Nobody is refused for one that is not."""
    tenant = Tenant(painter, max_jobs=1)
    submit = painter.queue.submit

    async def lost(*_):
        raise ServerOverloaded("no answer")

    async def accepted_and_lost(*arguments):
        await submit(*arguments)
        raise ServerOverloaded("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(painter.queue, "submit", lost)
        assert tenant.generate().status_code == 503
    assert tenant.usage()[0] == 1
    refused(tenant.generate(), "too_many_jobs")  # for some seconds it might still be on its way
    monkeypatch.setattr(charging, "IN_FLIGHT_S", 0.0)
    threading.Event().wait(0.01)
    assert tenant.generate().status_code == 200
    with monkeypatch.context() as patched:
        patched.setattr(painter.queue, "submit", accepted_and_lost)
        assert tenant.generate().status_code == 503
    wait_until(lambda: len(painter.worker.seen) > 0 and not painter.worker.held)
    wait_until(lambda: painter.stats().num_waiting == 0)
    assert tenant.generate().status_code == 200


def test_what_a_gateway_that_was_killed_had_charged_is_settled_when_it_matters(painter, monkeypatch):
    tenant = Tenant(painter, daily_megapixels=2 * PICTURE_MEGAPIXELS)
    settle = Ledger.settle

    async def killed(*_):
        return 0

    monkeypatch.setattr(Ledger, "settle", killed)
    painter.worker.failure = Failed("broken", "no")
    for _ in range(2):
        assert tenant.generate().status_code == 500
    wait_until(lambda: not painter.gateway.settlements._waiting)
    assert tenant.usage() == (2, 2 * PIXELS)
    monkeypatch.setattr(Ledger, "settle", settle)
    painter.worker.failure = None
    assert tenant.generate().status_code == 200
    wait_until(lambda: tenant.usage() == (0, PIXELS))


def test_the_headers_of_no_quotas_are_none():
    assert rate_limit_headers(Quotas(), Usage(0, 0, 0.0, 1.0)) == {}


@pytest.mark.parametrize(
    "values",
    [
        {"max_jobs": -1},
        {"rate_per_min": 1e-9},
        {"burst": 1.0},
        {"rate_per_min": 1.0, "burst": 2000.0},
        {"max_jobs": 1e99},
    ],
)
def test_quotas_that_cannot_be_counted_are_refused(values):
    with pytest.raises(ValueError, match=r"allowed: "):
        Quotas(**values)


def test_quotas_of_another_version_are_passed_over():
    assert Quotas(max_jobs=3).with_changes({"max_jobs": 4, "max_dreams": 1}) == Quotas(max_jobs=4)
