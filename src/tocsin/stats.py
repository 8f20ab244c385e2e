"""Stage 7 of 7, stats: questions with answers. What was sent comes from the ledger, which is exact at any moment; views
and clicks come from facts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from tocsin import chunk as chunks
from tocsin.campaign import Found, find_campaign, list_campaigns
from tocsin.errors import Problem
from tocsin.intake import NOT_TAGGED
from tocsin.outcome import NUMBERS
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

INTERACTIONS = {"viewed": "Notification Viewed", "clicked": "Notification Clicked"}


async def read_result(ledger: Ledger, facts: Facts, account_id: str, campaign_id: int) -> dict[str, int]:
    """The numbers of a campaign in which every recipient is final: audience = sent + unknown + failed + suppressed.
    Raises Problem while it is not, with the documented sentence. A campaign with several runs has numbers from its
    first completed run on, and they grow; `missed` counts runs whose time passed, if there are any."""

    def read(connection: Connection) -> tuple[Found, dict[str, int]]:
        found = find_campaign(connection, account_id, campaign_id)
        return found, chunks.sum_numbers(connection, campaign_id)

    found, numbers = await ledger.read(read)
    over = found.ended_at is not None and (found.frozen_at is not None or found.missed)
    if not over and not found.completed:
        raise Problem("This target hasn't been completed", code=None)
    interactions = await count_interactions(facts, account_id, [campaign_id])
    missed = {"missed": found.missed} if found.missed else {}
    return {
        **numbers,
        "audience": found.audience,
        **interactions.get(campaign_id, {"viewed": 0, "clicked": 0}),
        **missed,
    }


async def count_interactions(facts: Facts, account_id: str, campaign_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Recipients who viewed and clicked, by campaign. A message counts once, however often it is reported."""
    rows = await facts.query(
        "SELECT toUInt32(props.`Campaign id`.:Float64) AS campaign, name, uniqExact(id) FROM event "
        "WHERE account = {account:String} AND name IN {names:Array(String)} "
        "AND campaign IN {campaigns:Array(UInt32)} GROUP BY campaign, name",
        {"account": account_id, "names": list(INTERACTIONS.values()), "campaigns": list(campaign_ids)},
    )
    counts = {campaign: {"viewed": 0, "clicked": 0} for campaign in campaign_ids}
    for campaign, name, count in rows:
        counts[int(campaign)][_short(name)] = int(count)
    return counts


async def count_tag_groups(ledger: Ledger, facts: Facts, account_id: str) -> dict[str, dict[str, int]]:
    """The numbers of every tag group of the sends by identity; those without one are «Not Tagged»."""
    table = schema.chunk

    def read(connection: Connection) -> list[tuple[str, dict[str, int]]]:
        rows = connection.execute(
            select(table.c.tag_group, func.sum(table.c.size), *(func.sum(table.c[name]) for name in NUMBERS))
            .where(table.c.account_id == account_id, table.c.run_id.is_(None))
            .group_by(table.c.tag_group)
        )
        return [(row[0], dict(zip(("audience", *NUMBERS), map(int, row[1:]), strict=True))) for row in rows]

    clicks = facts.query(
        "SELECT JSONExtractString(raw, 'Tag group') AS tag, name, uniqExact(id) FROM event "
        "WHERE account = {account:String} AND name IN {names:Array(String)} AND props.`Campaign id`.:Float64 = 0 "
        "GROUP BY tag, name",
        {"account": account_id, "names": list(INTERACTIONS.values())},
    )
    found, interactions = await asyncio.gather(ledger.read(read), clicks)
    groups = {tag or NOT_TAGGED: {**numbers, "viewed": 0, "clicked": 0} for tag, numbers in found}
    for tag, name, count in interactions:
        group = groups.get(tag or NOT_TAGGED)
        if group is not None:
            group[_short(name)] = int(count)
    return groups


async def list_targets(
    ledger: Ledger, account_id: str, due: tuple[float, float] | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """Campaigns, newest first: {id, name, channel, state, due_at, audience, ended} and their NUMBERS."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        rows = list_campaigns(connection, account_id, due=due, limit=limit)
        numbers = chunks.sum_numbers_of_campaigns(connection, [row.id for row in rows])
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
    """A run's state in the words of `targets/list.json`: a future one is pending."""
    return "pending" if state == "scheduled" and due_at > now else state


def scheduled_on(due_at: float, zone: Any) -> int:
    """Minutes of the account's clock as the integer YYYYMMDDHHMM."""
    return int(datetime.fromtimestamp(due_at, zone).strftime("%Y%m%d%H%M"))


def backlog(connection: Connection, now: float) -> Mapping[str, float]:
    """chunks: open ones. overdue: seconds the oldest due run has waited for its start."""
    table, run = schema.chunk, schema.run
    oldest = connection.scalar(select(func.min(run.c.due_at)).where(run.c.state == "scheduled"))
    return {
        "chunks": float(connection.scalar(select(func.count()).where(table.c.open == 1)) or 0),
        "overdue": max(0.0, now - oldest) if oldest is not None else 0.0,
    }


def _short(name: str) -> str:
    return next(short for short, event in INTERACTIONS.items() if event == name)
