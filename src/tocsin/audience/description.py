"""A question in plain words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_never

import msgspec

from tocsin.audience.node import (
    AllOf,
    AnyOf,
    Condition,
    Day,
    Did,
    DidSum,
    Everybody,
    Is,
    Near,
    Not,
    Query,
    Reachable,
    Sample,
    Session,
    Times,
    Uses,
)

VALUES_SHOWN = 10  # of one condition, which may have a thousand
UNITS = {"d": "day", "w": "week", "m": "month", "y": "year"}
WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


def describe(query: Query) -> str:
    """Return a question in lines of plain words; names and values are JSON in it, so that none can pass for another.

    did "Charged"
      from 2026-01-01 to 2026-12-31
      where "Amount" greater than 100
    """
    match query:
        case Everybody():
            return "everybody"
        case Did():
            return "\n".join(_did(query))
        case DidSum():
            return "\n".join([f"did {_times(query.times)} of, together", *_below(query.of)])
        case Is():
            return "\n".join(["has a profile", *_conditions(query.properties)])
        case Reachable():
            return "can be reached by push" if query.channel == "push" else "can be reached by e-mail"
        case Uses():
            return f"has or had a device of {' or '.join(query.platforms)}"
        case Near():
            return "\nor ".join(f"is within {km:g} km of {lat:g}, {lon:g}" for lat, lon, km in query.circles)
        case Sample():
            return f"is in the {query.share / 100:g} % drawn by {_json(query.seed)}"
        case AllOf():
            return "\nand ".join(_grouped(part) for part in query.of)
        case AnyOf():
            return "\n".join(["at least one of", *_below(query.of)])
        case Not():
            return "\n".join(["not", *_below((query.of,))])
        case _:
            assert_never(query)


def show_day(day: Day) -> str:
    """Return a day as «2025-03-30», «today», «30 days ago»."""
    if day.on is not None:
        return day.on.isoformat()
    if not day.ago:
        return "today"
    return f"{day.ago} {UNITS[day.unit]}{'s' if day.ago > 1 else ''} ago"


def _grouped(query: Query) -> str:
    return "\n".join(["all of", *_below(query.of)]) if isinstance(query, AllOf) else describe(query)


def _below(queries: Sequence[Query]) -> Iterator[str]:
    for query in queries:
        for at, line in enumerate(describe(query).splitlines()):
            yield f"{'  - ' if at == 0 else '    '}{line}"


def _did(did: Did) -> list[str]:
    often = f" {_times(did.times)}" if did.times else ""
    days = f"  from {show_day(did.first)} to {show_day(did.last)}"
    return [f"did {_json(did.event)}{often}", days, *_session(did.session), *_conditions(did.properties)]


def _times(times: Times) -> str:
    return f"{times.operator.replace('_', ' ')} {times.number} times"


def _session(session: Session) -> Iterator[str]:
    for flag, word in ((session.first, "the first"), (session.last, "the latest")):
        if flag is not None:
            yield f"  {'being' if flag else 'not being'} {word} of its name"
    if session.minutes:
        yield "  between " + " or ".join(f"{_clock(first)} and {_clock(last)}" for first, last in session.minutes)
    if session.weekdays:
        yield "  on " + " or ".join(WEEKDAYS[day - 1] for day in session.weekdays)
    if session.monthdays:
        yield "  on day " + " or ".join(str(day) for day in session.monthdays) + " of the month"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _conditions(conditions: Sequence[Condition]) -> list[str]:
    return [f"  {'and' if index else 'where'} {_condition(one)}" for index, one in enumerate(conditions)]


def _condition(condition: Condition) -> str:
    words = [_json(condition.name), condition.operator.replace("_", " ")]
    if condition.match == "all":
        words.insert(0, "every value of")
    if condition.values:
        joined = " and " if condition.operator == "between" else " or "
        words.append(joined.join(_value(value) for value in condition.values[:VALUES_SHOWN]))
    left = len(condition.values) - VALUES_SHOWN
    if left > 0:
        words.append(f"or {left:,} more")
    return " ".join(words)


def _value(value: str | float | bool | Day) -> str:
    return show_day(value) if isinstance(value, Day) else _json(value)


def _json(value: str | float | bool) -> str:
    return msgspec.json.encode(value).decode()
