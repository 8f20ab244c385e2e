"""Whose the events of a file are: the users whom its columns of identities name, found or created by blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from tocsin.ingest.column import Column
from tocsin.ingest.identity import find_users
from tocsin.ingest.newcomers import insert_newcomers
from tocsin.ingest.people import People
from tocsin.ingest.profile_copy import copy_profiles, make_empty_copies
from tocsin.ingest.record import IDENTITY_KINDS, EventRecord
from tocsin.store.facts import Row
from tocsin.store.rows import pack_values

FIND = {
    "sqlite": text(
        "SELECT json_group_array(user_id) FROM (SELECT i.user_id FROM json_each(:wanted) AS j LEFT JOIN identity AS i "
        "ON i.account_id = :account AND i.kind = :kind AND i.value = j.value ORDER BY j.key)"
    ),
    "postgresql": text(
        "SELECT array_agg(i.user_id ORDER BY j.place) FROM unnest(CAST(:wanted AS text[])) WITH ORDINALITY "
        "AS j(value, place) LEFT JOIN identity AS i "
        "ON i.account_id = :account AND i.kind = :kind AND i.value = j.value"
    ),
}

Keys = tuple[tuple[str, str], ...]  # a record's identities with their kinds


def resolve_users(
    connection: Connection, account_id: str, keys: Mapping[str, Column], now: float
) -> tuple[Any, list[Row]]:
    """Return the user of each row, an Arrow array, and the rows of facts' `profile` of those who are new or whose
    devices moved. The caller has locked the account. Raises Rejected for what cannot be."""
    import pyarrow as pa

    if len(keys) > 1:
        users, copies = _resolve_several(connection, account_id, keys, now)
        return pa.array(users, pa.uint32()), copies
    [(kind, column)] = keys.items()
    names = list(column.values)
    found = _find_in_order(connection, account_id, kind, names)
    new = list(dict.fromkeys([name for name, user in zip(names, found, strict=True) if user is None]))
    if not new:
        return column.spread(found, pa.uint32()), []
    if kind == "identity" and any("@" in name or name[0] == "+" for name in new):  # somebody's address
        records = [EventRecord(keys={kind: name}, at=0, name="", props={}) for name in new]
        users, copies = _apply(connection, account_id, records, now)
    else:
        users = insert_newcomers(connection, account_id, ["{}"] * len(new), [[(kind, name)] for name in new], now)
        copies = make_empty_copies(account_id, users)
    known = dict(zip(new, users, strict=True))
    numbers = [known[name] if user is None else user for name, user in zip(names, found, strict=True)]
    return column.spread(numbers, pa.uint32()), copies


def _find_in_order(connection: Connection, account_id: str, kind: str, names: Sequence[str]) -> list[int | None]:
    """Return the user of each name, None for one that nobody has; as one value, for a row each costs Python more than
    the look-up costs the ledger."""
    asked = {"account": account_id, "kind": kind, "wanted": pack_values(connection, names)}
    found: str | list[int | None] = connection.scalar(FIND[connection.dialect.name], asked) or []
    return msgspec.json.decode(found) if isinstance(found, str) else found


def _resolve_several(
    connection: Connection, account_id: str, keys: Mapping[str, Column], now: float
) -> tuple[Sequence[int], list[Row]]:
    """Resolve rows with several identities: where anybody is new a row may give a device to somebody else, so all of
    them are applied in their order."""
    kinds = [kind for kind in IDENTITY_KINDS if kind in keys]
    rows: list[Keys] = [
        tuple((kind, value) for kind, value in zip(kinds, values, strict=True) if value is not None)
        for values in zip(*(keys[kind] for kind in kinds), strict=True)
    ]
    known = _find_known(connection, account_id, rows)
    if len(known) == len({*rows}):
        return [known[row] for row in rows], []
    records = [EventRecord(keys=dict(row), at=0, name="", props={}) for row in rows]
    return _apply(connection, account_id, records, now)


def _find_known(connection: Connection, account_id: str, rows: Collection[Keys]) -> dict[Keys, int]:
    """Return those whose every name is one known user's already, so that nothing about them changes."""
    found = find_users(connection, account_id, {key for keys in rows for key in keys})
    return {
        keys: user
        for keys in rows
        if (user := found.get(keys[0])) is not None and all(found.get(key) == user for key in keys)
    }


def _apply(
    connection: Connection, account_id: str, records: Sequence[EventRecord], now: float
) -> tuple[list[int], list[Row]]:
    people = People(connection, account_id, now)
    people.load(records)
    users = [people.apply(record) for record in records]
    people.save(sorted(people.created))
    copies = copy_profiles(connection, account_id, sorted(people.moved))
    return users, [*copies, *make_empty_copies(account_id, sorted(people.created - people.moved))]
