"""The pace of inserts into a table of facts: blocks that met trouble go again, later and of another size.

A block may go twice, as a whole or in part, because every row has a key: written twice it is one (`facts.sql`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from tocsin.store.facts_error import Trouble, find_trouble

log = structlog.get_logger()

TRIES = 8  # of a block, before its caller is told
FIRST_REST, LONGEST_REST = 0.1, 5.0  # seconds before a block goes again, each time twice as long; 11 in all
ROWS_AN_INSERT, LEAST_ROWS = 50_000, 1_000


class InsertPace:
    """How large blocks of one table are, and how long one waits for the one before it. tries: of each block."""

    def __init__(self, tries: int = TRIES) -> None:
        self._tries = tries
        self._rows = ROWS_AN_INSERT
        self._rest = 0.0  # seconds between two blocks
        self._next = 0.0  # by the loop's clock

    async def store(self, table: str, count: int, write: Callable[[int, int], Awaitable[None]]) -> None:
        """Have `count` rows written in blocks, `write(start, stop)` each. A block that meets trouble which passes by
        itself is written again. Raises the error of the last try."""
        start = failures = 0
        while start < count:
            await self._wait()
            stop = min(start + self._rows, count)
            try:
                await write(start, stop)
            except Exception as error:
                failures += 1
                trouble = find_trouble(error)
                if trouble is None:
                    raise
                from tocsin import metrics  # a command that only opens the store exports none

                metrics.FACTS_TROUBLES.labels(kind=trouble).inc()
                self._brake(trouble)
                if failures == self._tries:
                    raise
                rest = min(FIRST_REST * 2 ** (failures - 1), LONGEST_REST) * random.uniform(0.75, 1.25)  # noqa: S311
                log.warning("facts: insert repeated", table=table, trouble=trouble, tries=failures, seconds=rest)
                await asyncio.sleep(rest)
            else:
                start, failures = stop, 0
                self._ease()

    async def _wait(self) -> None:
        """Wait for this block's turn: while merging is behind, blocks are rarer, and what comes meanwhile is one."""
        now = asyncio.get_running_loop().time()
        turn = max(self._next, now)
        self._next = turn + self._rest
        if turn > now:
            await asyncio.sleep(turn - now)

    def _brake(self, trouble: Trouble) -> None:
        if trouble == "parts":
            self._rest = min(max(2 * self._rest, FIRST_REST), LONGEST_REST)
        elif trouble == "memory":
            self._rows = max(self._rows // 2, LEAST_ROWS)

    def _ease(self) -> None:
        self._rest = self._rest / 2 if self._rest > FIRST_REST else 0.0
        self._rows = min(2 * self._rows, ROWS_AN_INSERT)
