"""Conversions: one question for any goals, against the same in plain Python over random worlds."""

from __future__ import annotations

import base64
import contextlib
import itertools
import random
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from conftest import THOROUGH, Caller, Sandbox, Server, people, token, wait_for
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracle import Clock, as_list, find_property, meets_all, minute_of, number_of

from tocsin.account import Account
from tocsin.campaign.goal import GoalJson, find_revenue, read_policy_goal, to_goal
from tocsin.errors import Problem, read_struct
from tocsin.ingest import event_row, hash_id
from tocsin.policy import Conversion, set_policy
from tocsin.stats.comparison import CONTROL, group_outcomes
from tocsin.stats.conversions import COUNTED, SENT, Conversions, Grouping, count_conversions, count_people
from tocsin.store.facts import Facts
from tocsin.store.ledger import open_ledger

pytest_plugins = ("engines",)

ZONE = "Europe/Berlin"
START = int(datetime(2026, 3, 28, 22, 58, tzinfo=UTC).timestamp())  # two minutes before the day on which clocks change
DAY = 86_400
EVENTS = ("Charged", "Bought")
AMOUNTS: tuple[Any, ...] = (0, 5, 12.5, -3, "7", "7,50", "free", True, None, [1, 2.5, "x"], {"net": 4, "tax": 0.75})
ONE = {"property_name": "Amount"}
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"event_property": [{"property_name": "Amount", "operator": "greater_than", "property_value": 5}]},
    {"event_property": [{"property_name": "Amount", "operator": "less_than_equals", "property_value": "7"}]},
    {"event_property": [{"property_name": "Plan", "property_value": ["gold", "Silver"]}]},
    {"event_property": [{"property_name": "Plan", "operator": "not_equals", "property_value": "Gold"}]},
    {"event_property": [{"property_name": "Plan", "operator": "exists"}, ONE | {"property_value": 5}]},
    {"first_time": "yes"},
    {"first_time": False},
    {"first_time": "yes", "event_property": [{"property_name": "Plan", "property_value": "Gold"}]},
    {"time_of_day": [["23:58", "23:59"], ["12:00", "13:00"]]},
    {"time_of_day": ["23:59", "00:01"]},
    {"day_of_week": [1]},
    {"day_of_month": 28, "event_property": [{"property_name": "Plan", "operator": "does_not_exist"}]},
)  # fmt: skip
TIMES = {"1m": 60, "2m": 120, "1H": 3600, "1D": DAY}


class Message(NamedTuple):
    """A row of `outcome`."""

    campaign: int
    chunk: int
    position: int
    user: int
    at: int
    outcome: str
    code: str
    variant: str
    tag: str

    @property
    def id(self) -> int:
        return self.chunk * 65536 + self.position


class Event(NamedTuple):
    """A row of `event`."""

    user: int
    name: str
    at: int
    id: int
    props: dict[str, Any]


class World(NamedTuple):
    account: Account
    goals: dict[int, dict[str, Any]]  # by campaign, as they are sent
    messages: list[Message]
    events: list[Event]

    @property
    def clock(self) -> Clock:
        return Clock(self.account.zone, START)


def draw_world(dice: random.Random) -> World:
    """A few people, campaigns, messages and events, most of them at the edges of the windows."""
    account = Account(secrets.token_hex(8), "law", ZONE)
    goals: dict[int, dict[str, Any]] = {}
    for campaign in (0, *range(11, 11 + dice.randrange(1, 8))):
        goal: dict[str, Any] = {"event_name": dice.choice(EVENTS), "conversion_time": dice.choice(list(TIMES))}
        limits = dice.choice(FILTERS) if dice.random() < 0.6 else {}
        if limits or dice.random() < 0.5:
            goal["filter_type"] = limits
        if dice.random() < 0.5:
            goal["revenue_property"] = dice.choice(["Amount"] * 3 + ["Amount.net", "Missing"])
        goals[campaign] = goal
    edges = [0, 0, 1, 59, 60, 61, 119, 120, 121, 3599, 3600, 3601, DAY - 1, DAY, DAY + 1, 2 * DAY]
    chunks = {campaign: (number * 3 + 1, number * 3 + 2) for number, campaign in enumerate(goals)}
    messages = []
    for position in range(dice.randrange(1, 90)):
        campaign = dice.choice(list(goals))
        chunk = dice.choice(chunks[campaign])
        user = dice.randrange(1, 7)
        variant, tag = ("", dice.choice(["", "news"])) if campaign == 0 else ("A" if chunk % 3 == 1 else "B", "")
        outcome = dice.choice(["accepted"] * 4 + ["unknown", "suppressed"])
        code = dice.choice(["control group", "no device", "time passed"]) if outcome == "suppressed" else ""
        at = START + dice.choice([0, 0, 1, 60, DAY])
        messages.append(Message(campaign, chunk, position, user, at, outcome, code, variant, tag))
    events: list[Event] = []
    for number in range(dice.randrange(120)):
        props: dict[str, Any] = {}
        if dice.random() < 0.7:
            props["Amount"] = dice.choice(AMOUNTS)
        if dice.random() < 0.5:
            props["Plan"] = dice.choice(["Gold", "GOLD", "silver", ["Gold", "x"]])
        at = (
            START + dice.choice([-DAY, -1])
            if dice.random() < 0.2
            else START + dice.choice(edges) + dice.choice([0, 0, 60])
        )
        name = dice.choice(EVENTS)
        user = dice.randrange(1, 8)
        events.append(Event(user, name, at, hash_id(user, name, at, repr(props), number), props))
    for message in messages:
        for name in ("Notification Viewed", "Notification Clicked"):
            if message.outcome == "accepted" and dice.random() < 0.5:
                props = {"Campaign id": message.campaign, "Variant": message.variant or "default"}
                events.append(Event(message.user, name, message.at + dice.choice(edges), message.id, props))
    return World(account, goals, messages, events)


def store(facts: Facts, world: World, dice: random.Random) -> None:
    """Both tables in any order, in several inserts, and some rows twice."""

    def outcome_row(one: Message) -> tuple[Any, ...]:
        at = datetime.fromtimestamp(one.at, UTC)
        day = at.astimezone(world.account.zone).date()
        what = (world.account.id, one.campaign, one.chunk, one.position, one.user, "ios", "push", one.outcome)
        return (*what, one.code, one.tag, one.variant, day, at)

    rows = {
        "outcome": [outcome_row(one) for one in world.messages],
        "event": [event_row(world.account, one.name, one.user, one.at, one.id, one.props) for one in world.events],
    }
    for table, those in rows.items():
        again = those + dice.choices(those, k=3) if those else []
        dice.shuffle(again)
        for start in range(0, len(again), 60):
            facts.insert_now(table, again[start : start + 60])


# --- the same in plain Python -----------------------------------------------------------------------------------------


def worth_of(event: Event, name: str | None) -> float:
    """The number of a property, or the sum of a list's."""
    found = None if name is None else find_property(event.props, name)
    numbers = [number_of(value) for value in found.values] if found else []
    return sum(float(number) for number in numbers if number is not None)


def counts_for(world: World, goal: Mapping[str, Any], event: Event) -> bool:
    """Whether an event is what a goal asks for, whenever it was."""
    limits: dict[str, Any] = goal.get("filter_type", {})
    at = world.clock.at(event.at)
    same = sorted((one.at, one.id) for one in world.events if (one.user, one.name) == (event.user, event.name))
    conditions = [
        {"name": one["property_name"], "operator": one.get("operator", "equals"), "value": one.get("property_value")}
        for one in limits.get("event_property", ())
    ]
    pairs = limits.get("time_of_day", [])
    pairs = pairs if pairs and isinstance(pairs[0], list) else [pairs] if pairs else []
    minute = at.hour * 60 + at.minute

    def lies_in(first: int, last: int) -> bool:
        return first <= minute <= last if first <= last else minute >= first or minute <= last

    return (
        event.name == goal["event_name"]
        and meets_all(event.props, conditions, world.clock)
        and ("first_time" not in limits or (limits["first_time"] == "yes") == ((event.at, event.id) == same[0]))
        and (not pairs or any(lies_in(minute_of(one), minute_of(other)) for one, other in pairs))
        and ("day_of_week" not in limits or at.isoweekday() % 7 + 1 in as_list(limits["day_of_week"]))
        and ("day_of_month" not in limits or at.day in as_list(limits["day_of_month"]))
    )


def expect(
    world: World, campaign: int, messages: Sequence[Message], revenue: str | None, *, each: bool = False
) -> Conversions:
    """The conversions of messages of one campaign and group."""
    goal = world.goals[campaign]
    seconds = TIMES[goal["conversion_time"]]
    led = [
        (message, event)
        for message, event in itertools.product(messages, world.events)
        if message.user == event.user
        and message.at <= event.at <= message.at + seconds
        and counts_for(world, goal, event)
    ]

    def seen(name: str) -> set[int]:
        times = {(one.id, one.at) for one in world.events if one.name == name}
        before = [
            (message, event) for message, event in led if any(m == message.id and at <= event.at for m, at in times)
        ]
        return {message.id if each else message.user for message, _ in before}

    clicked, viewed = seen("Notification Clicked"), seen("Notification Viewed")
    worth = Counter[int]()
    for event in {event.id: event for _, event in led}.values():
        worth[event.user] += worth_of(event, revenue)  # type: ignore[assignment]
    return Conversions(
        converted=len({message.id if each else message.user for message, _ in led}),
        click_through=len(clicked),
        view_through=len(viewed - clicked),
        revenue=sum(worth.values()),
        squares=sum(one * one for one in worth.values()),
    )


@settings(
    max_examples=300 if THOROUGH else 3,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a world is drawn from a seed: nothing smaller is near it
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
async def test_the_question_is_what_it_says(facts: Facts, seed: int) -> None:
    """Who converted, after what, and what it was worth: for many campaigns at once, together, by variant, by
    tag, and by the group that everybody was dealt to."""
    dice = random.Random(seed)
    world = draw_world(dice)
    store(facts, world, dice)
    goals = {one: to_goal(read_struct(goal, GoalJson)) for one, goal in world.goals.items()}
    names = {one.chunk: one.variant for one in world.messages if one.variant}
    groupings: list[tuple[Grouping, Callable[[Message], str]]] = [
        (Grouping(), lambda one: ""),
        (Grouping(cell="variant"), lambda one: one.variant),
        (Grouping(cell="tag_group", each=True), lambda one: one.tag),
        (group_outcomes(names or {0: ""}), lambda one: CONTROL if one.code == "control group" else one.variant),
    ]
    for grouping, cell_of in groupings:
        dealt = grouping.messages != SENT
        expected: dict[tuple[int, str], Conversions] = {}
        for campaign, goal in goals.items():
            mine = [one for one in world.messages if one.campaign == campaign]
            mine = [one for one in mine if (one.code != "time passed" if dealt else one.outcome == "accepted")]
            cells = {cell_of(one): [other for other in mine if cell_of(other) == cell_of(one)] for one in mine}
            for cell, group in cells.items():
                one = expect(world, campaign, group, goal.revenue_property, each=grouping.each)
                expected |= {(campaign, cell): one} if one.converted else {}
            if dealt and campaign < 13:
                people = {
                    cell: (len({one.user for one in of}), max(one.at for one in of)) for cell, of in cells.items()
                }
                assert await count_people(facts, world.account.id, campaign, grouping) == people
        assert await count_conversions(facts, world.account, goals, grouping) == expected


async def test_more_goals_than_one_question_takes(facts: Facts) -> None:
    """Campaigns whose goals differ in nothing but their seconds are one kind; many kinds are counted all the same."""
    account = Account(secrets.token_hex(8), "many", ZONE)
    numbers = range(1, COUNTED + 3)
    goals = {one: to_goal(GoalJson(f"Event {one % (COUNTED + 1)}", f"{one}H")) for one in numbers}
    world = World(account, {}, [Message(one, one, 0, 7, START, "accepted", "", "", "") for one in numbers], [])
    for one in (1, 2, COUNTED, COUNTED + 1, COUNTED + 2):
        name = f"Event {one % (COUNTED + 1)}"
        world.events.append(Event(7, name, START + one * 3600, hash_id(name, one), {}))
    store(facts, world, random.Random(1))
    found = await count_conversions(facts, account, goals)
    assert set(found) == {(one, "") for one in (1, 2, COUNTED, COUNTED + 1, COUNTED + 2)}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"filter_type": 7}, "filter_type"),
        ({"filter_type": {"last_time": "yes"}}, "filter_type.last_time"),
        ({"filter_type": {"first_time": "perhaps"}}, "filter_type.first_time"),
        ({"filter_type": {"time_of_day": ["10:00", "24:00"]}}, "filter_type.time_of_day"),
        ({"filter_type": {"day_of_week": [0]}}, "filter_type.day_of_week"),
        ({"filter_type": {"day_of_month": 32}}, "filter_type.day_of_month"),
        ({"filter_type": {"event_property": ONE}}, "filter_type.event_property"),
        ({"filter_type": {"event_property": [{}]}}, "filter_type.event_property[0].property_name"),
        ({"filter_type": {"event_property": [ONE]}}, "filter_type.event_property[0].property_value"),
        (
            {"filter_type": {"event_property": [ONE | {"operator": "is", "property_value": 1}]}},
            "filter_type.event_property[0].operator",
        ),
        (
            {"filter_type": {"event_property": [ONE | {"operator": "less_than", "property_value": "-3d"}]}},
            "filter_type.event_property[0].property_value",
        ),
        (
            {"filter_type": {"event_property": [ONE | {"name": "Amount", "property_value": 1}]}},
            "filter_type.event_property[0].name",
        ),
        ({"revenue_property": " "}, "revenue_property"),
        ({"revenue_property": "x" * 481}, "revenue_property"),
        ({"conversion_time": "10"}, "conversion_time"),
    ],
    ids=str,
)
def test_what_is_wrong_says_where(fields: dict[str, Any], place: str) -> None:
    """What a goal may not be is refused by name: ignored, it would count more."""
    with pytest.raises(Problem, match=re.escape(f"(at $.conversion_goal.{place})")):
        to_goal(read_struct({"event_name": "Charged", **fields}, GoalJson, "$.conversion_goal"))


def test_what_an_event_is_worth() -> None:
    """A goal's own property, else the account's for that event, else the one that Charged has."""
    policy = Conversion("Bought", "2H", "Price")
    revenue = find_revenue(policy)
    for event, own, worth in (
        ("Charged", None, "Amount"),
        ("Charged", "Total", "Total"),
        ("Bought", None, "Price"),
        ("Opened", None, None),
    ):
        assert to_goal(GoalJson(event, revenue_property=own), revenue).revenue_property == worth
    assert read_policy_goal(policy) == to_goal(GoalJson("Bought", "2H"), revenue)
    assert find_revenue(Conversion("Bought")) == find_revenue(None) == {"Charged": "Amount"}


def test_over_http(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """A goal as CleverTap documents it: only events that meet it count, clicks and views are told apart, and labels,
    tag groups and the page say the same."""
    sending.upload(*people(6, kinds=("fcm",)))
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        text = '{"event_name": "Charged", "conversion_time": "1H"}'
        ledger.write_now(lambda c: set_policy(c, sending.account_id, "conversion", text, time.time()))
    goal = {
        "event_name": "Charged",
        "filter_type": {"event_property": [ONE | {"operator": "greater_than", "property_value": 10}]},
        "conversion_time": "1H",
        "revenue_property": "Amount",
    }
    made = sending.create(conversion_goal=goal, labels=["spring"])
    assert sending.result(made)["converted"] == 0
    ids = {one["address"]: one["body"]["message"]["data"]["wzrk_pid"] for one in sandbox.messages("fcm")}
    to = {"Identity": ["user-0", "user-2", "user-3"]}
    assert sending.post("/1/send/push.json", {"to": to, "content": {"title": "a", "body": "b"}})[0] == 200
    wait_for(lambda: sending.get("/1/tag_groups.json")[1]["total"].get("sent") == 3)
    assert sending.post("/track/clicked", {"id": ids[token("fcm", "user-0")]})[0] == 200
    assert sending.post("/track/viewed", {"id": ids[token("fcm", "user-1")]})[0] == 200

    def buy(number: int, amount: float, ts: int) -> dict[str, Any]:
        data = {"Amount": amount}
        return {"type": "event", "identity": f"user-{number}", "evtName": "Charged", "evtData": data, "ts": ts}

    soon = int(time.time()) + 5  # a view that is reported now comes before
    sending.upload(buy(0, 20, soon), buy(0, 30, soon + 1), buy(1, 11, soon), buy(2, 10.5, soon), buy(3, 10, soon))
    sending.upload(buy(0, 20, soon))  # the same once more
    wanted = {"converted": 3, "click_through": 1, "view_through": 1, "revenue": 71.5}
    label = sending.get("/1/labels.json")[1]["labels"]["spring"]
    for numbers in (sending.result(made), label):
        assert {name: numbers[name] for name in wanted} == wanted
    wanted = {"converted": 3, "click_through": 0, "view_through": 0, "revenue": 70.5}
    total = wait_for(lambda: (found := sending.get("/1/tag_groups.json")[1]["total"])["converted"] == 3 and found)
    assert {name: total[name] for name in wanted} == wanted
    page = see(sending, f"/dashboard/campaigns/{made}")
    assert "Click-through" in page
    assert "71.50" in page


def test_is_b_better(sending: Caller, sandbox: Sandbox) -> None:
    """Two variants and a control group, of whom those of B all buy and the others do not: each person is in one group,
    B is better than both, and A cannot be told from the control group."""
    sending.upload(*people(100, kinds=("fcm",)))
    variants = [{"name": name, "percentage": 50, "content": {"title": name, "body": "b"}} for name in ("A", "B")]
    made = sending.create(
        variants=variants,
        conversion_goal={"event_name": "Charged", "conversion_time": "5M"},
        control_group={"type": "campaign", "percentage": 30},
    )
    assert sending.post("/1/targets/compare.json", {"id": made + 10_000})[0] == 400
    result, answer = sending.result(made), sending.post("/1/targets/result.json", {"id": made})[1]
    sent = {one["address"]: one["body"]["message"]["data"]["nt"] for one in sandbox.messages("fcm")}
    buyers = [f"user-{number}" for number in range(100) if sent.get(token("fcm", f"user-{number}")) == "B"]
    sending.upload(
        *(
            {"type": "event", "identity": name, "evtName": "Charged", "evtData": {"Amount": 10 + number}}
            for number, name in enumerate(buyers)
        )
    )
    found = sending.post("/1/targets/compare.json", {"id": made})[1]
    groups = {one["group"]: one for one in found["groups"]}
    assert {name: one["people"] for name, one in groups.items()} == {
        **{name: one["audience"] for name, one in answer["variants"].items()},
        "control group": answer["suppressed_by"]["control group"],
    }
    assert sum(one["people"] for one in groups.values()) == result["audience"] == 100
    assert [groups[name]["converted"] for name in ("A", "B", "control group")] == [0, len(buyers), 0]
    assert groups["B"]["revenue"] == sum(10 + number for number in range(len(buyers)))
    verdicts = {(one["group"], one["than"]): one["verdict"] for one in found["differences"]}
    assert verdicts == {
        ("A", "control group"): "undecided",
        ("B", "control group"): "better",
        ("B", "A"): "better",
    }
    assert all(one["revenue_per_person"] is None for one in found["differences"])  # nobody but B bought anything
    assert (found["status"], found["final"], found["confidence"]) == ("success", False, 0.95)
    page = see(sending, f"/dashboard/campaigns/{made}")
    assert "Not enough people yet to tell A from control group" in page
    plain = sending.create()
    sending.result(plain)
    status, refused = sending.post("/1/targets/compare.json", {"id": plain})
    assert (status, "no conversion_goal" in refused["error"]) == (400, True)


def see(caller: Caller, path: str) -> str:
    """A page as a browser logged in to the account gets it."""
    login = f"{caller.account_id}:{caller.headers['X-CleverTap-Passcode']}"
    browser = Caller(caller.port, {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()})
    page: bytes = browser.call("GET", path)[1]
    return page.decode()
