"""Refused log-ins: counted, told to the log once a minute and account, and slowed down when they are many.

The memory is bounded: MOST accounts and addresses, the one that was refused longest ago is forgotten first. Nothing of
what was tried is kept or told: a wrong passcode may be a right one of another account.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict

import msgspec
import structlog

from tocsin import metrics

log = structlog.get_logger()

MINUTE = 60.0
MOST = 10_000  # accounts and addresses that are remembered; some 2 MB


class _Minute(msgspec.Struct):
    """Refusals since `began`, at most a minute ago. told: up to which of them the log has a line."""

    began: float
    count: int = 0
    untold: int = 0
    told_at: float = float("-inf")


class RefusedLogins:
    """limit: refusals a minute, of one account and from one address, before the next ones are slowed down."""

    def __init__(self, limit: int):
        self._limit = limit
        self._minutes: OrderedDict[str, _Minute] = OrderedDict()

    def count(self, reason: str, account_id: str, address: str, now: float) -> bool:
        """Count one refusal, and return whether it was told. account_id: "" when there is no such account."""
        metrics.REFUSED_LOGINS.labels(reason=reason).inc()
        if address:
            self._enter(f"from {group_address(address)}", now)
        minute = self._enter(f"of {account_id}", now)
        if tell := not now - minute.told_at < MINUTE:
            minute.told_at = now
            log.warning(
                "log-ins refused", account=account_id or "unknown", count=minute.untold, reason=reason, last=address
            )
            minute.untold = 0
        return tell

    def slow_down(self, account_id: str, address: str, now: float) -> int | None:
        """Return the seconds after which somebody who is refused may try again; None while there were few."""
        # Strangers with made-up ids share no account: only their addresses count.
        names = [f"of {account_id}"] * bool(account_id) + [f"from {group_address(address)}"] * bool(address)
        full = [one for name in names if (one := self._minutes.get(name)) is not None and one.count >= self._limit]
        left = [one.began + MINUTE - now for one in full if 0 <= now - one.began < MINUTE]
        return max(1, math.ceil(max(left))) if left else None

    def _enter(self, name: str, now: float) -> _Minute:
        minute = self._minutes.get(name)
        if minute is None:
            minute = self._minutes[name] = _Minute(now)
            if len(self._minutes) > MOST:
                self._minutes.popitem(last=False)
        elif not 0 <= now - minute.began < MINUTE:
            minute.began, minute.count = now, 0
        self._minutes.move_to_end(name)
        minute.count += 1
        minute.untold += 1
        return minute


def group_address(address: str) -> str:
    """Return the address, of IPv6 the network of its first 64 bits: so many belong to one line."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.IPv6Network((found, 64), strict=False))
    return str(found)
