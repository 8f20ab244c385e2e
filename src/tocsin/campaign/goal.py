"""The conversion goal of a campaign: an event, what it must meet, how long after a message it counts, and what it is
worth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tocsin.audience.condition import CONDITIONS, NAME_BYTES, ConditionJson, Operator, ValueJson
from tocsin.audience.node import Condition, Day, Session
from tocsin.audience.session import SessionJson, read_session
from tocsin.errors import Invalid, Problem
from tocsin.policy import Conversion

TIME = re.compile(r"([0-9]{1,4})([mHDWM])")
UNITS = {"m": 60, "H": 3600, "D": 86_400, "W": 7 * 86_400, "M": 30 * 86_400}
LEAST, MOST = 60, 150 * 86_400  # a minute to five months, as in CleverTap
REVENUE = {"Charged": "Amount"}  # event → the property that says what it is worth, where nobody names another
FLAGS = {"yes": "True", "no": "False"}  # as the documents write first_time of a goal
FIELDS = {".name": ".property_name", ".value": ".property_value"}  # of a condition → of a goal's


class Counted(msgspec.Struct, frozen=True):
    """What counts: an event that meets every condition and lies in the times. revenue_property: the one that says what
    it is worth; None: it is not asked for."""

    event_name: str
    properties: tuple[Condition, ...] = ()
    session: Session = Session()
    revenue_property: str | None = None


class Goal(Counted, frozen=True):
    """What counts, within so many seconds after a message."""

    seconds: int = UNITS["D"]

    @property
    def counted(self) -> Counted:
        """What counts, whenever it was: goals that differ in their seconds only share it."""
        return Counted(self.event_name, self.properties, self.session, self.revenue_property)


class PropertyJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """A condition on the event, as it is sent."""

    property_name: str
    operator: Operator = "equals"
    property_value: ValueJson | UnsetType = UNSET
    match: Literal["any", "all"] = "any"

    def __post_init__(self) -> None:
        _ = self.node  # what is wrong with it is refused while its place is known

    @cached_property
    def node(self) -> Condition:
        try:
            found = ConditionJson(self.property_name, UNSET, UNSET, self.operator, self.property_value, self.match).node
        except Invalid as error:
            raise Invalid(str(error), FIELDS.get(error.field, error.field)) from None
        if any(isinstance(one, Day) and one.on is None for one in found.values):
            raise Invalid("a goal compares with a fixed day, such as 2025-03-30", ".property_value")
        return found


class FilterJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """`filter_type` as it is sent: which of the events count. The four others are times as `session_properties` has
    them; first_time also takes yes and no."""

    event_property: Annotated[tuple[PropertyJson, ...], Meta(max_length=CONDITIONS)] = ()
    first_time: ValueJson | None = None
    time_of_day: ValueJson | None = None
    day_of_week: ValueJson | None = None
    day_of_month: ValueJson | None = None

    def __post_init__(self) -> None:
        _ = self.session  # what is wrong with it is refused while its place is known

    @cached_property
    def session(self) -> Session:
        times = []
        for name in ("first_time", "time_of_day", "day_of_week", "day_of_month"):
            value = getattr(self, name)
            if value is None:
                continue
            if name == "first_time" and isinstance(value, str):
                value = FLAGS.get(value.lower(), value)
            try:
                times.append(SessionJson(name=name, value=value))
            except Invalid as error:
                raise Invalid(str(error), f".{name}") from None
        return read_session(times)[0]


Name = Annotated[str, Meta(pattern=r"\S", extra={"is": "a text that is not empty"})]


class GoalJson(msgspec.Struct, frozen=True):
    """The `conversion_goal` of a campaign, as it is sent."""

    event_name: Name
    conversion_time: str = "1D"
    filter_type: FilterJson | None = None
    revenue_property: Name | None = None

    def __post_init__(self) -> None:
        for field in ("event_name", "revenue_property"):
            if len((getattr(self, field) or "").encode()) > NAME_BYTES:
                raise Invalid(f"{field} is longer than {NAME_BYTES} bytes", f".{field}")


def to_goal(asked: GoalJson, revenue: Mapping[str, str] = REVENUE) -> Goal:
    """Return the goal. revenue: by event, the property that says what it is worth, where the goal names none. Raise
    Problem for a time that is none."""
    limits = asked.filter_type or FilterJson()
    return Goal(
        event_name=asked.event_name,
        seconds=read_time(asked.conversion_time, "$.conversion_goal.conversion_time"),
        properties=tuple(one.node for one in limits.event_property),
        session=limits.session,
        revenue_property=asked.revenue_property or revenue.get(asked.event_name),
    )


def find_revenue(conversion: Conversion | None) -> Mapping[str, str]:
    """Return what says what an event is worth, by event, as the account's policy has it."""
    own = conversion.revenue_property if conversion else None
    return {**REVENUE, conversion.event_name: own} if conversion and own else REVENUE


def read_policy_goal(conversion: Conversion) -> Goal:
    """Return the goal of sends by identity. Raise Problem for a time that is none."""
    seconds = read_time(conversion.conversion_time, "the account's policy")
    worth = find_revenue(conversion).get(conversion.event_name)
    return Goal(event_name=conversion.event_name, seconds=seconds, revenue_property=worth)


def read_time(text: str, place: str) -> int:
    """Return the seconds of a time such as 30m, 1H, 1D, 1W or 1M (30 days), of a minute to five months. Raise
    Problem."""
    found = TIME.fullmatch(text)
    seconds = int(found[1]) * UNITS[found[2]] if found else 0
    if not LEAST <= seconds <= MOST:
        raise Problem(f"a time is 1m to 5M, such as 30m, 1H, 1D, 1W (at {place})")
    return seconds
