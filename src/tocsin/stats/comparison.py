"""Is B better: the variants and the control group of a campaign side by side, with how sure the differences are.

People are compared as they were dealt to the groups when a run began, whether a message reached them or not: nobody
asked whether those who were held back could have been reached. So a difference is that of being meant by the campaign.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection

from tocsin.account import Account
from tocsin.campaign.goal import Goal
from tocsin.campaign.runs import find_campaign, read_stored_spec
from tocsin.campaign.spec import Spec
from tocsin.errors import Problem
from tocsin.outcome import State, reason_of
from tocsin.stats import counts
from tocsin.stats.conversions import Conversions, Grouping, count_conversions, count_people
from tocsin.stats.intervals import (
    Amounts,
    Interval,
    compare_means,
    compare_rates,
    estimate_rate,
    find_detectable,
)
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

CONFIDENCE = 0.95  # of all differences of one campaign together
BUYERS = 10  # of each group, for an interval of the revenue
CONTROL, EVERYBODY = "\x1fcontrol", "\x1feverybody"  # cells that no variant is called
SHOWN = {CONTROL: "control group", EVERYBODY: "campaign"}

Verdict = Literal["better", "worse", "undecided"]


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One group of a campaign's people. rate: of those who converted; None where there is nobody. revenue: 0.0 where
    the goal does not say what an event is worth."""

    name: str
    control: bool
    people: int
    converted: int
    rate: Interval | None
    revenue: float
    squares: float

    @property
    def amounts(self) -> Amounts:
        return Amounts(self.people, self.revenue, self.squares)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """By how much a group is above another one. detectable: the difference of rates that so many people would show in
    four of five experiments. revenue: of one person; None where it is not asked for, or too few bought something."""

    group: str
    than: str
    rate: Interval
    verdict: Verdict
    detectable: float
    revenue: Interval | None = None
    revenue_verdict: Verdict = "undecided"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The groups, and the differences between them. final: nothing of it changes any more. has_revenue: whether the
    goal says what an event is worth."""

    groups: list[Group]
    differences: list[Difference]
    final: bool
    has_revenue: bool


async def compare_groups(ledger: Ledger, facts: Facts, account_id: str, campaign_id: int, now: float) -> Comparison:
    """Return the groups of a campaign side by side. Raise Problem 400 when the account has no such campaign, or it has
    no conversion_goal."""

    def read(connection: Connection) -> tuple[Account, Spec, bool, dict[int, str]]:
        ended = find_campaign(connection, account_id, campaign_id).ended_at is not None
        spec = read_stored_spec(connection, account_id, campaign_id)
        names = counts.find_variants(connection, campaign_id) if spec.variants else {}
        return Account.load(connection, account_id), spec, ended, names

    account, spec, ended, names = await ledger.read(read)
    goal = spec.conversion_goal
    if goal is None:
        raise Problem("This campaign has no conversion_goal, so there is nothing to compare it by (at $.id)")
    grouping = group_outcomes(names)
    people, found = await asyncio.gather(
        count_people(facts, account_id, campaign_id, grouping),
        count_conversions(facts, account, {campaign_id: goal}, grouping),
    )
    latest = max((at for _, at in people.values()), default=0.0)
    cells = [one.name for one in spec.variants] or [EVERYBODY]
    cells += [CONTROL] if CONTROL in people else []
    groups = [_make_group(cell, people.get(cell, (0, 0.0))[0], found.get((campaign_id, cell))) for cell in cells]
    return Comparison(
        groups=groups,
        differences=_compare(groups, goal),
        final=ended and now > latest + goal.seconds,
        has_revenue=goal.revenue_property is not None,
    )


def group_outcomes(names: Mapping[int, str]) -> Grouping:
    """Return the outcomes that count, by group. names: of variants by chunk; empty for a campaign without any. Who was
    past their time before the run began was never dealt to a group."""
    cell = "transform(chunk, {chunks:Array(UInt64)}, {variants:Array(String)}, '')" if names else "{all:String}"
    return Grouping(
        messages="(outcome != 'suppressed' OR code != {past:String})",
        cell=f"if(outcome = 'suppressed' AND code = {{held:String}}, {{control:String}}, {cell})",
        values={
            "chunks": list(names),
            "variants": list(names.values()),
            "all": EVERYBODY,
            "control": CONTROL,
            "held": reason_of(State.CONTROL_GROUP),
            "past": reason_of(State.TIME_PASSED),
        },
    )


def _make_group(cell: str, people: int, found: Conversions | None) -> Group:
    one = found or Conversions()
    return Group(
        name=SHOWN.get(cell, cell),
        control=cell == CONTROL,
        people=people,
        converted=one.converted,
        rate=estimate_rate(one.converted, people, CONFIDENCE) if people else None,
        revenue=one.revenue,
        squares=one.squares,
    )


def _compare(groups: Sequence[Group], goal: Goal) -> list[Difference]:
    """Return every group against the control group, and every variant against the first. Each interval is as much wider
    as it takes for all of them together to hold with CONFIDENCE (Bonferroni): among many variants one is always ahead
    by luck."""
    some = [one for one in groups if one.people]
    control, others = [one for one in some if one.control], [one for one in some if not one.control]
    pairs = [(one, other) for other in (*control, *others[:1]) for one in others if one is not other]
    confidence = 1 - (1 - CONFIDENCE) / max(len(pairs), 1)
    return [_subtract(one, other, confidence, goal) for one, other in pairs]


def _subtract(one: Group, other: Group, confidence: float, goal: Goal) -> Difference:
    rates = (one.converted, one.people), (other.converted, other.people)
    rate = compare_rates(*rates, confidence)
    revenue = None
    if goal.revenue_property is not None and min(one.converted, other.converted) >= BUYERS:
        spread = one.amounts.spread + other.amounts.spread
        revenue = compare_means(one.amounts, other.amounts, confidence) if spread else None
    return Difference(
        group=one.name,
        than=other.name,
        rate=rate,
        verdict=judge(rate),
        detectable=find_detectable(*rates, confidence),
        revenue=revenue,
        revenue_verdict="undecided" if revenue is None else judge(revenue),
    )


def judge(difference: Interval) -> Verdict:
    """Return what an interval says; «undecided» when it holds 0."""
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "undecided"


def describe_difference(one: Difference) -> str:
    """Return what a difference of rates says, in a sentence."""
    if one.verdict == "undecided":
        return (
            f"Not enough people yet to tell {one.group} from {one.than}: "
            f"so many would show a difference of {one.detectable * 100:.2g} points."
        )
    low, high = sorted((abs(one.rate.low), abs(one.rate.high)))
    word = "more" if one.verdict == "better" else "less"
    return f"{one.group} converts {low * 100:.2g} to {high * 100:.2g} points {word} than {one.than}."


def show_comparison(found: Comparison) -> dict[str, Any]:
    """Return a comparison as `compare.json` answers it."""
    groups = []
    for one in found.groups:
        shown: dict[str, Any] = {"group": one.name, "control": one.control, "people": one.people}
        shown |= {"converted": one.converted, **_show_interval("rate", one.rate)}
        if found.has_revenue:
            shown |= {"revenue": one.revenue, "revenue_per_person": one.amounts.mean if one.people else None}
        groups.append(shown)
    differences = []
    for each in found.differences:
        shown = {"group": each.group, "than": each.than, **_show_interval("rate", each.rate)}
        shown |= {"verdict": each.verdict, "detectable": each.detectable, "says": describe_difference(each)}
        if found.has_revenue:
            shown |= {**_show_interval("revenue_per_person", each.revenue), "revenue_verdict": each.revenue_verdict}
        differences.append(shown)
    return {"confidence": CONFIDENCE, "final": found.final, "groups": groups, "differences": differences}


def _show_interval(name: str, found: Interval | None) -> dict[str, Any]:
    if found is None:
        return {name: None, f"{name}_interval": None}
    return {name: found.value, f"{name}_interval": [found.low, found.high]}
