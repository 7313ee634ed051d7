"""Clients that say exactly the bytes that a test wants, and the answers as bytes."""

import json
import socket
import time
from contextlib import suppress


def connect(gateway, *, receive_buffer=None):
    """A connection of its own. A small receive buffer makes a reader that is slow for its sender too."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(20)
    client.connect((gateway.client.base_url.host, gateway.client.base_url.port))
    return client


def read_to_end(client):
    """Everything until the other side closes, a reset counts as that."""
    answer = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            answer += chunk
    return answer


def read_one(client):
    """One answer that says its length, on a connection that stays open."""
    answer = b""
    while b"\r\n\r\n" not in answer or len(split(answer)[2]) < int(split(answer)[1]["content-length"]):
        chunk = client.recv(65536)
        assert chunk, answer
        answer += chunk
    return answer


def send_raw(gateway, data):
    """Everything that comes back for these bytes."""
    with connect(gateway) as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(data)
        return read_to_end(client)


def drip(client, data, pause_s, deadline_s=20.0):
    """Send byte by byte until the other side has closed; how long that took."""
    began_at_s = time.monotonic()
    client.settimeout(pause_s)
    for byte in data:
        if time.monotonic() - began_at_s > deadline_s:
            break
        try:
            client.sendall(bytes([byte]))
            if not client.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began_at_s


def split(answer):
    """Status, headers and body of the one response in `answer`."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split(" ")[1]), headers, body


def error_in(answer):
    """The error's code; fails unless it comes in the one shape, with the headers that every response has."""
    status, headers, body = split(answer)
    assert status >= 400, answer
    assert headers["content-type"] == "application/json", answer
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"]
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].isprintable()
    assert len(error["message"]) < 500
    return error["code"]


def request(method, target, *headers, body=b"", version="1.1"):
    """A request as bytes."""
    head = "\r\n".join((f"{method} {target} HTTP/{version}", "Host: x", *headers, "", ""))
    return head.encode("latin-1") + body
