"""Accounts, and the passcodes that requests log in with."""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Collection
from typing import Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from sqlalchemy import Connection, func, or_, select, update

from tocsin.errors import Misconfigured
from tocsin.store import schema
from tocsin.store.ledger import Ledger

Right = Literal["send", "upload", "read", "export", "delete", "webhook", "all"]
RIGHTS: tuple[Right, ...] = get_args(Right)
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # no 0/O, no 1/I: account ids are read aloud
PASSCODES_AN_ACCOUNT = 100


class Account(msgspec.Struct, frozen=True):
    id: str
    name: str
    timezone: str

    @staticmethod
    def load(connection: Connection, account_id: str) -> Account:
        """Return the account of an id. The id must be in the ledger."""
        table = schema.account
        return Account(
            *connection.execute(
                select(table.c.id, table.c.name, table.c.timezone).where(table.c.id == account_id)
            ).one()
        )

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


class Passcode(msgspec.Struct, frozen=True):
    """A passcode, without itself: nobody but its holder has it. rights: of RIGHTS, with commas. expires_at, revoked_at:
    None for one that does not end, or has not been revoked."""

    label: str
    rights: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None


def create_account(ledger: Ledger, name: str, timezone: str, now: float) -> tuple[Account, str]:
    """Insert an account and return it with its first passcode, of which the ledger keeps only a digest. Raise
    Misconfigured for an unknown time zone or an empty name."""
    if timezone not in _list_timezones():
        raise Misconfigured(f"{timezone!r} is not a time zone; give one like Europe/Berlin or UTC.")
    if not name.strip():
        raise Misconfigured("An account needs a name.")
    account = Account("-".join(_pick(size) for size in (3, 3, 4)), name.strip(), timezone)

    def insert(connection: Connection) -> str:
        connection.execute(
            schema.account.insert().values(
                id=account.id, name=account.name, timezone=account.timezone, created_at=now, last_user=0
            )
        )
        return _insert_passcode(connection, account.id, "first", now)

    return account, ledger.write_now(insert)


@functools.cache
def _list_timezones() -> frozenset[str]:
    """Return the names of all time zones, which are looked for in folders."""
    return frozenset(available_timezones())


def add_passcode(
    ledger: Ledger,
    account_id: str,
    label: str,
    now: float,
    rights: Collection[Right] = RIGHTS[-1:],
    expires_at: float | None = None,
) -> str:
    """Insert one more passcode of an account and return it. expires_at: None for one that does not end. Raise
    Misconfigured for an unknown account, or one that has PASSCODES_AN_ACCOUNT."""
    find_account(ledger, account_id)
    names = ",".join(one for one in RIGHTS if one in rights)
    return ledger.write_now(lambda connection: _insert_passcode(connection, account_id, label, now, names, expires_at))


def list_passcodes(ledger: Ledger, account_id: str) -> list[Passcode]:
    """Return every passcode of an account, the oldest first. Raise Misconfigured for an unknown account."""
    find_account(ledger, account_id)
    table = schema.passcode
    columns = [table.c[name] for name in Passcode.__struct_fields__]
    query = select(*columns).where(table.c.account_id == account_id).order_by(table.c.id)
    return ledger.read_now(lambda connection: [Passcode(*row) for row in connection.execute(query)])


def revoke_passcode(ledger: Ledger, account_id: str, label: str, now: float) -> int:
    """Revoke every passcode with this label and return how many. The account's last valid one can be revoked too."""
    table = schema.passcode

    def revoke(connection: Connection) -> int:
        return connection.execute(
            update(table)
            .where(table.c.account_id == account_id, table.c.label == label, table.c.revoked_at.is_(None))
            .values(revoked_at=now)
        ).rowcount

    return ledger.write_now(revoke)


def list_accounts(ledger: Ledger) -> list[Account]:
    """Return every account, the oldest first."""
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
    """Return the account that an operator's command names. Raise Misconfigured when there is none."""
    for account in list_accounts(ledger):
        if account.id == account_id:
            return account
    raise Misconfigured(f"There is no account {account_id}; `tocsin account list` shows them.")


def hash_passcode(passcode: str) -> bytes:
    """Return the digest that the ledger stores. Plain SHA-256 is enough: a passcode is 160 random bits, not a password
    that a person chose, so there is nothing to guess."""
    return hashlib.sha256(passcode.encode("utf-8", "surrogatepass")).digest()


def _insert_passcode(
    connection: Connection,
    account_id: str,
    label: str,
    now: float,
    rights: str = "all",
    expires_at: float | None = None,
) -> str:
    table = schema.passcode
    valid = (table.c.revoked_at.is_(None), or_(table.c.expires_at.is_(None), table.c.expires_at > now))
    count = connection.scalar(select(func.count()).where(table.c.account_id == account_id, *valid))
    if (count or 0) >= PASSCODES_AN_ACCOUNT:
        raise Misconfigured(f"An account has at most {PASSCODES_AN_ACCOUNT} passcodes; revoke one first.")
    code = "-".join(_pick(4) for _ in range(8))  # 32 letters of 32: 160 bits
    row = {"account_id": account_id, "digest": hash_passcode(code), "label": label, "created_at": now}
    connection.execute(table.insert().values(**row, rights=rights, expires_at=expires_at))
    return code


def _pick(count: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(count))
