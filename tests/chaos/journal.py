"""What the server wrote down itself: its append-only file has every change that any script made, in order.

The service can neither leave anything out of it nor put anything right afterwards. A script's writes stand together
between MULTI and EXEC, or alone where it made only one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ENDS = ("done", "failed", "cancelled", "expired")
Command = tuple[bytes, ...]


@dataclass(slots=True)
class Journal:
    """Counts by job id. `charged` and `given_back`: how often a cost was put on its tenant's account, and taken off."""

    accepted: Counter[str] = field(default_factory=Counter)
    ends: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    told: Counter[str] = field(default_factory=Counter)
    claims: Counter[str] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    charged: Counter[str] = field(default_factory=Counter)
    given_back: Counter[str] = field(default_factory=Counter)
    num_wipes: int = 0


def read_journal(paths: Sequence[Path]) -> Journal:
    """All that the files tell. What a torn end has of an unfinished command counts as not written."""
    journal = Journal()
    for path in paths:
        for commands in _transactions(_commands(path.read_bytes())):
            _note(journal, commands)
    return journal


def _note(journal: Journal, commands: Sequence[Command]) -> None:
    """One script's writes."""
    has_failed = {_job_of(command) for command in commands if command[0] == b"HSET" and b"failures" in command[2::2]}
    accepted = ""
    num_given_back = 0
    for name, *arguments in commands:
        if name in (b"FLUSHALL", b"FLUSHDB"):
            num_wipes = journal.num_wipes + 1
            journal.__init__()  # type: ignore[misc]  # nothing that was before can be held against anybody
            journal.num_wipes = num_wipes
            continue
        job = _job_of((name, *arguments))
        key = arguments[0] if arguments else b""
        if job and name == b"HSET":
            fields = dict(zip(arguments[1::2], arguments[2::2], strict=True))
            state = fields.get(b"state", b"").decode()
            if b"job" in fields:
                accepted = job
                journal.accepted[job] += 1
            elif state in ENDS:
                journal.ends[job].append(state)
                journal.given_back[job] += num_given_back
                num_given_back = 0
            elif state == "queued" and job not in has_failed:
                journal.releases[job] += 1
            if b"failures" in fields and b"job" not in fields:
                journal.failures[job] = int(fields[b"failures"])
        elif job and name == b"HINCRBY" and arguments[1] == b"attempt":
            journal.claims[job] += 1
        elif name == b"XADD" and b":inbox:" in key:
            values = arguments[-2:]
            journal.told[values[1].decode()] += 1
        elif name == b"ZADD" and key.endswith(b":finish_tags"):
            if accepted:
                journal.charged[accepted] += 1
            else:
                num_given_back += 1  # of the job whose end comes next in this script


def _job_of(command: Command) -> str:
    key = command[1] if len(command) > 1 else b""
    _, separator, job = key.partition(b"}:job:")
    return job.decode() if separator else ""


def _transactions(commands: Iterator[Command]) -> Iterator[list[Command]]:
    together: list[Command] | None = None
    for command in commands:
        name = command[0].upper()
        command = (name, *command[1:])
        if name == b"MULTI":
            together = []
        elif name == b"EXEC":
            yield together or []
            together = None
        elif together is not None:
            together.append(command)
        else:
            yield [command]


def _commands(data: bytes) -> Iterator[Command]:
    """Commands in the server's own protocol: *3, then $length and bytes of each word."""
    place = 0
    while place < len(data):
        if data[place : place + 1] == b"#":  # a note of the time
            place = data.index(b"\r\n", place) + 2
            continue
        end = data.find(b"\r\n", place)
        if end < 0 or data[place : place + 1] != b"*":
            return
        num_words, place = int(data[place + 1 : end]), end + 2
        words = []
        for _ in range(num_words):
            end = data.find(b"\r\n", place)
            if end < 0:
                return
            length = int(data[place + 1 : end])
            start = end + 2
            if start + length + 2 > len(data):
                return
            words.append(data[start : start + length])
            place = start + length + 2
        yield tuple(words)
