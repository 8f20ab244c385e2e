"""The circuit breaker of a lane: stops it before wrong settings cost addresses. Pure: answers and the clock are given.

With a wrong setting a vendor says to everybody what it says to a dead address: APNs answers `BadDeviceToken` in the
wrong environment. Believed, that empties a list of devices within minutes. So such answers are weighed against those
beside them.
"""

from __future__ import annotations

from collections import deque

import msgspec

from tocsin.delivery.retry import LANE_PAUSE, LONGEST_WAIT
from tocsin.outcome import Outcome
from tocsin.providers.contract import Receipt, Scope

# The numbers of this module are ours, not the vendors'.
SAMPLE = 200  # answers the breaker looks back on
SUSPECTS = 10  # at least so many, and more than one in twenty of the sample, trip it
PROBES = 10  # suspects after a stop before the next one: one dead address must not speak for a lane
LONGEST_STOP = LONGEST_WAIT - LANE_PAUSE  # so that suspects can wait a minute longer than the lane, see `_deny`
BRAKE_SAMPLE = 500
DEAD = 100  # at least so many dead, and more than half of the sample, put the brake on
STORM_SAMPLE = 100
BROKEN = 20  # at least so many 5xx, and more than one in five of the sample, are the vendor's trouble and no message's
SILENT = 20  # answers that never came, and more than half of the sample: the vendor hangs, and takes or loses messages
SILENT_WAIT = 60.0  # seconds until one message asks again; each one more would be an unknown
STORM_WAIT = 10.0  # FCM: never again sooner than 10 s


class BreakerRules(msgspec.Struct, frozen=True):
    """What the operator decides. trusted: addresses called dead are dead, however many. slow_start_seconds: how long
    a lane takes to get back to its rate after a pause; 0: none."""

    trusted: bool = False
    slow_start_seconds: float = 0.0


NO_RULES = BreakerRules()


class SlidingWindow:
    """Counts answers of one kind among the last `size`; answers are numbered upwards."""

    __slots__ = ("_at", "_size")

    def __init__(self, size: int):
        self._at: deque[int] = deque()
        self._size = size

    def add(self, at: int) -> int:
        """Add answer number `at`. Return how many of the last `size` answers up to it were added."""
        numbers = self._at
        numbers.append(at)
        while numbers[0] <= at - self._size:
            numbers.popleft()
        return len(numbers)

    def clear(self) -> None:
        self._at.clear()


class CircuitBreaker:
    """Weighs each answer of a vendor against those before it. One a lane; called once for each answer of the vendor, in
    the order they come.

    tripped: the breaker is open; until `stopped_until` nothing should be sent, afterwards a few probes.
    braking: so many addresses are called dead that none is forgotten any more.
    silent: the vendor hangs; no answer has come since that was found.
    """

    def __init__(self, rules: BreakerRules = NO_RULES):
        self.tripped = False
        self.stopped_until = 0.0
        self.braking = False
        self._trusted = rules.trusted
        self._seen = 0  # answers about a message: accepted, gone, refused; the others say nothing about addresses
        self._rest = 0  # all other answers
        self._start = 0  # the breaker's sample begins after this answer
        self._accepted = 0  # the last accepted answer
        self._suspects = SlidingWindow(SAMPLE)
        self._believed = 0  # suspects that were believed since the sample began
        self._stops = 0
        self._probes = 0
        self._reason = ""
        self._gone = SlidingWindow(BRAKE_SAMPLE)
        self._broken = SlidingWindow(STORM_SAMPLE)
        self.silent = False
        self._silent = SlidingWindow(STORM_SAMPLE)
        self._heard_since = 0  # the silence's sample begins after this answer
        self._calm_since = 0  # the storm's sample begins after this answer
        self._storm_until = 0.0

    @property
    def promising(self) -> bool:
        """True when the breaker is closed and something in its sample was accepted: suspects are believed."""
        return not self.tripped and self._accepted > max(self._start, self._seen - SAMPLE)

    def accept(self, count: int, now: float) -> None:
        """Weigh so many answers that say «accepted». now: epoch seconds at which they came."""
        self._seen = self._accepted = self._seen + count
        self.silent = False
        if self.tripped and now >= self.stopped_until:  # before, it was sent before the stop and proves nothing
            self.tripped = False
            self._begin_sample(self._seen - count)

    def judge(self, receipt: Receipt, now: float) -> Receipt:
        """Return the receipt to act on: the given one, or one with the same code and a milder outcome. now: epoch
        seconds at which it came."""
        if receipt.outcome is Outcome.ACCEPTED:
            self.accept(1, now)
            return receipt
        if receipt.outcome is Outcome.UNKNOWN:
            self._rest += 1
            return self._weigh_silent(receipt)
        self.silent = False
        if receipt.outcome is Outcome.GONE or receipt.outcome is Outcome.REFUSED:
            self._seen += 1
            if receipt.suspect and not (self._trusted and receipt.outcome is Outcome.GONE):
                return self._weigh_suspect(receipt, now)
            return self._weigh_gone(receipt) if receipt.outcome is Outcome.GONE else receipt
        self._rest += 1
        if receipt.outcome is Outcome.UNAVAILABLE and receipt.scope is Scope.MESSAGE:
            return self._weigh_broken(receipt, now)
        return receipt

    def _weigh_suspect(self, receipt: Receipt, now: float) -> Receipt:
        if self.tripped:
            if now >= self.stopped_until:
                self._probes += 1
                if self._probes >= PROBES:
                    self._stop(now)
            return self._deny(receipt, now)
        count = self._suspects.add(self._seen)
        size = min(self._seen - self._start, SAMPLE)
        if count >= SUSPECTS and count * 20 > size:
            self._trip(receipt, now, count, size)
            return self._deny(receipt, now)
        if receipt.outcome is Outcome.GONE:
            if not self.promising:
                return _keep(receipt, "kept: this lane has had nothing accepted yet, so its settings may be wrong")
            self._believed += 1
        return receipt

    def _trip(self, receipt: Receipt, now: float, count: int, size: int) -> None:
        if self._seen - self._start >= SAMPLE:  # it has worked since the last stop: this is another trouble
            self._stops = 0
        lost = f"{self._believed} were believed before, none from now on" if self._believed else "Nothing was forgotten"
        self._reason = (
            f"{count} of the last {size} answers say {receipt.code}; wrong environment, topic or sender? {lost}"
        )
        self.tripped = True
        self._stop(now)

    def _stop(self, now: float) -> None:
        self.stopped_until = now + min(LANE_PAUSE * 2 ** min(self._stops, 10), LONGEST_STOP)
        self._stops += 1
        self._probes = 0

    def _deny(self, receipt: Receipt, now: float) -> Receipt:
        """Return a denial that waits a minute longer than the lane: the probes after a stop have to be other
        recipients, or a few dead addresses at the head of a list would keep a good lane closed."""
        wait = max(self.stopped_until - now, 0.0) + LANE_PAUSE
        return msgspec.structs.replace(
            receipt, outcome=Outcome.DENIED, scope=Scope.LANE, retry_after=wait, detail=self._reason
        )

    def _begin_sample(self, after: int) -> None:
        self._start = after
        self._suspects.clear()
        self._believed = 0

    def _weigh_gone(self, receipt: Receipt) -> Receipt:
        count = self._gone.add(self._seen)
        size = min(self._seen, BRAKE_SAMPLE)
        if count >= DEAD and count * 2 > size and not self._trusted:
            self.braking = True
            return _keep(receipt, f"kept: the brake is on, {count} of the last {size} addresses are called dead")
        if count * 5 < size * 2:  # well below a half, so that an engagement is one and not many
            self.braking = False
        return receipt

    def _weigh_silent(self, receipt: Receipt) -> Receipt:
        """Pause the lane when a vendor hangs, since it would make everybody unknown; then one message at a time
        asks. The message itself stays unknown."""
        at = self._seen + self._rest
        count = self._silent.add(at)
        if not self.silent and (count < SILENT or count * 2 <= min(at - self._heard_since, STORM_SAMPLE)):
            return receipt
        self._silent.clear()
        self._heard_since = at
        self.silent = True
        return msgspec.structs.replace(receipt, scope=Scope.LANE, retry_after=SILENT_WAIT)

    def _weigh_broken(self, receipt: Receipt, now: float) -> Receipt:
        wait = receipt.retry_after or STORM_WAIT
        if now < self._storm_until:  # was on its way when the lane paused
            return _storm(receipt, max(wait, self._storm_until - now))
        at = self._seen + self._rest
        count = self._broken.add(at)
        if count < BROKEN or count * 5 <= min(at - self._calm_since, STORM_SAMPLE):
            return receipt
        self._broken.clear()
        self._calm_since = at
        self._storm_until = now + wait
        return _storm(receipt, wait)


def _keep(receipt: Receipt, detail: str) -> Receipt:
    return msgspec.structs.replace(receipt, outcome=Outcome.REFUSED, detail=detail)


def _storm(receipt: Receipt, wait: float) -> Receipt:
    return msgspec.structs.replace(receipt, scope=Scope.LANE, retry_after=wait)
