"""Stops a content that a vendor refuses: what is wrong with the message itself is wrong for everybody."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from tocsin.providers.contract import Receipt, Scope

log = structlog.get_logger()

REFUSALS_IN_A_ROW = 20  # recipients refused for their content, none accepted: nobody else is tried
CONTENTS = 1000  # watched at once; the oldest is forgotten
_PROVEN = -(10**9)  # a content of which one message was accepted is never stopped


class ContentBreaker:
    """Counts refusals by content and platform. A content is known by its label, see `DeliveryPlan`."""

    def __init__(self) -> None:
        self._refusals: dict[tuple[str, str], int] = {}

    def is_open(self, label: str, platform: str) -> bool:
        """Return whether a content is stopped on a platform."""
        return self._refusals.get((label, platform), 0) >= REFUSALS_IN_A_ROW

    def count(self, label: str, platform: str, accepted: int, receipts: Iterable[Receipt]) -> None:
        """Count the results of one batch. receipts: of the messages that were not accepted."""
        key = (label, platform)
        if accepted:
            self._refusals[key] = _PROVEN
        refused = sum(receipt.scope is Scope.CAMPAIGN for receipt in receipts)
        if refused:
            self._refusals[key] = after = self._refusals.get(key, 0) + refused
            if REFUSALS_IN_A_ROW <= after < REFUSALS_IN_A_ROW + refused:
                log.error("content refused by the vendor: nobody else is tried", content=label, platform=platform)
        while len(self._refusals) > CONTENTS:
            del self._refusals[next(iter(self._refusals))]
