"""The sums by every column: what they say otherwise than those of runs and tag groups, and what was closed before there
were any.

A campaign whose sums lack closed chunks has a row in `unsummed`, and its reports ask facts. What is missing is what
facts have of the chunks that were closed at one moment, less what the sums had then: chunks that close meanwhile are in
both, or in neither.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import structlog
from sqlalchemy import Connection, delete, func, literal, select, text, union_all

from tocsin.account import Account, list_accounts
from tocsin.channels import PLATFORM_CODES
from tocsin.errors import Problem
from tocsin.outcome import OUTCOME_OF, Outcome, reason_of
from tocsin.queue import TRANSACTIONAL
from tocsin.stats.report.recipients import (
    OPEN_CHUNKS,
    Cells,
    LedgerRecipients,
    count_in_facts,
    count_in_ledger,
    find_runs,
)
from tocsin.stats.report.scope import Column, ReportScope
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.rows import among, insert_new
from tocsin.store.sums import add_cells, clip_code

log = structlog.get_logger()

FEWER = 16  # by so much fewer chunks are asked about when a question is too large
EVERY: tuple[Column, ...] = tuple(name for name in get_args(Column) if name != "label")
STATE_OF = {
    (outcome.value, reason_of(state) if outcome is Outcome.SUPPRESSED else ""): int(state)
    for state, outcome in OUTCOME_OF.items()
}
_UNSUMMED = -2


class LackingError(Exception):
    """Facts do not have every recipient that the sums of runs and tag groups have."""


Place = tuple[int, str, int]  # campaign, tag group, state


def compare_details(connection: Connection, account_id: str, campaigns: Sequence[int]) -> dict[Place, tuple[int, int]]:
    """Return the recipients of campaigns, 0 for the sends by identity, by the sums of runs and tag groups and by those
    of every column, where they differ; read by one statement, for chunks close. Those that are not whole are none."""
    kept: Counter[Place] = Counter()
    found: Counter[Place] = Counter()
    unsummed: set[int] = set()
    for campaign, tag_group, state, expected, recipients in connection.execute(
        union_all(*_select_sums(connection, account_id, campaigns))
    ):
        if state == _UNSUMMED:
            unsummed.add(campaign)
            continue
        kept[campaign, tag_group, state] += int(expected)
        found[campaign, tag_group, state] += int(recipients)
    differ = (place for place in kept.keys() | found.keys() if kept[place] != found[place])
    return {place: (kept[place], found[place]) for place in sorted(differ) if place[0] not in unsummed}


def _select_sums(connection: Connection, account_id: str, campaigns: Sequence[int]) -> Iterator[Any]:
    kept, run, tag = schema.run_sum, schema.run, schema.tag_sum
    every, unsummed, zero = schema.recipient_sum, schema.unsummed, literal(0)
    yield (
        select(run.c.campaign_id, literal(""), kept.c.state, func.sum(kept.c.recipients), zero)
        .join_from(kept, run, run.c.id == kept.c.run_id)
        .where(run.c.account_id == account_id, among(connection, run.c.campaign_id, campaigns))
        .group_by(run.c.campaign_id, kept.c.state)
    )
    if 0 in campaigns:
        yield select(zero, tag.c.tag_group, tag.c.state, tag.c.recipients, zero).where(tag.c.account_id == account_id)
    yield (
        select(every.c.campaign_id, every.c.tag_group, every.c.state, zero, func.sum(every.c.recipients))
        .where(every.c.account_id == account_id, among(connection, every.c.campaign_id, campaigns))
        .group_by(every.c.campaign_id, every.c.tag_group, every.c.state)
    )
    mine = (unsummed.c.account_id == account_id, among(connection, unsummed.c.campaign_id, campaigns))
    yield select(unsummed.c.campaign_id, literal(""), literal(_UNSUMMED), zero, zero).where(*mine)


def forget_details(connection: Connection, account_id: str, campaign: int) -> None:
    """Delete a campaign's sums by every column, to be made anew of facts; chunks that close meanwhile add to them."""
    if insert_new(connection, schema.unsummed, {"account_id": account_id, "campaign_id": campaign}):
        table = schema.recipient_sum
        connection.execute(delete(table).where(table.c.account_id == account_id, table.c.campaign_id == campaign))


async def add_all_history(ledger: Ledger, facts: Facts, stop: asyncio.Event) -> None:
    """Add what is missing of every account, until `stop` is set. One that cannot be added now is logged."""
    for account in await asyncio.to_thread(list_accounts, ledger):
        try:
            await add_history(ledger, facts, account, stop)
        except Exception:
            log.exception("sums lack what was closed before; reports ask facts", account=account.id)


async def add_history(ledger: Ledger, facts: Facts, account: Account, stop: asyncio.Event | None = None) -> None:
    """Add what is missing of an account, the newest campaign first. Where facts do not have all of it either, nothing
    is added, and facts go on being asked."""
    table = schema.unsummed
    mine = select(table.c.campaign_id).where(table.c.account_id == account.id).order_by(table.c.campaign_id.desc())
    for campaign in await ledger.read(lambda connection: connection.scalars(mine).all()):
        if stop is not None and stop.is_set():
            return
        try:
            await _add_campaign(ledger, facts, account, campaign)
        except (LackingError, Problem) as error:
            log.warning("sums lack what facts lack: `tocsin reconcile`", account=account.id, reason=str(error))


async def _add_campaign(ledger: Ledger, facts: Facts, account: Account, campaign: int) -> None:
    scope = ReportScope(account=account, by=EVERY, campaigns=(campaign,))
    counted = await ledger.read(functools.partial(count_with_unknown, scope=scope, details=True))
    runs = await find_runs(ledger, scope)
    written = Cells()
    for (key, outcome), count in (await count_in_pieces(facts, scope, counted)).items():
        values = dict(zip(EVERY, key, strict=True))
        values |= {"run": runs.get(-values["run"], 0), "code": clip_code(values["code"])}
        written[tuple(values.values()), outcome] += count
    rows = {_make_cell(account.id, key): count for (key, _), count in (written - counted.kept).items()}

    def add(connection: Connection) -> None:
        table = schema.unsummed
        mine = delete(table).where(table.c.account_id == account.id, table.c.campaign_id == campaign)
        if connection.execute(mine).rowcount:  # else another process has added it
            add_cells(connection, rows)
            if differ := compare_details(connection, account.id, [campaign]):
                raise LackingError(f"campaign {campaign}: {differ}")

    await ledger.write(add)


def _make_cell(account_id: str, key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of `sums.CELL` of a group by EVERY."""
    one = dict(zip(EVERY, key, strict=True))
    suppressed = one["outcome"] == Outcome.SUPPRESSED.value
    state = STATE_OF[one["outcome"], one["code"] if suppressed else ""]
    return (
        *(account_id, one["campaign"], one["run"], one["channel"], one["variant"], one["tag_group"]),
        *(PLATFORM_CODES.index(one["platform"]), state, "" if suppressed else one["code"], one["hour"], one["day"]),
    )


async def count_in_pieces(facts: Facts, scope: ReportScope, counted: LedgerRecipients) -> Cells:
    """Return what facts say, by as many questions as it takes: one that is too large or takes too long is asked of
    fewer chunks, and so is what follows, until that is quick again."""
    found, first, step = Cells(), 0, counted.last + 1
    while first <= counted.last:
        last = min(first + step - 1, counted.last)
        try:
            found.update(await count_in_facts(facts, scope, counted, first, last))
        except Problem:
            if step == 1:
                raise
            step = max(1, step // FEWER)
            continue
        first, step = last + 1, 2 * step
    return found


def count_with_unknown(connection: Connection, scope: ReportScope, *, details: bool) -> LedgerRecipients:
    """Count as for a report; see `count_in_ledger`. Requests whose recipients are not known yet are open, too: facts
    may have them a moment later, and the sums that were read had not."""
    unknown = _list_unknown(connection, scope.account.id) if scope.sends else []
    counted = count_in_ledger(connection, scope, details=details)
    counted.chunks += unknown
    return counted


def _list_unknown(connection: Connection, account_id: str) -> list[int]:
    """Return the open requests whose recipients are not known yet. Raise Problem when they are too many."""
    table = schema.chunk
    mine = select(table.c.id).where(table.c.account_id == account_id, table.c.size == 0, table.c.run_id.is_(None))
    free = mine.where(table.c.priority == TRANSACTIONAL, text(schema.FREE_CHUNK))
    held = mine.where(schema.chunk_is_open, table.c.lease_owner.is_not(None))
    found = [one for query in (free, held) for one in connection.scalars(query.limit(OPEN_CHUNKS + 1))]
    if len(found) > OPEN_CHUNKS:
        raise Problem("Too much waits to be compared with; later there is less", code=503, status=503)
    return found
