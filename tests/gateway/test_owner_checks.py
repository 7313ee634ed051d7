"""Nobody gets at another's: every route that there is, with two tenants. One that nobody has decided about fails."""

import secrets
from dataclasses import dataclass

import pytest
from fastapi.routing import APIRoute

from service.gateway.app import ROUTERS
from tests.gateway.harness import running_gateway, wait_until

ROUTES = sorted(
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
)
# What each route is to who asks. OPEN: for everybody. KEY: for everybody with a key, the same for all of them.
# OWN: makes or lists the caller's own. JOB: names a job, and is 404 for all but its owner.
OPEN, KEY, OWN, JOB = "open", "key", "own", "job"
DECISIONS = {
    ("GET", "/"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/livez"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/page/{name}"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/startupz"): OPEN,
    ("GET", "/v1/models"): KEY,
    ("GET", "/v1/models/{model}"): KEY,
    ("GET", "/v1/jobs"): OWN,
    ("POST", "/v1/generate"): OWN,
    ("POST", "/v1/images/generations"): OWN,
    ("GET", "/v1/jobs/{job_id}"): JOB,
    ("DELETE", "/v1/jobs/{job_id}"): JOB,
    ("GET", "/v1/jobs/{job_id}/events"): JOB,
    ("GET", "/v1/jobs/{job_id}/images/{index}"): JOB,
    ("GET", "/v1/jobs/{job_id}/live"): JOB,
}
# What might get somebody in who should not.
TRICKS = (
    {},
    {"Last-Event-ID": "0-0"},
    {"Last-Event-ID": "end"},
    {"Accept": "text/event-stream"},
    {"Accept": "image/png"},
    {"Prefer": "respond-async"},
    {"X-Forwarded-User": "ada"},
    {"X-HTTP-Method-Override": "GET"},
    {"If-None-Match": "*"},
    {"Range": "bytes=0-10"},
)


@dataclass
class Two:
    """One gateway where keys are needed, two tenants, and a job of the first."""

    gateway: object
    ada: dict
    bob: dict
    job_id: str

    def ask(self, method, path, headers, job_id=None, **options):
        fill = {"job_id": job_id or self.job_id, "index": 0, "model": self.gateway.model, "name": "main.js"}
        if method == "POST":
            options = {"json": {"prompt": "a red apple"}} | options
        return self.gateway.client.request(method, path.format(**fill), headers=headers, **options)


@pytest.fixture(scope="module")
def two(embedded_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with running_gateway(embedded_server.url, folder, "owned", "spare", require_keys="always") as gateway:
        ada, bob = [{"Authorization": f"Bearer {gateway.key_of(f'{name}-{secrets.token_hex(4)}')}"} for name in "ab"]
        response = gateway.generate(headers=ada | {"Prefer": "respond-async"}, seed=7)
        job_id = response.json()["id"]
        wait_until(lambda: gateway.client.get(f"/v1/jobs/{job_id}", headers=ada).json()["state"] == "done")
        yield Two(gateway, ada, bob, job_id)


def decided(*kinds):
    return [route for route in ROUTES if DECISIONS.get(route) in kinds]


def test_about_every_route_it_is_decided_who_may_ask():
    assert set(DECISIONS) == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), decided(OPEN))
def test_what_is_open_is_open(two, method, path):
    assert two.ask(method, path, {}).status_code == 200
    assert two.ask(method, path, {"Authorization": "Bearer wrong"}).status_code == 200


@pytest.mark.parametrize(("method", "path"), decided(KEY, OWN, JOB))
def test_everything_else_asks_for_a_key(two, method, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        for trick in TRICKS:
            response = two.ask(method, path, headers | trick)
            assert response.status_code == 401, trick
            assert response.json()["error"]["type"] == "authentication_error"
            assert two.job_id not in response.text
    assert two.ask(method, path, two.ada).status_code == 200


@pytest.mark.parametrize(("method", "path"), decided(JOB))
def test_anothers_job_is_404_and_looks_like_one_that_never_was(two, method, path):
    never = "f" * 32
    for trick in TRICKS:
        response, nothing = [two.ask(method, path, two.bob | trick, job_id) for job_id in (two.job_id, never)]
        assert response.status_code == nothing.status_code == 404, trick
        assert response.json()["error"]["code"] == "job_not_found"
        assert response.text.replace(two.job_id, never) == nothing.text
        told = {name for name in response.headers if name not in ("date", "x-request-id")}
        assert told == {name for name in nothing.headers if name not in ("date", "x-request-id")}
    for query in ("?index=0", "?pictures=false&previews=false", "?format=webp", "?signature=x&expires=9999999999"):
        assert two.ask(method, path + query, two.bob).status_code in (400, 403, 404)
    assert two.ask(method, path, two.ada).status_code == 200
    state = two.gateway.client.get(f"/v1/jobs/{two.job_id}", headers=two.ada).json()["state"]
    assert state == "done"


def test_lists_hold_ones_own_alone(two):
    for query in ("", f"?after={two.job_id}", "?state=done", "?limit=100"):
        response = two.ask("GET", "/v1/jobs" + query, two.bob)
        if response.status_code == 200:
            assert two.job_id not in response.text
        else:
            assert response.json()["error"]["param"] == "after"  # as for an id that never was
    assert two.job_id in two.ask("GET", "/v1/jobs", two.ada).text


def test_a_job_under_way_can_neither_be_watched_nor_cancelled_by_another(two):
    worker = two.gateway.worker
    worker.is_holding = True
    try:
        headers = two.ada | {"Prefer": "respond-async"}
        job_id = two.gateway.generate(headers=headers, seed=8).json()["id"]
        path = f"/v1/jobs/{job_id}"
        wait_until(lambda: two.gateway.client.get(path, headers=two.ada).json()["state"] == "running")
        for method, route in decided(JOB):
            assert two.ask(method, route, two.bob, job_id).status_code == 404
        assert two.gateway.client.get(path, headers=two.ada).json()["state"] == "running"
    finally:
        worker.is_holding = False
    wait_until(lambda: two.gateway.client.get(path, headers=two.ada).json()["state"] == "done")


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/images/generations"])
def test_one_idempotency_key_of_two_tenants_is_two_keys(two, path):
    key = {"Idempotency-Key": f"order-{secrets.token_hex(4)}"}
    ids = [two.ask("POST", path, headers | key).headers["x-job-id"] for headers in (two.ada, two.bob, two.ada)]
    assert ids[0] == ids[2] != ids[1]
    other = two.ask("POST", path, two.bob | key, json={"prompt": "another"})
    assert other.status_code == 422  # by bob's own first request, not by ada's
    assert ids[0] not in other.text


def test_identical_requests_of_two_tenants_are_drawn_twice(two):
    worker = two.gateway.worker
    worker.is_holding = True
    try:
        headers = {"Prefer": "respond-async"}
        ids = [two.gateway.generate(headers=one | headers, seed=99).json()["id"] for one in (two.ada, two.bob, two.ada)]
        assert ids[0] == ids[2] != ids[1]
    finally:
        worker.is_holding = False
    for job_id, one in zip(ids, (two.ada, two.bob), strict=False):
        wait_until(lambda j=job_id, o=one: two.gateway.client.get(f"/v1/jobs/{j}", headers=o).json()["state"] == "done")
    assert two.gateway.client.get(f"/v1/jobs/{ids[0]}", headers=two.bob).status_code == 404


def test_a_signed_link_needs_no_key_and_opens_nothing_else(two):
    body = {"prompt": "a red apple", "response_format": "url"}
    url = two.ask("POST", "/v1/images/generations", two.ada, json=body).json()["data"][0]["url"]
    assert two.gateway.client.get(url).status_code == 200
    job = url.partition("/images/")[0]
    for tail in ("", "/events", "/live", "/images/0"):
        assert two.gateway.client.get(job + tail).status_code == 401
    query = "?" + url.partition("?")[2]
    assert two.gateway.client.get(f"/v1/jobs/{two.job_id}/images/0{query}").status_code == 403


def test_no_model_of_the_service_makes_a_difference(two):
    """A job is looked for in every model's queue: another's stays hidden in all of them."""
    headers = two.bob | {"Prefer": "respond-async"}
    other = two.gateway.generate(headers=headers, model="spare", seed=1)
    assert other.status_code in (202, 503)
    if other.status_code == 202:
        path = f"/v1/jobs/{other.json()['id']}"
        assert two.gateway.client.get(path, headers=two.ada).status_code == 404
        assert two.gateway.client.delete(path, headers=two.ada).status_code == 404
        assert two.gateway.client.delete(path, headers=two.bob).status_code == 200
