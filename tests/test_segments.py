"""Saved segments, explanations, limits of users and of questions: over HTTP and from the command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Caller, Server, people
from support.commands import run
from support.members import count_members
from support.processes import read_answer

from tocsin.account import create_account
from tocsin.audience.query import read_where
from tocsin.errors import Problem
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

CHARGED = {"event_name": "Charged", "from": "-30d", "to": "today"}
ESTIMATE = {"name": "n", "content": {"title": "t", "body": "b"}, "devices": ["android"], "when": "now"}


def plan(value: str) -> dict[str, Any]:
    return {"common_profile_properties": {"profile_fields": [{"name": "Plan", "value": value}]}}


def is_(name: str, **props: Any) -> dict[str, Any]:
    return {"type": "profile", "identity": name, "profileData": props}


def did(name: str, event: str, **props: Any) -> dict[str, Any]:
    return {"type": "event", "identity": name, "evtName": event, "evtData": props}


def ask(caller: Caller, path: str, **body: Any) -> Any:
    status, answer = caller.post(f"/1/segments/{path}.json", body)
    assert (status, answer["status"]) == (200, "success"), answer
    return answer


def refused(caller: Caller, path: str, says: str, **body: Any) -> None:
    status, answer = caller.post(path, body)
    assert (status, answer["status"]) == (400, "fail"), answer
    assert says in answer["error"]


def count(caller: Caller, where: Any) -> int:
    return int(ask(caller, "explain", where=where)["count"])


def test_a_segment_is_a_question_by_name(caller: Caller) -> None:
    """Saved, asked for, listed, replaced, forgotten; alone, nested, and instead of `where`."""
    caller.upload(is_("a", Plan="Gold"), is_("b", Plan="Gold"), is_("c", Plan="Free"), did("a", "Charged"))
    assert ask(caller, "save", name="gold", where=plan("Gold"))["name"] == "gold"
    assert count(caller, {"segment": "gold"}) == 2
    assert count(caller, {"not": {"segment": "gold"}}) == 1
    assert count(caller, {"segment": "gold", **CHARGED}) == 1
    assert ask(caller, "explain", segment="gold")["count"] == 2
    ask(caller, "save", name="buyers", where={"segment": "gold", **CHARGED})
    ask(caller, "save", name="gold", where=plan("Free"))
    assert count(caller, {"segment": "gold"}) == 1
    assert count(caller, {"segment": "buyers"}) == 1, "a segment keeps the questions it was made of"
    assert ask(caller, "get", name="gold")["segment"]["where"] == plan("Free")
    listed = ask(caller, "list", page=2, limit=1)
    assert ([one["name"] for one in listed["segments"]], listed["total_pages"]) == (["gold"], 2)
    ask(caller, "delete", name="gold")
    refused(caller, "/1/segments/get.json", "no segment", name="gold")
    refused(caller, "/1/segments/delete.json", "no segment", name="gold")
    refused(caller, "/1/segments/explain.json", "no segment 'gold'", where={"segment": "gold"})
    refused(caller, "/1/targets/create.json", "no segment 'gold'", **ESTIMATE, segment="gold")


def test_a_campaign_keeps_its_question(sending: Caller) -> None:
    """A campaign asks what its segment was when it was created; another account has none of that name."""
    sending.upload(*people(4, kinds=("fcm",)), is_("user-0", Plan="Gold"))
    ask(sending, "save", name="gold", where=plan("Gold"))
    status, _ = sending.post("/1/targets/create.json", ESTIMATE | {"segment": "gold", "estimate_only": True})
    assert status == 200
    campaign = sending.create(where={"segment": "gold"}, devices=["android", "ios", "windows"])
    ask(sending, "delete", name="gold")
    assert sending.result(campaign)["sent"] == 1


@pytest.mark.parametrize(
    ("path", "says", "body"),
    [
        ("save", "name", {"where": {}}),
        ("save", "name", {"name": "x" * 257, "where": {}}),
        ("save", '"all"', {"name": "All", "where": {}}),
        ("save", "failed to parse", {"name": "x"}),
        ("save", "did_not", {"name": "x", "where": {"advanced_query": {"did_not": [CHARGED]}}}),
        ("list", "page", {"page": 0}),
        ("list", "limit", {"limit": 101}),
        ("explain", "failed to parse", {}),
        ("explain", "Nobody has the identity", {"where": {}, "identity": "nobody"}),
        ("explain", "identity must be a text", {"where": {}, "identity": ["a"]}),
    ],
)
def test_what_is_refused(caller: Caller, path: str, says: str, body: dict[str, Any]) -> None:
    refused(caller, f"/1/segments/{path}.json", says, **body)


def decisive(part: dict[str, Any]) -> set[str]:
    """The innermost parts that decided."""
    inner = [one for one in part["parts"] if one["decides"]]
    if not part["decides"]:
        return set()
    return set().union(*(decisive(one) for one in inner)) if inner else {part["what"].splitlines()[-1].strip()}


def test_why_somebody_is_in(caller: Caller) -> None:
    """In or out, and the parts that decided: those that failed, or all that held."""
    caller.upload(is_("ann", Plan="Gold", Age=30, Email="ann@example.com"), did("ann", "Charged", Amount=5))
    gold, old = plan("Gold"), {"common_profile_properties": {"demographics": [{"name": "Age", "value": 31}]}}
    questions: list[tuple[dict[str, Any], bool, set[str]]] = [
        ({}, True, {"everybody"}),
        (gold, True, {'where "Plan" equals "Gold"'}),
        ({"and": [gold, old, CHARGED]}, False, {'where "Age" equals 31'}),
        ({"or": [gold, old]}, True, {'where "Plan" equals "Gold"'}),
        ({"or": [plan("Free"), old]}, False, {'where "Plan" equals "Free"', 'where "Age" equals 31'}),
        ({"not": {"and": [gold, old]}}, True, {'where "Age" equals 31'}),
        ({**CHARGED, "operator": "greater_than", "value": 1}, False, {"from 30 days ago to today"}),
        ({**CHARGED, **gold}, True, {"from 30 days ago to today", 'where "Plan" equals "Gold"'}),
    ]
    for where, meant, parts in questions:
        answer = ask(caller, "explain", where=where, identity="ann")
        assert (answer["in"], answer["why"]["met"], decisive(answer["why"])) == (meant, meant, parts), where
        assert answer["reachable"] == {
            **dict.fromkeys(("android", "ios", "windows", "sms", "webpush"), False),
            "email": True,
        }
        assert count(caller, where) == meant


def test_what_a_question_costs(caller: Caller) -> None:
    """The SQL names no value of the caller; events of another name are not read."""
    caller.upload(*[did(f"u{n}", "Viewed" if n % 2 else "Charged", Plan="zq-Gold") for n in range(40)])
    where = {**CHARGED, "event_properties": [{"name": "Plan", "value": "zq-Gold"}]}
    cost = ask(caller, "explain", where=where)
    assert "zq" not in cost["sql"]
    assert "\x1fzq-gold\x1f" in cost["parameters"].values()
    assert cost["count"] == 20
    assert set(cost["rows"]) == {"profile", "event"}
    assert set(ask(caller, "explain", where=CHARGED)["rows"]) == {"profile", "activity"}
    assert 0 <= cost["seconds"] < 30


def test_explain_from_the_command_line(server: Server, caller: Caller, tmp_path: Path) -> None:
    """`tocsin explain` asks the running server; the question may be in a file."""
    caller.upload(is_("ann", Plan="Gold"))
    (tmp_path / "where.json").write_text(json.dumps(plan("Gold")))

    def explain(*more: str) -> subprocess.CompletedProcess[str]:
        return run("explain", "--account", caller.account_id, "--data", str(server.data), *more)

    answer = read_answer(explain("--where", f"@{tmp_path / 'where.json'}", "--identity", "ann"))
    assert (answer["in"], answer["why"]["what"]) == (True, 'has a profile\n  where "Plan" equals "Gold"')
    assert read_answer(explain("--where", "{}"))["count"] == 1
    wrong = explain("--where", "{")
    assert (wrong.returncode, "no JSON" in wrong.stderr) == (2, True)
    assert "did_not" in explain("--where", '{"did_not": 1}').stderr


def test_users_limit(sending: Caller) -> None:
    """At most so many users, those who can be reached first, and as many as the estimate said."""
    unreachable = [is_(f"nobody-{n}") for n in range(300)]
    sending.upload(*unreachable, *people(240, kinds=("fcm", "apns")))
    body = ESTIMATE | {"where": {}, "devices": ["android", "ios", "windows"], "users_limit_overall": 120}
    status, answer = sending.post("/1/targets/create.json", body)
    assert status == 200
    assert answer["estimates"] == {
        "android": answer["estimates"]["android"],
        "ios": 120 - answer["estimates"]["android"],
        "windows": 0,
    }
    assert sending.result(answer["id"])["sent"] == 120
    for wrong in (99, 0, -1, "200", True, 1.5):
        refused(sending, "/1/targets/create.json", "users_limit_overall", **(body | {"users_limit_overall": wrong}))


@pytest.mark.parametrize(
    ("seconds", "megabytes", "says"), [(0.001, 2048, "TOCSIN_QUERY_SECONDS"), (30, 16, "TOCSIN_QUERY_MEGABYTES")]
)
async def test_over_the_budget(ledger: Ledger, facts: Facts, seconds: float, megabytes: int, says: str) -> None:
    """A question over its time or memory is refused by the name of the bound, and the next one is answered."""
    account = create_account(ledger, "budget", "UTC", 1.8e9)[0]
    rows = (
        "SELECT {account:String}, 'E', toDate('2027-01-10'), number % 400000, toDateTime('2027-01-10 10:00:00'), number"
    )
    fill = f"INSERT INTO event {rows}, '{{}}', '{{}}' FROM numbers(800000)".replace(
        "{account:String}", f"'{account.id}'"
    )
    facts.command_now(fill)
    where = {"event_name": "E", "from": 20270101, "to": 20270131, "operator": "greater_than", "value": 1}
    facts.bound(seconds, megabytes)
    try:
        with pytest.raises(Problem, match=says) as refusal:
            await count_members(facts, account, read_where(where), 1.8e9)
        assert refusal.value.status == 503
    finally:
        facts.bound()
    assert await count_members(facts, account, read_where(where), 1.8e9) == 0
