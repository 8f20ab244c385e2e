"""Conditions on properties, and days, as callers write them → typed. Whatever is not understood is refused by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime
from functools import cached_property
from typing import Annotated, Literal, NoReturn, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tocsin.audience.node import Condition, Day
from tocsin.errors import Invalid, Problem
from tocsin.store.props import Value, as_number

Comparison = Literal["greater_than", "greater_than_equals", "less_than", "less_than_equals"]
Operator = Literal[
    "equals", "not_equals", "contains", "does_not_contain", "exists", "does_not_exist", Comparison, "between"
]
COMPARISONS: tuple[str, ...] = get_args(Comparison)
OPERATORS: tuple[str, ...] = get_args(Operator)
WITHOUT_VALUE = ("exists", "does_not_exist")
NEGATIONS = ("not_equals", "does_not_contain", "does_not_exist")

CONDITIONS = 100  # of one list
VALUES = 1000  # of all conditions of one list together
NAME_BYTES = 480
VALUE_BYTES = 2048
YEARS = range(1000, 9999)  # of a day of a property
EVENT_YEARS = range(1970, 2100)
UNIT_DAYS = {"d": (1, 1), "w": (7, 7), "m": (28, 31), "y": (365, 366)}  # at least, at most
PARSE = "Query specified in where failed to parse"
AGO = re.compile(r"-([0-9]{1,5})([dwmy])")
ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
NUMERIC = re.compile(r"[0-9]{8}")
VALUE = f"a text, a number that is not too large, a Boolean, or a list of 1 to {VALUES} of them"
DAY = "an integer YYYYMMDD, or relative like today or -30d"


def fail(sentence: str, place: str) -> NoReturn:
    raise Problem(f"{PARSE}: {sentence} (at {place})")


# A list in a list is only for the minutes of a session.
ValueJson = Annotated[
    Value | Annotated[list[Value | list[str]], Meta(min_length=1, max_length=VALUES)], Meta(extra={"is": VALUE})
]


class ConditionJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """A condition as it is sent. `Key` and `field_name` are what real callers send for `name`."""

    name: str | UnsetType = UNSET
    Key: str | UnsetType = UNSET
    field_name: str | UnsetType = UNSET
    operator: Operator = "equals"
    value: ValueJson | UnsetType = UNSET
    match: Literal["any", "all"] = "any"

    def __post_init__(self) -> None:
        _ = self.node  # what is wrong with it is refused while its place is known

    @cached_property
    def given_name(self) -> str:
        """The one name, or "" where there is none, or several."""
        names = [one for one in (self.name, self.Key, self.field_name) if one is not UNSET]
        return names[0] if len(names) == 1 else ""

    @cached_property
    def node(self) -> Condition:
        name, operator = self.given_name, self.operator
        if not 0 < len(name.encode()) <= NAME_BYTES:
            raise Invalid(f"one name is needed, a text of 1 to {NAME_BYTES} bytes", ".name")
        if self.match == "all" and operator in (*NEGATIONS, "exists"):
            raise Invalid(f"match all has no meaning with {operator}", ".match")
        if operator in WITHOUT_VALUE:
            if self.value is not UNSET and str(self.value).lower() not in ("", "true"):
                raise Invalid(
                    f"{operator} takes no value: exists and does_not_exist are each other's opposite", ".value"
                )
            return Condition(name, operator)
        if self.value is UNSET:
            raise Invalid(f"{operator} needs a value", ".value")
        values = self.value if isinstance(self.value, list) else [self.value]
        read = tuple(_read_value(one, operator) for one in values)
        if operator == "between" and (len(read) != 2 or _is_backward(*read)):
            raise Invalid("between needs two values, the lower one first", ".value")
        return Condition(name, operator, read, self.match)


Conditions = Annotated[tuple[ConditionJson, ...], Meta(max_length=CONDITIONS)]


def nodes_of(conditions: Sequence[ConditionJson], field: str) -> tuple[Condition, ...]:
    """Return one list of conditions as nodes. Raise Invalid when they have too many values together."""
    count = sum(len(one.node.values) for one in conditions)
    if count > VALUES:
        raise Invalid(f"{count} values; at most {VALUES} are allowed", f".{field}")
    return tuple(one.node for one in conditions)


def _read_value(value: Value | list[str], operator: str) -> Value | Day:
    number = None if isinstance(value, list) else as_number(value)
    if isinstance(value, list) or (number is None and not isinstance(value, str | bool)):
        raise Invalid(f"value must be {VALUE}", ".value")
    if isinstance(value, str) and len(value.encode()) > VALUE_BYTES:
        raise Invalid(f"value is longer than {VALUE_BYTES} bytes", ".value")
    if operator in COMPARISONS or operator == "between":
        if number is not None:
            return float(number)
        text = str(value)
        if (day := find_day(text)) is not None:
            return day
        if ISO.fullmatch(text):
            raise Invalid(f"{text} is not a day of the calendar", ".value")
        raise Invalid(f"{operator} needs a number, or a day like 2025-03-30, today or -30d", ".value")
    if operator in ("contains", "does_not_contain") and value == "":
        raise Invalid(f"{operator} needs a text that is not empty", ".value")
    return value


def are_backward(first: Day, last: Day) -> bool:
    """Return whether it is known already that the first day comes after the last. Where only the day of asking will
    tell, nothing lies between them then."""
    if first.on is not None and last.on is not None:
        return first.on > last.on
    if first.on is not None or last.on is not None:
        return False
    return first.ago * UNIT_DAYS[first.unit][1] < last.ago * UNIT_DAYS[last.unit][0]


def _is_backward(low: Value | Day, high: Value | Day) -> bool:
    if isinstance(low, Day) and isinstance(high, Day):
        return are_backward(low, high)
    return not isinstance(low, Day) and not isinstance(high, Day) and float(low) > float(high)


def find_day(text: str) -> Day | None:
    """Return the day of `2025-03-30`, `today`, `yesterday`, `-30d`, `-4w`, `-6m`, `-1y`; None for other texts."""
    if text in ("today", "yesterday"):
        return Day(ago=int(text == "yesterday"))
    if found := AGO.fullmatch(text):
        return Day(ago=int(found[1]), unit=found[2])  # type: ignore[arg-type]  # the pattern knows the four
    on = find_iso_day(text)
    return Day(on) if on else None


def find_iso_day(text: str) -> date | None:
    """Return the day of a text such as 2025-03-30, from the year 1000 to 9998; None for other texts."""
    if not ISO.fullmatch(text):
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if day.year in YEARS else None


def read_day(value: str | int | UnsetType, key: str) -> Day:
    """Return the `from` or `to` of an event: an integer YYYYMMDD (or its text), or relative. Raise Invalid."""
    text = str(value)
    if not NUMERIC.fullmatch(text):
        day = find_day(text)
        if day is None or day.on is not None:  # 2025-03-30 is a day of a property only
            raise Invalid(f"{key} must be {DAY}", f".{key}")
        return day
    try:
        on = datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        raise Invalid(f"{text} is not a day of the calendar", f".{key}") from None
    if on.year not in EVENT_YEARS:
        raise Invalid(f"{text} is not between {EVENT_YEARS[0]} and {EVENT_YEARS[-1]}", f".{key}")
    return Day(on)
