import asyncio

import pytest

from service.one_at_a_time import OneAtATime

pytestmark = pytest.mark.anyio


async def test_work_that_takes_longer_than_one_waits_goes_on_and_is_not_begun_twice():
    is_released, begun = asyncio.Event(), []

    async def work():
        begun.append(1)
        await is_released.wait()

    one = OneAtATime(work)
    await one.do(0)
    await one.do(0.01)
    assert (len(begun), one.is_under_way) == (1, True)
    is_released.set()
    await one.do()
    assert (len(begun), one.is_under_way) == (1, False)
    await one.do()
    assert len(begun) == 2


async def test_what_it_raises_is_told_once():
    async def work():
        raise ZeroDivisionError

    one = OneAtATime(work)
    with pytest.raises(ZeroDivisionError):
        await one.do()
    assert not one.is_under_way


async def test_closing_ends_it():
    ends = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ends.append(1)

    one = OneAtATime(work)
    await one.do(0)
    await one.close()
    assert ends == [1]
    await OneAtATime(work).close()
