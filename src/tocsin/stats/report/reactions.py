"""What people did with messages, by the columns of a report: views and clicks, conversions and what they were worth.

A view is counted in the hour and on the day it was reported first, a conversion in those of the message it followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select

from tocsin.campaign.goal import Goal, read_policy_goal
from tocsin.campaign.runs import find_goals
from tocsin.errors import Problem
from tocsin.feedback.interactions import EVENTS
from tocsin.policy import load_policy
from tocsin.stats.conversions import SENT, Grouping, PartConversions, count_shares
from tocsin.stats.report.recipients import WRITTEN, write_cells
from tocsin.stats.report.scope import CELLS, Column, Key, ReportScope, require_few
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

GOALS = 1000  # campaigns with a goal in one report
IN_INTERACTION = frozenset(("campaign", "label", "variant", "tag_group", "outcome", "code"))
_KIND_OF_EVENT = {event: kind for kind, event in EVENTS.items()}
_CAMPAIGN = "accurateCastOrNull(props.`Campaign id`.:Float64, 'UInt32')"
# A column of a report → of the events about messages. Who viewed one had got it, whatever the vendor said.
_OF_EVENT: dict[Column, str] = {
    "campaign": _CAMPAIGN,
    "run": f"if({_CAMPAIGN} = 0, 0, -toInt64(intDiv(id, 65536)))",
    "channel": "JSONExtractString(raw, 'Channel')",
    "variant": "if(JSONExtractString(raw, 'Variant') = 'default', '', JSONExtractString(raw, 'Variant'))",
    "platform": "JSONExtractString(raw, 'Platform')",
    "tag_group": "JSONExtractString(raw, 'Tag group')",
    "outcome": "'accepted'",
    "code": "''",
}
_OF_INTERACTION: dict[Column, str] = {
    **{name: _OF_EVENT[name] for name in ("outcome", "code")},
    "campaign": "campaign",
    "variant": "if(variant = 'default', '', variant)",
    "tag_group": "tag_group",
}

Reactions = Iterator[tuple[Key, str, float]]  # group, name of the number, and how many


async def count_reported(facts: Facts, scope: ReportScope) -> Reactions:
    """Return the views and clicks, of people and of machines, by `scope.keys`. A message counts once."""
    kept = not scope.dated and set(scope.by) <= IN_INTERACTION
    sql, values = _write_kept(scope) if kept else _write_events(scope)
    rows = await facts.query(sql, {**values, "names": list(EVENTS.values())})
    require_few(len(rows))
    return ((tuple(key), _KIND_OF_EVENT[name], int(count)) for *key, name, count in rows)


def _write_kept(scope: ReportScope) -> tuple[str, Any]:
    meets, values = scope.write_conditions("campaign")
    return (
        f"SELECT {write_cells(scope, _OF_INTERACTION)}name, uniqExactMerge(messages) FROM interaction "
        f"WHERE {meets} AND name IN {{names:Array(String)}} GROUP BY ALL LIMIT {CELLS + 1}"
    ), values


def _write_events(scope: ReportScope) -> tuple[str, Any]:
    meets, values = scope.write_conditions(_CAMPAIGN)
    keys = {name: _OF_EVENT.get(name, "") for name in scope.keys}
    keys |= {"day": "min(day)", "hour": "min(at)"}
    firsts = "".join(
        f"{keys[name] if name in ('day', 'hour') else f'any({keys[name]})'} AS k{number}, "
        for number, name in enumerate(scope.keys)
    )
    shown: dict[Column, str] = {name: f"k{number}" for number, name in enumerate(scope.keys)}
    if "day" in shown:
        shown["day"] = f"toString({shown['day']})"
    if "hour" in shown:
        shown["hour"] = f"toUnixTimestamp(toStartOfHour(toTimeZone({shown['hour']}, {{zone:String}})))"
    return (
        f"SELECT {write_cells(scope, shown)}name, count() FROM ("
        f"SELECT {firsts}name, id FROM event WHERE {meets} AND name IN {{names:Array(String)}} "
        f"AND {_CAMPAIGN} IS NOT NULL GROUP BY name, id) GROUP BY ALL LIMIT {CELLS + 1}"
    ), values


async def count_converted(ledger: Ledger, facts: Facts, scope: ReportScope) -> Reactions:
    """Return the conversions and their revenue by `scope.keys`. Of a campaign a person counts once, with the first
    message that a conversion followed; of sends by identity each message."""
    of_campaigns, of_sends = await ledger.read(lambda connection: _find_goals(connection, scope))
    shares: list[tuple[int, Sequence[str], PartConversions]] = []
    if of_campaigns:
        shares += await count_shares(facts, scope.account, of_campaigns, _group(scope))
    if of_sends is not None:
        by_tag = _group(scope, cell="tag_group", each=True)
        shares += await count_shares(facts, scope.account, {0: of_sends}, by_tag)
    require_few(len(shares))
    return _name_shares(scope, shares)


def _name_shares(scope: ReportScope, shares: Sequence[tuple[int, Sequence[str], PartConversions]]) -> Reactions:
    for _, parts, share in shares:
        key = tuple(
            int(part) if name in ("campaign", "run", "hour") else part
            for name, part in zip(scope.keys, parts, strict=True)
        )
        yield key, "converted", share.converted
        yield key, "revenue", share.revenue


def _group(scope: ReportScope, **how: Any) -> Grouping:
    days, values = scope.write_days()
    parts = tuple(f"toString({WRITTEN[name]})" for name in scope.keys)
    return Grouping(messages=" AND ".join([SENT, *days]), parts=parts, values=values, **how)


def _find_goals(connection: Connection, scope: ReportScope) -> tuple[dict[int, Goal], Goal | None]:
    """Return the goals of campaigns, and that of the sends."""
    table = schema.campaign
    mine = (table.c.account_id == scope.account.id, table.c.goal.is_not(None), *scope.is_among(table.c.id))
    some = connection.scalars(select(table.c.id).where(*mine).limit(GOALS + 1)).all()
    if len(some) > GOALS:
        raise Problem(f"More than {GOALS} campaigns have a goal; name some (at $.campaigns)")
    policy = load_policy(connection, scope.account.id)
    goal = None if policy.conversion is None or not scope.sends else read_policy_goal(policy.conversion)
    return find_goals(connection, scope.account.id, some), goal
