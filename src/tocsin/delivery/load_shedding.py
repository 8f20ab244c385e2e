"""Load shedding: how much `/1/send` accepts, so that delivery of requests can slow down for it.

More people can be named in a second than any machine can send to. Then a backlog grows whatever delivery does, and time
spent on it would be taken from the callers who wait for an answer.
"""

from __future__ import annotations

HEAVY = 50_000  # recipients a second: three times what delivery does at its best


class LoadMeter:
    """Counts recipients accepted by this process, second by second."""

    def __init__(self) -> None:
        self._second = 0
        self._now = 0
        self._before = 0

    def count(self, recipients: int, now: float) -> None:
        """Add accepted recipients. now: seconds of any clock."""
        self._turn(now)
        self._now += recipients

    def is_heavy(self, now: float) -> bool:
        """Return whether this second or the last one brought more than HEAVY recipients."""
        self._turn(now)
        return max(self._now, self._before) > HEAVY

    def _turn(self, now: float) -> None:
        second = int(now)
        if second > self._second:  # one that took long to be accepted comes with an earlier time, and counts now
            self._before = self._now if second == self._second + 1 else 0
            self._now, self._second = 0, second
