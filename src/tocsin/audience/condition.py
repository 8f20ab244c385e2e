"""Conditions on properties, and days, as callers write them → typed. Whatever is not understood is refused by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Any, NoReturn

from tocsin.audience.node import Condition, Day
from tocsin.errors import Problem
from tocsin.store.props import Value, as_number

COMPARISONS = ("greater_than", "greater_than_equals", "less_than", "less_than_equals")
WITHOUT_VALUE = ("exists", "does_not_exist")
NEGATIONS = ("not_equals", "does_not_contain", "does_not_exist")
OPERATORS = ("equals", "not_equals", "contains", "does_not_contain", *WITHOUT_VALUE, *COMPARISONS, "between")

CONDITIONS = 100  # of one list
VALUES = 1000  # of all conditions of one list together
NAME_BYTES = 480
VALUE_BYTES = 2048
YEARS = range(1000, 9999)  # of a day of a property
EVENT_YEARS = range(1970, 2100)
UNIT_DAYS = {"d": (1, 1), "w": (7, 7), "m": (28, 31), "y": (365, 366)}  # at least, at most
PARSE = "Query specified in where failed to parse"
ALIASES = ("name", "Key", "field_name")  # what real callers send for `name`
AGO = re.compile(r"-([0-9]{1,5})([dwmy])")
ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
NUMERIC = re.compile(r"[0-9]{8}")


def fail(sentence: str, place: str) -> NoReturn:
    raise Problem(f"{PARSE}: {sentence} (at {place})")


def refuse_unknown(raw: Mapping[str, Any], known: Collection[str], place: str) -> None:
    for key in raw:
        if key not in known:
            fail(f"{show(key)} is not supported here; known are {', '.join(sorted(known))}", place)


def show(value: Any) -> str:
    """Something of the caller's in a sentence of ours."""
    return repr(value)[:80]


def read_conditions(raw: Any, place: str) -> tuple[Condition, ...]:
    if not isinstance(raw, list):
        fail("must be a list", place)
    if len(raw) > CONDITIONS:
        fail(f"{len(raw)} conditions; at most {CONDITIONS} are allowed", place)
    conditions = tuple(read_condition(one, f"{place}[{index}]") for index, one in enumerate(raw))
    count = sum(len(condition.values) for condition in conditions)
    if count > VALUES:
        fail(f"{count} values; at most {VALUES} are allowed", place)
    return conditions


def read_condition(raw: Any, place: str) -> Condition:
    """`{"name", "operator", "value", "match"}`."""
    if not isinstance(raw, dict):
        fail("must be an object", place)
    refuse_unknown(raw, {*ALIASES, "operator", "value", "match"}, place)
    names = [raw[key] for key in ALIASES if key in raw]
    if len(names) != 1 or not isinstance(names[0], str) or not 0 < len(names[0].encode()) <= NAME_BYTES:
        fail(f"one name is needed, a text of 1 to {NAME_BYTES} bytes", f"{place}.name")
    operator = raw.get("operator", "equals")
    if operator not in OPERATORS:
        fail(f"unknown operator {show(operator)}; known are {', '.join(OPERATORS)}", f"{place}.operator")
    match = raw.get("match", "any")
    if match not in ("any", "all"):
        fail(f"match must be any or all, not {show(match)}", f"{place}.match")
    if match == "all" and operator in (*NEGATIONS, "exists"):
        fail(f"match all has no meaning with {operator}", f"{place}.match")
    if operator in WITHOUT_VALUE:
        return Condition(names[0], operator)
    if "value" not in raw:
        fail(f"{operator} needs a value", f"{place}.value")
    return Condition(names[0], operator, _read_values(raw["value"], operator, f"{place}.value"), match)


def _read_values(raw: Any, operator: str, place: str) -> tuple[Value | Day, ...]:
    values = raw if isinstance(raw, list) else [raw]
    if not 0 < len(values) <= VALUES:
        fail(f"needs 1 to {VALUES} values", place)
    read = tuple(_read_value(one, operator, place) for one in values)
    if operator == "between":
        if len(read) != 2:
            fail("between needs two values, the lower one first", place)
        if _is_backward(*read):
            fail("between needs the lower value first", place)
    return read


def _read_value(value: Any, operator: str, place: str) -> Value | Day:
    if not isinstance(value, str | int | float):
        fail("must be a text, a number or a boolean", place)
    if isinstance(value, str) and len(value.encode()) > VALUE_BYTES:
        fail(f"is longer than {VALUE_BYTES} bytes", place)
    number = as_number(value)
    if number is None and isinstance(value, int | float) and not isinstance(value, bool):
        fail("the number is too large", place)
    if operator in COMPARISONS or operator == "between":
        day = find_day(value) if number is None and isinstance(value, str) else None
        if number is None and day is None and isinstance(value, str) and ISO.fullmatch(value):
            fail(f"{value} is not a day of the calendar", place)
        if number is None and day is None:
            fail(f"{operator} needs a number, or a day like 2025-03-30, today or -30d", place)
        return day if number is None and day is not None else float(number or 0)
    if operator in ("contains", "does_not_contain") and value == "":
        fail(f"{operator} needs a text that is not empty", place)
    return value


def are_backward(first: Day, last: Day) -> bool:
    """Whether it is known already that the first day comes after the last. Where only the day of asking will tell,
    nothing lies between them then."""
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
    """`2025-03-30`, `today`, `yesterday`, `-30d`, `-4w`, `-6m`, `-1y`; None for anything else."""
    if text in ("today", "yesterday"):
        return Day(ago=int(text == "yesterday"))
    if found := AGO.fullmatch(text):
        return Day(ago=int(found[1]), unit=found[2])  # type: ignore[arg-type]  # the pattern knows the four
    on = find_iso_day(text)
    return Day(on) if on else None


def find_iso_day(text: str) -> date | None:
    if not ISO.fullmatch(text):
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if day.year in YEARS else None


def read_day(raw: Mapping[str, Any], key: str, place: str) -> Day:
    """`from` or `to`: an integer YYYYMMDD (or its text), or relative."""
    value = raw.get(key)
    if isinstance(value, str) and not NUMERIC.fullmatch(value) and not ISO.fullmatch(value):
        day = find_day(value)
        if day is not None:
            return day
    if isinstance(value, str) and NUMERIC.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not NUMERIC.fullmatch(str(value)):
        fail(f"{key} must be an integer YYYYMMDD, or relative like today or -30d", f"{place}.{key}")
    try:
        on = datetime.strptime(str(value), "%Y%m%d").date()
    except ValueError:
        fail(f"{value} is not a day of the calendar", f"{place}.{key}")
    if on.year not in EVENT_YEARS:
        fail(f"{value} is not between {EVENT_YEARS[0]} and {EVENT_YEARS[-1]}", f"{place}.{key}")
    return Day(on)
