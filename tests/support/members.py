"""Whom a query means, for tests: counted by one statement, and as the worker reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tocsin.account import Account
from tocsin.audience.compile import compile_members
from tocsin.audience.members import stream_recipients
from tocsin.audience.node import Query
from tocsin.store.facts import Facts


async def count_members(facts: Facts, account: Account, query: Query, now: float) -> int:
    """How many people the query means, whether they can be reached or not."""
    members = compile_members(query, account, now)
    [(count,)] = await facts.query(f"SELECT count() FROM ({members.text})", members.parameters)
    return int(count)


async def read_recipients(
    facts: Facts, account: Account, query: Query, platforms: Sequence[str], now: float, limit: int | None = None
) -> list[tuple[int, str]]:
    """All of `stream_recipients` at once, off the event loop."""

    def read() -> list[tuple[int, str]]:
        blocks = stream_recipients(facts, account, query, platforms, now, limit)
        return [pair for block in blocks for pair in block]

    return await asyncio.to_thread(read)
