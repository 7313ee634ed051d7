"""A look behind the service: the server's sets and jobs at one moment, read past every wire and proxy."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.keys import QueueKeys
from tests.chaos.stack import MODEL

TAIL_BYTES = 256 * 1024
_CLAIM = re.compile(r"job ([0-9a-f]{32}) claimed: attempt (\d+)")
SETS = ("queue", "delayed", "waiting", "running", "leases", "deadlines")
PREFIX = f"emmdit:{{{MODEL}}}:"
KEYS = QueueKeys(MODEL)

# Reads only, so it leaves no trace in the journal; one script, so that no move comes in between.
_SNAPSHOT = """
local reply, seen = {}, {}
for i = 2, #ARGV do
  local members = redis.call('ZRANGE', ARGV[1] .. ARGV[i], 0, -1)
  reply[#reply + 1] = members
  for _, id in ipairs(members) do
    seen[id] = true
  end
end
local states = {}
for id in pairs(seen) do
  states[#states + 1] = id
  states[#states + 1] = redis.call('HGET', ARGV[1] .. 'job:' .. id, 'state') or 'gone'
end
reply[#reply + 1] = states
return reply
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Who is in which set at one moment, and what state the hashes of all of them have."""

    sets: Mapping[str, frozenset[str]]
    states: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class KnownJob:
    """A job as the server has it in the end."""

    id: str
    state: str
    attempt: int
    failures: int
    seed: int
    num_images: int
    owner: str
    result: Mapping[str, Any] = field(default_factory=dict)


async def snapshot(server: Any) -> Snapshot:
    """Through a client of the server itself."""
    *members, states = await server.eval(_SNAPSHOT, 0, PREFIX, *SETS)
    sets = {name: frozenset(ids) for name, ids in zip(SETS, members, strict=True)}
    return Snapshot(sets, dict(zip(states[::2], states[1::2], strict=True)))


async def all_jobs(server: Any) -> dict[str, KnownJob]:
    """Every job that the server knows, by id."""
    jobs = {}
    async for key in server.scan_iter(match=KEYS.job("*"), count=1000):
        fields = await server.hgetall(key)
        job = json.loads(fields["job"])
        jobs[job["id"]] = KnownJob(
            id=job["id"],
            state=fields["state"],
            attempt=int(fields["attempt"]),
            failures=int(fields["failures"]),
            seed=job["params"]["seed"],
            num_images=job["num_images"],
            owner=job["owner"],
            result=json.loads(fields.get("result", "{}")),
        )
    return jobs


async def running_attempts(server: Any) -> dict[str, str]:
    """Running jobs -> the attempt that runs."""
    ids = await server.zrange(KEYS.running, 0, -1)
    return {job: await server.hget(KEYS.job(job), "attempt") or "" for job in ids}


def claimed_by(log: Path, attempts: Mapping[str, str]) -> dict[str, str]:
    """Those of these attempts that the worker with this log has claimed."""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - TAIL_BYTES, 0))
        claims = set(_CLAIM.findall(file.read().decode(errors="replace")))
    return {job: attempt for job, attempt in attempts.items() if (job, attempt) in claims}


async def still_run(server: Any, attempts: Mapping[str, str]) -> bool:
    """Whether any of these attempts still runs."""
    for job, attempt in attempts.items():
        if await server.hmget(KEYS.job(job), "state", "attempt") == ["running", attempt]:
            return True
    return False
