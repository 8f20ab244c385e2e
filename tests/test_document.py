"""The mission document: every JSON example of it, letter for letter, and every sentence of it that can be tried."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from conftest import ROOMY, Caller, Sandbox, Server, token, wait_for

CREATE, STOP, RESULT, LIST = (f"/1/targets/{name}.json" for name in ("create", "stop", "result", "list"))
PUSH, EMAIL, UPLOAD, TAGS = "/1/send/push.json", "/1/send/email.json", "/1/upload", "/1/tag_groups.json"
JSON = "application/json;charset=utf-8"
DEVICES = {"android": 10, "ios": 30, "windows": 5}
NOBODY = dict.fromkeys(("audience", "sent", "unknown", "failed", "suppressed", "viewed", "clicked"), 0)
# The people the document's sends name, each known by one identifier of each kind.
NAMED: list[dict[str, Any]] = [
    {"FBID": "102029292929388"},
    {"FBID": "114342342453463"},
    {"GPID": "1928288389299292"},
    {"identity": "john", "profileData": {"Email": "john@doe.com"}},
    {"identity": "jane", "profileData": {"Email": "jane@doe.com"}},
    {"identity": "JohnDoe"},
    {"objectId": "_asdnkansdjknaskdjnasjkndja"},
    {"objectId": "-adffajjdfoaiaefiohnefwprjf"},
]


def example(name: str) -> bytes:
    """One JSON example of the document, as it is printed there."""
    return (Path(__file__).parent / "document" / f"{name}.json").read_bytes()


def answer(name: str) -> Any:
    return msgspec.json.decode(example(name))


def example_without(field: str) -> dict[str, Any]:
    """The example of `create` that really creates, without one of its fields."""
    body: dict[str, Any] = answer("create") | {"estimate_only": False}
    holder = body if field in body else body["content"]
    del holder[field]
    return body


def berlin(**ahead: int) -> str:
    """`YYYYMMDD HH:MM` on the wall of the accounts here."""
    return (datetime.now(ZoneInfo("Europe/Berlin")) + timedelta(**ahead)).strftime("%Y%m%d %H:%M")


def recipients(wns_port: int) -> list[dict[str, Any]]:
    """45 devices of people the document's `where` finds, and three people it does not find."""
    kinds = [kind for kind, count in (("fcm", 10), ("apns", 30), ("wns", 5)) for _ in range(count)]
    launch = {"type": "event", "evtName": "App Launched", "ts": 1_422_748_800}  # 1 February 2015
    records: list[dict[str, Any]] = []
    for number, kind in enumerate(kinds):
        device = {"objectId": f"device-{number}"}
        records.append({"type": "profile", **device, "profileData": {"Customer Type": "Platinum"}})
        records.append(
            {"type": "token", **device, "tokenData": {"type": kind, "id": token(kind, str(number), wns_port)}}
        )
        records.append(launch | device)
    others: list[tuple[str, str, dict[str, Any] | None]] = [
        ("gold", "Gold", launch),
        ("late", "Platinum", launch | {"ts": 1_425_600_000}),  # 6 March 2015
        ("idle", "Platinum", None),
    ]
    for name, kind, event in others:
        records.append({"type": "profile", "objectId": name, "profileData": {"Customer Type": kind}})
        records.append({"type": "token", "objectId": name, "tokenData": {"type": "fcm", "id": token("fcm", name)}})
        if event is not None:
            records.append(event | {"objectId": name})
    return records


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes App Launched from callers without an SDK."""
    server = Server(tmp_path_factory.mktemp("document"), ROOMY | {"TOCSIN_ALLOW_SYSTEM_EVENTS": "1"})
    yield server
    assert server.stop() == 0


@pytest.fixture
def reader(house: Server, sandbox: Sandbox) -> Caller:
    """A new account with the people of the document's `create`, who can be reached at the sandbox."""
    caller = house.account("Europe/Berlin")
    house.use_sandbox(caller, sandbox)
    caller.upload(*recipients(sandbox.port + 3))
    return caller


def known(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Records of the people the document's sends name, each with an Android device and an address."""
    records: list[dict[str, Any]] = []
    for number, who in enumerate(NAMED):
        device = who.get("objectId", f"known-{number}")
        profile = {"Email": f"known-{number}@example.com"} | who.get("profileData", {})
        address = {"type": "fcm", "id": token("fcm", f"known-{number}")}
        records.append({"type": "profile", "objectId": device, **who, "profileData": profile})
        records.append({"type": "token", "objectId": device, "tokenData": address})
    return records


def tag_groups(caller: Caller) -> dict[str, dict[str, int]]:
    status, value = caller.get(TAGS)
    assert (status, value["status"]) == (200, "success")
    groups: dict[str, dict[str, int]] = value["tag_groups"]
    return groups


def test_create_example_estimates_without_creating(reader: Caller) -> None:
    """The example, sent as printed, answers how many can be reached, without an id, and creates nothing."""
    status, value, headers = reader.call("POST", CREATE, example("create"))

    assert (status, value) == (200, {"status": "success", "estimates": DEVICES})
    assert headers["content-type"] == JSON
    assert reader.post(LIST, {"from": 20200101, "to": 20991231}) == (200, {"status": "success", "targets": []})


@pytest.mark.parametrize("left", ["out", "false"])
def test_create_example_creates(reader: Caller, sandbox: Sandbox, left: str) -> None:
    """The example without `estimate_only` gives the documented answer, and its content reaches every platform."""
    body = answer("create") | {"estimate_only": False}
    if left == "out":
        del body["estimate_only"]

    status, value = reader.post(CREATE, body)

    campaign = value.pop("id")
    documented = answer("create-answer")
    del documented["id"]
    assert (status, value) == (200, documented)
    assert type(campaign) is int
    assert 0 < campaign < 2**31
    assert reader.result(campaign) == NOBODY | {"audience": 45, "sent": 45}
    android = {str(message["body"]["message"]) for message in sandbox.messages("fcm")}
    assert len(android) == DEVICES["android"]
    assert all("Value_android" in one and "example.com" in one and "Hi!" in one for one in android)
    windows = [message["body"] for message in sandbox.messages("wns")]
    assert len(windows) == DEVICES["windows"]
    assert all("Value_windows" in one and "example.com" in one and "Hi!" in one for one in windows)
    ios = [message["body"] for message in sandbox.messages("apns")]
    assert len(ios) == DEVICES["ios"]
    for one in ios:
        assert one["aps"]["alert"] == {"title": "Hi!", "body": "How are you doing today?"}
        assert one["aps"]["mutable-content"] == 1
        assert one["aps"]["badge"] == 1
        assert one["aps"]["sound"] == "example.caf"
        assert one["aps"]["category"] == "application category//Books"
        assert one["Key"] == "Value_ios"
        assert one["wzrk_dl"] == "example.com"


def test_name_is_shown(reader: Caller) -> None:
    """The campaign's name is what the list of campaigns shows."""
    status, value = reader.post(CREATE, example_without("estimate_only") | {"when": berlin(days=1)})
    assert status == 200

    status, listed = reader.post(LIST, {"from": 20200101, "to": 20991231})

    assert [(one["id"], one["name"]) for one in listed["targets"]] == [(value["id"], "My API Campaign")]


@pytest.mark.parametrize("field", ["name", "title", "body", "devices", "when", "where"])
def test_required_parameter(caller: Caller, field: str) -> None:
    """Each required parameter of `create`, when missing, is a 400 that names it, and nothing is created."""
    status, value = caller.post(CREATE, example_without(field))

    assert (status, value["status"]) == (400, "fail")
    assert field in value["error"]
    assert type(value["code"]) is int
    assert caller.post(LIST, {"from": 20200101, "to": 20991231})[1]["targets"] == []


@pytest.mark.parametrize("devices", [["android"], ["ios"], ["windows"], ["windows", "android"]], ids="+".join)
def test_devices(reader: Caller, devices: list[str]) -> None:
    """Any choice of the three platforms is valid, and only those are estimated."""
    status, value = reader.post(CREATE, answer("create") | {"devices": devices})

    assert (status, value["estimates"]) == (200, {device: DEVICES[device] for device in devices})


@pytest.mark.parametrize("devices", ["android", {"android": True}, ["android", "palm"]], ids=str)
def test_devices_are_an_array_of_three(caller: Caller, devices: object) -> None:
    """`devices` that are no array, or hold anything else, are a 400."""
    status, value = caller.post(CREATE, answer("create") | {"devices": devices})

    assert (status, value["status"]) == (400, "fail")
    assert re.search("devices|palm", value["error"])


def test_empty_where_is_everybody(reader: Caller) -> None:
    """An empty object targets the entire user base, also those whom the example's `where` leaves out."""
    status, value = reader.post(CREATE, answer("create") | {"where": {}})

    assert (status, value["estimates"]) == (200, DEVICES | {"android": DEVICES["android"] + 3})


def test_event_is_optional(caller: Caller) -> None:
    """Without `event_name` and its dates the profile's properties alone choose among those who did something."""
    for name, kind in (("one", "Platinum"), ("two", "Platinum"), ("three", "Gold")):
        caller.upload(
            {"type": "profile", "objectId": name, "profileData": {"Customer Type": kind}},
            {"type": "token", "objectId": name, "tokenData": {"type": "fcm", "id": token("fcm", name)}},
            {"type": "event", "objectId": name, "evtName": "Visited"},
        )
    where = {"common_profile_properties": answer("create")["where"]["common_profile_properties"]}

    status, value = caller.post(CREATE, answer("create") | {"where": where})

    assert (status, value["estimates"]) == (200, {"android": 2, "ios": 0, "windows": 0})


@pytest.mark.parametrize("when", ["20991231", "2099-12-31 10:00", "20991231 25:00", "20990230 10:00", "later", ""])
def test_when_has_two_forms(caller: Caller, when: str) -> None:
    """Anything but `now` and a real `YYYYMMDD HH:MM` is a 400 that names `when`."""
    status, value = caller.post(CREATE, example_without("estimate_only") | {"when": when})

    assert (status, value["status"]) == (400, "fail")
    assert "when" in value["error"]


def test_stop_example(reader: Caller) -> None:
    """A scheduled campaign is stopped by its id with the documented answer, and shown as stopped."""
    _, value = reader.post(CREATE, example_without("estimate_only") | {"when": berlin(days=1)})

    status, stopped = reader.post(STOP, answer("stop") | {"id": value["id"]})

    assert (status, stopped) == (200, answer("stop-answer"))
    _, listed = reader.post(LIST, {"from": 20200101, "to": 20991231})
    assert [(one["id"], one["status"]) for one in listed["targets"]] == [(value["id"], "stopped")]


def test_result_example(reader: Caller, sandbox: Sandbox) -> None:
    """82 sent and 28 clicked answer with the document's very numbers."""
    documented = answer("result-answer")["result"]
    more = [f"more-{number}" for number in range(documented["sent"] - sum(DEVICES.values()) - 3)]
    reader.upload(
        *({"type": "token", "objectId": name, "tokenData": {"type": "fcm", "id": token("fcm", name)}} for name in more)
    )
    campaign = reader.post(CREATE, example_without("estimate_only") | {"where": {}})[1]["id"]
    reader.result(campaign)
    data = [message["body"]["message"]["data"] for message in sandbox.messages("fcm")]
    for one in data[: documented["clicked"]]:
        assert reader.post("/track/clicked", {"id": one["wzrk_pid"]})[0] < 300

    body = answer("result") | {"id": campaign}
    status, value = wait_for(lambda: _when_clicked(reader.post(RESULT, body), documented["clicked"]))

    assert (status, value["status"]) == (200, "success")
    assert set(value) == {"result", "status"}
    assert value["result"].items() >= documented.items()


def _when_clicked(reply: tuple[int, Any], clicked: int) -> tuple[int, Any] | None:
    return reply if reply[1]["result"]["clicked"] == clicked else None


def test_result_of_not_completed(reader: Caller) -> None:
    """A campaign that is still to come has no result, in exactly the documented words."""
    _, value = reader.post(CREATE, example_without("estimate_only") | {"when": berlin(days=1)})

    _, refused, headers = reader.call("POST", RESULT, {"id": value["id"]})

    assert refused == answer("result-not-completed")
    assert headers["content-type"] == JSON


@pytest.mark.parametrize(("path", "name"), [(STOP, "stop"), (RESULT, "result")], ids=["stop", "result"])
def test_id_of_nobody(caller: Caller, path: str, name: str) -> None:
    """The id the document prints belongs to somebody else's campaign: a 400 in the documented shape."""
    status, value, _ = caller.call("POST", path, example(name))

    assert (status, value["status"]) == (400, "fail")
    assert set(value) == {"status", "error", "code"}


def test_push_example(sending: Caller, sandbox: Sandbox) -> None:
    """The push, sent as printed, is answered as printed and reaches each person it names once, with its content."""
    sending.upload(*known(sandbox))

    status, value, headers = sending.call("POST", PUSH, example("push"))

    assert (status, value) == (200, answer("send-answer"))
    assert headers["content-type"] == JSON
    groups = wait_for(lambda: _when_sent(sending, "my tag group", 8))
    assert groups == {"my tag group": NOBODY | {"audience": 8, "sent": 8, "converted": 0}}
    messages = sandbox.messages("fcm")
    assert sorted(message["address"] for message in messages) == [token("fcm", f"known-{n}") for n in range(8)]
    for message in messages:
        text = str(message["body"]["message"])
        assert all(part in text for part in ("Welcome", "Hello world!", "value_android", "example.com"))


def test_email_example(sending: Caller, sandbox: Sandbox) -> None:
    """The e-mail, sent as printed, is answered as printed and reaches each person it names once, with its content."""
    sending.upload(*known(sandbox))

    status, value, _ = sending.call("POST", EMAIL, example("email"))

    assert (status, value) == (200, answer("send-answer"))
    groups = wait_for(lambda: _when_sent(sending, "my tag group", 8))
    assert groups == {"my tag group": NOBODY | {"audience": 8, "sent": 8, "converted": 0}}
    messages = sandbox.messages("smtp")
    expected = [f"known-{number}@example.com" for number in (0, 1, 2, 5, 6, 7)] + ["john@doe.com", "jane@doe.com"]
    assert sorted(message["address"] for message in messages) == sorted(expected)
    assert all(message["headers"]["subject"] == "Welcome" for message in messages)
    assert all("<div>Your HTML content for the email</div>" in message["body"] for message in messages)


def _when_sent(caller: Caller, group: str, count: int) -> dict[str, dict[str, int]] | None:
    groups = tag_groups(caller)
    return groups if groups.get(group, NOBODY)["sent"] >= count else None


def test_not_tagged(sending: Caller, sandbox: Sandbox) -> None:
    """A send without `tag_group` is counted as «Not Tagged»."""
    sending.upload(*known(sandbox))
    body = answer("push")
    del body["tag_group"]

    assert sending.post(PUSH, body) == (200, answer("send-answer"))

    groups = wait_for(lambda: _when_sent(sending, "Not Tagged", 8))
    assert groups == {"Not Tagged": NOBODY | {"audience": 8, "sent": 8, "converted": 0}}


def test_twenty_tags(sending: Caller, sandbox: Sandbox) -> None:
    """Twenty tags are kept apart, a further one is accepted and counted as «Not Tagged», a known one stays itself."""
    sending.upload(*known(sandbox))
    names = [f"tag {number}" for number in range(20)]
    for name in [*names, "one too many", names[0]]:
        body = answer("push") | {"to": {"Identity": ["JohnDoe"]}, "tag_group": name}
        assert sending.post(PUSH, body) == (200, answer("send-answer"))

    def settled() -> dict[str, dict[str, int]] | None:
        groups = tag_groups(sending)
        return groups if sum(group["sent"] for group in groups.values()) == 22 else None

    groups = wait_for(settled)

    one = NOBODY | {"audience": 1, "sent": 1, "converted": 0}
    expected = dict.fromkeys([*names, "Not Tagged"], one)
    assert groups == expected | {names[0]: NOBODY | {"audience": 2, "sent": 2, "converted": 0}}


@pytest.mark.parametrize("given", [{}, {"respect_frequency_caps": True}, {"respect_frequency_caps": False}], ids=str)
@pytest.mark.parametrize(("path", "name"), [(PUSH, "push"), (EMAIL, "email")], ids=["push", "email"])
def test_frequency_caps_are_optional(caller: Caller, path: str, name: str, given: dict[str, bool]) -> None:
    """`respect_frequency_caps` may be true, false or left out."""
    body = answer(name)
    del body["respect_frequency_caps"]

    assert caller.post(path, body | given) == (200, answer("send-answer"))


@pytest.mark.parametrize("name", ["push", "email"])
def test_up_to_a_thousand(caller: Caller, name: str) -> None:
    """A thousand users in one request are accepted; one more is a 400."""
    path = f"/1/send/{name}.json"
    thousand = [f"somebody-{number}" for number in range(1000)]

    assert caller.post(path, answer(name) | {"to": {"Identity": thousand}}) == (200, answer("send-answer"))
    status, value = caller.post(path, answer(name) | {"to": {"Identity": [*thousand, "another"]}})

    assert (status, value["status"]) == (400, "fail")


@pytest.mark.parametrize("name", ["X-CleverTap-Account-Id", "X-CleverTap-Passcode"])
@pytest.mark.parametrize("path", [CREATE, PUSH, EMAIL, STOP, RESULT])
def test_credentials_are_required(caller: Caller, path: str, name: str) -> None:
    """Every endpoint of the document refuses a request without either of the two headers."""
    part = {key: value for key, value in caller.headers.items() if key != name}

    status, value, headers = Caller(caller.port, part).call("POST", path, example("create"))

    assert (status, value["status"], value["code"]) == (401, "fail", 401)
    assert headers["content-type"] == JSON


def test_header_names_have_no_case(caller: Caller) -> None:
    """The two headers count in any spelling of their names, as HTTP has it."""
    lower = {name.lower(): value for name, value in caller.headers.items()}

    assert Caller(caller.port, lower).call("POST", PUSH, example("push"))[:2] == (200, answer("send-answer"))


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_content_type(caller: Caller, kind: str) -> None:
    """JSON under its own name, with or without a character set, is taken."""
    assert caller.call("POST", PUSH, example("push"), {"Content-Type": kind})[0] == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize("path", [CREATE, PUSH])
def test_content_type_must_be_json(caller: Caller, path: str, kind: str | None) -> None:
    """A body under another name, or none, is refused with a sentence about `Content-Type`."""
    headers = caller.headers if kind is None else {**caller.headers, "Content-Type": kind}
    body = example("create" if path == CREATE else "push")
    with closing(http.client.HTTPConnection("127.0.0.1", caller.port, timeout=60)) as connection:
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        value = msgspec.json.decode(reply.read())

    assert 400 <= reply.status < 500
    assert (value["status"], type(value["code"])) == ("fail", int)
    assert "content-type" in value["error"].lower()
    assert reply.getheader("Content-Type") == JSON
