"""Places: how many requests of one kind are under way at one time, of all accounts and of one, in this process."""

from __future__ import annotations

from collections import Counter

from tocsin.api.held import Held
from tocsin.errors import Problem


class Places:
    """A bounded number of places, of which one account may hold `each`."""

    def __init__(self, total: int, each: int):
        self._total = total
        self._each = each
        self._busy = Counter[str]()
        self._all = 0

    def take(self, account_id: str, held: Held) -> None:
        """Hold a place until `held` is closed. Raises Problem 429."""
        if self._all >= self._total or self._busy[account_id] >= self._each:
            raise Problem("Too many requests are under way; try again", code=429, status=429, retry_after=1)
        self._busy[account_id] += 1
        self._all += 1
        held.callback(self._leave, account_id)

    def _leave(self, account_id: str) -> None:
        self._all -= 1
        self._busy[account_id] -= 1
        if not self._busy[account_id]:
            del self._busy[account_id]
