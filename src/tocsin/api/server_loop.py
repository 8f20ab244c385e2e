"""The event loop of a server, which other threads wake only when it sleeps.

Every request comes from a thread of Granian's, and every answer of a store from one of ours. asyncio writes a byte to a
socket for each of them, also while the loop is awake and looks for itself before it sleeps; and to write it a thread
gives the interpreter away in the middle of handing a request over.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Sequence
from typing import Any


class _Selector(selectors.DefaultSelector):
    """A selector that says whether the loop sleeps in it."""

    asleep = False
    ready: Sequence[Any] = ()  # what the loop runs next

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        self.asleep = True
        try:
            # Who handed over something before this moment has not woken the loop, and has put it there.
            return super().select(0 if self.ready else timeout)
        finally:
            self.asleep = False


class ServerLoop(asyncio.SelectorEventLoop):
    """An event loop that is woken once for all that comes while it sleeps, and not while it runs."""

    def __init__(self) -> None:
        self._own_selector = _Selector()
        super().__init__(self._own_selector)
        self._own_selector.ready = self._ready  # type: ignore[attr-defined]

    def _write_to_self(self) -> None:
        if self._own_selector.asleep:
            self._own_selector.asleep = False
            super()._write_to_self()  # type: ignore[misc]
