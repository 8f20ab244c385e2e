"""`tocsin bench ingest`: events through `/1/upload`, and files through `tocsin import`."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing

import msgspec

from benchmarks.files import measure_beside, measure_files
from benchmarks.load import press
from benchmarks.reading import Reading
from benchmarks.server import make_caller, new_folder, peak_mib, serving
from tocsin.demo import free_port
from tocsin.store.facts import open_facts
from tocsin.store.ledger import open_ledger

BATCH = 1000
CALLERS = 4  # at once


def measure_ingest(records: int) -> list[Reading]:
    """Measure events through `/1/upload` in batches of 1,000, beside one bare insert of as many rows into the store;
    and files of as many rows."""
    with new_folder() as data:
        port = free_port(18_500, 1)
        with closing(open_ledger(f"sqlite:///{data / 'ledger.db'}")) as ledger:
            _, headers = make_caller(ledger)
        bodies = [make_events(start, min(BATCH, records - start)) for start in range(0, records, BATCH)]
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
        files = measure_files(data, records) + measure_beside(data, records)
    if len(rows) != records:
        raise RuntimeError(f"{records} events were taken, {len(rows)} are stored")
    return [
        Reading("events through /1/upload", rate, "records/s", "bare insert", rate / bare),
        Reading("bare insert", bare, "rows/s"),
        Reading("peak memory of the server", memory, "MiB"),
        *files,
    ]


def make_events(start: int, count: int) -> bytes:
    """Return a body of `/1/upload` with so many events of people in turn."""
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

    await asyncio.gather(*(work(bodies[one::CALLERS]) for one in range(CALLERS)))
