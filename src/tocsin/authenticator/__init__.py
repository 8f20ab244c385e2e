"""Log-in of API requests by account id and passcode, the two `X-CleverTap-…` headers."""

from __future__ import annotations

import hmac

from sqlalchemy import Connection, select

from tocsin.account import Account, hash_passcode
from tocsin.errors import Problem
from tocsin.store import schema
from tocsin.store.ledger import Ledger

CACHE_SECONDS = 1.0  # for so long a revoked passcode may still be accepted


class Authenticator:
    """Checks credentials. Caches an account's digests for CACHE_SECONDS: one query a second, not one a request."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._cache: dict[str, tuple[float, Account, list[bytes]]] = {}

    async def authenticate(self, account_id: str | None, passcode: str | None, now: float) -> Account:
        """Return the account of these credentials. Raise Problem 401, with the documented sentence, for a missing or
        unknown account id or a wrong passcode."""
        if not account_id:
            raise Problem("12 digit account ID mandatory", code=401, status=401)
        cached = self._cache.get(account_id)
        if cached is None or not 0 <= now - cached[0] < CACHE_SECONDS:
            cached = await self._load(account_id, now)
        if cached is None:
            raise Problem("Account ID is not valid", code=401, status=401)
        given = hash_passcode(passcode or "")
        # No early exit: the time taken does not depend on which digest matches.
        if not sum(hmac.compare_digest(given, digest) for digest in cached[2]):
            raise Problem("Invalid Credentials", code=401, status=401)
        return cached[1]

    async def _load(self, account_id: str, now: float) -> tuple[float, Account, list[bytes]] | None:
        accounts, passcodes = schema.account, schema.passcode

        def read(connection: Connection) -> tuple[Account, list[bytes]] | None:
            row = connection.execute(
                select(accounts.c.id, accounts.c.name, accounts.c.timezone).where(accounts.c.id == account_id)
            ).first()
            if row is None:
                return None
            digests = connection.scalars(
                select(passcodes.c.digest).where(passcodes.c.account_id == account_id, passcodes.c.revoked_at.is_(None))
            ).all()
            return Account(*row), [bytes(digest) for digest in digests]

        found = await self._ledger.read(read)
        if found is None:
            return None  # not cached: requests with made-up account ids must not fill the memory
        self._cache[account_id] = (now, *found)
        return self._cache[account_id]
