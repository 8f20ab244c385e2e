"""Chunks that a dispatcher holds: their messages on the way, and the answers until they are settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from tocsin.delivery.chunk_trace import ChunkTrace
from tocsin.delivery.frequency_cap import CapRule, Claim
from tocsin.delivery.handover import NoteFile
from tocsin.delivery.lane import Outgoing
from tocsin.delivery.plan import DeliveryPlan
from tocsin.delivery.recipients import DeadAddresses
from tocsin.outcome import State
from tocsin.providers.contract import Receipt
from tocsin.queue import Chunk

Answer = tuple[Outgoing, Receipt | None]


class HeldChunk(msgspec.Struct, eq=False):
    """A leased chunk under way, and who waits for the answers to its messages. claims: places under the caps, by
    position. missing: of recipients with several messages, how many are still out; partial: those answered meanwhile.
    parked_since: since when there is no room for it, by the loop's clock. keep_seconds: of a chunk that was lost by a
    bug, until it is certainly rescued; for so long its notes are what is known of it."""

    chunk: Chunk
    plan: DeliveryPlan
    on_answer: Callable[[HeldChunk], None]
    trace: ChunkTrace | None = None
    in_flight: int = 0
    answered: list[Answer] = []
    claims: dict[int, Claim] = {}
    missing: dict[int, int] = {}
    partial: list[Answer] = []
    parked_since: float = 0.0
    lost: bool = False
    keep_seconds: float = 0.0

    def collect(self, message: Outgoing, receipt: Receipt | None) -> None:
        """Take the receipt of one message; see `lane.Collector`."""
        self.in_flight -= 1
        if self.trace is not None:
            self.trace.note_answer(message, receipt, time.time())
        if self.lost and self.keep_seconds:
            asyncio.get_running_loop().call_later(self.keep_seconds, free_slots, [message])
        elif self.lost:
            free_slots([message])
        else:
            self.answered.append((message, receipt))
            self.on_answer(self)

    @property
    def waiting(self) -> bool:
        """Whether recipients wait, due or not."""
        return State.WAITING in self.chunk.states

    def take_answers(self) -> list[Answer]:
        """Return the receipts of recipients all of whose messages are answered."""
        answered, self.answered = self.answered, []
        if not self.missing:
            return answered
        for message, _ in answered:
            if message.message.position in self.missing:
                self.missing[message.message.position] -= 1
        answered = self.partial + answered
        whole = [one for one in answered if not self.missing.get(one[0].message.position)]
        self.partial = [one for one in answered if self.missing.get(one[0].message.position)]
        for message, _ in whole:
            self.missing.pop(message.message.position, None)
        return whole


class Settlement(msgspec.Struct):
    """What answers come to, until it is committed. settled: messages whose slots are free then."""

    touched: dict[int, HeldChunk] = {}
    settled: list[Outgoing] = []
    gone: list[tuple[HeldChunk, DeadAddresses]] = []
    unsent: list[tuple[CapRule, list[Claim]]] = []


def free_slots(messages: Sequence[Outgoing]) -> None:
    """Give back the slots of messages whose results are committed, or wanted by nobody."""
    by_file: dict[int, tuple[NoteFile, list[int]]] = {}
    for one in messages:
        if one.notes is not None:
            by_file.setdefault(id(one.notes), (one.notes, []))[1].append(one.slot)
    for notes, slots in by_file.values():
        notes.free(slots)
