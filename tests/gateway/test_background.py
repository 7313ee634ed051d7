"""Tasks are ended in full: what they clean up takes its time, and nobody is in the way of it."""

import asyncio
from contextlib import aclosing

import pytest

from service.gateway import background
from service.gateway.background import end, repeat
from service.gateway.sse import with_keep_alive
from service.gateway.streaming import StreamedResponse

pytestmark = pytest.mark.anyio


class Cleaner:
    """A task that cleans up once it is told to: a call to a queue that takes as long as `may_end` is not set."""

    def __init__(self):
        self.is_cleaning = asyncio.Event()
        self.may_end = asyncio.Event()
        self.is_clean = False

    async def run(self):
        try:
            await asyncio.Event().wait()
        finally:
            self.is_cleaning.set()
            await self.may_end.wait()
            self.is_clean = True

    async def chunks(self):
        yield b"the first"
        await self.run()


async def test_who_is_told_to_end_twice_still_waits_for_what_it_ends():
    cleaner = Cleaner()
    inner = asyncio.create_task(cleaner.run())
    await asyncio.sleep(0)
    outer = asyncio.create_task(end(inner))
    await cleaner.is_cleaning.wait()
    for _ in range(3):
        outer.cancel()
        await asyncio.sleep(0)
    assert not outer.done()
    cleaner.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert cleaner.is_clean


async def test_a_cancellation_that_was_swallowed_is_said_again(monkeypatch):
    monkeypatch.setattr(background, "CANCEL_AGAIN_S", 0.01)
    num_heard = 0

    async def is_hard_of_hearing():
        nonlocal num_heard
        while num_heard < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                num_heard += 1

    task = asyncio.create_task(is_hard_of_hearing())
    await asyncio.sleep(0)
    await end(task)
    assert num_heard == 3


async def test_a_loop_that_a_cancellation_did_not_reach_ends_at_its_next_turn():
    async def swallow():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    task = asyncio.create_task(repeat("swallow", 0.0, swallow))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,), timeout=10)
    assert task.done()


async def test_a_client_that_hangs_up_while_the_queue_is_slow_is_no_failure():
    """A stream whose source takes longer to close than the first patience with it: it is closed once, and whole."""
    cleaner = Cleaner()
    has_begun, has_gone = asyncio.Event(), asyncio.Event()
    sent = []

    async def receive():
        await has_gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if message.get("body"):
            has_begun.set()

    async def events():
        async with aclosing(with_keep_alive(cleaner.chunks())) as chunks:
            async for chunk in chunks:
                yield chunk

    serving = asyncio.create_task(StreamedResponse(events(), media_type="text/event-stream")({}, receive, send))
    await has_begun.wait()
    has_gone.set()
    await cleaner.is_cleaning.wait()
    for _ in range(3):
        serving.cancel()  # as the server does when it is told to stop meanwhile
        await asyncio.sleep(0)
    cleaner.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert cleaner.is_clean
    assert [message.get("body") for message in sent] == [None, b"the first"]
