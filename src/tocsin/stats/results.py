"""The numbers of campaigns, variants, tag groups and labels.

What was sent comes from the ledger, which is exact at any moment; views, clicks and conversions from the facts store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from tocsin import queue
from tocsin.account import Account
from tocsin.campaign.goal import Goal, read_policy_goal
from tocsin.campaign.runs import (
    PAGE,
    CampaignSummary,
    find_campaign,
    find_goals,
    find_labels,
    list_campaigns,
    read_stored_spec,
)
from tocsin.campaign.send_queue import NOT_TAGGED
from tocsin.campaign.spec import Spec
from tocsin.errors import Problem
from tocsin.feedback.interactions import EVENTS, INTERACTIONS
from tocsin.outcome import NUMBERS
from tocsin.policy import load_policy
from tocsin.stats import counts
from tocsin.stats.conversions import Conversions, Grouping, count_conversions
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

_KIND_OF_EVENT = {event: kind for kind, event in EVENTS.items()}


async def read_result(ledger: Ledger, facts: Facts, account_id: str, campaign_id: int) -> dict[str, Any]:
    """Return {audience, *NUMBERS, viewed, clicked} of a campaign, with its conversions where it has a goal, and
    `missed` (runs whose time passed), `machine_viewed` and `machine_clicked` where there are any. When all runs have
    ended, audience = sent + unknown + failed + suppressed; until then the numbers of a campaign with several runs grow.

    Raise Problem, with the documented sentence, until a run is completed or all have ended, and for a campaign that was
    stopped before it began.
    """

    def read(connection: Connection) -> tuple[CampaignSummary, Spec, dict[str, int]]:
        found = find_campaign(connection, account_id, campaign_id)
        spec = read_stored_spec(connection, account_id, campaign_id)
        return found, spec, counts.sum_numbers(connection, campaign_id)

    found, spec, numbers = await ledger.read(read)
    over = found.ended_at is not None and (found.frozen_at is not None or found.missed)
    if not over and not found.completed:
        raise Problem("This target hasn't been completed", code=None)
    parts, converted = await asyncio.gather(
        count_interactions(facts, account_id, [campaign_id]),
        count_converted(ledger, facts, account_id, campaign_id, spec),
    )
    missed = {"missed": found.missed} if found.missed else {}
    return {**numbers, "audience": found.audience, **parts[campaign_id], **converted, **missed}


async def read_breakdown(ledger: Ledger, facts: Facts, account_id: str, campaign_id: int) -> dict[str, Any]:
    """Return what details a campaign's numbers, where there is any: `suppressed_by`, the suppressed by reason, and
    `variants`, the same numbers for each variant."""
    spec = await ledger.read(lambda connection: read_stored_spec(connection, account_id, campaign_id))
    found: dict[str, Any] = {}
    if suppressed := await ledger.read(lambda connection: counts.count_suppressed(connection, campaign_id)):
        found["suppressed_by"] = suppressed
    if spec.variants:
        found["variants"] = await read_variants(ledger, facts, account_id, campaign_id, spec)
    return found


async def count_converted(
    ledger: Ledger, facts: Facts, account_id: str, campaign_id: int, spec: Spec
) -> dict[str, float]:
    """Return `show_conversions` of a campaign with a goal, {} of one without."""
    if spec.conversion_goal is None:
        return {}
    account = await ledger.read(lambda connection: Account.load(connection, account_id))
    found = await count_conversions(facts, account, {campaign_id: spec.conversion_goal})
    return show_conversions(spec.conversion_goal, found.get((campaign_id, "")))


def show_conversions(goal: Goal, found: Conversions | None) -> dict[str, float]:
    """Return {converted, click_through, view_through}, with `revenue` where the goal says what an event is worth."""
    one = found or Conversions()
    numbers: dict[str, float] = {
        "converted": one.converted,
        "click_through": one.click_through,
        "view_through": one.view_through,
    }
    return numbers if goal.revenue_property is None else {**numbers, "revenue": one.revenue}


async def read_variants(
    ledger: Ledger, facts: Facts, account_id: str, campaign_id: int, spec: Spec
) -> dict[str, dict[str, float]]:
    """Return {audience, *NUMBERS, viewed, clicked} by variant, with its conversions where the campaign has a goal."""
    by_variant = await ledger.read(lambda connection: counts.sum_numbers_by_variant(connection, campaign_id))
    rows = await facts.query(
        "SELECT variant, name, uniqExactMerge(messages) FROM interaction WHERE account = {account:String} "
        "AND campaign = {campaign:UInt32} AND name IN {names:Array(String)} GROUP BY variant, name",
        {"account": account_id, "names": list(INTERACTIONS.values()), "campaign": campaign_id},
    )
    found: dict[str, dict[str, float]] = {}
    for one in spec.variants:
        numbers: Mapping[str, float] = by_variant.get(one.name, dict.fromkeys(("audience", *NUMBERS), 0))
        found[one.name] = {**numbers, "viewed": 0, "clicked": 0}
    for variant, name, count in rows:
        if variant in found:
            found[variant][_KIND_OF_EVENT[name]] = int(count)
    if (goal := spec.conversion_goal) is not None:
        account, grouping = await ledger.read(lambda connection: _group_by_variant(connection, account_id, campaign_id))
        converted = await count_conversions(facts, account, {campaign_id: goal}, grouping)
        for variant, own in found.items():
            own.update(show_conversions(goal, converted.get((campaign_id, variant))))
    return found


def _group_by_variant(connection: Connection, account_id: str, campaign_id: int) -> tuple[Account, Grouping]:
    """Return an account, and the messages of its campaign by variant. The ledger knows the variants of chunks whose
    outcomes were recorded before facts had them."""
    names = counts.find_variants(connection, campaign_id)
    values = {"chunks": list(names), "variants": list(names.values())}
    cell = "transform(chunk, {chunks:Array(UInt64)}, {variants:Array(String)}, '')"
    return Account.load(connection, account_id), Grouping(cell=cell, values=values)


async def count_interactions(facts: Facts, account_id: str, campaign_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Return {viewed, clicked} by campaign, in messages, and {machine_viewed, machine_clicked} where there are any. A
    message counts once, however often it is reported."""
    rows = await facts.query(
        "SELECT campaign, name, uniqExactMerge(messages) FROM interaction WHERE account = {account:String} "
        "AND campaign IN {campaigns:Array(UInt32)} AND name IN {names:Array(String)} GROUP BY campaign, name",
        {"account": account_id, "names": list(EVENTS.values()), "campaigns": list(campaign_ids)},
    )
    seen = {campaign: {"viewed": 0, "clicked": 0} for campaign in campaign_ids}
    for campaign, name, count in rows:
        seen[int(campaign)][_KIND_OF_EVENT[name]] = int(count)
    return seen


async def count_tag_groups(ledger: Ledger, facts: Facts, account_id: str) -> dict[str, dict[str, float]]:
    """Return {audience, *NUMBERS, viewed, clicked, converted} of the sends by identity, by tag group; those without one
    are «Not Tagged». With an event in the account's policy, `show_conversions` counts the messages that it followed in
    time."""
    clicks = facts.query(
        "SELECT tag_group, name, uniqExactMerge(messages) FROM interaction WHERE account = {account:String} "
        "AND campaign = 0 AND name IN {names:Array(String)} GROUP BY tag_group, name",
        {"account": account_id, "names": list(EVENTS.values())},
    )
    account, policy = await ledger.read(
        lambda connection: (Account.load(connection, account_id), load_policy(connection, account_id))
    )
    sums = ledger.read(lambda connection: counts.sum_numbers_by_tag_group(connection, account_id))
    found, interactions = await asyncio.gather(sums, clicks)
    new = {"viewed": 0, "clicked": 0, "converted": 0}
    groups: dict[str, dict[str, float]] = {tag or NOT_TAGGED: {**numbers, **new} for tag, numbers in found.items()}
    if policy.conversion is not None:
        goal = read_policy_goal(policy.conversion)
        converted = await count_conversions(facts, account, {0: goal}, Grouping(cell="tag_group", each=True))
        for tag in found:
            groups[tag or NOT_TAGGED].update(show_conversions(goal, converted.get((0, tag))))
    for tag, name, count in interactions:
        group = groups.get(tag or NOT_TAGGED)
        if group is not None:
            group[_KIND_OF_EVENT[name]] = int(count)
    return groups


async def count_labels(ledger: Ledger, facts: Facts, account_id: str, limit: int = 1000) -> dict[str, dict[str, float]]:
    """Return {campaigns, audience, *NUMBERS, viewed, clicked, converted} by label, over the newest `limit` campaigns;
    with `show_conversions` of those that have a goal. A campaign with two labels counts in both."""

    def read(
        connection: Connection,
    ) -> tuple[Account, dict[int, list[str]], dict[int, Goal], dict[int, dict[str, int]], dict[int, int]]:
        labels = find_labels(connection, account_id, limit)
        rows = list_campaigns(connection, account_id, campaign_ids=list(labels))
        numbers = counts.sum_numbers_of_campaigns(connection, list(labels))
        goals = find_goals(connection, account_id, list(labels))
        account = Account.load(connection, account_id)
        return account, labels, goals, numbers, {row.id: row.audience for row in rows}

    account, labels, goals, numbers, audiences = await ledger.read(read)
    if not labels:
        return {}
    interactions, converted = await asyncio.gather(
        count_interactions(facts, account_id, list(labels)), count_conversions(facts, account, goals)
    )
    found: dict[str, list[dict[str, float]]] = {}
    for one, names in labels.items():
        goal = goals.get(one)
        conversions = {} if goal is None else show_conversions(goal, converted.get((one, "")))
        own = {"campaigns": 1, "audience": audiences[one], **numbers[one], **interactions[one], "converted": 0}
        for label in names:
            found.setdefault(label, []).append(own | conversions)
    return {label: add_up(those) for label, those in sorted(found.items())}


def add_up(those: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of numbers by name."""
    total: dict[str, float] = {}
    for numbers in those:
        for name, number in numbers.items():
            total[name] = total.get(name, 0) + number
    return total


async def list_targets(
    ledger: Ledger, account_id: str, due: tuple[float, float] | None = None, limit: int = PAGE, offset: int = 0
) -> list[dict[str, Any]]:
    """Return `limit` campaigns from `offset` on, newest first: {id, name, channel, state, due_at, audience, ended,
    *NUMBERS}. due: [from, to) in epoch seconds; those with a run in it."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        rows = list_campaigns(connection, account_id, due=due, limit=limit, offset=offset)
        numbers = counts.sum_numbers_of_campaigns(connection, [row.id for row in rows])
        return [
            {
                "id": row.id,
                "name": row.name,
                "channel": row.channel,
                "state": row.state,
                "due_at": row.due_at,
                "audience": row.audience,
                "ended": row.ended_at is not None,
                **numbers[row.id],
            }
            for row in rows
        ]

    return await ledger.read(read)


def documented_state(state: str, due_at: float, now: float) -> str:
    """Return a run's state in the words of `targets/list.json`: a scheduled one of the future is pending."""
    return "pending" if state == "scheduled" and due_at > now else state


def scheduled_on(due_at: float, zone: Any) -> int:
    """Return the local time of a run as the integer YYYYMMDDHHMM, as CleverTap lists it."""
    return int(datetime.fromtimestamp(due_at, zone).strftime("%Y%m%d%H%M"))


def backlog(connection: Connection, now: float) -> Mapping[str, float]:
    """Return {chunks, overdue, leaving, leaving_oldest}: the open chunks; for how many seconds the oldest due run has
    waited to start; the deleted people who are not erased, and for how many seconds the oldest of them is not."""
    chunk, run, leaver = schema.chunk, schema.run, schema.leaver
    # Two counts, for two indexes: history is not read. Who is held is open.
    free = select(func.count()).where(schema.chunk_is_open, chunk.c.lease_owner.is_(None))
    held = select(func.count()).where(chunk.c.lease_owner.is_not(None))
    held_back = func.coalesce(run.c.retry_at, 0.0) >= queue.HOLD_SECONDS  # until somebody says so: nothing is wrong
    oldest = connection.scalar(select(func.min(run.c.due_at)).where(run.c.state == "scheduled", ~held_back))
    asked = select(func.count(), func.min(leaver.c.asked_at)).where(leaver.c.erased_at.is_(None))
    leaving, since = connection.execute(asked).one()
    return {
        "chunks": float(sum(connection.scalar(query) or 0 for query in (free, held))),
        "overdue": max(0.0, now - oldest) if oldest is not None else 0.0,
        "leaving": float(leaving),
        "leaving_oldest": max(0.0, now - since) if since is not None else 0.0,
    }
