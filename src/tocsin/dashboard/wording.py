"""Numbers, times and questions as people read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec

from tocsin.audience.query import All, Condition, Did, Everybody, Is, Query

VALUES_SHOWN = 10  # of one condition, which may have a thousand
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def thousands(number: int) -> str:
    return f"{number:,}"


def short_time(at: float, zone: ZoneInfo, now: float) -> str:
    """A minute of the account's clock, with no more of the date than is needed: «today, 14:05», «3 Feb, 09:00»."""
    local, today = datetime.fromtimestamp(at, zone), datetime.fromtimestamp(now, zone)
    clock = f"{local:%H:%M}"
    if local.date() == today.date():
        return f"today, {clock}"
    year = "" if local.year == today.year else f" {local.year}"
    return f"{local.day} {MONTHS[local.month - 1]}{year}, {clock}"


def full_time(at: float, zone: ZoneInfo) -> str:
    """A second of the account's clock: «Mon 3 Feb 2025, 09:00:07»."""
    local = datetime.fromtimestamp(at, zone)
    return f"{DAYS[local.weekday()]} {local.day} {MONTHS[local.month - 1]} {local.year}, {local:%H:%M:%S}"


def iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def describe(query: Query) -> str:
    """A question in lines of plain words; names and values stand in it as JSON, so that nothing can pass for another.

    did "Charged"
      from 2026-01-01 to 2026-12-31
      where "Amount" greater than 100
    """
    match query:
        case Everybody():
            return "everybody"
        case Did():
            days = f"  from {query.first.isoformat()} to {query.last.isoformat()}"
            return "\n".join([f"did {_json(query.event)}", days, *_conditions(query.properties)])
        case Is():
            return "\n".join(["has a profile", *_conditions(query.properties)])
        case All():
            return "\nand ".join(describe(part) for part in query.of) or "everybody"


def _conditions(conditions: Sequence[Condition]) -> list[str]:
    return [f"  {'and' if index else 'where'} {_condition(one)}" for index, one in enumerate(conditions)]


def _condition(condition: Condition) -> str:
    words = [_json(condition.name), condition.operator.replace("_", " ")]
    if condition.values:
        words.append(" or ".join(_json(value) for value in condition.values[:VALUES_SHOWN]))
    left = len(condition.values) - VALUES_SHOWN
    if left > 0:
        words.append(f"or {thousands(left)} more")
    return " ".join(words)


def _json(value: str | float | bool) -> str:
    return msgspec.json.encode(value).decode()
