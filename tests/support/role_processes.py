"""Roles apart: two processes of each on one ledger and one facts server, as on several hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from conftest import ROOMY, Sandbox, Server, free_ports

FACTS_SERVER = Path(__file__).parent / "clickhouse_server.py"
SETTINGS = ROOMY | {
    "TOCSIN_LEASE_SECONDS": "3",
    "TOCSIN_WINDOW": "16",
    "TOCSIN_CHUNKS_AT_ONCE": "1",
}
ROLES = ("api", "api", "worker", "worker", "scheduler", "scheduler")


class FactsServer:
    """A facts store behind ClickHouse's HTTP interface, in a process of its own that may die and start again."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}/default?compress=false"
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(FACTS_SERVER), str(self.folder), str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def wait(self) -> None:
        """Wait until it has died."""
        self._process.wait(30)
        self._forget()

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def plant(self, kind: str, count: int = 1) -> None:
        """Have the next inserts meet a fault: see FAULTS of the server."""
        self._control(f"/faults?{urlencode({'kind': kind, 'count': count})}")

    def count_inserts(self) -> dict[str, int]:
        """How many inserts came since a fault was planted, and how many were stored."""
        return self._control("/inserts")

    def _control(self, path: str) -> dict[str, int]:
        with urlopen(Request(f"http://127.0.0.1:{self.port}{path}", b""), timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
        return found

    def _forget(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()


class Role(Server):
    """`tocsin serve --role …` on stores that others share. The workers have one folder, as on one host."""

    def __init__(self, role: str, data: Path, environment: dict[str, str], port: int | None = None):
        self.role, self.data, self.port, self.operator = role, data, port or free_ports(1), free_ports(1)
        self.environment = environment | {"TOCSIN_OPERATOR_PORT": str(self.operator)}
        self.ledger_url = environment["TOCSIN_LEDGER_URL"]
        data.mkdir(parents=True, exist_ok=True)
        arguments = ("serve", "--data", str(data), "--port", str(self.port), "--role", role)
        super(Server, self).__init__(*arguments, environment=self.environment, log=data / "log", wait=False)


class Cluster:
    """The processes by role."""

    def __init__(self, folder: Path, ledger_url: str):
        self.facts = FactsServer(folder / "facts")
        environment = SETTINGS | {"TOCSIN_LEDGER_URL": ledger_url}
        environment["TOCSIN_FACTS_URL"] = self.facts.url
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

    def replace(self, role: str, place: int) -> None:
        """Kill one, and start another on its folder and port; return when it is ready."""
        old = self.roles[role][place]
        old.kill()
        new = self.roles[role][place] = Role(role, old.data, old.environment, old.port)
        new.ready_line = new.wait_until_ready()

    def replace_facts(self) -> None:
        """Kill the facts server, and start it again on its folder and port; return when it answers."""
        self.facts.kill()
        self.facts.start()

    def close(self) -> None:
        for one in self.all():
            one.kill()
        self.facts.kill()


def accepted(sandbox: Sandbox) -> tuple[int, int]:
    """What the vendors have accepted, and how many of these are there twice."""
    counts = sandbox.counts().values()
    return sum(one["accepted"] for one in counts), sum(one["duplicates"] for one in counts)
