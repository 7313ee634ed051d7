"""GET /v1/jobs: one's own jobs, newest first, page by page."""

import pytest

from tests.gateway.harness import wait_until


@pytest.fixture
def lister(start_gateway):
    with start_gateway(num_models=2) as gateway:
        yield gateway


def ids_of(gateway, **query):
    response = gateway.client.get("/v1/jobs", params=query)
    assert response.status_code == 200, response.text
    return [job["id"] for job in response.json()["data"]]


def test_without_jobs_the_list_is_empty(lister):
    assert lister.client.get("/v1/jobs").json() == {"object": "list", "data": [], "has_more": False, "last_id": None}


def test_jobs_of_all_models_are_listed_newest_first_as_they_show_themselves(lister):
    lister.worker.is_claiming = False
    ids = [lister.submit(model=model) for model in lister.gateway.models for _ in range(2)]
    assert ids_of(lister) == ids[::-1]
    lister.worker.is_claiming = True
    lister.wait_for_state(ids[1], "done")
    listed = lister.client.get("/v1/jobs").json()["data"]
    assert [job for job in listed if job["id"] == ids[1]] == [lister.job(ids[1])]
    assert listed[0]["position"] == 1


def test_pages_follow_one_another(lister):
    lister.worker.is_claiming = False
    ids = [lister.submit() for _ in range(5)][::-1]
    page = lister.client.get("/v1/jobs", params={"limit": 2}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"], page["last_id"]) == (ids[:2], True, ids[1])
    assert ids_of(lister, limit=2, after=page["last_id"]) == ids[2:4]
    page = lister.client.get("/v1/jobs", params={"limit": 2, "after": ids[3]}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"], page["last_id"]) == (ids[4:], False, ids[4])


def test_a_state_can_be_named(lister):
    done = lister.submit()
    lister.wait_for_state(done, "done")
    lister.worker.is_claiming = False
    queued, cancelled = lister.submit(), lister.submit()
    lister.client.delete(f"/v1/jobs/{cancelled}")
    assert ids_of(lister, state="done") == [done]
    assert ids_of(lister, state="queued") == [queued]
    assert ids_of(lister, state="cancelled") == [cancelled]
    assert ids_of(lister, state="running") == []


def test_somebody_elses_jobs_are_not_listed(lister):
    lister.worker.is_claiming = False
    own = lister.submit()
    with lister.as_somebody_else():
        assert ids_of(lister) == []
        other = lister.submit()
        assert ids_of(lister) == [other]
        response = lister.client.get("/v1/jobs", params={"after": own})
        assert response.json()["error"]["param"] == "after"
    assert ids_of(lister) == [own]


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("limit=0", "invalid_value", "limit"),
        ("limit=101", "invalid_value", "limit"),
        ("limit=1.5", "invalid_value", "limit"),
        ("limit=", "invalid_value", "limit"),
        ("limit=%D9%A3", "invalid_value", "limit"),
        ("state=resting", "invalid_value", "state"),
        ("state=", "invalid_value", "state"),
        ("after=" + "0" * 32, "invalid_value", "after"),
        ("after=" + "*" * 3000, "invalid_value", "after"),
        ("limit=1&limit=1", "duplicate_field", "limit"),
        ("offset=2", "unknown_field", "offset"),
    ],
)
def test_what_is_not_known_is_refused_by_name(gateway, query, code, param):
    response = gateway.client.get(f"/v1/jobs?{query}")
    assert response.status_code == 400
    assert (response.json()["error"]["code"], response.json()["error"]["param"]) == (code, param)
    assert "allowed: " in response.json()["error"]["message"]


def test_a_job_whose_time_is_over_is_not_listed(start_gateway):
    with start_gateway(result_ttl_s=0.2) as gateway:
        gateway.submit()
        wait_until(lambda: ids_of(gateway) == [])
