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
from typing import Any

import msgspec
from sqlalchemy import func, select

from tocsin.account import create_account
from tocsin.bench import Reading, cpu_seconds, peak_mib, serving
from tocsin.bench.load import press
from tocsin.demo import free_port
from tocsin.demo.samples import sample_people
from tocsin.demo.stage import Stage
from tocsin.outcome import Outcome
from tocsin.providers.contract import Address, Push
from tocsin.providers.fcm import Fcm
from tocsin.providers.transport import Transport
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


def measure_dispatch(audience: int) -> list[Reading]:
    """A campaign to FCM from frozen to closed, beside the same client sending the same number with no ledger."""
    with folder() as data, Stage.open(data, free_port(18_300, 1), free_port(18_400, 5), "UTC") as stage:
        records = list(sample_people(audience, "", kinds=("fcm",)))
        for start in stage.track(range(0, len(records), BATCH), "users"):
            stage.call("/1/upload", {"d": records[start : start + BATCH]})
        before = cpu_seconds(stage.server_pid)
        campaign = int(
            stage.create(
                {
                    "name": "bench",
                    "where": {},
                    "content": {"title": "Hello {{ Profile.Name }}", "body": "there"},
                    "devices": ["android"],
                    "when": "now",
                }
            )["id"]
        )
        result = stage.wait_for_result(campaign)
        used = cpu_seconds(stage.server_pid) - before
        with closing(open_ledger(f"sqlite:///{data / 'ledger.db'}")) as ledger:
            run = ledger.read_now(
                lambda connection: connection.execute(
                    select(schema.run.c.frozen_at, schema.run.c.ended_at).where(schema.run.c.campaign_id == campaign)
                ).one()
            )
        rate = result["sent"] / (run.ended_at - run.frozen_at)
        bare = asyncio.run(_send_bare(stage.sandbox("/credentials"), result["sent"]))
        return [
            Reading("delivered and recorded", rate, "notifications/s", "bare client, same sink", rate / bare),
            Reading("bare client, same sink", bare, "notifications/s"),
            Reading("CPU of the server", used / result["sent"] * 1e6, "µs a notification"),
            Reading("peak memory of the server", peak_mib(stage.server_pid), "MiB"),
            Reading("sent", float(result["sent"]), f"of {result['audience']}"),
        ]


async def _send_bare(given: dict[str, Any], count: int) -> float:
    settings = Fcm.Settings(
        service_account=msgspec.json.encode(given["fcm"]["service_account"]).decode(),
        endpoint=given["fcm"]["endpoint"],
        ca=given["ca"],
    )
    now = time.time()

    def message(number: int) -> Push:
        address = Address("fcm", f"bare-{number}:registration-token")
        data = {"wzrk_id": "bench_1", "wzrk_pid": str(number)}
        return Push(
            id=f"{number:032x}",
            collapse="bench",
            address=address,
            title=f"Hello {number}",
            body="there",
            data=data,
            expires_at=int(now) + 3600,
        )

    async with Transport() as transport:
        fcm = Fcm(settings, transport)
        await fcm.send(message(count), now)  # the token, and the connection
        started = time.monotonic()
        for first in range(0, count, BATCH):
            last = min(count, first + BATCH)
            receipts = await asyncio.gather(*(fcm.send(message(number), now) for number in range(first, last)))
            if any(receipt.outcome is not Outcome.ACCEPTED for receipt in receipts):
                raise RuntimeError("the sink refused a message")
        return count / (time.monotonic() - started)


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
