"""How often apps may report: one account's together, and one device alone, in this process.

An app's token is public, so anybody may report; what one device says too often, or one account's apps together, waits
for the SDK's next try. The memory is bounded: the device that was quiet for longest is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict

from tocsin.errors import Problem

MOST_DEVICES = 100_000  # that are remembered; some 20 MB
MINUTE = 60.0


class AppRates:
    """per_second: requests of one account. per_minute: requests of one device."""

    def __init__(self, per_second: float, per_minute: int):
        self._per_second = per_second
        self._per_minute = per_minute
        self._accounts: dict[str, tuple[float, float]] = {}  # what is left, and when that was so
        self._devices: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def admit(self, account_id: str, now: float, own: float | None = None) -> None:
        """Count a request of an account. own: the account's limit instead. Raise Problem 429 beyond it."""
        rate = own or self._per_second
        left = _refill(self._accounts.get(account_id), now, rate, max(rate, 1.0))
        if left < 1:
            raise _too_often(1)
        self._accounts[account_id] = left - 1, now

    def admit_device(self, account_id: str, device: str, now: float) -> None:
        """Count a request of a device. Raise Problem 429 beyond its limit."""
        key = account_id, device
        left = _refill(self._devices.get(key), now, self._per_minute / MINUTE, self._per_minute)
        if left < 1:
            raise _too_often(30)
        self._devices[key] = left - 1, now
        self._devices.move_to_end(key)
        if len(self._devices) > MOST_DEVICES:
            self._devices.popitem(last=False)


def _refill(known: tuple[float, float] | None, now: float, rate: float, most: float) -> float:
    """Return how many requests there is room for now."""
    if known is None:
        return most
    left, since = known
    return min(most, left + max(now - since, 0.0) * rate)


def _too_often(seconds: int) -> Problem:
    return Problem("Too many reports; they are taken later", code=429, status=429, retry_after=seconds)
