"""The cleaner: forgets who a message went to, and what people did, once their account no longer keeps it. What was
counted of messages stays.

A request's chunk is deleted. A run's chunk is emptied: its row still says which campaign and variant a view belongs to.
The kept sums have the numbers of both, and facts has the outcome of each recipient.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import TypeVar

import structlog
from sqlalchemy import ColumnElement, Connection, ScalarSelect, TextClause, delete, func, or_, select, text, update

from tocsin.account import Account, list_accounts
from tocsin.authenticator.audit import note
from tocsin.policy import EVERY_OTHER, load_policy
from tocsin.store import schema
from tocsin.store.erasure import erase_events
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, Work
from tocsin.store.patience import rest
from tocsin.store.rows import among

log = structlog.get_logger()
T = TypeVar("T")

SWEEP_SECONDS = 600.0
REQUESTS_A_COMMIT = 1000
RUNS_A_SWEEP = 1000  # of an account
CHUNKS_A_COMMIT = 200  # of a run: each has up to 1,000 recipients, on pages of their own
REST_FACTOR = 4  # rests so many times as long as a commit took: the writer is there for others
DAY = 86_400.0
EMPTY = {"request": None, "users": b"", "platforms": b"", "states": b"", "notes": "{}"}

table, run = schema.chunk, schema.run


async def clean_regularly(ledger: Ledger, facts: Facts, clock: Callable[[], float], stop: asyncio.Event) -> None:
    """Clean every SWEEP_SECONDS until `stop` is set. A failure is logged, and the next sweep does what was left."""
    while not stop.is_set():
        try:
            if cleaned := await clean(ledger, clock(), stop):
                log.info("cleaned", chunks=cleaned)
            await clean_events(ledger, facts, clock(), stop)
        except Exception:
            log.exception("cleaner interrupted")
        await rest(stop, SWEEP_SECONDS)


async def clean(
    ledger: Ledger,
    now: float,
    stop: asyncio.Event,
    requests_a_commit: int = REQUESTS_A_COMMIT,
    chunks_a_commit: int = CHUNKS_A_COMMIT,
) -> int:
    """Clean every account by its policy, in commits of bounded size. Return how many chunks were deleted or emptied.
    When `stop` is set meanwhile, what is left is left to the next sweep."""
    total = 0
    for account in await asyncio.to_thread(list_accounts, ledger):
        policy = await ledger.read(functools.partial(load_policy, account_id=account.id))
        before = now - policy.retention.days * DAY
        total += await _clean_requests(ledger, account.id, before, stop, requests_a_commit)
        for run_id in await ledger.read(functools.partial(find_ended_runs, account_id=account.id, before=before)):
            total += await _clean_run(ledger, account.id, run_id, now, stop, chunks_a_commit)
    return total


async def clean_events(ledger: Ledger, facts: Facts, now: float, stop: asyncio.Event) -> None:
    """Erase the events that accounts keep no longer, with a line in the audit log of each. An account whose events
    cannot be erased now is logged, and keeps no other waiting."""
    for account in await asyncio.to_thread(list_accounts, ledger):
        policy = await ledger.read(functools.partial(load_policy, account_id=account.id))
        if not policy.retention.events or stop.is_set():
            continue
        try:
            await _clean_events_of(ledger, facts, account, policy.retention.events, now, stop)
        except Exception:
            log.exception("events not erased; tried again", account=account.id, seconds=SWEEP_SECONDS)


async def _clean_events_of(
    ledger: Ledger, facts: Facts, account: Account, days: Mapping[str, int], now: float, stop: asyncio.Event
) -> None:
    started = time.monotonic()
    today = datetime.fromtimestamp(now, account.zone).date()
    if before := await find_old_events(facts, account.id, days, today):
        erased = await asyncio.to_thread(erase_events, facts, account.id, before)
        names = ", ".join(f"{name} before {day}" for name, day in before.items())
        detail = f"{erased} events: {names}"
        await ledger.write(
            functools.partial(
                note, account_id=account.id, who="retention", what="events erased", detail=detail, now=now
            )
        )
        await rest(stop, REST_FACTOR * (time.monotonic() - started))


async def find_old_events(facts: Facts, account_id: str, days: Mapping[str, int], today: date) -> dict[str, date]:
    """Return the names of which there are events that are kept no longer, with the first day that is kept."""
    rows = await facts.query(
        "SELECT name, min(day) FROM activity WHERE account = {account:String} GROUP BY name ORDER BY name",
        {"account": account_id},
    )
    kept = {str(name): days.get(str(name), days.get(EVERY_OTHER)) for name, _ in rows}
    first = {name: today - timedelta(days=number) for name, number in kept.items() if number is not None}
    return {str(name): first[str(name)] for name, oldest in rows if str(name) in first and oldest < first[str(name)]}


async def _clean_requests(ledger: Ledger, account_id: str, before: float, stop: asyncio.Event, limit: int) -> int:
    is_due = functools.partial(has_ended_requests, account_id=account_id, before=before)
    piece = functools.partial(clean_requests, account_id=account_id, before=before, limit=limit)
    total = 0
    while not stop.is_set() and await ledger.read(is_due):
        if not (cleaned := await _write(ledger, piece, stop)):
            break  # another process is at them
        total += cleaned
    return total


async def _clean_run(ledger: Ledger, account_id: str, run_id: int, now: float, stop: asyncio.Event, limit: int) -> int:
    last, total = 0, 0
    while not stop.is_set():
        piece = functools.partial(empty_chunks, account_id=account_id, run_id=run_id, after=last, limit=limit, now=now)
        emptied = await _write(ledger, piece, stop)
        total += len(emptied)
        if len(emptied) < limit:
            break
        last = emptied[-1]
    return total


async def _write(ledger: Ledger, piece: Work[T], stop: asyncio.Event) -> T:
    """Commit one piece, and rest from it. Other writes that wait go between two pieces."""
    started = time.monotonic()
    done = await ledger.write(piece)
    await rest(stop, REST_FACTOR * (time.monotonic() - started))
    return done


def has_ended_requests(connection: Connection, account_id: str, before: float) -> bool:
    """Return whether `clean_requests` has something to do."""
    return connection.scalar(select(table.c.id).where(*_ended_requests(account_id, before)).limit(1)) is not None


def clean_requests(connection: Connection, account_id: str, before: float, limit: int) -> int:
    """Delete the chunks of requests that ended before a time, the oldest first. Return how many, at most `limit`.

    The newest chunk of the ledger is emptied instead: SQLite would give its id to the next one, and a view of either
    message would count for the other.
    """
    ended, newest = _ended_requests(account_id, before), connection.scalar(select(_newest()))
    # Another process may clean as well: neither waits for the other.
    oldest = select(table.c.id).where(*ended).order_by(table.c.not_before, table.c.id).limit(limit)
    found = list(connection.scalars(oldest.with_for_update(skip_locked=True)))
    if newest in found:
        connection.execute(update(table).where(table.c.id == newest).values(EMPTY))
    connection.execute(delete(table).where(among(connection, table.c.id, [one for one in found if one != newest])))
    _forget_interactions(connection, account_id, found)
    return len(found)


def _ended_requests(account_id: str, before: float) -> tuple[ColumnElement[bool] | TextClause, ...]:
    mine = (table.c.account_id == account_id, text(schema.ENDED_REQUEST), table.c.not_before < before)
    return *mine, or_(table.c.id != _newest(), table.c.request.is_not(None))  # the newest one only once


def _forget_interactions(connection: Connection, account_id: str, chunk_ids: list[int]) -> None:
    """Delete when views and clicks of these chunks were first reported: one that is reported again counts once more."""
    first = schema.interaction
    mine = first.c.account_id == account_id
    connection.execute(delete(first).where(mine, among(connection, first.c.chunk_id, chunk_ids)))


def _newest() -> ScalarSelect[int]:
    return select(func.max(table.c.id)).scalar_subquery()


def find_ended_runs(connection: Connection, account_id: str, before: float) -> list[int]:
    """Return runs that ended before a time and are not cleaned yet, the oldest first, at most RUNS_A_SWEEP."""
    mine = (run.c.account_id == account_id, text(schema.UNCLEANED_RUN), run.c.ended_at < before)
    return list(connection.scalars(select(run.c.id).where(*mine).order_by(run.c.ended_at).limit(RUNS_A_SWEEP)))


def empty_chunks(connection: Connection, account_id: str, run_id: int, after: int, limit: int, now: float) -> list[int]:
    """Empty the next chunks of an ended run, those behind the id `after`. Return their ids; when they are fewer than
    `limit`, the run is cleaned."""
    mine = (table.c.run_id == run_id, table.c.open == 0, table.c.id > after)
    found = list(connection.scalars(select(table.c.id).where(*mine).order_by(table.c.id).limit(limit)))
    if found:
        connection.execute(update(table).where(among(connection, table.c.id, found)).values(EMPTY))
        _forget_interactions(connection, account_id, found)
    if len(found) < limit:
        connection.execute(update(run).where(run.c.id == run_id).values(cleaned_at=now))
    return found
