"""What can be asked: a question as a tree of typed nodes. Nothing here knows JSON or SQL.

A campaign stores its question in this shape (as tagged JSON), so a field may be added with a default, never changed.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Literal, assert_never

import msgspec

from tocsin.store.props import Value

EARLIEST = date(1000, 1, 1)  # a day of a property; events have none before 1970


class Day(msgspec.Struct, frozen=True):
    """A day of the account's calendar: `on`, or so many units before the day of asking."""

    on: date | None = None
    ago: int = 0
    unit: Literal["d", "w", "m", "y"] = "d"

    def resolve(self, today: date) -> date:
        """Return the day as seen from `today`. Months and years ago are the same day of the month, or that month's
        last; nothing is before EARLIEST."""
        if self.on is not None:
            return self.on
        if self.unit in ("d", "w"):
            days = self.ago * (7 if self.unit == "w" else 1)
            return today - timedelta(days) if days < (today - EARLIEST).days else EARLIEST
        months = today.year * 12 + today.month - 1 - self.ago * (12 if self.unit == "y" else 1)
        year, month = divmod(months, 12)
        if year < EARLIEST.year:
            return EARLIEST
        return date(year, month + 1, min(today.day, calendar.monthrange(year, month + 1)[1]))


class Condition(msgspec.Struct, frozen=True):
    """One property compared with values; several values are OR, but `between` has its two ends. `match`: whether any
    or all elements of a list must meet it. What is equal to what, `property.py` says."""

    name: str
    operator: str
    values: tuple[Value | Day, ...] = ()
    match: Literal["any", "all"] = "any"


class Session(msgspec.Struct, frozen=True):
    """When an event was, beyond its day: the person's first or latest of its name (None: either way); minutes of the
    day, both ends included; days of the week, 1 is Sunday; days of the month. Empty: any."""

    first: bool | None = None
    last: bool | None = None
    minutes: tuple[tuple[int, int], ...] = ()
    weekdays: tuple[int, ...] = ()
    monthdays: tuple[int, ...] = ()


class Times(msgspec.Struct, frozen=True):
    """How many, of those who did it at all."""

    operator: str
    number: int


class Everybody(msgspec.Struct, frozen=True, tag="everybody"):
    """`where: {}`."""


class Did(msgspec.Struct, frozen=True, tag="did"):
    """Raised such an event between the two days, both included: at least once, or as often as `times` says."""

    event: str
    first: Day
    last: Day
    properties: tuple[Condition, ...] = ()
    session: Session = Session()
    times: Times | None = None


class DidSum(msgspec.Struct, frozen=True, tag="didsum"):
    """Raised as many events as `times` says, all of `of` together."""

    of: tuple[Did, ...]
    times: Times


class Is(msgspec.Struct, frozen=True, tag="is"):
    """Has a profile that meets every condition."""

    properties: tuple[Condition, ...]


class Reachable(msgspec.Struct, frozen=True, tag="reachable"):
    """A message on the channel would reach them now."""

    channel: Literal["push", "email"]


class Uses(msgspec.Struct, frozen=True, tag="uses"):
    """Has, or had, a device of one of the platforms."""

    platforms: tuple[str, ...]


class Near(msgspec.Struct, frozen=True, tag="near"):
    """Is in one of the circles: (latitude, longitude, kilometres)."""

    circles: tuple[tuple[float, float, float], ...]


class Sample(msgspec.Struct, frozen=True, tag="sample"):
    """Drawn by a hash of seed and user: `share` of 10,000."""

    share: int
    seed: str = ""


class AllOf(msgspec.Struct, frozen=True, tag="all"):
    """Meets every one of them."""

    of: tuple[Query, ...]


class AnyOf(msgspec.Struct, frozen=True, tag="any"):
    """Meets at least one of them."""

    of: tuple[Query, ...]


class Not(msgspec.Struct, frozen=True, tag="not"):
    """Does not meet it."""

    of: Query


Leaf = Everybody | Did | DidSum | Is | Reachable | Uses | Near | Sample
Query = Leaf | AllOf | AnyOf | Not


def walk(query: Query) -> Iterator[Query]:
    """Yield the node and all below it."""
    yield query
    match query:
        case AllOf() | AnyOf():
            for part in query.of:
                yield from walk(part)
        case Not():
            yield from walk(query.of)
        case Everybody() | Did() | DidSum() | Is() | Reachable() | Uses() | Near() | Sample():
            pass
        case _:
            assert_never(query)
