"""The `where` of a request → the question, as nodes. docs/queries.md is its grammar.

What is not understood is refused by name: a condition that was ignored would send to more people, never to fewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tocsin.audience import traits
from tocsin.audience.condition import (
    COMPARISONS,
    NAME_BYTES,
    PARSE,
    are_backward,
    fail,
    read_conditions,
    read_day,
    refuse_unknown,
    show,
)
from tocsin.audience.node import AllOf, AnyOf, Condition, Did, DidSum, Everybody, Is, Not, Query, Sample, Times, walk
from tocsin.audience.session import read_session
from tocsin.errors import Problem

LEVELS = 8  # of and, or, not
WIDTH = 50  # parts of one list
PARTS = 200  # of one question, itself included
ALL_CONDITIONS = 500
ALL_VALUES = 10_000
TIMES = 1_000_000
EVENT_KEYS = frozenset(
    ("event_name", "from", "to", "event_properties", "props", "session_properties", "operator", "value")
)
COMMON = ("common_profile_properties", "common_profile_prop")
KEYS = frozenset((*EVENT_KEYS, *COMMON, "advanced_query", "segment", "and", "or", "not", "sample"))

Segments = Mapping[str, Query]


def read_where(where: Any, segments: Segments | None = None) -> Query:
    """The question of a request's `where`; `segments` are the saved ones it may name. Raises Problem, with the place
    in the caller's JSON."""
    if not isinstance(where, dict):
        raise Problem(PARSE)
    if not where:
        return Everybody()
    query = _read(where, "$.where", segments or {}, LEVELS)
    _bound(query)
    return query


def _bound(query: Query) -> None:
    """Refuses a question that is too large, with everything its segments bring."""
    conditions: list[Condition] = []
    parts = 0
    for node in walk(query):
        dids = node.of if isinstance(node, DidSum) else (node,) if isinstance(node, Did | Is) else ()
        parts += max(1, len(dids))
        conditions.extend(one for did in dids for one in did.properties)
    values = sum(len(condition.values) for condition in conditions)
    for count, most, what in (
        (parts, PARTS, "parts"),
        (len(conditions), ALL_CONDITIONS, "conditions"),
        (values, ALL_VALUES, "values"),
    ):
        if count > most:
            fail(f"{count} {what}; at most {most} are allowed in one question", "$.where")


def _read(where: Any, place: str, segments: Segments, levels: int) -> Query:
    if not isinstance(where, dict) or not where:
        fail("must be an object with at least one condition", place)
    refuse_unknown(where, KEYS, place)
    parts: list[Query] = []
    if "event_name" in where:
        parts.append(_read_event(where, place))
    elif base := EVENT_KEYS & set(where):
        fail(f"{show(min(base))} needs an event_name", place)
    for key in COMMON:
        if key in where:
            parts.extend(traits.read_common(where[key], f"{place}.{key}"))
    if "advanced_query" in where:
        parts.extend(_read_advanced(where["advanced_query"], f"{place}.advanced_query"))
    if "segment" in where:
        parts.append(find_segment(where["segment"], segments, f"{place}.segment"))
    parts.extend(_read_nested(where, place, segments, levels))
    if "sample" in where:
        parts.append(_read_sample(where["sample"], f"{place}.sample"))
    if not parts:
        fail("it holds no condition; send {} for everybody", place)
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _read_nested(where: Mapping[str, Any], place: str, segments: Segments, levels: int) -> list[Query]:
    parts: list[Query] = []
    for key in ("and", "or", "not"):
        if key not in where:
            continue
        if not levels:
            fail(f"nested deeper than {LEVELS} levels of and, or, not", f"{place}.{key}")
        if key == "not":
            parts.append(Not(_read(where[key], f"{place}.not", segments, levels - 1)))
            continue
        raws = _read_list(where[key], f"{place}.{key}")
        read = tuple(_read(one, f"{place}.{key}[{at}]", segments, levels - 1) for at, one in enumerate(raws))
        parts.append(AllOf(read) if key == "and" else AnyOf(read))
    return parts


def _read_list(raw: Any, place: str) -> list[Any]:
    if not isinstance(raw, list) or not raw:
        fail("must be a list with at least one element", place)
    if len(raw) > WIDTH:
        fail(f"{len(raw)} parts; at most {WIDTH} are allowed", place)
    return raw


def _read_event(where: Mapping[str, Any], place: str, *, counted: bool = True) -> Did:
    name = where.get("event_name")
    if not isinstance(name, str) or not 0 < len(name.encode()) <= NAME_BYTES:
        fail(f"event_name must be a text of 1 to {NAME_BYTES} bytes", f"{place}.event_name")
    first, last = read_day(where, "from", place), read_day(where, "to", place)
    if are_backward(first, last):
        raise Problem("Query parse failure - The from date cannot be after the to date")
    if "event_properties" in where and "props" in where:
        fail("event_properties and props mean the same; send one of them", place)
    key = "props" if "props" in where else "event_properties"
    properties = read_conditions(where.get(key, []), f"{place}.{key}")
    session, more = read_session(where.get("session_properties", []), f"{place}.session_properties")
    if not counted and ("operator" in where or "value" in where):
        fail("a count has no meaning here", f"{place}.operator")
    return Did(name, first, last, properties + more, session, _read_times(where, place))


def _read_times(raw: Mapping[str, Any], place: str) -> Times | None:
    """`operator` and `value` beside the days. Counting is among those who did it: what could only mean never is
    refused, for it would target everybody else."""
    if "operator" not in raw and "value" not in raw:
        return None
    operator, number = raw.get("operator", "equals"), raw.get("value")
    if operator not in ("equals", *COMPARISONS):
        known = ", ".join(("equals", *COMPARISONS))
        fail(f"unknown operator {show(operator)} for a count; known are {known}", f"{place}.operator")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= TIMES:
        fail(f"how many times must be a whole number up to {TIMES}", f"{place}.value")
    if number < {"greater_than": 0, "greater_than_equals": 0, "less_than": 2}.get(operator, 1):
        fail(f"{operator} {number} means never: ask with did_none", f"{place}.value")
    return Times(operator, number)


def _read_advanced(raw: Any, place: str) -> list[Query]:
    if not isinstance(raw, dict):
        fail("must be an object", place)
    refuse_unknown(raw, {"did_all", "did_any", "did_none"}, place)
    if not raw:
        fail("it holds no condition; known are did_all, did_any, did_none", place)
    parts: list[Query] = []
    if "did_all" in raw:
        parts.extend(_read_events(raw["did_all"], f"{place}.did_all", counted=True))
    if "did_any" in raw:
        parts.append(_read_did_any(raw["did_any"], f"{place}.did_any"))
    if "did_none" in raw:
        parts.append(Not(AnyOf(_read_events(raw["did_none"], f"{place}.did_none", counted=False))))
    return parts


def _read_did_any(raw: Any, place: str) -> Query:
    if not isinstance(raw, dict):
        fail("must be an object with any_events", place)
    refuse_unknown(raw, {"any_events", "operator", "value"}, place)
    events = _read_events(raw.get("any_events"), f"{place}.any_events", counted=False)
    times = _read_times(raw, place)
    return AnyOf(events) if times is None else DidSum(events, times)


def _read_events(raw: Any, place: str, *, counted: bool) -> tuple[Did, ...]:
    events = []
    for index, one in enumerate(_read_list(raw, place)):
        if not isinstance(one, dict):
            fail("must be an object", f"{place}[{index}]")
        refuse_unknown(one, EVENT_KEYS, f"{place}[{index}]")
        events.append(_read_event(one, f"{place}[{index}]", counted=counted))
    return tuple(events)


def find_segment(name: Any, segments: Segments, place: str) -> Query:
    if name == "all":
        return Everybody()
    if not isinstance(name, str) or name not in segments:
        fail(f"there is no segment {show(name)}; save it first, or send all for everybody", place)
    return segments[name]


def named_segments(body: Any) -> set[str]:
    """The saved segments a request's JSON may name, wherever they stand in it."""
    if isinstance(body, dict):
        found = {body["segment"]} if isinstance(body.get("segment"), str) else set()
        return found.union(*(named_segments(inner) for inner in body.values()))
    if isinstance(body, list):
        return set().union(*(named_segments(inner) for inner in body))
    return set()


def _read_sample(raw: Any, place: str) -> Sample:
    if not isinstance(raw, dict):
        fail("must be an object with percent", place)
    refuse_unknown(raw, {"percent", "seed"}, place)
    percent, seed = raw.get("percent"), raw.get("seed", "")
    hundredths = percent * 100 if isinstance(percent, int | float) and not isinstance(percent, bool) else 0
    if not 0 < hundredths <= 10_000 or abs(round(hundredths) - hundredths) > 1e-6:
        fail("percent must be above 0 and at most 100, with at most two decimals", f"{place}.percent")
    if not isinstance(seed, str) or len(seed.encode()) > NAME_BYTES:
        fail(f"seed must be a text of at most {NAME_BYTES} bytes", f"{place}.seed")
    return Sample(round(hundredths), seed)
