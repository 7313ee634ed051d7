"""What jobs have to show while they run: one stream a job, written by its worker, read by whichever gateway is asked.

Only watched jobs have one. It is for the eye: bounded in length and time, lost with a full server, and never what a
job's end depends on, which is its state and nothing else. Surprising: events are not pushed to readers. A channel
names the jobs that have news, and readers look; so a slow one skips previews and holds nobody up.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from service import queue_wire as wire
from service.errors import ServerOverloaded
from service.jobs import ImageRef, JobStatus, WatchLevel
from service.keys import QueueKeys
from service.queue_server import CALL_BUDGET_S, MAX_BLOCK_S, QueueServer, translated
from service.records import from_fields, to_fields, to_json

MAX_EVENTS = 64
KEEP_S = 120.0  # after the last event: time enough to come back through another gateway
FIRST = "0-0"


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture of what the `index`-th picture of a job will be, after `step` of its `num_steps` steps.

    `width` and `height` are of the small picture, in pixels; `content_type` says how `data` is encoded.
    """

    index: int
    step: int
    num_steps: int
    width: int
    height: int
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Partial:
    """The full-size estimate of the `index`-th picture after `step` steps, the `partial_index`-th asked for."""

    index: int
    partial_index: int
    step: int
    num_steps: int
    image: ImageRef


@dataclass(frozen=True, slots=True)
class Drawn:
    """The `index`-th picture is done and stored, before the job is."""

    index: int
    image: ImageRef


JobEvent = Preview | Partial | Drawn
_KINDS: dict[str, type[JobEvent]] = {"preview": Preview, "partial": Partial, "drawn": Drawn}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`id` is the event's place in its job's stream."""

    id: str
    event: JobEvent


class JobEvents:
    """The streams of one model's jobs. Methods raise ServerOverloaded as those of JobQueue do."""

    def __init__(self, server: QueueServer, keys: QueueKeys) -> None:
        self._server = server
        self._keys = keys

    async def report(self, job_id: str, attempt: int, step: int, events: Sequence[JobEvent]) -> bool:
        """Publish the steps taken so far, summed over the job's pictures, and events in order.

        False if the attempt no longer counts.
        """
        keys = [self._keys.job(job_id), self._keys.events(job_id)]
        pairs = [text for event in events for text in (_NAMES[type(event)], encode_event(event))]
        async with translated(CALL_BUDGET_S):
            outcome = await self._run("report", keys, job_id, attempt, step, MAX_EVENTS, wire.to_ms(KEEP_S), *pairs)
        return bool(outcome)

    async def watch(self, job_id: str, owner: str, level: WatchLevel) -> int:
        """Ask a job's worker to publish so much from now on; NOTHING takes one such wish back.

        Returns how many watch the job now. Raises JobNotFound.
        """
        async with translated(CALL_BUDGET_S):
            num_watchers: int = await self._run("watch", [self._keys.job(job_id)], owner, int(level))
        if num_watchers < 0:
            raise wire.job_not_found(job_id)
        return num_watchers

    async def count_watchers(self, job_id: str) -> int:
        """How many watch the job; too many where a gateway died that did. 0 for an unknown one."""
        async with translated(CALL_BUDGET_S):
            return int(await self._server.commands.hget(self._keys.job(job_id), "num_watchers") or 0)

    async def look(self, job_id: str, owner: str, after: str = FIRST) -> tuple[JobStatus, tuple[StoredEvent, ...]]:
        """The job as it stands, and its events after the one with the id `after`. Raises JobNotFound."""
        commands = self._server.commands
        async with translated(CALL_BUDGET_S), commands.pipeline(transaction=False) as pipe:
            # Events before the state: where the state is an end, no event that came before it is missing.
            pipe.xrange(self._keys.events(job_id), f"({after}", "+")
            pipe.zrank(self._keys.queue, job_id)
            pipe.hgetall(self._keys.job(job_id))
            stored, rank, fields = await pipe.execute()
        if fields.get("owner") != owner:
            raise wire.job_not_found(job_id)
        found = ((event_id, decode_event(event["kind"], event["data"])) for event_id, event in stored)
        return wire.decode_status(fields, rank), tuple(
            StoredEvent(event_id, event) for event_id, event in found if event is not None
        )

    def news(self, others: Sequence[JobEvents] = ()) -> News:
        """Which watched jobs have something to show, of this model and of the `others`."""
        return News(self._server, [events._keys.news for events in (self, *others)])

    async def _run(self, name: str, keys: Sequence[str], *arguments: str | int) -> Any:  # noqa: ANN401  (Lua's reply)
        return await self._server.run(name, (*self._keys.shared, *keys), *arguments)


class News:
    """Ids of jobs that have something to show, over a connection of its own, which is made when first needed.

    What was published while it was not connected is missed: whoever waits for a job looks now and then by himself.
    """

    def __init__(self, server: QueueServer, channels: Sequence[str]) -> None:
        self._server = server
        self._channels = channels
        self._subscription: Any = None

    async def read(self, timeout_s: float) -> str | None:
        """The next job's id, None where there is none within `timeout_s` (5 s at most). Raises ServerOverloaded."""
        wait_s = min(timeout_s, MAX_BLOCK_S)
        try:
            async with translated(wait_s + CALL_BUDGET_S):
                if self._subscription is None:
                    self._subscription = self._server.blocking.pubsub(ignore_subscribe_messages=True)
                    await self._subscription.subscribe(*self._channels)
                message = await self._subscription.get_message(timeout=wait_s)
        except BaseException:
            await self.close()
            raise
        return None if message is None else message["data"]

    async def close(self) -> None:
        """Give the connection back."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(ServerOverloaded):
                async with translated(CALL_BUDGET_S):
                    await subscription.aclose()


def encode_event(event: JobEvent) -> str:
    """The event as JSON, without its kind."""
    values = to_fields(event)
    if isinstance(event, Preview):
        values["data"] = base64.b64encode(event.data).decode()
    else:
        values["image"] = to_fields(event.image)
    return to_json(values)


def decode_event(kind: str, text: str) -> JobEvent | None:
    """None for a kind that this version does not know. Raises ValueError where a field is missing."""
    found = _KINDS.get(kind)
    if found is None:
        return None
    values = json.loads(text)
    try:
        if found is Preview:
            return from_fields(Preview, values, data=base64.b64decode(values["data"]))
        return from_fields(found, values, image=from_fields(ImageRef, values["image"]))
    except (TypeError, KeyError) as error:
        raise ValueError(f"not an event: {error}") from error
