"""What the pages ask: the same numbers as the API, by the same functions."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, false, func, select

from tocsin.account import Account
from tocsin.campaign.runs import (
    PRECEDENCE,
    CampaignSummary,
    find_campaign,
    list_campaigns,
    read_stored_spec,
    run_is_held,
)
from tocsin.campaign.send_queue import NOT_TAGGED
from tocsin.campaign.spec import LATEST_ID, Spec
from tocsin.dashboard.chart import Chart, choose_step, draw_chart
from tocsin.errors import Problem
from tocsin.outcome import NUMBER_OF_OUTCOME, Outcome
from tocsin.stats import counts
from tocsin.stats.comparison import Comparison, compare_groups
from tocsin.stats.report.recipients import UNDER_WAY, Cells, count_recipients
from tocsin.stats.report.scope import ReportScope
from tocsin.stats.results import (
    count_converted,
    count_interactions,
    count_tag_groups,
    documented_state,
    read_variants,
)
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

SHOWN = 100  # campaigns on a page
STATES = (*PRECEDENCE, "held")  # that a list may be of
REASONS = 50  # rows of vendors' codes


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one row: audience = sent + unknown + failed + suppressed + under_way."""

    audience: int = 0
    sent: int = 0
    unknown: int = 0
    failed: int = 0
    suppressed: int = 0
    viewed: int = 0
    clicked: int = 0
    machine_viewed: int = 0
    machine_clicked: int = 0
    converted: int = 0

    @property
    def final(self) -> int:
        return self.sent + self.unknown + self.failed + self.suppressed

    @property
    def under_way(self) -> int:
        return max(0, self.audience - self.final)

    @staticmethod
    def total(rows: Iterable[Figures]) -> Figures:
        found = list(rows)
        return Figures(**{name: sum(getattr(row, name) for row in found) for name in Figures.__struct_fields__})


class CampaignLine(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign in the table; `state` in the words of `targets/list.json`, or held: a restore keeps it back."""

    id: int
    name: str
    channel: str
    state: str
    due_at: float
    figures: Figures

    @property
    def busy(self) -> bool:
        """Its numbers may change any moment. A pending campaign is not busy: it has a time."""
        return self.state in ("scheduled", "running") or (self.state != "held" and self.figures.under_way > 0)


class WantedCampaigns(msgspec.Struct, frozen=True, kw_only=True):
    """Which campaigns a list shows: those with `search` in their name, or that have this number; with the label; in
    the state, of which one that is pending is scheduled."""

    search: str = ""
    label: str = ""
    state: str = ""
    page: int = 1

    @property
    def filtered(self) -> bool:
        return bool(self.search or self.label or self.state)

    def address(self, **other: Any) -> str:
        """Return the query of this list's address, with `other` put in."""
        fields = {"q": self.search, "label": self.label, "state": self.state, "page": self.page, **other}
        return urlencode({name: value for name, value in fields.items() if value})


FIRST_PAGE = WantedCampaigns()


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The first page. `more`: there are older campaigns than the ones shown; `total` is of the shown ones."""

    lines: list[CampaignLine]
    more: bool
    total: Figures
    labels: list[str]

    @property
    def busy(self) -> bool:
        return any(line.busy for line in self.lines)

    def is_coming(self, until: float) -> bool:
        """Return whether a campaign of the page is due by then."""
        return any(line.state == "pending" and line.due_at < until for line in self.lines)


class Groups(msgspec.Struct, frozen=True):
    """The tag groups by name, with the sum of all."""

    rows: list[tuple[str, Figures]]
    total: Figures

    @property
    def busy(self) -> bool:
        return self.total.under_way > 0


class Reason(msgspec.Struct, frozen=True):
    """How many recipients of a platform ended in one way with one code: the vendor's, or our reason not to try."""

    platform: str
    outcome: str
    code: str
    count: int

    @property
    def words(self) -> str:
        return " · ".join(part for part in (self.platform, self.outcome, self.code) if part)


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign's page. `conversions`: empty for one without a goal. `comparison`: None for one without a goal, or
    with one group only. `more`: there are rarer reasons than the ones shown. `rate`: recipients a second, where it was
    watched."""

    line: CampaignLine
    created_at: float
    spec: Spec
    variants: dict[str, dict[str, float]]
    conversions: dict[str, float]
    comparison: Comparison | None
    reasons: list[Reason]
    more: bool
    by_platform: list[tuple[str, Figures]]
    chart: Chart | None
    rate: float | None = None

    @property
    def over(self) -> bool:
        """Nothing of it is sent any more."""
        return self.line.state in ("completed", "stopped", "missed") and not self.line.figures.under_way

    @property
    def widest(self) -> float:
        """The largest end of an interval between two groups, for the scale that all are drawn on."""
        differences = self.comparison.differences if self.comparison else []
        return max((abs(end) for one in differences for end in (one.rate.low, one.rate.high)), default=0.0) or 1.0

    @property
    def minutes_left(self) -> int | None:
        """How long it takes at this rate; None while it does not move."""
        return -int(-self.line.figures.under_way // (60 * self.rate)) if self.rate else None


async def read_overview(
    ledger: Ledger, facts: Facts, account_id: str, now: float, wanted: WantedCampaigns = FIRST_PAGE
) -> Overview:
    """Return one page of campaigns, the newest first."""

    def read(connection: Connection) -> tuple[list[CampaignSummary], dict[int, dict[str, int]], bool, list[str]]:
        page = _select_wanted(account_id, wanted).limit(SHOWN + 1).offset((wanted.page - 1) * SHOWN)
        ids = connection.scalars(page).all()
        rows = list(list_campaigns(connection, account_id, campaign_ids=ids[:SHOWN]))
        label = schema.campaign_label
        names = select(label.c.name).where(label.c.account_id == account_id).distinct().order_by(label.c.name)
        labels = list(connection.scalars(names.limit(SHOWN)))
        return rows, counts.sum_numbers_of_campaigns(connection, ids[:SHOWN]), len(ids) > SHOWN, labels

    rows, numbers, more, labels = await ledger.read(read)
    interactions = await count_interactions(facts, account_id, [row.id for row in rows]) if rows else {}
    lines = [_make_line(row, numbers[row.id], interactions.get(row.id, {}), now) for row in rows]
    return Overview(lines=lines, more=more, total=Figures.total(line.figures for line in lines), labels=labels)


def _select_wanted(account_id: str, wanted: WantedCampaigns) -> Select[Any]:
    table, label = schema.campaign, schema.campaign_label
    query = select(table.c.id).where(table.c.account_id == account_id).order_by(table.c.id.desc())
    if wanted.search:
        found = func.lower(table.c.name).contains(wanted.search.lower(), autoescape=True)
        if wanted.search.isascii() and wanted.search.isdigit() and len(wanted.search) <= len(str(LATEST_ID)):
            found |= table.c.id == min(int(wanted.search), LATEST_ID)
        query = query.where(found)
    if wanted.label:
        mine = (label.c.account_id == account_id, label.c.name == wanted.label)
        query = query.where(table.c.id.in_(select(label.c.campaign_id).where(*mine)))
    return query.where(_is_in_state(account_id, wanted.state)) if wanted.state else query


def _is_in_state(account_id: str, state: str) -> ColumnElement[bool]:
    """Return the condition that a campaign is in a state of `STATES`."""
    run, campaign = schema.run, schema.campaign

    def has_run(what: ColumnElement[bool]) -> ColumnElement[bool]:
        return campaign.c.id.in_(select(run.c.campaign_id).where(run.c.account_id == account_id, what))

    if state not in PRECEDENCE:  # no campaign is a draft
        return has_run(run_is_held()) if state == "held" else false()
    earlier = PRECEDENCE[: PRECEDENCE.index(state)]
    return and_(has_run(run.c.state == state), ~has_run(run.c.state.in_(earlier)), ~has_run(run_is_held()))


def _make_line(
    found: CampaignSummary, numbers: Mapping[str, Any], interactions: Mapping[str, int], now: float
) -> CampaignLine:
    return CampaignLine(
        id=found.id,
        name=found.name,
        channel=found.channel,
        state="held" if found.held else documented_state(found.state, found.due_at, now),
        due_at=found.due_at,
        figures=_figures({**numbers, "audience": found.audience}, interactions),
    )


async def read_groups(ledger: Ledger, facts: Facts, account_id: str) -> Groups:
    """Return the numbers of the sends by identity."""
    groups = await count_tag_groups(ledger, facts, account_id)
    named = [(name, _figures(numbers)) for name, numbers in groups.items()]
    rows = sorted(named, key=lambda group: (group[0] == NOT_TAGGED, group[0].casefold()))
    return Groups(rows, Figures.total(figures for _, figures in named))


async def read_detail(ledger: Ledger, facts: Facts, account: Account, campaign_id: int, now: float) -> Detail | None:
    """Return one campaign of the account; None when it has none of that id."""
    account_id = account.id

    def read(connection: Connection) -> tuple[CampaignSummary, Spec, dict[str, int]] | None:
        try:
            found = find_campaign(connection, account_id, campaign_id)
        except Problem:
            return None
        spec = read_stored_spec(connection, account_id, campaign_id)
        return found, spec, counts.sum_numbers(connection, campaign_id)

    answer = await ledger.read(read)
    if answer is None:
        return None
    found, spec, numbers = answer
    interactions, outcomes, converted = await asyncio.gather(
        count_interactions(facts, account_id, [campaign_id]),
        _read_outcomes(ledger, facts, account, campaign_id),
        count_converted(ledger, facts, account_id, campaign_id, spec),
    )
    goal = spec.conversion_goal
    comparison = await compare_groups(ledger, facts, account_id, campaign_id, now) if goal else None
    variants = await read_variants(ledger, facts, account_id, campaign_id, spec) if spec.variants else {}
    return Detail(
        line=_make_line(found, {**numbers, **converted}, interactions.get(campaign_id, {}), now),
        created_at=found.created_at,
        spec=spec,
        variants=variants,
        conversions=converted,
        comparison=comparison if comparison is not None and comparison.differences else None,
        reasons=outcomes.reasons[:REASONS],
        more=len(outcomes.reasons) > REASONS,
        by_platform=outcomes.by_platform,
        chart=outcomes.chart,
    )


async def read_spec_of(ledger: Ledger, account_id: str, campaign_id: int) -> Spec | None:
    """Return what was asked for by a campaign of the account; None when it has none of that id."""

    def read(connection: Connection) -> Spec | None:
        found = list_campaigns(connection, account_id, campaign_ids=[campaign_id])
        return read_stored_spec(connection, account_id, campaign_id) if found else None

    return await ledger.read(read)


class Outcomes(msgspec.Struct, frozen=True):
    """What came of a campaign's recipients. reasons: of those who were not simply sent to, the most frequent first, one
    more than is shown. chart: by facts, which are written after the ledger and may lag behind it while it runs."""

    reasons: list[Reason]
    by_platform: list[tuple[str, Figures]]
    chart: Chart | None


async def _read_outcomes(ledger: Ledger, facts: Facts, account: Account, campaign_id: int) -> Outcomes:
    cells, chart = await asyncio.gather(
        _count_by_code(ledger, facts, account, campaign_id), _read_chart(facts, account.id, campaign_id)
    )
    reasons, found = list[Reason](), dict[str, dict[str, int]]()
    for ((platform, outcome, code), _), count in cells.items():
        if outcome == UNDER_WAY:
            continue
        if outcome != Outcome.ACCEPTED.value:
            reasons.append(Reason(platform, outcome, code, count))
        numbers = found.setdefault(platform, {"audience": 0})
        numbers["audience"] += count
        _add(numbers, outcome, count)
    most = heapq.nsmallest(REASONS + 1, reasons, key=lambda one: (-one.count, one.platform, one.outcome, one.code))
    return Outcomes(most, [(platform, _figures(numbers)) for platform, numbers in sorted(found.items())], chart)


async def _count_by_code(ledger: Ledger, facts: Facts, account: Account, campaign_id: int) -> Cells:
    """Return the recipients by platform, outcome and code; nothing where these are more than a report adds up."""
    scope = ReportScope(account=account, by=("platform", "outcome", "code"), campaigns=(campaign_id,))
    try:
        return await count_recipients(ledger, facts, scope)
    except Problem as problem:
        if problem.status != 400:
            raise
        return Counter()


async def _read_chart(facts: Facts, account_id: str, campaign_id: int) -> Chart | None:
    """Return when its recipients were sent to; None before any was."""
    merged, unmerged = "FROM outcome FINAL", "FROM outcome"
    mine = "WHERE account = {account:String} AND campaign = {campaign:UInt32}"
    values: dict[str, Any] = {"account": account_id, "campaign": campaign_id}
    # A row that is there twice has the same time twice, so the ends are read without the merge of FINAL.
    ends = f"SELECT count(), toUnixTimestamp(min(at)), toUnixTimestamp(max(at)) {unmerged} {mine}"
    ((count, first, last),) = await facts.query(ends, values)
    if not count:
        return None
    step = choose_step(int(last) - int(first))
    rows = await facts.query(
        "SELECT intDiv(toUnixTimestamp(at), {step:UInt32}) AS slot, outcome, count() "
        f"{merged} {mine} GROUP BY slot, outcome",
        {**values, "step": step},
    )
    slots: dict[int, dict[str, int]] = {}
    for slot, outcome, recipients in rows:
        _add(slots.setdefault(int(slot), {}), str(outcome), int(recipients))
    return draw_chart(slots, step)


def _add(numbers: dict[str, int], outcome: str, count: int) -> None:
    name = NUMBER_OF_OUTCOME.get(outcome, "failed")
    numbers[name] = numbers.get(name, 0) + count


def _figures(numbers: Mapping[str, Any], interactions: Mapping[str, int] | None = None) -> Figures:
    values = {**numbers, **(interactions or {})}
    return Figures(**{name: int(values.get(name) or 0) for name in Figures.__struct_fields__})
