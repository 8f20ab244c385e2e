"""Erasing rows of the facts store: mutations, which write anew the parts that have such rows.

Rows are gone from every answer when a mutation is done. The bytes are gone when the engine drops the parts from before,
eight minutes later (ClickHouse's `old_parts_lifetime`, which also outlasts a power cut).
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from datetime import date
from typing import Any

from tocsin.store.facts import Facts

LOOK_SECONDS = 0.2  # between two looks whether a mutation is done
MUTATION_SECONDS = 3600.0

Person = tuple[str, int]  # account, user

_PAIRS = "{pairs:Array(Tuple(String, UInt32))}"
_MINE = "account IN {accounts:Array(String)}"
_DISTRIBUTED = re.compile(r"Distributed\('(\w+)', '(\w+)', '(\w+)'")


class ErasureError(Exception):
    """A mutation failed, or did not end in time. It goes on in the store; who erases again waits for it first."""


def erase_people(facts: Facts, people: Collection[Person], still_open: Collection[int] = ()) -> None:
    """Erase every row about these people, and take them out of the days on which an event was raised. Returns when it
    is done. Blocks: call it in a thread. What was counted about messages stays, and so do outcomes, as nobody's; those
    of chunks that are `still_open` go on being theirs."""
    values: dict[str, Any] = {"accounts": sorted({account for account, _ in people}), "pairs": sorted(people)}
    theirs = f"{_MINE} AND (account, user) IN {_PAIRS}"
    for table in ("event", "profile", "feed"):
        _mutate(facts, table, f"DELETE WHERE {theirs}", values)
    change = f"UPDATE user = 0 WHERE {theirs} AND chunk NOT IN {{still_open:Array(UInt64)}}"
    _mutate(facts, "outcome", change, values | {"still_open": sorted(still_open)})
    gone = f"bitmapBuild(arrayMap(one -> one.2, arrayFilter(one -> one.1 = account, {_PAIRS})))"
    change = f"UPDATE users = bitmapAndnot(users, {gone}) WHERE {_MINE} AND bitmapHasAny(users, {gone})"
    _mutate(facts, "activity", change, values)


def erase_events(facts: Facts, account_id: str, before: Mapping[str, date]) -> int:
    """Erase an account's events from before a day, by name, and who raised them. Return how many there were. Blocks."""
    kept_from = "transform(name, {names:Array(String)}, {days:Array(Date)}, toDate(0))"
    old = f"account = {{account:String}} AND name IN {{names:Array(String)}} AND day < {kept_from}"
    values = {"account": account_id, "names": list(before), "days": list(before.values())}
    # Without FINAL, which takes longer than a question may where there is much: rows stored twice are two until merged.
    [(count,)] = facts.query_now(f"SELECT count() FROM event WHERE {old}", values)  # noqa: S608 - our own words
    for table in ("event", "activity"):  # by the second is seen what is left to do
        _mutate(facts, table, f"DELETE WHERE {old}", values)
    return int(count)


def _mutate(facts: Facts, table: str, change: str, values: Mapping[str, Any]) -> None:
    """Run a mutation on every server that has rows of a table, after those that are under way."""
    [(engine,)] = facts.query_now(
        "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {table:String}",
        {"table": table},
    )
    place, servers, condition = name_place(table, engine)
    _wait(facts, servers, condition)
    facts.command_now(f"ALTER TABLE {place} {change}", values)
    _wait(facts, servers, condition)


def name_place(table: str, engine: str) -> tuple[str, str, str]:
    """Return what is altered for a table of this engine, where its mutations are listed, and which of them are its own.
    Tables that stand before those of a cluster have no rows: their shards' are altered, on every server."""
    if found := _DISTRIBUTED.match(engine):
        cluster, database, local = found.groups()
        servers = f"clusterAllReplicas('{cluster}', system.mutations)"
        return f"{database}.{local} ON CLUSTER '{cluster}'", servers, f"database = '{database}' AND table = '{local}'"
    return table, "system.mutations", f"database = currentDatabase() AND table = '{table}'"


def _wait(facts: Facts, servers: str, condition: str) -> None:
    deadline = time.monotonic() + MUTATION_SECONDS
    asked = f"SELECT max(latest_fail_reason) FROM {servers} WHERE {condition} AND NOT is_done HAVING count() > 0"  # noqa: S608
    while found := facts.query_now(asked, {}):
        if found[0][0] or time.monotonic() > deadline:
            raise ErasureError("a mutation of the facts store failed" if found[0][0] else "a mutation takes too long")
        time.sleep(LOOK_SECONDS)
