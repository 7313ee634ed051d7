"""What happens to one job, as it happens, for whoever watches it through this gateway.

Made from two things that any gateway can read: the job's state and its stream of events. So a feed can be taken up
again after an event, at another gateway as well. Surprising: it looks and is not told. News make it look at once;
without any it looks by itself, which is what a place in the queue changes by.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from service.errors import DeadlineExceeded, JobNotFound, ServerOverloaded
from service.gateway.background import is_cancelled
from service.gateway.bells import Bell
from service.gateway.context import Gateway
from service.gateway.rendering import load
from service.gateway.waiters import DEADLINE_SLACK_S
from service.job_events import FIRST, Drawn, Partial, Preview, StoredEvent
from service.jobs import Done, ImageRef, JobState, JobStatus, WatchLevel
from service.queue import JobQueue

LEAST_PERIOD_S = 0.01  # a look is a round trip; news of a job come ten times a second, of its end at once
QUEUED_PERIOD_S = 0.5  # how often a place in the queue is looked up
RUNNING_PERIOD_S = 2.0  # what missed news cost at most


@dataclass(frozen=True, slots=True)
class Changed:
    """The job's state, its place in the queue or its step is another one than before."""

    status: JobStatus


@dataclass(frozen=True, slots=True)
class PreviewReady:
    """A small picture of what the `index`-th will be. `id` is where a feed can be taken up again."""

    id: str
    index: int
    step: int
    num_steps: int
    width: int
    height: int
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class PartialReady:
    """The full-size estimate of the `index`-th picture, the `partial_index`-th that was asked for."""

    id: str
    index: int
    partial_index: int
    step: int
    num_steps: int
    png: bytes


@dataclass(frozen=True, slots=True)
class PictureReady:
    """The `index`-th picture is done; `png` is empty where the feed was asked for no pictures.

    `id` is empty where the picture is known from the job's end alone.
    """

    id: str
    index: int
    image: ImageRef
    png: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The last one. `status.result` says how."""

    status: JobStatus


FeedEvent = Changed | PreviewReady | PartialReady | PictureReady | Ended


@dataclass(slots=True)
class _Seen:
    """What this feed, or the one that it goes on from, has told already."""

    after: str
    last_id: str = FIRST
    pictures: set[int] = field(default_factory=set)
    state: tuple[JobState, int | None, int] | None = None

    def is_old(self, event_id: str) -> bool:
        return bool(self.after) and _order(event_id) <= _order(self.after)

    def is_news(self, status: JobStatus) -> bool:
        before, self.state = self.state, (status.state, status.position, status.step)
        return self.state != before


async def feed(
    gateway: Gateway,
    job_id: str,
    owner: str,
    *,
    after: str = "",
    level: WatchLevel = WatchLevel.PREVIEWS,
    has_pictures: bool = True,
) -> AsyncGenerator[FeedEvent, None]:
    """Everything of one job, from now or from after the event with the id `after`, to its end.

    Each picture is told once, previews as they come at `level`; a slow reader misses some of these. Raises JobNotFound
    for an unknown or lost job or another owner's, DeadlineExceeded where not even the queue has ended it in time,
    ServerOverloaded where this gateway stops, BlobCorrupt or JobNotReady for a picture that cannot be read. Through an
    outage of the queue's server it waits. To be closed by its reader (contextlib.aclosing).
    """
    status = await gateway.queues.status(job_id, owner)
    queue = gateway.queues[status.job.model]
    gives_up_at_s = time.monotonic() + status.job.timeout_s + DEADLINE_SLACK_S
    seen = _Seen(after)
    with gateway.bells.hang(job_id) as bell:
        is_counted = not status.state.is_terminal and await _watch(queue, status, level)
        try:
            while not is_cancelled():
                looked_at_s = time.monotonic()
                looked = await _look(queue, status, seen)
                if looked is not None:
                    status, stored = looked
                    for event in _without_overtaken(stored, seen):
                        if (ready := await _ready(gateway, event, seen, has_pictures)) is not None:
                            yield ready
                    if seen.is_news(status):
                        yield Changed(status)
                    if status.state.is_terminal:
                        for picture in await _pictures_left(gateway, status, seen, has_pictures):
                            yield picture
                        yield Ended(status)
                        return
                if looked_at_s > gives_up_at_s:
                    raise DeadlineExceeded(f"no result within timeout_s = {status.job.timeout_s:g}")
                await _wait(bell, status, looked_at_s)
        finally:
            if is_counted:
                with suppress(ServerOverloaded, JobNotFound):
                    await queue.events.watch(job_id, owner, WatchLevel.NOTHING)


async def _watch(queue: JobQueue, status: JobStatus, level: WatchLevel) -> bool:
    with suppress(ServerOverloaded):  # it is watched less closely then
        await queue.events.watch(status.job.id, status.job.owner, level)
        return True
    return False


async def _look(queue: JobQueue, status: JobStatus, seen: _Seen) -> tuple[JobStatus, tuple[StoredEvent, ...]] | None:
    """None while the server cannot be reached."""
    try:
        looked = await queue.events.look(status.job.id, status.job.owner, seen.last_id)
    except ServerOverloaded:
        return None
    if looked[1]:
        seen.last_id = looked[1][-1].id
    return looked


async def _wait(bell: Bell, status: JobStatus, looked_at_s: float) -> None:
    await bell.wait(QUEUED_PERIOD_S if status.state is JobState.QUEUED else RUNNING_PERIOD_S)
    if bell.is_closing:
        message = f"this gateway is stopping; the job goes on and can be had at /v1/jobs/{status.job.id}"
        raise ServerOverloaded(message, retry_after_s=1)
    if (early_s := looked_at_s + LEAST_PERIOD_S - time.monotonic()) > 0:
        await asyncio.sleep(early_s)


def _without_overtaken(stored: tuple[StoredEvent, ...], seen: _Seen) -> list[StoredEvent]:
    """Without what was told before, and of several previews of a picture the last. Notes pictures told before."""
    last_previews = {entry.event.index: entry.id for entry in stored if isinstance(entry.event, Preview)}
    fresh = []
    for entry in stored:
        if isinstance(entry.event, Preview) and last_previews[entry.event.index] != entry.id:
            continue
        if not seen.is_old(entry.id):
            fresh.append(entry)
        elif isinstance(entry.event, Drawn):
            seen.pictures.add(entry.event.index)
    return fresh


async def _ready(gateway: Gateway, entry: StoredEvent, seen: _Seen, has_pictures: bool) -> FeedEvent | None:
    """With the picture's bytes. None for what another attempt at the job has shown before."""
    match entry.event:
        case Preview(index, step, num_steps, width, height, content_type, data):
            return PreviewReady(entry.id, index, step, num_steps, width, height, content_type, data)
        case Partial(index, partial_index, step, num_steps, image):
            (png,) = await load(gateway.blobs, (image,))
            return PartialReady(entry.id, index, partial_index, step, num_steps, png)
        case Drawn(index, image):
            return await _picture(gateway, entry.id, index, image, seen, has_pictures)


async def _pictures_left(gateway: Gateway, status: JobStatus, seen: _Seen, has_pictures: bool) -> list[PictureReady]:
    images = status.result.images if isinstance(status.result, Done) else ()
    found = [await _picture(gateway, "", index, image, seen, has_pictures) for index, image in enumerate(images)]
    return [picture for picture in found if picture is not None]


async def _picture(
    gateway: Gateway, event_id: str, index: int, image: ImageRef, seen: _Seen, has_pictures: bool
) -> PictureReady | None:
    if index in seen.pictures:
        return None
    seen.pictures.add(index)
    (png,) = await load(gateway.blobs, (image,)) if has_pictures else (b"",)
    return PictureReady(event_id, index, image, png)


def _order(event_id: str) -> tuple[int, int]:
    """Where an event stands in its stream."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)
