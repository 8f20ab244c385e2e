"""Chunks of a ledger, leased and settled as a worker does."""

from __future__ import annotations

from support.database_clock import follow_clock
from tocsin import queue
from tocsin.queue import Chunk
from tocsin.store.ledger import Ledger

NOW = 1_800_000_000.0
LEASE = 60.0


def lease(store: Ledger, owner: str = "one", now: float = NOW) -> Chunk | None:
    follow_clock(store, lambda: now)
    return store.write_now(lambda connection: queue.lease_next(connection, owner, now, LEASE))


def must_lease(store: Ledger, owner: str = "one", now: float = NOW) -> Chunk:
    chunk = lease(store, owner, now)
    assert chunk is not None
    return chunk


def settle(store: Ledger, chunk: Chunk, owner: str = "one", now: float = NOW) -> bool:
    follow_clock(store, lambda: now)
    return store.write_now(lambda connection: queue.settle(connection, chunk, now, LEASE))


def release(store: Ledger, chunk: Chunk, not_before: float | None = None, owner: str = "one", now: float = NOW) -> bool:
    return store.write_now(lambda connection: queue.release(connection, chunk, now, not_before))


def load(store: Ledger, chunk_id: int) -> Chunk:
    chunk = store.read_now(lambda connection: queue.load(connection, chunk_id))
    assert chunk is not None
    return chunk
