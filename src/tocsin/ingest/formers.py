"""Anonymous people, known by a device alone, whose device turned out to be somebody's: who is deleted with that one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, select

from tocsin.store import schema
from tocsin.store.rows import among, upsert_rows

table = schema.former_user


def note_formers(connection: Connection, account_id: str, formers: Mapping[int, int]) -> None:
    """Write down whom users who were a device alone turned out to be."""
    rows = [{"account_id": account_id, "former_id": former, "user_id": user} for former, user in formers.items()]
    if rows:
        upsert_rows(connection, table, rows, keys=("account_id", "former_id"))


def find_formers(connection: Connection, account_id: str, users: Collection[int]) -> set[int]:
    """Return the anonymous people whom these users turned out to be, and those whom these had been before."""
    found, asked = set[int](), set(users)
    while asked:
        mine = (table.c.account_id == account_id, among(connection, table.c.user_id, sorted(asked)))
        asked = set(connection.scalars(select(table.c.former_id).where(*mine))) - found - set(users)
        found |= asked
    return found
