"""Which accounts are exported, and how far that has come: a row of the ledger each.

The end of a window is written down before its files are, so whoever goes on after a crash writes the same files anew.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, or_, select, update

from tocsin.authenticator.audit import note
from tocsin.errors import Problem
from tocsin.store import schema
from tocsin.store.clock import ledger_now
from tocsin.store.lock import lock_account

LEASE_SECONDS = 600.0  # a window may take so long

table = schema.warehouse


class ExportPosition(msgspec.Struct, frozen=True, kw_only=True):
    """How far an account's export is. done_until: microseconds of the store's clock, what was stored before is in
    files; None: not begun. writing_until: the end of the window that is being written. trouble: why it was not."""

    account_id: str
    created_at: float
    done_until: int | None
    writing_until: int | None
    rows: int
    written_at: float | None
    trouble: str


def start(connection: Connection, account_id: str, who: str, now: float) -> ExportPosition:
    """Have an account exported from now on. Raise Problem when it is already."""
    lock_account(connection, account_id)
    if _read(connection, table.c.account_id == account_id):
        raise Problem("This account is exported already")
    connection.execute(table.insert().values(account_id=account_id, created_at=now))
    note(connection, account_id, who, "export started", "", now)
    return find_export(connection, account_id)


def stop(connection: Connection, account_id: str, who: str, now: float) -> None:
    """Write no more files of an account; those that are there stay. Raise Problem 404 when it is not exported."""
    find_export(connection, account_id)
    connection.execute(delete(table).where(table.c.account_id == account_id))
    note(connection, account_id, who, "export stopped", "", now)


def stop_all(connection: Connection) -> None:
    """Stop every export: a restored ledger does not know what the server it came from has written since."""
    connection.execute(delete(table))


def find_export(connection: Connection, account_id: str) -> ExportPosition:
    """Return how far an account's export is. Raise Problem 404 when it is not exported."""
    found = _read(connection, table.c.account_id == account_id)
    if not found:
        raise Problem("This account is not exported", code=404, status=404)
    return found[0]


def list_exports(connection: Connection) -> list[ExportPosition]:
    """Return all exports, the oldest first."""
    return _read(connection)


def _read(connection: Connection, *which: ColumnElement[bool]) -> list[ExportPosition]:
    columns = [table.c[name] for name in ExportPosition.__struct_fields__]
    rows = connection.execute(select(*columns).where(*which).order_by(table.c.created_at, table.c.account_id))
    return [ExportPosition(**row._mapping) for row in rows]


def lease(connection: Connection, account_id: str, owner: str, now: float) -> ExportPosition | None:
    """Take an export for LEASE_SECONDS and return it as it is now; None when another process has it."""
    at = ledger_now(connection, now)
    free = or_(table.c.lease_until.is_(None), table.c.lease_until < at, table.c.lease_owner == owner)
    taken = update(table).where(table.c.account_id == account_id, free)
    if not connection.execute(taken.values(lease_owner=owner, lease_until=at + LEASE_SECONDS)).rowcount:
        return None
    return find_export(connection, account_id)


def save(connection: Connection, account_id: str, owner: str, now: float, **values: Any) -> bool:
    """Write how far an export is, and hold it for LEASE_SECONDS more. Return whether it was held until now."""
    until = ledger_now(connection, now) + LEASE_SECONDS
    held = update(table).where(table.c.account_id == account_id, table.c.lease_owner == owner)
    return connection.execute(held.values({"lease_until": until, **values})).rowcount > 0
