"""What a Redis or Valkey says of itself, for whoever asks whether it will do."""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.queue_server import CALL_BUDGET_S, QueueServer, translated


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """`version` is the Redis version that it is compatible with. `max_bytes` 0: unbounded."""

    name: str
    version: str
    used_bytes: int
    max_bytes: int
    eviction: str
    is_persistent: bool
    round_trip_s: float


async def look_at(url: str) -> ServerFacts:
    """Ask the server at `url`. Raises ConfigurationError (address, password) or ServerOverloaded (no answer)."""
    server = QueueServer.connect(url)
    try:
        async with translated(CALL_BUDGET_S):
            await server.commands.ping()
            asked_s = time.monotonic()
            await server.commands.ping()
            round_trip_s = time.monotonic() - asked_s
            info = await server.commands.info()
    finally:
        await server.close()
    name = str(info.get("server_name", "redis"))
    return ServerFacts(
        name=name,
        version=str(info.get("redis_version", "0")),
        used_bytes=int(info.get("used_memory", 0)),
        max_bytes=int(info.get("maxmemory", 0)),
        eviction=str(info.get("maxmemory_policy", "noeviction")),
        is_persistent=bool(info.get("aof_enabled")) or bool(info.get("rdb_last_save_time")),
        round_trip_s=round_trip_s,
    )
