"""Settle: what the receipts of a window make of its recipients. Pure: the clock and the random are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from tocsin.delivery.batch import BatchResult, PendingMessage
from tocsin.delivery.claim import find_claims, finish
from tocsin.delivery.frequency_cap import Claim
from tocsin.delivery.recipients import DeadAddresses
from tocsin.delivery.retry import RetryPolicy, decide
from tocsin.outcome import Outcome, State
from tocsin.providers.contract import Address, Receipt
from tocsin.queue import Chunk, Note

ACCEPTED = Receipt(outcome=Outcome.ACCEPTED)

# Of the receipts of one recipient's devices, the first of these is the recipient's.
PRECEDENCE = (
    *(Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.THROTTLED, Outcome.DENIED, Outcome.UNAVAILABLE),
    *(Outcome.REFUSED, Outcome.GONE),
)


class SettleRules(msgspec.Struct, frozen=True):
    """How receipts are judged. every_device: a recipient has several messages. random: uniform in [0, 1)."""

    policy: RetryPolicy
    every_device: bool
    random: Callable[[], float]


def settle_batch(
    chunk: Chunk, messages: Sequence[PendingMessage], result: BatchResult, rules: SettleRules, now: float
) -> DeadAddresses:
    """Move the recipients of one batch to what their receipts say. Return the addresses that turned out dead."""
    exceptional: dict[int, list[Receipt]] = {}
    if rules.every_device:
        for place, message in enumerate(messages):
            exceptional.setdefault(message.position, []).append(result.answers.get(place, ACCEPTED))
    else:
        exceptional = {messages[place].position: [receipt] for place, receipt in result.answers.items()}
        accepted = [message.position for message in messages if message.position not in exceptional]
        # Who was tried before has a note that says when, and is settled one by one.
        exceptional |= {position: [ACCEPTED] for position in accepted if position in chunk.notes}
        chunk.move_all((position for position in accepted if position not in exceptional), State.ACCEPTED)
    for position, receipts in exceptional.items():
        settle_recipient(chunk, position, receipts, rules, now)
    return _find_dead(chunk, messages, result.answers)


def settle_recipient(chunk: Chunk, position: int, receipts: Sequence[Receipt], rules: SettleRules, now: float) -> None:
    """Move one recipient to what the receipts of their devices say together."""
    best = min(receipts, key=lambda receipt: PRECEDENCE.index(receipt.outcome))
    tries = chunk.notes[position].tries if position in chunk.notes else 0
    decision = decide(best, tries, now, chunk.expires_at, rules.policy, rules.random(), resend=chunk.resend)
    if decision.state is State.WAITING:
        chunk.move(position, State.WAITING)
        chunk.notes[position] = Note(tries=decision.tries, code=best.code, not_before=decision.not_before)
    elif decision.state is State.ACCEPTED and position not in chunk.notes:
        chunk.move(position, State.ACCEPTED)
    else:
        finish(chunk, position, decision.state, best.code, now, decision.tries)


def find_unsent(chunk: Chunk, window: Mapping[str, Sequence[PendingMessage]], at: float) -> list[Claim]:
    """Return those of a window claimed at `at` who certainly got nothing: their places under the caps are free."""
    sent = (State.ACCEPTED, State.UNKNOWN)
    return [claim for claim in find_claims(chunk, window, at) if chunk.states[claim.position] not in sent]


def _find_dead(chunk: Chunk, messages: Sequence[PendingMessage], answers: Mapping[int, Receipt]) -> DeadAddresses:
    dead: dict[int, list[tuple[int, Address, str]]] = {}
    for place, receipt in answers.items():
        if receipt.outcome is Outcome.GONE:
            message = messages[place]
            dead.setdefault(chunk.users[message.position], []).append(
                (message.device_id, message.address, receipt.code)
            )
    return dead
