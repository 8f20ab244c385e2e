"""A ledger without tables, for tests of migrations."""

from __future__ import annotations

from pathlib import Path

import psycopg


def drop_tables(url: str) -> None:
    """Empty a ledger: those that the fixtures give are copies of a migrated one."""
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).unlink()
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
