"""Rescue: what dead workers had claimed is settled by their hand-over notes, and may be leased again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from sqlalchemy import Connection

from tocsin import queue
from tocsin.delivery.frequency_cap import free_places, name_message
from tocsin.delivery.handover import Evidence, forget, list_owners, read_evidence
from tocsin.delivery.settle import SettleRules, rescue
from tocsin.queue import Chunk
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_caps

log = structlog.get_logger()


def rescue_abandoned(ledger: Ledger, folder: Path, owner: str, rules: SettleRules, clock: Callable[[], float]) -> None:
    """Settle what workers other than `owner` had claimed and fell silent about. folder: of all workers' notes. Blocks,
    also for the senders of a dead worker, which may take a moment to end."""
    alone = ledger.embedded
    find = functools.partial(queue.find_abandoned, owner=owner, alone=alone)
    holders = ledger.write_now(lambda connection: list(find(connection, now=clock())))
    for holder in holders:
        with read_evidence(folder, holder) as evidence:
            chunks = ledger.write_now(
                lambda connection: rescue_from(connection, holder, evidence, rules, clock(), owner=owner, alone=alone)  # noqa: B023 - called at once
            )
            log.warning("took over from a lost worker", chunks=chunks, notes_believed=evidence is not None)
    for other in list_owners(folder):
        if other != owner and not ledger.read_now(lambda connection: queue.is_holding(connection, other)):  # noqa: B023
            forget(folder, other)


def release_unsent(connection: Connection, chunks: Sequence[Chunk], rules: SettleRules, now: float) -> None:
    """Let chunks wait again that were claimed, of which nothing was handed over, and nobody knows whether they were
    committed."""
    for account_id in sorted({chunk.account_id for chunk in chunks}):
        lock_caps(connection, account_id)
    found = queue.find_held(connection, chunks)
    for chunk in found:
        free_places(connection, chunk.account_id, chunk.channel, name_message(chunk), rescue(chunk, {}, rules, now))
    queue.set_free(connection, found)


def rescue_from(
    connection: Connection,
    holder: str,
    evidence: Evidence | None,
    rules: SettleRules,
    now: float,
    *,
    owner: str,
    alone: bool,
) -> int:
    """Settle what one worker had claimed, by its notes, and end its leases. Return how many chunks that were."""
    chunks = queue.find_abandoned(connection, owner, now, alone=alone).get(holder, [])
    for chunk in chunks:
        unsent = rescue(chunk, evidence, rules, now)
        free_places(connection, chunk.account_id, chunk.channel, name_message(chunk), unsent)
    queue.set_free(connection, chunks)
    return len(chunks)
