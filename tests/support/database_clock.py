"""The clock of a PostgreSQL test database, moved by the test."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event

from tocsin.store.ledger import Ledger

# In front of PostgreSQL's own on the search path of the test server: it tells the time that the transaction was given.
MOVABLE = """
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
        SELECT coalesce(
            to_timestamp(nullif(current_setting('test.now', true), '')::float8), pg_catalog.clock_timestamp()
        )
    $$
"""

_clocks: WeakKeyDictionary[Engine, Callable[[], float]] = WeakKeyDictionary()


def follow_clock(ledger: Ledger, clock: Callable[[], float]) -> None:
    """From now on this ledger's database has the time of this clock, in epoch seconds, at every write."""
    engine = ledger._writer
    if not ledger.embedded and engine not in _clocks:
        event.listen(engine, "begin", _tell)
    _clocks[engine] = clock


def _tell(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT set_config('test.now', %s, true)", (repr(_clocks[connection.engine]()),))
