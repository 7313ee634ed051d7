"""The server behind a queue: scripts, its clock and its memory. Beside redis_clients.py the sole importer of redis.

No redis exception leaves this file. On a Cluster there is one of these for each hash tag, which `serving` finds.
Surprising: scripts of callers that ask at the same time travel together, in one
pipeline: whatever comes while one is on its way is sent with the next. A lone caller waits for nobody.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from redis import exceptions

from service import queue_wire as wire
from service.errors import ConfigurationError, EmmditError, ServerOverloaded
from service.keys import LINK_SECRET
from service.redis_address import hash_tag
from service.redis_clients import CALL_BUDGET_S, MAX_BLOCK_S, Clients, Connections, causes_of, trust_problem
from service.scripts import Script, load_scripts

__all__ = ["CALL_BUDGET_S", "MAX_BLOCK_S", "SERVER_RETRY_AFTER_S", "QueueServer", "all_within", "translated"]

SERVER_CHECK_S = 1.0
SERVER_RETRY_AFTER_S = 2
MAX_TOGETHER = 128  # scripts in one pipeline: some milliseconds of the server's time, which belongs to others as well
# How a server that is up says that it cannot take this work now.
_PASSING_ERRORS = (
    "OOM",
    "LOADING",
    "MISCONF",
    "READONLY",
    "BUSY",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
)
# How it says that the user lacks a right, where the library does not tell: within scripts.
_FORBIDDEN = ("NOPERM", "ACL failure", "The user executing the script")
_ends_at_s: ContextVar[float] = ContextVar("_ends_at_s", default=math.inf)  # on the monotonic clock


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One script's call, on its way. `reply` is cancelled where nobody waits for it any more."""

    script: Script
    arguments: tuple[str | bytes | int, ...]
    reply: asyncio.Future[Any]


class QueueServer:
    """One Redis or Valkey server. Made by `connect`; its methods may be called from many tasks of one event loop.

    What they raise is for `translated` to turn into the service's own errors.
    """

    def __init__(self, connections: Connections, clients: Clients, siblings: dict[str, QueueServer]) -> None:
        self.commands = clients.commands
        self.blocking = clients.blocking
        self._connections = connections
        self._siblings = siblings  # by hash tag; shared by all of them
        self._scripts = load_scripts()
        self._calls: list[_Call] = []
        self._sending: asyncio.Task[None] | None = None
        # What the server said of itself when last asked, and when on our monotonic clock that was.
        self.memory_ratio = 0.0
        self._time_s = 0.0
        self._asked_at_s = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    @classmethod
    def connect(cls, url: str, *, is_text: bool = True) -> QueueServer:
        """The server at `url` (service/redis_address.py), which has the keys that belong to no model.

        Connections are made when first needed; replies are text, or else bytes. Raises ConfigurationError for a URL
        that cannot be used.
        """
        connections = Connections(url, is_text=is_text)
        siblings: dict[str, QueueServer] = {}
        return siblings.setdefault(hash_tag(LINK_SECRET), cls(connections, connections.at(LINK_SECRET), siblings))

    def serving(self, key: str | bytes) -> QueueServer:
        """The server that has this key and all others with its hash tag: this one, unless on a Cluster."""
        if not self._connections.is_cluster:
            return self
        tag = hash_tag(key)
        if tag not in self._siblings:
            self._siblings[tag] = QueueServer(self._connections, self._connections.at(key), self._siblings)
        return self._siblings[tag]

    async def run(self, name: str, keys: Sequence[str | bytes], *arguments: str | bytes | int) -> Any:  # noqa: ANN401  (Lua's reply)
        """The reply of one script. To be called within `translated`, which bounds the wait."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls.append(_Call(self._scripts[name], (len(keys), *keys, *arguments), reply))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await reply

    async def valid_until_ms(self) -> int:
        """The server's time at which a call made now will have been given up.

        A server that was frozen still carries out what piled up in its sockets. What is given up by then must not
        happen: the client was told that its job is refused, and jobs would be handed to a worker that never hears.
        """
        if time.monotonic() - self._asked_at_s > SERVER_CHECK_S:
            await self.ask()
        return wire.to_ms(self._time_s + time.monotonic() - self._asked_at_s + _left_of(CALL_BUDGET_S))

    async def ask(self) -> None:
        """Ask for the server's clock and memory. Whoever comes while the question is out shares its answer."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        # One who gives up must not take the question from the others.
        await asyncio.shield(self._asking)

    def too_late(self) -> ServerOverloaded:
        """What to raise where a script says that its call came too late."""
        self._asked_at_s = float("-inf")  # perhaps the server's clock was set
        return ServerOverloaded("the queue's server does not answer in time", retry_after_s=SERVER_RETRY_AFTER_S)

    async def shared_secret(self, key: str) -> str:
        """256 random bits in hex, made by whoever asks first and the same for all. To be called within `translated`.

        Read each time: one that was kept would outlive the server's data and no longer be the others'.
        """
        if secret := await self.commands.get(key):
            return str(secret)
        async with self.commands.pipeline(transaction=False) as pipe:
            pipe.set(key, secrets.token_hex(32), nx=True)
            pipe.get(key)
            _, secret = await pipe.execute()
        return str(secret)

    async def close(self) -> None:
        """Close every connection, those of a Cluster's other nodes too."""
        servers = self._siblings.values()
        tasks = [task for server in servers for task in (server._sending, server._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connections.close()

    async def _send(self) -> None:
        """Send what has gathered, in one go, until nothing is left."""
        try:
            while self._calls:
                waiting, self._calls = self._calls[:MAX_TOGETHER], self._calls[MAX_TOGETHER:]
                if calls := [call for call in waiting if not call.reply.done()]:
                    await self._evaluate_together(calls)
        finally:
            self._sending = None
            for call in self._calls:  # only where this task was cancelled: the connections are being closed
                call.reply.cancel()

    async def _evaluate_together(self, calls: Sequence[_Call]) -> None:
        try:
            async with asyncio.timeout(CALL_BUDGET_S):
                replies = await self._evaluate(calls)
        except Exception as error:
            replies = [error] * len(calls)
        except BaseException:
            for call in calls:
                call.reply.cancel()
            raise
        for call, reply in zip(calls, replies, strict=True):
            if call.reply.done():
                continue
            if isinstance(reply, Exception):
                call.reply.set_exception(reply)
            else:
                call.reply.set_result(reply)

    async def _evaluate(self, calls: Sequence[_Call]) -> list[Any]:
        """Replies in the order of the calls, exceptions among them. A script that the server forgot is sent whole."""
        async with self.commands.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(call.script.sha1, *call.arguments)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        unknown = [index for index, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]
        if unknown:
            async with self.commands.pipeline(transaction=False) as pipe:
                for index in unknown:
                    pipe.eval(calls[index].script.text, *calls[index].arguments)
                for index, reply in zip(unknown, await pipe.execute(raise_on_error=False), strict=True):
                    replies[index] = reply
        return replies

    async def _ask(self) -> None:
        try:
            asked_at_s = time.monotonic()
            async with asyncio.timeout(CALL_BUDGET_S), self.commands.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.info("memory")
                now, memory = await pipe.execute()
            self.memory_ratio = wire.memory_ratio(memory)
            self._time_s, self._asked_at_s = wire.seconds(now), asked_at_s
        finally:
            self._asking = None


@contextmanager
def all_within(budget_s: float) -> Iterator[None]:
    """All calls of the block together take no longer, however long each of them may take by itself."""
    token = _ends_at_s.set(min(_ends_at_s.get(), time.monotonic() + budget_s))
    try:
        yield
    finally:
        _ends_at_s.reset(token)


def _left_of(budget_s: float) -> float:
    return max(min(budget_s, _ends_at_s.get() - time.monotonic()), 0.0)


@asynccontextmanager
async def translated(budget_s: float) -> AsyncIterator[None]:
    """Bounds the block in time and turns what redis raises into the service's own errors."""
    try:
        async with asyncio.timeout(_left_of(budget_s)):
            yield
    except (exceptions.ConnectionError, exceptions.TimeoutError, TimeoutError, OSError) as error:
        for cause in causes_of(error):
            if isinstance(cause, ConfigurationError):
                raise cause from error
            if isinstance(cause, exceptions.AuthenticationError | exceptions.AuthorizationError):
                raise ConfigurationError("the queue's server refuses this user or password") from error
            if isinstance(cause, ssl.SSLError) and (problem := trust_problem(cause)):
                raise ConfigurationError(problem) from error
        raise ServerOverloaded("the queue's server does not answer", retry_after_s=SERVER_RETRY_AFTER_S) from error
    except exceptions.RedisError as error:
        words = f"{error.status_code} {error}"
        if isinstance(error, exceptions.NoPermissionError) or any(sign in words for sign in _FORBIDDEN):
            raise ConfigurationError(f"the queue's server does not let this user do its work: {error}") from error
        if any(word in words for word in _PASSING_ERRORS):
            message = "the queue's server refuses work for now"
            raise ServerOverloaded(message, retry_after_s=SERVER_RETRY_AFTER_S) from error
        raise EmmditError(f"the queue's server reports an error: {error}") from error
