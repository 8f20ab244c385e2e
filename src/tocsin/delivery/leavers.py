"""The end of people who were deleted: what the facts store and closed chunks have under their numbers is erased.

It is done twice. At once, so that they count nowhere any more; and again when nothing that was under way then (an
upload, a snapshot, a chunk with them in it) can have written their number since. A crash leaves the rows of `leaver`,
and the next process does it again.
"""

from __future__ import annotations

import array
import asyncio
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
from sqlalchemy import Connection, delete, func, select, text, update

from tocsin.errors import Problem
from tocsin.queue import pack_users, unpack_users
from tocsin.store import schema
from tocsin.store.erasure import Person, erase_people
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.patience import rest
from tocsin.store.rows import among

log = structlog.get_logger()

LOOK_SECONDS = 2.0
TROUBLE_SECONDS = 60.0  # before what failed is tried again
PEOPLE = 1000  # erased at once, of every account that waits an equal part
REST_FACTOR = 4  # rests so many times as long as it took: an erasure writes large parts of the facts store anew
SETTLE_SECONDS = 900.0  # between the two times; what asks for longer than this ends at the deadline of a question
CHUNKS_A_COMMIT = 200

table, leaver = schema.chunk, schema.leaver


async def erase_regularly(ledger: Ledger, facts: Facts, clock: Callable[[], float], stop: asyncio.Event) -> None:
    """Erase whoever is to be erased until `stop` is set. A failure is logged, and tried again later."""
    while not stop.is_set():
        started, pause = time.monotonic(), LOOK_SECONDS
        try:
            if erased := await erase_leavers(ledger, facts, clock()):
                log.info("erased", people=erased)
        except Exception as error:
            log.error("people who were deleted are not erased yet", reason=f"{type(error).__name__}: {error}")
            pause = TROUBLE_SECONDS
        await rest(stop, max(pause, REST_FACTOR * (time.monotonic() - started)))


async def erase_leavers(ledger: Ledger, facts: Facts, now: float, people: int = PEOPLE) -> int:
    """Erase those whose time has come, at most `people` for the first and as many for the second time. Return how
    many."""
    before = now - SETTLE_SECONDS
    first, due = await ledger.read(lambda one: (find_leavers(one, people), find_leavers(one, people, before)))
    again = await ledger.read(functools.partial(drop_busy, people=due)) if due else []
    late = [one for one in due if one not in set(again)]
    everybody, still_open = await _forget_recipients(ledger, facts, [*first, *again])
    if everybody:
        await asyncio.to_thread(erase_people, facts, everybody, still_open)
        erased = set(everybody)
        first, again = ([one for one in part if one in erased] for part in (first, again))
        await ledger.write(functools.partial(note_erased, first=first, again=again, now=now))
        await asyncio.to_thread(ledger.empty_log)
    if late:
        await ledger.write(functools.partial(note_erased, first=late, again=(), now=now))  # their turn comes again
    return len(everybody)


def find_leavers(connection: Connection, limit: int, before: float | None = None) -> list[Person]:
    """Return leavers, of each account the oldest, in turns. before: those who were erased once, before this time; else
    those who never were."""
    due = leaver.c.erased_at.is_(None) if before is None else leaver.c.erased_at < before
    place = func.row_number().over(partition_by=leaver.c.account_id, order_by=(leaver.c.asked_at, leaver.c.user_id))
    turns = select(leaver.c.account_id, leaver.c.user_id, place.label("place")).where(due).subquery()
    query = select(turns.c.account_id, turns.c.user_id).order_by(turns.c.place).limit(limit)
    return [(account_id, user) for account_id, user in connection.execute(query)]


def note_erased(connection: Connection, first: Collection[Person], again: Collection[Person], now: float) -> None:
    """Write down who was erased once, and forget the numbers of those who were erased again."""
    for people, statement in ((first, update(leaver).values(erased_at=now)), (again, delete(leaver))):
        for account_id, users in _by_account(people).items():
            mine = (leaver.c.account_id == account_id, among(connection, leaver.c.user_id, users))
            connection.execute(statement.where(*mine))


def drop_busy(connection: Connection, people: Collection[Person]) -> list[Person]:
    """Return those of the people who are in no open chunk: when it ends, their outcome is recorded once more."""
    kept: list[Person] = []
    for account_id, users in _by_account(people).items():
        mine = select(table.c.users).where(table.c.account_id == account_id)
        free = mine.where(table.c.priority.in_((0, 1)), text(schema.FREE_CHUNK))
        held = mine.where(table.c.lease_owner.is_not(None))
        left = set(users)
        for query in (free, held):
            for packed in connection.execute(query, execution_options={"yield_per": CHUNKS_A_COMMIT}).scalars():
                left -= left.intersection(unpack_users(bytes(packed)))
        kept += [(account_id, user) for user in users if user in left]
    return kept


async def _forget_recipients(
    ledger: Ledger, facts: Facts, people: Collection[Person]
) -> tuple[list[Person], list[int]]:
    """Leave these people out of closed chunks. Which those are is in the facts store: a chunk is recorded there before
    it is closed. Return the people but for those of accounts that cannot be asked about now, for whoever asks too much
    waits alone; and the chunks that are open yet: the people are to be found there once more."""
    done: list[Person] = []
    still_open: list[int] = []
    for account_id, users in _by_account(people).items():
        try:
            rows = await facts.query(
                "SELECT DISTINCT chunk FROM outcome WHERE account = {account:String} "
                "AND user IN {users:Array(UInt32)} ORDER BY chunk",
                {"account": account_id, "users": users},
            )
        except Problem as problem:
            log.error("people who were deleted are not erased yet", account=account_id, reason=problem.error)
            continue
        chunks = [int(chunk) for (chunk,) in rows]
        for start in range(0, len(chunks), CHUNKS_A_COMMIT):
            part = chunks[start : start + CHUNKS_A_COMMIT]
            piece = functools.partial(leave_out, account_id=account_id, chunk_ids=part, users=set(users))
            still_open += await ledger.write(piece)
        done += [(account_id, user) for user in users]
    return done, still_open


def leave_out(connection: Connection, account_id: str, chunk_ids: Sequence[int], users: Collection[int]) -> list[int]:
    """Make recipients of closed chunks nobody's. A request to nobody any more loses its body, which may be about them.
    States stay, and so do all numbers. Return the chunks that are open yet."""
    # Asked first: one that closes meanwhile counts as open, and its turn comes again.
    opened = select(table.c.id).where(among(connection, table.c.id, chunk_ids), table.c.open == 1)
    still_open = list(connection.scalars(opened))
    asked = (table.c.account_id == account_id, table.c.open == 0, among(connection, table.c.id, chunk_ids))
    query = select(table.c.id, table.c.users, table.c.request).where(*asked).order_by(table.c.id).with_for_update()
    for chunk_id, packed, request in connection.execute(query).all():
        before = unpack_users(bytes(packed))
        after = array.array("I", [0 if user in users else user for user in before])
        if after == before:
            continue
        values = {"users": pack_users(after), "request": request if any(after) else None}
        connection.execute(update(table).where(table.c.id == chunk_id).values(values))
    return still_open


def _by_account(people: Collection[Person]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for account_id, user in people:
        found[account_id].append(user)
    return found
