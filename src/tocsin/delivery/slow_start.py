"""Slow start: how a lane climbs back to its rate after a pause. Pure."""

from __future__ import annotations

import math

LOWEST_PEAK = 20.0  # messages a second that every lane may climb to
FIRST_STEP = 0.05  # of the peak: where a climb begins
IDLE = 60.0  # seconds without an accepted answer: what was measured before is another stretch


class SlowStart:
    """How fast a lane may go after a pause: its rate grows linearly from a twentieth of its peak to the peak, then it
    is not limited (FCM: from 0 to the peak in no less than 60 s).

    The peak is the most that was accepted in one second of the last stretch: since the last slow start, or since a
    minute without anything. A pause in the middle of a slow start begins it again, towards the same peak. The line
    begins with the first message, not with the end of the pause: nobody may be there to send.
    """

    def __init__(self, seconds: float):
        self.climbing = False
        self._seconds = seconds
        self._second = 0.0
        self._count = 0  # accepted in this second
        self._most = 0  # accepted in one second of this stretch
        self._peak = LOWEST_PEAK
        self._burst = 1.0
        self._began: float | None = None
        self._taken = 0.0  # turns taken, as a height under the line

    def count(self, now: float, accepted: int = 1) -> None:
        """Count accepted messages."""
        second = now // 1.0
        if second != self._second:
            self._most = 0 if second - self._second > IDLE else max(self._most, self._count)
            self._second, self._count = second, 0
        self._count += accepted

    def start(self) -> None:
        """Begin a slow start with the next message; the lane pauses now."""
        if self._seconds <= 0:
            return
        if not self.climbing:
            self._peak = max(float(self._most), float(self._count), LOWEST_PEAK)
            self._burst = max(self._peak * FIRST_STEP, 1.0)
        self.climbing = True
        self._began = None
        self._most = self._count = 0

    def room(self, now: float) -> int:
        """Return how many messages may go now. The climb begins with the first question after a pause."""
        if self._began is None or now < self._began:
            self._began = now
            self._taken = -self._burst
        elapsed = now - self._began
        if elapsed >= self._seconds:
            self.climbing = False
            return 1_000_000
        height = self._height(elapsed)
        self._taken = max(self._taken, height - self._burst)
        return int(height - self._taken + 1e-9)

    def take(self, count: int) -> None:
        """Count messages that go now."""
        self._taken += count

    def next_turn(self) -> float:
        """Return when the next message may go, by the clock of `room`."""
        return (self._began or 0.0) + self._reach(self._taken + 1)

    def _height(self, elapsed: float) -> float:
        """Return how many messages the line allows in its first `elapsed` seconds: the integral of the rate."""
        return self._peak * elapsed * (FIRST_STEP + (1 - FIRST_STEP) * elapsed / (2 * self._seconds))

    def _reach(self, height: float) -> float:
        """Return after how many seconds the line allows `height` messages; at most its whole length."""
        if height <= 0:
            return 0.0
        slope = self._peak * (1 - FIRST_STEP) / (2 * self._seconds)
        step = self._peak * FIRST_STEP
        return min((math.sqrt(step * step + 4 * slope * height) - step) / (2 * slope), self._seconds)
