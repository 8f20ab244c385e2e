"""Reports that are stored together: one commit for many, and each of them what it would have been alone."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from conftest import Caller, Server
from sqlalchemy import Engine, event
from support.sent_chunks import add_chunk

from tocsin.account import create_account
from tocsin.delivery.push_id import sign_push_id
from tocsin.errors import Problem
from tocsin.feedback.reports import Reports, Way
from tocsin.outcome import State
from tocsin.stats.results import count_interactions
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger
from tocsin.store.signing_key import read_signing_keys

pytest_plugins = ("engines",)

NOW, DAY, DAYS = 1_800_000_000.0, 86_400.0, 90.0


async def test_good_and_bad_ones_of_two_accounts_share_a_commit(store: Ledger, facts: Facts) -> None:
    """Duplicates of one moment are one; what cannot be counted takes nothing along; nobody counts for another one."""
    one, other = (create_account(store, name, "UTC", NOW)[0] for name in ("one", "other"))
    states = [State.ACCEPTED, State.ACCEPTED, State.REFUSED]
    mine, theirs = (add_chunk(store, account.id, 9, "", states) for account in (one, other))
    reports, commits = Reports(store, facts, DAYS), Counter[str]()
    await reports.take("track", "clicked", mine, 0, NOW)  # chunks are read from here on
    await reports.take("track", "clicked", theirs, 0, NOW)

    async def hear(way: Way, chunk: int, position: int, at: float = NOW, of: str = "") -> str:
        try:
            return await reports.take(way, "viewed", chunk, position, at, of=of)
        except Problem as problem:
            return str(problem.status)

    engine: Engine = store._writer
    event.listen(engine, "commit", lambda _: commits.update(["commit"]))
    said = [
        *(hear("track", mine, 0), hear("app", mine, 0), hear("track", mine, 0)),
        *(hear("track", mine, 1), hear("app", theirs, 1, of=one.id), hear("app", theirs, 1, of=other.id)),
        *(hear("track", mine, 2), hear("track", mine, 7), hear("track", theirs, 0, NOW + 91 * DAY)),
        *(hear("track", 2**40, 0), hear("track", theirs, 0)),
    ]
    results = await asyncio.gather(*said)
    assert results == [
        *("counted", "repeated", "repeated", "counted", "400", "counted"),
        *("unsent", "400", "410", "400", "counted"),
    ]
    assert commits["commit"] == 1
    for account in (one, other):
        found = await count_interactions(facts, account.id, [9])
        assert found[9] == {"viewed": 2, "clicked": 1}


def test_what_is_answered_survives_a_kill(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """A server is killed while it takes reports; everything is reported once more to the next one: what it had said yes
    to is there before that, and each message is counted once."""
    server = start_server(tmp_path / "data")
    caller, size = server.account(), 8
    with closing(open_ledger(server.ledger_url)) as ledger:
        key = read_signing_keys(ledger, time.time())[0].value
        sent = functools.partial(add_chunk, ledger, caller.account_id, 0, "all", [State.ACCEPTED] * size)
        chunks = [sent(at=time.time()) for _ in range(4)]
    yes: list[tuple[int, int]] = []

    def report(chunk: int) -> None:
        own = Caller(server.port)
        with contextlib.suppress(OSError):
            for position in range(size):
                status, _ = own.post("/track/viewed", {"id": sign_push_id(key, chunk, position)})
                assert status == 200
                yes.append((chunk, position))

    def report_all() -> list[threading.Thread]:
        threads = [threading.Thread(target=report, args=(chunk,)) for chunk in chunks]
        for thread in threads:
            thread.start()
        return threads

    threads = report_all()
    while len(yes) < 6:
        assert any(thread.is_alive() for thread in threads)
    server.kill()
    for thread in threads:
        thread.join()
    answered = set(yes)
    again = server.again()
    try:
        assert len(answered) <= viewed(caller) <= len(answered) + len(chunks)
        for thread in report_all():
            thread.join()
        assert len(yes) == len(answered) + len(chunks) * size
        assert viewed(caller) == len(chunks) * size
    finally:
        again.kill()


def viewed(caller: Caller) -> int:
    groups: dict[str, Any] = caller.get("/1/tag_groups.json")[1]
    return int(groups["total"]["viewed"])
