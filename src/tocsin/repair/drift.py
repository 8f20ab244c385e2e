"""Comparing the ledger, its kept sums and facts with each other, and making them agree again.

What is under way is no difference: open chunks are left out, and what differs is looked at twice.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import msgspec
import structlog
from sqlalchemy import Connection, LargeBinary, cast, delete, func, literal, null, select, text, union_all, update

from tocsin import metrics
from tocsin.account import Account, list_accounts
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.recorder import record_outcomes
from tocsin.feedback.interactions import EVENTS, SentMessage
from tocsin.ingest import event_row
from tocsin.outcome import NUMBERS, Outcome, State, count_numbers
from tocsin.repair import read_chunks
from tocsin.repair.details import (
    STATE_OF,
    add_all_history,
    add_history,
    compare_details,
    count_in_pieces,
    count_with_unknown,
    forget_details,
)
from tocsin.stats.report.recipients import Cells
from tocsin.stats.report.scope import ReportScope
from tocsin.stats.results import count_interactions
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_runs
from tocsin.store.patience import rest
from tocsin.store.rows import add_to_rows

log = structlog.get_logger()

# numbers: the four of a chunk's row, against its states. sums: the kept sums of a run, against its closed chunks.
# outcomes: facts, against the kept sums. details: the sums by every column, against those of runs and tag groups.
# interactions: views and clicks in facts, against the first reports.
Kind = Literal["numbers", "sums", "outcomes", "details", "interactions"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EVERY_SECONDS = 3600.0
CONFIRM_SECONDS = 2.0  # between the two looks
SETTLED_SECONDS = 120.0  # after which a report that the ledger knows is in facts, too
CAMPAIGNS_AT_ONCE = 500


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One number that differs. campaign: 0 for the sends by identity. group: the run, the tag group and outcome, or the
    kind of report. expected: by what is the truth. found: by what was made of it."""

    kind: Kind
    campaign: int
    group: str
    expected: int
    found: int

    @property
    def place(self) -> tuple[Kind, int, str, int]:
        """What is the same in two looks at what does not change."""
        return self.kind, self.campaign, self.group, self.expected - self.found


VariantStates: TypeAlias = Counter[tuple[str, int]]  # recipients by variant and state


class RunCount(msgspec.Struct, frozen=True):
    """A run's closed chunks by their states and by kept sums, and the chunks whose numbers are wrong. cleaned: some
    have no states any more."""

    recount: VariantStates
    kept: VariantStates
    wrong: dict[int, bytes]
    cleaned: bool


async def find_drift(
    ledger: Ledger, facts: Facts, account: Account, now: float, rest: float = CONFIRM_SECONDS
) -> list[Drift]:
    """Return what differs in two looks. rest: seconds between them."""
    first = await _look(ledger, facts, account, now)
    if not first:
        return []
    await asyncio.sleep(rest)
    seen = {one.place for one in first}
    return [one for one in await _look(ledger, facts, account, now) if one.place in seen]


async def mend_drift(ledger: Ledger, facts: Facts, account: Account, drift: Sequence[Drift]) -> None:
    """Make what differs from what is the truth: states of chunks, then sums of runs, then facts. What the ledger has
    forgotten is in facts alone, and what neither has stays as it is."""
    by_kind = {kind: {one.campaign for one in drift if one.kind == kind} for kind in KINDS}
    for campaign in sorted(by_kind["numbers"] | by_kind["sums"]):
        for run in await ledger.read(functools.partial(_find_runs, account_id=account.id, campaign=campaign)):
            await ledger.write(functools.partial(_mend_run, run_id=run, account_id=account.id))
    if campaigns := by_kind["outcomes"] | by_kind["sums"]:
        async for chunk in read_chunks(ledger, account.id, campaigns):
            await record_outcomes(facts, [(account, chunk)])
    if 0 in by_kind["outcomes"]:
        await _raise_tag_sums(ledger, facts, account)
    for campaign in sorted(by_kind["details"]):
        await ledger.write(functools.partial(forget_details, account_id=account.id, campaign=campaign))
    await add_history(ledger, facts, account)
    for campaign in by_kind["interactions"]:
        await _report_again(ledger, facts, account, campaign)


async def reconcile(
    ledger: Ledger, facts: Facts, account: Account, now: float, rest: float = CONFIRM_SECONDS, *, mend: bool = False
) -> dict[str, list[Drift]]:
    """Return {drift} of an account, and {left} after mending it where that is asked for."""
    if mend:
        await add_history(ledger, facts, account)
    found = {"drift": await find_drift(ledger, facts, account, now, rest)}
    if mend:
        if found["drift"]:
            await mend_drift(ledger, facts, account, found["drift"])
        found["left"] = await find_drift(ledger, facts, account, now, rest)
    return found


async def reconcile_regularly(ledger: Ledger, facts: Facts, clock: Callable[[], float], stop: asyncio.Event) -> None:
    """Measure every EVERY_SECONDS until `stop` is set, the first time after as many; add to the sums what was closed
    before there were any, the first time at once."""
    while not stop.is_set():
        await add_all_history(ledger, facts, stop)
        await rest(stop, EVERY_SECONDS)
        if stop.is_set():
            return
        try:
            await measure_drift(ledger, facts, clock())
        except Exception:
            log.exception("reconciliation interrupted")


async def measure_drift(ledger: Ledger, facts: Facts, now: float, rest: float = CONFIRM_SECONDS) -> None:
    """Count what differs in `tocsin_drift`, over all accounts. To mend it is for somebody to decide. An account that
    cannot be compared now is logged."""
    total = Counter[Kind]()
    for account in await asyncio.to_thread(list_accounts, ledger):
        try:
            for one in await find_drift(ledger, facts, account, now, rest):
                total[one.kind] += abs(one.expected - one.found)
                log.warning("numbers differ: `tocsin reconcile`", account=account.id, **msgspec.to_builtins(one))
        except Exception:
            log.exception("numbers not compared", account=account.id)
    for kind in KINDS:
        metrics.DRIFT.labels(kind=kind).set(total[kind])


async def _look(ledger: Ledger, facts: Facts, account: Account, now: float) -> list[Drift]:
    found = await find_sum_drift(ledger, account.id)
    found += await _compare_interactions(ledger, facts, account.id, now)
    async for some in _read_campaigns(ledger, account.id):
        found += await _compare_outcomes(ledger, facts, account, some)
    return found


async def find_sum_drift(ledger: Ledger, account_id: str) -> list[Drift]:
    """Return what differs within the ledger: numbers of open chunks and of runs that are not cleaned, and all
    sums."""
    found = []
    for run, campaign in [*await ledger.read(functools.partial(_list_runs, account_id=account_id)), (None, 0)]:
        count = await ledger.read(functools.partial(_count_run, run_id=run, account_id=account_id))
        name = "sends" if run is None else f"run {run}"
        if count.wrong:
            found.append(Drift(kind="numbers", campaign=campaign, group=name, expected=0, found=len(count.wrong)))
        if run is not None and not count.cleaned:
            for variant, state in sorted(count.recount.keys() | count.kept.keys()):
                one, other = count.recount[variant, state], count.kept[variant, state]
                if one != other:
                    group = f"{name} {variant} {State(state).name}"
                    found.append(Drift(kind="sums", campaign=campaign, group=group, expected=one, found=other))
    async for some in _read_campaigns(ledger, account_id):
        differ = await ledger.read(functools.partial(compare_details, account_id=account_id, campaigns=some))
        for (campaign, tag_group, state), (one, other) in differ.items():
            group = f"{tag_group} {State(state).name}".strip()
            found.append(Drift(kind="details", campaign=campaign, group=group, expected=one, found=other))
    return found


def _list_runs(connection: Connection, account_id: str) -> list[tuple[int, int]]:
    run = schema.run
    mine = (run.c.account_id == account_id, text(schema.UNCLEANED_RUN), run.c.frozen_at.is_not(None))
    return [(row.id, row.campaign_id) for row in connection.execute(select(run.c.id, run.c.campaign_id).where(*mine))]


def _find_runs(connection: Connection, account_id: str, campaign: int) -> list[int | None]:
    if not campaign:
        return [None]
    return [run for run, of in _list_runs(connection, account_id) if of == campaign]


def _count_run(connection: Connection, run_id: int | None, account_id: str) -> RunCount:
    """Count a run's chunks and kept sums by one statement, or the open requests when there is no run."""
    table, kept = schema.chunk, schema.run_sum
    columns = (table.c.id, table.c.open, table.c.variant, literal(-1).label("state"), table.c.size, table.c.states)
    chunks = select(*columns, *(table.c[name] for name in NUMBERS))
    if run_id is None:
        query: Any = chunks.where(table.c.account_id == account_id, text(schema.COUNTED_REQUEST))
    else:
        sums = (cast(null(), schema.RowId), literal(0), kept.c.variant, kept.c.state, kept.c.recipients)
        nothing = (cast(null(), LargeBinary), *[literal(0)] * len(NUMBERS))
        of_run = select(*sums, *nothing).where(kept.c.run_id == run_id)
        query = union_all(chunks.where(table.c.run_id == run_id), of_run)
    count, cleaned = RunCount(Counter(), Counter(), {}, cleaned=False), False
    for row in connection.execute(query, execution_options={"yield_per": 500}):
        if row.id is None:
            count.kept[row.variant, row.state] += int(row.size)
            continue
        states = bytes(row.states)
        cleaned |= len(states) < row.size
        if states and count_numbers(states) != {name: getattr(row, name) for name in NUMBERS}:
            count.wrong[row.id] = states
        if not row.open:
            count.recount.update({(row.variant, one): states.count(one) for one in set(states)})
    return msgspec.structs.replace(count, cleaned=cleaned)


def _mend_run(connection: Connection, run_id: int | None, account_id: str) -> None:
    """Write the numbers and sums of a run anew, while nobody closes chunks of it."""
    table, kept = schema.chunk, schema.run_sum
    lock_runs(connection, [] if run_id is None else [run_id])
    count = _count_run(connection, run_id, account_id)
    for chunk, states in count.wrong.items():
        same = (table.c.id == chunk, table.c.states == states)
        connection.execute(update(table).where(*same).values(count_numbers(states)))
    if run_id is None or count.cleaned or count.recount == count.kept:
        return
    connection.execute(delete(kept).where(kept.c.run_id == run_id))
    rows = [
        {"run_id": run_id, "variant": variant, "state": state, "account_id": account_id, "recipients": recipients}
        for (variant, state), recipients in count.recount.items()
    ]
    if rows:
        connection.execute(kept.insert(), rows)


async def _read_campaigns(ledger: Ledger, account_id: str) -> AsyncIterator[tuple[int, ...]]:
    """Yield the ids of an account's campaigns, CAMPAIGNS_AT_ONCE at a time, after 0 for the sends."""
    table, last = schema.campaign, 0
    yield (0,)
    while True:
        page = select(table.c.id).where(table.c.account_id == account_id, table.c.id > last).order_by(table.c.id)
        some = await ledger.read(lambda c, page=page: c.scalars(page.limit(CAMPAIGNS_AT_ONCE)).all())  # type: ignore[misc]
        if not some:
            return
        yield tuple(some)
        last = some[-1]


async def _compare_outcomes(ledger: Ledger, facts: Facts, account: Account, campaigns: tuple[int, ...]) -> list[Drift]:
    scope = ReportScope(account=account, by=("campaign", "tag_group"), campaigns=campaigns)
    kept, written = await _count_twice(ledger, facts, scope)
    found = []
    for key, outcome in sorted(kept.keys() | written.keys()):
        one, other = kept[key, outcome], written[key, outcome]
        if one != other:
            group = f"{key[1]} {outcome}".strip()
            found.append(Drift(kind="outcomes", campaign=key[0], group=group, expected=one, found=other))
    return found


async def _count_twice(ledger: Ledger, facts: Facts, scope: ReportScope) -> tuple[Cells, Cells]:
    """Return the recipients of closed chunks by kept sums and by facts."""
    counted = await ledger.read(functools.partial(count_with_unknown, scope=scope, details=False))
    return counted.kept, await count_in_pieces(facts, scope, counted)


async def _raise_tag_sums(ledger: Ledger, facts: Facts, account: Account) -> None:
    """Add to the sums of tag groups what facts have more of. Requests that were cleaned are in no other place; where
    facts have less, it was lost there, and the sums are right."""
    scope = ReportScope(account=account, by=("tag_group", "code"), campaigns=(0,))
    kept, written = await _count_twice(ledger, facts, scope)
    more = _by_state(written) - _by_state(kept)
    rows = [
        {"account_id": account.id, "tag_group": tag, "state": state, "recipients": count}
        for (tag, state), count in sorted(more.items())
    ]
    if rows:
        keys = ("account_id", "tag_group", "state")
        await ledger.write(lambda c: add_to_rows(c, schema.tag_sum, rows, keys=keys, added="recipients"))


def _by_state(cells: Cells) -> Counter[tuple[str, int]]:
    """Return the recipients by tag group and state of cells by tag group and code."""
    found = Counter[tuple[str, int]]()
    for ((tag, code), outcome), count in cells.items():
        found[tag, STATE_OF[outcome, code if outcome == Outcome.SUPPRESSED.value else ""]] += count
    return found


async def _compare_interactions(ledger: Ledger, facts: Facts, account_id: str, now: float) -> list[Drift]:
    """Return the first reports that facts lack. They may have more: the ledger forgets its own."""
    count = functools.partial(_count_reports, account_id=account_id, before=now - SETTLED_SECONDS)
    expected = await ledger.read(count)
    campaigns, written = sorted({campaign for campaign, _ in expected}), defaultdict[int, Any](dict)
    for start in range(0, len(campaigns), CAMPAIGNS_AT_ONCE):
        written |= await count_interactions(facts, account_id, campaigns[start : start + CAMPAIGNS_AT_ONCE])
    found = []
    for (campaign, kind), one in sorted(expected.items()):
        if one > (other := written[campaign].get(kind, 0)):
            found.append(Drift(kind="interactions", campaign=campaign, group=kind, expected=one, found=other))
    return found


def _count_reports(connection: Connection, account_id: str, before: float) -> dict[tuple[int, str], int]:
    """Return the first reports by campaign and kind, of messages that are not cleaned."""
    table, run, first = schema.chunk, schema.run, schema.interaction
    reports = (first.c.kind, func.count().label("reports"))
    of_runs = select(run.c.campaign_id, *reports).join_from(run, table, table.c.run_id == run.c.id)
    of_runs = of_runs.join(first, first.c.chunk_id == table.c.id).group_by(run.c.campaign_id, first.c.kind)
    of_runs = of_runs.where(run.c.account_id == account_id, text(schema.UNCLEANED_RUN), first.c.at < before)
    # The campaign comes from the run, and of a run's chunks the index alone is read.
    of_requests = select(literal(0).label("campaign_id"), *reports).group_by(first.c.kind)
    of_requests = of_requests.join_from(table, first, first.c.chunk_id == table.c.id)
    of_requests = of_requests.where(table.c.account_id == account_id, first.c.at < before)
    requests = [of_requests.where(text(words)) for words in (schema.ENDED_REQUEST, schema.COUNTED_REQUEST)]
    found = Counter[tuple[int, str]]()
    for row in connection.execute(union_all(of_runs, *requests)):
        found[row.campaign_id, row.kind] += row.reports
    return found


async def _report_again(ledger: Ledger, facts: Facts, account: Account, campaign: int) -> None:
    """Write the events of a campaign's first reports again: with the same times they are once."""
    first = schema.interaction
    async for chunk in read_chunks(ledger, account.id, (campaign,)):
        reports = await ledger.read(
            lambda c, one=chunk.id: c.execute(select(first).where(first.c.chunk_id == one)).all()  # type: ignore[misc]
        )
        rows = []
        for report in reports if chunk.users else ():
            sent = SentMessage(
                account=account,
                chunk_id=chunk.id,
                position=report.position,
                user=chunk.users[report.position],
                campaign_id=campaign,
                channel=chunk.channel,
                platform=PLATFORM_CODES[chunk.platforms[report.position]],
                tag_group=chunk.tag_group,
                variant=chunk.variant,
            )
            rows.append(event_row(account, EVENTS[report.kind], sent.user, report.at, sent.event_id, sent.props))
        await facts.insert("event", rows)
