"""Transactions of a PostgreSQL ledger that wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from conftest import wait_for
from sqlalchemy import text

from tocsin.store.ledger import Ledger

WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


def wait_until_blocked(ledger: Ledger, count: int, *unless: Future[Any]) -> None:
    """Until so many transactions wait for a lock of another one, or one of these has ended without."""

    def is_so() -> bool:
        waiting: int = ledger.read_now(lambda connection: connection.scalar(WAITING)) or 0
        return waiting >= count or any(one.done() for one in unless)

    wait_for(is_so)


def run_apart(ledger: Ledger, work: Callable[[Any], Any]) -> Callable[[], Any]:
    """Work as a function for a thread: in a transaction of its own that nothing repeats."""

    def run() -> Any:
        with ledger._writer.begin() as connection:
            return work(connection)

    return run
