"""Control groups and variants: who is held back, and who gets which. A hash of the user decides, so the answer is the
same each time. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

STEPS = 1_000_000  # of a share


class ControlGroups(msgspec.Struct, frozen=True):
    """The control groups of one campaign, in percent."""

    account_id: str
    campaign_id: int
    system: float = 0.0
    campaign: float = 0.0

    def holds_back(self, user: int) -> bool:
        """Return whether a user is in a control group. The system's is the same for every campaign."""
        system = self.system and _share(f"{self.account_id}:system:{user}") < self.system
        return bool(
            system or (self.campaign and _share(f"{self.account_id}:{self.campaign_id}:control:{user}") < self.campaign)
        )


def pick_variant(account_id: str, campaign_id: int, user: int, shares: Sequence[tuple[str, float]]) -> str:
    """Return the variant of a user; shares: names with their percent, which sum to 100."""
    at, sum_so_far = _share(f"{account_id}:{campaign_id}:variant:{user}"), 0.0
    for name, percent in shares:
        sum_so_far += percent
        if at < sum_so_far:
            return name
    return shares[-1][0]


def _share(text: str) -> float:
    """Return a number from 0 to 100 that is always the same for a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % STEPS / STEPS * 100
