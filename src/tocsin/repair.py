"""Makes the facts store agree with the ledger again."""

from __future__ import annotations

from sqlalchemy import select

from tocsin.ingest import refresh_profiles
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

PAGE = 1000


async def copy_all_profiles(ledger: Ledger, facts: Facts, account_id: str) -> int:
    """Writes the copy of every user of an account anew. Answers how many."""
    table, last, total = schema.user, 0, 0
    while True:
        query = select(table.c.id).where(table.c.account_id == account_id, table.c.id > last).order_by(table.c.id)
        page = query.limit(PAGE)
        users = await ledger.read(lambda connection, page=page: list(connection.scalars(page)))  # type: ignore[misc]
        if not users:
            return total
        await refresh_profiles(ledger, facts, account_id, users)
        total, last = total + len(users), users[-1]
