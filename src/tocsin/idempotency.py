"""`Idempotency-Key`: a request repeated within a day has one effect, and gets the first one's answer.

A key is kept in the transaction of its effect. Only an upload, whose effect is in two stores, is kept before it: until
it is answered its repeat is told to wait, and after a crash the repeat does what was left.
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
BUSY_SECONDS = 30.0  # after which one without an answer is taken for lost
SWEEP = 10_000  # keys forgotten at once, at most
KEY = re.compile(r"[!-~]{1,255}")

table = schema.idempotency


class IdempotencyKey(msgspec.Struct, frozen=True):
    """What a caller said makes a request the same one, and a digest of what they asked for under it."""

    account_id: str
    name: str
    digest: bytes


class Kept(msgspec.Struct, frozen=True):
    """What is known of a key. answer: JSON, "" while there is none. since: when it was first used, epoch seconds."""

    answer: str
    since: float


def read_key(account_id: str, header: str | None, path: str, body: bytes) -> IdempotencyKey | None:
    """The key of a request; None when it brings none. Raises Problem."""
    if header is None:
        return None
    if not KEY.fullmatch(header):
        raise Problem("Idempotency-Key must be 1 to 255 printable ASCII characters")
    return IdempotencyKey(account_id, header, hashlib.blake2b(path.encode() + b"\0" + body, digest_size=16).digest())


def find_answer(connection: Connection, key: IdempotencyKey, now: float) -> Kept | None:
    """What is kept under a key, if it is not a day old. Raises Problem 422 when it stands for another request."""
    found = connection.execute(
        select(table.c.digest, table.c.answer, table.c.created_at).where(
            *_same(key), table.c.created_at > now - KEPT_SECONDS
        )
    ).first()
    if found is None:
        return None
    if bytes(found.digest) != key.digest:
        raise Problem("This Idempotency-Key was used for another request", code=422, status=422)
    return Kept(found.answer, found.created_at)


def keep(connection: Connection, key: IdempotencyKey, answer: str, now: float) -> Kept | None:
    """Keeps an answer under a key, or answers what is there already. Raises Problem 422."""
    connection.execute(delete(table).where(*_same(key), table.c.created_at <= now - KEPT_SECONDS))
    row = {"account_id": key.account_id, "name": key.name, "digest": key.digest, "answer": answer, "created_at": now}
    return None if insert_new(connection, table, row) else find_answer(connection, key, now)


def mark_stored(connection: Connection, key: IdempotencyKey) -> bool:
    """The first of two stores has it, from the end of this transaction on. Answers whether it had it before."""
    done = connection.execute(update(table).where(*_same(key), table.c.stored == 0).values(stored=1))
    return done.rowcount == 0


def complete(connection: Connection, key: IdempotencyKey, answer: str) -> None:
    """The answer of a request that was kept before it was done."""
    connection.execute(update(table).where(*_same(key)).values(answer=answer))


def release(connection: Connection, key: IdempotencyKey) -> None:
    """A request that was refused had no effect: its key is free again."""
    connection.execute(delete(table).where(*_same(key), table.c.answer == ""))


def forget_old(connection: Connection, now: float) -> None:
    """Forgets keys older than a day."""
    old = select(table.c.account_id, table.c.name).where(table.c.created_at <= now - KEPT_SECONDS).limit(SWEEP)
    for account_id, name in connection.execute(old).all():
        connection.execute(delete(table).where(table.c.account_id == account_id, table.c.name == name))


def _same(key: IdempotencyKey) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return table.c.account_id == key.account_id, table.c.name == key.name
