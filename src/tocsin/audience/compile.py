"""What a question means: nodes → one SQL statement with bound parameters. Pure.

Comparison: texts by their letters without regard to case; a number, or a text that reads as one, also by its number
(so "5", 5 and 5.0 are equal); booleans as the texts true and false. A list in a profile meets a condition when one of
its elements does. A property that is missing meets no condition but `not_equals`, `does_not_contain` and
`does_not_exist`. No text of the caller is ever part of the statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, assert_never

from tocsin.audience.query import All, Condition, Did, Everybody, Is, Query, Value, as_number
from tocsin.store.facts import path_of

COMPARISONS = {
    "greater_than": ">",
    "greater_than_equals": ">=",
    "less_than": "<",
    "less_than_equals": "<=",
}


class Sql(NamedTuple):
    text: str
    parameters: Mapping[str, Any]


def compile_members(query: Query, account_id: str) -> Sql:
    """Everybody the question means: rows of (user, android, ios, windows, email), the reach columns of facts.sql."""
    writer = _Writer(account_id)
    meets = writer.write(query)
    text = (
        f"SELECT user, android, ios, windows, email FROM profile FINAL WHERE account = {{account:String}} AND {meets}"
    )
    return Sql(text, writer.parameters)


class _Writer:
    """Gathers parameters while the tree is walked, so that each has a name of its own."""

    def __init__(self, account_id: str):
        self.parameters: dict[str, Any] = {"account": account_id}

    def write(self, query: Query) -> str:
        """A condition on `user` in `profile`."""
        match query:
            case Everybody():
                return "1"
            case Did():
                return f"user IN ({self._write_did(query)})"
            case Is():
                return self._write_conditions(query.properties)
            case All():
                return "(" + " AND ".join(self.write(part) for part in query.of) + ")"
            case _:
                assert_never(query)

    def _write_did(self, did: Did) -> str:
        event = self._bind(did.event, "String")
        first, last = self._bind(did.first, "Date"), self._bind(did.last, "Date")
        where = f"account = {{account:String}} AND name = {event} AND day BETWEEN {first} AND {last}"
        if did.properties:
            where += " AND " + self._write_conditions(did.properties)
        return f"SELECT user FROM event WHERE {where}"

    def _write_conditions(self, conditions: tuple[Condition, ...]) -> str:
        return "(" + " AND ".join(self._write_condition(one) for one in conditions) + ")"

    def _write_condition(self, condition: Condition) -> str:
        column = self._bind(path_of(condition.name), "Identifier")
        operator = condition.operator
        if operator == "exists":
            return f"isNotNull({column})"
        if operator == "does_not_exist":
            return f"isNull({column})"
        # One element for a plain value, all of a list's for a list; never NULL, which no array may hold.
        texts = (
            f"arrayMap(x -> lowerUTF8(x), if(startsWith(dynamicType({column}), 'Array'), "
            f"arrayMap(x -> if(startsWith(x, '\"'), JSONExtractString(x), x), arrayFilter(x -> x != 'null', "
            f"JSONExtractArrayRaw(ifNull(toJSONString({column}), '')))), [ifNull(toString({column}), '')]))"
        )
        meets = f"(isNotNull({column}) AND arrayExists(x -> {self._write_test(condition)}, {texts}))"
        return f"NOT {meets}" if operator in ("not_equals", "does_not_contain") else meets

    def _write_test(self, condition: Condition) -> str:
        """Whether the text `x` meets any of the condition's values."""
        numbers = [number for value in condition.values if (number := as_number(value)) is not None]
        if condition.operator in COMPARISONS:
            compared = f"toFloat64OrNull(x) {COMPARISONS[condition.operator]} y"
            return f"arrayExists(y -> ifNull({compared}, 0), {self._bind(numbers, 'Array(Float64)')})"
        texts = f"arrayMap(y -> lowerUTF8(y), {self._bind([_text(v) for v in condition.values], 'Array(String)')})"
        if condition.operator in ("contains", "does_not_contain"):
            return f"arrayExists(y -> position(x, y) > 0, {texts})"
        if not numbers:
            return f"has({texts}, x)"
        return f"(has({texts}, x) OR has({self._bind(numbers, 'Array(Float64)')}, ifNull(toFloat64OrNull(x), nan)))"

    def _bind(self, value: Any, kind: str) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f"{{{name}:{kind}}}"


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
