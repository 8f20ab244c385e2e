"""Conversions, counted in the facts store: users who did a goal's event within its time after a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.campaign.goal import Goal
from tocsin.store.facts import Facts


async def count_conversions(facts: Facts, account_id: str, campaigns: Mapping[int, Goal]) -> dict[int, int]:
    """Return the converted users of each campaign. A user counts once for a campaign, however often they did the event
    and on how many devices they got the message."""
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
    """Return the messages of sends by identity that the event followed in time, by tag group."""
    rows = await facts.query(
        f"SELECT tag_group, uniqExact(chunk, position) FROM ({_CONVERTED}) GROUP BY tag_group",
        _values(account_id, goal, [0]),
    )
    return {str(tag): int(count) for tag, count in rows}


async def count_conversions_by_chunk(
    facts: Facts, account_id: str, goal: Goal, campaign_id: int, names: Mapping[int, str]
) -> dict[str, int]:
    """Return the converted users of a campaign by the name that `names` gives their chunk; "" for the other chunks."""
    rows = await facts.query(
        "SELECT transform(chunk, {chunks:Array(UInt64)}, {names:Array(String)}, '') AS called, uniqExact(user) "
        f"FROM ({_CONVERTED}) GROUP BY called",
        _values(account_id, goal, [campaign_id]) | {"chunks": list(names), "names": list(names.values())},
    )
    return {str(name): int(count) for name, count in rows}


# Accepted messages that the event followed within the goal's time, a row for each such event.
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
