"""The facts store: names of properties come back as they were, and a row written twice is one row."""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest
from conftest import THOROUGH
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tocsin.errors import Problem
from tocsin.store.facts import Facts, read_script
from tocsin.store.props import encode_props, escape_key, fold, path_of

pytest_plugins = ("engines",)

AT = datetime(2027, 1, 15, 8, tzinfo=UTC)
DAY = date(2027, 1, 15)
AWKWARD = (
    *("a.b", "a", "b", "a%2Eb", "a%2eb", "%", "%25", "'", '"', "`", "\\", "\n", "\0", " ", "  ", "\t", "~", "-", "_"),
    *("null", "size", "size0", "0", "42", "-1", "Größe", "größe", "日本", "🔔", "props", "user", "^", ":", ".:Int64"),
    *("Customer Type", "customer type", "Customer Type ", "{p0:String}", "' OR 1=1 --", "100%", "[]", "x" * 120),
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def fresh() -> str:
    """An account id of its own: every statement of the store names the account."""
    return secrets.token_hex(8)


def profile(account: str, user: int, props: dict[str, Any], version: int = 1) -> tuple[Any, ...]:
    return (account, user, version, 1, 0, 0, 0, 0, 0, math.nan, math.nan, "", encode_props(props))


def event(account: str, number: int, props: str = "{}") -> tuple[Any, ...]:
    return (account, "Viewed", DAY, number % 7, AT, number, props, props)


def outcome(account: str, position: int, what: str, tag: str = "") -> tuple[Any, ...]:
    return (account, 77, 5, position, 100 + position, "ios", "push", what, "", tag, "", DAY, AT)


@given(names, names)
@example("a.b", "a%2Eb")
@example("", "%")
@example("~", "%7E")
def test_escaped_names_never_meet(one: str, other: str) -> None:
    """Two different names have two different paths, of characters that need no quoting."""
    assert (escape_key(one) == escape_key(other)) == (one == other)
    assert set(escape_key(one)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%_ ")


@settings(max_examples=15 if THOROUGH else 6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, min_size=1, max_size=12, unique=True))
@example(list(AWKWARD))
def test_any_name_comes_back(facts: Facts, wanted: list[str]) -> None:
    """A property of any name is found by that name, beside all the others, and by no other name."""
    account = fresh()
    facts.insert_now("profile", [profile(account, 1, {name: f"value {at}" for at, name in enumerate(wanted)})])
    columns = ", ".join(f"toString({{p{at}:Identifier}})" for at in range(len(wanted)))
    parameters = {f"p{at}": path_of(name) for at, name in enumerate(wanted)}
    [row] = facts.query_now(
        f"SELECT {columns} FROM profile FINAL WHERE account = {{account:String}}", parameters | {"account": account}
    )
    assert dict(zip(wanted, row, strict=True)) == {name: f"\x1fvalue {at}\x1f" for at, name in enumerate(wanted)}
    absent = facts.query_now(
        "SELECT isNull({p:Identifier}) FROM profile FINAL WHERE account = {account:String}",
        {"account": account, "p": path_of("".join(wanted) + "?")},
    )
    assert absent == [(1,)]


@pytest.mark.parametrize(
    "text",
    [
        *("5", "05", " 5", "5.0", "1487576752", "true", "null", "", "1e3", "[1]", '{"a":1}', "2027-01-15"),
        *("2027-01-15 10:00:00", "2027-01-15T10:00:00Z", "2027-01-15T10:00:00.123+02:00", "Jan 5", "10:00", "Größe"),
    ],
)
def test_texts_keep_their_letters(facts: Facts, text: str) -> None:
    """A text stays the text it was, beside a date, a number and a list in the same block."""
    account = fresh()
    others: list[Any] = ["2027-01-15T10:00:00Z", "2027-01-15", 5, 5.5, True, ["a"]]
    rows = [profile(account, 1 + at, {"key": value}) for at, value in enumerate([*others, text])]
    facts.insert_now("profile", rows)
    found = facts.query_now(
        "SELECT toString({p:Identifier}) FROM profile FINAL WHERE account = {account:String} AND user = {user:UInt32}",
        {"account": account, "user": len(rows), "p": path_of("key")},
    )
    assert found == [(f"\x1f{fold(text)}\x1f",)]


async def test_inserts_side_by_side_keep_every_row(facts: Facts) -> None:
    """Two hundred inserts at once are all stored when they return, each row once."""
    account = fresh()

    async def insert(first: int) -> None:
        await facts.insert("event", [event(account, number) for number in range(first, first + 5)])
        [(there,)] = await facts.query(
            "SELECT count() FROM event FINAL WHERE account = {account:String} AND id >= {first:UInt64} "
            "AND id <= {last:UInt64}",
            {"account": account, "first": first, "last": first + 4},
        )
        assert there == 5

    await asyncio.gather(*(insert(first) for first in range(0, 1000, 5)))
    found = await facts.query(
        "SELECT count(), uniqExact(id), sum(id) FROM event FINAL WHERE account = {account:String}", {"account": account}
    )
    assert found == [(1000, 1000, sum(range(1000)))]


MANY = "SELECT number FROM numbers(1000000) ORDER BY sipHash64(number)"


@pytest.fixture
def hurried(facts: Facts) -> Iterator[Facts]:
    """The store, with a second for each question."""
    facts.bound(query_seconds=1.0)
    yield facts
    facts.bound()


def test_a_stream_waits_for_its_reader(hurried: Facts) -> None:
    """What the reader of a stream does between two blocks is no time of the store's: no row is missing in the end."""
    started, read = time.monotonic(), 0
    for block in hurried.stream(MANY, {}):
        read += len(block)
        while time.monotonic() < started + 1.5:  # a reader who has other things to do
            hurried.query_now("SELECT count() FROM numbers(1000000)", {})
    assert read == 1_000_000


@pytest.mark.parametrize("many", [MANY, "SELECT number FROM numbers(1000000)"], ids=["sorted", "as it is read"])
def test_a_stream_is_bounded(hurried: Facts, many: str) -> None:
    """A question that keeps the store busy without an answer is ended, and the store is free for the next."""
    started = time.monotonic()
    endless = f"SELECT * FROM ({many.replace('1000000', '1000000000000')}) WHERE sipHash64(number) = 1"
    with pytest.raises(Problem, match="TOCSIN_QUERY_SECONDS"):
        for _ in hurried.stream(endless, {}):
            pass
    assert time.monotonic() - started < 10
    assert hurried.query_now("SELECT count() FROM system.processes WHERE query LIKE '%sipHash64(number) = 1%'", {}) == [
        (1,)
    ]  # this question itself


def test_slow_blocks_add_up(hurried: Facts) -> None:
    """The limit is for the whole stream, not for each block."""
    slow = "SELECT number, sleepEachRow(0.02) FROM numbers(1000) SETTINGS max_block_size = 10"
    with pytest.raises(Problem, match="TOCSIN_QUERY_SECONDS"):
        for _ in hurried.stream(slow, {}):
            pass


async def test_a_failing_insert_is_told(facts: Facts) -> None:
    """A row the store cannot take fails its own caller, and the next insert works."""
    account = fresh()
    with pytest.raises(TypeError):
        await facts.insert("event", [(account, "Viewed", "no day", "no user", AT, 1, "{}", "{}")])
    await facts.insert("event", [event(account, 1)])
    assert await facts.query("SELECT count() FROM event WHERE account = {account:String}", {"account": account}) == [
        (1,)
    ]


@pytest.mark.parametrize("table", ["event", "outcome"])
def test_writing_again_is_writing_once(facts: Facts, table: str) -> None:
    """The same rows three times, in the same block and in others, are one row each for readers that say FINAL."""
    account = fresh()
    rows = [event(account, n) if table == "event" else outcome(account, n, "refused") for n in range(4)]
    facts.insert_now(table, rows)
    facts.insert_now(table, [*rows, *rows])
    found = facts.query_now(
        f"SELECT count() FROM {table} FINAL WHERE account = {{account:String}}", {"account": account}
    )
    assert found == [(4,)]


def test_the_highest_version_of_a_profile_counts(facts: Facts) -> None:
    """A copy that arrives late does not replace a newer one."""
    account = fresh()
    for version in (1, 3, 2):
        facts.insert_now("profile", [profile(account, 1, {"version": version}, version)])
    found = facts.query_now(
        "SELECT version, toString({p:Identifier}) FROM profile FINAL WHERE account = {account:String}",
        {"account": account, "p": path_of("version")},
    )
    assert found == [(3, "3")]


def test_interactions_are_the_events_counted(facts: Facts) -> None:
    """Views and clicks are counted by message as they come, whatever a client calls a campaign; a store from before
    counts its events once, when it is opened."""
    account = fresh()

    def view(number: int, name: str, **given: Any) -> tuple[Any, ...]:
        return (account, name, DAY, 1, AT, number, encode_props(given), json.dumps(given))

    odd: tuple[Any, ...] = (None, "x", "77", -1, 1.5, 2**40, True, [77])
    rows = [view(number, "Notification Viewed", **{"Campaign id": one}) for number, one in enumerate(odd)]
    rows.append(view(90, "Notification Viewed"))
    for number in range(6):
        said = {"Campaign id": 77 * (number % 2), "Tag group": f"t{number % 3}", "Variant": "A"}
        rows += [view(100 + number, name, **said) for name in ("Notification Viewed", "Notification Clicked", "Other")]
    rows += [view(100, "Notification Viewed", **{"Campaign id": 0, "Tag group": "t0", "Variant": "A"})]
    query = (
        "SELECT campaign, name, tag_group, variant, uniqExactMerge(messages) FROM interaction "
        "WHERE account = {account:String} GROUP BY ALL"
    )
    expected = {
        (77 * (number % 2), name, f"t{number % 3}", "A", 1)
        for name in ("Notification Viewed", "Notification Clicked")
        for number in range(6)
    }
    for _ in range(2):
        facts.insert_now("event", rows)
        assert set(facts.query_now(query, {"account": account})) == expected
    facts.command_now("TRUNCATE TABLE interaction")
    for _ in range(2):
        for statement in read_script():
            facts.command_now(statement)
        assert set(facts.query_now(query, {"account": account})) == expected


def test_accepted_outcomes_are_events(facts: Facts) -> None:
    """Each accepted recipient has one `Notification Sent` that can be asked for, and no other outcome makes any."""
    account = fresh()
    tag = 'a "tag"\\ of Größe'
    others = ("gone", "refused", "expired", "unknown", "suppressed", "throttled", "unavailable", "denied")
    rows = [outcome(account, 0, "accepted", tag), outcome(account, 1, "accepted")]
    rows += [outcome(account, 2 + at, what) for at, what in enumerate(others)]
    for _ in range(2):
        facts.insert_now("outcome", rows)
    found = facts.query_now(
        "SELECT name, day, user, at, id, raw FROM event FINAL WHERE account = {account:String} ORDER BY id",
        {"account": account},
    )
    seen = [(*row[:3], row[3].replace(tzinfo=UTC), row[4], json.loads(row[5])) for row in found]
    props = {"Campaign id": 77, "Variant": "default", "Channel": "push", "Platform": "ios"}
    assert seen == [
        ("Notification Sent", DAY, 100, AT, 5 * 65536, props | {"Tag group": tag}),
        ("Notification Sent", DAY, 101, AT, 5 * 65536 + 1, props | {"Tag group": ""}),
    ]


@pytest.mark.parametrize("tag", ['a "tag"\\ of Größe', "", "plain"])
def test_events_of_outcomes_are_as_uploaded_ones(facts: Facts, tag: str) -> None:
    """What the store makes of an outcome is asked for like what an upload says."""
    account = fresh()
    facts.insert_now("outcome", [outcome(account, 0, "accepted", tag)])
    made = {"Campaign id": 77, "Variant": "default", "Channel": "push", "Platform": "ios", "Tag group": tag}
    [(props,)] = facts.query_now(
        "SELECT toJSONString(props) FROM event WHERE account = {account:String}", {"account": account}
    )
    assert json.loads(props) == json.loads(encode_props(made))


@pytest.mark.parametrize(
    ("value", "laid"),
    [
        (5, {"k": 5.0}),
        ("5", {"k": "\x1f5\x1f", "#k": [5.0]}),
        (2**53, {"k": "\x1f9007199254740992\x1f", "#k": [2.0**53]}),
        ("9007199254740993", {"k": "\x1f9007199254740993\x1f", "#k": [2.0**53]}),
        (True, {"k": "\x1ftrue\x1f"}),
        ("STRASSE", {"k": "\x1fstrasse\x1f"}),
        ("Straße", {"k": "\x1fstrasse\x1f"}),
        ("a\x1fb", {"k": "\x1fa b\x1f"}),
        ([], {"k": "\x1f"}),
        ([5.5, True, "X"], {"k": "\x1f5.5\x1ftrue\x1fx\x1f", "#k": [5.5]}),
        ({"a": 1}, {"k": "\x1f1\x1f", "#k": [1.0], "k%2Ea": "\x1f1\x1f", "#k%2Ea": [1.0]}),
        ([{"a": "x"}, {}], {"k": "\x1fx\x1f", "k%2Ea": "\x1fx\x1f\x1e\x1f"}),
    ],
    ids=repr,
)
def test_layout_of_a_property(value: Any, laid: dict[str, Any]) -> None:
    """A number is a number; everything else its elements, folded, between separators, with their numbers beside."""
    assert msgspec.json.decode(encode_props({"k": value})) == laid


async def test_one_person_is_found_without_reading_everybody(facts: Facts) -> None:
    """What is asked of one user reads the few granules that may have them, also of a day with many others."""
    account = secrets.token_hex(8)
    facts.command_now(
        f"INSERT INTO event SELECT '{account}', 'Viewed', toDate('2026-09-01') + intDiv(number, 5000), "
        "sipHash64(number) % 1000000, now(), number, '{}', '{}' FROM numbers(200000)"
    )
    read = await facts.query(
        "EXPLAIN indexes = 1 SELECT raw FROM event FINAL WHERE account = {account:String} AND user = 7",
        {"account": account},
    )
    plan = "\n".join(str(line) for (line,) in read)
    _, used, granules = plan.partition("by_user")
    assert used, plan
    chosen, of = map(int, re.findall(r"Granules: (\d+)/(\d+)", granules)[0])
    assert chosen * 4 < of, plan


async def test_one_persons_messages_are_found_and_forgotten(facts: Facts) -> None:
    """By an index too; and though a user is not in the key of an outcome, one that is nobody's by now is nobody's, in
    whatever part the row of before lies."""
    account = secrets.token_hex(8)
    columns = "account, campaign, chunk, position, user, outcome, day, at"
    facts.command_now(
        f"INSERT INTO outcome ({columns}) SELECT '{account}', 1 + number % 7, 1 + intDiv(number, 1000), number % 1000, "
        "sipHash64(number) % 1000000 + 10, 'gone', today(), now() FROM numbers(200000)"
    )
    facts.command_now(f"INSERT INTO outcome ({columns}) SELECT '{account}', 3, 500, 1, 7, 'gone', today(), now()")
    asked = {"account": account}
    mine = "FROM outcome FINAL WHERE account = {account:String} AND user = 7"
    plan = "\n".join(str(line) for (line,) in await facts.query(f"EXPLAIN indexes = 1 SELECT chunk {mine}", asked))
    chosen, of = map(int, re.findall(r"Granules: (\d+)/(\d+)", plan.partition("by_user")[2])[0])
    assert chosen * 4 < of, plan
    assert await facts.query(f"SELECT chunk {mine}", asked) == [(500,)]
    facts.command_now(f"INSERT INTO outcome ({columns}) SELECT '{account}', 3, 500, 1, 0, 'gone', today(), now()")
    assert await facts.query(f"SELECT chunk {mine}", asked) == []
