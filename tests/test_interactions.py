"""Views and clicks: one message viewed is one event, however often and whenever it is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from support.bounces import IDS, SECRET
from support.members import count_members
from support.stage import NOW, Stage, Vendor, report_view

from tocsin.audience.query import read_where
from tocsin.delivery.push_id import sign_push_id
from tocsin.feedback.interactions import INTERACTIONS
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

DAY = 86_400.0
SENT_ON, NEXT_DAY = 20270115, 20270116  # the days of NOW and of the day after, in UTC


async def sent_pushes(stage: Stage, count: int) -> list[str]:
    """The ids of so many pushes, all sent to one person."""
    await stage.people(1)
    for _ in range(count):
        await stage.campaign()
        await stage.deliver()
    table = schema.chunk
    query = select(table.c.id).where(table.c.account_id == stage.account.id).order_by(table.c.id)
    chunks = await stage.ledger.read(lambda connection: connection.scalars(query).all())
    return [sign_push_id(SECRET, chunk, 0) for chunk in chunks]


@pytest.mark.parametrize("kind", INTERACTIONS)
async def test_reported_again_and_again_is_one(
    store: Ledger, facts: Facts, open_again: Callable[[], Ledger], kind: str
) -> None:
    """Numbers and audiences agree: by count, by day, as the first and the latest. It happened when it was first heard
    of; the report that another process has at the same moment is no other view."""
    stage = Stage(store, facts, {"android": Vendor()})
    once, twice = await sent_pushes(stage, 2)
    other = open_again()

    async def report(push_id: str, at: float, ledger: Ledger = store) -> None:
        await report_view(ledger, facts, IDS, push_id, at, kind)

    async def asked(**more: Any) -> int:
        where = read_where({"event_name": INTERACTIONS[kind], "from": 20200101, "to": 20991231} | more)
        return await count_members(facts, stage.account, where, NOW)

    await asyncio.gather(*(report(once, NOW + second, ledger) for second in range(4) for ledger in (store, other)))
    for at in (NOW + 3600, NOW + DAY, NOW + 40 * DAY):
        await report(once, at)
    at_least_twice = {"operator": "greater_than_equals", "value": 2}
    assert [await asked(), await asked(value=1, operator="equals"), await asked(**at_least_twice)] == [1, 1, 0]
    assert await asked(**{"from": NEXT_DAY}) == 0
    assert await asked(**{"to": SENT_ON}, session_properties=[{"name": "first_time", "value": True}]) == 1

    await report(twice, NOW + DAY)
    assert [await asked(**at_least_twice), await asked(**{"from": NEXT_DAY}, value=1, operator="equals")] == [1, 1]
    assert await stage.count("event", f"name = '{INTERACTIONS[kind]}'") == 2
