"""Values that are read now and then: never too old, one reading at a time, and nobody waits while there is one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.store.recent import Recent


class Failure(Exception):  # noqa: N818 - one that can be referred to weakly
    """The ledger's."""


@given(st.lists(st.tuples(st.floats(-2, 3), st.integers(0, 3)), max_size=40))
@settings(max_examples=50, deadline=None)
async def test_never_too_old(steps: list[tuple[float, int]]) -> None:
    """Whatever the clock does, a value was read at most a second before it is given out, and not in the future."""
    now, reads = 100.0, Counter[str]()

    async def read(key: str) -> float:
        reads[key] += 1
        began = now
        await asyncio.sleep(0)
        return began

    recent = Recent(read, 1.0)
    for wait, turns in steps:
        now += wait
        assert abs(await recent.find("a", now) - now) < 1.0  # type: ignore[operator]
        for _ in range(turns):
            await asyncio.sleep(0)
    assert reads["a"] <= 2 * len(steps)


async def test_one_reading_for_all_who_ask() -> None:
    """Who asks while there is a value gets it at once; who asks without one waits for the reading under way."""
    gate, reads = asyncio.Event(), list[str]()

    async def read(key: str) -> str | None:
        reads.append(key)
        await gate.wait()
        return None if key == "nobody" else f"{key}{len(reads)}"

    recent = Recent(read, 1.0)
    asked = [asyncio.create_task(recent.find("a", 0.0)) for _ in range(5)]
    await asyncio.sleep(0)
    asked.pop().cancel()  # the others do not lose theirs
    gate.set()
    assert await asyncio.gather(*asked) == ["a1"] * 4
    gate.clear()
    assert [recent.get("a", 0.4), recent.get("a", 0.6), recent.get("a", 0.9)] == ["a1"] * 3
    assert recent.get("a", 1.0) is None
    late = asyncio.create_task(recent.find("a", 1.0))
    await asyncio.sleep(0)
    gate.set()
    assert (await late, reads) == ("a2", ["a", "a"])
    assert await recent.find("nobody", 0.0) is None
    assert ("a" in recent, "nobody" in recent) == (True, False)


async def test_a_failed_reading_is_met_by_who_needs_it() -> None:
    """A reading that nobody waits for may fail; once the value is too old, whoever asks hears why."""
    broken = False

    async def read(_: str) -> str:
        if broken:
            raise OSError("the ledger is away")
        return "value"

    recent = Recent(read, 1.0)
    assert await recent.find("a", 0.0) == "value"
    broken = True
    assert recent.get("a", 0.9) == "value"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="away"):
        await recent.find("a", 1.0)


async def test_what_is_not_found_leaves_nothing() -> None:
    """Made-up ids fill no memory, whether they are answered or the ledger is away."""
    asked: list[weakref.ref[Failure]] = []

    async def read(_: str) -> str | None:
        error = Failure("the ledger is away")
        asked.append(weakref.ref(error))
        if len(asked) <= 50:
            raise error
        return None

    recent = Recent(read, 1.0)
    for number in range(100):
        with contextlib.suppress(Failure):
            assert await recent.find(f"made-up {number}", 0.0) is None
    await asyncio.sleep(0)
    gc.collect()
    assert len(asked) == 100
    assert [error for error in asked if error() is not None] == []
