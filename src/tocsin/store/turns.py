"""Turns: accounts share a few places, and none waits for all that another has asked."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tocsin.errors import Problem


class Turns:
    """`at_once` places, of which an account holds `each`. Free ones go to the account that was served longest ago;
    `waiting` of one account may wait."""

    def __init__(self, at_once: int, each: int, waiting: int):
        self._free = at_once
        self._each = each
        self._most = waiting
        self._busy = Counter[str]()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # the account served longest ago first

    @asynccontextmanager
    async def take(self, account_id: str) -> AsyncIterator[None]:
        """Hold a place, once it is the account's turn. Raises Problem 429 when too many of it wait."""
        if self._free and self._busy[account_id] < self._each and account_id not in self._queues:
            self._enter(account_id)
        else:
            await self._wait(account_id)
        try:
            yield
        finally:
            self._leave(account_id)

    @asynccontextmanager
    async def take_within(self, account_id: str, seconds: float) -> AsyncIterator[None]:
        """Hold a place as `take` does. Raises Problem 503 when the account's turn does not come in so many seconds."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(seconds):
                    await held.enter_async_context(self.take(account_id))
            except TimeoutError:
                raise Problem("Too much is asked at once; try again", code=503, status=503, retry_after=1) from None
            yield

    def _enter(self, account_id: str) -> None:
        self._free -= 1
        self._busy[account_id] += 1

    def _leave(self, account_id: str) -> None:
        self._free += 1
        self._busy[account_id] -= 1
        if not self._busy[account_id]:
            del self._busy[account_id]
        self._call()

    async def _wait(self, account_id: str) -> None:
        queue = self._queues.setdefault(account_id, deque())
        if len(queue) >= self._most:
            raise Problem("Too many questions of this account are waiting", code=429, status=429, retry_after=1)
        called = asyncio.get_running_loop().create_future()
        queue.append(called)
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self._leave(account_id)
            elif account_id in self._queues and called in self._queues[account_id]:
                self._queues[account_id].remove(called)
                self._drop_empty(account_id)
            raise

    def _call(self) -> None:
        """Give free places to those who wait."""
        for account_id in list(self._queues):
            if not self._free:
                return
            if self._busy[account_id] >= self._each:
                continue
            queue = self._queues.pop(account_id)
            while queue and (called := queue.popleft()).cancelled():
                pass  # its caller is gone, and has not noticed yet
            if not called.cancelled():
                self._enter(account_id)
                called.set_result(None)
            if queue:
                self._queues[account_id] = queue  # to the end: the others come first

    def _drop_empty(self, account_id: str) -> None:
        if not self._queues[account_id]:
            del self._queues[account_id]
