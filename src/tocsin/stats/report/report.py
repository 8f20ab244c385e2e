"""The report itself: recipients and what they did, by group, in rows of one shape.

The rows of a report add up to its total, and the total is what `result.json` and `tag_groups.json` say; by label a
campaign is in the row of each of its labels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

import msgspec
from sqlalchemy import Connection, select

from tocsin.errors import Problem
from tocsin.outcome import NUMBER_OF_OUTCOME
from tocsin.stats.report.reactions import count_converted, count_reported
from tocsin.stats.report.recipients import count_recipients, find_runs
from tocsin.stats.report.scope import Column, Key, ReportScope, require_few
from tocsin.store import schema
from tocsin.store.deadline import time_left
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.rows import among
from tocsin.store.turns import Turns

Groups: TypeAlias = dict[Key, dict[str, float]]  # the numbers by group
ROWS = 50_000  # of a report
CAMPAIGNS = 1000  # that a report is asked of by name or label
# Reports of a process, of one account, and those of it that may wait: each goes through every open chunk, and holds
# one of the ledger's few readers meanwhile.
AT_ONCE, EACH, WAITING = 2, 1, 16
TURN_SECONDS = 30.0


class ReportNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a group: audience = sent + unknown + failed + suppressed + under_way."""

    audience: int = 0
    sent: int = 0
    unknown: int = 0
    failed: int = 0
    suppressed: int = 0
    under_way: int = 0
    viewed: int = 0
    clicked: int = 0
    machine_viewed: int = 0
    machine_clicked: int = 0
    converted: int = 0
    revenue: float = 0.0


NUMBER_NAMES = ReportNumbers.__struct_fields__
ZERO = ReportNumbers()
_TURNS = Turns(AT_ONCE, EACH, WAITING)


class ReportRow(msgspec.Struct, frozen=True, kw_only=True):
    """One group. key: in the order of `CampaignReport.by`. earlier: of the campaign that is compared with."""

    key: tuple[int | str, ...]
    numbers: ReportNumbers
    earlier: ReportNumbers | None = None


class CampaignReport(msgspec.Struct, frozen=True, kw_only=True):
    """The rows in the order of their keys, and the sum of all."""

    by: tuple[Column, ...]
    rows: list[ReportRow]
    total: ReportNumbers
    earlier_total: ReportNumbers | None = None


async def read_report(ledger: Ledger, facts: Facts, scope: ReportScope) -> CampaignReport:
    """Return a report, when it is the account's turn. Raise Problem for campaigns that are not the account's, when
    there is too much of it, and when too many are asked for."""
    async with _TURNS.take_within(scope.account.id, time_left(TURN_SECONDS)):
        return await _read_now(ledger, facts, scope)


async def _read_now(ledger: Ledger, facts: Facts, scope: ReportScope) -> CampaignReport:
    scope = await ledger.read(lambda connection: _find_campaigns(connection, scope))
    if scope.campaigns == ():
        return CampaignReport(by=scope.by, rows=[], total=ZERO)
    cells, reported, converted = await asyncio.gather(
        count_recipients(ledger, facts, scope), count_reported(facts, scope), count_converted(ledger, facts, scope)
    )
    groups: Groups = {}
    for (key, outcome), count in cells.items():
        _add(groups, key, "audience", count)
        _add(groups, key, NUMBER_OF_OUTCOME.get(outcome, "under_way"), count)
    for reactions in (reported, converted):
        for key, name, number in reactions:
            _add(groups, key, name, number)
    groups = await _name_runs(ledger, scope, groups)
    total = _sum_up(groups.values())
    groups = await ledger.read(lambda connection: _name_labels(connection, scope, groups))
    if len(groups) > ROWS:
        raise Problem(f"The report has more than {ROWS} rows; ask by fewer columns or of fewer days (at $.by)")
    shown = {_show_key(scope, key): numbers for key, numbers in groups.items()}
    rows = [ReportRow(key=key, numbers=_to_numbers(numbers)) for key, numbers in sorted(shown.items())]
    return CampaignReport(by=scope.by, rows=rows, total=total)


async def compare_reports(ledger: Ledger, facts: Facts, scope: ReportScope, earlier: int) -> CampaignReport:
    """Return a report whose rows have the same numbers of an earlier campaign beside them, group by group."""
    before = msgspec.structs.replace(scope, campaigns=(earlier,), labels=())
    one, other = await read_report(ledger, facts, scope), await read_report(ledger, facts, before)
    now, then = ({row.key: row.numbers for row in found.rows} for found in (one, other))
    rows = [
        ReportRow(key=key, numbers=now.get(key, ZERO), earlier=then.get(key, ZERO)) for key in sorted({*now, *then})
    ]
    return msgspec.structs.replace(one, rows=rows, earlier_total=other.total)


def _add(groups: Groups, key: Key, name: str, number: float) -> None:
    numbers = groups.setdefault(key, {})
    numbers[name] = numbers.get(name, 0) + number


def _sum_up(those: Iterable[Mapping[str, float]]) -> ReportNumbers:
    total: Groups = {}
    for numbers in those:
        for name, number in numbers.items():
            _add(total, (), name, number)
    return _to_numbers(total.get((), {}))


def _to_numbers(numbers: Mapping[str, float]) -> ReportNumbers:
    return msgspec.convert(numbers, ReportNumbers)


def _find_campaigns(connection: Connection, scope: ReportScope) -> ReportScope:
    """Return the scope with the campaigns that it means."""
    campaign, label = schema.campaign, schema.campaign_label
    asked = scope.campaigns
    if asked:
        mine = (campaign.c.account_id == scope.account.id, among(connection, campaign.c.id, asked))
        known = {0, *connection.scalars(select(campaign.c.id).where(*mine))}
        if unknown := [one for one in asked if one not in known]:
            raise Problem(f"There is no campaign {unknown[0]} (at $.campaigns)")
    if scope.labels:
        named = select(label.c.campaign_id).where(
            label.c.account_id == scope.account.id, label.c.name.in_(scope.labels)
        )
        found = set(connection.scalars(named.distinct().limit(CAMPAIGNS + 1)))
        if len(found) > CAMPAIGNS:
            raise Problem(f"More than {CAMPAIGNS} campaigns have these labels (at $.labels)")
        asked = tuple(sorted(found if asked is None else found & set(asked)))
    return msgspec.structs.replace(scope, campaigns=asked)


async def _name_runs(ledger: Ledger, scope: ReportScope, groups: Groups) -> Groups:
    """Return the groups by run; what facts say is by chunk, and such a number is below 0."""
    place = scope.keys.index("run") if "run" in scope.keys else -1
    if place < 0 or all(key[place] >= 0 for key in groups):
        return groups
    runs = await find_runs(ledger, scope)
    found: Groups = {}
    for key, numbers in groups.items():
        run = runs.get(-key[place], 0) if key[place] < 0 else key[place]
        named = (*key[:place], run, *key[place + 1 :])
        for name, number in numbers.items():
            _add(found, named, name, number)
    return found


def _name_labels(connection: Connection, scope: ReportScope, groups: Groups) -> Groups:
    """Return the groups by the columns of the report, those of a campaign once for each of its labels."""
    labels = _find_labels(connection, scope) if "label" in scope.by else {}
    found: Groups = {}
    for key, numbers in groups.items():
        values = dict(zip(scope.keys, key, strict=True))
        for label in labels.get(values.get("campaign"), ("",)):  # type: ignore[arg-type]
            named = tuple(label if name == "label" else values[name] for name in scope.by)
            for name, number in numbers.items():
                _add(found, named, name, number)
    return found


def _find_labels(connection: Connection, scope: ReportScope) -> Mapping[int, Sequence[str]]:
    """Return the labels of campaigns that have any; of labels that are asked for, only these."""
    table = schema.campaign_label
    mine = [table.c.account_id == scope.account.id, *scope.is_among(table.c.campaign_id)]
    mine += [table.c.name.in_(scope.labels)] if scope.labels else []
    found: dict[int, list[str]] = {}
    for number, (campaign, name) in enumerate(
        connection.execute(select(table.c.campaign_id, table.c.name).where(*mine))
    ):
        require_few(number)
        found.setdefault(campaign, []).append(name)
    return found


def _show_key(scope: ReportScope, key: Key) -> tuple[int | str, ...]:
    """Return a key as it is shown: an hour as the local time when it began, with its offset."""
    if "hour" not in scope.by:
        return key
    place, zone = scope.by.index("hour"), scope.account.zone
    hour = datetime.fromtimestamp(key[place], UTC).astimezone(zone).isoformat() if key[place] else ""
    return (*key[:place], hour, *key[place + 1 :])
