"""Counts by a question, and the report of campaigns: against what was uploaded, in the documented shapes."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Caller, people, wait_for

from tocsin.api.unsupported import PATHS
from tocsin.stats.tally import find_width

COUNTS = "/1/counts/"
PLANS = ("Gold", "gold", "Silver", ["Silver", "Bronze"])
FIRST = datetime(2026, 9, 27, 12, tzinfo=UTC)  # a Sunday
WHERE = {"event_name": "Played", "from": 20260901, "to": 20261231}


@pytest.fixture(scope="module")
def player(server: Any) -> Caller:
    """An account with four people and thirty plays over some weeks, half of them uploaded twice."""
    caller: Caller = server.account("UTC")
    records: list[dict[str, Any]] = [
        {"type": "profile", "identity": f"p{number}", "profileData": {"Plan": plan, "Age": 20 + number}}
        for number, plan in enumerate(PLANS)
    ]
    plays = [play(number) for number in range(30)]
    caller.upload(*records, *plays)
    caller.upload(*plays[:15])
    return caller


def play(number: int) -> dict[str, Any]:
    data: dict[str, Any] = {
        "Points": number * 7 - 20,
        "Track": ("Lake", "LAKE", "Hill")[number % 3],
        "Share": number / 8,
    }
    at = int((FIRST + timedelta(days=number)).timestamp())
    return {"type": "event", "identity": f"p{number % 4}", "evtName": "Played", "evtData": data, "ts": at}


def test_counts(player: Caller) -> None:
    """Events, each once, of the people whom the rest means; people; a client's nulls and request ids change nothing."""
    rest = {"common_profile_properties": {"profile_fields": [{"name": "Plan", "value": "Gold"}]}}
    ask = player.post
    assert ask(COUNTS + "events.json", WHERE) == (200, {"status": "success", "count": 30})
    assert ask(COUNTS + "events.json", WHERE | rest)[1]["count"] == 16
    assert ask(COUNTS + "events.json", WHERE | {"operator": "greater_than", "value": 7})[1]["count"] == 16
    first = {"session_properties": [{"name": "first_time", "value": "True"}]}
    last = {"session_properties": [{"name": "last_time", "value": "False"}]}
    assert ask(COUNTS + "events.json", WHERE | first)[1]["count"] == 4
    assert ask(COUNTS + "events.json", WHERE | last)[1]["count"] == 26
    assert ask(COUNTS + "profiles.json?req_id=0", WHERE | rest | {"segment": None})[1] == {
        "status": "success",
        "count": 2,
    }
    assert ask(COUNTS + "profiles.json", {})[1]["count"] == 4
    status, answer = player.get(COUNTS + "events.json?req_id=384649162721759")
    assert (status, "invalid request id" in answer["error"]) == (400, True)


def test_top(player: Caller) -> None:
    """Texts in somebody's spelling whatever their case, elements of lists by themselves, numbers in ranges."""
    groups = {
        "track": {"property_type": "event_properties", "name": "Track"},
        "rarest": {"property_type": "event_properties", "name": "Track", "top_n": 1, "order": "asc"},
        "points": {"property_type": "event_properties", "name": "Points"},
        "plan": {"property_type": "profile_fields", "name": "Plan"},
        "age": {"property_type": "demographics", "name": "Age", "top_n": 2},
    }
    status, answer = player.post(COUNTS + "top.json", WHERE | {"groups": groups})
    assert (status, answer.pop("status")) == (200, "success")
    points: Counter[str] = Counter()
    for number in range(30):
        low = (number * 7 - 20) // 50 * 50
        points[f"{low}-{low + 50}"] += 1
    assert answer["track"] == {"STR": {"LAKE": 20, "Hill": 10}}
    assert list(answer["track"]["STR"]) == ["LAKE", "Hill"]
    assert answer["rarest"] == {"STR": {"Hill": 10}}
    assert answer["points"] == {"NUMBER": dict(points)}
    assert answer["plan"] == {"STR": {"Gold": 2, "Silver": 2, "Bronze": 1}}
    assert answer["age"] == {"NUMBER": {"20-22": 2, "22-24": 2}}


@pytest.mark.parametrize(
    ("low", "high", "most", "whole", "width"),
    [
        (0, 1000, 10, True, 100),
        (0, 1001, 10, True, 200),
        (1, 3, 10, True, 1),
        (0, 1, 10, False, 0.1),
        (5, 5, 10, True, 1),
    ],
)
def test_widths_of_ranges(low: float, high: float, most: int, whole: bool, width: float) -> None:
    assert find_width(low, high, most, whole=whole) == pytest.approx(width)


def test_trends(player: Caller) -> None:
    """By day, by ISO week and by month, of events, of people, of a property's sum."""
    groups = {name: {"trend_type": name} for name in ("daily", "weekly", "monthly")}
    days = [FIRST + timedelta(days=number) for number in range(30)]
    keys = {
        "daily": [f"{day:%Y%m%d}" for day in days],
        "weekly": [f"{day:%G%V}" for day in days],
        "monthly": [f"{day:%Y%m}" for day in days],
    }

    def expect(numbers: list[float]) -> dict[str, dict[str, float]]:
        found: dict[str, Counter[str]] = {name: Counter() for name in keys}
        for name, those in keys.items():
            for key, number in zip(those, numbers, strict=True):
                found[name][key] += number  # type: ignore[assignment]
        return {name: dict(of) for name, of in found.items()}

    for more, numbers in (({}, [1.0] * 30), ({"sum_event_prop": "Share", "unique": None}, [n / 8 for n in range(30)])):
        status, answer = player.post(COUNTS + "trends.json", WHERE | {"groups": groups} | more)
        assert (status, answer) == (200, {"status": "success", **expect(numbers)})
    answer = player.post(COUNTS + "trends.json", WHERE | {"groups": groups, "unique": True})[1]
    assert answer["weekly"] == {key: min(count, 4) for key, count in expect([1] * 30)["weekly"].items()}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("top.json", WHERE, "invalid group"),
        ("top.json", WHERE | {"groups": {}}, "invalid group"),
        ("top.json", WHERE | {"groups": {"a": {"property_type": "shoes", "name": "x"}}}, "$.groups[...].property_type"),
        ("trends.json", WHERE | {"groups": {str(n): {"trend_type": "daily"} for n in range(6)}}, "$.groups"),
        ("trends.json", WHERE | {"groups": {"status": {"trend_type": "daily"}}}, "invalid group"),
        ("trends.json", WHERE | {"from": 20250101, "groups": {"a": {"trend_type": "daily"}}}, "at most 366 days"),
        ("events.json", {}, "$.event_name"),
        ("events.json", WHERE | {"event_name": "Plaid"}, '["Invalid event : Plaid"]'),
    ],
    ids=str,
)
def test_what_is_wrong(player: Caller, path: str, body: Any, words: str) -> None:
    answer = player.post(COUNTS + path, body)[1]

    assert answer["status"] == "fail"
    assert words in answer["error"]


def test_now(caller: Caller) -> None:
    """Who did something in the last five minutes."""
    now = int(time.time())
    records = [("a", 0), ("a", -10), ("b", -200), ("c", -400), ("d", 3600)]
    caller.upload(
        *(
            {"type": "event", "identity": name, "evtName": "Played", "evtData": {}, "ts": now + ago}
            for name, ago in records
        )
    )
    answer = caller.post("/1/now.json", {"user_type": True})[1]
    assert (answer["status"], answer["count"]) == ("success", 2)
    assert now <= answer["last_processed_ts"] <= now + 60


def test_report(sending: Caller) -> None:
    """The campaigns of some days, by channel, delivery, state, kind and label; from and to also as texts."""
    sending.upload(*people(3, kinds=("fcm",)))
    made = sending.create(name="Hello", labels=["spring"], conversion_goal={"event_name": "Charged"})
    assert sending.result(made)["sent"] == 3
    later = sending.create(name="Later", when="20290101 10:00", devices=["android"])
    mail = {"target_mode": "email", "content": {"subject": "s", "body": "b"}}
    mails = sending.create(name="Mail", **mail)
    wait_for(lambda: sending.result(mails))
    days = {"from": "20260101", "to": 20301231}

    def ask(**more: Any) -> list[int]:
        status, answer = sending.post("/1/message/report.json", days | more)
        assert (status, answer["total_results"]) == (200, len(answer["messages"])), answer
        return sorted(one["message id"] for one in answer["messages"])

    [found] = sending.post("/1/message/report.json", days | {"label": "spring, summer", "daily": None})[1]["messages"]
    start = found.pop("start_date")
    assert abs(datetime.strptime(start, "%d %b, %Y %H:%M:%S").timestamp() - time.time()) < 2 * 86_400
    assert found == {
        "message id": made,
        "message_name": "Hello",
        "channel": "Push",
        "delivery": "one_time",
        "status": "completed",
        "sent": 3,
        "viewed": 0,
        "clicked": 0,
        "conversion_event": "Charged",
        "labels": ["spring"],
        "device": ["android", "ios", "windows"],
    }
    assert ask() == sorted([made, later, mails])
    assert ask(channel=["email"]) == [mails]
    assert ask(status=["scheduled"]) == [later]
    assert ask(delivery=["api"], message_type=["single"]) == sorted([made, later, mails])
    assert ask(delivery=["recurring"]) == ask(message_type=["ab"]) == ask(channel=["whatsapp"]) == []
    status, answer = sending.post("/1/message/report.json", days | {"channel": ["pigeon"]})
    assert (status, "$.channel" in answer["error"]) == (400, True)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_built_says_so(caller: Caller, path: str) -> None:
    """No client can take it for done, or for «nothing there»."""
    status, answer = caller.post(path, {"identity": "x"})

    assert (status, answer["status"], answer["code"]) == (404, "fail", 404)
    assert answer["error"].startswith("Not supported")
