"""A flood of reports and everybody else: a few of it begin in each turn of the event loop."""

from __future__ import annotations

import asyncio

import pytest

from tocsin.api.pacing import Pacer
from tocsin.app import ENDPOINTS


async def test_others_go_first() -> None:
    """While a thousand want to begin, ten turns are over before the eleventh handful has begun. They begin in the order
    in which they came, and whoever went away meanwhile takes nobody's place."""
    pacer, begun = Pacer(7), list[int]()

    async def begin(number: int) -> None:
        await pacer.enter()
        begun.append(number)

    flood = [asyncio.create_task(begin(number)) for number in range(1000)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert 7 <= len(begun) <= 70
    for number in range(100, 200):
        flood[number].cancel()
    await asyncio.wait(flood)
    assert begun == [number for number in range(1000) if not 100 <= number < 200]


async def test_alone_nobody_waits() -> None:
    """Not for a turn of the loop either; and whoever comes later neither."""
    pacer = Pacer(2)
    for _ in range(3):
        for _ in range(2):
            with pytest.raises(StopIteration):
                pacer.enter().send(None)
        third = pacer.enter()
        assert third.send(None) is not None, "it waits"
        third.close()
        for _ in range(5):
            await asyncio.sleep(0)


def test_what_devices_call_by_themselves_is_paced() -> None:
    """What people and their devices do at once, when a campaign arrives."""
    paced = {endpoint.path for endpoint in ENDPOINTS if endpoint.paced}
    assert paced == {"/track/{kind}", "/l/{mail_id}", "/o/{name}", "/a1", "/a", "/sdk/report"}
