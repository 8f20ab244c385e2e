"""Conversions counted in the facts store: who did what a campaign was for, in time after its message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.campaign.goal import Goal
from tocsin.store.facts import Facts


async def count_conversions(facts: Facts, account_id: str, campaigns: Mapping[int, Goal]) -> dict[int, int]:
    """Users who did what each campaign was for: once a user and campaign, however often and on how many devices."""
    found = dict.fromkeys(campaigns, 0)
    by_goal: dict[Goal, list[int]] = {}
    for campaign, goal in campaigns.items():
        by_goal.setdefault(goal, []).append(campaign)
    for goal, ids in by_goal.items():
        rows = await facts.query(
            f"SELECT campaign, uniqExact(user) FROM ({_CONVERTED}) GROUP BY campaign", _values(account_id, goal, ids)
        )
        found.update({int(campaign): int(count) for campaign, count in rows})
    return found


async def count_conversions_by_tag(facts: Facts, account_id: str, goal: Goal) -> dict[str, int]:
    """Messages of sends by identity that were followed by the event, by tag group."""
    rows = await facts.query(
        f"SELECT tag_group, uniqExact(chunk, position) FROM ({_CONVERTED}) GROUP BY tag_group",
        _values(account_id, goal, [0]),
    )
    return {str(tag): int(count) for tag, count in rows}


async def count_conversions_by_chunk(
    facts: Facts, account_id: str, goal: Goal, campaign_id: int, names: Mapping[int, str]
) -> dict[str, int]:
    """Users who did it, by what their chunk is called."""
    rows = await facts.query(
        "SELECT transform(chunk, {chunks:Array(UInt64)}, {names:Array(String)}, '') AS called, uniqExact(user) "
        f"FROM ({_CONVERTED}) GROUP BY called",
        _values(account_id, goal, [campaign_id]) | {"chunks": list(names), "names": list(names.values())},
    )
    return {str(name): int(count) for name, count in rows}


_CONVERTED = """
    SELECT o.campaign AS campaign, o.tag_group AS tag_group, o.chunk AS chunk, o.position AS position, o.user AS user
    FROM (SELECT * FROM outcome FINAL WHERE account = {account:String} AND outcome = 'accepted'
          AND campaign IN {campaigns:Array(UInt32)}) AS o
    INNER JOIN (SELECT user, at FROM event WHERE account = {account:String} AND name = {name:String}) AS e
    ON o.user = e.user
    WHERE e.at >= o.at AND e.at <= o.at + {seconds:UInt32}"""


def _values(account_id: str, goal: Goal, campaigns: Sequence[int]) -> dict[str, Any]:
    return {
        "account": account_id,
        "name": goal.event_name,
        "seconds": goal.seconds,
        "campaigns": list(campaigns),
    }
