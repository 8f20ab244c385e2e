"""The question as nodes → a `where` that means the same, as JSON. The way back from `query.py`."""

from __future__ import annotations

from typing import Any, assert_never

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
    Uses,
)
from tocsin.audience.traits import REACHABILITY

Json = dict[str, Any]


def write_where(query: Query) -> Json:
    """Return the `where` of a question."""
    match query:
        case Everybody():
            return {}
        case Did():
            return write_event(query)
        case DidSum():
            counted = {"operator": query.times.operator, "value": query.times.number}
            return {"advanced_query": {"did_any": {"any_events": [write_event(one) for one in query.of], **counted}}}
        case Is():
            fields = [write_condition(one) for one in query.properties]
            return {"common_profile_properties": {"profile_fields": fields}}
        case Reachable():
            name = next(name for name, channel in REACHABILITY.items() if channel == query.channel)
            return {"common_profile_properties": {"reachability": [{"name": name, "value": "True"}]}}
        case Uses():
            used = {"name": "Platform", "value": list(query.platforms)}
            return {"common_profile_properties": {"technographics": [used]}}
        case Near():
            return {"common_profile_properties": {"geo_radius": [list(circle) for circle in query.circles]}}
        case Sample():
            return {"sample": {"percent": query.share / 100, "seed": query.seed}}
        case AllOf():
            return {"and": [_write_part(one) for one in query.of]}
        case AnyOf():
            return {"or": [_write_part(one) for one in query.of]}
        case Not():
            return {"not": _write_part(query.of)}
        case _:
            assert_never(query)


def write_event(did: Did) -> Json:
    """Return an event, as it stands in a `where`."""
    written: Json = {"event_name": did.event, "from": _write_day(did.first), "to": _write_day(did.last)}
    if did.properties:
        written["event_properties"] = [write_condition(one) for one in did.properties]
    if sessions := write_session(did.session):
        written["session_properties"] = sessions
    if did.times is not None:
        written |= {"operator": did.times.operator, "value": did.times.number}
    return written


def write_condition(condition: Condition) -> Json:
    """Return one condition on a property."""
    written: Json = {"name": condition.name, "operator": condition.operator}
    values = [_write_property_day(one) if isinstance(one, Day) else one for one in condition.values]
    if values:
        written["value"] = values[0] if len(values) == 1 else values
    if condition.match != "any":
        written["match"] = condition.match
    return written


def _write_part(query: Query) -> Json:
    """Return a `where` inside another one, where {} is not taken."""
    return write_where(query) or {"segment": "all"}


def _write_day(day: Day) -> int | str:
    if day.on is not None:
        return int(day.on.strftime("%Y%m%d"))
    return "today" if day.ago == 0 else f"-{day.ago}{day.unit}"


def _write_property_day(day: Day) -> str:
    return day.on.isoformat() if day.on is not None else str(_write_day(day))


def write_session(session: Session) -> list[Json]:
    """Return when an event was, as `session_properties`."""
    given: list[Json] = []
    for name, flag in (("first_time", session.first), ("last_time", session.last)):
        if flag is not None:
            given.append({"name": name, "value": str(flag)})
    if session.minutes:
        pairs = [[_write_minute(start), _write_minute(end)] for start, end in session.minutes]
        given.append({"name": "time_of_day", "value": pairs})
    if session.weekdays:
        given.append({"name": "day_of_week", "value": list(session.weekdays)})
    if session.monthdays:
        given.append({"name": "day_of_month", "value": list(session.monthdays)})
    return given


def _write_minute(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
