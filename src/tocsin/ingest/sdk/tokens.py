"""Tokens of devices, by the devices' clocks: of two registrations of a token, or of two tokens of a device, the later
one counts, whichever comes first. A token that was given back is kept as one that is gone, for a late registration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select

from tocsin.store import schema
from tocsin.store.rows import among, split_values, upsert_rows

GIVEN_BACK = "unregistered"
table = schema.device


class TokenChange(msgspec.Struct, frozen=True):
    """A token that a device registers, or gives back; "" for all it has of the kind. user: whose device it is."""

    user: int
    object_id: str
    kind: str
    token: str
    at: int
    registers: bool


def apply_token_changes(
    connection: Connection, account_id: str, changes: Sequence[TokenChange]
) -> tuple[set[int], int]:
    """Apply changes in their order. Return the users who gained or lost a token, and how many changes came too late."""
    rows = _load(connection, account_id, changes)
    newest: dict[tuple[str, str], tuple[float, str]] = {}  # of each device's tokens of a kind
    for (kind, token), row in rows.items():
        newest[row["object_id"], kind] = max(
            newest.get((row["object_id"], kind), (0.0, "")), (row["registered_at"], token)
        )
    users: set[int] = set()
    written: dict[tuple[str, str], dict[str, Any]] = {}
    stale = 0
    for one in _name_each(changes, rows):
        key = (one.kind, one.token)
        known = rows.get(key)
        at, token = newest.get((one.object_id, one.kind), (0.0, one.token))
        replaced = one.registers and at > one.at and token != one.token
        mine = known is None or known["object_id"] == one.object_id
        if replaced or (known is not None and _is_later(known, one)) or not (one.registers or mine):
            stale += 1
            continue
        if known is not None:
            users.add(known["user_id"])
        users.add(one.user)
        gone = {"gone_at": None, "gone_code": None} if one.registers else {"gone_at": one.at, "gone_code": GIVEN_BACK}
        rows[key] = written[key] = {
            "account_id": account_id,
            "user_id": one.user,
            "object_id": one.object_id,
            "kind": one.kind,
            "token": one.token,
            "registered_at": float(one.at),
            **gone,
            "gone_user": None,
            "gone_campaign": None,
        }
        newest[one.object_id, one.kind] = (float(one.at), one.token)
    _save(connection, account_id, rows, written)
    return users, stale


def _name_each(changes: Sequence[TokenChange], rows: dict[tuple[str, str], dict[str, Any]]) -> Iterator[TokenChange]:
    """Yield the changes, with one of each token in the place of one of all."""
    for one in changes:
        if one.token:
            yield one
            continue
        for (kind, token), row in list(rows.items()):
            if (kind, row["object_id"]) == (one.kind, one.object_id):
                yield msgspec.structs.replace(one, token=token)


def _is_later(row: dict[str, Any], one: TokenChange) -> bool:
    """Return whether what is known of a token is newer than a change. What a vendor called dead is not alive because
    somebody repeats what they said before."""
    if row["registered_at"] > one.at:
        return True
    dead = row["gone_at"] is not None and row["gone_code"] != GIVEN_BACK
    return bool(dead and one.registers and row["gone_at"] >= one.at and row["object_id"] == one.object_id)


def _load(
    connection: Connection, account_id: str, changes: Sequence[TokenChange]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the devices that the changes may be about, by kind and token."""
    columns = [column for column in table.c if column.name != "id"]
    names = [column.name for column in columns]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for column, values in (
        (table.c.token, sorted({one.token for one in changes})),
        (table.c.object_id, sorted({one.object_id for one in changes})),
    ):
        for part in split_values(values):
            query = select(*columns).where(
                table.c.account_id == account_id, among(connection, column, part), table.c.kind != "email"
            )
            for row in connection.execute(query):
                found[row.kind, row.token] = dict(zip(names, row, strict=True))
    return found


def _save(
    connection: Connection,
    account_id: str,
    rows: dict[tuple[str, str], dict[str, Any]],
    written: dict[tuple[str, str], dict[str, Any]],
) -> None:
    """Write what changed. An app on a device has one token: those that a newer one replaces are deleted."""
    newest: dict[tuple[str, str], float] = {}
    for (kind, _), row in rows.items():
        key = (row["object_id"], kind)
        newest[key] = max(newest.get(key, 0.0), row["registered_at"])
    old = [key for key, row in rows.items() if row["registered_at"] < newest[row["object_id"], key[0]]]
    kept = [row for key, row in written.items() if key not in old]
    for kind, token in old:
        mine = (table.c.account_id == account_id, table.c.kind == kind, table.c.token == token)
        connection.execute(delete(table).where(*mine))
    if kept:
        upsert_rows(connection, table, kept, keys=("account_id", "kind", "token"))
