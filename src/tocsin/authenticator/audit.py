"""The audit log: who did what on the dashboard, and to whom it was allowed. Bounded by age and by number."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from sqlalchemy import Connection, delete, func, select, update

from tocsin.store import schema
from tocsin.store.rows import among

KEPT_SECONDS = 400 * 86_400.0
MOST = 100_000  # of one account
DETAIL_LETTERS = 300
# Their detail is somebody's name.
ABOUT_A_PERSON = ("person looked at", "time line looked at", "person exported", "test sent")
NAMELESS = "(deleted)"
LINES_AT_ONCE = 1000  # that are read between two other pieces of work

table = schema.audit


class Deed(msgspec.Struct, frozen=True):
    """One line of the log. who: an address, or the command line."""

    at: float
    who: str
    what: str
    detail: str


def note(connection: Connection, account_id: str, who: str, what: str, detail: str, now: float) -> None:
    """Write one line."""
    row = {"account_id": account_id, "at": now, "who": who, "what": what, "detail": detail[:DETAIL_LETTERS]}
    connection.execute(table.insert().values(row))


def list_deeds(connection: Connection, account_id: str, limit: int, offset: int = 0) -> list[Deed]:
    """Return lines of an account, the newest first."""
    columns = [table.c[name] for name in Deed.__struct_fields__]
    query = select(*columns).where(table.c.account_id == account_id).order_by(table.c.id.desc())
    return [Deed(*row) for row in connection.execute(query.limit(limit).offset(offset))]


def find_named_lines(
    connection: Connection, account_id: str, names: Collection[str], after: int = 0
) -> tuple[list[int], int]:
    """Return the lines about a person of one of these names, among the next LINES_AT_ONCE that are about one person
    after a line, and the last that was looked at; 0 when there are no more."""
    cut = {name[:DETAIL_LETTERS].lower() for name in names}
    about = (table.c.account_id == account_id, table.c.id > after, table.c.what.in_(ABOUT_A_PERSON))
    query = select(table.c.id, table.c.detail).where(*about).order_by(table.c.id).limit(LINES_AT_ONCE)
    lines = connection.execute(query).all()
    return [number for number, detail in lines if detail.lower() in cut], lines[-1].id if lines else 0


def hide_names(connection: Connection, lines: Collection[int]) -> None:
    """Take the names of people who are deleted out of these lines."""
    if lines:
        connection.execute(update(table).where(among(connection, table.c.id, lines)).values(detail=NAMELESS))


def forget_old_deeds(connection: Connection, now: float) -> None:
    """Delete lines that are too old, and the oldest of accounts that have too many."""
    connection.execute(delete(table).where(table.c.at < now - KEPT_SECONDS))
    counted = select(table.c.account_id).group_by(table.c.account_id).having(func.count() > MOST)
    for account_id in connection.scalars(counted).all():
        mine = select(table.c.id).where(table.c.account_id == account_id).order_by(table.c.id.desc())
        last = connection.scalar(mine.limit(1).offset(MOST))
        connection.execute(delete(table).where(table.c.account_id == account_id, table.c.id <= last))
