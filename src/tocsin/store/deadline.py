"""The deadline of the request that is being answered: however many questions it asks, they share it."""

from __future__ import annotations

import time
from contextvars import ContextVar

_ENDS_AT: ContextVar[float] = ContextVar("ends_at", default=float("inf"))


def begin_deadline(seconds: float) -> None:
    """Give the current task, and what it calls, so many seconds from now."""
    _ENDS_AT.set(time.monotonic() + seconds)


def time_left(most: float) -> float:
    """Return the seconds until the deadline, at most `most`; 0.0 when it is over."""
    return max(min(_ENDS_AT.get() - time.monotonic(), most), 0.0)
