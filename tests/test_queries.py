"""The whole query language: random questions over random worlds equal the oracle, and the laws of logic hold."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import pytest
from conftest import THOROUGH
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracle import (
    BIG,
    BIGS,
    BOOLEANS,
    EVENTS,
    NEGATED,
    NUMBERISH,
    NUMBERS,
    OPERATORS,
    ORDERS,
    PEOPLE,
    PLACES,
    PLATFORMS,
    POINTS,
    TEXTS,
    Clock,
    Event,
    Person,
    Props,
    Scalar,
    World,
    as_date,
    count_events,
    distance_to,
    find_property,
    items_in,
    meets,
    moments_of,
    months_before,
    name_of,
    number_of,
    siphash,
)
from support.members import count_members, read_recipients

from tocsin.account import Account, create_account
from tocsin.audience.compile import compile_members
from tocsin.audience.members import count_reachable
from tocsin.audience.query import read_where
from tocsin.errors import Problem
from tocsin.ingest import upload
from tocsin.ingest.identity import find_users
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

WORLDS = 32 if THOROUGH else 6
QUESTIONS = 65
MATCHED = ("equals", "contains", *ORDERS, "between")
Question = dict[str, Any]
T = TypeVar("T")

worlds = st.integers(0, 2**32).map(World)
# A failure names one question and one person: there is nothing to shrink.
some = settings(deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))


class Asker:
    """Asks random questions of the complete language; most speak of somebody in particular, so that the answer is
    seldom nobody."""

    def __init__(self, world: World, seed: int = 0):
        self._world = world
        self._clock = world.clock
        self._dice = random.Random(f"{world.seed} {seed}")

    def ask(self, levels: int = 3, person: Person | None = None) -> Question:
        """A `where`: at times one condition alone, which nothing else can hide; else of one to three keys. It nests at
        most `levels` deep."""
        dice = self._dice
        if person is None and dice.random() < 0.5:
            return self._ask_condition(self._anybody())
        person = person or self._anybody()
        makers: list[tuple[int, Callable[[Person, int], Question]]] = [
            (6, lambda person, _: self._ask_event(person)),
            (7, lambda person, _: self._ask_people(person)),
            (5, lambda person, _: self._ask_advanced(person)),
            (1, lambda person, _: self._ask_sample()),
            (1, lambda person, _: {"segment": "all"}),
            (5 if levels else 0, self._ask_nested),
        ]
        where: Question = {}
        weights, parts = zip(*makers, strict=True)
        for make in dict.fromkeys(dice.choices(parts, weights, k=dice.choice((1, 1, 1, 2, 2, 3)))):
            where |= make(person, levels)
        return where

    def _ask_condition(self, person: Person) -> Question:
        """One condition on the profile, or on an event of any time."""
        if not person.events or self._dice.random() < 0.6:
            return {"common_profile_properties": {"profile_fields": [self._pick_condition(person.profile)]}}
        event = self._pick(*person.events)
        condition = self._pick_condition(event.props)
        return {"event_name": event.name, "from": 20200101, "to": 20290101, "event_properties": [condition]}

    # --- nesting and samples

    def _ask_nested(self, person: Person, levels: int) -> Question:
        dice = self._dice
        key = dice.choice(("and", "or", "or", "not"))
        if key == "not":
            return {"not": self.ask(levels - 1, None if dice.random() < 0.7 else person)}
        others = [person if key == "and" or number == 0 else None for number in range(dice.choice((1, 2, 2, 3)))]
        return {key: [self.ask(levels - 1, other) for other in others]}

    def _ask_sample(self) -> Question:
        dice = self._dice
        sample: Question = {"percent": dice.choice((50, 75, 33.33, 10, 90.5, 100, 0.01, 62.5))}
        return {"sample": sample | dice.choice(({}, {"seed": "autumn"}, {"seed": "Größe 🔔"}, {"seed": ""}))}

    # --- events

    def _ask_event(self, person: Person, *, counted: bool = True) -> Question:
        """An event the person raised, mostly, with conditions that fit it, mostly."""
        dice = self._dice
        happened = person.events or dice.choice(self._world.people).events
        event = dice.choice(happened) if happened else Event("Never", int(self._clock.now), {})
        name = event.name if dice.random() < 0.95 else dice.choice((*EVENTS, "Never"))
        entry: Question = {"event_name": name} | self._pick_days(event)
        if dice.random() < 0.45:
            entry[self._pick("event_properties", "props")] = self._pick_conditions(event.props)
        if dice.random() < 0.35:
            asked = [self._ask_session(event) for _ in range(dice.choice((1, 1, 2)))]
            entry["session_properties"] = list({name_of(one): one for one in asked}.values())
        if counted and dice.random() < 0.4:
            entry |= self._pick_count(count_events(person, entry, self._clock))
        return entry

    def _pick_days(self, event: Event) -> Question:
        """Two days around the event's, or about there, in any spelling."""
        dice, clock = self._dice, self._clock
        day, today = clock.day_of(event.at), clock.today
        first = day - timedelta(days=dice.choice((0, 0, 1, 7, 30, 90, 400)))
        last = day + timedelta(days=dice.choice((0, 0, 1, 7, 30)))
        if dice.random() < 0.1:
            first = last = day + timedelta(days=dice.choice((-1, 1)))
        asked = {"from": self._spell_day(first), "to": self._spell_day(last)}
        if dice.random() < 0.3 and day <= today:
            asked = {"from": dice.choice(("-1y", "-2m", "-1m", "-4w", "-60d")), "to": "today"}
        if dice.random() < 0.2 and clock.event_day(asked["from"]) < today:
            asked["to"] = "yesterday"
        return asked

    def _spell_day(self, day: date) -> str | int:
        """A day as a number, as its text, or relative to today."""
        today = self._clock.today
        back = (today - day).days
        spellings: list[str | int] = [int(f"{day:%Y%m%d}"), f"{day:%Y%m%d}"]
        if back > 0:
            spellings += [f"-{back}d", f"-{back}d"]
            spellings += [f"-{back // 7}w"] * 2 * (back % 7 == 0)
            spellings += [f"-{months}m" for months in range(1, 14) if months_before(today, months) == day] * 2
            spellings += [f"-{years}y" for years in range(1, 3) if months_before(today, years * 12) == day] * 2
        named = {0: "today", 1: "yesterday"}
        return self._dice.choice([named[back]] if back in named and self._dice.random() < 0.5 else spellings)

    def _pick_count(self, count: int) -> Question:
        """How many times: about as many as it was, and never what could only mean «never»."""
        operator = self._pick("equals", *ORDERS)
        least = {"greater_than": 0, "greater_than_equals": 0, "less_than": 2}.get(operator, 1)
        return {"operator": operator, "value": max(least, count + self._pick(-1, 0, 0, 1))}

    def _ask_session(self, event: Event) -> Question:
        dice, at = self._dice, self._clock.at(event.at)
        minute = at.hour * 60 + at.minute
        condition: Question
        match dice.randrange(6):
            case 0 | 1:
                condition = {"name": self._pick("first_time", "last_time"), "value": self._pick("True", "False")}
            case 2:
                pair = [self._spell_minute(minute + self._pick(*spread)) for spread in ((0, -1, -600), (0, 1, 600))]
                other = [self._spell_minute(dice.randrange(1440)) for _ in range(2)]
                condition = {"name": "time_of_day", "value": self._pick(pair, pair, [pair, other], other)}
            case 3:
                condition = self._ask_number_of_day("day_of_week", at.isoweekday() % 7 + 1, 7)
            case 4:
                condition = self._ask_number_of_day("day_of_month", at.day, 31)
            case _:
                return self._pick_condition(event.props)
        return condition | ({"operator": "equals"} if dice.random() < 0.3 else {})

    def _ask_number_of_day(self, name: str, right: int, most: int) -> Question:
        others = [self._dice.randint(1, most) for _ in range(2)]
        return {"name": name, "value": self._pick(right, [right], [right, *others], others, right % most + 1)}

    @staticmethod
    def _spell_minute(minute: int) -> str:
        return f"{minute // 60 % 24:02}:{minute % 60:02}"

    def _ask_advanced(self, person: Person) -> Question:
        dice = self._dice
        advanced: Question = {}
        for key in dice.sample(("did_all", "did_any", "did_none"), dice.choice((1, 1, 2, 3))):
            others = [person if key != "did_none" else None for _ in range(dice.choice((1, 1, 2, 3)))]
            entries = [self._ask_event(other or self._anybody(), counted=key == "did_all") for other in others]
            advanced[key] = entries
            if key == "did_any":
                advanced[key] = {"any_events": entries}
                if dice.random() < 0.6:
                    total = sum(count_events(person, entry, self._clock) for entry in entries)
                    advanced[key] |= self._pick_count(total)
        return {"advanced_query": advanced}

    # --- people

    def _ask_people(self, person: Person) -> Question:
        dice = self._dice
        lists: list[Callable[[Person], Question]] = [
            lambda person: {"profile_fields": self._pick_conditions(person.profile)},
            lambda person: {"profile_fields": self._pick_conditions(person.profile)},
            lambda person: {"app_fields": [self._pick_condition(person.profile, "Make", "App Version")]},
            self._ask_demographics,
            self._ask_technographics,
            lambda _: {"reachability": [self._ask_reachability() for _ in range(self._pick(1, 1, 2))]},
            self._ask_places,
            self._ask_circles,
        ]
        common: Question = {}
        for make in dice.choices(lists, k=dice.choice((1, 1, 2))):
            common |= make(person)
        return {self._pick("common_profile_properties", "common_profile_prop"): common}

    def _ask_demographics(self, person: Person) -> Question:
        yes_or_no = ("Y", "N", "Yes", "No", "True", "False")
        name, values = self._pick(
            ("Gender", ("M", "F", "Male", "Female")),
            ("Education", ("School", "College", "Graduate")),
            ("Employed", yes_or_no),
            ("Married", yes_or_no),
            ("Age", ()),
        )
        if name == "Age":
            return {"demographics": [self._pick_condition(person.profile, name)]}
        operator = self._pick("equals", "equals", "not_equals", "exists", "does_not_exist")
        condition: Question = {"name": name, "operator": operator}
        if "exist" not in operator:
            condition["value"] = self._pick(self._pick(*values), self._dice.sample(values, 2))
        return {"demographics": [condition]}

    def _ask_technographics(self, person: Person) -> Question:
        if self._dice.random() < 0.3:
            return {"technographics": [self._pick_condition(person.profile, "OS", "Browser")]}
        platforms = ("Android", "AndroidApp", "iOS", "iOSApp", "Windows", "WindowsApp")
        value = self._pick(self._pick(*platforms), self._dice.sample(platforms, 2))
        operator = self._pick({}, {"operator": "equals"}, {"operator": "not_equals"})
        return {"technographics": [{"name": "Platform", "value": value} | operator]}

    def _ask_reachability(self) -> Question:
        condition = {"name": self._pick("has_token", "has_email"), "value": self._pick("True", "False")}
        return condition | self._pick({}, {"operator": "equals"})

    def _ask_places(self, person: Person) -> Question:
        mine = [str(person.profile.get(name, "")) for name in ("Country", "Region", "City")]
        place = [str(self._respell(name)) for name in mine] if all(mine) else list(self._pick(*PLACES[:3]))
        place, other = place[: self._pick(1, 2, 3)], list(self._pick(*PLACES[:3]))[: self._pick(1, 2, 3)]
        return {"geo_fields": self._pick([place], [place], [place, other])}

    def _ask_circles(self, person: Person) -> Question:
        circles = [self._pick_circle(person), self._pick_circle(self._anybody())]
        return {"geo_radius": self._pick(circles[:1], circles[:1], circles)}

    def _pick_circle(self, person: Person) -> list[float]:
        """A circle near somebody. Nobody stands within a hundredth of its edge: Earth is no sphere."""
        latitude, longitude = self._pick(*POINTS)
        if distance_to(person, 0, 0) is not None and self._dice.random() < 0.7:
            latitude, longitude = person.profile["Latitude"], person.profile["Longitude"]
        away = [distance_to(one, latitude, longitude) for one in self._world.people]
        near = sorted(one for one in away if one is not None)
        radius = self._pick(1, 5, 25, 500, 3000, *(one * 1.1 for one in near if one > 0.1))
        while any(0.98 < one / radius < 1.02 for one in near):
            radius *= 1.03
        return [latitude, longitude, radius]

    # --- conditions

    def _pick_conditions(self, props: Props) -> list[Question]:
        return [self._pick_condition(props) for _ in range(self._pick(1, 1, 1, 2, 3))]

    def _pick_condition(self, props: Props, *names: str) -> Question:
        """A condition on one of these properties (or of those names), with a value that is or resembles theirs."""
        dice = self._dice
        strange = ("Nobody's", "Items.Nothing", "plan", "PLAN", "Plan.Level", "Items", "Items.Category")
        name = self._pick(*(names or [*self._names_in(props)] or strange))
        if not names and dice.random() < 0.1:
            name = self._pick(*strange)
        found = find_property(props, name)
        values = found.values if found is not None and found.values else [self._pick_known()]
        value = self._pick(*values)
        operator = self._pick("equals", *self._fitting(value))
        if dice.random() < 0.15:
            operator = self._pick(*OPERATORS)
        condition: Question = {self._pick("name", "name", "Key", "field_name"): name}
        if operator != "equals" or dice.random() < 0.5:
            condition["operator"] = operator
        if "exist" not in operator:
            condition["value"] = self._pick_asked(operator, value)
            if operator not in NEGATED and dice.random() < (0.2 if len(values) == 1 else 0.6):
                condition["match"] = self._pick("any", "all", "all")
        return condition

    def _names_in(self, props: Props) -> Iterator[str]:
        """What can be asked for, and more often what is intricate: lists, items that lack a key, large numbers."""
        for name in paths_in(props):
            found = find_property(props, name)
            assert found is not None
            numbers = [number_of(value) for value in found.values]
            is_plain = len(numbers) == 1 and not found.lacking and (numbers[0] is None or abs(numbers[0]) < BIG)
            yield from [name] * (1 if is_plain else 3)

    def _fitting(self, value: Scalar) -> Sequence[str]:
        """Operators that tell something of such a value."""
        if number_of(value) is None:
            return ("equals", "equals", "not_equals", "contains", "does_not_contain", "exists")
        return ("equals", "not_equals", *ORDERS, "between", "between", "contains", "does_not_exist")

    def _pick_asked(self, operator: str, value: Scalar) -> Any:
        """What a condition asks for: one value, or a list."""
        dice = self._dice
        if operator in ORDERS or operator == "between":
            if number_of(value) is None:
                value = self._pick(5, 100, 0.25, BIG)
            if is_moment(value) and dice.random() < 0.7:
                return self._pick_asked_days(operator, int(value))
            limits: list[Any] = [self._respell(value), self._shift(value), self._shift(self._pick(5, 59.99, value))]
            if operator == "between":
                return sorted(limits[:2], key=lambda one: float(number_of(as_date(one)) or 0))
            return self._pick(limits[0], limits[0], limits[1], limits[:2], limits)
        if is_moment(value) and operator in ("equals", "not_equals") and dice.random() < 0.7:
            day = self._clock.day_of(int(value) + self._pick(0, 0, 0, -86_400, 86_400)).isoformat()
            return self._pick(day, [day, "Gold"], [day])
        change = self._cut if "contain" in operator else self._respell
        asked = [change(value), *(change(self._pick_known()) for _ in range(2))]
        if "contain" in operator:
            asked = [one for one in asked if not isinstance(one, bool)] or ["o"]
        return self._pick(asked[0], asked[0], asked[:1], asked)

    def _pick_asked_days(self, operator: str, at: int) -> Any:
        """A day near that moment, or two."""
        days = [self._clock.day_of(at) + timedelta(days=self._pick(0, 0, -1, 1, 30)) for _ in range(2)]
        spelled = [self._spell_asked_day(day) for day in sorted(days)]
        return spelled if operator == "between" else self._pick(spelled[0], spelled[0], spelled)

    def _spell_asked_day(self, day: date) -> str:
        relative = self._spell_day(day)
        return relative if isinstance(relative, str) and not relative.isdigit() else day.isoformat()

    def _respell(self, value: Scalar) -> Scalar:
        """The same in another spelling, mostly."""
        spellings: list[Scalar]
        if isinstance(value, bool):
            spellings = [value, not value, "True", "FALSE", str(value), str(value).lower()]
            return self._pick(*spellings)
        if isinstance(value, str) and number_of(value) is None:
            return self._pick(value, value, value.upper(), value.lower(), value.casefold(), value.title())
        number = number_of(value)
        assert number is not None
        if abs(number) >= BIG:
            digits = int(number)
            spellings = [digits, digits, str(digits), digits + 1, str(digits - 1), f"{digits}.0"]
            return self._pick(*spellings)
        if is_moment(value) and self._dice.random() < 0.5:
            return f"$D_{int(number)}"
        spellings = [value, value, float(number), str(number)]
        if number == int(number) and number >= 0:
            spellings += [int(number), f"0{int(number)}", f"{int(number)}.0", float(number), f"{int(number)}e0"]
        return self._pick(*spellings)

    def _shift(self, value: Scalar) -> Scalar:
        """Another number, not far."""
        number = number_of(value) or Decimal(0)
        near: list[int | float] = [int(number), int(number) + 1, int(number) - 1]
        return self._pick(
            *near, *([float(number), float(number) + 0.5, float(number) * 2] if abs(number) < BIG else [])
        )

    def _cut(self, value: Scalar) -> Scalar:
        """A part of the value's text."""
        text = str(value)
        if isinstance(value, float) and value.is_integer() and self._dice.random() < 0.7:
            text = str(int(value))
        if not text or isinstance(value, bool):
            return self._pick("u", "true", "al")
        start = self._dice.randrange(len(text))
        part = text[start : start + self._dice.randrange(1, 5)]
        if part.isascii() and part.isdigit() and self._dice.random() < 0.5:
            return int(part)
        return self._pick(part, part.upper(), part.lower())

    # --- from the world

    def _pick_known(self) -> Scalar:
        """A value that somebody has."""
        props = self._pick(*(event.props for event in self._anybody().events), self._anybody().profile)
        found = [find_property(props, name) for name in paths_in(props)]
        values: list[Scalar] = [value for one in found if one is not None for value in one.values]
        return self._pick(*values, "Gold", 5)

    def _anybody(self) -> Person:
        return self._dice.choice(self._world.people)

    def _pick(self, *choices: T) -> T:
        return self._dice.choice(choices)


def paths_in(props: Props, outer: str = "") -> Iterator[str]:
    """The names by which properties and the keys in them are asked for."""
    for name, value in props.items():
        yield outer + name
        for item in items_in(value):
            if isinstance(item, dict):
                yield from paths_in(item, f"{outer}{name}.")


def is_moment(value: Scalar) -> bool:
    """Whether it is a date of our time, and no text."""
    return isinstance(value, int | float) and 1e9 < value < 3e9


async def find_members(facts: Facts, account: Account, where: Question, now: float) -> list[int]:
    try:
        query = read_where(where)
    except Problem as problem:
        raise AssertionError(f"{where} is refused: {problem}") from problem
    members = compile_members(query, account, now)
    return [row[0] for row in await facts.query(members.text, members.parameters)]


async def ask_world(facts: Facts, account: Account, world: World, where: Question) -> set[str]:
    """The people of a question by the server, which must be those of the oracle."""
    users = await find_members(facts, account, where, world.clock.now)
    found, meant = {world.names[user] for user in users}, world.means(where)
    assert len(users) == len(found), f"somebody twice: {where}"
    if found != meant:
        raise AssertionError(world.tell(where, found, meant))
    return found


def test_random_questions_mean_what_is_documented(ledger: Ledger, facts: Facts) -> None:
    """Every question finds the people whom the documentation promises. Questions that everybody or nobody meets prove
    little: a third at least must be others."""
    shares: Counter[str] = Counter()

    async def ask_all(world: World) -> None:
        account = await world.load(ledger, facts)
        asker = Asker(world)
        questions = [asker.ask(levels=(0, 0, 1, 3)[number % 4]) for number in range(QUESTIONS)]
        answers = await asyncio.gather(*(ask_world(facts, account, world, where) for where in questions))
        shares["all"] += len(answers)
        shares["telling"] += sum(0 < len(answer) < PEOPLE for answer in answers)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:

        @settings(some, max_examples=WORLDS)
        @given(worlds)
        def ask(world: World) -> None:
            runner.run(ask_all(world))

        ask()
    assert shares["all"] == WORLDS * QUESTIONS
    assert shares["telling"] * 3 >= shares["all"], shares


@settings(some, max_examples=4)
@given(worlds)
async def test_laws_of_logic(ledger: Ledger, facts: Facts, world: World) -> None:
    """Double negation, De Morgan, the excluded third; and the order of parts does not matter."""
    account = await world.load(ledger, facts)

    async def find(where: Question) -> set[int]:
        return set(await find_members(facts, account, where, world.clock.now))

    async def check(one: Question, other: Question) -> None:
        neither = {"and": [{"not": one}, {"not": other}]}
        not_both = {"or": [{"not": one}, {"not": other}]}
        pairs: list[tuple[Question, Question]] = [
            ({"not": {"not": one}}, one),
            ({"not": {"or": [one, other]}}, neither),
            ({"not": {"and": [one, other]}}, not_both),
            ({"and": [one, other]}, {"and": [other, one]}),
            ({"or": [one, other]}, {"or": [other, one, one]}),
            ({"or": [one, {"not": one}]}, {}),
            ({"not": {"and": [one, {"not": one}]}}, {"segment": "all"}),
        ]
        answers = await asyncio.gather(*(find(where) for pair in pairs for where in pair))
        for number, (left, right) in enumerate(pairs):
            assert answers[2 * number] == answers[2 * number + 1], f"{left} is not {right} in world {world.seed}"
        assert await find({"and": [one, {"not": one}]}) == set()

    asker = Asker(world)
    for _ in range(3):
        await check(asker.ask(levels=1), asker.ask(levels=1))


@settings(some, max_examples=2)
@given(st.integers(0, 2**32))
async def test_counts_agree(ledger: Ledger, facts: Facts, seed: int) -> None:
    """The count is the number of members; it is also the sum of the estimate where everybody can be reached on one
    platform, and elsewhere the estimate and the recipients are those of the oracle."""
    for world in (World(seed), World(seed, everybody_reachable=True)):
        account, now = await world.load(ledger, facts), world.clock.now
        asker = Asker(world)
        for where in [{}, *(asker.ask() for _ in range(6))]:
            query, meant = read_where(where), world.means(where)
            users = await find_members(facts, account, where, now)
            assert len(users) == await count_members(facts, account, query, now), where
            reach = await count_reachable(facts, account, query, PLATFORMS, now)
            assert reach == world.reach(meant), where
            if all(len(person.devices) == 1 and person.devices[0].lives for person in world.people):
                assert sum(reach[platform] for platform in PLATFORMS if platform != "email") == len(users), where
            found = await read_recipients(facts, account, query, PLATFORMS, now)
            assert len(found) == len(set(found)), where
            assert set(found) == world.recipients(meant), where


async def test_accounts_do_not_see_each_other(ledger: Ledger, facts: Facts) -> None:
    """Two accounts with the same numbers and names of users, asked the same at the same time: to each its own."""
    one, other = World(1), World(2)
    accounts = [await one.load(ledger, facts), await other.load(ledger, facts)]
    asker = Asker(one)
    questions = [asker.ask() for _ in range(20)]
    await asyncio.gather(
        *(
            ask_world(facts, account, world, where)
            for where in questions
            for account, world in zip(accounts, (one, other), strict=True)
        )
    )
    # What happened in one account is neither an event nor the first of its name in the other.
    at = int(one.clock.now) - 100 * 86_400
    early = {"type": "event", "identity": one.people[0].name, "evtName": "Viewed", "ts": at, "evtData": {"only": 1}}
    await upload(ledger, facts, accounts[0], {"d": [early]}, one.clock.now)
    first = {"name": "first_time", "value": "True"}
    where = {"event_name": "Viewed", "from": 20230101, "to": 20290101, "session_properties": [first]}
    await ask_world(facts, accounts[1], other, where)
    where["event_properties"] = [{"name": "only", "value": 1}]
    assert len(await find_members(facts, accounts[0], where, one.clock.now)) == 1
    assert await find_members(facts, accounts[1], where, one.clock.now) == []


# Values of every kind, each the property `k` of somebody.
SHAPES: tuple[Any, ...] = (
    *(
        [],
        [5],
        ["5", "Gold"],
        ["gold", "GOLD plus"],
        [True, 5.0, "x"],
        [[5], ["gold"]],
        [BIG, "5"],
        ["$D_1743300000", 5],
    ),
    *(
        {"c": "Gold"},
        {"c": ["Gold", 5]},
        {"d": {"c": 5}},
        {"c": {"d": ["gold"]}},
        {"c": [], "d": 5},
        {"c": "", "d": "Gold"},
    ),
    *(
        [{"c": "Gold"}, {"c": "gold"}],
        [{"c": "Gold"}, {"d": "Gold"}],
        [{"c": 5}, 5],
        [{"d": 5}],
        [{"c": ["Gold", "x"]}],
    ),
    *(
        "$D_1743289199",
        "$D_1743289200",
        "$D_1743371999",
        "$D_1743372000",
        1743300000,
        1743300000.5,
        "1743300000",
        -14256000,
        1e11,
        -1e18,
        1e18,
    ),
)
ASKED: tuple[Scalar, ...] = (*TEXTS, *NUMBERISH, *NUMBERS, *BIGS, *BOOLEANS, "2025-03-30", "STRASSE", "$D_1743300000")


async def test_every_value_against_every_condition(ledger: Ledger, facts: Facts) -> None:
    """What is equal, in, less, between, at day's end, or in some item, of each kind of value with each other."""
    clock = Clock(ZoneInfo("Europe/Berlin"), 1_743_371_000.0)  # 2025-03-30, a day of 23 hours
    account = create_account(ledger, "values", clock.zone.key, clock.now)[0]
    values: list[Any] = [*TEXTS, *NUMBERISH, *NUMBERS, *BIGS, *BOOLEANS, *SHAPES]
    profiles: list[Props] = [*({"k": value} for value in values), {}]
    profiles += [{"k.c": "Gold"}, {"k.c": [], "k": {"c": "Gold"}}, {"k": {"c.d": 5}, "k.c": {"d": 12}}]
    records = [
        {"type": "profile", "identity": f"user-{number}", "profileData": profile}
        for number, profile in enumerate(profiles)
    ]
    assert (await upload(ledger, facts, account, {"d": records}, clock.now)).unprocessed == []
    keys = [("identity", f"user-{number}") for number in range(len(profiles))]
    found = await ledger.read(lambda connection: find_users(connection, account.id, keys))
    users = {found[key]: profile for key, profile in zip(keys, profiles, strict=True)}
    numbers = [one for one in ASKED if number_of(one) is not None]
    texts = [one for one in ASKED if one and not isinstance(one, bool)]
    conditions: list[Question] = [
        *({"value": one} for one in ASKED),
        *({"operator": "contains", "value": one} for one in texts[::2]),
        *({"operator": "does_not_contain", "value": one} for one in texts[1::9]),
        *({"operator": "not_equals", "value": one} for one in ASKED[::9]),
        *({"operator": order, "value": one} for order in ORDERS for one in (*numbers[::4], *BIGS[:3], "2025-03-30")),
        *(
            {"operator": "between", "value": pair}
            for pair in ([5, 12], ["-.5", "5.0"], ["-1d", "today"], [BIG, BIG + 1])
        ),
        *(
            {"operator": order, "value": day}
            for order in ORDERS
            for day in ("today", "-1d", "-1m", "1969-07-20", "2101-01-01")
        ),
        *({"operator": operator} for operator in ("exists", "does_not_exist")),
    ]
    conditions += [one | {"name": "k.c"} for one in conditions[::5]]
    conditions += [{"name": name, "value": one} for name in ("k.c", "k.d", "k.c.d", "k.d.c") for one in ("Gold", 5, 12)]
    conditions += [one | {"match": "all"} for one in conditions[::3] if one.get("operator", "equals") in MATCHED]

    async def find_wrong(condition: Question) -> list[str]:
        where = {"common_profile_properties": {"profile_fields": [{"name": "k"} | condition]}}
        members = set(await find_members(facts, account, where, clock.now))
        met = {user: meets(profile, {"name": "k"} | condition, clock) for user, profile in users.items()}
        return [
            f"{condition} of {users[user]}: should be {met[user]}" for user in met if met[user] != (user in members)
        ]

    wrong = await asyncio.gather(*(find_wrong(condition) for condition in conditions))
    assert [text for texts in wrong for text in texts] == []


@pytest.mark.parametrize(
    ("zone", "at"),
    [
        ("UTC", "2024-02-29T12:00"),
        ("Europe/Berlin", "2025-03-31T00:00"),
        ("America/Santiago", "2025-09-30T23:59"),
        ("America/Havana", "2026-03-31T01:00"),
        ("Australia/Lord_Howe", "2025-10-31T06:00"),
        ("Asia/Kathmandu", "2025-12-31T00:15"),
        ("America/Vancouver", "2026-12-31T12:00"),  # of which the facts store may know another law than Python
    ],
)
async def test_days_are_those_of_the_clock(ledger: Ledger, facts: Facts, zone: str, at: str) -> None:
    """Events at midnights and changes of the clocks and a second beside them; each day, minute, weekday asked for."""
    clock = Clock(ZoneInfo(zone), datetime.fromisoformat(at).replace(tzinfo=ZoneInfo(zone)).timestamp())
    moments = moments_of(clock)
    people = [
        Person(("identity", f"user-{number}"), {"Seen": f"$D_{moment}"}, events=[Event("Tick", moment, {})])
        for number, moment in enumerate(moments)
    ]
    world = World.of(clock, people)
    account = await world.load(ledger, facts)
    relative = ("today", "yesterday", "-2d", "-4w", "-1m", "-6m", "-11m", "-12m", "-1y")
    spelled = {f"{clock.day_of(moment):%Y-%m-%d}" for moment in moments}
    tick = {"event_name": "Tick", "from": "-400d", "to": 20270101}
    ticks: list[Question] = [
        *({"from": day, "to": day} for day in relative),
        *({"from": day, "to": "today"} for day in relative),
        *({"from": day.replace("-", ""), "to": day.replace("-", "")} for day in sorted(spelled)),
    ]
    session: list[Question] = [
        *({"name": "time_of_day", "value": [start, end]} for start, end in (("23:59", "00:00"), ("01:00", "03:00"))),
        *({"name": "time_of_day", "value": [start, start]} for start in ("23:59", "00:00", "00:59", "01:00", "02:59")),
        *({"name": "day_of_week", "value": number} for number in range(1, 8)),
        *({"name": "day_of_month", "value": number} for number in (1, 28, 29, 30, 31)),
    ]
    seen: list[Question] = [
        *({"operator": order, "value": day} for order in ORDERS for day in relative),
        *({"value": day} for day in sorted(spelled)),
        {"operator": "between", "value": ["-1m", "yesterday"]},
    ]
    questions = [tick | days for days in ticks] + [tick | {"session_properties": [one]} for one in session]
    questions += [{"common_profile_properties": {"profile_fields": [{"name": "Seen"} | one]}} for one in seen]
    await asyncio.gather(*(ask_world(facts, account, world, where) for where in questions))


async def test_of_one_second_always_the_same_event_is_first(ledger: Ledger, facts: Facts) -> None:
    """«Of several events in the same second, the first is any one of them, always the same one»; so is the latest."""
    now = 1_800_000_000.0
    account = create_account(ledger, "ties", "UTC", now)[0]
    people = [f"user-{number}" for number in range(20)]
    for kind in "abc":  # each in an upload of its own
        records = [
            {"type": "event", "identity": name, "evtName": "Tie", "ts": int(now), "evtData": {"kind": kind}}
            for name in people
        ]
        assert (await upload(ledger, facts, account, {"d": records}, now)).unprocessed == []

    async def find(kind: str, name: str, value: str) -> set[int]:
        where = {
            **{"event_name": "Tie", "from": "today", "to": "today"},
            "event_properties": [{"name": "kind", "value": kind}],
            "session_properties": [{"name": name, "value": value}],
        }
        return set(await find_members(facts, account, where, now))

    for name in ("first_time", "last_time"):
        edges = [await find(kind, name, "True") for kind in "abc"]
        assert sum(len(edge) for edge in edges) == len(set().union(*edges)) == len(people)
        for kind, edge in zip("abc", edges, strict=True):
            assert await find(kind, name, "False") == set().union(*edges) - edge


# --- the oracle itself, where the document gives the answer ---------------------------------------------------------


def test_oracle_draws_with_siphash() -> None:
    """The test vectors of the paper (15 bytes) and of the reference implementation (none)."""
    key = bytes(range(16))
    assert siphash(bytes(range(15)), key) == 0xA129CA6149BE45E5
    assert siphash(b"", key) == 0x726FDB47DD0E0E31


def test_oracle_reads_days() -> None:
    """Months end where they end, and a day has the hours it has."""
    clock = Clock(ZoneInfo("Europe/Berlin"), 1_743_371_999.0)  # 2025-03-30 23:59:59, a day of 23 hours
    assert clock.today == date(2025, 3, 30)
    for asked, day in (
        ("-1m", date(2025, 2, 28)),
        ("-1y", date(2024, 3, 30)),
        ("-13m", date(2024, 2, 29)),
        ("-4w", date(2025, 3, 2)),
        ("yesterday", date(2025, 3, 29)),
        ("20250131", date(2025, 1, 31)),
    ):
        assert clock.event_day(asked) == day
    for at, is_in in ((1_743_289_199, False), (1_743_289_200, True), (1_743_371_999, True), (1_743_372_000, False)):
        assert meets({"Seen": f"$D_{at}"}, {"name": "Seen", "value": "2025-03-30"}, clock) == is_in


@pytest.mark.parametrize(
    ("props", "condition", "met"),
    [
        ({"k": "STRASSE"}, {"value": "straße"}, True),
        ({"k": "05"}, {"value": 5.0}, True),
        ({"k": 59.99}, {"operator": "contains", "value": "9.9"}, True),
        ({"k": BIG}, {"value": BIG + 1}, False),
        ({"k": BIG}, {"operator": "greater_than_equals", "value": BIG + 1}, True),
        ({"k": [4, "x"]}, {"operator": "greater_than", "value": 3, "match": "all"}, False),
        ({"k": []}, {"operator": "less_than", "value": 3, "match": "all"}, False),
        ({"k": []}, {"operator": "not_equals", "value": 3}, True),
        ({"k": {"a": [{"b": 5}]}}, {"value": 5}, True),
        ({"x": 1}, {"operator": "does_not_contain", "value": "y"}, True),
        ({"k": "2025-01-01"}, {"operator": "less_than", "value": "2025-03-31"}, False),
        ({"k": "1743300000"}, {"operator": "less_than", "value": "2025-03-31"}, True),
    ],
)
def test_oracle_meets(props: Props, condition: Question, met: bool) -> None:
    assert meets(props, {"name": "k"} | condition, Clock(ZoneInfo("UTC"), 0)) == met


@pytest.mark.parametrize(
    ("name", "condition", "met"),
    [
        ("Items.Category", {"value": "Socks"}, True),
        ("Items.Category", {"value": ["Socks", "Hats"], "match": "all"}, False),
        ("Items.Price", {"operator": "less_than", "value": 10, "match": "all"}, True),
        ("Items.Size", {"operator": "exists"}, False),
    ],
)
def test_oracle_looks_into_items(name: str, condition: Question, met: bool) -> None:
    """«An item without that key meets nothing»: all of them then do not."""
    props = {"Items": [{"Category": "Socks", "Price": 9}, {"Category": "Hats", "Price": 5}, {"Price": 1}]}
    assert meets(props, {"name": name} | condition, Clock(ZoneInfo("UTC"), 0)) == met
