"""The one transaction of delivery: it settles what is answered, and claims what goes next as far as caps and stops
allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection, Row

from tocsin import queue
from tocsin.delivery.claim import Window, apply_caps, find_claims
from tocsin.delivery.frequency_cap import give_back, reserve
from tocsin.delivery.held_chunk import HeldChunk, Settlement
from tocsin.delivery.plan import DeliveryPlan
from tocsin.delivery.recipients import mark_gone
from tocsin.outcome import State
from tocsin.queue import Chunk


class Claimed(msgspec.Struct, frozen=True):
    """What a commit did. windows: the messages claimed. removed: rows of devices that are dead by it. lost: chunks
    whose lease is lost."""

    windows: list[tuple[HeldChunk, Window]]
    removed: Sequence[Row[Any]]
    lost: set[int]
    at: float


class ClaimCommit:
    """One such transaction, which may be run again: after a conflict with another process it starts from what was in
    memory before."""

    def __init__(
        self,
        account_id: str,
        touched: Sequence[HeldChunk],
        settlement: Settlement,
        windows: Sequence[tuple[HeldChunk, Window]],
        now: float,
        lease_seconds: float,
    ) -> None:
        self._account_id = account_id
        self._touched = touched
        self._settlement = settlement
        self._windows = windows
        self._now = now
        self._lease_seconds = lease_seconds
        self._saved = [(held.chunk, bytearray(held.chunk.states), dict(held.chunk.notes)) for held in touched]

    def restore(self) -> None:
        """Put the chunks back as they were: nothing was committed."""
        for chunk, states, notes in self._saved:
            chunk.states[:], chunk.notes = states, dict(notes)

    def run(self, connection: Connection) -> Claimed:
        """Do it all."""
        self.restore()
        now = self._now
        for rule, unsent in self._settlement.unsent:
            give_back(connection, rule, unsent)
        # First of all: who is stopped must not take a place under a cap.
        stopped = queue.find_stopped(connection, {held.chunk.run_id for held in self._touched})
        for held in self._touched:
            if held.chunk.run_id in stopped:
                held.chunk.finish_all(held.chunk.waiting(float("inf")), State.STOPPED, now)
        windows = [(held, window) for held, window in self._windows if held.chunk.run_id not in stopped]
        windows = claim_windows(connection, windows, now)
        removed: list[Row[Any]] = []
        for held, gone in self._settlement.gone:
            removed += mark_gone(connection, self._account_id, gone, now, held.chunk.campaign_id)
        lost = queue.settle(connection, [held.chunk for held in self._touched], now, self._lease_seconds)
        return Claimed(windows, removed, lost, now)


def is_durable(*, claims: bool, settles: bool, embedded: bool) -> bool:
    """Return whether a commit has to outlive a power cut of the ledger's machine. embedded: which is this machine.

    What is claimed may reach a vendor. What is settled has its notes freed; a server's crash that undid the settlement
    would leave recipients claimed without a note, as if they had never been handed over. On this machine the cut ends
    the trust in the notes as well.
    """
    return claims or (settles and not embedded)


class Planned(Protocol):
    """A chunk with its plan."""

    @property
    def chunk(self) -> Chunk: ...

    @property
    def plan(self) -> DeliveryPlan: ...


P = TypeVar("P", bound=Planned)


def claim_windows(connection: Connection, windows: Sequence[tuple[P, Window]], now: float) -> list[tuple[P, Window]]:
    """Claim what the caps leave of windows, and return it; the others are final, or wait."""
    claimed = _apply_caps(connection, windows, now)
    for one, window in claimed:
        positions = {message.position for messages in window.values() for message in messages}
        one.chunk.move_all(positions, State.CLAIMED)
    return claimed


def _apply_caps(connection: Connection, windows: Sequence[tuple[P, Window]], now: float) -> list[tuple[P, Window]]:
    """Return what the caps leave of windows."""
    capped = [
        (one.plan.rule, find_claims(one.chunk, window, now)) for one, window in windows if one.plan.rule is not None
    ]
    if not capped:
        return list(windows)
    decisions = iter(reserve(connection, capped, now))
    return [
        (one, window if one.plan.rule is None else apply_caps(one.chunk, window, next(decisions), now))
        for one, window in windows
    ]
