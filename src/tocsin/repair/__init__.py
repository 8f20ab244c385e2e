"""Rebuilding the facts store's copies from the ledger, and comparing the numbers of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from sqlalchemy import Row as LedgerRow
from sqlalchemy import Select, select

from tocsin import queue
from tocsin.account import Account
from tocsin.delivery.recorder import record_outcomes, record_uninstalled
from tocsin.ingest import refresh_profiles
from tocsin.queue import Chunk
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

PAGE = 1000


async def copy_all_profiles(ledger: Ledger, facts: Facts, account_id: str) -> int:
    """Copy every user of an account to the facts store again. Return how many there are."""
    table, last, total = schema.user, 0, 0
    while True:
        query = select(table.c.id).where(table.c.account_id == account_id, table.c.id > last).order_by(table.c.id)
        page = query.limit(PAGE)
        users = await ledger.read(lambda connection, page=page: list(connection.scalars(page)))  # type: ignore[misc]
        if not users:
            return total
        await refresh_profiles(ledger, facts, account_id, users)
        total, last = total + len(users), users[-1]


async def record_again(ledger: Ledger, facts: Facts, account: Account, page: int = 50) -> int:
    """Record the outcomes of every chunk of an account again, and «App Uninstalled» of every dead device. Return the
    number of outcomes. What was cleaned has none any more: its outcomes are in facts alone. page: chunks read at
    once."""
    device, total = schema.device, 0
    async for chunk in read_chunks(ledger, account.id, page=page):
        total += await record_outcomes(facts, [(account, chunk)])
    # `gone_user` is NULL for devices that died before migration 0002: what their event would say is not known.
    dead_devices = select(device).where(device.c.account_id == account.id, device.c.gone_user.is_not(None))
    async for found in _read_pages(ledger, dead_devices, queue.SIZE):
        await record_uninstalled(facts, account, found)
    return total


async def read_chunks(
    ledger: Ledger, account_id: str, campaigns: Collection[int] | None = None, page: int = 50
) -> AsyncIterator[Chunk]:
    """Yield every chunk of an account, or of some campaigns of it, 0 for its requests."""
    table = schema.chunk
    every_chunk = select(table.c.id).where(table.c.account_id == account_id)
    if campaigns is not None:
        every_chunk = every_chunk.where(table.c.campaign_id.in_(campaigns))
    async for found in _read_pages(ledger, every_chunk, page):
        for row in found:
            chunk = await ledger.read(lambda connection, one=row.id: queue.load(connection, one))  # type: ignore[misc]
            if chunk is not None:
                yield chunk


async def _read_pages(ledger: Ledger, query: Select[Any], size: int) -> AsyncIterator[Sequence[LedgerRow[Any]]]:
    """Yield the rows of a query in the order of its `id`, `size` at a time."""
    key, last = query.selected_columns["id"], 0
    while True:
        page = query.where(key > last).order_by(key).limit(size)
        rows = await ledger.read(lambda connection, page=page: connection.execute(page).all())  # type: ignore[misc]
        if not rows:
            return
        yield rows
        last = rows[-1].id
