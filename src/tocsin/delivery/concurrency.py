"""How many chunks are delivered side by side. Who waits long for a vendor lends its place, so that a vendor that hangs
delays nobody else's chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum

BORROW_AFTER_SECONDS = 5.0  # of waiting for a vendor before a chunk's place is lent
BORROWED_SLOTS = 16  # places, at most: each is a chunk in memory, and a window that a crash would make unknown


class Slot(Enum):
    """Which chunks a task takes. `STEADY`: a run's before a request's, so that a flood of requests starves no run.
    `ANY`: a request's first. `URGENT`: a request's only."""

    STEADY = "steady"
    ANY = "any"
    URGENT = "urgent"


Work = Callable[[Slot], Awaitable[None]]


class WorkerPool:
    """Tasks that call `work` again and again until `stop`: so many, one of them steady, one more for urgent chunks
    only, and one for each place that is lent."""

    def __init__(self, size: int, work: Work):
        self._size = size
        self._work = work
        self._lent = 0
        self._extra = 0
        self._stopping = False
        self._group: asyncio.TaskGroup | None = None

    def stop(self) -> None:
        """No more calls; those under way are waited for."""
        self._stopping = True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            slots = [Slot.STEADY, *[Slot.ANY] * (self._size - 1), Slot.URGENT]
            for slot in slots:
                self._group.create_task(self._repeat(slot))

    @asynccontextmanager
    async def lending_slot(self) -> AsyncIterator[None]:
        """Around a wait for a vendor: after a while somebody else works in the place of who waits."""
        timer = asyncio.get_running_loop().call_later(BORROW_AFTER_SECONDS, self._lend)
        try:
            yield
        finally:
            if timer.when() <= asyncio.get_running_loop().time() and not timer.cancelled():
                self._lent = max(self._lent - 1, 0)
            timer.cancel()

    def _lend(self) -> None:
        self._lent += 1
        if self._group is not None and self._extra < min(self._lent, BORROWED_SLOTS) and not self._stopping:
            self._extra += 1
            self._group.create_task(self._help())

    async def _repeat(self, slot: Slot) -> None:
        while not self._stopping:
            await self._work(slot)

    async def _help(self) -> None:
        try:
            while not self._stopping and self._extra <= self._lent:
                await self._work(Slot.ANY)
        finally:
            self._extra -= 1
