"""Recipients by the columns of a report: of closed chunks from kept sums, of open ones from their states.

Both are in the ledger, and are read by one statement: so a report is exact at any moment, and nobody is counted twice
while a campaign runs. Whoever is under way has no day yet, and no platform before it is known. Facts have the same of
closed chunks, and are asked for what was closed before there were sums by every column, until it is added to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Float, LargeBinary, Select, Text, cast, func, literal, null, select, text, union_all

from tocsin.channels import PLATFORM_CODES
from tocsin.errors import Problem
from tocsin.outcome import FINAL, OUTCOME_OF, SUPPRESSED, reason_of
from tocsin.stats.report.scope import CELLS, IN_KEPT_SUMS, Column, Key, ReportScope, require_few
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.sums import End, count_ends, find_hour

OPEN_CHUNKS = 100_000  # of an account, in one report
UNDER_WAY = "under way"
NOTED = frozenset(("code", "day", "hour"))  # what is in notes

Cells = Counter[tuple[Key, str]]  # recipients by group and outcome
_Of = tuple[int, int, str, str, str]  # campaign, run, channel, variant, tag group
_OUTCOMES = {int(state): outcome.value for state, outcome in OUTCOME_OF.items()}
_REASONS = {int(state): reason_of(state) for state in SUPPRESSED}
_UNSUMMED = -2  # instead of the state of a row that says that sums lack something
# A column of a report → of `outcome`.
WRITTEN: dict[Column, str] = {
    **{name: name for name in ("campaign", "channel", "variant", "platform", "tag_group", "outcome", "code")},
    "run": "if(campaign = 0, 0, -toInt64(chunk))",  # below 0: the ledger knows of which run the chunk is
    "day": "toString(day)",
    "hour": "toUnixTimestamp(toStartOfHour(toTimeZone(at, {zone:String})))",
}


class NotedEnd(msgspec.Struct, gc=False):
    """What is read of `queue.Note`."""

    code: str = ""
    at: float = 0.0


_NOTES = msgspec.json.Decoder(dict[int, NotedEnd], strict=False)


class LedgerRecipients(msgspec.Struct):
    """What the ledger says at one moment: the recipients of closed chunks by their kept sums, and of open ones; the ids
    of the open chunks, and of the last chunk there is. whole: the sums have every closed chunk."""

    kept: Cells
    open: Cells
    chunks: list[int]
    last: int = 0
    whole: bool = True


async def count_recipients(ledger: Ledger, facts: Facts, scope: ReportScope) -> Cells:
    """Return the recipients by `scope.keys` and outcome. Raise Problem when there is too much to add up."""
    details = scope.dated or not set(scope.keys) <= IN_KEPT_SUMS
    found = await ledger.read(lambda connection: count_in_ledger(connection, scope, details=details))
    return found.open + (found.kept if found.whole else await count_in_facts(facts, scope, found))


def write_cells(scope: ReportScope, written: dict[Column, str]) -> str:
    """Return the columns of a report as those of a query."""
    return "".join(f"{written[name]} AS c{number}, " for number, name in enumerate(scope.keys))


async def find_runs(ledger: Ledger, scope: ReportScope) -> dict[int, int]:
    """Return the run by chunk, of all campaigns of a report."""
    table, run = schema.chunk, schema.run
    mine = (run.c.account_id == scope.account.id, *scope.is_among(run.c.campaign_id))
    query = select(table.c.id, run.c.id).join_from(run, table, table.c.run_id == run.c.id).where(*mine)
    query = query.limit(CELLS + 1)
    rows = await ledger.read(lambda connection: connection.execute(query).all())
    require_few(len(rows))
    return {int(chunk): int(run) for chunk, run in rows}


async def count_in_facts(
    facts: Facts, scope: ReportScope, ledger: LedgerRecipients, first: int = 0, last: int | None = None
) -> Cells:
    """Return what facts say of the chunks that were closed when the ledger was asked. first, last: of these ids, both
    included."""
    meets, values = scope.write_conditions("campaign")
    rows = await facts.query(
        f"SELECT {write_cells(scope, WRITTEN)}outcome, count() FROM outcome FINAL WHERE {meets} "
        "AND chunk BETWEEN {first:UInt64} AND {last:UInt64} AND chunk NOT IN {open:Array(UInt64)} "
        f"GROUP BY ALL LIMIT {CELLS + 1}",
        {**values, "open": ledger.chunks, "first": first, "last": ledger.last if last is None else last},
    )
    require_few(len(rows))
    return Counter({(tuple(key), str(outcome)): int(count) for *key, outcome, count in rows})


def count_in_ledger(connection: Connection, scope: ReportScope, *, details: bool) -> LedgerRecipients:
    """Count open chunks, and kept sums, by one statement: between two of them a chunk may close. details: by the sums
    of every column; else by the few of runs and of tag groups, which know those of IN_KEPT_SUMS."""
    parts = [*_select_details(scope)] if details else [*_select_kept(scope)]
    parts += [_select_runs(scope)] if scope.campaigns is None or any(scope.campaigns) else []
    parts += [_select_requests(scope)] if scope.sends else []
    # The last chunk first: facts are not asked of one that is inserted between the two questions, and may be closed.
    last = int(connection.scalar(select(func.max(schema.chunk.c.id))) or 0)
    found, ends = LedgerRecipients(Counter(), Counter(), [], last), dict[_Of, Counter[End]]()
    for number, row in enumerate(connection.execute(union_all(*parts), execution_options={"yield_per": 500})):
        require_few(number)
        of = (row.campaign, row.run or 0, row.channel, row.variant, row.tag_group)
        if row.state == _UNSUMMED:
            found.whole = False
        elif row.id is None:
            key = _name(scope, of, row.platform, row.state, row.code, row.hour, row.day)
            found.kept[key] += int(row.recipients)
        else:
            found.chunks.append(row.id)
            notes = {} if row.notes in ("", "{}") else _NOTES.decode(row.notes)
            same = ends.setdefault(of, Counter())
            same.update(count_ends(bytes(row.states), bytes(row.platforms), notes, row.started_at or 0.0))
    if len(found.chunks) > OPEN_CHUNKS:
        raise Problem("Too much is under way for a report; ask of fewer campaigns", code=503, status=503)
    for of, same in ends.items():
        _add_open(found.open, scope, of, same)
    return found


def _add_open(cells: Cells, scope: ReportScope, of: _Of, ends: Mapping[End, int]) -> None:
    """Add the recipients of open chunks. Those who were suppressed from the beginning have no day either before the
    chunk is leased."""
    for (platform, state, code, quarter), count in ends.items():
        final = state in FINAL
        hour, day = find_hour(scope.account.timezone, quarter if final else 0)
        if _is_in(day, scope):
            cells[_name(scope, of, platform, state, code if final else "", hour, day)] += count


def _is_in(day: str, scope: ReportScope) -> bool:
    """Return whether a day, "" for none yet, is in the days of a report."""
    first, last = (None if one is None else one.isoformat() for one in (scope.first, scope.last))
    return not scope.dated or (day != "" and (first or day) <= day <= (last or day))


def _name(scope: ReportScope, of: _Of, platform: int, state: int, code: str, hour: int, day: str) -> tuple[Key, str]:
    """Return the group and outcome of recipients."""
    campaign, run, channel, variant, tag_group = of
    values: dict[str, Any] = {
        "campaign": campaign,
        "run": run,
        "channel": channel,
        "variant": variant,
        "platform": PLATFORM_CODES[platform],
        "tag_group": tag_group,
        "outcome": _OUTCOMES.get(state, UNDER_WAY),
        "code": _REASONS.get(state, code),
        "day": day,
        "hour": hour,
    }
    return tuple(values[name] for name in scope.keys), values["outcome"]


def _select_runs(scope: ReportScope) -> Select[Any]:
    """Select the open chunks of runs, by the runs that have not ended."""
    table, run = schema.chunk, schema.run
    running = (run.c.account_id == scope.account.id, text(schema.UNCLEANED_RUN), run.c.ended_at.is_(None))
    query = _select_open(scope).join(run, run.c.id == table.c.run_id)
    return query.where(*running, table.c.open == 1, *scope.is_among(run.c.campaign_id))


def _select_requests(scope: ReportScope) -> Select[Any]:
    mine = schema.chunk.c.account_id == scope.account.id
    return _select_open(scope).where(mine, text(schema.COUNTED_REQUEST))


def _select_open(scope: ReportScope) -> Select[Any]:
    table = schema.chunk
    notes = table.c.notes if scope.dated or NOTED & set(scope.keys) else literal("").label("notes")
    return select(
        *(table.c.campaign_id.label("campaign"), table.c.run_id.label("run"), table.c.channel, table.c.variant),
        *(table.c.tag_group, literal(0).label("platform"), literal("").label("code"), literal(0).label("hour")),
        *(literal("").label("day"), literal(-1).label("state"), table.c.size.label("recipients"), table.c.id),
        *(table.c.platforms, table.c.states, notes, table.c.started_at),
    )


def _select_kept(scope: ReportScope) -> Iterator[Select[Any]]:
    """Yield kept sums in the columns of `_select_open`, added up by those that a report counts by."""
    kept, run, tag = schema.run_sum, schema.run, schema.tag_sum
    if scope.campaigns is None or any(scope.campaigns):
        mine = (run.c.account_id == scope.account.id, *scope.is_among(run.c.campaign_id))
        columns = {"campaign": run.c.campaign_id, "run": run.c.id, "variant": kept.c.variant}
        yield _sum_up(scope, columns, kept).join_from(kept, run, run.c.id == kept.c.run_id).where(*mine)
    if scope.sends:
        mine = (tag.c.account_id == scope.account.id,)
        yield _sum_up(scope, {"tag_group": tag.c.tag_group}, tag).where(*mine)


def _select_details(scope: ReportScope) -> Iterator[Select[Any]]:
    """Yield the sums by every column in those of `_select_open`, and a row when they do not have every closed chunk."""
    every, unsummed = schema.recipient_sum, schema.unsummed
    mine = (unsummed.c.account_id == scope.account.id, *scope.is_of_campaigns(unsummed.c.campaign_id))
    yield _fill({}, literal(_UNSUMMED), literal(0)).distinct().select_from(unsummed).where(*mine)
    names = ("channel", "variant", "tag_group", "platform", "code", "hour", "day")
    columns = {"campaign": every.c.campaign_id, "run": every.c.run_id, **{name: every.c[name] for name in names}}
    days = [] if scope.first is None else [every.c.day >= scope.first.isoformat()]
    days += [] if scope.last is None else [every.c.day <= scope.last.isoformat()]
    mine = (every.c.account_id == scope.account.id, *scope.is_of_campaigns(every.c.campaign_id), *days)
    yield _sum_up(scope, columns, every).where(*mine)


def _sum_up(scope: ReportScope, columns: Mapping[str, Any], sums: Any) -> Select[Any]:
    given: dict[str, Any] = {name: column for name, column in columns.items() if name in scope.keys}
    return _fill(given, sums.c.state, func.sum(sums.c.recipients)).group_by(*given.values(), sums.c.state)


def _fill(given: Mapping[str, Any], state: Any, recipients: Any) -> Select[Any]:
    """Select the columns of `_select_open`: those that are given, and of the others what says nothing."""
    numbers, texts = ("campaign", "run", "platform", "hour"), ("channel", "variant", "tag_group", "code", "day")
    empty: dict[str, Any] = {name: literal(0) for name in numbers} | {name: literal("") for name in texts}
    blob = cast(null(), LargeBinary)
    order = ("campaign", "run", "channel", "variant", "tag_group", "platform", "code", "hour", "day")
    return select(
        *(given.get(name, empty[name]).label(name) for name in order),
        *(state.label("state"), recipients.label("recipients"), cast(null(), schema.RowId).label("id")),
        *(blob.label("platforms"), blob.label("states"), cast(null(), Text).label("notes")),
        cast(null(), Float).label("started_at"),
    )
