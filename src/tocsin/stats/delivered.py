"""The messages of one person: what became of each, what the vendor said, and what came back."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, LargeBinary, bindparam, func, select, text

from tocsin import queue
from tocsin.account import Account
from tocsin.channels import PLATFORM_CODES
from tocsin.feedback.interactions import EVENTS
from tocsin.outcome import OUTCOME_OF, SUPPRESSED, State, reason_of
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

MESSAGES = 20  # of one person at once: a recurring campaign has many runs
UNSETTLED = {State.WAITING: "waiting", State.CLAIMED: "with the vendor"}
_KIND_OF_EVENT = {event: kind for kind, event in EVENTS.items()}


class DeliveredMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One recipient of a run. state: the outcome, or «waiting» or «with the vendor». reason: why a suppressed one got
    nothing. code: what the vendor said to the last attempt. tries: attempts that failed. at: when it became final.
    not_before: when one who waits is tried again. came_back: when it was first viewed and clicked."""

    chunk: int
    position: int
    platform: str
    variant: str = ""
    state: str
    reason: str = ""
    code: str = ""
    tries: int = 0
    at: int = 0
    not_before: int = 0
    came_back: dict[str, int] = {}


def find_unsettled(connection: Connection, user: int, *which: ColumnElement[bool]) -> list[DeliveredMessage]:
    """Return a user's messages in those of the open chunks, whose outcomes facts may not have yet. The database looks
    for the user: a chunk's bytes come only when they are in it, or when four bytes of two others look like them."""
    chunk, needle = schema.chunk, struct.pack("<I", user)
    asked = select(chunk.c.id).where(*which, schema.chunk_is_open)
    if connection.dialect.name == "postgresql":
        within = text("position(:needle IN users) > 0").bindparams(bindparam("needle", needle, LargeBinary))
        asked = asked.where(within)
    else:
        asked = asked.where(func.instr(chunk.c.users, needle) > 0)
    found: list[DeliveredMessage] = []
    for chunk_id in connection.scalars(asked.order_by(chunk.c.id.desc()).limit(MESSAGES)).all():
        one = queue.load(connection, chunk_id)
        if one is not None and user in one.users:
            found.append(_describe(one, one.users.index(user)))
    return found


def _describe(chunk: queue.Chunk, position: int) -> DeliveredMessage:
    state, note = State(chunk.states[position]), chunk.notes.get(position) or queue.Note()
    return DeliveredMessage(
        chunk=chunk.id,
        position=position,
        platform=PLATFORM_CODES[chunk.platforms[position]],
        variant=chunk.variant,
        state=UNSETTLED[state] if state in UNSETTLED else OUTCOME_OF[state].value,
        reason=reason_of(state) if state in SUPPRESSED else "",
        code=note.code,
        tries=note.tries,
        at=0 if state in UNSETTLED else int(note.at or chunk.started_at),
        not_before=int(note.not_before) if state is State.WAITING else 0,
    )


async def find_messages(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    user: int,
    unsettled: Sequence[DeliveredMessage],
    which: str,
    values: Mapping[str, Any],
) -> list[DeliveredMessage]:
    """Return a user's messages, the newest first, with what came back of them. which: SQL, true for an outcome that is
    asked for."""
    rows = await facts.query(
        "SELECT chunk, position, platform, variant, outcome, code, toUnixTimestamp(at) FROM outcome FINAL "  # noqa: S608
        f"WHERE account = {{account:String}} AND {which} AND user = {{user:UInt32}} "
        "ORDER BY chunk DESC, position LIMIT {most:UInt16}",
        {**values, "account": account.id, "user": user, "most": MESSAGES},
    )
    tries = await ledger.read(
        lambda one: {key: _count_tries(one, *key) for key in ((int(r[0]), int(r[1])) for r in rows)}
    )
    found = {(one.chunk, one.position): one for one in unsettled}
    for chunk, position, platform, variant, outcome, code, at in rows:
        held_back = outcome == "suppressed"
        found[int(chunk), int(position)] = DeliveredMessage(
            chunk=int(chunk),
            position=int(position),
            platform=str(platform),
            variant=str(variant),
            state=str(outcome),
            reason=str(code) if held_back else "",
            code="" if held_back else str(code),
            tries=tries[int(chunk), int(position)],
            at=int(at),
        )
    back = await _find_reports(facts, account, user, list(found))
    newest = sorted(found.values(), key=lambda one: (-one.chunk, one.position))
    return [msgspec.structs.replace(one, came_back=back.get(one.chunk * 65536 + one.position, {})) for one in newest]


def _count_tries(connection: Connection, chunk_id: int, position: int) -> int:
    chunk = queue.load(connection, chunk_id)
    note = None if chunk is None else chunk.notes.get(position)
    return 0 if note is None else note.tries


async def _find_reports(
    facts: Facts, account: Account, user: int, messages: Sequence[tuple[int, int]]
) -> dict[int, dict[str, int]]:
    """Return when messages were first viewed and clicked, by the id of their events."""
    rows = await facts.query(
        "SELECT id, name, toUnixTimestamp(min(at)) FROM event WHERE account = {account:String} "
        "AND name IN {names:Array(String)} AND user = {user:UInt32} AND id IN {ids:Array(UInt64)} GROUP BY id, name",
        {
            "account": account.id,
            "names": list(EVENTS.values()),
            "user": user,
            "ids": [chunk * 65536 + position for chunk, position in messages],
        },
    )
    found: dict[int, dict[str, int]] = {}
    for event, name, at in rows:
        found.setdefault(int(event), {})[_KIND_OF_EVENT[name]] = int(at)
    return found


def tell(one: DeliveredMessage, meant: str = "in the audience") -> str:
    """Return what became of a message, in a sentence."""
    match one.state:
        case "accepted":
            return f"{meant}: the vendor took the message for {one.platform}"
        case "suppressed":
            return f"{meant}, held back: {one.reason}"
        case "waiting" | "with the vendor":
            return f"{meant}, {one.state}" + (f", the vendor said {one.code}" if one.code else "")
        case _:
            return f"{meant}, {one.state}: {one.code}" if one.code else f"{meant}, {one.state}"
