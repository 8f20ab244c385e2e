"""Roles apart under siege: any process of any role, and the facts server behind HTTP, is killed again and again on
PostgreSQL, and started again; nobody is lost or doubled, caps are exact, and what is stopped stays stopped.

`FAULT_KILLS=200` for a hundred of them: `make faults`.
"""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import THOROUGH, Caller, Sandbox, people, wait_for
from support.role_processes import SETTINGS, Cluster, Role, accepted
from test_kill import KILLS, SEED
from vendors import read_accepted

from tocsin.policy import set_policy
from tocsin.store.ledger import open_ledger

if TYPE_CHECKING:
    from engines import Postgres

pytest_plugins = ("engines",)

PEOPLE = 800 if THOROUGH else 400
WINDOW = int(SETTINGS["TOCSIN_WINDOW"])
CAPS = '{"push": {"most": 1, "days": 1}}'
SOON = 70.0  # seconds, less those of the minute: then the first run of the stopped campaign would begin


@pytest.fixture
def cluster(tmp_path: Path, postgres: Postgres) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, postgres.new_database())
    yield cluster
    cluster.close()


def set_caps(role: Role, caller: Caller) -> None:
    with contextlib.closing(open_ledger(role.ledger_url)) as ledger:
        write = functools.partial(set_policy, account_id=caller.account_id, name="caps", value=CAPS, now=time.time())
        ledger.write_now(write)


@pytest.mark.timeout(200 + 20 * KILLS)
def test_killed_roles_lose_and_double_nobody(cluster: Cluster, sandbox: Sandbox) -> None:
    """After each round of campaigns of two accounts, one of them under a cap, the numbers and the vendors agree."""
    dice, kills = random.Random(f"{SEED}/roles"), 0
    free = make_account(cluster, sandbox, "free")
    start = time.strftime("%Y%m%d %H:%M", time.gmtime(time.time() + SOON))
    recurring = {"type": "recurring", "start_time": start, "repeat_type": "day"}
    stopped = free.create(name="stopped", devices=["android"], when=recurring)
    assert free.post("/1/targets/stop.json", {"id": stopped})[0] == 200
    while kills < KILLS // 2:
        sandbox.clear()
        capped = make_account(cluster, sandbox, f"capped{kills}")
        set_caps(cluster.roles["api"][0], capped)
        campaigns = [(free, free.create(devices=["android"]))]
        campaigns += [(capped, capped.create(devices=["android"], name=name)) for name in ("one", "other")]
        killed = kill_some(cluster, sandbox, campaigns, dice, KILLS // 2 - kills)
        kills += killed
        numbers = [caller.result(campaign) for caller, campaign in campaigns]
        print(numbers)
        check_round(sandbox, numbers, [campaign for _, campaign in campaigns], killed)
    listed = free.post("/1/targets/list.json", {"from": int(start[:8]), "to": int(start[:8])})[1]["targets"]
    assert {one["status"] for one in listed if one["id"] == stopped} == {"stopped"}, "a stopped campaign began again"


def kill_some(
    cluster: Cluster, sandbox: Sandbox, campaigns: list[tuple[Caller, int]], dice: random.Random, most: int
) -> int:
    """Kill processes at random moments, and start them again, until the campaigns are complete. How many those were."""

    def is_over() -> bool:
        return all(caller.post("/1/targets/result.json", {"id": campaign})[0] == 200 for caller, campaign in campaigns)

    killed = 0
    while killed < most and not is_over():
        until = accepted(sandbox)[0] + dice.randrange(20, 400)
        wait_for(functools.partial(lambda until: accepted(sandbox)[0] >= until or is_over(), until))
        role = dice.choice(("worker", "worker", "scheduler", "api", "facts"))
        if role == "facts":
            cluster.replace_facts()
        else:
            cluster.replace(role, dice.randrange(2))
        killed += 1
        print(f"kill of a {role}")
    return killed


def make_account(cluster: Cluster, sandbox: Sandbox, prefix: str) -> Caller:
    api = cluster.roles["api"][0]
    caller = api.account()
    api.use_sandbox(caller, sandbox)
    caller.upload(*people(PEOPLE, prefix=prefix, kinds=("fcm",)))
    return caller


def check_round(sandbox: Sandbox, numbers: list[dict[str, int]], campaigns: list[int], killed: int) -> None:
    """Nobody twice, nobody missing; under the cap each of the people got one of the two, or may have."""
    got = read_accepted(sandbox)
    assert accepted(sandbox)[1] == 0
    assert set(got) <= set(campaigns), "an ended campaign went on"
    unknown = 0
    for result, campaign in zip(numbers, campaigns, strict=True):
        assert result["audience"] == PEOPLE == sum(result[one] for one in ("sent", "unknown", "failed", "suppressed"))
        assert result["sent"] <= len(got.get(campaign, ())) <= result["sent"] + result["unknown"]
        unknown += result["unknown"]
    assert numbers[0]["suppressed"] == numbers[0]["failed"] == 0
    capped = numbers[1:]
    assert sum(one["sent"] + one["unknown"] for one in capped) == PEOPLE, (
        "a place under the cap was lost or given twice"
    )
    both = got.get(campaigns[1], Counter()) + got.get(campaigns[2], Counter())
    assert set(both.values()) <= {1}, "somebody got two under a cap of one"
    assert unknown <= 2 * 2 * WINDOW * len(campaigns) * killed
