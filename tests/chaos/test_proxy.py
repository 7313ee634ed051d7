"""The wire that faults are done to, between a real client and a real server."""

import asyncio
import time

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import TimeoutError as NoReply

from tests.chaos.proxy import Wire
from tests.chaos.server import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path_factory, anyio_backend):
    server = Server(tmp_path_factory.mktemp("s"))
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def wire(server, tmp_path_factory):
    wire = Wire(tmp_path_factory.mktemp("w") / "w", server.socket_path)
    await wire.open()
    yield wire
    await wire.close()


@pytest.fixture
async def client(wire):
    async with Redis(unix_socket_path=str(wire.path), decode_responses=True, socket_timeout=0.5, retry=None) as client:
        yield client


async def test_a_whole_wire_changes_nothing(client):
    assert await client.set("fruit", "apple" * 50_000)
    assert await client.get("fruit") == "apple" * 50_000


async def test_a_cut_wire_breaks_connections_until_it_is_healed(wire, client):
    await client.ping()
    wire.cut()
    with pytest.raises(LostConnection):
        await client.ping()
    wire.heal()
    assert await client.ping()


async def test_what_was_said_into_silence_is_carried_out_afterwards(wire, client, server):
    await client.ping()
    wire.silence("requests")
    with pytest.raises(NoReply):
        await client.incr("count")
    assert await server.direct.get("count") is None
    wire.heal()
    await settled(server, "count", "1")


async def test_a_wire_silent_in_one_direction_loses_the_reply_and_not_the_deed(wire, client, server):
    await client.ping()
    wire.silence("replies")
    with pytest.raises(NoReply):
        await client.incr("count")
    assert await server.direct.get("count") == "1"


async def test_one_reply_is_lost_and_the_next_call_goes_through(wire, client, server):
    wire.lose_reply_to(b"apple")
    with pytest.raises(LostConnection):
        await client.set("fruit", "apple")
    assert wire.num_replies_lost == 1
    assert await client.get("fruit") == "apple"


async def settled(server, key, value):
    deadline = time.monotonic() + 10
    while await server.direct.get(key) != value:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
