"""How many chunks are delivered side by side. Who waits long for a vendor lends its place, so that a vendor that hangs
delays nobody else's chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

PATIENCE_SECONDS = 5.0  # of waiting for a vendor before a chunk's place is lent
LENT = 16  # places, at most: each is a chunk in memory, and a window that a crash would make unknown

Work = Callable[[bool], Awaitable[None]]


class Crew:
    """Tasks that call `work` again and again until `stop`: so many, one more for urgent chunks only, and one for each
    place that is lent."""

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
            for number in range(self._size + 1):
                self._group.create_task(self._repeat(urgent=number == self._size))

    @asynccontextmanager
    async def lending(self) -> AsyncIterator[None]:
        """Around a wait for a vendor: after a while somebody else works in the place of who waits."""
        timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._lend)
        try:
            yield
        finally:
            if timer.when() <= asyncio.get_running_loop().time() and not timer.cancelled():
                self._lent = max(self._lent - 1, 0)
            timer.cancel()

    def _lend(self) -> None:
        self._lent += 1
        if self._group is not None and self._extra < min(self._lent, LENT) and not self._stopping:
            self._extra += 1
            self._group.create_task(self._help())

    async def _repeat(self, *, urgent: bool) -> None:
        while not self._stopping:
            await self._work(urgent)

    async def _help(self) -> None:
        try:
            while not self._stopping and self._extra <= self._lent:
                await self._work(False)
        finally:
            self._extra -= 1
