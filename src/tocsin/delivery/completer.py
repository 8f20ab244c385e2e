"""The completer: records the outcomes of delivered chunks in blocks, then closes the chunks.

An insert costs the facts store about the same for one chunk and for ten (measured: 46 µs a row in blocks of 1,000, 7 in
blocks of 50,000), so chunks wait a moment for each other. Nobody waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog
from sqlalchemy import Connection

from tocsin import queue
from tocsin.account import Account
from tocsin.delivery.recorder import record_outcomes
from tocsin.queue import Chunk
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

BLOCK = 32_000  # recipients recorded at once
CHUNKS = 2_000  # closed at once
LINGER_SECONDS = 1.5  # the first of them waits for others
TROUBLE_SECONDS = 5.0  # before chunks that could not be recorded are taken again


class DeliveredChunk(msgspec.Struct, frozen=True):
    """A chunk of which nothing more is due now, or (`again`, epoch seconds) can be sent before a time. It is still
    leased."""

    account: Account
    chunk: Chunk
    again: float = 0.0

    @property
    def due(self) -> float | None:
        """When it may be leased again; None when everybody is final."""
        due = self.chunk.next_due()
        return None if due is None else max(due, self.again)


class Completer:
    """Collects delivered chunks and completes them in blocks. is_busy: whether more are being delivered. on_released:
    called when leases have ended."""

    def __init__(
        self,
        ledger: Ledger,
        facts: Facts,
        clock: Callable[[], float],
        is_busy: Callable[[], bool],
        on_released: Callable[[], None],
        linger: float = LINGER_SECONDS,
        block: int = BLOCK,
    ):
        self._ledger = ledger
        self._facts = facts
        self._clock = clock
        self._is_busy = is_busy
        self._on_released = on_released
        self._linger = linger
        self._block = block
        self._waiting: list[DeliveredChunk] = []
        self._closing: Sequence[DeliveredChunk] = ()
        self._changed = asyncio.Event()
        self._ended = False

    def list_chunks(self) -> list[Chunk]:
        """Return the chunks that it has."""
        return [done.chunk for done in (*self._closing, *self._waiting)]

    @property
    def behind(self) -> bool:
        """Whether so much waits to be recorded that nothing more should be leased."""
        return len(self._waiting) > 2 * CHUNKS

    def put(self, done: DeliveredChunk) -> None:
        """Add a chunk."""
        self._waiting.append(done)
        self._changed.set()

    def notify_idle(self) -> None:
        """Say that `is_busy` may have changed."""
        self._changed.set()

    def end(self) -> None:
        """Let `run` end after the last chunk."""
        self._ended = True
        self._changed.set()

    async def run(self) -> None:
        """Complete chunks until `end`, which may come before this begins: a SIGTERM during the start."""
        try:
            await self._complete()
        finally:
            self._ended = False  # it may run again

    async def _complete(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._ended or self._waiting:
            if not self._waiting:
                await self._wait_for_change(None)
                continue
            deadline = loop.time() + self._linger
            while self._may_wait() and loop.time() < deadline:
                await self._wait_for_change(deadline - loop.time())
            count, _ = self._count_block()
            self._closing, self._waiting = self._waiting[:count], self._waiting[count:]
            await self.close(self._closing)
            self._closing = ()
            self._on_released()

    def _may_wait(self) -> bool:
        """Return whether more chunks may come for this block: while some are being delivered; and after requests, for
        nobody waits for their end, and alone each costs an insert of 15 ms."""
        if self._ended or self._count_block()[1]:
            return False
        return self._is_busy() or all(done.chunk.request is not None for done in self._waiting)

    def _count_block(self) -> tuple[int, bool]:
        """Return how many of the chunks that wait are one block, and whether it is full."""
        size = 0
        for count, done in enumerate(self._waiting, 1):
            size += len(done.chunk.states)
            if size >= self._block or count >= CHUNKS:
                return count, True
        return len(self._waiting), False

    async def _wait_for_change(self, seconds: float | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def close(self, block: Sequence[DeliveredChunk]) -> None:
        """Record the outcomes of a block and release its chunks. What cannot be recorded stays open and is leased
        again."""
        recorded = True
        try:
            await record_outcomes(self._facts, [(done.account, done.chunk) for done in block])
        except Exception:
            log.exception("outcomes not recorded; tried again", chunks=len(block), seconds=TROUBLE_SECONDS)
            recorded = False
        again = self._clock() + TROUBLE_SECONDS

        def release(connection: Connection) -> list[int]:
            released = [(done.chunk, done.due if recorded else again) for done in block]
            return queue.release(connection, released, self._clock())

        try:
            for campaign in await self._ledger.write(release, durable=False):
                log.info("campaign ended", campaign=campaign)
        except Exception:  # the lease runs out, and the chunk is taken again
            log.exception("chunks not closed", chunks=len(block))
