"""Hosts that cannot be reached, of a provider that talks to several: one of them must not stop the others."""

from __future__ import annotations

from tocsin.outcome import Outcome
from tocsin.providers.contract import Receipt, Scope

HOSTS = 100  # remembered; a wildcard lets strangers name as many as they like


class Outages:
    """Which hosts rest. seconds: how long one rests after it could not be reached."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}  # 0.0 while it answers

    def find(self, host: str, now: float) -> Receipt | None:
        """Return the receipt for a message to a host that rests; None when it may be tried."""
        left = self._until.get(host, 0.0) - now
        return None if left <= 0 else _wait("the push service could not be reached a moment ago", left)

    def weigh(self, host: str, receipt: Receipt, now: float) -> Receipt:
        """Return the receipt to act on. What could not be sent is the lane's trouble only while no host at all can be
        reached; else the message waits and no try is spent."""
        unsent = receipt.code == "unsent"
        self._until.pop(host, None)
        if len(self._until) >= HOSTS:
            del self._until[next(iter(self._until))]
        self._until[host] = now + self._seconds if unsent else 0.0
        if not unsent or all(until > now for until in self._until.values()):
            return receipt
        return _wait(receipt.detail, self._seconds)


def _wait(detail: str, seconds: float) -> Receipt:
    return Receipt(outcome=Outcome.THROTTLED, code="unsent", detail=detail, retry_after=seconds, scope=Scope.DEVICE)
