"""Where contents are compiled and tried out: beside uploads and the event loop, and shared among accounts."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tocsin.campaign.compile_process import CompileProcess
from tocsin.errors import Problem

T = TypeVar("T")

THREADS = 4
PLACES = 2  # of one account
WAIT_SECONDS = 1.0  # for a place; most contents take a thousandth of that
HEAVY_SECONDS = 0.02  # of a processor in one second; more would hold up everybody who needs this interpreter


class CompilePool:
    """Runs functions in threads, at most PLACES of an account at once; in a process from when they took HEAVY_SECONDS,
    if there is one. How long one runs is bounded by the limits of templates. A place is held until the work is done,
    also when the caller has gone. What is run in a process can be pickled."""

    def __init__(self, process: CompileProcess | None = None, wait_seconds: float = WAIT_SECONDS):
        self._process = process
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="compile")
        self._wait_seconds = wait_seconds
        self._places: dict[str, asyncio.Semaphore] = {}
        self._callers: Counter[str] = Counter()  # that have a place or wait for one
        self._spent = 0.0  # by threads, in the second of `_since`
        self._since = 0.0

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
        try:
            running = self._begin(work)
        except BaseException:
            self._places[account_id].release()
            self._forget(account_id)
            raise
        running.add_done_callback(functools.partial(self._leave, account_id))
        return await asyncio.shield(running)

    def _begin(self, work: Callable[[], T]) -> asyncio.Future[T]:
        if self._process is not None and self._process.up:
            return self._process.begin(work)
        return asyncio.get_running_loop().run_in_executor(self._threads, self._do, work)

    def _do(self, work: Callable[[], T]) -> T:
        began = time.thread_time()
        try:
            return work()
        finally:
            took, now = time.thread_time() - began, time.monotonic()
            if now > self._since + 1:
                self._spent, self._since = 0.0, now
            self._spent += took

    def _leave(self, account_id: str, done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            done.exception()  # whose caller may be gone
        self._places[account_id].release()
        self._forget(account_id)
        if self._process is not None and self._spent > HEAVY_SECONDS:
            self._process.start()

    def _forget(self, account_id: str) -> None:
        self._callers[account_id] -= 1
        if not self._callers[account_id]:
            del self._callers[account_id], self._places[account_id]
