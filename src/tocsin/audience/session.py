"""`session_properties`: when an event was, beyond its day; and properties of the event that tell of its session."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tocsin.audience.condition import ALIASES, CONDITIONS, fail, read_condition, show
from tocsin.audience.node import Condition, Session
from tocsin.errors import Problem

CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
PAIRS = 20


def read_session(raw: Any, place: str) -> tuple[Session, tuple[Condition, ...]]:
    """The times of the session, and the conditions that are about the event's own properties."""
    if not isinstance(raw, list):
        fail("must be a list", place)
    if len(raw) > CONDITIONS:
        fail(f"{len(raw)} conditions; at most {CONDITIONS} are allowed", place)
    times: dict[str, Any] = {}
    conditions: list[Condition] = []
    for index, one in enumerate(raw):
        here = f"{place}[{index}]"
        name = next((one[key] for key in ALIASES if key in one), None) if isinstance(one, dict) else None
        field, read = READERS.get(name, ("", None)) if isinstance(name, str) else ("", None)
        if read is None and isinstance(name, str) and name.lower().replace(" ", "_") in READERS:
            fail(f"{show(name)} is spelled {name.lower().replace(' ', '_')}", here)
        if read is None:
            conditions.append(read_condition(one, here))
            continue
        if field in times:
            fail(f"{name} is given twice", here)
        try:
            times[field] = _read_time(one, read, here)
        except Problem as problem:
            raise Problem(problem.error.replace(": ", f": {name} ", 1)) from None
    return Session(**times), tuple(conditions)


def _read_time(one: dict[str, Any], read: Callable[[Any, str], Any], place: str) -> Any:
    if one.get("operator", "equals") != "equals":
        fail(f"takes equals only, not {show(one['operator'])}", f"{place}.operator")
    if unknown := set(one) - {*ALIASES, "operator", "value"}:
        fail(f"{show(min(unknown))} is not supported here; known are name, operator, value", place)
    if "value" not in one:
        fail("equals needs a value", f"{place}.value")
    return read(one["value"], f"{place}.value")


def read_flag(value: Any, place: str) -> bool:
    """`"True"` or `"False"`, or the boolean."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in ("true", "false"):
        fail('must be "True" or "False"', place)
    return value.lower() == "true"


def _read_minutes(value: Any, place: str) -> tuple[tuple[int, int], ...]:
    pairs = [value] if isinstance(value, list) and value and not isinstance(value[0], list) else value
    if not isinstance(pairs, list) or not 0 < len(pairs) <= PAIRS:
        fail(f'must be a pair like ["22:30", "22:35"], or a list of at most {PAIRS} pairs', place)
    read = []
    for pair in pairs:
        found = [CLOCK.fullmatch(one) for one in pair if isinstance(one, str)] if isinstance(pair, list) else []
        if len(found) != 2 or len(pair) != 2 or found[0] is None or found[1] is None:
            fail('must be a pair like ["22:30", "22:35"]', place)
        first, last = (int(one[1]) * 60 + int(one[2]) for one in found if one)
        read.append((first, last))
    return tuple(read)


def _read_days(value: Any, place: str, last: int) -> tuple[int, ...]:
    days = value if isinstance(value, list) else [value]
    days = [
        int(one) if isinstance(one, str) and one.isascii() and one.isdigit() and len(one) < 3 else one for one in days
    ]
    if not days or not all(isinstance(one, int) and not isinstance(one, bool) and 1 <= one <= last for one in days):
        fail(f"must be a number from 1 to {last}, or a list of them", place)
    return tuple(dict.fromkeys(days))


# The session property of CleverTap → the field of Session, and how its value is read.
READERS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "first_time": ("first", read_flag),
    "last_time": ("last", read_flag),
    "time_of_day": ("minutes", _read_minutes),
    "day_of_week": ("weekdays", lambda value, place: _read_days(value, place, 7)),
    "day_of_month": ("monthdays", lambda value, place: _read_days(value, place, 31)),
}
