"""How many chunks are delivered side by side. A task that waits long for a vendor lends its slot to another one, so
that a vendor that hangs delays nobody else's chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum

BORROW_AFTER_SECONDS = 5.0  # of waiting for a vendor before the slot is lent
BORROWED_SLOTS = 16  # at most: each is a chunk in memory, and a window that a crash would make unknown


class Slot(Enum):
    """Which chunks a task takes. `STEADY`: those of runs before those of requests, so that a flood of requests
    starves no run. `ANY`: those of requests first. `URGENT`: only those of requests."""

    STEADY = "steady"
    ANY = "any"
    URGENT = "urgent"


Work = Callable[[Slot], Awaitable[None]]


class WorkerPool:
    """Tasks that call `work` until `stop`: `size` of them, the first steady; one more for urgent chunks; and one for
    each slot that is lent."""

    def __init__(self, size: int, work: Work, borrow_after: float = BORROW_AFTER_SECONDS):
        self._size = size
        self._borrow_after = borrow_after
        self._work = work
        self._lent = 0
        self._extra = 0
        self._stopping = False
        self._group: asyncio.TaskGroup | None = None

    def stop(self) -> None:
        """Make no more calls; `run` waits for those under way."""
        self._stopping = True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            slots = [Slot.STEADY, *[Slot.ANY] * (self._size - 1), Slot.URGENT]
            for slot in slots:
                self._group.create_task(self._repeat(slot))

    @asynccontextmanager
    async def lending_slot(self) -> AsyncIterator[None]:
        """Wrap a wait for a vendor: after BORROW_AFTER_SECONDS another task works in this one's slot."""
        timer = asyncio.get_running_loop().call_later(self._borrow_after, self._lend)
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
            self._group.create_task(self._work_in_borrowed_slot())

    async def _repeat(self, slot: Slot) -> None:
        while not self._stopping:
            await self._work(slot)

    async def _work_in_borrowed_slot(self) -> None:
        try:
            while not self._stopping and self._extra <= self._lent:
                await self._work(Slot.ANY)
        finally:
            self._extra -= 1
