"""What can be asked: the `where` of a request as typed nodes, nothing about SQL.

What is not understood is refused by name: a condition that was ignored would send to more people, never to fewer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import msgspec

from tocsin.errors import Problem

OPERATORS = (
    *("equals", "not_equals", "contains", "does_not_contain", "exists", "does_not_exist"),
    *("greater_than", "greater_than_equals", "less_than", "less_than_equals"),
)
WITHOUT_VALUE = ("exists", "does_not_exist")
NUMBERS_ONLY = ("greater_than", "greater_than_equals", "less_than", "less_than_equals")
Value = str | int | float | bool

CONDITIONS = 100
VALUES = 1000  # of all conditions of one place together
NAME_BYTES = 480
VALUE_BYTES = 2048
PARSE = "Query specified in where failed to parse"
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
DATE_NUMBER = re.compile(r"[0-9]{8}")


class Condition(msgspec.Struct, frozen=True):
    """One property compared with values; several values are OR. What is equal to what, `compile` says."""

    name: str
    operator: str
    values: tuple[Value, ...] = ()


class Everybody(msgspec.Struct, frozen=True, tag="everybody"):
    """`where: {}`."""


class Did(msgspec.Struct, frozen=True, tag="did"):
    """Raised the event at least once between the two days, both included, in the account's time zone."""

    event: str
    first: date
    last: date
    properties: tuple[Condition, ...] = ()


class Is(msgspec.Struct, frozen=True, tag="is"):
    """Has a profile that meets every condition."""

    properties: tuple[Condition, ...]


class All(msgspec.Struct, frozen=True, tag="all"):
    """Meets every one of them."""

    of: tuple[Query, ...]


Query = Everybody | Did | Is | All


def read_where(where: Any) -> Query:
    """The question of a request's `where`. Raises Problem, with the place in the caller's JSON."""
    if not isinstance(where, dict):
        raise Problem(PARSE)
    if not where:
        return Everybody()
    known = {
        "event_name",
        "from",
        "to",
        "event_properties",
        "props",
        "common_profile_properties",
        "common_profile_prop",
    }
    _refuse_unknown(where, known, "$.where")
    parts: list[Query] = []
    base = {"from", "to", "event_properties", "props"} & set(where)
    if "event_name" in where:
        parts.append(_read_event(where))
    elif base:
        raise Problem(f"{PARSE}: {_name(min(base))} needs an event_name (at $.where)")
    for key in ("common_profile_properties", "common_profile_prop"):
        if key in where:
            parts.extend(_read_common(where[key], f"$.where.{key}"))
    if not parts:
        raise Problem(f"{PARSE}: it holds no condition; send {{}} for everybody (at $.where)")
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _read_event(where: Mapping[str, Any]) -> Did:
    name = where["event_name"]
    if not isinstance(name, str) or not 0 < len(name.encode()) <= NAME_BYTES:
        raise Problem(f"{PARSE}: event_name must be a text of 1 to {NAME_BYTES} bytes (at $.where.event_name)")
    first, last = _read_day(where, "from"), _read_day(where, "to")
    if first > last:
        raise Problem("Query parse failure - The from date cannot be after the to date")
    if "event_properties" in where and "props" in where:
        raise Problem(f"{PARSE}: event_properties and props mean the same; send one of them (at $.where)")
    key = "props" if "props" in where else "event_properties"
    return Did(name, first, last, _read_conditions(where.get(key, []), f"$.where.{key}"))


def _read_day(where: Mapping[str, Any], key: str) -> date:
    value = where.get(key)
    if isinstance(value, str) and DATE_NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not DATE_NUMBER.fullmatch(str(value)):
        raise Problem(f"{PARSE}: {key} must be an integer YYYYMMDD (at $.where.{key})")
    try:
        day = datetime.strptime(str(value), "%Y%m%d").date()
    except ValueError:
        raise Problem(f"{PARSE}: {value} is not a day of the calendar (at $.where.{key})") from None
    if not 1970 <= day.year < 2100:
        raise Problem(f"{PARSE}: {value} is not between 1970 and 2099 (at $.where.{key})")
    return day


def _read_common(common: Any, place: str) -> list[Query]:
    if not isinstance(common, dict):
        raise Problem(f"{PARSE}: must be an object (at {place})")
    _refuse_unknown(common, {"profile_fields"}, place)
    conditions = _read_conditions(common.get("profile_fields", []), f"{place}.profile_fields")
    return [Is(conditions)] if conditions else []


def _read_conditions(raw: Any, place: str) -> tuple[Condition, ...]:
    if not isinstance(raw, list):
        raise Problem(f"{PARSE}: must be a list (at {place})")
    if len(raw) > CONDITIONS:
        raise Problem(f"{PARSE}: {len(raw)} conditions; at most {CONDITIONS} are allowed (at {place})")
    conditions = tuple(_read_condition(one, f"{place}[{index}]") for index, one in enumerate(raw))
    count = sum(len(condition.values) for condition in conditions)
    if count > VALUES:
        raise Problem(f"{PARSE}: {count} values; at most {VALUES} are allowed (at {place})")
    return conditions


def _read_condition(raw: Any, place: str) -> Condition:
    if not isinstance(raw, dict):
        raise Problem(f"{PARSE}: must be an object (at {place})")
    _refuse_unknown(raw, {"name", "Key", "field_name", "operator", "value"}, place)
    names = [raw[key] for key in ("name", "Key", "field_name") if key in raw]  # what real callers send for `name`
    if len(names) != 1 or not isinstance(names[0], str) or not 0 < len(names[0].encode()) <= NAME_BYTES:
        raise Problem(f"{PARSE}: one name is needed, a text of 1 to {NAME_BYTES} bytes (at {place}.name)")
    operator = raw.get("operator", "equals")
    if operator not in OPERATORS:
        raise Problem(
            f"{PARSE}: unknown operator {_name(operator)}; known are {', '.join(OPERATORS)} (at {place}.operator)"
        )
    if operator in WITHOUT_VALUE:
        return Condition(names[0], operator)
    if "value" not in raw:
        raise Problem(f"{PARSE}: {operator} needs a value (at {place}.value)")
    values = raw["value"] if isinstance(raw["value"], list) else [raw["value"]]
    if not 0 < len(values) <= VALUES:
        raise Problem(f"{PARSE}: needs 1 to {VALUES} values (at {place}.value)")
    return Condition(names[0], operator, tuple(_read_value(one, operator, f"{place}.value") for one in values))


def _read_value(value: Any, operator: str, place: str) -> Value:
    if not isinstance(value, str | int | float):
        raise Problem(f"{PARSE}: must be a text, a number or a boolean (at {place})")
    if isinstance(value, str) and len(value.encode()) > VALUE_BYTES:
        raise Problem(f"{PARSE}: is longer than {VALUE_BYTES} bytes (at {place})")
    if isinstance(value, int | float) and as_number(value) is None and not isinstance(value, bool):
        raise Problem(f"{PARSE}: the number is too large (at {place})")
    if operator not in NUMBERS_ONLY:
        return value
    number = as_number(value)
    if number is None:
        raise Problem(f"{PARSE}: {operator} needs a number (at {place})")
    return number


def as_number(value: Value) -> float | None:
    """A value as a number: numbers, their texts, and `$D_` dates; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = value.removeprefix("$D_")
        if not NUMBER.fullmatch(value):
            return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _refuse_unknown(raw: Mapping[str, Any], known: set[str], place: str) -> None:
    for key in raw:
        if key not in known:
            raise Problem(
                f"{PARSE}: {_name(key)} is not supported here; known are {', '.join(sorted(known))} (at {place})"
            )


def _name(value: Any) -> str:
    return repr(value)[:80]
