"""Log-in of machines: the two headers that say which account speaks."""

from __future__ import annotations

import hmac

from sqlalchemy import Connection, select

from tocsin.account import Account, _digest
from tocsin.errors import Problem
from tocsin.store import schema
from tocsin.store.ledger import Ledger

REMEMBERED_SECONDS = 1.0  # how long a revoked passcode may still be taken


class Authenticator:
    """Who may speak for an account. Remembers digests for a second, so that a thousand requests a second are not a
    thousand look-ups."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._known: dict[str, tuple[float, Account, list[bytes]]] = {}

    async def authenticate(self, account_id: str | None, passcode: str | None, now: float) -> Account:
        """The account of these credentials; else a Problem with one of the documented 401 answers."""
        if not account_id:
            raise Problem("12 digit account ID mandatory", code=401, status=401)
        known = self._known.get(account_id)
        if known is None or not 0 <= now - known[0] < REMEMBERED_SECONDS:
            known = await self._look_up(account_id, now)
        if known is None:
            raise Problem("Account ID is not valid", code=401, status=401)
        given = _digest(passcode or "")
        # Every digest is compared, whether one fitted already or not: the time tells nothing.
        if not sum(hmac.compare_digest(given, digest) for digest in known[2]):
            raise Problem("Invalid Credentials", code=401, status=401)
        return known[1]

    async def _look_up(self, account_id: str, now: float) -> tuple[float, Account, list[bytes]] | None:
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
            return None  # not remembered: made-up account ids must not fill the memory
        self._known[account_id] = (now, *found)
        return self._known[account_id]
