"""How many requests to `/1/send` an account may make in a second, and how many people it may name in them. Several
processes on one ledger keep one count, in the transactions that insert the requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, select, update

from tocsin.campaign.addressees import TO_LIMIT
from tocsin.errors import Problem
from tocsin.store import schema
from tocsin.store.clock import ledger_now
from tocsin.store.rows import insert_new

# A caller who keeps to one request a second arrives a few milliseconds early now and then.
TOLERANCE = 0.05
REQUESTS, PEOPLE = "send requests", "send people"  # rows of `concurrency_slot`

table = schema.concurrency_slot


class SendRate(msgspec.Struct, frozen=True):
    """Of one account in a second. None: any number."""

    requests: float | None = None
    people: float | None = None

    @property
    def is_limited(self) -> bool:
        return self.requests is not None or self.people is not None


class Due(NamedTuple):
    """When the next request, and the next person, is due."""

    request: float = 0.0
    person: float = 0.0


def advance(free_at: float, now: float, per_second: float, cost: int = 1, dearest: int = 1, what: str = "") -> float:
    """Return when the request after this one is due. Raises Problem 429 when this one came too early: as much as a
    second allows may come together, then one after the other. cost: what the request counts for; it is taken whole once
    there is room for 1, and what follows waits for all of it. dearest: the highest cost there is."""
    step, burst = 1 / per_second, max(1.0, per_second)
    # Further ahead than it ever gets: the clock was set back.
    due = now if free_at > now + (burst + dearest) * step else max(free_at, now)
    early = due - now - (burst - 1) * step
    if early > TOLERANCE * step:
        raise Problem(
            f"Too many {what or 'requests'}: this endpoint takes {per_second:g} in a second",
            code=429,
            status=429,
            retry_after=max(1, math.ceil(early)),
        )
    return due + cost * step


def pass_request(due: Due, rate: SendRate, people: int, now: float) -> Due:
    """Return what is due after a request that names so many people. Raise Problem 429 when it came too early."""
    request, person = due
    if rate.requests is not None:
        request = advance(request, now, rate.requests)
    if rate.people is not None:
        person = advance(person, now, rate.people, people, TO_LIMIT, "people")
    return Due(request, person)


def pass_together(
    connection: Connection, rates: Mapping[str, SendRate], people: Sequence[tuple[str, int]]
) -> list[Problem | None]:
    """Count requests, (account, people) each, for all processes at once: they take turns at the rows of an account,
    until their transactions end. Return the Problem of each that came too early. rates: of the accounts that have one;
    others pass."""
    now = float(connection.scalar(select(ledger_now(connection, 0.0))) or 0.0) if rates else 0.0
    due = {account_id: _lock(connection, account_id) for account_id in sorted(rates)}
    results: list[Problem | None] = []
    for account_id, count in people:
        try:
            if account_id in due:
                due[account_id] = pass_request(due[account_id], rates[account_id], count, now)
            results.append(None)
        except Problem as problem:
            results.append(problem)
    for account_id, after in due.items():
        for name, until in ((REQUESTS, after.request), (PEOPLE, after.person)):
            connection.execute(update(table).where(*_row(account_id, name)).values(until=until))
    return results


def _lock(connection: Connection, account_id: str) -> Due:
    """Return what is due for an account, and keep others from reading it until the transaction ends."""
    query = select(table.c.name, table.c.until).where(
        table.c.account_id == account_id, table.c.name.in_((REQUESTS, PEOPLE)), table.c.id == ""
    )
    query = query.order_by(table.c.name).with_for_update()
    found = {name: float(until) for name, until in connection.execute(query)}
    if len(found) < len(Due._fields):
        for name in sorted((REQUESTS, PEOPLE)):
            insert_new(connection, table, {"account_id": account_id, "name": name, "id": "", "until": 0.0})
        found = {name: float(until) for name, until in connection.execute(query)}
    return Due(found[REQUESTS], found[PEOPLE])


def _row(account_id: str, name: str) -> tuple[Any, ...]:
    return (table.c.account_id == account_id, table.c.name == name, table.c.id == "")
