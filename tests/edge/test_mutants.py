"""Requests of every route, spoilt in bytes, values, headers and paths: none is a fault of ours, none is told on."""

import logging
import re
import secrets
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from service.gateway.app import ROUTERS
from tests.edge.mutants import mutants, valid_requests
from tests.edge.sockets import connect, error_in, read_to_end, split

OURS = ("service", "uvicorn", "asyncio", "emmdit")


@pytest.fixture
def own_log(caplog):
    """What the gateway logs, down to the last word; the tests' own client logs too."""
    caplog.set_level(logging.DEBUG)

    def text():
        return "\n".join(
            f"{record.getMessage()} {record.exc_text or ''}"
            for record in caplog.records
            if record.name.startswith(OURS)
        )

    return text


def try_mutants(start_gateway, own_log, caplog, seed, num):
    """How often each status came."""
    told = tuple(secrets.token_hex(12) for _ in range(3))
    statuses = Counter()
    with start_gateway(body_timeout_s=0.3, header_timeout_s=0.3, queue_capacity=1000) as gateway:
        gateway.server.config.timeout_keep_alive = 0.05
        gateway.client.headers["Connection"] = "close"  # one that is kept may be closed as the next request is sent
        gateway.submit(n=1)
        job_id = gateway.submit()
        gateway.wait_for_state(job_id, "done")
        spoilt = mutants(seed, num, valid_requests(gateway.model, job_id, told))
        with ThreadPoolExecutor(8) as clients:  # most of the time is waiting for what a request does not say
            statuses.update(clients.map(lambda raw: judge(raw, answer_to(gateway, raw)), spoilt))
        assert gateway.generate().status_code == 200
        page = gateway.client.get("/metrics").text
        assert len(re.findall(r"^emmdit_http_requests_total", page, re.MULTILINE)) < 400  # closed sets of labels
    for secret in told:
        assert secret not in own_log()
        assert secret not in page
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], own_log()[-3000:]
    return statuses


def answer_to(gateway, raw):
    with connect(gateway) as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(raw)
        return read_to_end(client)


def judge(raw, answer):
    """The answer's status, 0 where there was none. Fails where it is no proper one."""
    if not answer:
        return 0  # cut off, or reset while it was still sending
    status, headers, _ = split(answer)
    assert status < 500 or status in (503, 504), (raw, answer)
    if status >= 400 and status != 499 and not raw.lstrip().startswith(b"HEAD"):
        head, _, body = answer.partition(b"\r\n\r\n")
        error_in(head + b"\r\n\r\n" + body[: int(headers["content-length"])])
    return status


def test_there_is_a_valid_request_of_every_route():
    valid = valid_requests("painter", "0" * 32, ("a", "b", "c"))
    for router in ROUTERS:
        for route in router.routes:
            known = [
                request
                for request in valid
                if request.method in route.methods and route.path_regex.match(request.target.partition("?")[0])
            ]
            assert known, route.path


def test_mutants_are_the_same_for_the_same_seed():
    valid = valid_requests("painter", "0" * 32, ("a", "b", "c"))
    assert list(mutants(5, 50, valid)) == list(mutants(5, 50, valid))
    assert list(mutants(5, 50, valid)) != list(mutants(6, 50, valid))


def test_valid_requests_are_served(start_gateway):
    with start_gateway() as gateway:
        job_id = gateway.submit()
        gateway.wait_for_state(job_id, "done")
        for request in valid_requests(gateway.model, job_id, ("a red apple", "key", "0" * 32)):
            with connect(gateway) as client:
                client.sendall(request.to_bytes())
                assert split(read_to_end(client))[0] in (200, 202, 204, 400, 403, 404), request


def test_hundreds_of_spoilt_requests_do_no_harm(start_gateway, own_log, caplog):
    statuses = try_mutants(start_gateway, own_log, caplog, seed=1, num=200)
    assert {200, 400, 404, 405} <= set(statuses)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10, 20))
def test_thousands_of_spoilt_requests_do_no_harm(start_gateway, own_log, caplog, seed):
    statuses = try_mutants(start_gateway, own_log, caplog, seed, num=1000)
    assert {200, 400, 404, 405} <= set(statuses)
