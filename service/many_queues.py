"""One look at keys of several models. A Cluster takes no command that names them all: each server gets its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from service.queue_server import QueueServer

KeyOnServer = tuple[QueueServer, str]


async def pop_any(lists: Sequence[KeyOnServer], wait_s: float) -> dict[str, str]:
    """Take an element from the first list that has one: what was taken, by list; empty after `wait_s`.

    Within `translated`. On a Cluster, where two have one at the same moment, both may lose it.
    """
    waits = [server.blocking.blpop(keys, timeout=wait_s) for server, keys in _by_server(lists).items()]
    return dict(await _first_found(waits))


async def set_sizes(sets: Sequence[KeyOnServer]) -> tuple[int, ...]:
    """Members of each sorted set, in one round trip to each server. Within `translated`."""
    groups = _by_server(sets)
    replies = await asyncio.gather(*(_sizes_on(server, keys) for server, keys in groups.items()))
    sizes: dict[str, int] = {}
    for keys, found in zip(groups.values(), replies, strict=True):
        sizes.update(zip(keys, found, strict=True))
    return tuple(sizes[key] for _, key in sets)


def _by_server(pairs: Sequence[KeyOnServer]) -> dict[QueueServer, list[str]]:
    groups: dict[QueueServer, list[str]] = {}
    for server, key in pairs:
        groups.setdefault(server, []).append(key)
    return groups


async def _sizes_on(server: QueueServer, keys: Sequence[str]) -> list[int]:
    async with server.commands.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.zcard(key)
        return list(await pipe.execute())


async def _first_found(waits: Sequence[Coroutine[Any, Any, tuple[str, str] | None]]) -> list[tuple[str, str]]:
    """Wait until one has found something, and end the others; or until all have ended. Raises what one raises.

    Ending a wait costs its connection, so that those which end by themselves at about the same time are left to.
    """
    waiting = tasks = {asyncio.ensure_future(wait) for wait in waits}
    try:
        found: list[tuple[str, str]] = []
        while waiting and not found:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            found = [result for task in done if (result := task.result()) is not None]
        return found
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
