"""A question as one SQL statement with bound parameters. Pure.

Each person is one row of `profile`, read once; the question is one condition on that row. What somebody did is a
bitmap of users, made before the rows are read: from the daily bitmaps of `activity` where the event's name and days
decide alone, else from one scan of that event's own rows. So the cost grows with the events asked for, not with all
events, and there is no join.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple, assert_never

from tocsin.account import Account
from tocsin.audience.node import (
    AllOf,
    AnyOf,
    Condition,
    Did,
    DidSum,
    Everybody,
    Is,
    Leaf,
    Near,
    Not,
    Query,
    Reachable,
    Sample,
    Times,
    Uses,
    walk,
)
from tocsin.audience.offsets import find_offsets
from tocsin.audience.property import SYMBOLS, write_condition, write_number
from tocsin.channels import CHANNELS, PLATFORMS
from tocsin.ingest.profile import REACHABLE

COLUMNS = (*PLATFORMS, "reach")  # of facts.sql
EPOCH = date(1970, 1, 1)  # the column `day` knows no earlier one
EARTH = 6371.0088  # km, mean radius
KM_A_DEGREE = 111.0  # a little less than there are, so that a box never cuts its circle
BITMAP = "groupBitmapState"


class Sql(NamedTuple):
    """A statement and its values; `reads`: the queries inside it that read events, with the same values."""

    text: str
    parameters: Mapping[str, Any]
    reads: tuple[str, ...] = ()


def compile_members(query: Query, account: Account, now: float, more: Sequence[str] = ()) -> Sql:
    """Return everybody the question means at `now`: rows of (user, android, ios, windows, email, sms, webpush, reach)
    and `more` columns of `profile`.

    In two stages where possible: first the conditions on the columns of `profile`, then, for those who are left, the
    bitmaps, draws and distances, which cost more than reading a column does.
    """
    writer, columns = Writer(account, now), (*COLUMNS, *more)
    rows: list[str] = []
    rest: list[str] = []
    for part in _parts(query):
        if isinstance(part, Near):
            rows.append(writer.write_boxes(part))
            rest.append(writer.write(part))
        else:
            (rest if _needs_only_user(part) else rows).append(writer.write(part))
    if not rows or not rest:
        text = select_people(columns, " AND ".join(rows or rest))
    else:
        inner = select_people((*columns, "latitude", "longitude"), " AND ".join(rows))
        text = f"SELECT user, {', '.join(columns)} FROM ({inner}) WHERE {' AND '.join(rest)}"
    return Sql(text, writer.parameters, tuple(writer.reads))


def _parts(query: Query) -> tuple[Query, ...]:
    """Return what must all be met."""
    return tuple(inner for part in query.of for inner in _parts(part)) if isinstance(query, AllOf) else (query,)


def _needs_only_user(query: Query) -> bool:
    return all(isinstance(node, Did | DidSum | Sample | AllOf | AnyOf | Not) for node in walk(query))


def select_people(columns: Sequence[str], meets: str) -> str:
    """Return the newest row of everybody of the account who meets the condition, as SQL."""
    return f"SELECT user, {', '.join(columns)} FROM profile FINAL WHERE account = {{account:String}} AND {meets}"


def compile_draw(members: Sql, platforms: Sequence[str], limit: int, seed: str) -> Sql:
    """Return at most `limit` of the members, drawn by a hash of seed and user, those who can be reached on a platform
    first."""
    reached = " OR ".join(f"{name} = {REACHABLE}" for name in PLATFORMS if name in platforms)
    drawn = "sipHash64(concat({draw:String}, ':', toString(user)))"
    text = f"{members.text} ORDER BY ({reached}) DESC, {drawn}, user LIMIT {{limit:UInt64}}"
    return Sql(text, {**members.parameters, "draw": seed, "limit": limit}, members.reads)


class Writer:
    """Writes one question, and gives each of its parameters a name of its own. With `user`, only what that user did is
    looked at."""

    def __init__(self, account: Account, now: float, user: int | None = None):
        self._zone = account.zone
        self._today = datetime.fromtimestamp(now, UTC).astimezone(account.zone).date()
        self._user = user
        self.parameters: dict[str, Any] = {"account": account.id}
        self.reads: list[str] = []  # the queries that make the bitmaps

    def write(self, query: Query) -> str:
        """Return a condition on a row of `profile`: 1 or 0, never NULL."""
        match query:
            case AllOf():
                return f"({' AND '.join(self.write(part) for part in query.of)})"
            case AnyOf():
                return f"({' OR '.join(self.write(part) for part in query.of)})"
            case Not():
                return f"NOT ({self.write(query.of)})"
            case _:
                return self.write_leaf(query)

    def write_leaf(self, leaf: Leaf) -> str:
        match leaf:
            case Everybody():
                return "1"
            case Did() | DidSum():
                self.reads.append(self._write_who(leaf))
                return f"bitmapContains(({self.reads[-1]}), user)"
            case Is():
                return f"({' AND '.join(self._write_condition(one) for one in leaf.properties)})"
            case Reachable():
                columns = CHANNELS[leaf.channel].platforms
                return f"({' OR '.join(f'{name} = {REACHABLE}' for name in columns)})"
            case Uses():
                return f"({' OR '.join(f'{name} != 0' for name in PLATFORMS if name in leaf.platforms)})"
            case Near():
                return f"({' OR '.join(self._write_circle(*circle) for circle in leaf.circles)})"
            case Sample():
                drawn = f"sipHash64(concat({self._bind(leaf.seed, 'String')}, ':', toString(user))) % 10000"
                return f"{drawn} < {self._bind(leaf.share, 'UInt16')}"
            case _:
                assert_never(leaf)

    def _write_who(self, leaf: Did | DidSum) -> str:
        """Return a query whose one value is the bitmap of the users."""
        if isinstance(leaf, DidSum):
            counts = " UNION ALL ".join(self._write_counts(did) for did in leaf.of)
            enough = self._write_times("sum(n)", leaf.times)
            return f"SELECT {BITMAP}(user) FROM (SELECT user FROM ({counts}) GROUP BY user HAVING {enough})"
        if leaf.times is not None or leaf.session.first is not None or leaf.session.last is not None:
            times = self._write_times("n", leaf.times or Times("greater_than_equals", 1))
            return f"SELECT {BITMAP}(user) FROM ({self._write_counts(leaf)}) WHERE {times}"
        name, days = self.write_name(leaf), self.write_days(leaf)
        meets = self.write_event(leaf)
        if not meets:
            return f"SELECT groupBitmapMergeState(users) FROM activity WHERE {name} AND {days}"
        return f"SELECT {BITMAP}(user) FROM event WHERE {name} AND {days}{self._only_user()} AND {' AND '.join(meets)}"

    def _write_counts(self, did: Did) -> str:
        """Return a query of (user, n), the number of such events, each once however often it was uploaded (FINAL)."""
        session = did.session
        event = f"FROM event FINAL WHERE {self.write_name(did)}{self._only_user()}"
        if session.first is None and session.last is None:
            meets = " AND ".join([self.write_days(did), *self.write_event(did)])
            return f"SELECT user, toInt64(count()) AS n {event} AND {meets} GROUP BY user"
        # The first and the latest of that name are of all time: the days count only for which events are meant.
        meets = " AND ".join([self.write_days(did), *self.write_event(did)])
        n = _count_ends(session.first, session.last)
        counted = (
            "toInt64(countIf(meets)) AS c, toInt64(argMin(meets, (at, id))) AS f, "
            "toInt64(argMax(meets, (at, id))) AS l, toInt64(count() = 1) AS one"
        )
        rows = f"SELECT user, at, id, toUInt8({meets}) AS meets {event}"
        return f"SELECT user, toInt64({n}) AS n FROM (SELECT user, {counted} FROM ({rows}) GROUP BY user) WHERE n > 0"

    def write_name(self, did: Did) -> str:
        """Return what an event of the account and of that name meets."""
        return f"account = {{account:String}} AND name = {self._bind(did.event, 'String')}"

    def write_days(self, did: Did) -> str:
        """Return what the day of an event meets."""
        first, last = (self._bind(max(day.resolve(self._today), EPOCH), "Date") for day in (did.first, did.last))
        return f"day BETWEEN {first} AND {last}"

    def write_event(self, did: Did, days: tuple[date, date] | None = None) -> list[str]:
        """Return what the event itself must meet, beyond its name and day. days: the first and the last, where they are
        not those of `did`."""
        session, days = did.session, days or (did.first.resolve(self._today), did.last.resolve(self._today))
        meets = [self._write_condition(one) for one in did.properties]
        if session.minutes:
            minute = self._write_minute(*days)
            meets.append(f"({' OR '.join(self._write_minutes(minute, *pair) for pair in session.minutes)})")
        if session.weekdays:  # ClickHouse counts from Monday, CleverTap from Sunday
            meets.append(f"has({self._bind(list(session.weekdays), 'Array(UInt8)')}, toDayOfWeek(day) % 7 + 1)")
        if session.monthdays:
            meets.append(f"has({self._bind(list(session.monthdays), 'Array(UInt8)')}, toDayOfMonth(day))")
        return meets

    def _write_minute(self, first: date, last: date) -> str:
        """Return the minute of the day on the account's clock, for events between two days."""
        changes, seconds = find_offsets(self._zone, max(first, EPOCH), max(last, EPOCH))
        past = f"arrayCount(change -> change <= toUnixTimestamp(at), {self._bind(list(changes), 'Array(Int64)')})"
        offset = f"arrayElement({self._bind(list(seconds), 'Array(Int32)')}, {past if changes else 0} + 1)"
        return f"intDiv((toInt64(toUnixTimestamp(at)) + {offset}) % 86400, 60)"

    def _write_minutes(self, minute: str, first: int, last: int) -> str:
        joined = "AND" if first <= last else "OR"  # over midnight
        return f"({minute} >= {self._bind(first, 'UInt16')} {joined} {minute} <= {self._bind(last, 'UInt16')})"

    def _write_times(self, number: str, times: Times) -> str:
        return f"{number} {SYMBOLS.get(times.operator, '=')} {self._bind(times.number, 'UInt32')}"

    def _write_condition(self, condition: Condition) -> str:
        return write_condition(condition, self._bind, self._zone, self._today)

    def write_worth(self, name: str) -> str:
        """Return the number of a property; 0 where there is none."""
        return write_number(name, self._bind)

    def write_boxes(self, near: Near) -> str:
        """Return the boxes around the circles: outside of them no sine needs to be computed."""
        return f"({' OR '.join(self._write_box(*circle) for circle in near.circles)})"

    def _write_box(self, latitude: float, longitude: float, kilometres: float) -> str:
        high = kilometres / KM_A_DEGREE
        box = f"latitude BETWEEN {self._degrees(latitude - high)} AND {self._degrees(latitude + high)}"
        top = min(abs(latitude) + high, 90.0)
        wide = high / math.cos(math.radians(top)) if top < 89 else 360.0
        if longitude - wide >= -180 and longitude + wide <= 180:
            box += f" AND longitude BETWEEN {self._degrees(longitude - wide)} AND {self._degrees(longitude + wide)}"
        return f"({box})"

    def _write_circle(self, latitude: float, longitude: float, kilometres: float) -> str:
        lat, lon = self._degrees(latitude), self._degrees(longitude)
        haversine = (
            f"pow(sin(radians(toFloat64(latitude) - {lat}) / 2), 2) + cos(radians({lat})) "
            f"* cos(radians(toFloat64(latitude))) * pow(sin(radians(toFloat64(longitude) - {lon}) / 2), 2)"
        )
        distance = f"2 * {EARTH} * asin(sqrt(least(1, {haversine})))"
        return f"({distance} <= {self._bind(kilometres, 'Float64')})"

    def _degrees(self, value: float) -> str:
        return self._bind(value, "Float64")

    def _only_user(self) -> str:
        return "" if self._user is None else f" AND user = {self._bind(self._user, 'UInt32')}"

    def _bind(self, value: Any, kind: str) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f"{{{name}:{kind}}}"


def _count_ends(first: bool | None, last: bool | None) -> str:
    """Return SQL for how many events that meet are (or are not) the first and the latest of their name. c: those that
    meet; f, l: whether the first, the latest does (1 or 0); one: whether they are the same event."""
    match first, last:
        case True, None:
            return "f"
        case None, True:
            return "l"
        case True, True:
            return "f * one"
        case True, False:
            return "f * (1 - one)"
        case False, True:
            return "l * (1 - one)"
        case False, None:
            return "c - f"
        case None, False:
            return "c - l"
        case _:
            return "c - f - l + f * one"
