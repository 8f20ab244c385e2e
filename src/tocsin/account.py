"""Accounts, their passcodes, and who may speak for them."""

from __future__ import annotations

import hashlib
import secrets
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from sqlalchemy import Connection, func, select, update

from tocsin.errors import Misconfigured
from tocsin.store import schema
from tocsin.store.ledger import Ledger

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # no 0/O, no 1/I: account ids are read aloud
PASSCODES_AN_ACCOUNT = 100


class Account(msgspec.Struct, frozen=True):
    id: str
    name: str
    timezone: str

    @staticmethod
    def load(connection: Connection, account_id: str) -> Account:
        """The account of an id that stands in the ledger."""
        table = schema.account
        return Account(
            *connection.execute(
                select(table.c.id, table.c.name, table.c.timezone).where(table.c.id == account_id)
            ).one()
        )

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


def create_account(ledger: Ledger, name: str, timezone: str, now: float) -> tuple[Account, str]:
    """A new account and its first passcode, which is shown once: only its digest is kept."""
    if timezone not in available_timezones():
        raise Misconfigured(f"{timezone!r} is not a time zone; give one like Europe/Berlin or UTC.")
    if not name.strip():
        raise Misconfigured("An account needs a name.")
    made = Account("-".join(_pick(size) for size in (3, 3, 4)), name.strip(), timezone)

    def insert(connection: Connection) -> str:
        connection.execute(
            schema.account.insert().values(
                id=made.id, name=made.name, timezone=made.timezone, created_at=now, last_user=0
            )
        )
        return _insert_passcode(connection, made.id, "first", now)

    return made, ledger.write_now(insert)


def add_passcode(ledger: Ledger, account_id: str, label: str, now: float) -> str:
    """One more passcode of an account; it is shown once."""
    find_account(ledger, account_id)
    return ledger.write_now(lambda connection: _insert_passcode(connection, account_id, label, now))


def revoke_passcode(ledger: Ledger, account_id: str, label: str, now: float) -> int:
    """Ends every passcode of that label; answers how many. The last valid one of an account can be revoked too."""
    table = schema.passcode

    def revoke(connection: Connection) -> int:
        return connection.execute(
            update(table)
            .where(table.c.account_id == account_id, table.c.label == label, table.c.revoked_at.is_(None))
            .values(revoked_at=now)
        ).rowcount

    return ledger.write_now(revoke)


def list_accounts(ledger: Ledger) -> list[Account]:
    table = schema.account
    return ledger.read_now(
        lambda connection: [
            Account(*row)
            for row in connection.execute(
                select(table.c.id, table.c.name, table.c.timezone).order_by(table.c.created_at)
            )
        ]
    )


def find_account(ledger: Ledger, account_id: str) -> Account:
    """Raises Misconfigured: for the operator's commands, which name an account themselves."""
    for account in list_accounts(ledger):
        if account.id == account_id:
            return account
    raise Misconfigured(f"There is no account {account_id}; `tocsin account list` shows them.")


def _insert_passcode(connection: Connection, account_id: str, label: str, now: float) -> str:
    table = schema.passcode
    count = connection.scalar(
        select(func.count()).where(table.c.account_id == account_id, table.c.revoked_at.is_(None))
    )
    if (count or 0) >= PASSCODES_AN_ACCOUNT:
        raise Misconfigured(f"An account has at most {PASSCODES_AN_ACCOUNT} passcodes; revoke one first.")
    code = "-".join(_pick(4) for _ in range(8))  # 32 letters of 32: 160 bits
    connection.execute(table.insert().values(account_id=account_id, digest=_digest(code), label=label, created_at=now))
    return code


def _pick(count: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(count))


def _digest(passcode: str) -> bytes:
    """Plain SHA-256 is right here: the passcode is 160 random bits, nobody's password, so there is nothing to guess."""
    return hashlib.sha256(passcode.encode("utf-8", "surrogatepass")).digest()
