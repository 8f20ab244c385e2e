"""Two recipients, their workers, senders and machines, as states and the steps between them.

A step is what one process does between two moments at which it may be killed. What a step decides, the code's own
functions decide; only the order of the steps is told here, and each planted fault changes one of them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from test_claim import NOW, make_chunk

from tocsin.delivery import settle
from tocsin.delivery.batch import PendingMessage
from tocsin.delivery.claim_commit import is_durable
from tocsin.delivery.handover import HandoverNote, Step
from tocsin.delivery.lane import NO_SENDER
from tocsin.delivery.retry import RetryPolicy
from tocsin.delivery.sender_pool import judge_loss
from tocsin.outcome import FINAL, Outcome, State
from tocsin.providers.contract import Address, Receipt

TWO = range(2)
# No state remembers tries, so they never run out here: `test_settle.py` tries them.
RULES = settle.SettleRules(RetryPolicy(floor=10.0, retries=1000), every_device=False, random=lambda: 0.5)
RECEIPTS = {
    "taken": Receipt(outcome=Outcome.ACCEPTED),
    "turned away": Receipt(outcome=Outcome.THROTTLED, code="429"),
    "no sender": NO_SENDER,
}
NOTES = {
    "claimed": HandoverNote(Step.CLAIMED),
    "handed over": HandoverNote(Step.HANDED_OVER),
    "taken": HandoverNote(Step.ANSWERED, receipt=RECEIPTS["taken"]),
    "turned away": HandoverNote(Step.ANSWERED, receipt=RECEIPTS["turned away"]),
}
RECEIPTS |= {f"lost, {name}": judge_loss(note) for name, note in NOTES.items()}

# How far a message has come. In the worker's memory:
CLAIMED, ANSWERED, SETTLED, SENDER_LOST = "claimed", "answered", "settled", "sender lost"
# In the sender's:
QUEUED, NOTED, ON_THE_WIRE, READ, ANSWER_NOTED = "queued", "noted", "on the wire", "read", "answer noted"
IN_SENDER = (QUEUED, NOTED, ON_THE_WIRE, READ, ANSWER_NOTED)

Message = tuple[str, str]  # how far, and the name of its receipt
NOTHING = ("", "")


class Row(NamedTuple):
    """The chunk in the ledger. lease: the place of its owner among `World.owners`."""

    states: bytes = bytes(2)
    lease: int | None = None
    silent: bool = False  # the lease has run out


class Owner(NamedTuple):
    """A worker, its sender and its file of notes; what of it is alive, or may still be asked for."""

    host: int
    worker: bool = True
    sender: bool = True
    held: bytes | None = None  # the chunk's states in the worker's memory
    messages: tuple[Message, Message] = (NOTHING, NOTHING)
    notes: tuple[str, str] = ("", "")  # by name, "" for none
    trusted: bool = True  # the notes are of this boot


class World(NamedTuple):
    """disk: what a power cut leaves of the ledger. copies: of each message, those that a vendor has or may have."""

    row: Row = Row()
    disk: Row = Row()
    owners: tuple[Owner, ...] = ()
    copies: tuple[int, int] = (0, 0)


class Setting(NamedTuple):
    """embedded: SQLite, so one worker at a time. hosts: of the workers. apart: the ledger has another machine.
    owners: workers at a time, the dead included. answers: the vendor's. fault: a planted one. precise: whether it is a
    law that who was never handed over is not unknown."""

    name: str
    embedded: bool
    hosts: int
    workers: int
    apart: bool = False
    owners: int = 2
    answers: tuple[str, ...] = ("taken",)
    fault: str = ""
    precise: bool = True


SETTINGS = (
    Setting("SQLite", True, 1, 1, answers=("taken", "turned away")),
    Setting("PostgreSQL on one machine", False, 1, 2),
    Setting("PostgreSQL and workers on machines of their own", False, 2, 2, apart=True),
)


class Broken(Exception):  # noqa: N818 - a finding
    """A law does not hold."""


# What the code decides. Cached: the same question is asked in thousands of states.


@functools.cache
def decide_answers(states: bytes, named: tuple[tuple[int, str], ...]) -> bytes:
    """The states after these answers, by position."""
    answers = [(position, RECEIPTS[name]) for position, name in named]
    chunk = make_chunk(states)
    messages = [PendingMessage(position, position, Address("fcm", "a")) for position, _ in answers]
    receipts = {place: one for place, (_, one) in enumerate(answers) if one.outcome is not Outcome.ACCEPTED}
    settle.settle_messages(chunk, messages, receipts, RULES, NOW)
    return bytes(chunk.states)


@functools.cache
def decide_claim(states: bytes, positions: tuple[int, ...]) -> bytes:
    chunk = make_chunk(states)
    chunk.move_all(positions, State.CLAIMED)
    return bytes(chunk.states)


@functools.cache
def decide_rescue(states: bytes, notes: tuple[str, ...] | None) -> bytes:
    """The states after a rescue by these notes. None: they are not believed."""
    chunk = make_chunk(states)
    evidence = None
    if notes is not None:
        evidence = {(chunk.id, position): [NOTES[note]] for position, note in enumerate(notes) if note}
    settle.rescue(chunk, evidence, RULES, NOW)
    return bytes(chunk.states)


# The steps.


def put(values: tuple[Any, ...], place: int, value: Any) -> Any:
    return (*values[:place], value, *values[place + 1 :])


def change(world: World, place: int, **fields: Any) -> World:
    return world._replace(owners=put(world.owners, place, world.owners[place]._replace(**fields)))


def move(world: World, place: int, position: int, message: Message, note: str | None = None) -> World:
    """One message comes further; note: what its slot says from now on."""
    owner = world.owners[place]
    notes = owner.notes if note is None else put(owner.notes, position, note)
    return change(world, place, messages=put(owner.messages, position, message), notes=notes)


def commit(world: World, row: Row, *, durable: bool) -> World:
    return world._replace(row=row, disk=row if durable else world.disk)


def list_progress(world: World, setting: Setting) -> Iterator[tuple[str, World]]:
    """What processes do, and time."""
    row, alive = world.row, [place for place, owner in enumerate(world.owners) if owner.worker]
    if row != world.disk:
        yield "the disk catches up", world._replace(disk=row)
    if row.lease is not None and not row.silent and not setting.embedded:
        yield "the lease runs out", world._replace(row=row._replace(silent=True))
    if len(alive) < setting.workers and len(world.owners) < setting.owners:
        free = set(range(setting.hosts)) - ({world.owners[one].host for one in alive} if setting.hosts > 1 else set())
        for host in free:
            yield "start", world._replace(owners=(*world.owners, Owner(host)))
    for place, owner in enumerate(world.owners):
        if owner.worker:
            yield from list_worker_steps(world, place, owner, setting)
        elif owner.sender:
            yield "an orphaned sender ends", end_sender(world, place)
        if owner.sender:
            yield from list_sender_steps(world, place, owner, setting)


def list_worker_steps(world: World, place: int, owner: Owner, setting: Setting) -> Iterator[tuple[str, World]]:
    row = world.row
    if row.lease is None and any(state not in FINAL for state in row.states):
        leased = commit(world, row._replace(lease=place, silent=False), durable=False)
        yield "lease", change(leased, place, held=row.states)
        yield from list_arrivals(world, place, owner, setting)
    if row.lease is not None and (row.silent or (setting.embedded and row.lease != place)):
        yield "rescue", rescue(world, place, setting)
    if owner.held is not None:
        yield from list_commits(world, place, owner, setting)
    if not owner.sender:
        yield "the dead sender's notes are read", report_loss(world, place)
    for position, (stage, receipt) in enumerate(owner.messages):
        if stage == CLAIMED and owner.sender:
            yield "take a slot and pass on", move(world, place, position, (QUEUED, ""), "claimed")
        elif stage == CLAIMED:
            yield "no sender", move(world, place, position, (ANSWERED, "no sender"))
        elif stage == SETTLED or (stage == ANSWERED and not waits_for_answer(owner, position)):
            yield "free the slot", move(world, place, position, NOTHING, "")
        elif stage == ANSWERED and setting.fault == "slots freed early" and owner.notes[position]:
            yield "free the slot", move(world, place, position, (ANSWERED, receipt), "")


def list_arrivals(world: World, place: int, owner: Owner, setting: Setting) -> Iterator[tuple[str, World]]:
    """Lease the chunk and claim whoever waits in one transaction, as of a request that is being inserted: one that is
    not in the ledger yet differs from one that waits there in that nobody was promised it."""
    waiting = tuple(position for position in TWO if world.row.states[position] == State.WAITING)
    if not waiting or any(message != NOTHING for message in owner.messages):
        return
    states = decide_claim(world.row.states, waiting)
    durable = is_durable(claims=True, settles=False, embedded=setting.embedded)
    if setting.fault == "arrival not durable":
        durable = False
    after = commit(world, Row(states, place), durable=durable)
    messages = tuple((CLAIMED, "") if position in waiting else NOTHING for position in TWO)
    yield "arrive", change(after, place, held=states, messages=messages)


def waits_for_answer(owner: Owner, position: int) -> bool:
    return owner.held is not None and owner.held[position] == State.CLAIMED


def list_commits(world: World, place: int, owner: Owner, setting: Setting) -> Iterator[tuple[str, World]]:
    """Settle what is answered and claim any of those who wait, in one transaction."""
    held = owner.held
    assert held is not None
    answered = {
        position: receipt
        for position, (stage, receipt) in enumerate(owner.messages)
        if stage == ANSWERED and waits_for_answer(owner, position)
    }
    if any(stage in (SETTLED, CLAIMED) for stage, _ in owner.messages):
        return  # first of all it does what follows from the commit before
    waiting = [position for position in TWO if held[position] == State.WAITING]
    for claimed in itertools.chain.from_iterable(itertools.combinations(waiting, size) for size in range(3)):
        if not claimed and not answered:
            continue
        if world.row.lease != place:
            yield "the lease is lost", change(world, place, held=None)
            continue
        if any(owner.messages[position] != NOTHING for position in claimed):
            raise Broken("somebody is claimed whose message is still under way")
        states = decide_claim(decide_answers(held, tuple(answered.items())), claimed)
        durable = is_durable(claims=bool(claimed), settles=bool(answered), embedded=setting.embedded)
        if setting.fault in ("claim not durable", "settlement not durable"):
            durable = bool(claimed) and setting.fault == "settlement not durable"
        after = commit(world, Row(states, place), durable=durable)
        messages = tuple(
            (SETTLED, "") if position in answered else (CLAIMED, "") if position in claimed else message
            for position, message in enumerate(owner.messages)
        )
        yield f"commit {claimed}", change(after, place, held=states, messages=messages)


def list_sender_steps(world: World, place: int, owner: Owner, setting: Setting) -> Iterator[tuple[str, World]]:
    late = setting.fault == "note after the bytes"
    for position, (stage, receipt) in enumerate(owner.messages):
        if stage == QUEUED:
            if late:
                yield "hand over", hand_over(move(world, place, position, (NOTED, "")), position)
            else:
                yield "note", move(world, place, position, (NOTED, ""), "handed over")
        elif stage == NOTED:
            if late:
                yield "note", move(world, place, position, (ON_THE_WIRE, ""), "handed over")
            else:
                yield "hand over", hand_over(move(world, place, position, (ON_THE_WIRE, "")), position)
        elif stage == ON_THE_WIRE:
            for answer in setting.answers:
                copies = world.copies[position] - (answer == "turned away")
                heard = world._replace(copies=put(world.copies, position, copies))
                yield answer, move(heard, place, position, (READ, answer))
        elif stage == READ:
            yield "note the answer", move(world, place, position, (ANSWER_NOTED, receipt), receipt)
        elif stage == ANSWER_NOTED and owner.worker:
            yield "report", move(world, place, position, (ANSWERED, receipt))


def hand_over(world: World, position: int) -> World:
    copies = world.copies[position] + 1
    if copies > 1:
        raise Broken("handed over twice")
    return world._replace(copies=put(world.copies, position, copies))


def end_sender(world: World, place: int) -> World:
    """A sender dies: its memory goes, and the answers on their way to it."""
    owner = world.owners[place]
    left = (SENDER_LOST, "") if owner.worker else NOTHING
    messages = tuple(left if stage in IN_SENDER else (stage, receipt) for stage, receipt in owner.messages)
    return change(world, place, sender=False, messages=messages)


def end_worker(world: World, place: int) -> World:
    """A worker dies; its sender lives until the kernel gets to it."""
    owner = world.owners[place]
    messages = tuple((stage, receipt) if stage in IN_SENDER else NOTHING for stage, receipt in owner.messages)
    return change(world, place, worker=False, held=None, messages=messages)


def report_loss(world: World, place: int) -> World:
    """The worker reads its dead sender's notes and starts another."""
    owner = world.owners[place]
    messages = tuple(
        (ANSWERED, f"lost, {note}") if stage == SENDER_LOST else (stage, receipt)
        for (stage, receipt), note in zip(owner.messages, owner.notes, strict=True)
    )
    return change(world, place, sender=True, messages=messages)


def rescue(world: World, place: int, setting: Setting) -> World:
    """A worker takes over from another that fell silent, perhaps from itself."""
    row = world.row
    assert row.lease is not None
    holder = world.owners[row.lease]
    locked = holder.worker or holder.sender
    if setting.fault == "rescue before the locks":
        locked = holder.worker
    believed = holder.host == world.owners[place].host and holder.trusted and not locked
    notes = holder.notes if believed else None
    if setting.fault == "no note is unknown" and notes is not None:
        notes = (notes[0] or "handed over", notes[1] or "handed over")
    states = decide_rescue(row.states, notes)
    if believed and setting.precise:
        for position in TWO:
            unknown = row.states[position] == State.CLAIMED and states[position] == State.UNKNOWN
            if unknown and holder.notes[position] in ("", "claimed"):
                raise Broken("unknown, and never handed over")
    return commit(world, Row(states), durable=True)


def list_faults(world: World, setting: Setting) -> Iterator[tuple[str, World]]:
    """What may happen to processes and machines."""
    for place, owner in enumerate(world.owners):
        if owner.worker and owner.sender:
            yield "kill the sender", end_sender(world, place)
        if owner.worker:
            yield "kill the server", end_worker(world, place)
            yield "kill both", end_sender(end_worker(world, place), place)
    for host in range(setting.hosts):
        cut = world if setting.apart else world._replace(row=world.disk)
        for place, owner in enumerate(world.owners):
            if owner.host == host:
                cut = change(end_sender(end_worker(cut, place), place), place, trusted=False)
        if cut != world:
            yield "power cut", cut
    if setting.apart and world.row != world.disk:
        yield "power cut of the ledger", world._replace(row=world.disk)
