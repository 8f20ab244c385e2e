"""Why somebody is meant by a question or is not, and what a question costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from tocsin.account import Account
from tocsin.audience.compile import Writer, compile_members, select_people
from tocsin.audience.description import describe
from tocsin.audience.node import AllOf, AnyOf, Is, Not, Query, walk
from tocsin.channels import PLATFORMS
from tocsin.ingest.profile import REACHABLE
from tocsin.store.facts import Facts


class ExplainedPart(msgspec.Struct, frozen=True):
    """One part of a question for one person. `decides`: had it been the other way, so might have been the answer."""

    what: str
    met: bool
    decides: bool
    parts: tuple[ExplainedPart, ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """Whether a person is meant, where a message would reach them, and the part that decided."""

    meant: bool
    reachable: dict[str, bool]
    why: ExplainedPart


class Cost(msgspec.Struct, frozen=True):
    """A question in SQL, and what answering it took. rows: at most so many are read of each table; for `activity` a row
    is one day of one event. seconds: of the count."""

    sql: str
    parameters: dict[str, Any]
    rows: dict[str, int]
    seconds: float
    count: int


async def explain_person(facts: Facts, account: Account, query: Query, user: int, now: float) -> Explanation:
    """Return why a user is meant or not: each part is asked by itself, and the answers are joined as the parts are."""
    spread = _spread(query)
    writer = Writer(account, now, user)
    columns = [writer.write_leaf(node) for node in walk(spread) if not isinstance(node, AllOf | AnyOf | Not)]
    sql = select_people([*PLATFORMS, *columns], "user = {user:UInt32}")
    rows = await facts.query(sql, {**writer.parameters, "user": user})
    if not rows:  # no copy in the facts store yet: nothing is known of them, so nothing meant
        rows = [(user, *[0] * (len(PLATFORMS) + len(columns)))]
    _, *values = rows[0]
    reach, met = values[: len(PLATFORMS)], iter(values[len(PLATFORMS) :])
    why = _decide(_judge(spread, met), decides=True)
    reachable: dict[str, bool] = {name: value == REACHABLE for name, value in zip(PLATFORMS, reach, strict=True)}
    return Explanation(why.met, reachable, why)


async def explain_query(facts: Facts, account: Account, query: Query, now: float) -> Cost:
    """Return the number of people a question means, and what counting them took."""
    members = compile_members(query, account, now)
    counted = f"SELECT count() FROM ({members.text})"
    rows: dict[str, int] = {}
    for statement in (counted, *members.reads):
        for _, table, _, count, _ in await facts.query(f"EXPLAIN ESTIMATE {statement}", members.parameters):
            rows[table] = rows.get(table, 0) + int(count)
    started = time.monotonic()
    [(count,)] = await facts.query(counted, members.parameters)
    parameters = {
        name: str(value) if not isinstance(value, list) else value for name, value in members.parameters.items()
    }
    return Cost(members.text, parameters, rows, round(time.monotonic() - started, 4), int(count))


def _spread(query: Query) -> Query:
    """Return the question with every condition on a profile as a part of its own."""
    match query:
        case Is() if len(query.properties) > 1:
            return AllOf(tuple(Is((one,)) for one in query.properties))
        case AllOf() | AnyOf():
            return type(query)(tuple(_spread(part) for part in query.of))
        case Not():
            return Not(_spread(query.of))
        case _:
            return query


def _judge(query: Query, met: Iterator[Any]) -> ExplainedPart:
    match query:
        case AllOf() | AnyOf():
            parts = tuple(_judge(part, met) for part in query.of)
            together = all if isinstance(query, AllOf) else any
            what = "all of" if isinstance(query, AllOf) else "at least one of"
            return ExplainedPart(what, together(part.met for part in parts), False, parts)
        case Not():
            part = _judge(query.of, met)
            return ExplainedPart("not", not part.met, False, (part,))
        case _:
            return ExplainedPart(describe(query), bool(next(met)), False)


def _decide(part: ExplainedPart, *, decides: bool) -> ExplainedPart:
    """Return the part with `decides` set. Of `all of` that failed, the parts that failed decided; of `at least one of`
    that held, those that held."""
    some = part.what != "not" and (part.met != (part.what == "all of"))
    parts = tuple(_decide(one, decides=decides and (not some or one.met == part.met)) for one in part.parts)
    return msgspec.structs.replace(part, decides=decides, parts=parts)
