"""Wake-ups: tell the loops of this process that there is work, so that they need not poll often."""

from __future__ import annotations

import asyncio


class Wakeup:
    """Wakes every waiter at once. A notification without a waiter is not kept: loops also poll."""

    def __init__(self) -> None:
        self._event: asyncio.Event = asyncio.Event()

    def notify(self) -> None:
        """Wake everybody who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait for the next notification, at most `seconds`."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return
