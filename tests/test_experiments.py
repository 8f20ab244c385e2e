"""Control groups, variants, conversions, tag groups and labels: numbers that add up; and limits that many share."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from conftest import Caller, Sandbox, Server, people, wait_for
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from tocsin.account import create_account
from tocsin.api.throttle import LONGEST, Throttle
from tocsin.campaign.experiment import ControlGroups, pick_variant
from tocsin.campaign.goal import read_time
from tocsin.errors import Problem
from tocsin.policy import set_policy
from tocsin.store import schema
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

NOW = 1_790_000_000.0
CREATE, RESULT, PUSH, TRACK = "/1/targets/create.json", "/1/targets/result.json", "/1/send/push.json", "/track/"
CONTENT = {"title": "Hi", "body": "there"}
VARIANTS = [
    {"name": "A", "percentage": 30, "content": {"title": "A", "body": "a"}},
    {"name": "B", "percentage": 70, "content": {"title": "B", "body": "b"}},
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, server: Server) -> Server:
    """The shared server, on each ledger in turn."""
    other: Server = request.getfixturevalue("postgres_server") if request.param == "postgresql" else server
    return other


def set_policies(server: Server, caller: Caller, **policies: Any) -> None:
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        for name, value in policies.items():
            text = msgspec.json.encode(value).decode()
            ledger.write_now(lambda c, name=name, text=text: set_policy(c, caller.account_id, name, text, NOW))  # type: ignore[misc]


def beside(caller: Caller, campaign: int) -> dict[str, Any]:
    """What stands beside the result of a completed campaign."""
    answer: dict[str, Any] = caller.post(RESULT, {"id": campaign})[1]
    assert all(isinstance(value, int) for value in answer["result"].values())
    return answer


@given(st.integers(1, 2**31), st.integers(1, 2**31), st.floats(0, 50), st.floats(2, 99))
def test_who_is_held_back_is_stable_and_grows(user: int, campaign: int, system: float, own: float) -> None:
    """Asked again the answer is the same; a larger group holds the smaller one; the system's ignores the campaign."""
    cohort = ControlGroups("a", campaign, system, own)
    assert cohort.holds_back(user) == cohort.holds_back(user)
    if cohort.holds_back(user):
        assert ControlGroups("a", campaign, min(100, system * 2), min(100, own * 2)).holds_back(user)
    assert ControlGroups("a", campaign, system).holds_back(user) == ControlGroups("a", campaign + 1, system).holds_back(
        user
    )
    assert not ControlGroups("a", campaign).holds_back(user)


@pytest.mark.parametrize("percent", [2.0, 10.0, 50.0, 99.0])
def test_shares_are_what_they_say(percent: float) -> None:
    """Of 20,000 users, within four standard deviations; and control groups of two campaigns are independent."""
    count, tolerance = 20_000, 4 * (percent * (100 - percent) / 20_000) ** 0.5
    held = [user for user in range(count) if ControlGroups("a", 1, 0, percent).holds_back(user)]
    assert abs(len(held) / count * 100 - percent) < tolerance
    both = [user for user in held if ControlGroups("a", 2, 0, percent).holds_back(user)]
    assert abs(len(both) / len(held) * 100 - percent) < tolerance * (100 / percent) ** 0.5 + 0.5
    shares = [("A", percent), ("B", 100 - percent)]
    picked = Counter(pick_variant("a", 1, user, shares) for user in range(count))
    assert abs(picked["A"] / count * 100 - percent) < tolerance


def test_a_control_group_gets_nothing(sending: Caller, sandbox: Sandbox) -> None:
    """The numbers add up, and what the vendor got is exactly the others."""
    sending.upload(*people(120, kinds=("fcm",)))
    group = {"type": "campaign", "percentage": 40}
    made = sending.create(control_group=group)
    result = sending.result(made)
    cohort = beside(sending, made)["suppressed_by"]["control group"]
    assert (result["audience"], result["sent"], result["suppressed"]) == (120, 120 - cohort, cohort)
    assert 25 <= cohort <= 75
    assert sandbox.counts()["fcm"]["accepted"] == 120 - cohort


def test_the_system_control_group(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """The same people for every campaign, on both platforms of theirs; a campaign may do without; sends know none."""
    sending.upload(*people(60, kinds=("fcm",)))
    set_policies(server, sending, control={"percent": 50})
    got = []
    for _ in range(2):
        sandbox.clear()
        made = sending.create()
        result = sending.result(made)
        assert result["sent"] + beside(sending, made)["suppressed_by"]["control group"] == 60
        got.append({message["address"] for message in sandbox.messages("fcm")})
    assert got[0] == got[1]
    assert 10 < len(got[0]) < 50
    assert sending.result(sending.create(system_control_group_include=False))["sent"] == 60


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"control_group": {"type": "custom", "name": "Nm77"}}, "No custom control group with name Nm77 is defined"),
        ({"control_group": {"type": "campaign", "percentage": 1}}, "$.control_group"),
        ({"control_group": 10}, "$.control_group"),
        ({"variants": VARIANTS[:1]}, "$.variants"),
        ({"variants": [VARIANTS[0], VARIANTS[0]]}, "$.variants[1].name"),
        ({"variants": [VARIANTS[0], {**VARIANTS[1], "percentage": 60}]}, "sum to 100"),
        ({"variants": [VARIANTS[0], {**VARIANTS[1], "content": {"title": ""}}]}, "Field title is empty"),
        ({"conversion_goal": {}}, "$.conversion_goal"),
        ({"conversion_goal": {"event_name": "x", "conversion_time": "6M"}}, "conversion_time"),
        ({"conversion_goal": {"event_name": "x", "filter_type": {"last_time": "yes"}}}, "filter_type.last_time"),
    ],
    ids=str,
)
def test_what_is_wrong_says_where(caller: Caller, fields: dict[str, Any], words: str) -> None:
    body = {"name": "n", "where": {}, "content": CONTENT, "devices": ["android"], "when": "now"}
    status, answer = caller.post(CREATE, body | fields)
    assert status == 400
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("1m", 60), ("30m", 1800), ("1H", 3600), ("1W", 604_800), ("5M", 12_960_000)]
)
def test_times_of_conversion(text: str, seconds: int) -> None:
    assert read_time(text, "$") == seconds
    with pytest.raises(Problem):
        read_time(text + "x", "$")


def test_variants_side_by_side(sending: Caller, sandbox: Sandbox) -> None:
    """Each gets its own text; the parts sum to the whole, in views, clicks and conversions too."""
    sending.upload(*people(80, kinds=("fcm",)))
    goal = {"event_name": "Bought", "conversion_time": "1H"}
    made = sending.create(variants=VARIANTS, conversion_goal=goal, control_group={"type": "campaign", "percentage": 10})
    sending.result(made)
    messages = sandbox.messages("fcm")
    titles = Counter(message["body"]["message"]["data"]["nt"] for message in messages)
    clicked: Counter[str] = Counter()
    for number, message in enumerate(messages):
        data = message["body"]["message"]["data"]
        if number % 3 == 0:
            assert sending.post(TRACK + "clicked", {"id": data["wzrk_pid"]})[0] == 200
            clicked[data["nt"]] += 1
    buyers = [message["address"].split(":")[0] for message in messages[:20]]
    sending.upload(*[{"type": "event", "identity": one, "evtName": "Bought", "evtData": {}} for one in buyers * 2])
    bought = Counter(message["body"]["message"]["data"]["nt"] for message in messages[:20])
    status, answer = sending.post(RESULT, {"id": made})
    assert status == 200
    result = answer["result"]
    variants = answer["variants"]
    for name in ("A", "B"):  # what was sent says the variant as a click does
        where = {"event_name": "Notification Sent", "from": 20200101, "to": 20991231}
        where["event_properties"] = [{"name": "Variant", "operator": "equals", "value": name}]
        body = {"name": "n", "where": where, "content": CONTENT, "devices": ["android"], "when": "now"}
        estimate = sending.post(CREATE, body | {"estimate_only": True})[1]
        assert estimate["estimates"]["android"] == titles[name]
    for name in ("A", "B"):
        numbers = variants[name]
        assert (numbers["sent"], numbers["clicked"], numbers["converted"]) == (
            titles[name],
            clicked[name],
            bought[name],
        )
    for name in ("sent", "clicked", "viewed", "converted"):
        assert result[name] == sum(one[name] for one in variants.values())
    assert (
        result["audience"]
        == sum(one["audience"] for one in variants.values()) + answer["suppressed_by"]["control group"]
        == 80
    )


def test_conversions_in_time_only(sending: Caller) -> None:
    """An event before the message does not count, nor one after the time; one user counts once."""
    sending.upload(*people(3, kinds=("fcm",)))
    before = {"type": "event", "identity": "user-0", "evtName": "Bought", "evtData": {}, "ts": 1_700_000_000}
    sending.upload(before)
    made = sending.create(conversion_goal={"event_name": "Bought", "conversion_time": "1m"})
    assert sending.result(made)["converted"] == 0
    import time

    late = {**before, "identity": "user-1", "ts": int(time.time()) + 100}
    fine = {**before, "identity": "user-2", "ts": int(time.time()) + 2}
    sending.upload(late, fine, {**fine, "ts": fine["ts"] + 1})  # type: ignore[operator]
    assert sending.result(made)["converted"] == 1


def test_tag_groups_sum_to_their_messages(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """Twenty groups have names, the others are «Not Tagged»; every number is the sum of its messages."""
    sending.upload(*people(10, kinds=("fcm",)))
    set_policies(server, sending, conversion={"event_name": "Bought", "conversion_time": "1H"})
    names = [f"group-{number}" for number in range(22)]
    for number, name in enumerate(names):
        to = {"Identity": [f"user-{one}" for one in range(number % 5 + 1)] + ["nobody"]}
        assert sending.post(PUSH, {"to": to, "content": CONTENT, "tag_group": name})[0] == 200
    wanted = sum(number % 5 + 1 for number in range(22))

    def ask() -> Any:
        answer = sending.get("/1/tag_groups.json")[1]
        return answer if answer["total"].get("sent") == wanted else None

    wait_for(ask)
    for message in sandbox.messages("fcm")[:7]:
        sending.post(TRACK + "clicked", {"id": message["body"]["message"]["data"]["wzrk_pid"]})
    sending.upload({"type": "event", "identity": "user-0", "evtName": "Bought", "evtData": {}})
    wait_for(lambda: ask()["total"]["converted"] == 22)  # facts hear of what was sent a moment after the ledger
    answer = ask()
    groups = answer["tag_groups"]
    assert set(groups) == {*names[:20], "Not Tagged"}
    assert groups["Not Tagged"]["sent"] == 20 % 5 + 1 + 21 % 5 + 1
    total = Counter[str]()
    for numbers in groups.values():
        total.update(numbers)
    assert dict(total) == answer["total"]
    assert (total["clicked"], total["converted"]) == (7, 22)  # user-0 is in each
    assert total["sent"] == sandbox.counts()["fcm"]["accepted"]
    assert total["audience"] == total["sent"] + total["suppressed"] == wanted + 22


def test_labels_sum_their_campaigns(sending: Caller) -> None:
    sending.upload(*people(4, kinds=("fcm",)))
    for labels in (["spring"], ["spring", "shoes"], []):
        sending.result(sending.create(labels=labels))
    found = sending.get("/1/labels.json")[1]["labels"]
    assert {name: (one["campaigns"], one["audience"], one["sent"]) for name, one in found.items()} == {
        "spring": (2, 8, 8),
        "shoes": (1, 4, 4),
    }


async def test_limits_are_exact_over_processes(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """Three at a time and one a second, whoever asks; the places of who died come back."""
    account = create_account(store, "limits", "UTC", NOW)[0]
    ledgers = [store] if store.embedded else [store, open_again(), open_again()]
    throttles = [
        Throttle(one, "create", 1000.0, 3, pick=lambda own: (own.create_per_second, own.create_at_once))
        for one in ledgers
    ]
    entered, leave, inside = 0, asyncio.Event(), 0

    async def call(number: int) -> str:
        nonlocal entered, inside
        try:
            async with throttles[number % len(throttles)].admit(account.id, NOW):
                entered += 1
                inside = max(inside, entered)
                await leave.wait()
                entered -= 1
                return "in"
        except Problem as problem:
            return str(problem.status)

    tasks = [asyncio.create_task(call(number)) for number in range(12)]
    async with asyncio.timeout(20):
        while sum(task.done() for task in tasks) < 9:  # noqa: ASYNC110 - until the others were turned away
            await asyncio.sleep(0.01)
    leave.set()
    results = await asyncio.gather(*tasks)
    assert (Counter(results), inside) == ({"in": 3, "429": 9}, 3)
    assert await call(0) == "in"


async def test_one_a_second_over_processes(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    account = create_account(store, "rate", "UTC", NOW)[0]
    ledgers = [store] if store.embedded else [store, open_again()]
    throttles = [Throttle(one, "create", 1.0, 100, pick=lambda own: (own.create_per_second, None)) for one in ledgers]

    async def call(number: int, now: float = NOW) -> bool:
        try:
            async with throttles[number % len(throttles)].admit(account.id, now):
                return True
        except Problem:
            return False

    assert sum(await asyncio.gather(*(call(number) for number in range(10)))) == 1
    own = '{"create_per_second": 100}'
    store.write_now(lambda c: set_policy(c, account.id, "limits", own, NOW))
    assert await call(0, NOW + 1)
    if store.embedded:  # its clock is ours, and may be set back
        assert await call(0, NOW - 10)
        assert await call(0, NOW + 2)


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)  # SQLite's places die with the process
async def test_the_place_of_who_died_comes_back(store: Ledger) -> None:
    account = create_account(store, "dead", "UTC", NOW)[0]
    throttle = Throttle(store, "upload", None, 1, pick=lambda own: (None, own.uploads_at_once))
    held = throttle.admit(account.id, NOW)
    await held.__aenter__()
    with pytest.raises(Problem):
        await throttle.admit(account.id, NOW).__aenter__()
    table = schema.concurrency_slot
    store.write_now(lambda c: c.execute(update(table).values(until=table.c.until - LONGEST - 1)))
    async with throttle.admit(account.id, NOW):
        pass
    await held.__aexit__(None, None, None)
