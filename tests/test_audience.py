"""The audience of a `where`: random questions over small random worlds, against an oracle in plain Python."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tocsin.account import Account, create_account
from tocsin.audience.compile import compile_members
from tocsin.audience.members import PLATFORMS, count_members, count_reachable, read_recipients
from tocsin.audience.query import OPERATORS, Query, read_where
from tocsin.errors import Problem
from tocsin.ingest import refresh_profiles, upload
from tocsin.ingest.people import find_users
from tocsin.roster import look_up, mark_gone
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC
USERS = 60
WORLDS = 7
QUESTIONS = 45
KINDS = {"fcm": "android", "apns": "ios", "wns": "windows"}
ZONES = ("UTC", "Asia/Kolkata", "America/Los_Angeles", "Pacific/Auckland")
NAMES = ("Customer Type", "customer type", "Plan.Level", "Plan", 'city\'s "x"', "Größe", "100%", "Tags")
EVENTS = ("Viewed", "viewed", 'Charged\'s "x"', "Größe")
POOL: tuple[Any, ...] = (
    *("Platinum", "platinum", "PLAT", "Größe", "GRÖSSE", "größe", 'q"uo', "it's", "a\\b", "日本", "🔔 bell", " x ", ""),
    *(
        "true",
        "FALSE",
        True,
        False,
        "5",
        "5.0",
        "-5",
        "05",
        "1e3",
        "12 kg",
        "2027-01-15",
        "2027-01-15T10:00:00Z",
        "10:00",
    ),
    *(5, 5.5, 5.0, -5, 0, 0.25, 1000, 12, 123456789012, -0.5, "$D_1487576752", "$D_5", "null", "[]", "%", "_"),
)
NUMBERS = (5, 5.0, 5.5, -5, "5", "-0.5", 0, 1000, "1e3", "$D_1487576752", 12, 0.25, 4, 6)
READS_AS_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


class World:
    """People with profiles, devices and events, and what the documentation says each question means over them."""

    def __init__(self, seed: int):
        dice = random.Random(seed)
        self.zone = ZoneInfo(dice.choice(ZONES))
        self.profiles: dict[str, dict[str, Any]] = {}
        self.devices: dict[str, dict[str, bool]] = {}  # by platform: whether it lives
        self.events: list[tuple[str, str, int, dict[str, Any]]] = []
        for number in range(USERS):
            name = f"user-{number}"
            self.profiles[name] = _props(dice) | _consent(dice, number)
            self.devices[name] = {kind: dice.random() < 0.8 for kind in KINDS if dice.random() < 0.5}
            for _ in range(dice.randrange(4)):
                at = int(NOW) - dice.randrange(5 * 86_400)
                self.events.append((name, dice.choice(EVENTS), at, _props(dice)))
        self.users: dict[str, int] = {}

    def records(self) -> Iterator[dict[str, Any]]:
        for name, profile in self.profiles.items():
            yield {"type": "profile", "identity": name, "profileData": profile}
            for kind in self.devices[name]:
                device = f"{name}-{kind}"
                yield {"type": "profile", "identity": name, "objectId": device, "profileData": {}}
                yield {"type": "token", "objectId": device, "tokenData": {"type": kind, "id": token(kind, name)}}
        for name, event, at, props in self.events:
            yield {"type": "event", "identity": name, "evtName": event, "ts": at, "evtData": props}

    async def load(self, ledger: Ledger, facts: Facts) -> Account:
        """Uploads everything to a new account, and lets the devices die that do not live."""
        account = create_account(ledger, "world", self.zone.key, NOW)[0]
        records = list(self.records())
        for start in range(0, len(records), 1000):
            result = await upload(ledger, facts, account, {"d": records[start : start + 1000]}, NOW)
            assert result.unprocessed == []
        keys = {("identity", name): name for name in self.profiles}
        found = await ledger.read(lambda connection: find_users(connection, account.id, keys))
        self.users = {keys[key]: user for key, user in found.items()}
        assert len(self.users) == USERS
        dead = {self.users[name]: devices for name, devices in self.devices.items() if not all(devices.values())}
        people = await ledger.read(lambda connection: look_up(connection, account.id, list(dead)))
        gone = {
            user: [
                (device_id, address, "410")
                for kind, lives in devices.items()
                for device_id, address in people[user].devices[KINDS[kind]]
                if not lives
            ]
            for user, devices in dead.items()
        }
        await ledger.write(lambda connection: mark_gone(connection, account.id, gone, NOW))
        await refresh_profiles(ledger, facts, account.id, list(gone))
        return account

    def means(self, where: dict[str, Any]) -> set[str]:
        """The people of a question."""
        common = where.get("common_profile_properties", where.get("common_profile_prop", {}))
        wanted = common.get("profile_fields", [])
        people = {name for name, profile in self.profiles.items() if meets_all(profile, wanted)}
        if "event_name" in where:
            conditions = where.get("event_properties", where.get("props", []))
            people &= {
                name
                for name, event, at, props in self.events
                if event == where["event_name"]
                and int(where["from"]) <= int(f"{datetime.fromtimestamp(at, self.zone):%Y%m%d}") <= int(where["to"])
                and meets_all(props, conditions)
            }
        return people

    def reach(self, people: set[str]) -> dict[str, int]:
        """How many of them a message would really get to."""
        counts = dict.fromkeys(PLATFORMS, 0)
        for name in people:
            profile = self.profiles[name]
            if profile.get("MSG-push") is not False and profile.get("MSG-push-all") is not False:
                for kind, lives in self.devices[name].items():
                    counts[KINDS[kind]] += lives
            counts["email"] += "Email" in profile and profile.get("MSG-email") is not False
        return counts

    def recipients(self, people: set[str]) -> set[tuple[int, str]]:
        """Everybody on every platform they have or had a device on."""
        pushed = {(self.users[name], KINDS[kind]) for name in people for kind in self.devices[name]}
        return pushed | {(self.users[name], "email") for name in people if "Email" in self.profiles[name]}


def _props(dice: random.Random) -> dict[str, Any]:
    props: dict[str, Any] = {}
    for name in NAMES:
        chance = dice.random()
        if chance < 0.55:
            props[name] = dice.choice(POOL)
        elif chance < 0.7:
            props[name] = dice.choices(POOL, k=dice.randrange(1, 4))
    return props


def _consent(dice: random.Random, number: int) -> dict[str, Any]:
    fields = {name: dice.random() < 0.5 for name in ("MSG-push", "MSG-push-all", "MSG-email") if dice.random() < 0.3}
    return fields | ({"Email": f"User{number}@example.com"} if dice.random() < 0.6 else {})


def token(kind: str, name: str) -> str:
    return f"https://db3.notify.windows.com/?token={name}" if kind == "wns" else f"{kind}-{name}"


def meets_all(props: dict[str, Any], conditions: list[dict[str, Any]]) -> bool:
    return all(meets(props, condition) for condition in conditions)


def meets(props: dict[str, Any], condition: dict[str, Any]) -> bool:
    """One condition, as the documentation of `audience/compile.py` tells it."""
    name = next(condition[key] for key in ("name", "Key", "field_name") if key in condition)
    operator: str = condition.get("operator", "equals")
    stored = props.get(name)
    if operator in ("exists", "does_not_exist"):
        return bool((stored is not None) == (operator == "exists"))
    negated = operator in ("not_equals", "does_not_contain")
    if stored is None:
        return negated
    elements = stored if isinstance(stored, list) else [stored]
    values = condition["value"] if isinstance(condition["value"], list) else [condition["value"]]
    return any(is_met(operator, element, value) for element in elements for value in values) != negated


def is_met(operator: str, element: Any, value: Any) -> bool:
    if isinstance(element, str) and element.startswith("$D_"):
        element = int(element[3:])  # a date is stored as its number
    number: float | None = number_of(element)
    if operator in ("contains", "does_not_contain"):
        return letters_of(value) in letters_of(element)
    limit = number_of(value.removeprefix("$D_") if isinstance(value, str) else value)
    if operator in ("equals", "not_equals"):
        return letters_of(element) == letters_of(value) or (number is not None and number == limit)
    if number is None or limit is None:
        return False
    return {
        "greater_than": number > limit,
        "greater_than_equals": number >= limit,
        "less_than": number < limit,
        "less_than_equals": number <= limit,
    }[operator]


def letters_of(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).lower()


def number_of(value: Any) -> float | None:
    if isinstance(value, bool) or (isinstance(value, str) and not READS_AS_NUMBER.fullmatch(value)):
        return None
    return float(value)


def days() -> st.SearchStrategy[int]:
    today = date(2027, 1, 15)
    return st.integers(-6, 2).map(lambda offset: int(f"{today + timedelta(days=offset):%Y%m%d}"))


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    def build(draw: Any) -> dict[str, Any]:
        operator = draw(st.sampled_from(OPERATORS))
        condition = {draw(st.sampled_from(("name", "Key", "field_name"))): draw(st.sampled_from((*NAMES, "Nobody's")))}
        if operator != "equals" or draw(st.booleans()):
            condition["operator"] = operator
        if "exist" not in operator:
            pool = NUMBERS if "than" in operator else [one for one in POOL if one is not None]
            if "contain" in operator:
                pool = [one for one in (*POOL, "plat", "ö", "e", "'") if not isinstance(one, float)]
            some = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
            condition["value"] = some if len(some) > 1 or draw(st.booleans()) else some[0]
        return condition

    return st.composite(build)()


@st.composite
def wheres(draw: st.DrawFn) -> dict[str, Any]:
    where: dict[str, Any] = {}
    shape = draw(st.sampled_from(("event", "profile", "profile", "both", "both")))
    few = st.lists(conditions(), min_size=1, max_size=3)
    if shape != "profile":
        first, last = sorted(draw(st.tuples(days(), days())))
        where |= {"event_name": draw(st.sampled_from((*EVENTS, "Never"))), "from": first, "to": str(last)}
        if draw(st.booleans()):
            where[draw(st.sampled_from(("event_properties", "props")))] = draw(few)
    if shape != "event":
        where[draw(st.sampled_from(("common_profile_properties", "common_profile_prop")))] = {
            "profile_fields": draw(few)
        }
    return where


@settings(
    max_examples=WORLDS,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a failure names one question and one person: nothing to shrink
    suppress_health_check=list(HealthCheck),
)
@given(
    st.integers(0, 2**32).map(World),
    st.lists(wheres(), min_size=QUESTIONS, max_size=QUESTIONS),
)
async def test_questions_mean_what_is_documented(
    ledger: Ledger, facts: Facts, world: World, questions: list[dict[str, Any]]
) -> None:
    """Every random question finds the people, the reach and the recipients that the documentation promises."""
    account = await world.load(ledger, facts)
    names = {user: name for name, user in world.users.items()}

    async def ask(where: dict[str, Any]) -> None:
        members = compile_members(read_where(where), account.id)
        rows = await facts.query(members.text, members.parameters)
        found, meant = [names[row[0]] for row in rows], world.means(where)
        for name in sorted(set(found) ^ meant):
            mine = [event for event in world.events if event[0] == name]
            verdict = "missing" if name in meant else "not meant"
            raise AssertionError(f"{where} in {world.zone}: {name} is {verdict}: {world.profiles[name]} {mine}")
        assert len(found) == len(set(found))
        assert await count_reachable(facts, account.id, read_where(where), PLATFORMS) == world.reach(meant)

    await asyncio.gather(*(ask(where) for where in [{}, *questions]))
    for where in ({}, questions[0]):
        query, meant = read_where(where), world.means(where)
        assert await count_members(facts, account.id, query) == len(meant)
        found = await read_recipients(facts, account.id, query, PLATFORMS)
        assert len(found) == len(set(found))
        assert set(found) == world.recipients(meant)


async def test_reach_is_asked_by_platform(ledger: Ledger, facts: Facts) -> None:
    """Only the platforms that were asked for are counted and streamed."""
    world = World(7)
    account = await world.load(ledger, facts)
    everybody = read_where({})
    reach = world.reach(set(world.profiles))
    assert await count_reachable(facts, account.id, everybody, ["ios"]) == {"ios": reach["ios"]}
    found = await read_recipients(facts, account.id, everybody, ["windows", "email"])
    assert set(found) == {pair for pair in world.recipients(set(world.profiles)) if pair[1] in ("windows", "email")}


async def test_accounts_do_not_see_each_other(ledger: Ledger, facts: Facts) -> None:
    """Two accounts with the same people count their own only, and an event in one is none in the other."""
    world = World(3)
    first, second = await world.load(ledger, facts), await world.load(ledger, facts)
    event = {"type": "event", "identity": "user-0", "evtName": "Only here", "evtData": {"k": "v"}}
    await upload(ledger, facts, first, {"d": [event]}, NOW)
    asked = read_where({"event_name": "Only here", "from": 20270101, "to": 20270131})
    for account, count in ((first, 1), (second, 0)):
        assert await count_members(facts, account.id, read_where({})) == USERS
        assert await count_members(facts, account.id, asked) == count
        assert await count_reachable(facts, account.id, read_where({}), PLATFORMS) == world.reach(set(world.profiles))
        assert len(await read_recipients(facts, account.id, asked, PLATFORMS)) == count * len(
            world.recipients({"user-0"})
        )


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(lambda text: f"zq{text}qz")


def one_of_each(text: tuple[str, ...], value: Any) -> Query:
    """A question with every operator, whose texts are the caller's."""
    fields = [
        {"name": text[0], "operator": operator} | ({} if "exist" in operator else {"value": [value, value]})
        for operator in OPERATORS
        if "than" not in operator
    ]
    event = {"event_name": text[1], "from": 20270101, "to": 20270102, "event_properties": fields}
    return read_where(event | {"common_profile_properties": {"profile_fields": fields}})


@given(st.tuples(texts, texts), st.tuples(texts, texts), texts, texts, texts)
def test_no_text_of_the_caller_is_in_the_sql(
    one: tuple[str, str], other: tuple[str, str], value: str, another: str, account: str
) -> None:
    """Whatever names, values and accounts are asked for, the statement is the same and holds none of them."""
    members = compile_members(one_of_each(one, value), account)
    assert members.text == compile_members(one_of_each(other, another), "x").text
    assert "zq" not in members.text
    bound = [inner for item in members.parameters.values() for inner in (item if isinstance(item, list) else [item])]
    assert {account, one[1], value} <= set(bound)


async def test_hostile_texts_are_only_texts(ledger: Ledger, facts: Facts) -> None:
    """A name or value made to break out of a statement finds nobody, or exactly the person who has it."""
    account = create_account(ledger, "hostile", "UTC", NOW)[0]
    hostile = ("') OR 1=1 --", "{account:String}", "\\'; DROP TABLE event", "%(account)s", "`x`", "a\x00b", "?", "$1")
    records = [{"type": "profile", "identity": text, "profileData": {text: text}} for text in hostile]
    assert (await upload(ledger, facts, account, {"d": records}, NOW)).unprocessed == []
    for text in hostile:
        for name, count in ((text, 1), ("other", 0)):
            where = {"common_profile_properties": {"profile_fields": [{"name": name, "value": text}]}}
            assert await count_members(facts, account.id, read_where(where)) == count, (name, text)


@given(st.sampled_from(OPERATORS), st.sampled_from(("nan", "inf", "-Infinity", "1e999", 5, "5", 0.5, "x", True)))
def test_questions_survive_the_ledger(operator: str, value: Any) -> None:
    """A question that is taken means the same after it was stored with its campaign."""
    field = {"name": "k", "operator": operator, "value": value}
    try:
        query = read_where({"common_profile_properties": {"profile_fields": [field]}})
    except Problem:
        return
    assert msgspec.json.decode(msgspec.json.encode(query), type=Query) == query


@pytest.mark.parametrize("value", [10**400, "9" * 400, "1e400"], ids=["int", "digits", "exponent"])
def test_numbers_without_measure_are_refused(value: Any) -> None:
    """A number beyond what a comparison can hold is the caller's Problem, never a crash."""
    field = {"name": "k", "operator": "greater_than", "value": value}
    with pytest.raises(Problem):
        read_where({"common_profile_properties": {"profile_fields": [field]}})
    field = {"name": "k", "operator": "equals", "value": value}
    where = {"common_profile_properties": {"profile_fields": [field]}}
    if isinstance(value, int):
        with pytest.raises(Problem):
            read_where(where)
    else:  # a text of digits is a text
        compile_members(read_where(where), "a")


async def test_list_without_a_null_text(ledger: Ledger, facts: Facts) -> None:
    """A null inside a list is no text: nobody asked for it by the word."""
    account = create_account(ledger, "nulls", "UTC", NOW)[0]
    record = {"type": "profile", "identity": "a", "profileData": {"k": ["x", None]}}
    assert (await upload(ledger, facts, account, {"d": [record]}, NOW)).processed == 1
    for value, count in (("x", 1), ("null", 0)):
        where = {"common_profile_properties": {"profile_fields": [{"name": "k", "value": value}]}}
        assert await count_members(facts, account.id, read_where(where)) == count, value
