"""The audience of a form: rows in three boxes, «all of these», «any of these», «none of these», and the `where` they
mean. Pure.

What the boxes cannot hold stands as JSON in a field of its own, so that nothing is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import msgspec

from tocsin.audience.node import AllOf, AnyOf, Condition, Day, Did, Everybody, Is, Not, Query, Session
from tocsin.audience.writing import Json, write_where

BOXES = ("all", "any", "none")
ROWS = 50  # as many as a list of a `where` may have
SEPARATOR = "|"  # between several values of one field
WITHOUT_VALUE = ("exists", "does_not_exist")
FIRST_DAY = 19700101
ROW = re.compile(r"row-([0-9]{1,3})-([a-z_]{1,10})")
NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")
EVER = Day(date(1970, 1, 1))


class QuestionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One condition as it was typed. kind: did, is, segment. name: of the event, property or segment. times_op, times:
    how often an event was. days: within so many, "" for ever. prop: a property of the event; op, value: what it, or the
    profile's property, must be."""

    number: int
    box: str = "all"
    kind: str = "did"
    name: str = ""
    times_op: str = ""
    times: str = ""
    days: str = ""
    prop: str = ""
    op: str = "equals"
    value: str = ""

    def fields(self) -> dict[str, str]:
        """Return the row as fields of a form."""
        return {
            f"row-{self.number}-{name}": str(getattr(self, name))
            for name in QuestionRow.__struct_fields__
            if name != "number"
        }


FIELDS = frozenset(QuestionRow.__struct_fields__) - {"number"}


def read_rows(fields: Mapping[str, str]) -> list[QuestionRow]:
    """Return the rows of a form, in the order of their numbers."""
    found: dict[int, dict[str, str]] = {}
    for name, value in fields.items():
        match = ROW.fullmatch(name)
        if match and match[2] in FIELDS:
            found.setdefault(int(match[1]), {})[match[2]] = value.strip()
    rows = [QuestionRow(number=number, **given) for number, given in sorted(found.items())[:ROWS]]
    return [row for row in rows if row.box in BOXES]


def make_where(rows: Sequence[QuestionRow], more: Any = None) -> tuple[Json, dict[str, int]]:
    """Return the `where` that rows mean, and which row stands where in it. more: a `where` beside them, or None."""
    parts: list[tuple[Json, dict[str, int]]] = []
    for row in rows:
        if row.box == "all":
            parts.append((_write_row(row), {"": row.number}))
    anys = [row for row in rows if row.box == "any"]
    if anys:
        places = {f".or[{index}]": row.number for index, row in enumerate(anys)}
        parts.append(({"or": [_write_row(row) for row in anys]}, places))
    nones = [row for row in rows if row.box == "none"]
    if len(nones) == 1:
        parts.append(({"not": _write_row(nones[0])}, {".not": nones[0].number}))
    elif nones:
        places = {f".not.or[{index}]": row.number for index, row in enumerate(nones)}
        parts.append(({"not": {"or": [_write_row(row) for row in nones]}}, places))
    if more is not None:
        parts.append((more, {}))
    if not parts:
        return {}, {}
    if len(parts) == 1:
        where, places = parts[0]
        return where, {f"$.where{place}": number for place, number in places.items()}
    return {"and": [part for part, _ in parts]}, {
        f"$.where.and[{index}]{place}": number
        for index, (_, places) in enumerate(parts)
        for place, number in places.items()
    }


def split_question(query: Query) -> tuple[list[QuestionRow], Json | None]:
    """Return the rows that mean a question, and the rest of it as a `where`; together they mean the same."""
    rows: list[QuestionRow] = []
    rest: list[Query] = []
    any_used = False
    for part in _parts(query):
        if isinstance(part, AnyOf) and not any_used and (found := _read_all(part.of, "any")) is not None:
            any_used = True
            rows += found
        elif isinstance(part, Not):
            inner = part.of.of if isinstance(part.of, AnyOf) else (part.of,)
            found = _read_all(inner, "none")
            rows += found or []
            rest += [part] if found is None else []
        elif (row := _read_row(part, "all")) is not None:
            rows.append(row)
        else:
            rest.append(part)
    if len(rows) > ROWS:
        return [], write_where(query)
    numbered = [msgspec.structs.replace(row, number=number) for number, row in enumerate(rows)]
    left = None if not rest else write_where(rest[0] if len(rest) == 1 else AllOf(tuple(rest)))
    return numbered, left


def _write_row(row: QuestionRow) -> Json:
    match row.kind:
        case "segment":
            return {"segment": row.name}
        case "is":
            return {"common_profile_properties": {"profile_fields": [_write_condition(row.name, row)]}}
    first: Any = FIRST_DAY if not row.days else f"-{row.days}d"
    written: Json = {"event_name": row.name, "from": first, "to": "today"}
    if row.prop:
        written["event_properties"] = [_write_condition(row.prop, row)]
    if row.times_op:
        written |= {"operator": row.times_op, "value": read_number(row.times)}
    return written


def _write_condition(name: str, row: QuestionRow) -> Json:
    written: Json = {"name": name, "operator": row.op}
    if row.op not in WITHOUT_VALUE:
        values = [value.strip() for value in row.value.split(SEPARATOR)]
        written["value"] = values[0] if len(values) == 1 else values
    return written


def read_number(text: str) -> int | float | str:
    """Return the number of a field; its text where it is none, for whoever refuses it by name."""
    if not NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def _parts(query: Query) -> list[Query]:
    """Return what must all be met, a condition of a profile each for itself."""
    match query:
        case Everybody():
            return []
        case AllOf():
            return [inner for part in query.of for inner in _parts(part)]
        case Is():
            return [Is((one,)) for one in query.properties]
        case _:
            return [query]


def _read_all(queries: Sequence[Query], box: str) -> list[QuestionRow] | None:
    """Return a row for each; None when one is more than a row can say."""
    rows = [_read_row(one, box) for one in queries]
    return [row for row in rows if row] if all(rows) else None


def _read_row(query: Query, box: str) -> QuestionRow | None:
    match query:
        case Is(properties=(condition,)):
            value = _read_value(condition)
            if value is None:
                return None
            return QuestionRow(number=0, box=box, kind="is", name=condition.name, op=condition.operator, value=value)
        case Did() if len(query.properties) <= 1 and query.session == Session() and query.last == Day():
            condition = query.properties[0] if query.properties else Condition("", "equals", ("",))
            value, days = _read_value(condition), _read_days(query.first)
            if value is None or days is None:
                return None
            times = {} if query.times is None else {"times_op": query.times.operator, "times": str(query.times.number)}
            given = {"name": query.event, "days": days, "prop": condition.name, "op": condition.operator}
            return QuestionRow(number=0, box=box, kind="did", value=value, **given, **times)
    return None


def _read_days(first: Day) -> str | None:
    if first == EVER:
        return ""
    return str(first.ago) if first.on is None and first.unit == "d" and first.ago else None


def _read_value(condition: Condition) -> str | None:
    """Return the values of a condition as one field; None for what a field cannot say."""
    texts: list[str] = []
    for value in condition.values:
        text = _show_number(value) if isinstance(value, float) else str(value)
        plain = isinstance(value, str | int | float) and not isinstance(value, bool)
        if not plain or SEPARATOR in text or text != text.strip() or (not text and condition.name):
            return None
        texts.append(text)
    return None if condition.match != "any" else f" {SEPARATOR} ".join(texts)


def _show_number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
