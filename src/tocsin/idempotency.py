"""`Idempotency-Key`: a request repeated within a day has one effect, and the repeat gets the first answer.

A key is stored in the transaction of its effect. Only the key of an upload, whose effect is in two stores, is stored
before it: until the answer is there a repeat gets 409, and after a crash the repeat does what was left.

What is kept is bounded: keys and bytes of answers for each account, and old keys are deleted until none is left.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import time

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, select, text, tuple_, update

from tocsin.errors import Problem
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.rows import insert_new

KEPT_SECONDS = 86_400.0
BUSY_SECONDS = 30.0  # a request that has no answer after this crashed
UPLOAD_SECONDS = 3600.0  # no upload takes as long
SWEEP = 1000  # old keys deleted in one transaction, at most
REST_FACTOR = 2  # a sweep rests so many times as long as a transaction took: the writer is there for others
KEYS = 5_000_000  # of one account; about 58 a second for a whole day
ROOM_STEP = 1000  # keys that are taken without counting again, so many may be over KEYS
FULL_SECONDS = 10.0  # between two counts for an account that has no room
ANSWER_BYTES = 64 * 1024  # of one answer; who has a longer one keeps what the repeat needs to make it again
SMALL_ANSWER = 1024  # bytes of an answer that does not count for ANSWERS_BYTES
ANSWERS_BYTES = 64 * 1024 * 1024  # of one account, over all its answers that are not small
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


class KeyRoom:
    """How many more keys each account may store. They are counted when half of the room that was there is used up, and
    not each time: of `limit` keys a process may store ROOM_STEP more."""

    def __init__(self, limit: int = KEYS):
        self._limit = limit
        self._rooms: dict[str, tuple[int, float]] = {}  # by account: keys left until the next count; full until

    def take(self, connection: Connection, account_id: str, now: float) -> bool:
        """Return whether one more key may be stored, and count it."""
        left, full_until = self._rooms.get(account_id, (0, 0.0))
        if not left:
            if now < full_until <= now + FULL_SECONDS:
                return False
            mine = select(func.count()).select_from(table).where(table.c.account_id == account_id)
            room = max(0, self._limit - (connection.scalar(mine) or 0))
            left = max(room // 2, min(room, ROOM_STEP))
        self._rooms[account_id] = (left - 1, 0.0) if left else (0, now + FULL_SECONDS)
        return left > 0


ROOM = KeyRoom()  # of this process


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


def keep(
    connection: Connection, key: IdempotencyKey, answer: str, now: float, room: KeyRoom = ROOM
) -> StoredAnswer | None:
    """Store an answer under a key and return None, or return what is stored already. Raise Problem 422 when the key was
    used for another request, and 429 for a new key of an account that has KEYS."""
    connection.execute(delete(table).where(*_same(key), table.c.created_at <= now - KEPT_SECONDS))
    if not room.take(connection, key.account_id, now):
        before = find_answer(connection, key, now)
        if before is None:
            raise Problem(
                f"This account has used {KEYS} Idempotency-Keys in a day; more are not kept. Try again later",
                code=429,
                status=429,
                retry_after=60,
            )
        return before
    row = {"account_id": key.account_id, "name": key.name, "digest": key.digest, "answer": answer, "created_at": now}
    return None if insert_new(connection, table, row) else find_answer(connection, key, now)


def require_answer_room(connection: Connection, account_id: str) -> None:
    """Raise Problem 429 when the answers kept for an account have ANSWERS_BYTES together."""
    mine = (table.c.account_id == account_id, text(schema.COUNTED_ANSWER))
    if (connection.scalar(select(func.sum(table.c.answer_bytes)).where(*mine)) or 0) >= ANSWERS_BYTES:
        raise Problem(
            f"The answers kept for this account's Idempotency-Keys have {ANSWERS_BYTES} bytes; until they are a day "
            "old send without a key, or send fewer records that are refused",
            code=429,
            status=429,
            retry_after=600,
        )


def mark_stored(connection: Connection, key: IdempotencyKey) -> bool:
    """Note that this transaction writes the upload to the ledger; return whether an earlier one did."""
    done = connection.execute(update(table).where(*_same(key), table.c.stored == 0).values(stored=1))
    return done.rowcount == 0


def complete(connection: Connection, key: IdempotencyKey, answer: str) -> None:
    """Set the answer of a request whose key was stored before its effect."""
    size = len(answer.encode())
    counted = size if size > SMALL_ANSWER else 0
    connection.execute(update(table).where(*_same(key)).values(answer=answer, answer_bytes=counted))


def release(connection: Connection, key: IdempotencyKey) -> None:
    """Delete the key of a request that was refused: it had no effect, so the key may be used again."""
    connection.execute(delete(table).where(*_same(key), table.c.answer == ""))


def reopen_uploads(connection: Connection, since: float) -> None:
    """Take back the answers of uploads that were under way at a time or came after it, from a ledger whose facts store
    is of that time: a repeat writes their events again, under the same ids."""
    recent = (table.c.stored == 1, table.c.created_at > since - UPLOAD_SECONDS)
    connection.execute(update(table).where(*recent).values(answer="", answer_bytes=0))


async def forget_all_old(ledger: Ledger, now: float) -> int:
    """Delete every key older than a day, SWEEP in a transaction, with rests between. Return how many."""
    total = 0
    while True:
        started = time.monotonic()
        deleted = await ledger.write(functools.partial(forget_old, now=now))
        total += deleted
        if deleted < SWEEP:
            return total
        await asyncio.sleep(REST_FACTOR * (time.monotonic() - started))


def forget_old(connection: Connection, now: float) -> int:
    """Delete keys older than a day, at most SWEEP. Return how many."""
    keys = (table.c.account_id, table.c.name)
    old = select(*keys).where(table.c.created_at <= now - KEPT_SECONDS).limit(SWEEP)
    return connection.execute(delete(table).where(tuple_(*keys).in_(old))).rowcount


def _same(key: IdempotencyKey) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return table.c.account_id == key.account_id, table.c.name == key.name
