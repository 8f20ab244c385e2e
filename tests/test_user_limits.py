"""How many users a campaign may reach: in each run, and in all of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from support.stage import BODY, NOW, SETTINGS, Stage, Vendor

from tocsin.campaign.runs import insert_campaign
from tocsin.campaign.spec import read_spec
from tocsin.delivery.forecast import find_coming, forecast
from tocsin.delivery.snapshot import snapshot_due_runs
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

DAY = 86_400.0
PEOPLE = 130
DAILY = {"type": "recurring", "start_time": "20270115 08:00", "repeat_type": "day", "end_by_occurrences": 4}
TIMES = {"type": "later", "delivery_date_time": ["20270115 08:00", "20270116 08:00", "20270117 08:00"]}


@pytest.mark.parametrize(
    ("when", "limits", "reached"),
    [
        (DAILY, {"users_limit_per_run": 100}, [100, 100, 100, 100]),
        (DAILY, {"users_limit_overall": 200}, [130, 70]),
        (DAILY, {"users_limit_overall": 260}, [130, 130]),  # used up exactly: no run of nobody follows
        (DAILY, {"users_limit_overall": 250, "users_limit_per_run": 100}, [100, 100, 50]),
        (DAILY, {}, [130, 130, 130, 130]),
        (TIMES, {"users_limit_overall": 200}, [130, 70, 0]),
    ],
    ids=str,
)
async def test_limits_of_users(
    store: Ledger, facts: Facts, when: dict[str, Any], limits: dict[str, int], reached: list[int]
) -> None:
    """What each run reaches, and that the forecast of each one said so."""
    stage = Stage(store, facts, {"android": Vendor(), "ios": Vendor()}, SETTINGS)
    await stage.people(PEOPLE, kinds=("fcm", "apns"))
    body = BODY | {"devices": ["android", "ios"], "send_to_all_devices": True, "when": when} | limits
    spec = read_spec(body, stage.account, NOW - 3600)
    account = stage.account.id
    made = await store.write(lambda c: insert_campaign(c, account, spec, NOW - 3600))
    said: list[int] = []
    for day in range(5):
        now = NOW + day * DAY + 60
        coming = await store.read(lambda c: find_coming(c, account, made))
        if coming is not None:
            said.append((await forecast(store, facts, stage.account, coming, spec, now, stage.settings)).audience)
        await snapshot_due_runs(store, facts, now, stage.settings)
    run = schema.run
    found = await store.read(lambda c: c.execute(select(run.c.audience).order_by(run.c.id)).scalars().all())
    platforms = 2
    assert [one / platforms for one in found] == reached
    assert [one / platforms for one in said] == reached
    assert await store.read(lambda c: find_coming(c, account, made)) is None
