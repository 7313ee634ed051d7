"""Nobody holds a place at the gateway for free: heads and readers have deadlines, and places run out honestly."""

import asyncio
import socket
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from service.errors import ConfigurationError
from service.gateway import connections, server
from tests.edge.sockets import connect, drip, error_in, read_one, read_to_end, request, send_raw, split
from tests.gateway.harness import wait_until

PROBE = request("GET", "/livez", "Connection: close")


def cut(gateway, reason):
    return gateway.value("http_connections_cut_total", reason=reason)


def num_open(gateway):
    return gateway.value("http_connections")


def test_who_says_nothing_is_closed_without_a_word(start_gateway):
    with start_gateway(header_timeout_s=0.3, has_worker=False) as gateway, connect(gateway) as silent:
        assert read_to_end(silent) == b""
        assert cut(gateway, "slow_head") == 1


def test_who_drips_a_head_gets_408_and_others_notice_nothing(start_gateway):
    with start_gateway(header_timeout_s=0.5, has_worker=False) as gateway, connect(gateway) as slow:
        slow.sendall(b"GET /livez HTTP/1.1\r\n")
        answers = []
        dripping = threading.Thread(target=lambda: answers.append(_drip_and_read(slow)))
        dripping.start()
        while dripping.is_alive():
            assert gateway.client.get("/livez").status_code == 200
        answer = answers[0]
        assert answer.startswith(b"HTTP/1.1 408")
        assert error_in(answer) == "request_timeout"
        assert cut(gateway, "slow_head") == 1
        wait_until(lambda: num_open(gateway) == 1)  # the client's own


def _drip_and_read(client):
    client.settimeout(0.05)
    answer = b""
    for byte in b"X-Slow: " + b"a" * 300:
        try:
            client.sendall(bytes([byte]))
            if not (chunk := client.recv(65536)):
                break
            answer += chunk
        except TimeoutError:
            continue
        except OSError:
            break
    return answer


def test_a_later_head_has_a_deadline_from_its_first_byte_and_idling_has_none_of_it(start_gateway):
    with start_gateway(header_timeout_s=0.4, has_worker=False) as gateway, connect(gateway) as client:
        client.sendall(request("GET", "/livez"))
        assert split(read_one(client))[0] == 200
        time.sleep(0.8)  # idle for twice the deadline
        client.sendall(request("GET", "/livez"))
        assert split(read_one(client))[0] == 200
        client.sendall(b"GET /li")
        assert error_in(read_to_end(client)) == "request_timeout"


def test_a_head_in_pieces_that_comes_in_time_is_served(start_gateway):
    with start_gateway(header_timeout_s=10, has_worker=False) as gateway, connect(gateway) as client:
        for start in range(0, len(PROBE), 7):
            client.sendall(PROBE[start : start + 7])
            time.sleep(0.002)
        assert split(read_to_end(client))[0] == 200
        assert cut(gateway, "slow_head") == 0


def test_a_dripped_body_ends_at_its_deadline_however_lively_it_drips(start_gateway):
    with start_gateway(body_timeout_s=0.4, has_worker=False) as gateway, connect(gateway) as client:
        client.sendall(request("POST", "/v1/generate", "Content-Type: application/json", "Content-Length: 1000"))
        assert drip(client, b" " * 1000, pause_s=0.02) < 15
        assert gateway.client.get("/livez").status_code == 200
        assert gateway.value("http_requests_total", method="POST", route="/v1/generate", code="408") == 1


@pytest.fixture
def big_picture(monkeypatch):
    """Pictures of three megabytes, which no kernel's buffers swallow."""
    monkeypatch.setattr("service.gateway.pictures.load_to_send", _load_much)


async def _load_much(*_):
    return (b"\x89PNG" + bytes(3_000_000),)


def test_a_reader_that_takes_nothing_is_cut_and_the_picture_stays(start_gateway, big_picture):
    with start_gateway(write_timeout_s=0.5) as gateway:
        job_id = gateway.submit()
        gateway.wait_for_state(job_id, "done")
        path = f"/v1/jobs/{job_id}/images/0"
        with connect(gateway, receive_buffer=4096) as lazy:
            lazy.sendall(request("GET", path))
            wait_until(lambda: cut(gateway, "slow_reader") == 1)
            wait_until(lambda: num_open(gateway) == 1)
            assert len(read_to_end(lazy)) < 1_000_000
        assert len(gateway.client.get(path).content) == 3_000_004


def test_a_reader_that_takes_a_little_now_and_then_is_cut_too(start_gateway, big_picture):
    with start_gateway(write_timeout_s=0.5) as gateway:
        job_id = gateway.submit()
        gateway.wait_for_state(job_id, "done")
        with connect(gateway, receive_buffer=4096) as lazy:
            lazy.sendall(request("GET", f"/v1/jobs/{job_id}/images/0"))

            def sip():
                lazy.recv(64)
                return cut(gateway, "slow_reader") == 1

            wait_until(sip)


@pytest.mark.slow
def test_a_reader_that_is_merely_slow_gets_everything(start_gateway, big_picture):
    with start_gateway(write_timeout_s=1.0) as gateway:
        job_id = gateway.submit()
        gateway.wait_for_state(job_id, "done")
        with connect(gateway, receive_buffer=65536) as slow:
            slow.sendall(request("GET", f"/v1/jobs/{job_id}/images/0", "Connection: close"))
            answer = b""
            while chunk := slow.recv(65536):
                answer += chunk
                time.sleep(0.03)  # two seconds in all, twice the deadline
        assert len(split(answer)[2]) == 3_000_004
        assert cut(gateway, "slow_reader") == 0


def test_what_waits_for_a_slow_reader_is_bounded(start_gateway, big_picture):
    """Of a stream nothing is made that nobody takes; of an answer no more is held than the answer and the kernel's."""
    with start_gateway(write_timeout_s=30) as gateway:
        job_id = gateway.submit()
        gateway.wait_for_state(job_id, "done")
        with connect(gateway, receive_buffer=4096) as lazy:
            lazy.sendall(request("GET", f"/v1/jobs/{job_id}/images/0"))

            async def waiting():
                return [one.transport.get_write_buffer_size() for one in gateway.server.server_state.connections]

            wait_until(lambda: max(gateway.call(waiting()), default=0) > 0)
            assert max(gateway.call(waiting())) < 3_001_000


def test_a_stream_that_nobody_reads_is_cut_and_its_job_can_still_be_fetched(start_gateway, monkeypatch):
    async def endless(*_, **__):
        while True:
            await asyncio.sleep(0)
            yield b"data: " + b"x" * 60_000 + b"\n\n"

    monkeypatch.setattr("service.gateway.events.event_stream", endless)
    with start_gateway(write_timeout_s=0.5) as gateway:
        job_id = gateway.submit()
        with connect(gateway, receive_buffer=4096) as lazy:
            lazy.sendall(request("GET", f"/v1/jobs/{job_id}/events"))
            wait_until(lambda: cut(gateway, "slow_reader") == 1)
        assert gateway.wait_for_state(job_id, "done")
        assert gateway.client.get(f"/v1/jobs/{job_id}/images/0").status_code == 200


def test_idle_connections_make_room_the_oldest_first(start_gateway):
    with start_gateway(max_connections=4, has_worker=False) as gateway, ExitStack() as stack:
        idle = []
        for number in range(4):
            idle.append(stack.enter_context(connect(gateway)))
            wait_until(lambda number=number: num_open(gateway) >= min(number + 1, 4))
        assert split(send_raw(gateway, PROBE))[0] == 200
        assert cut(gateway, "made_room") >= 1
        assert read_to_end(idle[0]) == b""
        idle[3].sendall(PROBE)
        assert split(read_to_end(idle[3]))[0] == 200


def test_slow_heads_by_the_hundred_lock_nobody_out(start_gateway):
    """Slowloris: more of them than there are places."""
    with start_gateway(max_connections=40, header_timeout_s=5, has_worker=False) as gateway, ExitStack() as stack:
        for _ in range(150):
            slow = stack.enter_context(connect(gateway))
            slow.sendall(b"GET / HTTP/1.1\r\nX-a: b\r\n")
        for _ in range(10):
            with httpx.Client(base_url=gateway.base_url, timeout=10) as client:
                assert client.get("/livez").status_code == 200
                assert client.get("/v1/models").status_code == 200
        assert num_open(gateway) <= 41


def test_where_all_places_are_busy_newcomers_get_503_and_probes_their_answer(start_gateway):
    with start_gateway(max_connections=3) as gateway, ExitStack() as stack:
        gateway.worker.is_holding = True
        gateway.client.close()
        body = b'{"prompt": "a red apple"}'
        generate = request(
            "POST", "/v1/generate", "Content-Type: application/json", f"Content-Length: {len(body)}", body=body
        )
        waiting = []
        for number in range(3):
            waiting.append(stack.enter_context(connect(gateway)))
            waiting[-1].sendall(generate)
            wait_until(lambda number=number: gateway.call(gateway.queue.stats()).num_running == number + 1)
        answer = send_raw(gateway, request("GET", "/v1/models"))
        status, headers, _ = split(answer)
        assert (status, error_in(answer)) == (503, "server_is_overloaded")
        assert headers["connection"] == "close"
        assert int(headers["retry-after"]) >= 1
        for path in ("/livez", "/readyz", "/startupz", "/metrics"):
            assert split(send_raw(gateway, request("GET", path, "Connection: close")))[0] == 200
        gateway.worker.is_holding = False
        for client in waiting:
            assert split(read_one(client))[0] == 200


def test_beyond_the_reserve_connections_are_closed_at_once(start_gateway, monkeypatch):
    monkeypatch.setattr(connections, "RESERVED_CONNECTIONS", 0)
    with start_gateway(max_connections=1) as gateway, connect(gateway) as waiting:
        gateway.worker.is_holding = True
        gateway.client.close()
        body = b'{"prompt": "a red apple"}'
        waiting.sendall(
            request("POST", "/v1/generate", "Content-Type: application/json", f"Content-Length: {len(body)}", body=body)
        )
        wait_until(lambda: gateway.call(gateway.queue.stats()).num_running == 1)
        assert send_raw(gateway, PROBE) == b""
        assert cut(gateway, "refused") == 1
        gateway.worker.is_holding = False
        assert split(read_one(waiting))[0] == 200


def test_one_address_cannot_take_all_places_where_it_is_told_not_to(start_gateway):
    with start_gateway(max_connections_per_address=2, has_worker=False) as gateway:
        gateway.client.close()
        wait_until(lambda: num_open(gateway) == 0)
        with connect(gateway), connect(gateway):
            wait_until(lambda: num_open(gateway) == 2)
            assert send_raw(gateway, PROBE) == b""
            with socket.create_connection(
                (gateway.client.base_url.host, gateway.client.base_url.port), source_address=("127.0.0.2", 0)
            ) as other:
                other.settimeout(20)
                other.sendall(PROBE)
                assert split(read_to_end(other))[0] == 200
        assert cut(gateway, "refused") == 1
        wait_until(lambda: num_open(gateway) == 0)
        assert split(send_raw(gateway, PROBE))[0] == 200


def test_a_server_that_stops_does_not_wait_for_slow_heads(start_gateway):
    with start_gateway(has_worker=False) as gateway, ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connect(gateway)).sendall(b"GET / HT")
        gateway.loop.call_soon_threadsafe(gateway.server.stop)
        began_at_s = time.monotonic()
        wait_until(lambda: num_open(gateway) == 0)
        assert time.monotonic() - began_at_s < 8


def test_more_connections_than_files_are_refused_at_start_up():
    with pytest.raises(ConfigurationError, match="max_connections: 1000000000 needs"):
        server.make_room_for_files(10**9)
