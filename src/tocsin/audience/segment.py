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
    """Keep a segment by its name, in place of an earlier one. Raise Problem when the account has SEGMENTS already."""
    table = schema.segment
    stored = msgspec.json.encode(_Stored(segment.where, segment.query)).decode()
    mine = (table.c.account_id == account_id, table.c.name == segment.name)
    if connection.execute(update(table).where(*mine).values(where_json=stored, changed_at=now)).rowcount:
        return
    count = connection.scalar(select(func.count()).where(table.c.account_id == account_id)) or 0
    if count >= SEGMENTS:
        raise Problem(f"{count} segments; at most {SEGMENTS} are allowed. Delete one first")
    row = {"account_id": account_id, "name": segment.name, "where_json": stored}
    connection.execute(insert(table).values(**row, created_at=now, changed_at=now))


def load_segments(connection: Connection, account_id: str, names: Collection[str] | None = None) -> Sequence[Segment]:
    """Return those of the names that exist, or all of the account, in order of their names."""
    table = schema.segment
    query = select(table).where(table.c.account_id == account_id).order_by(table.c.name).limit(SEGMENTS)
    if names is not None:
        query = query.where(table.c.name.in_(sorted(names)[:SEGMENTS]))
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
