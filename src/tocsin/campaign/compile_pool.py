"""Threads in which contents are compiled and tried out: none that uploads need, and shared among accounts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tocsin.errors import Problem

T = TypeVar("T")

THREADS = 4
PLACES = 2  # of one account
WAIT_SECONDS = 1.0  # for a place; most contents take a thousandth of that


class CompilePool:
    """Runs functions in threads, at most PLACES of an account at once. How long one runs is bounded by the limits of
    templates. A place is held until the thread is done, also when the caller has gone."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS):
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="compile")
        self._wait_seconds = wait_seconds
        self._places: dict[str, asyncio.Semaphore] = {}
        self._callers: Counter[str] = Counter()  # that have a place or wait for one

    async def run(self, account_id: str, work: Callable[[], T]) -> T:
        """Return what `work` returns. Raise what it raises, and Problem 429 when no place is free for too long."""
        places = self._places.setdefault(account_id, asyncio.Semaphore(PLACES))
        self._callers[account_id] += 1
        try:
            if places.locked():
                async with asyncio.timeout(self._wait_seconds):
                    await places.acquire()
            else:
                await places.acquire()
        except BaseException as error:
            self._forget(account_id)
            if isinstance(error, TimeoutError):
                wanted = f"{PLACES} contents of this account are being compiled; try again"
                raise Problem(wanted, code=429, status=429, retry_after=1) from None
            raise
        loop = asyncio.get_running_loop()
        running = self._threads.submit(work)
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave, account_id))
        return await asyncio.wrap_future(running)

    def _leave(self, account_id: str) -> None:
        self._places[account_id].release()
        self._forget(account_id)

    def _forget(self, account_id: str) -> None:
        self._callers[account_id] -= 1
        if not self._callers[account_id]:
            del self._callers[account_id], self._places[account_id]
