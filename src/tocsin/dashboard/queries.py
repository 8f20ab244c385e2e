"""What the pages ask: the same numbers as the API, by the same functions, and the vendors' codes from facts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection

from tocsin.campaign.runs import CampaignSummary, find_campaign, read_stored_spec
from tocsin.campaign.send_queue import NOT_TAGGED
from tocsin.campaign.spec import Spec
from tocsin.content import Content
from tocsin.errors import Problem
from tocsin.stats import counts
from tocsin.stats.comparison import Difference, compare_groups
from tocsin.stats.results import (
    count_converted,
    count_interactions,
    count_tag_groups,
    documented_state,
    list_targets,
    read_variants,
)
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

SHOWN = 100  # campaigns on the first page
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
    """One campaign in the table; `state` in the words of `targets/list.json`."""

    id: int
    name: str
    channel: str
    state: str
    due_at: float
    figures: Figures

    @property
    def busy(self) -> bool:
        """Its numbers may change any moment. A pending campaign is not busy: it has a time."""
        return self.state in ("scheduled", "running") or self.figures.under_way > 0


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The first page. `more`: there are older campaigns than the ones shown; `total` is of the shown ones."""

    lines: list[CampaignLine]
    more: bool
    total: Figures
    groups: list[tuple[str, Figures]]
    groups_total: Figures

    @property
    def busy(self) -> bool:
        return any(line.busy for line in self.lines) or self.groups_total.under_way > 0


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
    """One campaign's page. `conversions`, `differences`: empty for one without a goal. `final`: the time of the goal is
    over. `more`: there are rarer reasons than the ones shown."""

    line: CampaignLine
    created_at: float
    spec: Spec
    variants: dict[str, dict[str, float]]
    conversions: dict[str, float]
    differences: list[Difference]
    final: bool
    reasons: list[Reason]
    more: bool

    @property
    def contents(self) -> list[tuple[str, Content]]:
        """What is said, by variant; under "" where there are none."""
        return [(one.name, one.content) for one in self.spec.variants] or [("", self.spec.content)]


async def read_overview(ledger: Ledger, facts: Facts, account_id: str, now: float) -> Overview:
    targets, groups = await asyncio.gather(
        list_targets(ledger, account_id, limit=SHOWN + 1), count_tag_groups(ledger, facts, account_id)
    )
    shown = targets[:SHOWN]
    interactions = await count_interactions(facts, account_id, [one["id"] for one in shown]) if shown else {}
    lines = [
        CampaignLine(
            id=one["id"],
            name=one["name"],
            channel=one["channel"],
            state=documented_state(one["state"], one["due_at"], now),
            due_at=one["due_at"],
            figures=_figures(one, interactions.get(one["id"], {})),
        )
        for one in shown
    ]
    named = [(name, _figures(numbers)) for name, numbers in groups.items()]
    return Overview(
        lines=lines,
        more=len(targets) > SHOWN,
        total=Figures.total(line.figures for line in lines),
        groups=sorted(named, key=lambda group: (group[0] == NOT_TAGGED, group[0].casefold())),
        groups_total=Figures.total(figures for _, figures in named),
    )


async def read_detail(ledger: Ledger, facts: Facts, account_id: str, campaign_id: int, now: float) -> Detail | None:
    """One campaign of the account; None when it has none of that id."""

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
    interactions, reasons, converted = await asyncio.gather(
        count_interactions(facts, account_id, [campaign_id]),
        _count_reasons(facts, account_id, campaign_id),
        count_converted(ledger, facts, account_id, campaign_id, spec),
    )
    goal = spec.conversion_goal
    comparison = await compare_groups(ledger, facts, account_id, campaign_id, now) if goal else None
    variants = await read_variants(ledger, facts, account_id, campaign_id, spec) if spec.variants else {}
    line = CampaignLine(
        id=found.id,
        name=found.name,
        channel=found.channel,
        state=documented_state(found.state, found.due_at, now),
        due_at=found.due_at,
        figures=_figures({**numbers, **converted, "audience": found.audience}, interactions.get(campaign_id, {})),
    )
    return Detail(
        line=line,
        created_at=found.created_at,
        spec=spec,
        variants=variants,
        conversions=converted,
        differences=comparison.differences if comparison else [],
        final=comparison is not None and comparison.final,
        reasons=reasons[:REASONS],
        more=len(reasons) > REASONS,
    )


async def _count_reasons(facts: Facts, account_id: str, campaign_id: int) -> list[Reason]:
    """Recipients who were not simply sent to, the most frequent first, one row more than is shown. Facts are written
    after the ledger, so while a campaign runs these may lag behind its numbers."""
    rows = await facts.query(
        "SELECT platform, outcome, code, count() AS recipients FROM outcome FINAL "
        "WHERE account = {account:String} AND campaign = {campaign:UInt32} AND outcome != 'accepted' "
        "GROUP BY platform, outcome, code ORDER BY recipients DESC, platform, outcome, code LIMIT {limit:UInt32}",
        {"account": account_id, "campaign": campaign_id, "limit": REASONS + 1},
    )
    return [Reason(str(row[0]), str(row[1]), str(row[2]), int(row[3])) for row in rows]


def _figures(numbers: Mapping[str, Any], interactions: Mapping[str, int] | None = None) -> Figures:
    values = {**numbers, **(interactions or {})}
    return Figures(**{name: int(values.get(name) or 0) for name in Figures.__struct_fields__})
