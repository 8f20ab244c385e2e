"""`tocsin bench reports`: reports of a campaign in the middle of its delivery and of a history of others, and events
read back page by page, beside DuckDB that writes the same rows.

The history is made inside the store, and kept sums as the ledger would have them: campaigns that each went out within
three hours, and a tenth of all messages sends by identity, spread over all hours. Of the campaign under way half the
chunks are closed and recorded; of the others each has recipients of every kind, and every second one is late, so that
all of its ends have times of their own. Nothing is delivered meanwhile: what is measured is the state of a delivery,
not its load. Each side of the export works in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec
from sqlalchemy import Connection, insert, select, update

from benchmarks.apart import run_apart
from benchmarks.reading import Reading, print_progress
from benchmarks.server import peak_mib
from tocsin import queue
from tocsin.account import Account, create_account
from tocsin.audience.node import Day, Did, Everybody
from tocsin.campaign.runs import insert_campaign, move_run
from tocsin.campaign.spec import Spec
from tocsin.channels import PLATFORM_CODES
from tocsin.content import Content
from tocsin.dashboard.queries import read_overview
from tocsin.delivery.recorder import record_outcomes
from tocsin.outcome import State
from tocsin.queue import Recipients, Share
from tocsin.stats.export.cursor import Cursor
from tocsin.stats.export.page import read_events
from tocsin.stats.report.report import read_report
from tocsin.stats.report.scope import Column, ReportScope
from tocsin.store import schema
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import Ledger, open_ledger

NOW = 1_782_820_800.0  # 2026-06-30 12:00 UTC
DAYS, USERS, PAGE = 90, 50_000, 5000
REPEATS = 20
SENT_SECONDS = 10_800  # in which each campaign of the history went out
BLOCK = 2_000_000  # outcomes made by one statement: bounds its memory
LARGEST = State.CLAIMED, State.ACCEPTED, State.GONE, State.REFUSED, State.UNKNOWN, State.FREQUENCY_CAP
OF_RUNNING: tuple[tuple[Column, ...], ...] = (
    *((), ("variant", "outcome"), ("platform", "outcome", "code"), ("hour", "outcome")),
)


class Exported(msgspec.Struct, frozen=True):
    rows: int
    seconds: float
    memory: float


def measure_reports(recipients: int, campaigns: int, events: int, exported: int) -> list[Reading]:
    """Measure over a running campaign of so many recipients beside a history of so many campaigns and messages, of
    which so many are read back."""
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        folder = Path(name)
        account, running = run_apart(fill, folder, recipients, campaigns, events)
        readings = run_apart(ask, folder, account, running)
        ours = run_apart(export, folder, account, exported)
        readings.append(Reading("events read back as pages of JSON", ours.rows / ours.seconds, "rows/s"))
        if find_spec("duckdb") is not None:
            theirs = run_apart(export_by_duckdb, folder, exported)
            ratio = (theirs.rows / theirs.seconds) / (ours.rows / ours.seconds)
            readings.append(Reading("DuckDB writes as many", theirs.rows / theirs.seconds, "rows/s", "ours", ratio))
            readings.append(Reading("peak memory of DuckDB", theirs.memory, "MiB"))
        readings.append(Reading("peak memory of reading back", ours.memory, "MiB"))
        return readings


def fill(folder: Path, recipients: int, campaigns: int, events: int) -> tuple[Account, int]:
    """Make both stores and Parquet for DuckDB; return the account and the id of the campaign under way."""
    started = time.monotonic()
    ledger, facts = open_ledger(f"sqlite:///{folder / 'ledger.db'}"), open_facts(f"chdb://{folder / 'facts'}")
    account, _ = create_account(ledger, "bench", "UTC", NOW)
    runs = ledger.write_now(lambda connection: _insert_history(connection, account.id, campaigns, events))
    _make_outcomes(facts, account, min(runs), campaigns, events)
    print_progress(f"{events:,} messages of {campaigns:,} campaigns made, {time.monotonic() - started:.0f} s")
    ledger.write_now(lambda connection: _keep_sums(connection, facts, account.id, runs))
    running = ledger.write_now(lambda connection: _insert_running(connection, account.id, recipients))
    asyncio.run(_deliver_half(ledger, facts, account, running))
    print_progress(f"a campaign of {recipients:,} half delivered, {time.monotonic() - started:.0f} s")
    facts.command_now(
        "INSERT INTO FUNCTION file('%s', 'Parquet') SELECT day, user, at, id, raw FROM event "
        "WHERE name = 'Notification Sent'" % (folder / "event.parquet")
    )
    print_progress(f"exported for DuckDB, {time.monotonic() - started:.0f} s")
    facts.close()
    ledger.close()
    return account, running


def _insert_history(connection: Connection, account_id: str, campaigns: int, events: int) -> dict[int, int]:
    """Insert ended campaigns, the users whom events are of, and a chunk whose id is behind theirs. Return the run by
    campaign."""
    runs: dict[int, int] = {}
    audience = _each(campaigns, events)
    for number in range(campaigns):
        campaign, run = _insert_run(connection, account_id, NOW - number)
        runs[campaign] = run
        move_run(connection, run, "running", audience=audience, frozen_at=NOW)
        connection.execute(
            update(schema.run).where(schema.run.c.id == run).values(state="completed", ended_at=NOW, cleaned_at=NOW)
        )
    users = [
        {"account_id": account_id, "id": user, "profile": '{"Name": "Ada"}', "version": 1, "created_at": NOW,
         "updated_at": NOW}
        for user in range(1, USERS + 1)
    ]  # fmt: skip
    connection.execute(insert(schema.user), users)
    queue.insert_requests(
        connection,
        [queue.NewRequest(account_id=account_id, channel="push", tag_group="", request="{}", expires_at=NOW, now=NOW)],
    )
    values = {"id": events // queue.SIZE + 1, "open": 0, "request": None}
    connection.execute(update(schema.chunk).values(values))
    return runs


def _each(campaigns: int, events: int) -> int:
    """Return how many messages a campaign of the history has; a tenth of all are none's."""
    return max(events * 9 // 10 // campaigns, 1)


def _make_outcomes(facts: Facts, account: Account, first: int, campaigns: int, events: int) -> None:
    """Make the history's outcomes, each of which is an event as well."""
    columns = "account, campaign, chunk, position, user, platform, channel, outcome, code, tag_group, variant, day, at"
    each, spread = _each(campaigns, events), DAYS * 86_400
    number = f"intDiv(n, {each})"
    begun = f"intDiv({number} * {spread - SENT_SECONDS}, {campaigns})"
    for start in range(0, events, BLOCK):
        facts.command_now(
            f"INSERT INTO outcome ({columns}) SELECT '{account.id}', if({number} < {campaigns}, {first} + {number}, 0) "
            f"AS campaign, intDiv(n, {queue.SIZE}) + 1, n % {queue.SIZE}, n % {USERS} + 1, "
            f"['android', 'ios'][n % 2 + 1], 'push', 'accepted', '', "
            f"if(campaign = 0, ['', 'otp', 'news'][n % 3 + 1], ''), '', toDate(at), "
            f"toDateTime({NOW - 3600 - spread:.0f} + if(campaign = 0, (n * 7919) % {spread}, "
            f"{begun} + (n * 7919) % {SENT_SECONDS})) AS at "
            f"FROM (SELECT {start} + number AS n FROM numbers({min(BLOCK, events - start)}))"
        )


def _keep_sums(connection: Connection, facts: Facts, account_id: str, runs: Mapping[int, int]) -> None:
    """Insert the sums of the history as closed chunks would have added them up."""
    names = ("campaign_id", "platform", "tag_group", "hour", "day", "recipients")
    state, (android, ios) = int(State.ACCEPTED), (PLATFORM_CODES.index(name) for name in ("android", "ios"))
    rows = [
        {"account_id": account_id, "run_id": runs.get(row[0], 0), "channel": "push", "variant": "", "state": state,
         "code": "", **dict(zip(names, row, strict=True))}
        for row in facts.query_now(
            f"SELECT campaign, if(platform = 'android', {android}, {ios}), tag_group, "
            "toUnixTimestamp(toStartOfHour(at)), toString(day), count() FROM outcome GROUP BY ALL", {}
        )
    ]  # fmt: skip
    of_runs, of_tags = Counter[int](), Counter[str]()
    for row in rows:
        if row["run_id"]:
            of_runs[row["run_id"]] += row["recipients"]
        else:
            of_tags[row["tag_group"]] += row["recipients"]
    same = {"account_id": account_id, "state": state}
    sums = [same | {"run_id": run, "variant": "", "recipients": count} for run, count in of_runs.items()]
    connection.execute(insert(schema.run_sum), sums)
    tags = [same | {"tag_group": tag, "recipients": count} for tag, count in of_tags.items()]
    connection.execute(insert(schema.tag_sum), tags)
    connection.execute(insert(schema.recipient_sum), rows)


def _insert_run(connection: Connection, account_id: str, due_at: float) -> tuple[int, int]:
    spec = Spec(
        name="a campaign", channel="push", where=Everybody(), content=Content(), platforms=("android",), due_at=due_at
    )
    campaign = insert_campaign(connection, account_id, spec, NOW)
    run = connection.scalar(select(schema.run.c.id).where(schema.run.c.campaign_id == campaign))
    assert run is not None
    return campaign, int(run)


def _insert_running(connection: Connection, account_id: str, recipients: int) -> int:
    """Insert a campaign of two variants whose delivery begins."""
    campaign, run = _insert_run(connection, account_id, NOW)
    move_run(connection, run, "running", audience=recipients, frozen_at=NOW)
    shares = {
        Share(expires_at=NOW + 86_400, variant=name): Recipients(
            (number % USERS + 1, ("android", "ios")[number % 2]) for number in range(recipients // 2)
        )
        for name in ("A", "B")
    }
    fixed = {"account_id": account_id, "run_id": run, "campaign_id": campaign, "channel": "push"}
    queue.insert_run_chunks(connection, **fixed, shares=shares, now=NOW)  # type: ignore[arg-type]
    return campaign


async def _deliver_half(ledger: Ledger, facts: Facts, account: Account, campaign: int) -> None:
    """Close every second chunk; of the others, a tenth of the recipients are in each of LARGEST."""
    while chunks := ledger.write_now(lambda connection: queue.lease_due(connection, "bench", NOW, 60.0, limit=64)):
        for chunk in chunks:
            chunk.move_all(range(len(chunk.states)), State.CLAIMED)
            if chunk.id % 2:
                chunk.finish_all(range(len(chunk.states)), State.ACCEPTED, NOW)
                continue
            late = chunk.id % 4 == 0
            for position in range(len(chunk.states)):
                to = LARGEST[position % 10] if position % 10 < len(LARGEST) else State.WAITING
                if to is State.FREQUENCY_CAP:
                    chunk.move(position, State.WAITING)
                if to is not State.CLAIMED:
                    at = NOW + 120 + position // 100 if late else NOW
                    chunk.finish(position, to, at, "404" if to is State.GONE else "")
        closed = [chunk for chunk in chunks if chunk.settled]
        ledger.write_now(lambda connection, some=chunks: queue.settle(connection, some, NOW, 60.0))  # type: ignore[misc]
        await record_outcomes(facts, [(account, chunk) for chunk in closed])
        ledger.write_now(
            lambda c, some=chunks: queue.release(c, [(one, None if one.settled else NOW + 3600) for one in some], NOW)  # type: ignore[misc]
        )


def ask(folder: Path, account: Account, running: int) -> list[Reading]:
    """Return how long reports take."""
    ledger, facts = open_ledger(f"sqlite:///{folder / 'ledger.db'}"), open_facts(f"chdb://{folder / 'facts'}")

    def report(by: tuple[Column, ...], *campaigns: int) -> Callable[[], Awaitable[object]]:
        scope = ReportScope(account=account, by=by, campaigns=campaigns or None)
        return lambda: read_report(ledger, facts, scope)

    questions = {f"running campaign by {', '.join(by) or 'nothing'}": report(by, running) for by in OF_RUNNING}
    questions |= {
        "the dashboard's overview": lambda: read_overview(ledger, facts, account.id, NOW),
        "all campaigns by campaign": report(("campaign",)),
        "all campaigns by day": report(("day",)),
    }
    readings = [asyncio.run(_time(name, question)) for name, question in questions.items()]
    readings.append(Reading("peak memory of reports", peak_mib(os.getpid()), "MiB"))
    facts.close()
    ledger.close()
    return readings


async def _time(name: str, question: Callable[[], Awaitable[object]]) -> Reading:
    seconds, cpu = [], []
    for _ in range(REPEATS + 1):
        started, worked = time.perf_counter(), time.process_time()
        await question()
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - worked)
    warm = sorted(seconds[1:])
    work = f"{statistics.median(cpu[1:]) * 1000:.0f} ms of CPU"
    return Reading(name, statistics.median(warm) * 1000, "ms", work, p95=warm[int(REPEATS * 0.95) - 1] * 1000)


def export(folder: Path, account: Account, exported: int) -> Exported:
    """Read the first events of the history back, page by page as `/1/events.json` does, into a file."""
    ledger, facts = open_ledger(f"sqlite:///{folder / 'ledger.db'}"), open_facts(f"chdb://{folder / 'facts'}")
    base = Did("Notification Sent", Day(ago=DAYS + 1), Day())
    of = {"kind": "events", "account": account.id, "began": NOW, "size": PAGE}
    cursor: Cursor | None = Cursor(**of, base=base, rest=(), last_user=USERS)  # type: ignore[arg-type]
    rows, started = 0, time.perf_counter()
    with (folder / "ours.json").open("wb") as file:
        while cursor is not None and rows < exported:
            page, cursor = asyncio.run(read_events(ledger, facts, account, cursor))
            file.writelines(page)
            rows += len(page)
    seconds = time.perf_counter() - started
    facts.close()
    ledger.close()
    return Exported(rows, seconds, peak_mib(os.getpid()))


def export_by_duckdb(folder: Path, exported: int) -> Exported:
    """Write the same events in the same order as JSON by DuckDB, from Parquet and without their people."""
    import duckdb

    started = time.perf_counter()
    with duckdb.connect() as connection:
        events, target = folder / "event.parquet", folder / "duckdb.json"
        rows = f'SELECT * FROM \'{events}\' ORDER BY day, "user", "at", id LIMIT {exported}'
        found = connection.execute(f"COPY ({rows}) TO '{target}' (FORMAT json)").fetchone()
    assert found is not None
    return Exported(int(found[0]), time.perf_counter() - started, peak_mib(os.getpid()))
