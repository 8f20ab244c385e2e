"""Wake-ups: tell a loop of this process that there is work, so that it need not poll often."""

from __future__ import annotations

import asyncio


class Wakeup:
    """Wakes the one loop that waits. A notification that comes while it works is kept until it waits again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake the loop."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a notification, at most `seconds`. One that came since the last wait counts."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        finally:
            self._event.clear()


class Wakeups:
    """The loops of a process that wait for work: `runs` are snapshotted, `chunks` are delivered."""

    def __init__(self) -> None:
        self.runs = Wakeup()
        self.chunks = Wakeup()

    def notify_all(self) -> None:
        """Wake both: another process has added something."""
        self.runs.notify()
        self.chunks.notify()
