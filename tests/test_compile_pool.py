"""Contents are compiled beside everything else: two at a time of an account, in threads that nobody else needs."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tocsin.campaign.compile_pool import PLACES, THREADS, CompilePool
from tocsin.errors import Problem


async def test_an_account_has_its_places() -> None:
    """Who finds no place of their account is answered 429 with Retry-After; another account finds one at once."""
    pool, go = CompilePool(wait_seconds=0), threading.Event()
    try:
        busy = [asyncio.create_task(pool.run("A", lambda: go.wait(30))) for _ in range(PLACES)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await pool.run("A", lambda: True)
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, 429, 1)
        assert await pool.run("B", lambda: "done") == "done"
    finally:
        go.set()
    assert await asyncio.gather(*busy) == [True] * PLACES
    assert await pool.run("A", lambda: "again") == "again"


async def test_a_place_is_held_until_the_work_ends() -> None:
    """A caller who hangs up frees no place: the thread is still at it."""
    pool, go, begun = CompilePool(wait_seconds=0), threading.Event(), threading.Semaphore(0)

    def work() -> bool:
        begun.release()
        return go.wait(30)

    try:
        for task in [asyncio.create_task(pool.run("A", work)) for _ in range(PLACES)]:
            await asyncio.to_thread(begun.acquire)
            task.cancel()
        with pytest.raises(Problem):
            await pool.run("A", lambda: True)
    finally:
        go.set()


async def test_who_waits_gets_a_place() -> None:
    """Within a second the next place is theirs, and what the work raises is what they get."""
    pool = CompilePool()

    def fail() -> None:
        raise Problem("no")

    results = await asyncio.gather(*(pool.run("A", fail) for _ in range(5 * THREADS)), return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * (5 * THREADS)
