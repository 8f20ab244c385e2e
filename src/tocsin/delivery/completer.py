"""The completer: records the outcomes of delivered chunks in blocks, then closes the chunks.

An insert costs the facts store about the same for one chunk and for ten (measured: 46 µs a row in blocks of 1,000, 7 in
blocks of 50,000), so chunks wait a moment for each other while more are on their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from sqlalchemy import Connection

from tocsin import queue
from tocsin.account import Account
from tocsin.delivery.recorder import record_outcomes
from tocsin.queue import Chunk
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_runs

log = structlog.get_logger()

BLOCK = 32  # chunks recorded at once, at most
LINGER_SECONDS = 1.5  # the first of them waits for the others, while others are being delivered
TROUBLE_SECONDS = 5.0  # before chunks that could not be recorded are taken again


class DeliveredChunk(msgspec.Struct, frozen=True):
    """A chunk of which nothing more is due now. It is still leased: `heartbeat` renews the lease."""

    account: Account
    chunk: Chunk
    heartbeat: asyncio.Task[None] | None = None

    def stop_heartbeat(self) -> None:
        """Stop renewing the lease."""
        if self.heartbeat is not None:
            self.heartbeat.cancel()


class Completer:
    """Collects delivered chunks and completes them in blocks. is_busy: whether more are being delivered."""

    def __init__(
        self,
        ledger: Ledger,
        facts: Facts,
        clock: Callable[[], float],
        is_busy: Callable[[], bool],
        linger: float = LINGER_SECONDS,
    ):
        self._ledger = ledger
        self._facts = facts
        self._clock = clock
        self._is_busy = is_busy
        self._linger = linger
        self._waiting: list[DeliveredChunk] = []
        self._changed = asyncio.Event()
        self._room = asyncio.Semaphore(2 * BLOCK)
        self._ended = False

    async def put(self, done: DeliveredChunk) -> None:
        """Add a chunk; wait while 2 × BLOCK chunks are waiting already."""
        await self._room.acquire()
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
        """Complete chunks until `end`."""
        loop = asyncio.get_running_loop()
        while not self._ended or self._waiting:
            if not self._waiting:
                await self._wait_for_change(None)
                continue
            deadline = loop.time() + self._linger
            while self._is_busy() and len(self._waiting) < BLOCK and loop.time() < deadline:
                await self._wait_for_change(deadline - loop.time())
            block, self._waiting = self._waiting[:BLOCK], self._waiting[BLOCK:]
            await self.close(block)
            for _ in block:
                self._room.release()

    async def _wait_for_change(self, seconds: float | None) -> None:
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    async def close(self, block: list[DeliveredChunk]) -> None:
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
            now, ended = self._clock(), []
            lock_runs(connection, {done.chunk.run_id for done in block if done.chunk.run_id is not None})
            for done in sorted(block, key=lambda done: done.chunk.id):
                due = done.chunk.next_due() if recorded else again
                if queue.release(connection, done.chunk, now, due):
                    ended.append(done.chunk.campaign_id)
            return ended

        try:
            for campaign in await self._ledger.write(release):
                log.info("campaign ended", campaign=campaign)
        except Exception:  # the lease runs out, and the chunk is taken again
            log.exception("chunks not closed", chunks=len(block))
        finally:
            for done in block:
                done.stop_heartbeat()
