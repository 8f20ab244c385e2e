"""Generated requests to every route and method: none is a 5xx, and what is refused is stored nowhere."""

from __future__ import annotations

import http.client
import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOMY, THOROUGH, Caller, Server
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.mutations import BODIES, Mutator, Request

from tocsin.app import ENDPOINTS

REQUESTS = 20_000 if THOROUGH else 500
ROUND = [one for one in ENDPOINTS for _ in range(2 if one.path in BODIES else 1)]
ROUNDS = REQUESTS // len(ROUND) + 1
WARM_UP = 4  # rounds, after which the server has loaded what it needs
MOST_MEGABYTES = 100  # with the probes of coverage in the server
FACTS = ("event", "activity", "profile", "outcome", "interaction")
# A failure names one request: there is nothing to shrink.
some = settings(
    max_examples=ROUNDS, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
)
# What counts requests instead of keeping what they say.
COUNTERS = {"rate_window", "concurrency_slot"}


class Sender:
    """Sends requests as an account over connections that are kept."""

    def __init__(self, caller: Caller):
        self.caller = caller
        self._connection = http.client.HTTPConnection("127.0.0.1", caller.port, timeout=30)

    def send(self, request: Request) -> tuple[int, bytes, str | None]:
        """(status, body, Retry-After). A server may close a connection at any time between two requests (RFC 9112 9.5),
        so a request that breaks one is sent again over a new one, and there it has to be answered."""
        given = {"Content-Type": "application/json", **self.caller.headers, **request.headers}
        headers = {name: value.encode() for name, value in given.items()}
        for last in (False, True):
            try:
                self._connection.request(request.method, request.path, request.body, headers)
                reply = self._connection.getresponse()
                return reply.status, reply.read(), reply.getheader("Retry-After")
            except (http.client.RemoteDisconnected, ConnectionError):
                self._connection.close()
                if last:
                    raise
        raise AssertionError

    def close(self) -> None:
        self._connection.close()


def is_refused(status: int, body: bytes) -> bool:
    """Whether nothing of a request was taken: an error, or an upload none of whose records was."""
    return status >= 400 or b'"processed":0' in body


def read_rows(ledger: Path, account: str) -> dict[str, Counter[tuple[Any, ...]]]:
    """Everything the ledger has of an account, by table."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {}
        for table in tables:
            names = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
            if "account_id" in names and table not in COUNTERS:
                query = f'SELECT * FROM "{table}" WHERE account_id = ?'
                found[table] = Counter(connection.execute(query, (account,)).fetchall())
        return found


def read_megabytes(pid: int) -> float:
    """The memory that a process has to itself."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssAnon")


@pytest.mark.timeout(3600 if THOROUGH else 900)
def test_generated_requests(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """No request is answered 5xx. What was refused is sent once more to an account that gets nothing else: at the end
    both stores have of it what they had before, and the server has not grown."""
    server = start_server(tmp_path, ROOMY)
    probe, quiet = Sender(server.account()), Sender(server.account())
    account = quiet.caller.account_id
    before = read_rows(tmp_path / "ledger.db", account)
    statuses: Counter[int] = Counter()

    def ask(request: Request) -> None:
        status, body, wait = probe.send(request)
        statuses[status] += 1
        assert status < 500 or (status == 503 and wait), (status, body[:500], request)
        if is_refused(status, body):
            status, body, wait = quiet.send(request)
            assert is_refused(status, body), (status, body[:500], request)

    def ask_every_route(seed: int) -> None:
        mutator = Mutator(seed)
        for one in ROUND:
            ask(mutator.make(one.path, one.methods))

    for seed in range(WARM_UP):
        ask_every_route(seed)
    small = read_megabytes(server.process.pid)
    some(given(st.integers(0, 2**32))(ask_every_route))()
    grown = read_megabytes(server.process.pid) - small
    print(statuses, small, grown)
    probe.close()
    quiet.close()
    assert statuses[200] > REQUESTS / 20 < sum(count for status, count in statuses.items() if status >= 400)
    assert server.process.poll() is None
    assert grown < MOST_MEGABYTES
    assert read_rows(tmp_path / "ledger.db", account) == before
    assert server.stop() == 0
    assert count_facts(tmp_path / "facts", account) == dict.fromkeys(FACTS, 0)


def count_facts(folder: Path, account: str) -> dict[str, int]:
    """Rows of an account by table, counted in a process of its own: chDB opens one folder in each."""
    script = (
        "import json, sys; from tocsin.store.facts import open_facts; facts = open_facts('chdb://' + sys.argv[1]); "
        "ask = 'SELECT count() FROM {} WHERE account = {{account:String}}'; "
        "counts = {t: facts.query_now(ask.format(t), {'account': sys.argv[2]})[0][0] for t in sys.argv[3:]}; "
        "facts.close(); print(json.dumps(counts))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), account, *FACTS], check=True, capture_output=True, text=True
    )
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts
