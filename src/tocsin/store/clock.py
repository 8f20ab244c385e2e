"""The clock of leases: the database's own where several hosts share it."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Float, cast, func, literal


def ledger_now(connection: Connection, now: float) -> ColumnElement[float]:
    """Return the time as an expression for a statement, in epoch seconds: the database's on PostgreSQL, `now` on
    SQLite, which one process has to itself. A host whose clock is ahead would else take the chunks of living workers.
    """
    if connection.dialect.name != "postgresql":
        return literal(now, Float)
    return cast(func.extract("epoch", func.clock_timestamp()), Float)
