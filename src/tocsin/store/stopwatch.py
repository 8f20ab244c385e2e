"""A limit on waiting: what is done between two waits does not count."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Counts the time spent in `running`, over many times. When it reaches `seconds`, `over` is called, in a thread of
    its own, for the caller may be waiting in something that nothing else ends."""

    def __init__(self, seconds: float, over: Callable[[], None]):
        self._left = seconds
        self._over = over

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time until the end of the context."""
        alarm = threading.Timer(max(self._left, 0.0), self._over)
        alarm.daemon = True
        started = time.monotonic()
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()
            self._left -= time.monotonic() - started
