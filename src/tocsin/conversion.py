"""Conversions: who did what a campaign was for, in time after its message."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tocsin.errors import Problem
from tocsin.store.facts import Facts

TIME = re.compile(r"([0-9]{1,4})([mHDWM])")
UNITS = {"m": 60, "H": 3600, "D": 86_400, "W": 7 * 86_400, "M": 30 * 86_400}
LEAST, MOST = 60, 150 * 86_400  # a minute to five months, as in CleverTap


class Goal(msgspec.Struct, frozen=True):
    """An event, and the seconds after a message in which it counts for it."""

    event_name: str
    seconds: int


def read_goal(raw: Any) -> Goal | None:
    """The `conversion_goal` of a campaign. Raises Problem."""
    if raw is None:
        return None
    name = raw.get("event_name") if isinstance(raw, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise Problem("conversion_goal needs an event_name (at $.conversion_goal)")
    if raw.get("filter_type"):
        raise Problem("filter_type is not supported, and leaving it out would count more (at $.conversion_goal)")
    return Goal(name, read_time(raw.get("conversion_time", "1D"), "$.conversion_goal.conversion_time"))


def read_time(text: Any, place: str) -> int:
    """Seconds of a time such as 30m, 1H, 1D, 1W or 1M (30 days). Raises Problem."""
    found = TIME.fullmatch(text) if isinstance(text, str) else None
    seconds = int(found[1]) * UNITS[found[2]] if found else 0
    if not LEAST <= seconds <= MOST:
        raise Problem(f"a time is 1m to 5M, such as 30m, 1H, 1D, 1W (at {place})")
    return seconds


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
