"""Log-in of requests by account id and passcode, and of people by e-mail and password, with roles and sessions.

The right passcode is never made to wait for what others try: a passcode is 160 random bits, so guessing is hopeless,
and who guesses must not be able to lock its holder out. What is slowed down is the answer to wrong ones
(`refused_logins.py`), which then cost no question to the ledger.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account, Right, hash_passcode
from tocsin.authenticator.refused_logins import RefusedLogins
from tocsin.errors import Problem
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.recent import Recent

CACHE_SECONDS = 1.0  # for so long a revoked passcode may still be accepted
REFUSED_A_MINUTE = 20


class _Passcode(msgspec.Struct, frozen=True):
    digest: bytes
    rights: Sequence[str]
    expires_at: float | None


class _Known(msgspec.Struct, frozen=True):
    """An account as it was read."""

    account: Account
    passcodes: Sequence[_Passcode]


class Authenticator:
    """Checks credentials. Caches an account's digests for CACHE_SECONDS: one query a second, not one a request."""

    def __init__(self, ledger: Ledger, refused_a_minute: int = REFUSED_A_MINUTE):
        self._ledger = ledger
        self._refused = RefusedLogins(refused_a_minute)
        self._known = Recent(self._load, CACHE_SECONDS)
        self._ids: tuple[float, frozenset[str]] = (float("-inf"), frozenset())

    async def authenticate(
        self, account_id: str | None, passcode: str | None, now: float, right: Right = "all", address: str = ""
    ) -> Account:
        """Return the account of these credentials. right: what the request needs. address: whence it comes.

        Raise Problem 401, with the documented sentence, for a missing or unknown account id and for a wrong or ended
        passcode; 429 for these once there were too many of them; 403 for a passcode without the right.
        """
        known = None if not account_id else await self._find(account_id, address, now)
        if known is None:
            error = "Account ID is not valid" if account_id else "12 digit account ID mandatory"
            raise self._refuse("account", error, "", address, now)
        given = hash_passcode(passcode or "")
        # No early exit: the time taken does not depend on which digest matches.
        found = [one for one in known.passcodes if hmac.compare_digest(given, one.digest)]
        if not found:
            raise self._refuse("passcode", "Invalid Credentials", known.account.id, address, now)
        if not (valid := [one for one in found if one.expires_at is None or now < one.expires_at]):
            error = "Invalid Credentials: this passcode has ended"
            raise self._refuse("ended", error, known.account.id, address, now)
        rights = valid[0].rights
        if right not in rights and "all" not in rights:
            self._refused.count("right", known.account.id, address, now)
            error = f"This passcode may not do that: the request needs the right {right}, it has {', '.join(rights)}"
            raise Problem(error, code=403, status=403)
        return known.account

    def check_pace(self, person: str, address: str, now: float) -> None:
        """Raise Problem 429 when log-ins of a person, or from an address, have been refused too often. Unlike a
        passcode, a password can be guessed: it is not even looked at then."""
        if (seconds := self._refused.slow_down(person, address, now)) is not None:
            self._refused.count("slowed", person, address, now)
            raise _slow_down(seconds)

    def refuse_password(self, person: str, address: str, now: float, reason: str = "password") -> bool:
        """Count one wrong password, and return whether it is this person's first of a minute. person: "" when there is
        no such person."""
        return self._refused.count(reason, person, address, now)

    def _refuse(self, reason: str, error: str, account_id: str, address: str, now: float) -> Problem:
        seconds = self._refused.slow_down(account_id, address, now)
        self._refused.count(reason if seconds is None else "slowed", account_id, address, now)
        if seconds is None:
            return Problem(error, code=401, status=401)
        return _slow_down(seconds)

    async def _find(self, account_id: str, address: str, now: float) -> _Known | None:
        if (known := self._known.get(account_id, now)) is not None:
            return known
        if account_id not in self._known and self._refused.slow_down("", address, now) is not None:
            # Whoever makes up ids costs one question a second, and a new account is known a second after it was made.
            if not 0 <= now - self._ids[0] < CACHE_SECONDS:
                self._ids = now, frozenset(await self._ledger.read(_read_ids))
            if account_id not in self._ids[1]:
                return None
        return await self._known.find(account_id, now)

    async def _load(self, account_id: str) -> _Known | None:
        accounts, passcodes = schema.account, schema.passcode

        def read(connection: Connection) -> _Known | None:
            row = connection.execute(
                select(accounts.c.id, accounts.c.name, accounts.c.timezone).where(accounts.c.id == account_id)
            ).first()
            if row is None:
                return None  # not kept: requests with made-up account ids must not fill the memory
            columns = (passcodes.c.digest, passcodes.c.rights, passcodes.c.expires_at)
            mine = (passcodes.c.account_id == account_id, passcodes.c.revoked_at.is_(None))
            rows = connection.execute(select(*columns).where(*mine))
            return _Known(
                Account(*row), [_Passcode(bytes(digest), rights.split(","), ends) for digest, rights, ends in rows]
            )

        return await self._ledger.read(read)


def _slow_down(seconds: int) -> Problem:
    return Problem("Too many refused log-ins; try again later", code=429, status=429, retry_after=seconds)


def _read_ids(connection: Connection) -> Sequence[str]:
    return connection.scalars(select(schema.account.c.id)).all()
