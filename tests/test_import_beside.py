"""Files imported while a server runs: the same as without one, from blocks that the command makes."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, new_sqlite
from support.both_stores import Opened, bring, look

from benchmarks.apart import run_apart
from tocsin.account import Account, create_account, find_account
from tocsin.cli.local_server import ask
from tocsin.cli.record_file import Options
from tocsin.cli.record_store import StoresStore
from tocsin.cli.server_store import PIECE, ServerStore
from tocsin.errors import Misconfigured
from tocsin.ingest.names import NameLimits
from tocsin.store.data_folder import find_running
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import open_ledger

pytest_plugins = ("engines",)

NOW = 1_795_000_000.0
ROWS = PIECE + 1500  # two pieces
WRONG = ["", "Charged", "1795000000", "1", "nobody"], ["u1", "Charged", "soon", "1", "no time"]


@pytest.fixture(params=["", "letters" * 50], ids=["narrow", "wide"])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Events, some of them twice and some of them wrong. Wide ones are too large for a body to hold a piece."""
    rows = [
        [
            f"m{n % 700}",
            ("Seen", "Charged")[n % 3 == 0],
            str(1_795_000_000 + n % 900),
            f"{n % 7}.5",
            f"Zoë’s «lamp» {request.param}",
        ]
        for n in range(ROWS)
    ]
    rows[40:40] = [list(one) for one in WRONG]
    rows[PIECE + 7] = list(WRONG[0])
    rows[-1][0] = "New@Example.com"
    path = tmp_path / "events.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([["identity", "evtName", "ts", "Price", "Wörds"], *rows])
    return path


def look_at(ledger_url: str, folder: Path, account_id: str) -> dict[str, Any]:
    """All that both stores of a server that has ended say of an account."""
    with (
        contextlib.closing(open_ledger(ledger_url)) as ledger,
        contextlib.closing(open_facts(f"chdb://{folder / 'facts'}")) as facts,
    ):
        return look(ledger, facts, find_account(ledger, account_id))


def make_account(server: Server) -> tuple[Account, Options]:
    account, _ = create_account(server.ledger, "x", "Europe/Berlin", NOW)
    return account, Options(kind="event", zone=account.zone)


@pytest.mark.parametrize("limit", ["1000", "2"], ids=["roomy", "too many names"])
def test_a_server_gets_what_a_command_stores(
    start_server: Callable[..., Server], facts: Facts, tmp_path: Path, file: Path, limit: str
) -> None:
    """The same events with the same ids, people, names and refusals; and once more changes nothing."""
    server = start_server(tmp_path / "own", {"TOCSIN_EVENT_PROPERTIES": limit})
    account, options = make_account(server)
    running = find_running(server.data)
    assert running is not None
    refused = asyncio.run(bring(ServerStore(running, account, options), file, options))
    assert asyncio.run(bring(ServerStore(running, account, options), file, options)) == refused
    assert server.stop() == 0
    beside = run_apart(look_at, server.ledger_url, server.data, account.id)  # chDB takes one folder a process

    limits = NameLimits(*(int(limit) if one == "event_properties" else 1000 for one in NameLimits.__struct_fields__))
    with contextlib.closing(open_ledger(new_sqlite(tmp_path))) as ledger:
        mine, _ = create_account(ledger, "x", "Europe/Berlin", NOW)
        direct = StoresStore(Opened(ledger, facts), mine, options, limits)  # type: ignore[arg-type]
        assert asyncio.run(bring(direct, file, options)) == refused
        alone = look(ledger, facts, mine)
    for what in ("event", "identity", "known_name"):
        assert beside[what] == alone[what], what
    assert [user for user, *_ in beside["profile"]] == [user for user, *_ in alone["profile"]]
    assert len(refused) >= 3
    assert len(beside["event"]) > 700


def test_blocks_come_soon_after_their_people(server: Server) -> None:
    """Who left since is erased twice within a quarter of an hour; a block after that would stay."""
    account, _ = make_account(server)
    running = find_running(server.data)
    assert running is not None
    asked: dict[str, Any] = {"kind": "identity", "values": ["a", "b", "a"], "names": ["Seen"], "properties": ["p"]}
    about = "processed=0&unprocessed=0"
    found = ask(running, "/local/people", account.id, asked)
    assert (found["users"], time.time() - found["found"] < 60) == ([1, 2, 1], True)
    with pytest.raises(Misconfigured, match="too long after their people were found"):
        ask(running, f"/local/events?found={found['found'] - 700}&{about}", account.id, b"no block at all")
    for wrong in ("nan", "soon", ""):
        with pytest.raises(Misconfigured, match=r"too long after|parameters of a block"):
            ask(running, f"/local/events?found={wrong}&{about}", account.id, b"no block at all")


def test_what_columns_cannot_hold_is_said(server: Server) -> None:
    """An opt-out among the events goes record by record; a kind that is none is refused."""
    account, _ = make_account(server)
    running = find_running(server.data)
    assert running is not None
    asked: dict[str, Any] = {"kind": "identity", "values": ["a"], "names": ["Channel Unsubscribed"], "properties": []}
    assert ask(running, "/local/people", account.id, asked)["users"] is None
    with pytest.raises(Misconfigured, match="kind must be"):
        ask(running, "/local/people", account.id, asked | {"kind": "e-mail"})
