"""How fast one account may use `/1/send`: by the rate it has, and while accounts together name more people than can be
delivered, by its share. Counted in this process; what several count together is in `campaign/send_rate.py`."""

from __future__ import annotations

from collections import Counter

from tocsin.campaign.send_rate import Due, SendRate, pass_request
from tocsin.delivery.load_shedding import HEAVY
from tocsin.errors import Problem
from tocsin.policy import load_policy
from tocsin.store.ledger import Ledger
from tocsin.store.recent import Recent

CACHE_SECONDS = 1.0  # after which a policy that was changed holds


class SendRates:
    """default: the rate of accounts without one of their own. heavy: people in a second beyond which accounts share."""

    def __init__(self, ledger: Ledger, default: SendRate, heavy: int = HEAVY):
        self._ledger = ledger
        self._default = default
        self._heavy = heavy
        self._known = Recent(self._read, CACHE_SECONDS)
        self._due: dict[str, Due] = {}
        self._second = self._total = 0
        self._now = Counter[str]()
        self._before = Counter[str]()

    async def find(self, account_id: str, now: float) -> SendRate:
        """Return an account's rate. It is read for all of a second's requests, not for each."""
        return await self._known.find(account_id, now) or self._default

    async def _read(self, account_id: str) -> SendRate:
        own = (await self._ledger.read(lambda connection: load_policy(connection, account_id))).limits
        return SendRate(
            requests=own.send_requests_per_second or self._default.requests,
            people=own.send_people_per_second or self._default.people,
        )

    def admit(self, account_id: str, rate: SendRate, people: int, now: float) -> None:
        """Count a request that names so many people. Raise Problem 429 beyond the rate, or beyond the account's share
        while several accounts together name more than `heavy`."""
        second = int(now)
        if second != self._second:
            self._before = self._now if second == self._second + 1 else Counter()
            self._now, self._second, self._total = Counter(), second, 0
        after = self._now[account_id] + people
        if self._total + people > self._heavy:
            share = self._heavy // len({account_id, *self._now, *self._before})
            if share < self._heavy and after > share:
                error = f"Too many people: while others send too, this endpoint takes {share} in a second"
                raise Problem(error, code=429, status=429, retry_after=1)
        if rate.is_limited:
            self._due[account_id] = pass_request(self._due.get(account_id, Due()), rate, people, now)
        self._now[account_id] = after
        self._total += people
