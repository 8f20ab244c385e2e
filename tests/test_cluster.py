"""The facts store over several servers: the printed statements are ones the engine takes, and a world that is split
over three stores gives the same answers, each asked and added, or asked through tables that stand before all three."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tocsin.account import Account, create_account
from tocsin.audience.members import count_reachable, stream_recipients
from tocsin.audience.query import read_where
from tocsin.channels import PLATFORMS
from tocsin.errors import Misconfigured
from tocsin.ingest import upload
from tocsin.store.cluster import SHARD_OF, WRITTEN, write_cluster_schema
from tocsin.store.erasure import name_place
from tocsin.store.facts import COLUMNS, Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

NOW = 1_800_000_000.0
PEOPLE, SHARDS = 90, 3
DAYS = {"from": "-60d", "to": "today"}
RED = {"event_properties": [{"name": "Color", "operator": "equals", "value": ["red"]}]}
GOLD = {"common_profile_properties": {"profile_fields": [{"name": "Type", "value": "gold"}]}}
QUESTIONS: dict[str, dict[str, Any]] = {
    "everybody": {},
    "did": {"event_name": "Seen", **DAYS},
    "did with a property": {"event_name": "Seen", **DAYS, **RED},
    "did so often": {"event_name": "Seen", **DAYS, "operator": "greater_than_equals", "value": 2},
    "is": GOLD,
    "did and is": {"event_name": "Bought", **DAYS, **GOLD},
    "did not": {"event_name": "Seen", **DAYS, "advanced_query": {"did_none": [{"event_name": "Bought", **DAYS}]}},
    "did all": {"advanced_query": {"did_all": [{"event_name": "Seen", **DAYS}, {"event_name": "Bought", **DAYS}]}},
    "did any": {
        "advanced_query": {
            "did_any": {"any_events": [{"event_name": "Seen", **DAYS}, {"event_name": "Bought", **DAYS}]}
        }
    },
    "not": {"not": {"event_name": "Seen", **DAYS}},
}


def test_statements_are_the_engines(facts: Facts) -> None:
    """Every statement is parsed and written again by the engine; each table is there for shards and before them."""
    statements = write_cluster_schema("world")
    for one in statements:
        ((written,),) = facts.query_now("SELECT formatQuery({sql:String})", {"sql": one})
        assert "ON CLUSTER world" in written
    tables = {*COLUMNS, "activity", "interaction", "feed"}
    for kind, database in (("Replicated", "tocsin_shard"), ("Distributed", "tocsin")):
        found = {re.search(rf" {database}\.(\w+) ", one) for one in statements if f"ENGINE = {kind}" in one}
        assert {match[1] for match in found if match} == tables
    assert {name for name in tables if any(f"'{name}', {SHARD_OF}" in one for one in statements)} == set(WRITTEN)


def test_who_leaves_is_erased_on_every_shard(facts: Facts) -> None:
    """What is altered is the shards' table, everywhere; a table of one machine is altered itself."""
    front = next(one for one in write_cluster_schema("c") if "tocsin.event ON CLUSTER" in one and "Distributed" in one)
    place, servers, mine = name_place("event", front.partition("ENGINE = ")[2])
    assert (place, servers) == ("tocsin_shard.event ON CLUSTER 'c'", "clusterAllReplicas('c', system.mutations)")
    assert mine == "database = 'tocsin_shard' AND table = 'event'"
    for sql in (f"ALTER TABLE {place} DELETE WHERE user = 1", f"SELECT 1 FROM {servers} WHERE {mine}"):
        facts.query_now("SELECT formatQuery({sql:String})", {"sql": sql})
    assert name_place("event", "ReplacingMergeTree ORDER BY account")[0] == "event"


@pytest.mark.parametrize("name", ["", "a-b", "a'b", "ä", "1a", "a" * 65])
def test_names_need_no_quotes(name: str) -> None:
    with pytest.raises(Misconfigured):
        write_cluster_schema(name)
    with pytest.raises(Misconfigured):
        write_cluster_schema("world", name)


def make_world(dice: random.Random) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for number in range(PEOPLE):
        who = {"identity": f"u{number}", "objectId": f"d{number}"}
        kind = dice.choice(["gold", "plain"])
        records.append({"type": "profile", **who, "profileData": {"Type": kind, "Email": f"u{number}@example.com"}})
        if dice.random() < 0.8:
            records.append(
                {"type": "token", "objectId": f"d{number}", "tokenData": {"type": "fcm", "id": f"t{number}"}}
            )
        for _ in range(dice.randrange(5)):
            event = {"evtName": dice.choice(["Seen", "Bought"]), "evtData": {"Color": dice.choice(["red", "blue"])}}
            records.append({"type": "event", **who, **event, "ts": int(NOW) - dice.randrange(50 * 86_400)})
    return records


@pytest.fixture
async def world(own_ledger: Ledger, facts: Facts) -> Account:
    account = create_account(own_ledger, "world", "UTC", NOW)[0]
    records = make_world(random.Random(7))
    for start in range(0, len(records), 1000):
        result = await upload(own_ledger, facts, account, {"d": records[start : start + 1000]}, NOW)
        assert result.unprocessed == []
    return account


@pytest.fixture
def shards(facts: Facts, world: Account) -> Iterator[list[Facts]]:
    """Three stores with the printed tables and views, but alone instead of replicated, and a third of the world each;
    and last, tables before them that ask all three, by the engine Merge instead of Distributed."""
    made: list[Facts] = []
    for shard in range(SHARDS):
        for statement in write_cluster_schema("c", f"w{shard}"):
            if "ENGINE = Distributed" not in statement or ".listener " in statement:  # a view asks for that one
                alone = statement.replace(" ON CLUSTER 'c'", "").partition("\nENGINE = Distributed")[0]
                facts.command_now(re.sub(r"Replicated(\w+)\('[^']*', '\{replica\}'(?:, )?", r"\1(", alone))
        for table in ("event", "profile"):
            columns = ", ".join(COLUMNS[table])
            where = f"account = '{world.id}' AND {SHARD_OF} % {SHARDS} = {shard}"
            facts.command_now(
                f"INSERT INTO w{shard}_shard.{table} ({columns}) SELECT {columns} FROM {table} WHERE {where}"
            )
        made.append(Facts(f"{facts.url}?database=w{shard}_shard"))
    facts.command_now("CREATE DATABASE w")
    for table in (*COLUMNS, "activity", "interaction"):
        merge = f"Merge(REGEXP('^w[0-9]_shard$'), '^{table}$')"
        facts.command_now(f"CREATE TABLE w.{table} AS w0_shard.{table} ENGINE = {merge}")
    yield [*made, Facts(f"{facts.url}?database=w")]
    for database in ("w", *(f"w{shard}{end}" for shard in range(SHARDS) for end in ("", "_shard"))):
        facts.command_now(f"DROP DATABASE {database} SYNC")


async def test_a_world_on_three_shards(facts: Facts, world: Account, shards: list[Facts]) -> None:
    """Nobody is on two shards, and every question gets the same people and numbers as from one store."""
    *apart, front = shards
    for name, where in QUESTIONS.items():
        query = read_where(where)
        whole = await count_reachable(facts, world, query, PLATFORMS, NOW)
        parts = [await count_reachable(one, world, query, PLATFORMS, NOW) for one in apart]
        assert {platform: sum(part[platform] for part in parts) for platform in whole} == whole, name
        assert await count_reachable(front, world, query, PLATFORMS, NOW) == whole, name
        everybody = sorted(people(facts, world, query))
        assert sorted(one for shard in apart for one in people(shard, world, query)) == everybody, name
        assert sorted(people(front, world, query)) == everybody, name
        assert 0 < whole["android"] < PEOPLE, name
        assert name != "everybody" or all(part["android"] > 0 for part in parts)


def people(facts: Facts, account: Account, query: Any) -> list[tuple[int, str]]:
    return [pair for block in stream_recipients(facts, account, query, PLATFORMS, NOW, None) for pair in block]
