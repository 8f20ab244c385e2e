"""The keys that sign the ids in messages: the newest one signs, and the one before it is still read.

A third ends the first: rotated twice, every id that was given out before is worthless.
"""

from __future__ import annotations

import secrets

import msgspec
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import IntegrityError

from tocsin.store import schema
from tocsin.store.ledger import Ledger

START = "sign."  # then the second it was made, which orders them
FIRST = "push_id"  # the key of ids from before there were purposes; it also makes the ids that vendors see
READ = 2
KEY_BYTES = 32

table = schema.secret


class SigningKey(msgspec.Struct, frozen=True):
    """A key. purposes: what it signed says what it is for. made_at: epoch seconds, 0 when it is not known."""

    value: bytes
    purposes: bool = True
    made_at: float = 0.0

    def __repr__(self) -> str:
        return f"SigningKey(made_at={self.made_at})"


def find_signing_keys(connection: Connection) -> list[SigningKey]:
    """Return the keys whose ids are read, the newest first; none before the first start of a server."""
    rows = connection.execute(select(table.c.name, table.c.value).where(table.c.name.startswith(START)))
    made = sorted(((int(name[len(START) :]), bytes(value)) for name, value in rows), reverse=True)
    keys = [SigningKey(value, made_at=at) for at, value in made[:READ]]
    first = connection.scalar(select(table.c.value).where(table.c.name == FIRST))
    if first is not None and len(keys) < READ:
        keys.append(SigningKey(bytes(first), purposes=False))
    return keys


def read_signing_keys(ledger: Ledger, now: float) -> list[SigningKey]:
    """Return the keys whose ids are read, the newest first; the first one is made on first use."""

    def read_or_make(connection: Connection) -> list[SigningKey]:
        found = find_signing_keys(connection)
        return found if found and found[0].purposes else _add(connection, now)

    try:
        return ledger.write_now(read_or_make)
    except IntegrityError:  # another process was first
        return ledger.write_now(read_or_make)


def rotate_signing_key(connection: Connection, now: float) -> list[SigningKey]:
    """Make a new key, end all but the one before it, and return both."""
    keys = _add(connection, now)
    kept = [f"{START}{int(key.made_at)}" for key in keys if key.purposes]
    connection.execute(delete(table).where(table.c.name.startswith(START), table.c.name.not_in(kept)))
    return keys


def _add(connection: Connection, now: float) -> list[SigningKey]:
    newest = max((int(key.made_at) for key in find_signing_keys(connection)), default=0)
    at = max(int(now), newest + 1)  # also on a clock that was set back
    connection.execute(table.insert().values(name=f"{START}{at}", value=secrets.token_bytes(KEY_BYTES)))
    return find_signing_keys(connection)
