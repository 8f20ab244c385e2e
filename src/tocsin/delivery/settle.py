"""Settle: what receipts make of recipients, and what hand-over notes make of those whose worker is lost. Pure: the
clock and the random are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from tocsin.delivery.batch import PendingMessage
from tocsin.delivery.frequency_cap import Claim
from tocsin.delivery.handover import Evidence, HandoverNote, Step
from tocsin.delivery.recipients import DeadAddresses
from tocsin.delivery.retry import RetryPolicy, decide
from tocsin.outcome import Outcome, State
from tocsin.providers.contract import Address, Receipt
from tocsin.queue import Chunk, Note

ACCEPTED = Receipt(outcome=Outcome.ACCEPTED)
LOST = Receipt(outcome=Outcome.UNKNOWN, code="worker lost")
REACHED = (Outcome.ACCEPTED, Outcome.UNKNOWN)  # a message that is there, or may be
REACHED_STATES = (State.ACCEPTED, State.UNKNOWN)

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


def settle_messages(
    chunk: Chunk,
    messages: Sequence[PendingMessage],
    answers: Mapping[int, Receipt],
    rules: SettleRules,
    now: float,
) -> DeadAddresses:
    """Move recipients to what the receipts of their messages say. answers: of those not accepted, by place. All
    messages of a recipient come together. Return the addresses that turned out dead."""
    exceptional: dict[int, list[Receipt]] = {}
    if rules.every_device:
        for place, message in enumerate(messages):
            exceptional.setdefault(message.position, []).append(answers.get(place, ACCEPTED))
    else:
        exceptional = {messages[place].position: [receipt] for place, receipt in answers.items()}
        accepted = [message.position for message in messages if message.position not in exceptional]
        if chunk.notes:  # who was tried before has a note that says how often
            exceptional |= {position: [ACCEPTED] for position in accepted if position in chunk.notes}
            accepted = [position for position in accepted if position not in exceptional]
        chunk.finish_all(accepted, State.ACCEPTED, now)
    for position, receipts in exceptional.items():
        settle_recipient(chunk, position, receipts, rules, now)
    return _find_dead(chunk, messages, answers)


def settle_recipient(chunk: Chunk, position: int, receipts: Sequence[Receipt], rules: SettleRules, now: float) -> None:
    """Move one recipient to what the receipts of their devices say together."""
    best = min(receipts, key=lambda receipt: PRECEDENCE.index(receipt.outcome))
    note = chunk.notes.get(position) or Note()
    decision = decide(best, note.tries, now, chunk.expires_at, rules.policy, rules.random(), resend=chunk.resend)
    if decision.state is State.WAITING:
        chunk.move(position, State.WAITING)
        chunk.notes[position] = Note(
            tries=decision.tries,
            code=best.code,
            not_before=decision.not_before,
            doubt=note.doubt or best.outcome is Outcome.UNKNOWN,
        )
    elif decision.state is State.ACCEPTED:
        chunk.finish(position, State.ACCEPTED, now, tries=decision.tries if position in chunk.notes else 0)
    else:
        chunk.finish(position, decision.state, now, best.code, decision.tries)


def rescue_recipient(
    chunk: Chunk, position: int, notes: Sequence[HandoverNote] | None, rules: SettleRules, now: float
) -> None:
    """Move a recipient whose worker is lost to what is certain: not handed over is waiting again, answered is the
    answer's, and all else is unknown. notes: of their messages; None when there are none to be believed."""
    if notes is None:
        receipts, untried = [LOST], False
    else:
        receipts = [note.receipt or LOST for note in notes if note.step is not Step.CLAIMED]
        untried = not notes or len(receipts) < len(notes)
    if untried and not any(receipt.outcome in REACHED for receipt in receipts):
        chunk.move(position, State.WAITING)
    else:
        settle_recipient(chunk, position, receipts, rules, now)


def rescue(chunk: Chunk, evidence: Evidence | None, rules: SettleRules, now: float) -> list[Claim]:
    """Move everybody whom a lost worker had claimed; see `rescue_recipient`. Return those who certainly got nothing.
    None: no notes are to be believed."""
    claims = [
        Claim(position, chunk.users[position], chunk.platforms[position])
        for position, state in enumerate(chunk.states)
        if state == State.CLAIMED
    ]
    for claim in claims:
        notes = None if evidence is None else evidence.get((chunk.id, claim.position), ())
        rescue_recipient(chunk, claim.position, notes, rules, now)
    return find_unsent(chunk, claims)


def find_unsent(chunk: Chunk, claims: Iterable[Claim]) -> list[Claim]:
    """Return those claims whose recipients certainly got nothing, on this try or an earlier one: their places under the
    caps are free."""
    unsent = []
    for claim in claims:
        note = chunk.notes.get(claim.position)
        if chunk.states[claim.position] not in REACHED_STATES and not (note is not None and note.doubt):
            unsent.append(claim)
    return unsent


def _find_dead(chunk: Chunk, messages: Sequence[PendingMessage], answers: Mapping[int, Receipt]) -> DeadAddresses:
    dead: dict[int, list[tuple[int, Address, str]]] = {}
    for place, receipt in answers.items():
        if receipt.outcome is Outcome.GONE:
            message = messages[place]
            dead.setdefault(chunk.users[message.position], []).append(
                (message.device_id, message.address, receipt.code)
            )
    return dead
