"""A condition on a property as SQL on columns. `store/props.py` says how properties are stored.

Case does not count; a text that reads as a number is that number; a list meets a condition when an element does (with
`match` all: when each does); what is missing meets only the negations. A day is [its start, the start of the next) on
the account's clock. Nothing here puts a text of the caller into the statement: values are bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from tocsin.audience.condition import NEGATIONS, find_iso_day
from tocsin.audience.node import Condition, Day
from tocsin.store.props import EXACT, NUMBER, SEPARATOR, Value, as_number, element_of, numbers_path_of, path_of

Bind = Callable[[Any, str], str]
NumberTest = Callable[[str], str]  # an SQL number → SQL that is true for it
NEEDLES = 200  # multiSearchAny takes 255
DIGITS = frozenset("0123456789.-+e")
SYMBOLS = {"greater_than": ">", "greater_than_equals": ">=", "less_than": "<", "less_than_equals": "<="}


class Wanted(msgspec.Struct, frozen=True):
    """What one element must be, any of: one of `texts`, hold one of `parts`, or a number one of `numbers` takes."""

    texts: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    numbers: tuple[NumberTest, ...] = ()


def write_condition(condition: Condition, bind: Bind, zone: ZoneInfo, today: date) -> str:
    """Return SQL that is 1 or 0 (never NULL) for a row with a `props` column."""
    column = bind(path_of(condition.name), "Identifier")
    if condition.operator in ("exists", "does_not_exist"):
        return f"isNotNull({column})" if condition.operator == "exists" else f"isNull({column})"
    wanted = _want(condition, bind, zone, today)
    text, number = f"dynamicElement({column}, 'String')", f"dynamicElement({column}, 'Float64')"
    meets: list[str] = []
    if condition.match == "all":
        meets.append(_write_every(wanted, text, bind))
    else:
        needles = [SEPARATOR + one + SEPARATOR for one in wanted.texts] + list(wanted.parts)
        meets.extend(_write_search(text, needles, bind))
        if wanted.numbers:
            path = bind(numbers_path_of(condition.name), "Identifier")
            array = f"dynamicElement({path}, 'Array(Nullable(Float64))')"
            meets.append(f"arrayExists(y -> ifNull({_any(test('y') for test in wanted.numbers)}, 0), {array})")
    if wanted.numbers:
        meets.append(f"ifNull({_any(test(number) for test in wanted.numbers)}, 0)")
    digits = [part for part in wanted.parts if DIGITS.issuperset(part)]
    meets.extend(_write_search(f"toString({number})", digits, bind))
    return f"NOT {_any(meets)}" if condition.operator in NEGATIONS else _any(meets)


def write_number(name: str, bind: Bind) -> str:
    """Return SQL for the number that a property is, or reads as; of a list, the sum of its numbers; 0 for none."""
    one = f"dynamicElement({bind(path_of(name), 'Identifier')}, 'Float64')"
    several = f"dynamicElement({bind(numbers_path_of(name), 'Identifier')}, 'Array(Nullable(Float64))')"
    return f"(ifNull({one}, 0) + arraySum(y -> ifNull(y, 0), {several}))"


def _want(condition: Condition, bind: Bind, zone: ZoneInfo, today: date) -> Wanted:
    values, operator = condition.values, condition.operator
    if operator in SYMBOLS:
        return Wanted(numbers=tuple(_compare(operator, value, bind, zone, today) for value in values))
    if operator == "between":
        low, high = (_ends_of(value, zone, today) for value in values)
        at_most = "<" if isinstance(values[1], Day) else "<="
        return Wanted(numbers=(_range(bind(low[0], "Float64"), at_most, bind(high[1], "Float64")),))
    plain = [value for value in values if not isinstance(value, Day)]
    if operator in ("equals", "not_equals"):
        return _want_equal(plain, bind, zone)
    return Wanted(parts=tuple(dict.fromkeys(element_of(one) for one in plain)))


def _want_equal(values: Sequence[Value], bind: Bind, zone: ZoneInfo) -> Wanted:
    """Return what equals one of the values: a number below 2^53 by its value, whatever its spelling; everything else by
    the letters of its element."""
    texts: dict[str, None] = {}
    numbers: list[float] = []
    tests: list[NumberTest] = []
    for value in values:
        number = as_number(value)
        if number is not None and abs(number) < EXACT:
            numbers.append(number)
            continue
        texts[element_of(value)] = None
        if isinstance(value, str) and (day := find_iso_day(value)):
            start, end = _day_ends(day, zone)
            tests.append(_range(bind(start, "Float64"), "<", bind(end, "Float64")))
    if numbers:
        bound = bind(numbers, "Array(Float64)")
        tests.append(lambda number: f"has({bound}, ifNull({number}, nan))")
    return Wanted(texts=tuple(texts), numbers=tuple(tests))


def _compare(operator: str, value: Value | Day, bind: Bind, zone: ZoneInfo, today: date) -> NumberTest:
    symbol = SYMBOLS[operator]
    start, end = _ends_of(value, zone, today)
    if isinstance(value, Day):  # after its end, from its start, before its start, until its end
        symbol, limit = {">": (">=", end), ">=": (">=", start), "<": ("<", start), "<=": ("<", end)}[symbol]
    else:
        limit = start
    bound = bind(limit, "Float64")
    return lambda number: f"{number} {symbol} {bound}"


def _range(low: str, at_most: str, high: str) -> NumberTest:
    return lambda number: f"({number} >= {low} AND {number} {at_most} {high})"


def _ends_of(value: Value | Day, zone: ZoneInfo, today: date) -> tuple[float, float]:
    if isinstance(value, Day):
        return _day_ends(value.resolve(today), zone)
    number = as_number(value)
    assert number is not None  # condition.py took only numbers here
    return number, number


def _day_ends(day: date, zone: ZoneInfo) -> tuple[float, float]:
    """Return the first moment of a day and of the next: 23, 24 or 25 hours apart."""
    midnights = (datetime.combine(one, time(), tzinfo=zone) for one in (day, day + timedelta(1)))
    start, end = (midnight.timestamp() for midnight in midnights)
    return start, end


def _write_search(text: str, needles: Sequence[str], bind: Bind) -> Iterable[str]:
    if len(needles) == 1:
        yield f"ifNull(position({text}, {bind(needles[0], 'String')}) > 0, 0)"
        return
    for start in range(0, len(needles), NEEDLES):
        some = bind(list(needles[start : start + NEEDLES]), "Array(String)")
        yield f"ifNull(multiSearchAny({text}, {some}), 0)"


def _write_every(wanted: Wanted, text: str, bind: Bind) -> str:
    """Return SQL that is true when every element of a list, and there is at least one, is as wanted."""
    tests: list[str] = []
    if wanted.texts:
        tests.append(f"has({bind(list(wanted.texts), 'Array(String)')}, x)")
    if wanted.parts:
        tests.append(f"arrayExists(part -> position(x, part) > 0, {bind(list(wanted.parts), 'Array(String)')})")
    if wanted.numbers:
        # ClickHouse reads more texts as numbers than we do, inf and nan among them.
        reads = f"match(x, {bind(f'^({NUMBER.pattern})$', 'String')}) AND ifNull(isFinite(toFloat64OrNull(x)), 0)"
        tests.append(f"({reads} AND ifNull({_any(test('toFloat64OrNull(x)') for test in wanted.numbers)}, 0))")
    separator = bind(SEPARATOR, "String")
    elements = f"arraySlice(splitByString({separator}, ifNull({text}, '')), 2, -1)"
    return f"(notEmpty({elements}) AND arrayAll(x -> {_any(tests)}, {elements}))"


def _any(tests: Iterable[str]) -> str:
    parts = list(tests)
    return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"
