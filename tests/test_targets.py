"""Campaigns by `targets/*`: who is asked for, what is refused, when it goes out, how it is stopped, what is counted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import Caller, Sandbox, Server, people, token, wait_for
from support.commands import run

CREATE, STOP, RESULT, LIST = (f"/1/targets/{name}.json" for name in ("create", "stop", "result", "list"))
DEVICES = ["android", "ios", "windows"]
EVER = {"from": 20000101, "to": 20991231}
LIQUID = (
    "Invalid syntax for title field. Rectify and try again. "
    "Read more: https://developer.clevertap.com/docs/create-campaign-api"
)


def push(**fields: Any) -> dict[str, Any]:
    """A push that can be created, with some fields changed; those that are `...` are left out."""
    body = {
        "name": "a push",
        "where": {},
        "content": {"title": "Hello", "body": "there"},
        "devices": DEVICES,
        "when": "now",
    } | fields
    return {key: value for key, value in body.items() if value is not ...}


def email(**fields: Any) -> dict[str, Any]:
    """An e-mail that can be created, likewise."""
    content = {"subject": "Welcome", "body": "<div>Hello</div>", "sender_name": "Tocsin"}
    return push(**{"target_mode": "email", "devices": ..., "content": content} | fields)


def estimates(caller: Caller, **fields: Any) -> dict[str, int]:
    """What a push would reach; nothing is created."""
    status, answer = caller.post(CREATE, push(estimate_only=True, **fields))
    assert (status, set(answer)) == (200, {"status", "estimates"}), answer
    numbers: dict[str, int] = answer["estimates"]
    return numbers


def count(caller: Caller, where: dict[str, Any]) -> int:
    """How many Android devices a `where` finds."""
    return estimates(caller, where=where, devices=["android"])["android"]


def today(zone: str = "Europe/Berlin", **ahead: int) -> int:
    return int((datetime.now(ZoneInfo(zone)) + timedelta(**ahead)).strftime("%Y%m%d"))


def clock(zone: str = "Europe/Berlin", **ahead: int) -> str:
    """`YYYYMMDD HH:MM` on the wall somewhere."""
    return (datetime.now(ZoneInfo(zone)) + timedelta(**ahead)).strftime("%Y%m%d %H:%M")


def listed(caller: Caller, **window: int) -> list[dict[str, Any]]:
    status, answer = caller.post(LIST, EVER | window)
    assert (status, set(answer), answer["status"]) == (200, {"status", "targets"}, "success")
    targets: list[dict[str, Any]] = answer["targets"]
    return targets


def statuses(caller: Caller) -> dict[int, str]:
    return {one["id"]: one["status"] for one in listed(caller)}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(push(name=...), "Field name is empty", id="no name"),
        pytest.param(push(name=""), "Field name is empty", id="empty name"),
        pytest.param(push(content=...), "Field title is empty (inside content)", id="no content"),
        pytest.param(push(content={}), "Field title is empty (inside content)", id="empty content"),
        pytest.param(push(content={"body": "b"}), "Field title is empty (inside content)", id="no title"),
        pytest.param(
            push(content={"title": "", "body": "b"}), "Field title is empty (inside content)", id="empty title"
        ),
        pytest.param(
            push(content={"subject": "s", "body": "b"}), "Field title is empty (inside content)", id="no mode: push"
        ),
        pytest.param(push(when=...), "Field when is empty", id="no when"),
        pytest.param(push(where=...), "Query specified in where failed to parse", id="no where"),
        pytest.param(email(name=...), "Field name is empty", id="e-mail: no name"),
        pytest.param(email(content={"body": "b"}), "Field subject is empty (inside content)", id="e-mail: no subject"),
        pytest.param(email(content=...), "Field subject is empty (inside content)", id="e-mail: no content"),
        pytest.param(email(when=...), "Field when is empty", id="e-mail: no when"),
        pytest.param(email(where=...), "Query specified in where failed to parse", id="e-mail: no where"),
        pytest.param(push(content={"title": "{{ Profile.Name", "body": "b"}), LIQUID, id="open Liquid output"),
        pytest.param(push(content={"title": "{% if a %}Hi", "body": "b"}), LIQUID, id="open Liquid tag"),
        pytest.param(push(content={"title": "{% nonsense %}", "body": "b"}), LIQUID, id="unknown Liquid tag"),
        pytest.param(
            push(where={"event_name": "A", "from": 20240202, "to": 20240201}),
            "Query parse failure - The from date cannot be after the to date",
            id="from after to",
        ),
    ],
)
def test_documented_errors(caller: Caller, body: dict[str, Any], error: str) -> None:
    """What the documents say is wrong is a 400 in their very words, also for an estimate, and creates nothing."""
    for asked in (body, body | {"estimate_only": True}):
        status, answer = caller.post(CREATE, asked)
        assert (status, set(answer)) == (400, {"status", "error", "code"})
        text = answer["error"].partition(" (at $")[0]
        assert (answer["status"], text, type(answer["code"])) == ("fail", error, int)
    assert listed(caller) == []


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"title": "t", "body": "{{ Profile.Name"}, "body"),
        ({"title": "t", "body": "b", "platform_specific": {"android": {"Key": "{% if %}"}}}, "Key|android"),
    ],
    ids=["body", "platform"],
)
def test_broken_liquid_elsewhere(caller: Caller, content: dict[str, Any], field: str) -> None:
    """Liquid that does not parse is refused by its place, before anybody gets it."""
    status, answer, _ = caller.call("POST", CREATE, push(content=content))

    assert (status, answer["status"]) == (400, "fail")
    assert any(name in answer["error"] for name in field.split("|"))
    assert listed(caller) == []


def test_a_named_provider(sending: Caller, server: Server) -> None:
    """What callers call a provider is known once the account has said so, to campaigns and sends of its channel."""
    names = '{"SendGrid main": "smtp", "Apple": "apns"}'
    call = ["policy", "set", "provider_names", names, "--account", sending.account_id, "--data", str(server.data)]
    assert run(*call).returncode == 0
    mail = {"to": {"email": ["a@example.com"]}, "content": email()["content"]}
    for called, path, body, status in (
        ("SendGrid main", CREATE, email(), 200),
        ("Apple", CREATE, push(), 200),
        ("Apple", CREATE, push(devices=["android"]), 400),
        ("Apple", CREATE, email(), 400),
        ("SendGrid main", "/1/send/email.json", mail, 200),
        ("Apple", "/1/send/email.json", mail, 400),
        ("sendgrid main", "/1/send/email.json", mail, 400),
    ):
        asked = body | {"provider_nick_name": called} | ({"estimate_only": True} if path == CREATE else {})
        got, answer = sending.post(path, asked)
        error = "InCorrect provider_nick_name! " if status == 400 else ""
        assert (got, str(answer.get("error", ""))[:30]) == (status, error)
    unknown = run(*call[:3], '{"X": "pigeon"}', *call[4:])
    assert (unknown.returncode, "pigeon" in unknown.stderr) == (1, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"provider_nick_name": "nobody"},
        {"provider_nick_name": ["nobody"]},
        {"control_group": {"type": "custom", "name": "RamndomNm77"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_nobody_defined(caller: Caller, fields: dict[str, Any]) -> None:
    """A provider or a control group that nobody defined is refused by its name: ignored, it would reach others."""
    status, answer = caller.post(CREATE, push(**fields))

    assert (status, answer["status"]) == (400, "fail")
    assert next(iter(fields)) in answer["error"] or "RamndomNm77" in answer["error"]
    assert listed(caller) == []


def test_estimates_of_asked_devices(sending: Caller, sandbox: Sandbox) -> None:
    """Estimates have exactly the asked devices; a mail has its own key; `skip_estimate` leaves them empty."""
    caller = sending
    caller.upload(*people(7, wns_port=sandbox.port + 3))

    assert estimates(caller) == {"android": 3, "ios": 2, "windows": 2}
    assert estimates(caller, devices=["ios"]) == {"ios": 2}
    assert estimates(caller, devices=["windows", "android"]) == {"android": 3, "windows": 2}
    assert estimates(caller, devices=["ios", "ios"]) == {"ios": 2}
    status, answer = caller.post(CREATE, email(estimate_only=True))
    assert (status, answer) == (200, {"status": "success", "estimates": {"web": 7}})
    status, answer = caller.post(CREATE, push(skip_estimate=True, when=clock(days=1)))
    assert (status, set(answer), answer["estimates"]) == (200, {"status", "id", "estimates"}, {})
    assert [one["id"] for one in listed(caller)] == [answer["id"]]


def test_segment_all(caller: Caller) -> None:
    """`"segment": "all"` instead of a `where` is everybody."""
    caller.upload(*people(3, kinds=("fcm",)))

    assert estimates(caller, where=..., segment="all")["android"] == 3


@pytest.mark.parametrize("segment", ["most", "", 7, None, ["all"]], ids=str)
def test_unknown_segment(caller: Caller, segment: object) -> None:
    """A segment there is not is refused, never read as everybody."""
    status, answer = caller.post(CREATE, push(where=..., segment=segment))

    assert (400 <= status < 500, answer["status"]) == (True, "fail")
    assert listed(caller) == []


DAY = 1_710_025_200  # 10 March 2024, 00:00 in Berlin
SALES: dict[str, dict[str, Any]] = {
    "ann": {"Category": "Mens Watch", "Price": 10, "Gift": True, "Color": "red"},
    "bob": {"Category": "Womens Watch", "Price": 20, "Gift": False, "Color": "blue"},
    "cid": {"Category": "Shoes", "Price": 30.5, "Gift": True},
}


@pytest.fixture(scope="module")
def shop(server: Server) -> Caller:
    """Three who bought something on 10 March 2024 in Berlin, one who did the next day, and one who never did."""
    caller = server.account("Europe/Berlin")
    for name, data in SALES.items():
        caller.upload({"type": "event", "identity": name, "evtName": "Bought", "evtData": data, "ts": DAY + 3600})
    # 23:30 in London is half past midnight of the next day in Berlin.
    caller.upload({"type": "event", "identity": "dot", "evtName": "Bought", "ts": DAY + 24 * 3600 + 1800})
    for name in (*SALES, "dot", "eve"):
        level = {"ann": 1, "bob": 2, "cid": 3}.get(name, 0)
        data = {"Customer Type": "Platinum" if level else "Gold", "test.dot7": f"is {name}", "Level": level}
        caller.upload(
            {"type": "profile", "identity": name, "objectId": name, "profileData": data},
            {"type": "token", "objectId": name, "tokenData": {"type": "fcm", "id": token("fcm", name)}},
        )
    return caller


BOUGHT = {"event_name": "Bought", "from": 20240310, "to": 20240310}
PLATINUM = {"Key": "Customer Type", "value": "Platinum"}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        pytest.param({}, 5, id="everybody"),
        pytest.param(BOUGHT, 3, id="the day"),
        pytest.param(BOUGHT | {"to": 20240311}, 4, id="both days"),
        pytest.param(BOUGHT | {"from": 20240311, "to": 20240311}, 1, id="the next day in Berlin"),
        pytest.param(BOUGHT | {"from": 20240309, "to": 20240309}, 0, id="the day before"),
        pytest.param(BOUGHT | {"from": 20240229, "to": 20240331}, 4, id="29 February of a leap year"),
        pytest.param(BOUGHT | {"event_name": "bought"}, 0, id="names of events have a case"),
        pytest.param(BOUGHT | {"event_name": "Bought'; DROP TABLE events; --"}, 0, id="SQL is a name like another"),
        pytest.param(BOUGHT | {"event_properties": []}, 3, id="no properties"),
        pytest.param(BOUGHT | {"props": [{"name": "Price", "value": 10}]}, 1, id="props"),
        pytest.param(
            BOUGHT | {"common_profile_properties": {"profile_fields": [PLATINUM]}}, 3, id="event and profile: Key"
        ),
        pytest.param(
            BOUGHT | {"common_profile_prop": {"profile_fields": [{"name": "Level", "value": 2}]}},
            1,
            id="common_profile_prop",
        ),
        pytest.param(
            BOUGHT
            | {
                "common_profile_properties": {
                    "profile_fields": [PLATINUM, {"name": "Level", "operator": "greater_than", "value": 1}]
                }
            },
            2,
            id="all fields must fit",
        ),
        pytest.param(
            BOUGHT
            | {
                "common_profile_properties": {
                    "profile_fields": [{"name": "test.dot7", "operator": "contains", "value": "bob"}]
                }
            },
            1,
            id="a field with a dot",
        ),
        pytest.param(
            BOUGHT
            | {"common_profile_properties": {"profile_fields": [{"name": "Customer Type", "value": "' OR 1=1"}]}},
            0,
            id="SQL is a value like another",
        ),
    ],
)
def test_where(shop: Caller, where: dict[str, Any], expected: int) -> None:
    """A `where` finds whom it describes, by days of the account's time zone, in new and old spellings."""
    assert count(shop, where) == expected


@pytest.mark.parametrize(
    ("name", "operator", "value", "expected"),
    [
        ("Category", None, "Shoes", 1),
        ("Category", "equals", "Shoes", 1),
        ("Category", "equals", "Watch", 0),
        ("Category", "equals", ["Shoes", "Mens Watch"], 2),
        ("Category", "contains", "Watch", 2),
        ("Category", "contains", ["Womens", "Shoe"], 2),
        ("Category", "contains", "%", 0),
        ("Category", "contains", "M_ns", 0),
        ("Category", "not_equals", "Shoes", 2),
        ("Category", "does_not_contain", "Watch", 1),
        ("Color", "exists", None, 2),
        ("Color", "does_not_exist", None, 1),
        ("Price", "equals", 10, 1),
        ("Price", "equals", 30.5, 1),
        ("Price", "equals", [10, 20], 2),
        ("Price", "greater_than", 10, 2),
        ("Price", "greater_than", 9.99, 3),
        ("Price", "greater_than_equals", 20, 2),
        ("Price", "less_than", 20, 1),
        ("Price", "less_than_equals", 20, 2),
        ("Price", "less_than", 10, 0),
        ("Gift", "equals", "True", 2),
        ("Gift", "equals", "False", 1),
    ],
)
def test_operators(shop: Caller, name: str, operator: str | None, value: object, expected: int) -> None:
    """Each documented operator on texts, numbers, booleans and lists; without one it is `equals`."""
    asked = {"name": name} | ({"operator": operator} if operator else {}) | ({} if value is None else {"value": value})

    assert count(shop, BOUGHT | {"event_properties": [asked]}) == expected


def test_properties_of_one_event(caller: Caller) -> None:
    """Several properties must be those of one event, not of several together."""
    caller.upload(*people(1, kinds=("fcm",)))
    for data in ({"Color": "red", "Price": 1}, {"Color": "blue", "Price": 2}):
        caller.upload({"type": "event", "identity": "user-0", "evtName": "Bought", "evtData": data, "ts": DAY + 3600})

    def both(color: str, price: int) -> int:
        asked = [{"name": "Color", "value": color}, {"name": "Price", "value": price}]
        return count(caller, BOUGHT | {"event_properties": asked})

    assert [both("red", 1), both("blue", 2), both("red", 2)] == [1, 1, 0]


def test_scheduled(caller: Caller) -> None:
    """A campaign for later is listed by the minute of the account's wall clock, and has no result yet."""
    when = clock(days=2)
    campaign = caller.create(when=when, name="later")

    assert listed(caller) == [
        {
            "id": campaign,
            "name": "later",
            "scheduled_on": int(when.replace(" ", "").replace(":", "")),
            "status": listed(caller)[0]["status"],
        }
    ]
    assert statuses(caller)[campaign] in {"pending", "scheduled"}
    assert caller.post(RESULT, {"id": campaign})[1] == {
        "error": "This target hasn't been completed",
        "status": "fail",
    }


def test_when_is_the_accounts(server: Server) -> None:
    """The same `when` lies ahead in Honolulu and is long over in Auckland."""
    when = clock("UTC", hours=1)

    assert server.account("Pacific/Honolulu").create(when=when) > 0
    status, answer = server.account("Pacific/Auckland").post(CREATE, push(when=when))
    assert (400 <= status < 500, answer["status"]) == (True, "fail")
    assert "when" in answer["error"]


@pytest.mark.parametrize("when", ["20150101 10:00", "19700101 00:00", None], ids=["2015", "1970", "five minutes ago"])
def test_past_when(caller: Caller, when: str | None) -> None:
    """A `when` that is over is refused, not sent late."""
    status, answer = caller.post(CREATE, push(when=when or clock(minutes=-5)))

    assert (400 <= status < 500, answer["status"]) == (True, "fail")
    assert "when" in answer["error"]
    assert listed(caller) == []


def test_list_window(caller: Caller) -> None:
    """`list` shows campaigns whose day lies between and including the given ones."""
    now, later = caller.create(), caller.create(when=clock(days=3))
    caller.result(now)

    def window(start: int, end: int) -> list[int]:
        return sorted(one["id"] for one in listed(caller, **{"from": today(days=start), "to": today(days=end)}))

    assert window(0, 0) == [now]
    assert window(3, 3) == [later]
    assert window(0, 3) == sorted([now, later])
    assert window(1, 2) == window(4, 5) == window(-2, -1) == []
    assert all(set(one) == {"id", "name", "scheduled_on", "status"} for one in listed(caller))
    assert statuses(caller)[now] == "completed"


def test_ids_are_unlike(caller: Caller) -> None:
    """Campaigns created within one second have ids of their own."""
    ids = [caller.create(when="20991231 10:00") for _ in range(5)]

    assert len(set(ids)) == 5
    assert all(0 < one < 2**31 for one in ids)


def test_stop_scheduled_twice(caller: Caller) -> None:
    """Stopping a scheduled campaign works, and again; the others go on."""
    campaign, other = caller.create(when=clock(days=1)), caller.create(when=clock(days=1))

    assert [caller.post(STOP, {"id": campaign}) for _ in range(2)] == [(200, {"status": "success"})] * 2
    assert statuses(caller)[campaign] == "stopped"
    assert statuses(caller)[other] in {"pending", "scheduled"}


def test_stop_running(sending: Caller, sandbox: Sandbox) -> None:
    """Stopping a running campaign works, and again, and those not yet sent to are spared."""
    sandbox.fault(vendor="fcm", kind="delay", share=1, seconds=0.3)
    sending.upload(*people(3000, kinds=("fcm",)))
    campaign = sending.create()
    wait_for(lambda: sandbox.counts()["fcm"]["accepted"] > 0)

    status, answer = sending.post(STOP, {"id": campaign})
    assert (status, answer["status"]) == (200, "success")
    assert 0 < answer["in_flight"] <= 3000
    assert sending.post(STOP, {"id": campaign}) == (200, {"status": "success"})

    assert statuses(sending)[campaign] == "stopped"
    sandbox.control.call("DELETE", "/faults")
    # A later campaign to the same devices ends after whatever was under way of the stopped one.
    assert sending.result(sending.create())["sent"] == 3000
    counts = sandbox.counts()["fcm"]
    assert 3000 < counts["accepted"] < 6000
    assert counts["duplicates"] == 0
    assert statuses(sending)[campaign] == "stopped"


def test_stop_completed(sending: Caller) -> None:
    """Stopping what is over changes nothing."""
    sending.upload(*people(2, kinds=("fcm",)))
    campaign = sending.create()
    before = sending.result(campaign)

    assert sending.post(STOP, {"id": campaign}) == (200, {"status": "success"})

    assert statuses(sending)[campaign] == "completed"
    assert sending.result(campaign) == before


@pytest.mark.parametrize("path", [STOP, RESULT], ids=["stop", "result"])
def test_invalid_id(server: Server, caller: Caller, path: str) -> None:
    """The id of no campaign, or of another account's, is refused in the recorded words."""
    campaign = caller.create(when=clock(days=1))
    stranger = server.account()

    for status, answer in (stranger.post(path, {"id": campaign}), caller.post(path, {"id": 1})):
        assert (status, answer["status"], answer["code"]) == (400, "fail", 400)
        assert answer["error"].startswith("Invalid campaign id")
    assert statuses(caller)[campaign] != "stopped"


def test_notification_sent_in_where(sending: Caller) -> None:
    """Who got a campaign can be asked for, by campaign, in the next one's `where`."""
    sending.upload(*people(4, kinds=("fcm",)))
    sending.upload({"type": "profile", "identity": "user-0", "profileData": {"Chosen": "yes"}})
    sending.upload(*({"type": "event", "identity": f"user-{number}", "evtName": "Seen"} for number in range(4)))
    chosen = {"common_profile_properties": {"profile_fields": [{"name": "Chosen", "value": "yes"}]}}
    campaign = sending.create(where=chosen)
    assert sending.result(campaign)["sent"] == 1
    day = {"from": today(), "to": today()}

    assert count(sending, {"event_name": "Notification Sent", **day}) == 1

    sending.result(sending.create(where={"event_name": "Notification Sent", **day}))
    sending.result(sending.create())
    assert count(sending, {"event_name": "Notification Sent", **day}) == 4
    before = {"from": today(days=-7), "to": today(days=-1)}
    assert count(sending, {"event_name": "Notification Sent", **before}) == 0
    by_campaign = [{"name": "Campaign id", "value": campaign}]
    assert count(sending, {"event_name": "Notification Sent", **day, "event_properties": by_campaign}) == 1


def test_opted_out(sending: Caller, sandbox: Sandbox) -> None:
    """Whoever wants no push is not estimated, gets none, and is counted as suppressed; a mail still reaches them."""
    sending.upload(*people(3, kinds=("fcm",)))
    off = {"type": "profile", "identity": "user-1", "objectId": "user-device-1", "profileData": {"MSG-push": False}}
    sending.upload(off)

    assert estimates(sending, devices=["android"]) == {"android": 2}
    result = sending.result(sending.create())

    assert (result["sent"], result["suppressed"], result["audience"]) == (2, 1, 3)
    assert {message["address"] for message in sandbox.messages("fcm")} == {token("fcm", f"user-{n}") for n in (0, 2)}
    assert sending.post(CREATE, email(estimate_only=True))[1]["estimates"] == {"web": 3}
    sending.upload({"type": "profile", "identity": "user-1", "profileData": {"MSG-email": False}})
    assert sending.post(CREATE, email(estimate_only=True))[1]["estimates"] == {"web": 2}
    sending.upload(off | {"profileData": {"MSG-push": True}})
    assert estimates(sending, devices=["android"]) == {"android": 3}


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        pytest.param({"kind": "status", "status": 404, "code": "UNREGISTERED"}, "failed", id="gone"),
        pytest.param({"kind": "status", "status": 400, "code": "INVALID_ARGUMENT"}, "failed", id="bad"),
        pytest.param({"kind": "cut"}, "unknown", id="cut"),
    ],
)
def test_outcomes_add_up(sending: Caller, sandbox: Sandbox, fault: dict[str, Any], outcome: str) -> None:
    """When a vendor refuses some or hangs up on some, the numbers add up and are the vendor's own."""
    count = 2 if outcome == "unknown" else 7  # more cuts are a vendor that takes and is silent: a pause of a minute
    sandbox.fault(vendor="fcm", share=1, count=count, **fault)
    sending.upload(*people(60, kinds=("fcm",)))

    result = sending.result(sending.create())

    assert result["audience"] == 60
    assert result["sent"] + result["unknown"] + result["failed"] + result["suppressed"] == 60
    counts = sandbox.counts()["fcm"]
    assert counts["duplicates"] == 0
    if outcome == "failed":
        assert (result["failed"], result["sent"]) == (7, 53)
        assert counts["accepted"] == 53
    else:
        # A cut takes down with it whatever else was under way on that connection.
        assert result["unknown"] >= 1
        assert result["sent"] <= counts["accepted"] <= result["sent"] + result["unknown"]


def test_passing_fault_is_retried(sending: Caller, sandbox: Sandbox) -> None:
    """When a vendor is not available for a moment, everybody gets their one message afterwards."""
    sandbox.fault(vendor="fcm", kind="status", status=503, code="UNAVAILABLE", retry_after=1, share=1, count=5)
    sending.upload(*people(20, kinds=("fcm",)))

    assert sending.result(sending.create())["sent"] == 20

    counts = sandbox.counts()["fcm"]
    assert (counts["accepted"], counts["duplicates"]) == (20, 0)


def test_email_campaign(sending: Caller, sandbox: Sandbox) -> None:
    """A campaign by e-mail reaches everybody with an address, personally."""
    sending.upload(*people(3, kinds=("fcm",)))
    sending.upload(
        {"type": "token", "objectId": "no-mail", "tokenData": {"type": "fcm", "id": token("fcm", "no-mail")}}
    )
    status, answer = sending.post(CREATE, email(content={"subject": "Hi {{ Profile.Name }}", "body": "<div>x</div>"}))
    assert (status, answer["estimates"]) == (200, {"web": 3})

    assert sending.result(answer["id"])["sent"] == 3

    subjects = {message["address"]: message["headers"]["subject"] for message in sandbox.messages("smtp")}
    assert subjects == {f"user-{number}@example.com": f"Hi Name {number}" for number in range(3)}


def test_nobody(caller: Caller) -> None:
    """A campaign that finds nobody is completed with nothing but zeros."""
    result = caller.result(caller.create())

    assert set(result) >= {"audience", "sent", "unknown", "failed", "suppressed", "clicked"}
    assert set(result.values()) == {0}


def test_unknown_fields_are_kept_out_of_the_way(caller: Caller) -> None:
    """Fields nobody here knows are no reason to refuse a campaign."""
    assert estimates(caller, labels=["onboarding"], target_mode="push", respect_throttle=False, something_new={"a": 1})
