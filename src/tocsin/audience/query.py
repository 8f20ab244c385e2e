"""The `where` of a request → the question, as nodes. docs/queries.md is its grammar.

What is not understood is refused by name: a condition that was ignored would send to more people, never to fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from tocsin.audience.condition import (
    DAY,
    NAME_BYTES,
    PARSE,
    Comparison,
    Conditions,
    are_backward,
    fail,
    nodes_of,
    read_day,
)
from tocsin.audience.node import AllOf, AnyOf, Condition, Did, DidSum, Everybody, Is, Not, Query, Sample, Times, walk
from tocsin.audience.session import Sessions, read_session
from tocsin.audience.traits import CommonJson
from tocsin.errors import Invalid, Problem, read_struct, show

LEVELS = 8  # of and, or, not
WIDTH = 50  # parts of one list
PARTS = 200  # of one question, itself included
ALL_CONDITIONS = 500
ALL_VALUES = 10_000
TIMES = 1_000_000

Segments = Mapping[str, Query]
DayJson = Annotated[str | int, Meta(extra={"is": DAY})]
CountOperator = Literal["equals", Comparison]
Count = Annotated[int, Meta(ge=0, le=TIMES)]
Events = Annotated[tuple["EventJson", ...], Meta(min_length=1, max_length=WIDTH)]
Wheres = Annotated[tuple["WhereJson", ...], Meta(min_length=1, max_length=WIDTH)]


class EventJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """An event as it is sent: raised once, or as often as `operator` and `value` say. `props` is an older spelling of
    `event_properties`."""

    event_name: str | UnsetType = UNSET
    from_: DayJson | UnsetType = field(name="from", default=UNSET)
    to: DayJson | UnsetType = UNSET
    event_properties: Conditions | UnsetType = UNSET
    props: Conditions | UnsetType = UNSET
    session_properties: Sessions | UnsetType = UNSET
    operator: CountOperator | UnsetType = UNSET
    value: Count | UnsetType = UNSET

    def __post_init__(self) -> None:
        _ = self.did  # what is wrong with it is refused while its place is known

    @cached_property
    def did(self) -> Did:
        name = self.event_name or ""
        if not 0 < len(name.encode()) <= NAME_BYTES:
            raise Invalid(f"event_name must be a text of 1 to {NAME_BYTES} bytes", ".event_name")
        first, last = read_day(self.from_, "from"), read_day(self.to, "to")
        if are_backward(first, last):
            raise Problem("Query parse failure - The from date cannot be after the to date")
        if self.event_properties is not UNSET and self.props is not UNSET:
            raise Invalid("event_properties and props mean the same; send one of them")
        properties = nodes_of(self.event_properties or (), "event_properties") + nodes_of(self.props or (), "props")
        session, more = read_session(self.session_properties or ())
        return Did(name, first, last, properties + more, session, _read_times(self))


class AnyEventsJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`did_any`: one of the events, or as many of all of them together as `operator` and `value` say."""

    any_events: Events
    operator: CountOperator | UnsetType = UNSET
    value: Count | UnsetType = UNSET

    def __post_init__(self) -> None:
        _refuse_counts(self.any_events, ".any_events")
        _read_times(self)


class AdvancedJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`advanced_query`: more events."""

    did_all: Events = ()
    did_any: AnyEventsJson | UnsetType = UNSET
    did_none: Events = ()

    def __post_init__(self) -> None:
        _refuse_counts(self.did_none, ".did_none")

    def list_parts(self) -> list[Query]:
        parts: list[Query] = [one.did for one in self.did_all]
        if self.did_any is not UNSET:
            events, times = tuple(one.did for one in self.did_any.any_events), _read_times(self.did_any)
            parts.append(AnyOf(events) if times is None else DidSum(events, times))
        if self.did_none:
            parts.append(Not(AnyOf(tuple(one.did for one in self.did_none))))
        return parts


class SampleJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A random part of the people: `percent` with at most two decimals."""

    percent: Annotated[float, Meta(gt=0, le=100)]
    seed: str = ""

    def __post_init__(self) -> None:
        if abs(round(self.percent * 100) - self.percent * 100) > 1e-6:
            raise Invalid("percent must have at most two decimals", ".percent")
        if len(self.seed.encode()) > NAME_BYTES:
            raise Invalid(f"seed must be a text of at most {NAME_BYTES} bytes", ".seed")


class WhereJson(EventJson, frozen=True, kw_only=True):
    """A `where` as it is sent: what all must be met. `common_profile_prop` is an older spelling."""

    common_profile_properties: CommonJson | UnsetType = UNSET
    common_profile_prop: CommonJson | UnsetType = UNSET
    advanced_query: AdvancedJson | UnsetType = UNSET
    segment: Any = UNSET
    and_: Wheres = field(name="and", default=())
    or_: Wheres = field(name="or", default=())
    not_: WhereJson | UnsetType = field(name="not", default=UNSET)
    sample: SampleJson | UnsetType = UNSET

    def __post_init__(self) -> None:
        base = [one for one in EventJson.__struct_fields__ if getattr(self, one) is not UNSET]
        if base and self.event_name is UNSET:
            raise Invalid(f"{show(base[0].strip('_'))} needs an event_name")
        nested = self.and_ or self.or_ or self.not_ is not UNSET
        if not nested and not self.leaves and self.segment is UNSET and self.sample is UNSET:
            raise Invalid("it must hold at least one condition; {} by itself is everybody")

    @cached_property
    def leaves(self) -> tuple[Query, ...]:
        """What it asks by itself: events and people."""
        leaves: list[Query] = [] if self.event_name is UNSET else [self.did]
        for common in (self.common_profile_properties, self.common_profile_prop):
            leaves.extend([] if common is UNSET else common.parts)
        return (*leaves, *(() if self.advanced_query is UNSET else self.advanced_query.list_parts()))


def read_where(where: Any, segments: Segments | None = None, place: str = "$.where") -> Query:
    """Return the question of a request's `where`, which stands at `place`; `segments` are the saved ones it may name.
    Raise Problem, with the place in the caller's JSON."""
    if not isinstance(where, dict):
        raise Problem(PARSE)
    if not where:
        return Everybody()
    query = _build(read_struct(where, WhereJson, place, start=f"{PARSE}: "), place, segments or {}, LEVELS)
    _bound(query, place)
    return query


def split_base(where: Mapping[str, Any], query: Query) -> tuple[Did | None, tuple[Query, ...]]:
    """Return the base event of a question that was read from `where`, and the other parts, which must all be met."""
    parts = query.of if isinstance(query, AllOf) else () if isinstance(query, Everybody) else (query,)
    if "event_name" in where and isinstance(parts[0], Did):
        return parts[0], parts[1:]
    return None, parts


def _bound(query: Query, place: str) -> None:
    """Refuse a question that is too large, with everything its segments bring."""
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
            fail(f"{count} {what}; at most {most} are allowed in one question", place)


def _build(where: WhereJson, place: str, segments: Segments, levels: int) -> Query:
    """Return the question of a `where` that stands at `place`, in which parts may be nested `levels` deep."""
    if not levels and (where.and_ or where.or_ or where.not_ is not UNSET):
        fail(f"nested deeper than {LEVELS} levels of and, or, not", place)
    parts = list(where.leaves)
    if where.segment is not UNSET:
        parts.append(find_segment(where.segment, segments, f"{place}.segment"))
    for key, kind, those in (("and", AllOf, where.and_), ("or", AnyOf, where.or_)):
        if those:
            built = (_build(one, f"{place}.{key}[{at}]", segments, levels - 1) for at, one in enumerate(those))
            parts.append(kind(tuple(built)))
    if where.not_ is not UNSET:
        parts.append(Not(_build(where.not_, f"{place}.not", segments, levels - 1)))
    if where.sample is not UNSET:
        parts.append(Sample(round(where.sample.percent * 100), where.sample.seed))
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _read_times(counted: EventJson | AnyEventsJson) -> Times | None:
    """Return how many times something was done. Counting is among those who did it: what could only mean never is
    refused, for it would target everybody else."""
    operator, number = counted.operator or "equals", counted.value
    if number is UNSET:
        if counted.operator is not UNSET:
            raise Invalid(f"value must be a whole number from 0 to {TIMES}", ".value")
        return None
    if number < {"greater_than": 0, "greater_than_equals": 0, "less_than": 2}.get(operator, 1):
        raise Invalid(f"{operator} {number} means never: ask with did_none", ".value")
    return Times(operator, number)


def _refuse_counts(events: Sequence[EventJson], field: str) -> None:
    for index, one in enumerate(events):
        if one.did.times is not None:
            raise Invalid("a count has no meaning here", f"{field}[{index}].operator")


def find_segment(name: Any, segments: Segments, place: str) -> Query:
    """Return the saved question of that name; "all" is everybody. Raise Problem when there is none."""
    if name == "all":
        return Everybody()
    if not isinstance(name, str) or name not in segments:
        fail(f"there is no segment {show(name)}; save it first, or send all for everybody", place)
    return segments[name]


def named_segments(body: Any) -> set[str]:
    """Return the saved segments a request's JSON may name, wherever they stand in it."""
    if isinstance(body, dict):
        found = {body["segment"]} if isinstance(body.get("segment"), str) else set()
        return found.union(*(named_segments(inner) for inner in body.values()))
    if isinstance(body, list):
        return set().union(*(named_segments(inner) for inner in body))
    return set()
