"""`tocsin bench pages`: how long each page takes with much behind it. The rows are put into the stores as the product
would have left them: campaigns that were delivered, requests that were sent, people and a year of events."""

from __future__ import annotations

import http.client
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection, insert, update

from benchmarks.reading import Reading, print_progress
from benchmarks.rows import ACCOUNT, NOW, fill_facts
from benchmarks.server import cpu_seconds, serving
from tocsin.authenticator.members import add_member
from tocsin.authenticator.password import hash_password
from tocsin.campaign.runs import insert_campaign
from tocsin.campaign.spec import read_spec
from tocsin.demo import free_port
from tocsin.outcome import State
from tocsin.queue import TRANSACTIONAL
from tocsin.store import schema
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import open_ledger

EMAIL, PASSWORD = "bench@example.com", "correct horse battery"
GROUPS = 10  # tag groups of the requests
ROWS = 10_000  # of one insert
TIMES = 15  # each page, after once that does not count
SPEC = {"name": "-", "target_mode": "push", "devices": ["android", "ios"], "where": {}, "when": "now"}
SPEC |= {"content": {"title": "Hello", "body": "there"}, "labels": ["spring"]}
GOLD = {"row-0-box": "all", "row-0-kind": "is", "row-0-name": "Customer Type", "row-0-op": "equals"}
BACK = 30 + int((time.time() - NOW) // 86_400)  # days, from today to a month before the end of what is filled in
BOUGHT = {
    "row-1-box": "all",
    "row-1-kind": "did",
    "row-1-name": "Charged",
    "row-1-days": f"{BACK}",
    "row-1-op": "equals",
}
FORM = {"channel": "push", "devices": "android", "name": "x", "title": "Hi", "body": "there", "when": "now", **BOUGHT}
FORM |= {**GOLD, "row-0-value": "gold"}


def measure_pages(folder: Path, users: int, events: int, campaigns: int, requests: int) -> list[Reading]:
    """Return the median of each page in ms, with p95. folder: for the data; the newest campaign was to everybody."""
    began = time.perf_counter()
    newest = _fill_ledger(folder, users, campaigns, requests)
    facts = open_facts(f"chdb://{folder / 'facts'}")
    fill_facts(facts, users, events)
    _fill_outcomes(facts, newest, users, campaigns, requests)
    facts.close()
    print_progress(f"filled in {time.perf_counter() - began:.0f} s")
    port = free_port(18_100, 1)
    with serving(folder, port) as pid:
        browser = _Browser(port)
        return [_read(pid, browser, name, *asked) for name, asked in _list_pages(newest, campaigns).items()]


class _Browser:
    """Somebody who is logged in, on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Content-Type": "application/x-www-form-urlencoded"}
        self._token = ""
        cookie = self._ask("POST", "/dashboard/login", {"email": EMAIL, "password": PASSWORD})[1]["set-cookie"]
        self._headers["Cookie"] = cookie.split(";")[0]
        found = re.search(r'name="token" value="(\w+)"', self._ask("GET", "/dashboard/segments", {})[2])
        self._token = found[1] if found else ""

    def time(self, path: str, form: Mapping[str, str] | None) -> float:
        """Return the milliseconds of a page, which must be one."""
        began = time.perf_counter()
        method, fields = ("GET", {}) if form is None else ("POST", {**form, "token": self._token})
        status = self._ask(method, path, fields)[0]
        if status != 200:
            raise RuntimeError(f"{path} was answered {status}")
        return (time.perf_counter() - began) * 1000

    def _ask(self, method: str, path: str, form: Mapping[str, str]) -> tuple[int, http.client.HTTPMessage, str]:
        self._connection.request(method, path, urlencode(form), self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def _list_pages(newest: int, campaigns: int) -> dict[str, tuple[str, Mapping[str, str] | None]]:
    home = "/dashboard/"
    return {
        "campaigns": (home, None),
        "campaigns, the last page": (f"{home}?page={max(campaigns // 100, 1)}", None),
        "campaigns, a search": (f"{home}?q=number+7", None),
        "campaigns, a state and a label": (f"{home}?state=completed&label=spring", None),
        "a campaign to everybody": (f"{home}campaigns/{newest}", None),
        "a campaign to some": (f"{home}campaigns/{newest - 1}", None),
        "tag groups": (f"{home}tag-groups", None),
        "segments": (f"{home}segments", None),
        "new campaign": (f"{home}new", None),
        "what it would do": (f"{home}new/check", FORM),
        "review": (f"{home}new", {**FORM, "do": "review"}),
        "a person": (f"{home}people?identity=user-7", None),
        "a person's time line": (f"{home}people/lately?identity=user-7", None),
        "settings": (f"{home}settings", None),
        "system": (f"{home}system", None),
    }


def _read(pid: int, browser: _Browser, name: str, path: str, form: Mapping[str, str] | None) -> Reading:
    """Return the median of a page, beside the CPU that the server took for one: that is the same on a busy machine."""
    browser.time(path, form)
    before = cpu_seconds(pid)
    found = sorted(browser.time(path, form) for _ in range(TIMES))
    of = f"{(cpu_seconds(pid) - before) * 1000 / TIMES:.0f} ms of CPU"
    return Reading(name, statistics.median(found), "ms", of, p95=found[-1 - TIMES // 20])


def _fill_ledger(folder: Path, users: int, campaigns: int, requests: int) -> int:
    """Put in the account, its people, campaigns and requests; return the id of the newest campaign."""
    now = time.time()
    with_id = {"account_id": ACCOUNT.id}
    ledger = open_ledger(f"sqlite:///{folder / 'ledger.db'}")
    try:
        row = {"id": ACCOUNT.id, "name": "bench", "timezone": "UTC", "created_at": now, "last_user": users}
        ledger.write_now(lambda one: one.execute(insert(schema.account).values(row)))
        ledger.write_now(lambda one: add_member(one, EMAIL, hash_password(PASSWORD), ACCOUNT.id, "admin", now))
        times = {"created_at": now, "updated_at": now}
        people = (
            {**with_id, "id": n, "profile": '{"Name":"Jane"}', "version": 1, **times} for n in range(1, users + 1)
        )
        names = ({**with_id, "kind": "identity", "value": f"user-{n}", "user_id": n} for n in range(1, users + 1))
        for table, rows in ((schema.user, people), (schema.identity, names), (schema.chunk, _requests(requests, now))):
            _insert(ledger, table, rows)
        newest = 0
        for number in range(campaigns):
            audience = users if number == campaigns - 1 else users // 100
            newest = ledger.write_now(partial(_add_campaign, number=number, audience=audience, now=now))
        per = requests // GROUPS
        sums = [
            {**with_id, "tag_group": f"group {n}", "state": State.ACCEPTED, "recipients": per} for n in range(GROUPS)
        ]
        _insert(ledger, schema.tag_sum, iter(sums))
    finally:
        ledger.close()
    return newest


def _insert(ledger: Any, table: Any, rows: Iterator[dict[str, Any]]) -> None:
    while part := [row for row, _ in zip(rows, range(ROWS), strict=False)]:
        ledger.write_now(lambda one, part=part: one.execute(insert(table), part))


def _requests(count: int, now: float) -> Iterator[dict[str, Any]]:
    row = {"account_id": ACCOUNT.id, "campaign_id": 0, "channel": "push", "priority": TRANSACTIONAL, "open": 0}
    row |= {"not_before": now, "expires_at": now, "created_at": now, "users": b"\1\0\0\0", "platforms": b"\0"}
    row |= {"states": bytes([State.ACCEPTED]), "notes": "{}", "size": 1, "sent": 1, "unknown": 0, "failed": 0}
    return ({**row, "suppressed": 0, "tag_group": f"group {n % GROUPS}"} for n in range(count))


def _add_campaign(connection: Connection, number: int, audience: int, now: float) -> int:
    spec = read_spec({**SPEC, "name": f"Campaign number {number}"}, ACCOUNT, now)
    campaign_id = insert_campaign(connection, ACCOUNT.id, spec, now)
    run = schema.run
    mine = update(run).where(run.c.campaign_id == campaign_id)
    done = {"state": "completed", "audience": audience, "frozen_at": now, "ended_at": now}
    run_id = connection.execute(mine.values(done).returning(run.c.id)).scalar_one()
    kept = {"run_id": run_id, "variant": "", "account_id": ACCOUNT.id}
    part = [{**kept, "state": State.ACCEPTED, "recipients": audience - audience // 50}]
    connection.execute(insert(schema.run_sum), [*part, {**kept, "state": State.GONE, "recipients": audience // 50}])
    return campaign_id


def _fill_outcomes(facts: Facts, newest: int, users: int, campaigns: int, requests: int) -> None:
    """Put in what became of each recipient, one in fifty gone, and views of one in ten."""
    some = users // 100
    columns = "account, campaign, chunk, position, user, platform, channel, outcome, code, tag_group, day, at"
    shown = "n % 50 = 0 ? 'gone' : 'accepted', n % 50 = 0 ? 'UNREGISTERED' : ''"
    parts = (
        (f"{newest}", "''", users),
        (f"{newest - campaigns + 1} + intDiv(n, {some})", "''", some * (campaigns - 1)),
        ("0", f"concat('group ', toString(n % {GROUPS}))", requests),
    )
    for campaign, group, count in parts:
        facts.command_now(
            f"INSERT INTO outcome ({columns}) SELECT '{ACCOUNT.id}', {campaign}, intDiv(n, 1000) + 1, n % 1000, "
            f"n % {users} + 1, n % 3 = 0 ? 'ios' : 'android', 'push', {shown}, {group}, toDate(at), at "
            f"FROM (SELECT number AS n, now() - intDiv(n, 5000) AS at FROM numbers({count}))"
        )
        facts.command_now(
            "INSERT INTO interaction SELECT account, campaign, 'Notification Viewed', tag_group, '', "
            f"uniqExactState(n) FROM (SELECT '{ACCOUNT.id}' AS account, toUInt32({campaign}) AS campaign, "
            f"{group} AS tag_group, number AS n FROM numbers({count}) WHERE n % 10 = 0) "
            "GROUP BY account, campaign, tag_group"
        )
