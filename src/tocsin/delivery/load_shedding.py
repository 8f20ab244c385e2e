"""How much arrives at the fast door, so that delivery can leave it the right of way.

More people can be named in a second than any machine can send to. Then a backlog grows whatever delivery does, and time
spent on it would be taken from the callers who wait for an answer.
"""

from __future__ import annotations

HEAVY = 50_000  # recipients a second: three times what delivery does at its best


class LoadMeter:
    """Recipients accepted of late, in this process."""

    def __init__(self) -> None:
        self._second = 0
        self._now = 0
        self._before = 0

    def count(self, recipients: int, now: float) -> None:
        """`now` is in seconds of any clock."""
        self._turn(now)
        self._now += recipients

    def is_heavy(self, now: float) -> bool:
        """Whether this second or the last one brought more than HEAVY."""
        self._turn(now)
        return max(self._now, self._before) > HEAVY

    def _turn(self, now: float) -> None:
        second = int(now)
        if second != self._second:
            self._before = self._now if second == self._second + 1 else 0
            self._now, self._second = 0, second
