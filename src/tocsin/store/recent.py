"""What is read of the ledger again and again, and may be a moment old: one reading for all who ask meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key, none of them older than `seconds`. read: returns a key's value; None is not kept.

    From half of their time on they are read again while the one before is still given out, so that nobody waits for a
    value that is asked for all the time.
    """

    def __init__(self, read: Callable[[str], Awaitable[T | None]], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._kept: dict[str, tuple[float, T]] = {}
        self._reading: dict[str, tuple[float, asyncio.Task[T | None]]] = {}  # since when

    def __contains__(self, key: str) -> bool:
        """Return whether there was a value, of whatever age."""
        return key in self._kept

    def get(self, key: str, now: float) -> T | None:
        """Return a value that may still be used; None when there is none, or the clock was set back."""
        read_at, value = self._kept.get(key, (float("inf"), None))
        age = now - read_at
        if not 0 <= age < self._seconds:
            return None
        if age >= self._seconds / 2:
            self._begin(key, now)
        return value

    async def find(self, key: str, now: float) -> T | None:
        """Return a value, which is read unless it may still be used."""
        if (value := self.get(key, now)) is not None:
            return value
        return await asyncio.shield(self._begin(key, now))

    def _begin(self, key: str, now: float) -> asyncio.Task[T | None]:
        began, task = self._reading.get(key, (float("inf"), None))
        if task is None or task.done() or not 0 <= now - began < self._seconds:
            task = asyncio.create_task(self._keep(key, now))
            task.add_done_callback(_look_at)
            self._reading[key] = now, task
        return task

    async def _keep(self, key: str, now: float) -> T | None:
        try:
            value = await self._read(key)
        finally:
            if latest := self._reading.get(key, (now, None))[1] is asyncio.current_task():  # else one came later
                del self._reading[key]
        if latest and value is not None:
            self._kept[key] = now, value
        return value


def _look_at(task: asyncio.Task[T | None]) -> None:
    """Look at the failure of a reading that nobody waits for: whoever has no value reads again, and meets it."""
    if not task.cancelled():
        task.exception()
