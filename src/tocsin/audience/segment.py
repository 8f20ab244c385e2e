"""Questions kept by a name. A campaign that uses one keeps it as it was then: a segment changed later changes none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from tocsin.audience.node import Query
from tocsin.errors import Problem
from tocsin.store import schema

SEGMENTS = 1000  # an account
NAME_BYTES = 256
WHERE_BYTES = 64 * 1024  # of one segment's `where`, as JSON
STORED_BYTES = 256 * 1024  # of a segment as the ledger keeps it: its `where`, and all that the segments in it mean
NAMED = 50  # segments that one question may name


class Segment(msgspec.Struct, frozen=True):
    """`where` as it was sent, and what it means: the segments it named are in `query` as they were then."""

    name: str
    where: Any
    query: Query
    changed_at: float = 0.0


class _Stored(msgspec.Struct, frozen=True):
    where: Any
    query: Query


def read_name(name: Any) -> str:
    """Return the name of a segment, without spaces around it. Raise Problem for one that cannot be saved."""
    text = name.strip() if isinstance(name, str) else ""
    if not 0 < len(text.encode()) <= NAME_BYTES:
        raise Problem(f"name must be a text of 1 to {NAME_BYTES} bytes (at $.name)")
    if text.lower() == "all":
        raise Problem('"all" is everybody and cannot be saved (at $.name)')
    return text


def save_segment(connection: Connection, account_id: str, segment: Segment, now: float) -> None:
    """Keep a segment by its name, in place of an earlier one. Raise Problem when the account has SEGMENTS already, and
    for one that is too large with the segments in it."""
    table = schema.segment
    stored = msgspec.json.encode(_Stored(segment.where, segment.query)).decode()
    if len(stored.encode()) > STORED_BYTES:
        raise Problem(f"where and the segments in it are larger than {STORED_BYTES} bytes together (at $.where)")
    mine = (table.c.account_id == account_id, table.c.name == segment.name)
    if connection.execute(update(table).where(*mine).values(where_json=stored, changed_at=now)).rowcount:
        return
    count = connection.scalar(select(func.count()).where(table.c.account_id == account_id)) or 0
    if count >= SEGMENTS:
        raise Problem(f"{count} segments; at most {SEGMENTS} are allowed. Delete one first")
    row = {"account_id": account_id, "name": segment.name, "where_json": stored}
    connection.execute(insert(table).values(**row, created_at=now, changed_at=now))


def check_size(where: Any) -> None:
    """Raise Problem for a `where` that is too large to be saved."""
    if (size := len(msgspec.json.encode(where))) > WHERE_BYTES:
        raise Problem(f"where has {size} bytes; at most {WHERE_BYTES} are allowed in a saved segment (at $.where)")


def list_segments(connection: Connection, account_id: str, offset: int, limit: int) -> tuple[dict[str, float], int]:
    """Return when the segments of a page were changed, by name and in order of the names, and how many there are."""
    table = schema.segment
    mine = table.c.account_id == account_id
    page = select(table.c.name, table.c.changed_at).where(mine).order_by(table.c.name).limit(limit).offset(offset)
    found = {row.name: row.changed_at for row in connection.execute(page)}
    return found, connection.scalar(select(func.count()).select_from(table).where(mine)) or 0


def load_segments(connection: Connection, account_id: str, names: Collection[str]) -> Sequence[Segment]:
    """Return those of the names that exist, in order of their names. Raise Problem for more than NAMED."""
    if len(names) > NAMED:
        raise Problem(f"{len(names)} segments are named; at most {NAMED} are allowed in one question (at $.where)")
    table = schema.segment
    query = select(table).where(table.c.account_id == account_id, table.c.name.in_(sorted(names)))
    query = query.order_by(table.c.name)
    found = []
    for row in connection.execute(query):
        stored = msgspec.json.decode(row.where_json, type=_Stored)
        found.append(Segment(row.name, stored.where, stored.query, row.changed_at))
    return found


def delete_segment(connection: Connection, account_id: str, name: str) -> bool:
    """Delete a segment. Return whether there was one."""
    table = schema.segment
    deleted = connection.execute(delete(table).where(table.c.account_id == account_id, table.c.name == name))
    return deleted.rowcount > 0
