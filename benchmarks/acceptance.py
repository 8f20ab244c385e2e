"""`tocsin bench accept`: `/1/send` requests accepted and durable: alone, beside a campaign, through a kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
from sqlalchemy import Connection, func, select

from benchmarks.delivery import PLAIN, make_people
from benchmarks.load import Load, press
from benchmarks.reading import Reading, print_progress
from benchmarks.server import make_caller, new_folder, serving
from benchmarks.sink import open_sink
from tocsin.demo import free_port
from tocsin.store import schema
from tocsin.store.ledger import Ledger, open_ledger

ROOT = Path(__file__).parent.parent
PATH = "/1/send/push.json"
CONNECTIONS = 32
PACE = 1050.0  # requests a second while a campaign is being delivered
A_SECOND = 12_000  # of the campaign's audience, so that it lasts


def measure_accept(recipients: int, seconds: float) -> list[Reading]:
    """Measure `/1/send/push.json` with so many recipients a request, for so many seconds in each of four parts.

    After each part the ledger is counted. Raises RuntimeError when it holds fewer recipients than were accepted.
    """
    body = _body([f"user-{n:07d}" for n in range(recipients)])
    bare = _measure_bare(body, seconds)
    alone, stored = measure_alone(body, seconds)
    beside, during, delivered = _measure_beside(recipients, seconds)
    answered, kept = _measure_kill(body, seconds)
    return [
        Reading("accepted, durable", alone.rate, "requests/s", "bare app", alone.rate / bare),
        Reading("recipients", alone.rate * recipients, "recipients/s"),
        Reading("median", alone.percentile(0.5), "ms"),
        Reading("p99", alone.percentile(0.99), "ms"),
        Reading("bare app", bare, "requests/s"),
        Reading("counted in the ledger", float(stored), f"recipients of {alone.requests * recipients}"),
        Reading("accepted during a campaign", beside.rate, f"requests/s, {PACE:,.0f} asked"),
        Reading("median during a campaign", beside.percentile(0.5), "ms"),
        Reading("p99 during a campaign", beside.percentile(0.99), "ms"),
        Reading("delivered of the campaign meanwhile", delivered, "notifications/s"),
        Reading("counted in the ledger, campaign", float(during), f"recipients of {beside.requests * recipients}"),
        Reading("answered 200 before a kill -9", float(answered), "requests"),
        Reading("of them in the ledger after it", float(kept), "requests"),
    ]


def _body(names: Sequence[str]) -> bytes:
    return msgspec.json.encode({"to": {"Identity": names}, "content": {"title": "Hello", "body": "there"}})


def _measure_bare(body: bytes, seconds: float) -> float:
    with serving_bare() as port:
        return asyncio.run(press(port, "/", {}, body, connections=CONNECTIONS, seconds=seconds)).rate


@contextmanager
def serving_bare() -> Iterator[int]:
    """Run a bare app, which reads the body and answers 200, while the context lasts; return its port."""
    port = free_port(18_200, 1)
    with subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "benchmarks.load", str(port)], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield port
        finally:
            process.kill()


@contextmanager
def _caller(data: Path) -> Iterator[tuple[Ledger, dict[str, str]]]:
    """Open the ledger of a new folder and make an account in it, whose headers come second."""
    with closing(open_ledger(f"sqlite:///{data / 'ledger.db'}")) as ledger:
        yield ledger, make_caller(ledger)[1]


def measure_alone(body: bytes, seconds: float) -> tuple[Load, int]:
    """Send the same body as fast as it is accepted; return the load, and the recipients in the ledger after it."""
    with new_folder() as data, _caller(data) as (ledger, headers):
        port = free_port(18_100, 1)
        with serving(data, port):
            load = asyncio.run(press(port, PATH, headers, body, connections=CONNECTIONS, seconds=seconds))
        print_progress(f"alone: {load.rate:,.0f} requests/s, p99 {load.percentile(0.99):.0f} ms")
        return load, _check(ledger, load.requests * len(msgspec.json.decode(body)["to"]["Identity"]))


def _check(ledger: Ledger, wanted: int) -> int:
    """Return the recipients of all requests in the ledger. Raises RuntimeError when they are fewer than `wanted`."""
    stored = ledger.read_now(_count_recipients)
    if stored < wanted:
        raise RuntimeError(f"{wanted} recipients were accepted, {stored} are in the ledger")
    return stored


def _count_recipients(connection: Connection) -> int:
    """Return the recipients of all requests: of those that were looked up their size, of the others the names."""
    table = schema.chunk
    known = connection.scalar(select(func.sum(table.c.size)).where(table.c.request.is_not(None))) or 0
    waiting = select(table.c.request).where(table.c.request.is_not(None), table.c.size == 0)
    named = (msgspec.json.decode(text)["to"] for (text,) in connection.execute(waiting))
    return int(known) + sum(len(names) for to in named for names in to.values())


def _measure_beside(recipients: int, seconds: float) -> tuple[Load, int, float]:
    """Send at PACE while a campaign is delivered to a sink; the requests name people who have devices.

    Return the load, the recipients in the ledger, and the campaign's notifications a second meanwhile.
    """
    people = max(recipients, int(A_SECOND * (seconds + 2)))
    with new_folder() as data, open_sink(data / "sink") as sink:
        print_progress(f"{people:,} people are made for the campaign; the sink is {sink.name}")
        headers = make_people(data, people, {"fcm": sink.fcm})
        body, port = _body([f"user-{n}" for n in range(1, recipients + 1)]), free_port(18_100, 1)
        campaign = {"name": "bench", "where": {}, "devices": ["android"], "when": "now", "skip_estimate": True}
        asked = msgspec.json.encode(campaign | {"content": PLAIN})
        with closing(open_ledger(f"sqlite:///{data / 'ledger.db'}")) as ledger, serving(data, port):
            asyncio.run(press(port, "/1/targets/create.json", headers, asked, connections=1, seconds=0))
            while not ledger.read_now(_count_sent):
                time.sleep(0.05)
            before, started = ledger.read_now(_count_sent), time.monotonic()
            load = asyncio.run(
                press(port, PATH, headers, body, connections=CONNECTIONS * 2, seconds=seconds, pace=PACE)
            )
            delivered = (ledger.read_now(_count_sent) - before) / (time.monotonic() - started)
            if ledger.read_now(_count_sent) >= people:
                print_progress("the campaign was over before the measure was")
            print_progress(f"beside it: {load.rate:,.0f} requests/s, p99 {load.percentile(0.99):.0f} ms")
            return load, _check(ledger, load.requests * recipients), delivered


def _count_sent(connection: Connection) -> int:
    table = schema.chunk
    return connection.scalar(select(func.coalesce(func.sum(table.c.sent), 0)).where(table.c.run_id.is_not(None))) or 0


def _measure_kill(body: bytes, seconds: float) -> tuple[int, int]:
    """Kill the server half-way. Return how many requests got 200 before it, and how many of these the ledger holds."""
    with new_folder() as data, _caller(data) as (ledger, headers):
        port = free_port(18_100, 1)
        with serving(data, port) as pid:

            async def run() -> Load:
                asyncio.get_running_loop().call_later(seconds / 2, os.kill, pid, signal.SIGKILL)
                return await press(
                    port, PATH, headers, body, connections=CONNECTIONS, seconds=seconds, until_broken=True
                )

            load = asyncio.run(run())
        stored = ledger.read_now(
            lambda connection: connection.scalar(select(func.count()).select_from(schema.chunk)) or 0
        )
        if stored < load.requests:
            raise RuntimeError(f"{load.requests} requests got 200 before the kill, {stored} are in the ledger")
        return load.requests, min(stored, load.requests)
