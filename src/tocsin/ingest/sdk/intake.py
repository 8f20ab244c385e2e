"""The queue in front of both stores for what SDKs report: requests of an account that come together are one block.

One block of an account is under way at a time, so what a device tells is stored in the order in which it was heard.
What waits is bounded by who calls: each request under way holds a place.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from tocsin.account import Account
from tocsin.ingest import refresh_sharers
from tocsin.ingest.names import NameLimits
from tocsin.ingest.sdk.block import StoredBlock, store_block
from tocsin.ingest.sdk.judge import JudgedReport
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

REPORTS_A_BLOCK = 2000


@dataclass
class _WaitingBatch:
    judged: Sequence[JudgedReport]
    now: float
    done: asyncio.Future[Counter[str]]


class Intake:
    """Collects what is reported and stores it in blocks. limits: of names, where an account's policy does not say."""

    def __init__(self, ledger: Ledger, facts: Facts, limits: NameLimits):
        self._ledger = ledger
        self._facts = facts
        self._limits = limits
        self._waiting: dict[str, deque[_WaitingBatch]] = defaultdict(deque)
        self._storing: dict[str, asyncio.Task[None]] = {}

    async def put(self, account: Account, judged: Sequence[JudgedReport], now: float) -> Counter[str]:
        """Store what one request reports; return when both stores have it, with what was dropped, by reason."""
        if not judged:
            return Counter()
        done: asyncio.Future[Counter[str]] = asyncio.get_running_loop().create_future()
        self._waiting[account.id].append(_WaitingBatch(judged, now, done))
        if account.id not in self._storing:
            self._storing[account.id] = asyncio.create_task(self._store_waiting(account))
        return await done

    async def _store_waiting(self, account: Account) -> None:
        queue = self._waiting[account.id]
        try:
            while queue:
                block, size = [queue.popleft()], 0
                while queue and (size := size + len(block[-1].judged)) < REPORTS_A_BLOCK:
                    block.append(queue.popleft())
                try:
                    await self._store(account, block)
                except Exception as error:
                    await self._store_apart(account, block, error)
        finally:
            del self._storing[account.id], self._waiting[account.id]

    async def _store_apart(self, account: Account, block: list[_WaitingBatch], error: Exception) -> None:
        """Store each request alone, after their block failed: only who has what cannot be stored gets the error."""
        for one in block:
            failure = error
            if len(block) > 1:
                try:
                    await self._store(account, [one])
                    continue
                except Exception as its_own:
                    failure = its_own
            if not one.done.done():
                one.done.set_exception(failure)

    async def _store(self, account: Account, block: Sequence[_WaitingBatch]) -> None:
        judged = [report for one in block for report in one.judged]
        now = max(one.now for one in block)
        stored = await self._ledger.write(
            lambda connection: store_block(connection, account, judged, now, self._limits)
        )
        await self._copy(account, stored)
        ends, total = [], 0
        for one in block:
            total += len(one.judged)
            ends.append(total)
        dropped = [Counter[str]() for _ in block]
        for place, reason in stored.dropped:
            number = next((number for number, end in enumerate(ends) if place < end), 0)
            dropped[number][reason] += 1
        for one, counts in zip(block, dropped, strict=True):
            if not one.done.done():  # else its caller was cancelled
                one.done.set_result(counts)

    async def _copy(self, account: Account, stored: StoredBlock) -> None:
        await asyncio.gather(self._facts.insert("event", stored.events), self._facts.insert("profile", stored.copies))
        if stored.merged:
            await self._facts.copy_events(account.id, stored.merged)
        await refresh_sharers(self._ledger, self._facts, account.id, stored.changes)
