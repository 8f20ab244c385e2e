"""Wakes the loops of this process when there is work, so that polling can be slow."""

from __future__ import annotations

import asyncio


class Wakeup:
    """Everybody who waits wakes when it rings. A ring that nobody waits for is not kept: loops also poll."""

    def __init__(self) -> None:
        self._rung: asyncio.Event = asyncio.Event()

    def notify(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Returns at the next ring, after `seconds` at the latest."""
        try:
            await asyncio.wait_for(self._rung.wait(), seconds)
        except TimeoutError:
            return
