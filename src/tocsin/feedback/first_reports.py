"""When each message was first viewed, and first clicked: one row of the ledger for each, whoever reports it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from tocsin.ingest.profile import TRACKING, allows_tracking
from tocsin.store import schema
from tocsin.store.rows import among


class Key(NamedTuple):
    """What is counted once: a kind of report of a message."""

    chunk_id: int
    position: int
    kind: str


class Heard(NamedTuple):
    """A report as it came. at: epoch seconds."""

    key: Key
    account_id: str
    at: float


class First(NamedTuple):
    """The first report of a kind of a message. new: there was none before this one."""

    at: float
    new: bool


# One parameter holds all reports: a list of lists as JSON, or five arrays.
_SQLITE = ", ".join(
    f"json_extract(value, '$[{place}]') AS {name}"
    for place, name in enumerate(("chunk_id", "position", "kind", "account_id", "at"))
)
_SOURCES = {
    "sqlite": f"(SELECT {_SQLITE} FROM json_each(?)) AS one",  # noqa: S608 - our own words, here and below
    "postgresql": "unnest(%s::bigint[], %s::integer[], %s::text[], %s::text[], %s::float8[]) "
    "AS one(chunk_id, position, kind, account_id, at)",
}
_INSERT = (
    "INSERT INTO interaction (chunk_id, position, kind, account_id, at) "
    "SELECT one.chunk_id, one.position, one.kind, one.account_id, one.at FROM {source} WHERE true "
    "ON CONFLICT DO NOTHING RETURNING chunk_id, position, kind"
)
_SELECT = (
    "SELECT kept.chunk_id, kept.position, kept.kind, kept.at FROM {source} JOIN interaction AS kept "
    "ON kept.chunk_id = one.chunk_id AND kept.position = one.position AND kept.kind = one.kind"
)


def keep_first(connection: Connection, reports: Sequence[Heard]) -> dict[Key, First]:
    """Return when each was first reported, which is now where nobody did before. reports: one for a key."""
    times = {one.key: one.at for one in reports}
    # In one order for all processes, or two of them would wait for each other.
    new = {Key(*row) for row in _run(connection, _INSERT, sorted(reports))}
    found = {key: First(times[key], new=True) for key in new}
    if old := [one for one in reports if one.key not in new]:
        for chunk_id, position, kind, at in _run(connection, _SELECT, old):
            found[Key(chunk_id, position, kind)] = First(float(at), new=False)
    return found


def _run(connection: Connection, statement: str, reports: Sequence[Heard]) -> Sequence[Any]:
    dialect = connection.dialect.name
    rows = [(*one.key, one.account_id, one.at) for one in reports]
    given: tuple[Any, ...] = (msgspec.json.encode(rows).decode(),)
    if dialect == "postgresql":
        given = tuple(list(column) for column in zip(*rows, strict=True))
    return connection.exec_driver_sql(statement.format(source=_SOURCES[dialect]), given).all()


def find_refusing(connection: Connection, account_id: str, users: Sequence[int]) -> set[int]:
    """Return those of these users whose mails are not to be counted."""
    table = schema.user
    mine = (table.c.account_id == account_id, among(connection, table.c.id, users))
    named = table.c.profile.contains(TRACKING, autoescape=True)
    rows = connection.execute(table.select().with_only_columns(table.c.id, table.c.profile).where(*mine, named))
    return {user for user, profile in rows if not allows_tracking(profile)}
