"""One timer for all who wait equally long."""

from __future__ import annotations

import asyncio
import tracemalloc

from tocsin.store.patience import Patience


async def test_what_has_not_ended_is_given_up() -> None:
    """In the order in which it began, at its own time each, and again after a time in which nobody waited."""
    patience = Patience(0.02)
    given_up: list[str] = []
    for name in ("first", "second"):
        done = asyncio.Event()
        began = asyncio.get_running_loop().time()
        patience.begin(lambda: given_up.append(name))  # noqa: B023 - called before the next round
        ended = patience.begin(lambda: given_up.append("ended"))
        await asyncio.sleep(0)
        patience.begin(done.set)
        patience.end(ended)
        await asyncio.wait_for(done.wait(), 10)
        assert given_up[-1] == name
        assert asyncio.get_running_loop().time() - began >= patience.seconds
        patience.end(ended)  # once more: it is none any more
    assert given_up == ["first", "second"]


async def test_who_waits_is_not_looked_at() -> None:
    """Giving up on one costs the same, however many others wait."""
    taken = [await measure_giving_up() for _ in range(2)]
    assert min(taken) < 700_000  # a copy of them is 1.3 MB; of the coverage's probes, which go in between, as much


async def measure_giving_up() -> int:
    """The bytes that it takes to give up on one, with 20,000 others who wait."""
    patience, done, later = Patience(0.8), asyncio.Event(), asyncio.Event()
    patience.begin(done.set)
    Patience(0.6).begin(later.set)
    await later.wait()
    numbers = [patience.begin(done.clear) for _ in range(20_000)]
    tracemalloc.start()
    try:
        await asyncio.wait_for(done.wait(), 10)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        for number in numbers:
            patience.end(number)
