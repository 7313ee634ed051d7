"""Clients that take their time: 11 with reading, 12 with sending."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from service.settings import Settings
from tests.chaos.run import Row
from tests.chaos.scenarios.scene import body, draws, expect, served
from tests.chaos.stack import Nurseries
from tests.support.tiny_bundle import write_tiny_bundle

SLOW_LIMIT_S = 10.0  # promised for heads and bodies that do not come
WRITE_LIMIT_S = 30.0
MARGIN_S = 5.0
MAX_GROWTH_BYTES = 64 * 2**20
LARGE = "512x512"


async def slow_reader(nurseries: Nurseries) -> Row:
    """11: a client that asks for megabytes and reads nothing is cut off, and costs no memory to speak of."""
    row = Row(num_injected=1)
    settings = {"write_timeout_s": 4} if "write_timeout_s" in Settings.model_fields else {}
    with tempfile.TemporaryDirectory(prefix="chaos-bundle-") as folder:
        write_tiny_bundle(Path(folder), sizes=("64x64", LARGE), pos_embed_max_size=64)
        async with served(nurseries, bundle=Path(folder), settings=settings) as (stack, client):
            gateway = psutil.Process(stack.gateways[0].pid)
            before = gateway.memory_info().rss
            with _connect(client) as link:
                asked = httpx.Request("POST", stack.urls[0], json=body(1, size=LARGE, n=10)).read()
                link.sendall(
                    b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    + f"Content-Length: {len(asked)}\r\n\r\n".encode()
                    + asked
                )
                own_port = link.getsockname()[1]
                begun = await asyncio.to_thread(link.recv, 15)
                expect(row, begun == b"HTTP/1.1 200 OK", f"the answer begins with {begun!r}")
                began_s = time.monotonic()
                is_cut = False
                while not is_cut and time.monotonic() - began_s < WRITE_LIMIT_S + MARGIN_S:
                    await asyncio.sleep(0.2)
                    is_cut = not _is_open(gateway, own_port)
                row.recovery_s.append(time.monotonic() - began_s)
                expect(row, is_cut, f"a client that reads nothing is still served after {WRITE_LIMIT_S:.0f} s")
                growth = gateway.memory_info().rss - before
                expect(row, growth < MAX_GROWTH_BYTES, f"it cost the gateway {growth / 2**20:.0f} MiB")
            expect(row, await draws(client), "others were not served")
    return row


async def slow_sender(nurseries: Nurseries) -> Row:
    """12: a head or a body that trickles is refused or closed within ten seconds; others do not notice."""
    row = Row(num_injected=3)
    head = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\n"
    begun_body = head + b"Content-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
    async with served(nurseries) as (_, client):
        starts = {"a slow head": head, "a slow body": begun_body, "nothing at all": b""}
        trickling = [asyncio.create_task(asyncio.to_thread(_trickle, client, start)) for start in starts.values()]
        is_served = [await draws(client, seed=seed) for seed in range(20)]
        expect(row, all(is_served), "others were not served meanwhile")
        for what, task in zip(starts, trickling, strict=True):
            closed_after_s = await task
            expect(row, closed_after_s is not None, f"{what} keeps its connection")
            row.recovery_s.append(closed_after_s or 0.0)
    return row


def _trickle(client: httpx.AsyncClient, start: bytes) -> float | None:
    """Seconds until the server closed on somebody who sends a byte a second, or nothing where there was no start."""
    with _connect(client) as link:
        began_s = time.monotonic()
        link.settimeout(1.0)
        try:
            link.sendall(start)
            while time.monotonic() - began_s < SLOW_LIMIT_S + MARGIN_S:
                try:
                    if not link.recv(4096):
                        return time.monotonic() - began_s
                except TimeoutError:
                    link.sendall(b"x" if start else b"")
        except OSError:
            return time.monotonic() - began_s
    return None


def _connect(client: httpx.AsyncClient) -> socket.socket:
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect((client.base_url.host, client.base_url.port))
    return link


def _is_open(process: psutil.Process, port: int) -> bool:
    """Whether the process has a connection to this port of ours."""
    return any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp"))


SCENARIOS = {11: slow_reader, 12: slow_sender}
