"""Waiting that ends: one timer for all who wait equally long, since a timer each costs more than what is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable


async def rest(stop: asyncio.Event, seconds: float) -> None:
    """Wait so many seconds, or until `stop` is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


class Patience:
    """Gives up on what began `seconds` ago and has not ended. For one event loop."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._waiting: dict[int, tuple[float, Callable[[], object]]] = {}  # in the order in which they began
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, give_up: Callable[[], object]) -> int:
        """Have `give_up` called in `seconds`, unless the number that is returned has ended by then."""
        loop = asyncio.get_running_loop()
        self._number += 1
        self._waiting[self._number] = loop.time() + self.seconds, give_up
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look)
        return self._number

    def end(self, number: int) -> None:
        """Wait no longer; a number that was given up is none any more."""
        self._waiting.pop(number, None)

    def _look(self) -> None:
        """Give up on all whose time has come, and look again when that of the next one has."""
        loop, self._timer = asyncio.get_running_loop(), None
        now = loop.time()
        # No copy of all: with thousands that wait, a look for each would cost more than what they wait for.
        late = list(itertools.takewhile(lambda one: one[1][0] <= now, self._waiting.items()))
        for number, _ in late:
            del self._waiting[number]
        if self._waiting:
            until, _ = next(iter(self._waiting.values()))
            self._timer = loop.call_at(until, self._look)
        for _, (_, give_up) in late:
            give_up()
