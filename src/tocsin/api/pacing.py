"""Pacing: requests that come by the thousand begin a few in each turn of the event loop.

A turn runs everything that is ready. With a thousand reports ready it takes a tenth of a second, and a request that
waits for a body, a passcode and a commit, a turn each, takes a second: so the others go first.
"""

from __future__ import annotations

import asyncio
from collections import deque

SIZE = 128  # some 10 ms of a turn; with fewer, turns cost more than what begins in them


class Pacer:
    """Lets `size` requests begin in each turn of the loop, in the order in which they came."""

    def __init__(self, size: int = SIZE):
        self._size = size
        self._begun = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False

    async def enter(self) -> None:
        """Return when a request may begin: at once, unless many came before it."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn)
        if self._begun < self._size and not self._waiting:
            self._begun += 1
            return
        mine: asyncio.Future[None] = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _turn(self) -> None:
        """Begin another turn, until there is one in which nobody comes."""
        self._begun = 0
        while self._waiting and self._begun < self._size:
            one = self._waiting.popleft()
            if not one.done():  # else its request was cancelled
                one.set_result(None)
                self._begun += 1
        self._turning = self._begun > 0
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)
