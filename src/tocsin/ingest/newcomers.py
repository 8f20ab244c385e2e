"""People whom nobody knew, many at once: no name of theirs is anybody's, so that nothing has to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from tocsin.ingest.identity import IdentityKey
from tocsin.store import schema
from tocsin.store.rows import insert_rows


def insert_newcomers(
    connection: Connection,
    account_id: str,
    profiles: Sequence[str],
    names: Sequence[Sequence[IdentityKey]],
    now: float,
) -> range:
    """Insert users with their profiles, as JSON, and their names; return their numbers. The caller has locked the
    account's row and found none of the names."""
    table = schema.account
    last = connection.scalar(select(table.c.last_user).where(table.c.id == account_id)) or 0
    users = range(last + 1, last + 1 + len(profiles))
    common = {"account_id": account_id, "version": 1, "updated_at": now, "created_at": now}
    rows = [{**common, "id": user, "profile": text} for user, text in zip(users, profiles, strict=True)]
    insert_rows(connection, schema.user, rows)
    linked = [
        {"account_id": account_id, "kind": kind, "value": value, "user_id": user}
        for user, own in zip(users, names, strict=True)
        for kind, value in own
    ]
    insert_rows(connection, schema.identity, linked)
    connection.execute(update(table).where(table.c.id == account_id).values(last_user=users[-1]))
    return users
