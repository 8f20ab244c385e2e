"""Files brought into both stores, and all that these say about an account, to be compared with what they say about
another one."""

from __future__ import annotations

import functools
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, TextClause, text

from tocsin.account import Account
from tocsin.cli.record_file import Options, Wrong, read_file
from tocsin.cli.record_store import Run, Store
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger


def _select(sql: TextClause, account_id: str, connection: Connection) -> list[Any]:
    return list(connection.execute(sql, {"id": account_id}).all())


NOW = 1_795_000_000.0  # of rows without a time


class Opened(NamedTuple):
    """Both stores, as `StoresStore` wants them."""

    ledger: Ledger
    facts: Facts


async def bring(store: Store, file: Path, options: Options, now: float = NOW) -> dict[int, Wrong]:
    """Import a file, block by block. Return the rows that were refused."""
    refused: dict[int, Wrong] = {}
    row = 0
    for block in read_file(file, options).blocks:
        found = await (await store.take(block, row, Run("x", now)))
        refused |= {row + place: wrong for place, wrong in found.items()}
        row += len(block)
    return refused


def look(ledger: Ledger, facts: Facts, account: Account) -> dict[str, Any]:
    """All that both stores say about an account, without its own id, and how often a user was written."""
    said: dict[str, Any] = {}
    for table, columns in {
        "user": "id, profile, created_at",
        "identity": "kind, value, user_id",
        "device": "user_id, object_id, kind, token",
        "known_name": "kind, name",
        "unsubscribed": "kind, address",
    }.items():
        sql = text(f'SELECT {columns} FROM "{table}" WHERE account_id = :id')
        rows = ledger.read_now(functools.partial(_select, sql, account.id))
        said[table] = sorted(map(tuple, rows))
    for table, columns in {
        "event": "name, day, user, at, id, toJSONString(props), raw",
        "profile": "user, reach, toJSONString(props)",
    }.items():
        asked = f"SELECT {columns} FROM {table} FINAL WHERE account = {{id:String}}"
        said[table] = sorted(facts.query_now(asked, {"id": account.id}))
    return said


def look_at_people(ledger: Ledger, facts: Facts, account: Account) -> list[Any]:
    """What both stores say of everybody, by their names and not by their numbers."""
    said = look(ledger, facts, account)
    named = defaultdict[int, list[tuple[str, str]]](list)
    for kind, value, user in said["identity"]:
        named[user].append((kind, value))
    asked = "SELECT user, version, reach, toString(latitude), toString(longitude), zone, toJSONString(props) "
    copies = facts.query_now(f"{asked}FROM profile FINAL WHERE account = {{id:String}}", {"id": account.id})
    people = sorted((named[user], profile) for user, profile, _ in said["user"])
    return [people, sorted((named[user], *rest) for user, *rest in copies), said["known_name"]]
