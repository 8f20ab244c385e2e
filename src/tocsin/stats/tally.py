"""Events and people counted by a question: how many, the most frequent values of a property, by day, and just now."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tocsin.account import Account
from tocsin.audience.compile import Sql, Writer, compile_members
from tocsin.audience.events import compile_events
from tocsin.audience.node import Did, Query
from tocsin.feedback.interactions import MACHINE
from tocsin.stats.export.person import read_people
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.props import NOTHING, SEPARATOR, fold, path_of

NOW_SECONDS = 300  # «now» is the last five minutes
NOT_THEIRS = ["Notification Sent", "App Uninstalled", *MACHINE.values()]
STEPS = (1, 2, 5)  # of the widths of ranges, with any power of ten

Period = Literal["daily", "weekly", "monthly"]
# A period → its key in SQL: 20261231, 202653 (the ISO week), 202612.
_PERIODS: Mapping[str, str] = {
    "daily": "toYYYYMMDD(day)",
    "weekly": "toISOYear(day) * 100 + toISOWeek(day)",
    "monthly": "toYYYYMM(day)",
}


class Events(msgspec.Struct, frozen=True):
    """The events that a question is about: those of `base`, of people of whom `rest` is true."""

    base: Did
    rest: tuple[Query, ...]

    def compile(self, account: Account, now: float) -> Sql:
        """Return the condition on a row of `event`."""
        return compile_events(self.base, self.rest, account, now)


class Ranking(msgspec.Struct, frozen=True):
    """Which values of a property: of the event itself, or of the people who raised it; so many, from the most frequent
    on or from the rarest."""

    name: str
    of_people: bool
    most: int
    rarest: bool


async def count_members(facts: Facts, account: Account, query: Query, now: float) -> int:
    """Return how many people a question means."""
    members = compile_members(query, account, now)
    [(count,)] = await facts.query(f"SELECT count() FROM ({members.text})", members.parameters)
    return int(count)


async def count_events(facts: Facts, account: Account, events: Events, now: float) -> int:
    """Return how many there are, each once however often it was uploaded."""
    meets = events.compile(account, now)
    [(count,)] = await facts.query(f"SELECT count() FROM event FINAL WHERE {meets.text}", meets.parameters)
    return int(count)


async def count_active(facts: Facts, account: Account, now: float) -> int:
    """Return how many people did anything in the last five minutes: not what we or a machine did for them."""
    [(count,)] = await facts.query(
        "SELECT uniqExact(user) FROM event WHERE account = {account:String} AND name NOT IN {names:Array(String)} "
        "AND day BETWEEN toDate({first:UInt32}) - 1 AND toDate({last:UInt32}) + 1 "
        "AND at > toDateTime({first:UInt32}) AND at <= toDateTime({last:UInt32})",
        {"account": account.id, "names": NOT_THEIRS, "first": int(now) - NOW_SECONDS, "last": int(now)},
    )
    return int(count)


async def count_by_period(
    facts: Facts, account: Account, events: Events, period: Period, now: float, *, unique: bool, summed: str | None
) -> dict[str, float]:
    """Return the events of each day, week or month that has any; with `unique` the people, with `summed` the sum of
    that property."""
    meets, writer = events.compile(account, now), Writer(account, now)
    parameters = dict(meets.parameters)
    number = "uniqExact(user)" if unique else "count()"
    if summed is not None:
        writer.parameters |= parameters  # so that its names are new
        number, parameters = f"sum({writer.write_worth(summed)})", writer.parameters
    rows = await facts.query(
        f"SELECT {_PERIODS[period]} AS period, {number} FROM event FINAL "
        f"WHERE {meets.text} GROUP BY period ORDER BY period",
        parameters,
    )
    return {str(period): number if summed is not None else int(number) for period, number in rows}


async def rank_values(
    ledger: Ledger, facts: Facts, account: Account, events: Events, ranking: Ranking, now: float
) -> dict[str, dict[str, int]]:
    """Return {STR: {value: count}, NUMBER: {range: count}} of a property, either where there are any: events by the
    values of theirs, people by those of theirs. An element of a list is a value."""
    meets = events.compile(account, now)
    rows = f"event FINAL WHERE {meets.text}"
    if ranking.of_people:
        raised = f"SELECT user FROM event WHERE {meets.text}"
        rows = f"profile FINAL WHERE account = {{account:String}} AND user IN ({raised})"
    values = {**meets.parameters, "path": path_of(ranking.name), "most": ranking.most, "separator": SEPARATOR}
    texts = await _rank_texts(ledger, facts, account, ranking, rows, values)
    numbers = await _rank_numbers(facts, ranking, rows, values)
    return {kind: found for kind, found in (("STR", texts), ("NUMBER", numbers)) if found}


async def _rank_texts(
    ledger: Ledger, facts: Facts, account: Account, ranking: Ranking, rows: str, values: Mapping[str, Any]
) -> dict[str, int]:
    """Return the texts with their counts. Texts that differ in their case only are one, in one of their spellings."""
    text = "splitByString({separator:String}, ifNull(dynamicElement({path:Identifier}, 'String'), ''))"
    shown = "toString(user)" if ranking.of_people else "JSONExtractString(raw, {name:String})"
    found = await facts.query(
        "SELECT element, minIf(shown, shown != ''), count() AS n "
        f"FROM (SELECT arrayJoin(arraySlice({text}, 2, -1)) AS element, {shown} AS shown FROM {rows}) "
        f"WHERE element NOT IN ('', {{nothing:String}}) GROUP BY element "
        f"ORDER BY n {'ASC' if ranking.rarest else 'DESC'}, element LIMIT {{most:UInt32}}",
        {**values, "name": ranking.name, "nothing": NOTHING},
    )
    spelled = {str(element): str(shown) for element, shown, _ in found}
    if ranking.of_people:
        spelled = await _spell(ledger, account, ranking.name, spelled)
    return {
        spelled[element] if fold(spelled.get(element, "")) == element else str(element): int(count)
        for element, _, count in found
    }


async def _spell(ledger: Ledger, account: Account, name: str, holders: Mapping[str, str]) -> dict[str, str]:
    """Return how somebody who has each value spells it. holders: a user by value."""
    users = sorted({int(user) for user in holders.values()})
    people = await ledger.read(lambda connection: read_people(connection, account.id, users))
    spelled: dict[str, str] = {}
    for element, user in holders.items():
        value = msgspec.json.decode(people[int(user)].profile).get(name) if int(user) in people else None
        those = value if isinstance(value, list) else [value]
        spelled[element] = next((one for one in those if isinstance(one, str) and fold(one) == element), element)
    return spelled


async def _rank_numbers(facts: Facts, ranking: Ranking, rows: str, values: Mapping[str, Any]) -> dict[str, int]:
    """Return the ranges that numbers lie in, with their counts: from the lower end on, up to the upper one."""
    number = "assumeNotNull(dynamicElement({path:Identifier}, 'Float64'))"
    there = f"{rows} AND isNotNull(dynamicElement({{path:Identifier}}, 'Float64'))"
    [(count, low, high, whole)] = await facts.query(
        f"SELECT count(), min({number}), max({number}), min({number} = floor({number})) FROM {there}", values
    )
    if not count:
        return {}
    width = find_width(float(low), float(high), ranking.most, whole=bool(whole))
    found = await facts.query(
        f"SELECT floor({number} / {{width:Float64}}) AS place, count() AS n FROM {there} GROUP BY place "
        f"ORDER BY n {'ASC' if ranking.rarest else 'DESC'}, place LIMIT {{most:UInt32}}",
        {**values, "width": width},
    )
    return {f"{_show(place * width)}-{_show((place + 1) * width)}": int(count) for place, count in found}


def find_width(low: float, high: float, most: int, *, whole: bool) -> float:
    """Return how wide ranges are of which `most`, or a few more, hold all numbers from `low` to `high`: 1, 2 or 5 times
    a power of ten, and not below 1 for whole numbers."""
    least = (high - low) / most or 1.0
    power = 10.0 ** math.floor(math.log10(least))
    width = next((step * power for step in STEPS if step * power >= least), 10 * power)
    return max(width, 1.0) if whole else width


def _show(number: float) -> str:
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.10g}"
