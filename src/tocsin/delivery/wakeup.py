"""Wake-ups: tell a loop of this process that there is work, so that it need not poll often."""

from __future__ import annotations

import asyncio
import contextlib


class Wakeup:
    """Wakes the one loop that waits. A notification that comes while it works is kept until it waits again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._names: set[str] = set()
        self._any = False

    def notify(self, name: str = "") -> None:
        """Wake the loop. name: of the account that has work; "" when it is not known."""
        if name:
            self._names.add(name)
        else:
            self._any = True
        self._event.set()

    async def wait(self, seconds: float) -> frozenset[str]:
        """Wait for a notification, at most `seconds`. One that came since the last wait counts. Return the accounts
        that were named; none when any may have work."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        names = frozenset() if self._any else frozenset(self._names)
        self._names.clear()
        self._any = False
        self._event.clear()
        return names


class Wakeups:
    """The loops of a process that wait for work: `runs` are snapshotted, `chunks` are delivered."""

    def __init__(self) -> None:
        self.runs = Wakeup()
        self.chunks = Wakeup()

    def notify_all(self) -> None:
        """Wake both: another process has added something."""
        self.runs.notify()
        self.chunks.notify()
