"""Three of the measures. Each starts what it needs in a folder of its own and leaves nothing behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
from sqlalchemy import func, select

from tocsin.account import create_account
from tocsin.bench import Reading, peak_mib, serving
from tocsin.bench.load import press
from tocsin.demo import free_port
from tocsin.store import schema
from tocsin.store.facts import open_facts
from tocsin.store.ledger import Ledger, open_ledger

BATCH = 1000
CONNECTIONS = 32


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        yield Path(name)


def measure_accept(recipients: int, seconds: float) -> list[Reading]:
    """`/1/send/push.json` with so many recipients, durable, beside a bare Granian app that only reads the body. After
    it, every request that got 200 is counted in the ledger."""
    body = msgspec.json.encode(
        {
            "to": {"Identity": [f"user-{n:07d}" for n in range(recipients)]},
            "content": {"title": "Hello", "body": "there"},
        }
    )
    bare = _measure_bare(body, seconds)
    with folder() as data:
        port = free_port(18_100, 1)
        with closing(open_ledger(f"sqlite:///{data / 'ledger.db'}")) as ledger:
            headers = _make_caller(ledger)
            with serving(data, port):
                load = asyncio.run(
                    press(port, "/1/send/push.json", headers, body, connections=CONNECTIONS, seconds=seconds)
                )
            stored = ledger.read_now(
                lambda connection: connection.scalar(select(func.count()).select_from(schema.chunk))
            )
    if stored != load.requests:
        raise RuntimeError(f"{load.requests} requests got 200, {stored} are in the ledger")
    return [
        Reading("accepted, durable", load.rate, "requests/s", "bare app", load.rate / bare),
        Reading("recipients", load.rate * recipients, "recipients/s"),
        Reading("median", load.percentile(0.5), "ms"),
        Reading("p99", load.percentile(0.99), "ms"),
        Reading("bare app", bare, "requests/s"),
        Reading("counted in the ledger", float(stored), "requests"),
    ]


def _make_caller(ledger: Ledger) -> dict[str, str]:
    """The headers of a new account."""
    account, passcode = create_account(ledger, "bench", "UTC", time.time())
    return {
        "X-CleverTap-Account-Id": account.id,
        "X-CleverTap-Passcode": passcode,
        "Content-Type": "application/json",
    }


def _measure_bare(body: bytes, seconds: float) -> float:
    port = free_port(18_200, 1)
    with subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "tocsin.bench.load", str(port)], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            return asyncio.run(press(port, "/", {}, body, connections=CONNECTIONS, seconds=seconds)).rate
        finally:
            process.kill()


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
