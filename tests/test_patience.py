"""One timer for all who wait equally long."""

from __future__ import annotations

import asyncio

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
