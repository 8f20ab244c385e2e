"""How often and how many at once, per account. On SQLite there is one process and its memory is enough; on PostgreSQL
the ledger keeps count for all of them, by its own clock."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import Connection, delete, func, select, text

from tocsin.campaign.send_rate import advance
from tocsin.errors import Problem
from tocsin.policy import Limits, load_policy
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_account
from tocsin.store.rows import upsert_rows

LONGEST = 120.0  # seconds that a request may hold its place; who holds it longer has died

table = schema.concurrency_slot
Pick = Callable[[Limits], tuple[float | None, int | None]]


class Throttle:
    """One endpoint's limits: `per_second` (None: any) and `at_once`, for each account; `pick` chooses, of
    the account's own limits, the two that replace them."""

    def __init__(self, ledger: Ledger, name: str, per_second: float | None, at_once: int, pick: Pick):
        self._ledger = ledger
        self._name = name
        self._per_second = per_second
        self._at_once = at_once
        self._pick = pick
        self._busy: Counter[str] = Counter()
        self._free_at: dict[str, float] = {}

    @asynccontextmanager
    async def admit(self, account_id: str, now: float) -> AsyncIterator[None]:
        """Hold a place while the request runs. `now`: seconds of any steady clock. Raises Problem 429."""
        if self._ledger.embedded:
            policy = await self._ledger.read(lambda connection: load_policy(connection, account_id))
            self._enter(account_id, now, *self._limits(policy.limits))
        else:
            place = secrets.token_hex(16)
            await self._ledger.write(lambda connection: self._enter_together(connection, account_id, place))
        try:
            yield
        finally:
            if self._ledger.embedded:
                self._busy[account_id] -= 1
                if not self._busy[account_id]:
                    del self._busy[account_id]
            else:
                gone = delete(table).where(table.c.account_id == account_id, table.c.id == place)
                await self._ledger.write(lambda connection: connection.execute(gone))

    def _limits(self, own: Limits) -> tuple[float | None, int]:
        per_second, at_once = self._pick(own)
        return per_second or self._per_second, at_once or self._at_once

    def _enter(self, account_id: str, now: float, per_second: float | None, at_once: int) -> None:
        if self._busy[account_id] >= at_once:
            raise _too_many()
        if per_second is not None:
            self._free_at[account_id] = advance(self._free_at.get(account_id, 0.0), now, per_second)
        self._busy[account_id] += 1

    def _enter_together(self, connection: Connection, account_id: str, place: str) -> None:
        """Enter for all processes at once; those of one account take turns at its row."""
        lock_account(connection, account_id)
        now = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0)
        per_second, at_once = self._limits(load_policy(connection, account_id).limits)
        mine = (table.c.account_id == account_id, table.c.name == self._name)
        connection.execute(delete(table).where(*mine, table.c.id != "", table.c.until < now))
        busy = connection.scalar(select(func.count()).select_from(table).where(*mine, table.c.id != ""))
        if (busy or 0) >= at_once:
            raise _too_many()
        rows = [{"account_id": account_id, "name": self._name, "id": place, "until": now + LONGEST}]
        if per_second is not None:
            free_at = connection.scalar(select(table.c.until).where(*mine, table.c.id == "")) or 0.0
            rows.append({**rows[0], "id": "", "until": advance(free_at, now, per_second)})
        upsert_rows(connection, table, rows, keys=("account_id", "name", "id"))


def _too_many() -> Problem:
    return Problem("Too many concurrent requests", code=429, status=429, retry_after=1)
