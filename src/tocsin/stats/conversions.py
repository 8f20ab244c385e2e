"""Conversions, counted in the facts store: what people did within a goal's time after a message, and what it was worth.

All campaigns, whatever their goals, are one question. It reads the campaigns' outcomes of those who did one of the
events in those days (the daily bitmaps know them), and joins these events to them: what grows with the audience is
read and forgotten, what is held grows with those who may have converted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from tocsin.account import Account
from tocsin.audience.compile import Writer
from tocsin.audience.node import Day, Did
from tocsin.campaign.goal import Counted, Goal
from tocsin.feedback.interactions import INTERACTIONS
from tocsin.store.facts import Facts, Row

COUNTED = 100  # kinds of events in one question; further ones are a second
DAY = 86_400
SENT = "outcome = 'accepted'"


class Conversions(msgspec.Struct, frozen=True, kw_only=True):
    """Who converted. click_through: after a click on their message; view_through: of the others, after a view. revenue:
    of all events that count. squares: the sum of the squares of what each of them was worth."""

    converted: int = 0
    click_through: int = 0
    view_through: int = 0
    revenue: float = 0.0
    squares: float = 0.0


class PartConversions(msgspec.Struct, frozen=True, kw_only=True):
    """Who converted in one part of a group, and the revenue that is added there."""

    converted: int
    revenue: float


class ConvertedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that somebody converted after. message: chunk * 65536 + position. event: the id of theirs that counts.
    at: when that was, in epoch seconds. worth: what it was worth. parts: those of the grouping."""

    campaign_id: int
    user: int
    message: int
    event: int
    at: int
    worth: float
    parts: tuple[str, ...]


class Grouping(msgspec.Struct, frozen=True, kw_only=True):
    """Of which messages, and how they are told apart. messages: SQL, true for an outcome that counts. cell: SQL, the
    group of an outcome. people: SQL, true for a user who is looked at. parts: SQL texts, which divide a group further
    for `count_shares`. each: whether every message counts by itself, not every user."""

    messages: str = SENT
    cell: str = "''"
    people: str = ""
    parts: tuple[str, ...] = ()
    each: bool = False
    values: Mapping[str, Any] = {}


async def count_conversions(
    facts: Facts, account: Account, goals: Mapping[int, Goal], grouping: Grouping | None = None
) -> dict[tuple[int, str], Conversions]:
    """Return the conversions by campaign and group, where there are any. A user counts once for a group, however often
    they did the event and on how many devices they got the message; so does an event, however many messages it
    followed."""
    rows = await _ask(facts, account, goals, grouping or Grouping(), _sum_groups)
    return {
        (int(campaign), str(cell)): Conversions(
            converted=int(converted),
            click_through=int(clicked),
            view_through=int(viewed),
            revenue=float(revenue),
            squares=float(squares),
        )
        for campaign, cell, converted, clicked, viewed, revenue, squares in rows
    }


async def count_shares(
    facts: Facts, account: Account, goals: Mapping[int, Goal], grouping: Grouping
) -> list[tuple[int, Sequence[str], PartConversions]]:
    """Return the conversions by campaign and the parts of `grouping`. They add up to those of `count_conversions`: what
    counts once for a group counts in the part of the first message it followed."""
    rows = await _ask(facts, account, goals, grouping, _sum_parts)
    return [
        (int(campaign), parts, PartConversions(converted=int(converted), revenue=float(revenue)))
        for campaign, parts, converted, revenue in rows
    ]


async def find_converted(
    facts: Facts, account: Account, goals: Mapping[int, Goal], grouping: Grouping
) -> list[ConvertedMessage]:
    """Return the first conversion of each user of each campaign, or with `grouping.each` of each message."""
    rows = await _ask(facts, account, goals, grouping, _list_firsts)
    return [
        ConvertedMessage(
            campaign_id=int(campaign),
            user=int(user),
            message=int(first[0]),
            event=int(first[1]),
            at=int(first[2]),
            worth=float(first[3]),
            parts=tuple(map(str, first[4])),
        )
        for campaign, user, first in rows
    ]


async def count_people(
    facts: Facts, account_id: str, campaign_id: int, grouping: Grouping
) -> dict[str, tuple[int, float]]:
    """Return how many people each group of a campaign has, and when the time of the last of them began."""
    rows = await facts.query(
        f"SELECT {grouping.cell} AS cell, uniqExact(user), max(toUnixTimestamp(at)) FROM outcome FINAL "
        "WHERE account = {account:String} AND campaign = {campaign:UInt32} AND user != 0 "
        f"AND {grouping.messages} GROUP BY cell",
        {**grouping.values, "account": account_id, "campaign": campaign_id},
    )
    return {str(cell): (int(count), float(at)) for cell, count, at in rows}


async def _ask(
    facts: Facts, account: Account, goals: Mapping[int, Goal], grouping: Grouping, ending: Callable[[Grouping], str]
) -> list[Row]:
    """Return the answer to the questions about goals, each of COUNTED kinds of events. ending: writes what is asked of
    `by_event`."""
    kinds: dict[Counted, dict[int, Goal]] = {}
    for campaign, goal in goals.items():
        kinds.setdefault(goal.counted, {})[campaign] = goal
    names, found = list(kinds), list[Row]()
    for start in range(0, len(names), COUNTED):
        some = {one: kinds[one] for one in names[start : start + COUNTED]}
        found += await _count(facts, account, some, grouping, ending)
    return found


async def _count(
    facts: Facts,
    account: Account,
    kinds: Mapping[Counted, Mapping[int, Goal]],
    grouping: Grouping,
    ending: Callable[[Grouping], str],
) -> list[Row]:
    campaigns = {one: (kind, goal) for kind, of in enumerate(kinds.values()) for one, goal in of.items()}
    days = await facts.query(
        "SELECT min(day), max(day) FROM outcome "
        "WHERE account = {account:String} AND campaign IN {campaigns:Array(UInt32)} HAVING count() > 0",
        {"account": account.id, "campaigns": list(campaigns)},
    )
    if not days:
        return []
    writer = Writer(account, 0.0)
    last = max(goal.seconds for _, goal in campaigns.values())
    writer.parameters |= {
        **grouping.values,
        "names": list(dict.fromkeys(one.event_name for one in kinds)),
        "interactions": list(INTERACTIONS.values()),
        "clicked": INTERACTIONS["clicked"],
        "viewed": INTERACTIONS["viewed"],
        "campaigns": list(campaigns),
        "kinds": [kind for kind, _ in campaigns.values()],
        "seconds": [goal.seconds for _, goal in campaigns.values()],
        "first": days[0][0] - timedelta(1),
        "last": days[0][1] + timedelta(last // DAY + 2),
    }
    events = " UNION ALL ".join(_write_events(writer, number, one, grouping) for number, one in enumerate(kinds))
    return await facts.query(_write_question(events, grouping, ending(grouping)), writer.parameters)


# Who did one of the events in those days: only their messages and views are looked at.
_DOERS = """bitmapContains((SELECT groupBitmapMergeState(users) FROM activity WHERE account = {account:String}
    AND name IN {names:Array(String)} AND day BETWEEN {first:Date} AND {last:Date}), user)"""


def _write_events(writer: Writer, number: int, counted: Counted, grouping: Grouping) -> str:
    """Return a query of the events of one kind: (kind, user, at, id, worth)."""
    did = Did(counted.event_name, Day(), Day(), counted.properties, counted.session)
    name = writer.write_name(did)
    days = (writer.parameters["first"], writer.parameters["last"])
    meets = [name, "day BETWEEN {first:Date} AND {last:Date}", *writer.write_event(did, days)]
    if grouping.people:
        meets.append(grouping.people)
    if counted.session.first is not None:  # of all time, by the same order as in a `where`
        firsts = f"SELECT user, min((at, id)) FROM event WHERE {name} AND {_DOERS} GROUP BY user"
        meets.append(f"(user, (at, id)) {'' if counted.session.first else 'NOT '}IN ({firsts})")
    worth = "0." if counted.revenue_property is None else writer.write_worth(counted.revenue_property)
    return (
        f"SELECT toUInt16({number}) AS kind, user, at, id, toFloat64({worth}) AS worth "
        f"FROM event WHERE {' AND '.join(meets)}"
    )


def _write_question(events: str, grouping: Grouping, ending: str) -> str:
    """Return the whole question. From the inside: messages and the events in time after each; each event once, with the
    messages it followed, `by_event`; what the ending asks of these."""
    parts = f"[{', '.join(grouping.parts)}]" if grouping.parts else "CAST([], 'Array(String)')"
    messages = f"""
        SELECT campaign, {grouping.cell} AS cell, {parts} AS parts, user,
            chunk * 65536 + position AS message, at AS sent,
            transform(campaign, {{campaigns:Array(UInt32)}}, {{kinds:Array(UInt16)}}, toUInt16(0)) AS kind,
            transform(campaign, {{campaigns:Array(UInt32)}}, {{seconds:Array(UInt32)}}, toUInt32(0)) AS seconds
        FROM outcome FINAL
        WHERE account = {{account:String}} AND campaign IN {{campaigns:Array(UInt32)}}
            AND {grouping.messages} AND {grouping.people or "1"} AND {_DOERS}"""
    seen = f"""
        SELECT id AS message, minOrNullIf(at, name = {{clicked:String}}) AS clicked,
            minOrNullIf(at, name = {{viewed:String}}) AS viewed
        FROM event
        WHERE account = {{account:String}} AND name IN {{interactions:Array(String)}} AND day >= {{first:Date}}
            AND {_DOERS}
            AND has({{campaigns:Array(UInt32)}}, accurateCastOrNull(props.`Campaign id`.:Float64, 'UInt32'))
        GROUP BY id"""
    gather = "groupUniqArrayIf(m.message, {})" if grouping.each else "max({})"
    by_event = f"""
        SELECT m.campaign AS campaign, m.cell AS cell, m.parts AS parts, e.user AS user, e.at AS at, e.id AS id,
            any(e.worth) AS worth, min((m.sent, m.message)) AS began,
            {gather.format("1")} AS after,
            {gather.format("ifNull(s.clicked <= e.at, 0)")} AS clicked,
            {gather.format("ifNull(s.viewed <= e.at, 0)")} AS viewed
        FROM ({events}) AS e
        INNER JOIN ({messages}) AS m ON e.user = m.user AND e.kind = m.kind
        LEFT JOIN ({seen}) AS s ON m.message = s.message
        WHERE e.at >= m.sent AND e.at <= m.sent + m.seconds
        GROUP BY campaign, cell, parts, user, at, id"""
    return f"WITH by_event AS ({by_event}) {ending}"


def _sum_groups(grouping: Grouping) -> str:
    """Return (campaign, cell, converted, click-through, view-through, revenue, squares): of each user the messages that
    led to an event, and then the sums. Of messages their ids are gathered, of users only whether there are any."""
    if grouping.each:
        merge = "groupUniqArrayArray({})"
        numbers = "sum(length(after)), sum(length(clicked)), sum(length(arrayFilter(x -> NOT has(clicked, x), viewed)))"
    else:
        merge, numbers = "max({})", "count(), countIf(clicked = 1), countIf(viewed = 1 AND clicked = 0)"
    by_user = f"""
        SELECT campaign, cell, user, sum(worth) AS worth, {merge.format("after")} AS after,
            {merge.format("clicked")} AS clicked, {merge.format("viewed")} AS viewed
        FROM by_event GROUP BY campaign, cell, user"""
    return f"SELECT campaign, cell, {numbers}, sum(worth), sum(worth * worth) FROM ({by_user}) GROUP BY campaign, cell"


def _list_firsts(grouping: Grouping) -> str:
    """Return (campaign, user, (message, event, at, worth, parts)) of the first event of each user, or message."""
    message, each = ("arrayJoin(after)", ", message") if grouping.each else ("began.2", "")
    return (
        "SELECT campaign, user, argMin((message, id, toUnixTimestamp(at), worth, parts), (at, id, began)) "
        f"FROM (SELECT *, {message} AS message FROM by_event) GROUP BY campaign, user{each}"
    )


def _sum_parts(grouping: Grouping) -> str:
    """Return (campaign, parts, converted, revenue): of what counts once for a group the first is taken."""
    converted = "uniqExactArray(after)" if grouping.each else "countIf(of_user = 1)"
    turns = """
        SELECT *, row_number() OVER (PARTITION BY campaign, cell, user, at, id ORDER BY began) AS of_event,
            row_number() OVER (PARTITION BY campaign, cell, user ORDER BY at, id, began) AS of_user
        FROM by_event"""
    return f"SELECT campaign, parts, {converted}, sumIf(worth, of_event = 1) FROM ({turns}) GROUP BY campaign, parts"
