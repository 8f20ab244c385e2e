"""`tocsin bench ingest`: what `/1/upload` takes."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from benchmarks import Reading, peak_mib, serving
from benchmarks.load import press
from tocsin.account import create_account
from tocsin.demo import free_port
from tocsin.store.facts import open_facts
from tocsin.store.ledger import Ledger, open_ledger

BATCH = 1000
CONNECTIONS = 32


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        yield Path(name)


def _make_caller(ledger: Ledger) -> dict[str, str]:
    """The headers of a new account."""
    account, passcode = create_account(ledger, "bench", "UTC", time.time())
    return {
        "X-CleverTap-Account-Id": account.id,
        "X-CleverTap-Passcode": passcode,
        "Content-Type": "application/json",
    }


def measure_ingest(records: int) -> list[Reading]:
    """Events through `/1/upload` in batches of 1,000, beside one bare insert of as many rows into the facts store."""
    with folder() as data:
        port = free_port(18_500, 1)
        with closing(open_ledger(f"sqlite:///{data / 'ledger.db'}")) as ledger:
            headers = _make_caller(ledger)
        bodies = [_events(start, min(BATCH, records - start)) for start in range(0, records, BATCH)]
        with serving(data, port) as pid:
            started = time.monotonic()
            asyncio.run(_post_all(port, headers, bodies))
            rate = records / (time.monotonic() - started)
            memory = peak_mib(pid)
        facts = open_facts(f"chdb://{data / 'facts'}")
        rows = facts.query_now("SELECT account, name, day, user, at, id, toJSONString(props), raw FROM event", {})
        started = time.monotonic()
        facts.insert_now("event", rows)
        bare = len(rows) / (time.monotonic() - started)
        facts.close()
    if len(rows) != records:
        raise RuntimeError(f"{records} events were taken, {len(rows)} are stored")
    return [
        Reading("events through /1/upload", rate, "records/s", "bare insert", rate / bare),
        Reading("bare insert", bare, "rows/s"),
        Reading("peak memory of the server", memory, "MiB"),
    ]


def _events(start: int, count: int) -> bytes:
    rows = [
        {
            "type": "event",
            "identity": f"user-{number % 5000}",
            "ts": 1_767_225_600 + number,
            "evtName": "Product viewed",
            "evtData": {"Product": "Desk lamp", "Price": number % 100, "Currency": "EUR"},
        }
        for number in range(start, start + count)
    ]
    return msgspec.json.encode({"d": rows})


async def _post_all(port: int, headers: dict[str, str], bodies: list[bytes]) -> None:
    async def work(mine: list[bytes]) -> None:
        for body in mine:
            await press(port, "/1/upload", headers, body, connections=1, seconds=0)

    await asyncio.gather(*(work(bodies[one::4]) for one in range(4)))
