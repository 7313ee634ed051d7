"""What every response has in common, whatever was asked."""

import logging
import socket

import pytest

from service.errors import EmmditError
from tests.gateway.harness import wait_until


def send_raw(gateway, data):
    """Everything that comes back for these bytes on a connection of their own."""
    with socket.create_connection((gateway.client.base_url.host, gateway.client.base_url.port)) as connection:
        connection.settimeout(10)
        connection.sendall(data)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_an_unknown_path_is_404_in_the_one_shape(gateway):
    response = gateway.client.get("/v1/pictures?x=1")
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "no route '/v1/pictures'",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/generate", "POST"),
        ("PUT", "/v1/generate", "POST"),
        ("OPTIONS", "/v1/generate", "POST"),
        ("BREW", "/v1/generate", "POST"),
        ("POST", "/v1/jobs/x", "DELETE, GET"),
        ("DELETE", "/v1/jobs/x/images/0", "GET"),
        ("DELETE", "/v1/models", "GET"),
        ("POST", "/metrics", "GET"),
    ],
)
def test_a_wrong_method_is_405_and_the_right_ones_are_named(gateway, method, path, allowed):
    response = gateway.client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert response.json()["error"]["code"] == "method_not_allowed"
    assert response.json()["error"]["message"].endswith(f"allowed: {allowed}")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz", "/v1/models", "/nowhere", "/v1/generate"])
def test_every_response_has_an_id_and_the_security_headers(gateway, path):
    headers = gateway.client.get(path).headers
    assert len(headers["x-request-id"]) == 32
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


@pytest.mark.parametrize("request_id", ["abc", "0190-a.b_c~d:e", "x" * 128])
def test_a_clients_own_request_id_comes_back(gateway, request_id):
    assert gateway.client.get("/livez", headers={"X-Request-ID": request_id}).headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a b", "a\tb", b"\xe9", "a,b", '{"a":1}'])
def test_a_request_id_that_could_do_harm_in_a_log_is_replaced(gateway, request_id):
    given = gateway.client.get("/livez", headers={"X-Request-ID": request_id}).headers["x-request-id"]
    assert given != request_id
    assert len(given) == 32


def test_an_unforeseen_failure_is_500_without_a_word_about_its_cause(gateway, monkeypatch, caplog):
    def fail(**_):
        raise RuntimeError("the secret is swordfish")

    monkeypatch.setattr("service.gateway.models.ModelBody", fail)
    response = gateway.client.get("/v1/models", headers={"X-Request-ID": "find-me"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert response.json()["error"]["type"] == "server_error"
    assert "swordfish" not in response.text
    assert response.headers["x-request-id"] == "find-me"
    wait_until(lambda: "swordfish" in caplog.text)
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failures) == 1
    assert "find-me" in failures[0].getMessage()


def test_an_error_that_only_an_operator_can_mend_is_logged_once(gateway, monkeypatch, caplog):
    async def fail(*_):
        raise EmmditError("the queue's server reports an error: swordfish")

    monkeypatch.setattr("service.queue.JobQueue.status", fail)
    response = gateway.client.get(f"/v1/jobs/{'0' * 32}", headers={"X-Request-ID": "find-me"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "swordfish" not in response.text
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "request_id=find-me failed: internal_error"
    ]


def test_a_large_body_is_refused_on_its_announcement_before_any_of_it_comes(gateway):
    """The client waits for `100 Continue`, as curl does, and gets 413 instead."""
    answer = send_raw(
        gateway,
        b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 5000000\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer
    assert b"body_too_large" in answer


def test_an_endless_body_ends_with_the_connection(gateway):
    """Chunks go on after the 413: a bounded rest is thrown away, then the connection is closed."""
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with socket.create_connection((gateway.client.base_url.host, gateway.client.base_url.port)) as connection:
        connection.settimeout(10)
        connection.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(chunk * 4000)


def test_a_body_for_a_route_that_reads_none_is_thrown_away(gateway):
    response = gateway.client.post("/nowhere", content=b"x" * 3_000_000)
    assert response.status_code == 404
    assert response.headers["connection"] == "close"
    assert gateway.client.get("/livez").status_code == 200


def test_a_body_that_comes_too_slowly_is_408(start_gateway):
    with start_gateway(body_timeout_s=0.2, has_worker=False) as gateway:
        answer = send_raw(
            gateway,
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
        )
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in answer


def test_connections_are_kept_alive(gateway):
    assert gateway.generate().headers.get("connection") != "close"
    assert gateway.generate(n=0).headers.get("connection") != "close"
