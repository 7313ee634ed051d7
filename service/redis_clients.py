"""Connections to the queue's server, wherever it is: one server, the master that Sentinels name, a Cluster's nodes.

Surprising: a connection to a master or a Cluster's node asks where that is whenever it is made, and is made anew when
its server says that it is no longer the one. The client library's own Cluster client is not used: it closes every
connection to every node when one of them fails, and has no answer to a blocking call over several slots.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.connection import HiredisRespSerializer
from redis.crc import key_slot

from service.errors import ConfigurationError
from service.redis_address import Kind, RedisAddress, hash_tag, parse_address

CALL_BUDGET_S = 2.0
MAX_BLOCK_S = 5.0
MAX_CONNECTIONS = 32
ASKING_TIMEOUT_S = CALL_BUDGET_S / 2  # within one call there is time for a second one to answer
Place = tuple[str, int]
_PACKER = HiredisRespSerializer()


@dataclass(frozen=True, slots=True)
class Clients:
    """`commands` for what is answered at once, `blocking` for what may wait up to MAX_BLOCK_S.

    Typed Any: the library types most replies as unions of everything that any server ever sent.
    """

    commands: Any
    blocking: Any


class Where(Protocol):
    """Knows the server that has some keys. `place` is where it was found last."""

    place: Place | None

    async def locate(self) -> Place:
        """Find it now. Raises what redis raises."""


class Guides:
    """Servers that know where others are, Sentinels or a Cluster's nodes: asked in turn until one answers."""

    def __init__(self, places: Sequence[Place], options: dict[str, Any]) -> None:
        timeouts = {"socket_timeout": ASKING_TIMEOUT_S, "socket_connect_timeout": ASKING_TIMEOUT_S}
        self._options = options | timeouts | {"retry": Retry(ConstantBackoff(0), 0)}
        self._clients: dict[Place, Any] = {}
        for place in places:
            self.add(place)

    def add(self, place: Place) -> None:
        """One more to ask."""
        if place not in self._clients:
            self._clients[place] = Redis(host=place[0], port=place[1], **self._options)

    async def ask(self, *command: str | int) -> tuple[Place, Any]:
        """Who answered, and what. Whoever does not is asked last from then on."""
        problem: Exception | None = None
        for place, client in list(self._clients.items()):
            try:
                reply = await client.execute_command(*command)
            except (exceptions.AuthenticationError, exceptions.AuthorizationError):
                raise
            except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
                problem = error
                self._clients[place] = self._clients.pop(place)  # the last to be asked from now on
                continue
            return place, reply
        raise exceptions.ConnectionError("none of the servers that know the way answers") from problem

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()), return_exceptions=True)


class MasterOf:
    """The master of one service, as Sentinels tell it."""

    def __init__(self, sentinels: Guides, service: str) -> None:
        self._sentinels = sentinels
        self._service = service
        self.place: Place | None = None

    async def locate(self) -> Place:
        """Raises ConfigurationError where the Sentinels know no such service."""
        _, reply = await self._sentinels.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        if not reply:
            raise ConfigurationError(f"the Sentinels know no service called {self._service!r}")
        self.place = (str(reply[0]), int(reply[1]))
        return self.place


class OwnerOf:
    """The node of a Cluster that has the keys with one hash tag."""

    def __init__(self, nodes: Guides, tag: str) -> None:
        self._nodes = nodes
        self._slot = key_slot(tag.encode())
        self.place: Place | None = None

    async def locate(self) -> Place:
        """Raises ConfigurationError where this is no Cluster, ConnectionError where nobody has the slot for now."""
        try:
            asked, ranges = await self._nodes.ask("CLUSTER", "SLOTS")
        except exceptions.ResponseError as error:
            raise ConfigurationError(f"this is no Cluster: {error}") from error
        owner: Place | None = None
        for first, last, *nodes in ranges:
            for host, port, *_ in nodes:
                place = (str(host or asked[0]), int(port))  # a node that does not know its own name sends none
                self._nodes.add(place)
                if owner is None and int(first) <= self._slot <= int(last):
                    owner = place  # the first of a range is its master
        if owner is None:
            raise exceptions.ConnectionError("no node of the Cluster has these keys")
        self.place = owner
        return owner


class LocatedConnection(Connection):
    """A connection to wherever the keys are."""

    def __init__(self, *, where: Where, **options: Any) -> None:  # noqa: ANN401  (the library's)
        self._where = where
        super().__init__(**options)

    async def connect(self) -> None:
        """Connect, anew where another connection has found that the server is elsewhere by now."""
        if self.is_connected and self._where.place != (self.host, self.port):
            await self.disconnect()
        await super().connect()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        self.host, self.port = await self._where.locate()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (the library's)
        """The reply. A ConnectionError, after which the call is made once more, where the keys have moved away."""
        try:
            return await super().read_response(*args, **kwargs)
        except exceptions.ResponseError as error:
            # READONLY: a master no more; older servers wrap it in a script's error. ASK: on its way to another node.
            if not isinstance(error, exceptions.AskError | exceptions.MovedError) and "READONLY" not in _words(error):
                raise
            await self.disconnect()
            raise exceptions.ConnectionError("the keys are on another server by now") from error


class LocatedTlsConnection(LocatedConnection, SSLConnection):
    """The same with TLS."""


class PackedInC:
    """Has hiredis write commands, which the library does for its synchronous connections alone: a tenth of the time."""

    def pack_command(self, *args: Any) -> list[bytes]:  # noqa: ANN401  (the library's)
        """One command as bytes."""
        return _PACKER.pack(*args)  # type: ignore[no-any-return]


class Connections:
    """All connections of one process to one address. Raises ConfigurationError for one that cannot be used.

    Replies are text, or else bytes.
    """

    def __init__(self, url: str, *, is_text: bool = True) -> None:
        address = parse_address(url)
        self._is_text = is_text
        self.is_cluster = address.kind is Kind.CLUSTER
        self._address = address
        self._by_tag: dict[str, Clients] = {}
        self._guides: Guides | None = None
        if address.kind is Kind.SERVER:
            try:
                self._by_tag[""] = _clients(lambda pool, **options: pool.from_url(url, **options), is_text)
            except (ValueError, TypeError):
                # The library's words may hold a piece of the password.
                raise ConfigurationError("not a Redis URL: the library cannot read it") from None
        else:
            # Sentinels have users of their own, a Cluster's nodes are all alike.
            given = address.options if self.is_cluster else _tls_options(address) | address.asking
            plain = {"decode_responses": True, "protocol": 2, "ssl": address.has_tls}
            self._guides = Guides(address.hosts, plain | given)

    def at(self, key: str | bytes) -> Clients:
        """Clients of the server that has this key. Connections are made when first needed."""
        tag = hash_tag(key) if self.is_cluster else ""
        if tag not in self._by_tag:
            assert self._guides is not None
            where: Where = MasterOf(self._guides, self._address.service)
            if self.is_cluster:
                where = OwnerOf(self._guides, tag)
            kind = LocatedTlsConnection if self._address.has_tls else LocatedConnection
            given = {**self._address.options, "db": self._address.database, "connection_class": kind, "where": where}
            self._by_tag[tag] = _clients(lambda pool, **options: pool(**options, **given), self._is_text)
        return self._by_tag[tag]

    async def close(self) -> None:
        """Close every connection."""
        for clients in self._by_tag.values():
            await clients.commands.aclose()
            await clients.blocking.aclose()
        if self._guides is not None:
            await self._guides.close()


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised for, down to the first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def trust_problem(error: ssl.SSLError) -> str | None:
    """What keeps the two sides from trusting each other, None where the connection only broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the queue's server cannot be trusted: {error.verify_message}"
    reason = str(error.reason or "")
    if "ALERT" in reason and ("CERT" in reason or "UNKNOWN_CA" in reason):
        return f"the queue's server refuses this client's certificate ({reason})"
    return None


def _clients(make: Callable[..., ConnectionPool], is_text: bool) -> Clients:
    """`make` gets the pool's class and options."""
    options: dict[str, Any] = {
        "decode_responses": is_text,
        "protocol": 2,
        "driver_info": None,  # its name would cost every new connection two round trips and a right of its own
        "socket_connect_timeout": CALL_BUDGET_S / 2,
        "retry": Retry(ConstantBackoff(0.05), 1),
    }
    commands = make(
        BlockingConnectionPool,
        max_connections=MAX_CONNECTIONS,
        timeout=CALL_BUDGET_S,
        socket_timeout=0.75 * CALL_BUDGET_S,
        **options,
    )
    # The server ends a wait itself, well before the client gives the connection up.
    blocking = make(ConnectionPool, socket_timeout=MAX_BLOCK_S + CALL_BUDGET_S, **options)
    for pool in (commands, blocking):
        pool.connection_class = _packed_in_c(pool.connection_class)
    return Clients(Redis.from_pool(commands), Redis.from_pool(blocking))


def _packed_in_c(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    return type(kind.__name__, (PackedInC, kind), {})


def _tls_options(address: RedisAddress) -> dict[str, str]:
    return {name: value for name, value in address.options.items() if name.startswith("ssl_")}


def _words(error: exceptions.ResponseError) -> str:
    return f"{error.status_code} {error}"
