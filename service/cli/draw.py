"""Orders drawn by a service, some at a time; whatever stops this command cancels there what it had under way."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from service.cli.orders import Order
from service.cli.remote import Exit, exit_of
from service.client import AsyncClient, Event, ImageEvent, Job, JobEvent, PartialImageEvent, PreviewEvent
from service.client.errors import ApiError
from service.errors import EmmditError

CANCEL_PATIENCE_S = 3.0
TICK_S = 0.12  # between two looks of the display at what has changed


@dataclass(slots=True, eq=False)
class Drawing:
    """One order under way, as far as it is known. `preview` is the newest look at any of its pictures."""

    order: Order
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    job: Job | None = None
    preview: bytes | None = None
    num_drawn: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture, on disk or, where `file` is None, handed to stdout."""

    drawing: Drawing
    picture: ImageEvent
    data: bytes
    file: Path | None

    @property
    def index(self) -> int:
        """Its number among all pictures of the command, from 1."""
        return self.drawing.order.first_index + self.picture.index


class Display(Protocol):
    """Who tells the person how it goes."""

    def begin(self, drawing: Drawing) -> None:
        """An order is under way."""

    def drew(self, drawn: Drawn) -> None:
        """One of its pictures is there."""

    def end(self, drawing: Drawing, failure: EmmditError | None) -> None:
        """It is over, with all of its pictures or with a failure."""

    def tick(self) -> None:
        """Time to show what has changed."""


@dataclass(slots=True)
class Tally:
    """How it went."""

    num_drawn: int = 0
    failures: list[EmmditError] = field(default_factory=list)

    @property
    def exit(self) -> Exit:
        """As documented: away or busy first, then what was wrong with all requests, then with some."""
        if not self.failures:
            return Exit.DONE
        if any(exit_of(failure) is Exit.UNREACHABLE for failure in self.failures):
            return Exit.UNREACHABLE
        if self.num_drawn == 0 and all(_is_refusal(failure) for failure in self.failures):
            return Exit.USAGE
        return Exit.FAILED


class Studio:
    """Draws orders with one client. `is_forced`: files that exist are replaced."""

    def __init__(self, client: AsyncClient, display: Display, *, is_forced: bool) -> None:
        self._client = client
        self._display = display
        self._is_forced = is_forced
        self._tally = Tally()
        self._gave_up: EmmditError | None = None

    async def draw_all(self, orders: Sequence[Order], max_at_once: int) -> Tally:
        """Draw; cancelled, it cancels its jobs before it ends."""
        waiting = iter(orders)
        ticking = asyncio.create_task(self._tick())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(max_at_once, len(orders))):
                    group.create_task(self._draw_from(waiting))
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking
        return self._tally

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._display.tick()

    async def _draw_from(self, waiting: Iterator[Order]) -> None:
        for order in waiting:
            drawing = Drawing(order)
            failure = self._gave_up  # the others would only wait as long in vain
            if failure is None:
                self._display.begin(drawing)
                failure = await self._draw(drawing)
            if failure is not None:
                self._tally.failures.append(failure)
                if exit_of(failure) is Exit.UNREACHABLE:
                    self._gave_up = failure
            self._display.end(drawing, failure)

    async def _draw(self, drawing: Drawing) -> EmmditError | None:
        order = drawing.order
        try:
            async with aclosing(
                self._client.stream(order.prompt, idempotency_key=drawing.key, **order.options)
            ) as events:
                async for event in events:
                    await self._take(drawing, event)
        except EmmditError as error:
            return error
        except OSError as error:  # of a picture's file: the connection's are translated
            await self._cancel(drawing)
            return EmmditError(f"cannot write {error.filename or 'the picture'}: {error.strerror}")
        except asyncio.CancelledError:
            await self._cancel(drawing)
            raise
        return None

    async def _take(self, drawing: Drawing, event: Event) -> None:
        match event:
            case JobEvent(job=job):
                drawing.job = job
            case PreviewEvent(data=data) | PartialImageEvent(data=data):
                drawing.preview = data
            case ImageEvent():
                data = event.data or await self._client.image(event.job_id, event.index)
                file = drawing.order.files[event.index] if drawing.order.files else None
                await asyncio.to_thread(write_picture, data, file, self._is_forced)
                drawing.num_drawn += 1
                self._tally.num_drawn += 1
                self._display.drew(Drawn(drawing, event, data, file))

    async def _cancel(self, drawing: Drawing) -> None:
        """Best effort: a job that cannot be cancelled ends by itself.

        One that is on its way, and whose id nobody has told yet, is found by its key.
        """
        order, job = drawing.order, drawing.job
        with suppress(EmmditError, TimeoutError):
            async with asyncio.timeout(CANCEL_PATIENCE_S):
                if job is None:
                    job = await self._client.submit(order.prompt, idempotency_key=drawing.key, **order.options)
                if not job.is_over:
                    await self._client.cancel(job.id)


def write_picture(data: bytes, file: Path | None, is_forced: bool) -> None:
    """Write a picture, whole or not at all. Raises OSError, FileExistsError unless forced."""
    if file is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.part")
    if not is_forced:
        file.touch(exist_ok=False)  # ours from now on
    try:
        unfinished.write_bytes(data)
        unfinished.replace(file)
    except OSError:
        unfinished.unlink(missing_ok=True)
        if not is_forced:
            file.unlink(missing_ok=True)
        raise


def _is_refusal(failure: EmmditError) -> bool:
    return isinstance(failure, ApiError) and 400 <= failure.status < 500
