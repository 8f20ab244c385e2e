"""What the clients of the API write, each as a row: RudderStack and Segment, CleverTap's own uploader, and programs in
Node, Python, Java, Go, PHP and forms. Where the real service's answer is known it is the answer here; where nobody
knows it, the record is taken."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections import defaultdict
from contextlib import closing
from typing import Any

import pytest
from conftest import Caller, Server

from tocsin.ingest.timestamp import read_timestamp

UPLOAD, PUSH, EMAIL = "/1/upload", "/1/send/push.json", "/1/send/email.json"
BROWSER = "cB8rNo3KwZ4:APA91bH" + "x0_-Yq" * 12
PUBLIC, SECRET = "BLc4xRzKlKORKWlbdgFaBrrPK3ydWAHo4M0gs0i1oEKg", "5I2Bu2oKdyy9CwL8QVF0NQ"


def names(server: Server, caller: Caller) -> list[set[tuple[str, str]]]:
    """The names of each person of an account."""
    people: dict[int, set[tuple[str, str]]] = defaultdict(set)
    with closing(sqlite3.connect(server.data / "ledger.db")) as ledger:
        asked = "SELECT user_id, kind, value FROM identity WHERE account_id = ?"
        for user, kind, value in ledger.execute(asked, [caller.account_id]):
            people[user].add((kind, value))
    return list(people.values())


def stored(server: Server, caller: Caller, identity: str) -> dict[str, Any]:
    """The profile of the person with an identity."""
    with closing(sqlite3.connect(server.data / "ledger.db")) as ledger:
        asked = (
            "SELECT profile FROM user JOIN identity ON user.account_id = identity.account_id AND user.id = user_id "
            "WHERE user.account_id = ? AND value = ?"
        )
        [(text,)] = ledger.execute(asked, [caller.account_id, identity]).fetchall()
    found: dict[str, Any] = json.loads(text)
    return found


def profile(**more: Any) -> dict[str, Any]:
    return {"type": "profile", "identity": "p"} | more


def event(**more: Any) -> dict[str, Any]:
    return {"type": "event", "identity": "p", "evtName": "Order Seen"} | more


def browser(**keys: Any) -> dict[str, Any]:
    return {"type": "token", "objectId": "web", "tokenData": {"id": BROWSER, "type": "chrome", "keys": keys}}


TRAITS = {
    "Email": "ada@example.com",
    "Phone": "92374162212",
    "Gender": "F",
    "DOB": "1614775793",
    "Customer Type": "Prime",
    "graduate": True,
    "custom_tags": '["one","two"]',
    "address": '{"city":"Graz","street":""}',
}
ITEMS = [{"sku": "G-32", "price": 14, "quantity": 1}, {"sku": "F-32", "price": 3.45}]

# (client, what of it, record, the code it is refused with, 0 when it is taken)
ROWS: list[tuple[str, str, Any, int]] = [
    ("RudderStack", "identify", profile(profileData=TRAITS), 0),
    ("RudderStack", "identify, with a device", {"type": "profile", "objectId": "a", "profileData": TRAITS}, 0),
    ("RudderStack", "booleans it passes on", profile(profileData={"Employed": True, "Married": False}), 0),
    ("RudderStack", "a field of study (518 is recorded)", profile(profileData={"Education": "Science"}), 518),
    ("RudderStack", "an address that is none", profile(profileData={"Email": "ada@"}), 515),
    ("RudderStack", "alias", profile(profileData={"identity": "p2"}, ts=1468308340), 0),
    ("RudderStack", "page", event(evtName="Web Page Viewed: Home", evtData={"path": "/"}), 0),
    ("RudderStack", "screen without properties", event(evtName="Screen Viewed", evtData={}), 0),
    ("RudderStack", "track", event(evtData={"name": "Cube", "revenue": 4.99}, ts=1615377562), 0),
    ("RudderStack", "order", event(evtName="Charged", evtData={"Charged ID": "1", "Amount": 15, "Items": ITEMS}), 0),
    ("RudderStack", "track without a name", {"type": "event", "identity": "p", "evtData": {"name": 1234}}, 509),
    ("RudderStack", "phone", {"type": "token", "objectId": "a", "tokenData": {"id": "a:APA91x", "type": "fcm"}}, 0),
    ("RudderStack", "browser by Google's name of it", browser(p256dh=PUBLIC, auth=SECRET), 0),
    ("RudderStack", "browser without its public key", browser(auth=SECRET), 535),
    ("RudderStack", "browser with some key", browser(random="key"), 535),
    (
        "Segment",
        "identify, as it is mapped by default",
        profile(source="Segment", ts="2026-11-20T10:00:00.000Z", profileData={"Plan": "Gold"}),
        0,
    ),
    ("Segment", "identify with the fields it needs", profile(source="Segment"), 0),
    ("Segment", "a timestamp that is none", profile(source="Segment", ts="h%1uFs@uMTu"), 525),
    ("uploader", "a row of a file", profile(ts=1468308340, profileData={"Likes": {"$add": ["tea"]}}), 0),
    ("SDK", "its spelling", {"type": "profile", "profileData": {"Identity": 61026032, "Gender": "F"}}, 0),
    ("Node", "Date.now()", event(ts=1763632800123), 0),
    ("Node", "toISOString()", event(ts="2026-11-20T10:00:00.123Z"), 0),
    ("Python", "objectId None, ts as text", event(ts="1763632800", objectId=None, evtData={}), 0),
    ("Python", "isoformat() in UTC", event(ts="2026-11-20T10:00:00.123456+00:00"), 0),
    ("Python", "isoformat() without a zone", event(ts="2026-11-20T10:00:00"), 525),
    ("Python", "id of a data frame", {"type": "profile", "identity": 77.0, "profileData": {"Age": "33"}}, 0),
    ("Java", "Instant", event(ts="2026-11-20T10:00:00.123456789Z"), 0),
    ("Java", "ZonedDateTime", event(ts="2026-11-20T10:00:00+05:30[Asia/Kolkata]"), 0),
    ("Java", "nulls of empty fields", profile(objectId=None, FBID=None, ts=None, profileData=None), 0),
    ("Go", "RFC 3339 with nanoseconds", event(ts="2026-11-20T10:00:00.123456789+05:30"), 0),
    ("Go", "empty texts of empty fields", profile(objectId="", FBID="", GPID="", profileData={"Phone": ""}), 0),
    ("PHP", "empty arrays", event(evtData=[]), 0),
    ("PHP", "an empty profile", profile(profileData=[]), 0),
    ("PHP", "a list that is not empty", event(evtData=["a"]), 512),
    ("PHP", "DATE_ISO8601", event(ts="2026-11-20T10:00:00+0530"), 0),
    ("Ruby", "Time#to_s", event(ts="2026-11-20 10:00:00 +0530"), 0),
    ("n8n, Zapier", "fields that were left empty", profile(profileData={"Email": "", "Age": "", "Gender": " "}), 0),
    ("n8n, Zapier", "an address with spaces", profile(profileData={"Email": " eve@example.com\u200b "}), 0),
    ("n8n, Zapier", "words for a choice", profile(profileData={"Gender": "female", "Married": "n"}), 0),
    ("n8n, Zapier", "another spelling", {"type": "event", "Identity": "p", "evtName": "Order Seen"}, 0),
    ("n8n, Zapier", "only empty names", {"type": "event", "identity": " ", "objectId": "", "evtName": "E"}, 523),
    ("CleverTap's guide", "groups", profile(profileData={"category-unsubscribe": {"email": ["News"]}}), 0),
]


@pytest.fixture(scope="module")
def everybody(server: Server) -> Caller:
    return server.account()


@pytest.mark.parametrize(
    ("record", "code"), [pytest.param(record, code, id=f"{who}: {what}") for who, what, record, code in ROWS]
)
def test_clients(everybody: Caller, record: dict[str, Any], code: int) -> None:
    """A record of a known client gets its answer, and takes the good one beside it nowhere."""
    status, answer = everybody.post(UPLOAD, {"d": [record, profile()]})

    assert (status, [one["code"] for one in answer["unprocessed"]]) == (200, [code] if code else [])
    assert answer["processed"] == (1 if code else 2)
    assert all("record number : 1" in one["error"] for one in answer["unprocessed"])


@pytest.mark.parametrize("kind", ["identity", "Identity", "FBID", "GPID", "objectId"])
def test_an_identity_inside_the_profile_is_one(server: Server, caller: Caller, kind: str) -> None:
    """It is linked as if it stood outside: what is done by that name is theirs, and their device hears of it."""
    outside = {"FBID": "f"} if kind == "objectId" else {"objectId": "phone"}
    token = {"id": "phone:fcm-registration-token", "type": "fcm"}
    caller.upload(
        {"type": "profile", **outside, "profileData": {kind: "inner", "Name": "Ada"}},
        {"type": "token", "objectId": "inner" if kind == "objectId" else "phone", "tokenData": token},
    )
    name = {"Identity": "identity"}.get(kind, kind)
    caller.upload({"type": "event", name: "inner", "evtName": "Bought"})

    [one] = names(server, caller)
    assert one == {(name, "inner"), *outside.items()}
    if name == "identity":
        body = {"identity": "inner", "where": {"event_name": "Bought", "from": "-1d", "to": "today"}}
        _, answer = caller.post("/1/segments/explain.json", body)
        assert answer["reachable"]["android"] is True


@pytest.mark.parametrize("known", ["neither", "outer", "inner"])
def test_an_alias_is_a_second_name(server: Server, caller: Caller, known: str) -> None:
    """Two identities in one record are one person's, whichever of them is known, and both lead there."""
    if known != "neither":
        caller.upload({"type": "profile", "identity": known, "profileData": {"Name": "Ada"}})
    caller.upload({"type": "profile", "identity": "outer", "profileData": {"identity": "inner"}})
    caller.upload(*({"type": "event", "identity": name, "evtName": "Bought"} for name in ("outer", "inner")))

    assert names(server, caller) == [{("identity", "outer"), ("identity", "inner")}]


def test_an_alias_makes_one_of_no_two(server: Server, caller: Caller) -> None:
    """Two people who each have an identity stay two, and what the record says is said of the one it names."""
    caller.upload(*({"type": "profile", "identity": name} for name in ("outer", "inner")))
    caller.upload({"type": "profile", "identity": "outer", "profileData": {"identity": "inner", "City": "Graz"}})

    assert sorted(map(sorted, names(server, caller))) == [[("identity", "inner")], [("identity", "outer")]]
    assert (stored(server, caller, "outer")["City"], stored(server, caller, "inner")) == ("Graz", {})


def test_only_an_identity_is_an_alias_for_a_person(server: Server, caller: Caller) -> None:
    """An inner name that is somebody else's address or account elsewhere joins nobody to them."""
    caller.upload({"type": "profile", "identity": "ada", "FBID": "a", "profileData": {"Email": "family@example.com"}})
    caller.upload({"type": "profile", "identity": "eve", "profileData": {"identity": "family@example.com"}})
    caller.upload({"type": "profile", "identity": "kim", "FBID": "k", "profileData": {"FBID": "a"}})

    ada = [("Email", "family@example.com"), ("FBID", "a"), ("identity", "ada")]
    kim = [("FBID", "k"), ("identity", "kim")]
    assert sorted(map(sorted, names(server, caller))) == [ada, kim, [("identity", "eve")]]


def test_what_is_no_identity_is_a_property(server: Server, caller: Caller) -> None:
    """A property that has an identity's name and holds none is kept as it is."""
    caller.upload({"type": "profile", "identity": "p", "profileData": {"FBID": ["a"], "GPID": "x" * 1025}})

    assert names(server, caller) == [{("identity", "p")}]
    assert stored(server, caller, "p") == {"FBID": ["a"], "GPID": "x" * 1025}


def test_values_are_kept_in_their_documented_spelling(server: Server, caller: Caller) -> None:
    """Choices are their letters, addresses have no space around them, and an empty field changes nothing."""
    words = {"Gender": "MALE", "Employed": True, "Married": False, "Education": "college"}
    caller.upload(profile(profileData={**words, "Email": " Ada@Example.com ", "Phone": " +43 664 1234567"}))
    caller.upload(profile(profileData={"Email": "", "Phone": "", "Gender": "", "Age": "", "Note": ""}))

    letters = {"Gender": "M", "Employed": "Y", "Married": "N", "Education": "College", "Note": ""}
    assert stored(server, caller, "p") == letters | {"Email": "Ada@Example.com", "Phone": "+436641234567"}
    assert ("Email", "ada@example.com") in names(server, caller)[0]


def test_a_browser_by_its_id_is_one_at_google(server: Server, caller: Caller) -> None:
    """The id of a Chrome token is the last part of the endpoint its messages go to."""
    caller.upload(browser(p256dh=PUBLIC, auth=SECRET))

    with closing(sqlite3.connect(server.data / "ledger.db")) as ledger:
        asked = "SELECT token FROM device WHERE account_id = ?"
        [(token,)] = ledger.execute(asked, [caller.account_id]).fetchall()
    assert json.loads(token)["endpoint"] == f"https://fcm.googleapis.com/fcm/send/{BROWSER}"


NOON = 1_763_640_000  # 2025-11-20 12:00:00 UTC


@pytest.mark.parametrize(
    ("written", "at"),
    [
        *((one, NOON) for one in (NOON, NOON + 0.9, str(NOON), f" {NOON} ", f"{NOON}.25")),
        *((one, NOON) for one in (NOON * 1000, NOON * 1000 + 999, f"{NOON}123")),
        *(
            (f"2025-11-20{mid}", NOON)
            for mid in (
                *("T12:00:00Z", "T12:00:00.000Z", "T12:00:00.123456789Z", "t12:00:00z", "T12:00Z", " 12:00:00Z"),
                *("T12:00:00+00:00", "T17:30:00+05:30", "T17:30:00+0530", "T13:00:00+01", "T04:00:00-08:00"),
                *(" 12:00:00 UTC", " 12:00:00 GMT", " 17:30:00 +0530", " 17:30:00 +05:30", "T12:00:00,5Z"),
                *("T17:30:00+05:30[Asia/Kolkata]", "T12:00:00Z[Etc/UTC]", "T12:00:00Z[GMT+0]"),
            )
        ),
        ("20251120T120000Z", NOON),
        *((one, None) for one in ("2025-11-20", "2025-11-20T12:00:00", "2025-11-20 12:00:00", "12:00:00Z")),
        *((one, None) for one in ("2025-13-20T12:00:00Z", "2025-11-20T25:00:00Z", "0001-01-01T00:00:00+14:00")),
        *((one, None) for one in ("1969-12-31T12:00:00Z", "2101-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00")),
        *((one, None) for one in (0, -1, 86_399, 2**33, 2**70, 10**30, NOON * 10**6, float("inf"), float("nan"))),
        *(
            (one, None)
            for one in (True, [NOON], {"a": 1}, "yesterday", "1e9", "-5", "٢٠٢٥", "1" * 70, "Z" * 70, "[UTC]")
        ),
    ],
    ids=lambda one: str(one)[:40],
)
def test_times(written: Any, at: int | None) -> None:
    """Seconds, milliseconds, and ISO 8601 with a zone are one time; what could be hours off is none."""
    assert read_timestamp(written) == at


BOM = b"\xef\xbb\xbf"
SEND = {"to": {"Identity": ["p"]}, "content": {"title": "t", "body": "b"}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (UPLOAD, {"d": [profile()]}),
        (PUSH, SEND),
        ("/1/subscribe", {"d": [{"type": "email", "value": "a@example.com", "status": "Unsubscribe"}]}),
        ("/1/targets/list.json", {"from": 20260101, "to": 20260102}),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_marks_slashes_and_packing_change_nothing(caller: Caller, path: str, body: Any, slashes: str) -> None:
    """A byte order mark in front, a slash behind and gzip around are the same request on every route."""
    plain = json.dumps(body).encode()
    packed = {"Content-Encoding": "gzip"}
    wanted = caller.call("POST", path, plain)[:2]

    assert wanted[0] == 200
    assert caller.call("POST", path + slashes, BOM + plain)[:2] == wanted
    assert caller.call("POST", slashes + path, gzip.compress(BOM + plain), packed)[:2] == wanted


def test_a_packed_body_that_does_not_say_so(caller: Caller) -> None:
    """It is refused with the reason, not as a first byte that is wrong."""
    status, answer = caller.post(UPLOAD, gzip.compress(b'{"d":[]}'))

    assert (status, answer["code"]) == (400, 400)
    assert "Content-Encoding" in answer["error"]


@pytest.mark.parametrize("name", ["category-unsubscribe", "category-resubscribe"])
def test_an_empty_choice_of_groups(server: Server, caller: Caller, name: str) -> None:
    """It is none; one of groups is kept as it is said, and nothing is left where all were come back to."""
    caller.upload(profile(profileData={name: []}), profile(profileData={name: {}}))
    assert stored(server, caller, "p") == {}
    caller.upload(profile(profileData={name: {"email": ["News"]}}))
    left = {"category-unsubscribe": {"email": ["News"]}}
    assert stored(server, caller, "p") == (left if name in left else {})
