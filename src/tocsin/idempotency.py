"""`Idempotency-Key`: a request repeated within a day has one effect, and the repeat gets the first answer.

A key is stored in the transaction of its effect. Only the key of an upload, whose effect is in two stores, is stored
before it: until the answer is there a repeat gets 409, and after a crash the repeat does what was left.
"""

from __future__ import annotations

import hashlib
import re

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, select, update

from tocsin.errors import Problem
from tocsin.store import schema
from tocsin.store.rows import insert_new

KEPT_SECONDS = 86_400.0
BUSY_SECONDS = 30.0  # a request that has no answer after this crashed
SWEEP = 10_000  # old keys deleted in one transaction, at most
KEY = re.compile(r"[!-~]{1,255}")

table = schema.idempotency


class IdempotencyKey(msgspec.Struct, frozen=True):
    """A caller's key. digest: of the path and body that it stands for."""

    account_id: str
    name: str
    digest: bytes


class StoredAnswer(msgspec.Struct, frozen=True):
    """What is stored under a key. answer: JSON, "" while there is none. since: its first use, in epoch seconds."""

    answer: str
    since: float


def read_key(account_id: str, header: str | None, path: str, body: bytes) -> IdempotencyKey | None:
    """Return the key of a request, None when it has none. Raise Problem 400 for one that is malformed."""
    if header is None:
        return None
    if not KEY.fullmatch(header):
        raise Problem("Idempotency-Key must be 1 to 255 printable ASCII characters")
    return IdempotencyKey(account_id, header, hashlib.blake2b(path.encode() + b"\0" + body, digest_size=16).digest())


def find_answer(connection: Connection, key: IdempotencyKey, now: float) -> StoredAnswer | None:
    """Return what is stored under a key, if it is less than a day old. Raise Problem 422 when the key was used for
    another request."""
    found = connection.execute(
        select(table.c.digest, table.c.answer, table.c.created_at).where(
            *_same(key), table.c.created_at > now - KEPT_SECONDS
        )
    ).first()
    if found is None:
        return None
    if bytes(found.digest) != key.digest:
        raise Problem("This Idempotency-Key was used for another request", code=422, status=422)
    return StoredAnswer(found.answer, found.created_at)


def keep(connection: Connection, key: IdempotencyKey, answer: str, now: float) -> StoredAnswer | None:
    """Store an answer under a key and return None, or return what is stored already. Raise Problem 422 when the key was
    used for another request."""
    connection.execute(delete(table).where(*_same(key), table.c.created_at <= now - KEPT_SECONDS))
    row = {"account_id": key.account_id, "name": key.name, "digest": key.digest, "answer": answer, "created_at": now}
    return None if insert_new(connection, table, row) else find_answer(connection, key, now)


def mark_stored(connection: Connection, key: IdempotencyKey) -> bool:
    """Note that this transaction writes the upload to the ledger; return whether an earlier one did."""
    done = connection.execute(update(table).where(*_same(key), table.c.stored == 0).values(stored=1))
    return done.rowcount == 0


def complete(connection: Connection, key: IdempotencyKey, answer: str) -> None:
    """Set the answer of a request whose key was stored before its effect."""
    connection.execute(update(table).where(*_same(key)).values(answer=answer))


def release(connection: Connection, key: IdempotencyKey) -> None:
    """Delete the key of a request that was refused: it had no effect, so the key may be used again."""
    connection.execute(delete(table).where(*_same(key), table.c.answer == ""))


def forget_old(connection: Connection, now: float) -> None:
    """Delete keys older than a day, at most SWEEP."""
    old = select(table.c.account_id, table.c.name).where(table.c.created_at <= now - KEPT_SECONDS).limit(SWEEP)
    for account_id, name in connection.execute(old).all():
        connection.execute(delete(table).where(table.c.account_id == account_id, table.c.name == name))


def _same(key: IdempotencyKey) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return table.c.account_id == key.account_id, table.c.name == key.name
