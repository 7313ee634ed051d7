"""Identical requests under way share one generation, and each is answered and counted for itself."""

import gc
import socket
import threading

import pytest

from service.jobs import Failed
from tests.gateway.harness import wait_until

ASYNC = {"Prefer": "respond-async"}
PNG = {"Accept": "image/png"}


class Waiting(threading.Thread):
    """A synchronous request in a thread of its own."""

    def __init__(self, gateway, **fields):
        super().__init__()
        self._send = lambda: gateway.generate(**({"seed": 7} | fields))
        self.response = None
        self.start()

    def run(self):
        self.response = self._send()

    def get(self):
        self.join(20)
        assert self.response is not None, "no answer"
        return self.response


@pytest.fixture
def painter(gateway):
    """Holds what it is given."""
    gateway.worker.is_holding = True
    yield gateway
    worker = gateway.worker
    worker.is_claiming, worker.is_holding, worker.failure = True, False, None
    wait_until(gateway.is_idle)
    worker.seen.clear()


def watches(gateway):
    return list(gateway.gateway.waiters._watches.values())


def num_wanted(gateway):
    return sum(watch.num_wanted for watch in watches(gateway))


def requests_total(gateway, status):
    return gateway.value("requests_total", model=gateway.model, status=status)


def look_ups(gateway, result):
    return gateway.value("cache_events_total", cache="generation", result=result)


def hang_up_after(gateway, num_before, body=b'{"prompt": "a red apple", "seed": 7}'):
    """A client that asks, is taken in, and goes."""
    with socket.create_connection((gateway.client.base_url.host, gateway.client.base_url.port)) as connection:
        connection.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until(lambda: num_wanted(gateway) == num_before + 1)


def test_a_crowd_of_identical_requests_is_drawn_once_and_everybody_gets_the_picture(painter):
    hits, misses, successes = look_ups(painter, "hit"), look_ups(painter, "miss"), requests_total(painter, "success")
    crowd = [Waiting(painter, headers=PNG) for _ in range(12)]
    wait_until(lambda: num_wanted(painter) == 12)
    assert len(watches(painter)) == 1
    painter.worker.is_holding = False
    responses = [waiting.get() for waiting in crowd]
    (job,) = painter.worker.seen
    assert {response.headers["x-job-id"] for response in responses} == {job.id}
    assert len({response.content for response in responses}) == 1
    assert (look_ups(painter, "hit"), look_ups(painter, "miss")) == (hits + 11, misses + 1)
    wait_until(lambda: requests_total(painter, "success") == successes + 12)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"seed": None},
        {"prompt": "another"},
        {"n": 2},
        {"num_inference_steps": 5},
        {"negative_prompt": "fog"},
        {"clean_prompt": False},
        {"size": "32x48"},
        {"priority": "high"},
        {"partial_images": 1},
        {"previews": True},
    ],
)
def test_what_differs_in_anything_that_matters_is_drawn_by_itself(painter, change):
    first, second = painter.submit(seed=7), painter.submit(**({"seed": 7} | change))
    assert first != second


def test_requests_without_a_seed_are_drawn_each_for_itself(painter):
    assert painter.submit() != painter.submit()


def test_another_owners_request_is_drawn_by_itself(painter):
    own = painter.submit(seed=7)
    with painter.as_somebody_else():
        assert painter.submit(seed=7) != own


def test_what_is_done_is_not_shared_any_more(painter):
    painter.worker.is_holding = False
    first = painter.submit(seed=7)
    painter.wait_for_state(first, "done")
    wait_until(lambda: not watches(painter))
    assert painter.submit(seed=7) != first


@pytest.mark.parametrize(("first_s", "second_s", "is_shared"), [(30, 40, True), (30, 41, False), (30, 29, False)])
def test_a_request_joins_where_it_loses_no_more_than_a_quarter_of_its_time_and_gains_none(
    painter, first_s, second_s, is_shared
):
    first = painter.submit(seed=7, timeout_s=first_s + 0.5)
    assert (painter.submit(seed=7, timeout_s=second_s) == first) == is_shared


def test_asynchronous_requests_and_streams_share_too(painter):
    waiting = Waiting(painter, headers=PNG)
    wait_until(lambda: painter.worker.held)
    (job_id,) = painter.worker.held
    response = painter.generate(seed=7, headers=ASYNC)
    assert response.status_code == 202
    assert (response.json()["id"], response.json()["state"]) == (job_id, "running")
    stream = Waiting(painter, headers={"Accept": "text/event-stream"})
    wait_until(lambda: num_wanted(painter) == 3)
    painter.worker.is_holding = False
    assert stream.get().headers["x-job-id"] == job_id
    assert "event: done\n" in stream.get().text
    assert waiting.get().headers["x-job-id"] == job_id


def test_both_routes_share(painter):
    waiting = Waiting(painter)
    wait_until(lambda: painter.worker.held)
    body = {"prompt": "a red apple", "seed": 7, "stream": True}
    answers = []
    stream = threading.Thread(target=lambda: answers.append(painter.client.post("/v1/images/generations", json=body)))
    stream.start()
    wait_until(lambda: num_wanted(painter) == 2)
    painter.worker.is_holding = False
    stream.join(20)
    assert answers[0].headers["x-job-id"] == waiting.get().headers["x-job-id"]
    assert "image_generation.completed" in answers[0].text


def test_a_client_that_hangs_up_leaves_the_picture_to_the_others(painter):
    cancelled, successes = requests_total(painter, "cancelled"), requests_total(painter, "success")
    staying = Waiting(painter)
    wait_until(lambda: painter.worker.held)
    hang_up_after(painter, 1)
    wait_until(lambda: num_wanted(painter) == 1)
    assert requests_total(painter, "cancelled") == cancelled + 1
    painter.worker.is_holding = False
    assert staying.get().status_code == 200
    wait_until(lambda: requests_total(painter, "success") == successes + 1)
    assert requests_total(painter, "cancelled") == cancelled + 1


def test_also_the_one_that_came_first_can_leave(painter):
    with socket.create_connection((painter.client.base_url.host, painter.client.base_url.port)) as connection:
        body = b'{"prompt": "a red apple", "seed": 7}'
        connection.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until(lambda: painter.worker.held)
        staying = Waiting(painter)
        wait_until(lambda: num_wanted(painter) == 2)
    wait_until(lambda: num_wanted(painter) == 1)
    painter.worker.is_holding = False
    assert staying.get().status_code == 200


def test_when_the_last_one_hangs_up_the_job_is_cancelled_and_nobody_joins_it(painter):
    cancelled = requests_total(painter, "cancelled")
    painter.worker.is_claiming = False
    hang_up_after(painter, 0)
    wait_until(lambda: requests_total(painter, "cancelled") == cancelled + 1)
    painter.worker.is_claiming, painter.worker.is_holding = True, False
    assert painter.generate(seed=7).status_code == 200


def test_an_explicit_cancel_ends_it_for_all_and_nobody_joins_it_any_more(painter):
    crowd = [Waiting(painter) for _ in range(3)]
    wait_until(lambda: painter.worker.held and num_wanted(painter) == 3)
    (job_id,) = painter.worker.held
    assert painter.client.delete(f"/v1/jobs/{job_id}").status_code in (200, 202)
    painter.worker.is_claiming = False
    other = painter.submit(seed=7)
    assert other != job_id
    for waiting in crowd:
        assert waiting.get().json()["error"]["code"] == "cancelled"
        assert waiting.get().headers["x-job-id"] == job_id
    painter.client.delete(f"/v1/jobs/{other}")


def test_a_failure_is_everybodys(painter):
    errors = requests_total(painter, "error")
    crowd = [Waiting(painter) for _ in range(3)]
    wait_until(lambda: painter.worker.held and num_wanted(painter) == 3)
    painter.worker.failure = Failed("out_of_memory", "no room")
    painter.worker.is_holding = False
    assert {waiting.get().json()["error"]["code"] for waiting in crowd} == {"out_of_memory"}
    wait_until(lambda: requests_total(painter, "error") == errors + 3)


def test_a_refusal_is_everybodys_and_leaves_nothing(start_gateway):
    with start_gateway(queue_capacity=1) as gateway:
        gateway.worker.is_claiming = False
        filler = gateway.submit()
        crowd = [Waiting(gateway) for _ in range(5)]
        assert {waiting.get().status_code for waiting in crowd} == {429}
        assert requests_total(gateway, "rejected") == 5
        assert [watch.job.id for watch in watches(gateway)] == [filler]
        gateway.client.delete(f"/v1/jobs/{filler}")


def test_a_request_with_a_key_of_its_own_is_a_job_of_its_own(painter):
    first = painter.submit(seed=7)
    response = painter.generate(seed=7, headers=ASYNC | {"Idempotency-Key": "sharing"})
    assert response.json()["id"] != first


def test_nothing_is_remembered_of_generations_that_are_over(painter):
    painter.worker.is_holding = False
    painter.generate(seed=7)
    painter.wait_for_state(painter.submit(seed=8), "done")
    painter.worker.failure = Failed("broken", "no")
    painter.generate(seed=9)

    def num_remembered():
        gc.collect()  # an error's traceback keeps what it passed through until then
        return len(painter.gateway.sharing._under_way)

    wait_until(lambda: num_remembered() <= 1)  # the reader of the inbox has still the last one in its hands
