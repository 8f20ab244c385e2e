"""Chunks of a ledger, leased and settled as a worker does."""

from __future__ import annotations

from sqlalchemy import Connection

from support.database_clock import follow_clock
from tocsin import queue
from tocsin.delivery.handover import Evidence
from tocsin.delivery.rescue import rescue_from
from tocsin.delivery.retry import RetryPolicy
from tocsin.delivery.settle import SettleRules
from tocsin.queue import Chunk
from tocsin.store.ledger import Ledger

NOW = 1_800_000_000.0
LEASE = 60.0


POLICY = RetryPolicy(floor=10.0, retries=2)
RULES = SettleRules(POLICY, every_device=True, random=lambda: 0.5)


def take_over(
    store: Ledger, owner: str, now: float, evidence: Evidence | None = None, *, alone: bool = False
) -> list[str]:
    """Settle what silent workers had claimed, by these notes, as a worker does before it leases."""

    def settle_all(connection: Connection) -> list[str]:
        holders = list(queue.find_abandoned(connection, owner, now, alone=alone))
        for holder in holders:
            rescue_from(connection, holder, evidence, RULES, now, owner=owner, alone=alone)
        return holders

    return store.write_now(settle_all)


def lease(store: Ledger, owner: str = "one", now: float = NOW) -> Chunk | None:
    """Take over from silent workers, without their notes, and lease the next chunk."""
    follow_clock(store, lambda: now)
    take_over(store, owner, now)
    chunks = store.write_now(lambda connection: queue.lease_due(connection, owner, now, LEASE))
    return chunks[0] if chunks else None


def must_lease(store: Ledger, owner: str = "one", now: float = NOW) -> Chunk:
    chunk = lease(store, owner, now)
    assert chunk is not None
    return chunk


def settle(store: Ledger, chunk: Chunk, owner: str = "one", now: float = NOW) -> bool:
    follow_clock(store, lambda: now)
    return not store.write_now(lambda connection: queue.settle(connection, [chunk], now, LEASE))


def release(store: Ledger, chunk: Chunk, not_before: float | None = None, owner: str = "one", now: float = NOW) -> bool:
    return bool(store.write_now(lambda connection: queue.release(connection, [(chunk, not_before)], now)))


def load(store: Ledger, chunk_id: int) -> Chunk:
    chunk = store.read_now(lambda connection: queue.load(connection, chunk_id))
    assert chunk is not None
    return chunk
