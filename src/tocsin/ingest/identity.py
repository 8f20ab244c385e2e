"""Identities: the names by which callers know a user, and whose each of them is."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select

from tocsin.ingest.record import read_email, read_phone
from tocsin.store import schema
from tocsin.store.rows import among_named, pack_values, upsert_rows

IdentityKey = tuple[str, str]  # (kind, value); kinds are those of uploads, and Email, Phone


def find_users(connection: Connection, account_id: str, keys: Iterable[IdentityKey]) -> dict[IdentityKey, int]:
    """Return the user of each identity that is known."""
    values: dict[str, list[str]] = defaultdict(list)
    for kind, value in keys:
        values[kind].append(value)
    found: dict[IdentityKey, int] = {}
    for kind, wanted in values.items():
        found.update({(kind, value): user for value, user in find_names(connection, account_id, kind, wanted).items()})
    return found


def find_names(connection: Connection, account_id: str, kind: str, values: Collection[str]) -> dict[str, int]:
    """Return the user of each identity of one kind that is known."""
    asked = {"account": account_id, "kind": kind, "wanted": pack_values(connection, values)}
    return dict(map(tuple, connection.execute(_select_users(connection.dialect.name), asked)))


@functools.cache
def _select_users(dialect: str) -> Select[Any]:
    table = schema.identity
    mine = (table.c.account_id == bindparam("account"), table.c.kind == bindparam("kind"))
    return select(table.c.value, table.c.user_id).where(*mine, among_named(dialect, table.c.value, "wanted"))


def upsert_identities(connection: Connection, account_id: str, linked: dict[IdentityKey, int]) -> None:
    """Say whose these identities are, whosever they were."""
    rows = [
        {"account_id": account_id, "kind": kind, "value": value, "user_id": user}
        for (kind, value), user in linked.items()
    ]
    upsert_rows(connection, schema.identity, rows, keys=("account_id", "kind", "value"))


def address_keys(value: str) -> Iterable[IdentityKey]:
    """Return the address that an `identity` is, if any: callers use addresses as identities."""
    if "@" in value and (email := read_email(value)):
        yield ("Email", email)
    if value.startswith("+") and (phone := read_phone(value)):
        yield ("Phone", phone)
