"""How often and how many at once, per account. Everything here is in this process's memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tocsin.errors import Problem

# A caller who keeps to one request a second arrives a few milliseconds early now and then.
TOLERANCE = 0.05


class Throttle:
    """One endpoint's limits: `per_second` (None: any) and `at_once`, for each account."""

    def __init__(self, per_second: float | None, at_once: int):
        self._per_second = per_second
        self._at_once = at_once
        self._busy: Counter[str] = Counter()
        self._tokens: dict[str, tuple[float, float]] = {}

    @contextmanager
    def admit(self, account_id: str, now: float) -> Iterator[None]:
        """Holds a place while the request runs; raises Problem 429. `now` is in seconds of any steady clock."""
        if self._busy[account_id] >= self._at_once:
            raise Problem("Too many concurrent requests", code=429, status=429, retry_after=1)
        if self._per_second is not None:
            self._take(account_id, now, self._per_second)
        self._busy[account_id] += 1
        try:
            yield
        finally:
            self._busy[account_id] -= 1
            if not self._busy[account_id]:
                del self._busy[account_id]

    def _take(self, account_id: str, now: float, per_second: float) -> None:
        most = max(1.0, per_second)
        tokens, then = self._tokens.get(account_id, (most, now))
        tokens = min(most, tokens + max(0.0, now - then) * per_second)
        if tokens < 1 - TOLERANCE:
            self._tokens[account_id] = (tokens, now)
            raise Problem(
                f"Too many requests: this endpoint takes {per_second:g} in a second",
                code=429,
                status=429,
                retry_after=max(1, round((1 - tokens) / per_second)),
            )
        self._tokens[account_id] = (tokens - 1, now)
