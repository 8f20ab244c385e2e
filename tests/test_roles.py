"""Roles apart, two processes of each on one PostgreSQL ledger and one facts server: a campaign made at one api is
delivered by the workers and stopped at the other, and whoever is killed, nobody is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import Caller, Sandbox, people, wait_for
from support.role_processes import ROLES, SETTINGS, Cluster, accepted

if TYPE_CHECKING:
    from engines import Postgres

pytest_plugins = ("engines",)

AUDIENCE = 800


@pytest.fixture
def cluster(tmp_path: Path, postgres: Postgres) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, postgres.new_database())
    yield cluster
    cluster.close()


@pytest.mark.timeout(300)
def test_roles_apart(cluster: Cluster, sandbox: Sandbox) -> None:
    """A stop at the other api holds; then one of each role is killed in the middle of a campaign, and those that are
    left finish it."""
    first, second = cluster.roles["api"]
    caller = first.account()
    other = Caller(second.port, caller.headers)
    first.use_sandbox(caller, sandbox)
    records = people(AUDIENCE, kinds=("fcm",))
    caller.upload(*records[:AUDIENCE])
    other.upload(*records[AUDIENCE:])
    assert {Caller(one.operator).get("/healthz?verbose")[1]["role"] for one in cluster.all()} == set(ROLES)

    stopped = caller.create(devices=["android"])
    wait_for(lambda: accepted(sandbox)[0] >= 100)
    assert other.post("/1/targets/stop.json", {"id": stopped})[0] == 200
    numbers = other.result(stopped)
    assert caller.result(stopped) == numbers
    assert numbers["audience"] == AUDIENCE == numbers["sent"] + numbers["suppressed"]
    assert accepted(sandbox) == (numbers["sent"], 0)
    assert numbers["suppressed"] > 0

    sandbox.clear()
    campaign = other.create(devices=["android"])
    wait_for(lambda: accepted(sandbox)[0] >= 200)
    for role in ("worker", "scheduler", "api"):
        cluster.kill(role)
    numbers = other.result(campaign)
    sent, doubled = accepted(sandbox)
    assert doubled == 0
    assert numbers["audience"] == AUDIENCE == numbers["sent"] + numbers["unknown"]
    assert numbers["sent"] <= sent <= numbers["sent"] + numbers["unknown"]
    assert numbers["unknown"] <= 2 * int(SETTINGS["TOCSIN_WINDOW"]) * 2
    after = other.create(devices=["android"], name="after")
    assert other.result(after)["sent"] == AUDIENCE
    assert [one.stop() for one in cluster.all()] == [0, 0, 0]
    cluster.roles.clear()
