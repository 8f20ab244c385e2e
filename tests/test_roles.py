"""Roles apart, two processes of each on one PostgreSQL ledger and one facts server: a campaign made at one api is
delivered by the workers and stopped at the other, and whoever is killed, nobody is lost or doubled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import ROOMY, Caller, Sandbox, Server, free_ports, people, wait_for

if TYPE_CHECKING:
    from engines import Postgres

pytest_plugins = ("engines",)

AUDIENCE = 800
FACTS_SERVER = Path(__file__).parent / "support" / "clickhouse_server.py"
SETTINGS = ROOMY | {
    "TOCSIN_LEASE_SECONDS": "3",
    "TOCSIN_WINDOW": "16",
    "TOCSIN_CHUNKS_AT_ONCE": "1",
    "TOCSIN_SENDERS": "0",
}
ROLES = ("api", "api", "worker", "worker", "scheduler", "scheduler")


class Role(Server):
    """`tocsin serve --role …` on stores that others share. The workers have one folder, as on one host."""

    def __init__(self, role: str, data: Path, environment: dict[str, str]):
        self.data, self.port, self.operator = data, free_ports(1), free_ports(1)
        self.environment = environment | {"TOCSIN_OPERATOR_PORT": str(self.operator)}
        self.ledger_url = environment["TOCSIN_LEDGER_URL"]
        data.mkdir(parents=True, exist_ok=True)
        arguments = ("serve", "--data", str(data), "--port", str(self.port), "--role", role)
        super(Server, self).__init__(*arguments, environment=self.environment, log=data / "log", wait=False)


class Cluster:
    """The processes by role."""

    def __init__(self, folder: Path, ledger_url: str):
        port = free_ports(1)
        command = [sys.executable, str(FACTS_SERVER), str(folder / "facts"), str(port)]
        self.facts = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
        assert self.facts.stdout is not None
        self.facts.stdout.readline()
        environment = SETTINGS | {"TOCSIN_LEDGER_URL": ledger_url}
        environment["TOCSIN_FACTS_URL"] = f"http://127.0.0.1:{port}/default?compress=false"
        self.roles: dict[str, list[Role]] = {}
        for number, role in enumerate(ROLES):
            own = "worker" if role == "worker" else f"{role}-{number}"
            self.roles.setdefault(role, []).append(Role(role, folder / own, environment))
        for one in self.all():
            one.ready_line = one.wait_until_ready()

    def all(self) -> list[Role]:
        return [one for roles in self.roles.values() for one in roles]

    def kill(self, role: str) -> None:
        self.roles[role].pop(0).kill()

    def close(self) -> None:
        for one in self.all():
            one.kill()
        self.facts.kill()
        self.facts.wait()
        if self.facts.stdout is not None:
            self.facts.stdout.close()


@pytest.fixture
def cluster(tmp_path: Path, postgres: Postgres) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, postgres.new_database())
    yield cluster
    cluster.close()


def accepted(sandbox: Sandbox) -> tuple[int, int]:
    counts = sandbox.counts().values()
    return sum(one["accepted"] for one in counts), sum(one["duplicates"] for one in counts)


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
