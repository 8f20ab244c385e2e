"""What a route may use. `app.py` makes one and hands it to every route."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tocsin.account import Account, Gate
from tocsin.api.throttle import Throttle
from tocsin.api.wire import HttpRequest
from tocsin.bell import Bell
from tocsin.settings import Settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger


class Context(msgspec.Struct, frozen=True, kw_only=True):
    ledger: Ledger
    facts: Facts
    settings: Settings
    gate: Gate
    creates: Throttle
    uploads: Throttle
    bell: Bell
    secret: bytes
    local_token: str
    clock: Callable[[], float]

    async def account_of(self, request: HttpRequest) -> Account:
        """The account the two headers speak for. Raises Problem 401."""
        headers = request.headers
        return await self.gate.admit(
            headers.get("x-clevertap-account-id"), headers.get("x-clevertap-passcode"), self.clock()
        )
