"""What comes in by `upload`: profiles, events, tokens; refusals in the recorded words; one user by many names."""

from __future__ import annotations

import time
from typing import Any

import pytest
from conftest import Caller, Sandbox, Server, token, wait_for

CREATE, PUSH, EMAIL, UPLOAD = "/1/targets/create.json", "/1/send/push.json", "/1/send/email.json", "/1/upload"
TODAY = 1_750_000_000  # a fixed day in the past: 15 June 2025
DAYS = {"from": 20250601, "to": 20250630}


def address(device: str, kind: str = "fcm") -> dict[str, Any]:
    """A record that gives a device an address of its own."""
    return {"type": "token", "objectId": device, "tokenData": {"type": kind, "id": token(kind, device)}}


def profile(user: str, **data: Any) -> dict[str, Any]:
    return {"type": "profile", "identity": user, "profileData": data}


def person(user: str, **data: Any) -> list[dict[str, Any]]:
    """Records of a user with a device and something done, so that any `where` can find them."""
    device = f"device-of-{user}"
    return [
        profile(user, **data) | {"objectId": device},
        address(device),
        {"type": "event", "identity": user, "evtName": "Seen"},
    ]


def estimate(caller: Caller, where: dict[str, Any]) -> int:
    """How many Android devices a `where` finds."""
    body = {"name": "n", "where": where, "content": {"title": "t", "body": "b"}, "devices": ["android"], "when": "now"}
    status, answer = caller.post(CREATE, body | {"estimate_only": True})
    assert status == 200, answer
    return int(answer["estimates"]["android"])


def found(caller: Caller, name: str, value: Any = None, operator: str = "equals") -> int:
    """How many Android devices a profile field finds."""
    field = {"name": name, "operator": operator} | ({} if value is None else {"value": value})
    return estimate(caller, {"common_profile_properties": {"profile_fields": [field]}})


def did(caller: Caller, event: str, *properties: dict[str, Any]) -> int:
    """How many Android devices belong to people who did something in June 2025."""
    return estimate(caller, {"event_name": event, **DAYS, "event_properties": list(properties)})


def upload(caller: Caller, *records: Any, path: str = UPLOAD) -> dict[str, Any]:
    """The answer to records of which some may be refused: always HTTP 200."""
    status, answer, headers = caller.call("POST", path, {"d": list(records)})
    assert (status, headers["content-type"]) == (200, "application/json;charset=utf-8")
    assert set(answer) == {"status", "processed", "unprocessed"}
    value: dict[str, Any] = answer
    return value


GOOD = profile("good", Name="Good")
RECORDED: list[tuple[int, str, dict[str, Any], str]] = [
    (
        509,
        "event without a name",
        {"type": "event", "identity": "x", "evtData": {}},
        "Event Name is incorrect. ErrorCode: 509 - Event name is mandatory. Skipped record number : {}",
    ),
    (
        509,
        "event with an empty name",
        {"type": "event", "identity": "x", "evtName": "", "evtData": {}},
        "Event Name is incorrect. ErrorCode: 509 - Event name is mandatory. Skipped record number : {}",
    ),
    *(
        (
            513,
            name,
            {"type": "event", "identity": "x", "evtName": name, "evtData": {}},
            "Event Name is incorrect. ErrorCode: 513 - Trying to raise a restricted system event. "
            "Skipped record number : {}",
        )
        for name in (
            *("Stayed", "Notification Clicked", "Notification Viewed", "UTM Visited", "Notification Sent"),
            *("App Launched", "App Uninstalled", "Geocluster Entered", "Geocluster Exited"),
            *("wzrk_fetch", "wzrk_d", "SCCampaignOptOut"),
        )
    ),
    *(
        (
            515,
            f"Email {email}",
            profile("x", Email=email),
            "Profile data is incorrect. Email is not valid.Skipped record number : {}",
        )
        for email in ("1234", "$$$$$")
    ),
    *(
        (
            516,
            f"Phone {phone}",
            profile("x", Phone=phone),
            "Profile data is incorrect. Phone number is not valid.Skipped record number : {}",
        )
        for phone in ("223", "+44+441234")
    ),
    (
        517,
        "Employed",
        profile("x", Employed="Perhaps"),
        "Profile data is incorrect. Employed needs to be Y/N.Skipped record number : {}",
    ),
    (
        518,
        "Education",
        profile("x", Education="Life"),
        "Profile data is incorrect. Education needs to be School/College/Graduate..Skipped record number : {}",
    ),
    (
        519,
        "Married",
        profile("x", Married="Soon"),
        "Profile data is incorrect. Married needs to be Y/N.Skipped record number : {}",
    ),
    (520, "Age", profile("x", Age="old"), "Profile data is incorrect. Age is invalid.Skipped record number : {}"),
    (
        525,
        "ts 0",
        profile("x", Name="X") | {"ts": 0},
        "Timestamp should be present in the Unix Epoch format. Skipped record number : {}",
    ),
]


@pytest.mark.parametrize(
    ("code", "record", "error"),
    [pytest.param(code, record, error, id=f"{code} {name}") for code, name, record, error in RECORDED],
)
def test_recorded_texts(caller: Caller, code: int, record: dict[str, Any], error: str) -> None:
    """A record with a recorded mistake is refused in the recorded words, with its number and itself."""
    alone, after = upload(caller, record), upload(caller, GOOD, GOOD, record)

    assert alone == {
        "status": "fail",
        "processed": 0,
        "unprocessed": [{"status": "fail", "code": code, "error": error.format(1), "record": record}],
    }
    assert after == {
        "status": "partial",
        "processed": 2,
        "unprocessed": [{"status": "fail", "code": code, "error": error.format(3), "record": record}],
    }


EVENT = {"type": "event", "identity": "x", "evtName": "Bought"}
NO_TOKEN: dict[str, Any] = {"type": "token", "objectId": "device"}
# The text of these was never recorded; where two codes mean the same, either is right.
PUBLISHED: list[tuple[set[int], str, Any]] = [
    ({512}, "evtData as text", EVENT | {"evtData": "Price"}),
    ({512}, "evtData as list", EVENT | {"evtData": [1]}),
    ({509, 512}, "evtName as number", EVENT | {"evtName": 7}),
    ({514}, "Gender", profile("x", Gender="X")),
    ({522}, "300 event properties", EVENT | {"evtData": {f"p{number}": number for number in range(300)}}),
    ({523}, "profile of nobody", {"type": "profile", "profileData": {"Name": "X"}}),
    ({523}, "event of nobody", {"type": "event", "evtName": "Bought", "evtData": {}}),
    ({523}, "event of an empty name", EVENT | {"identity": ""}),
    ({524}, "unknown type", {"type": "telegram", "identity": "x"}),
    ({524}, "no type", {"identity": "x", "profileData": {"Name": "X"}}),
    ({525}, "ts as a word", EVENT | {"ts": "yesterday"}),
    ({525}, "negative ts", EVENT | {"ts": -1}),
    ({525}, "ts true", EVENT | {"ts": True}),
    ({525}, "ts 2^70", EVENT | {"ts": 2**70}),
    ({525}, "ts list", EVENT | {"ts": [TODAY]}),
    ({515}, "Email as number", profile("x", Email=7)),
    ({516}, "Phone as text", profile("x", Phone="call me")),
    ({517}, "Employed as number", profile("x", Employed=1)),
    ({520}, "negative Age", profile("x", Age=-1)),
    ({523, 526}, "objectId as list", {"type": "profile", "objectId": [7], "profileData": {"Name": "X"}}),
    ({523, 526, 530}, "token of nobody", {"type": "token", "tokenData": {"type": "fcm", "id": "a:b"}}),
    ({523, 526, 530}, "token of a list", NO_TOKEN | {"objectId": [7], "tokenData": {"type": "fcm", "id": "a:b"}}),
    ({531, 535}, "no tokenData", NO_TOKEN),
    ({531, 535}, "tokenData as text", NO_TOKEN | {"tokenData": "abc"}),
    ({532}, "token without id", NO_TOKEN | {"tokenData": {"type": "fcm"}}),
    ({533}, "token without type", NO_TOKEN | {"tokenData": {"id": "abc:def"}}),
    ({531, 534, 535}, "token of an unknown type", NO_TOKEN | {"tokenData": {"type": "pigeon", "id": "abc"}}),
    ({531, 535}, "token id as number", NO_TOKEN | {"tokenData": {"type": "fcm", "id": 7}}),
]


@pytest.mark.parametrize(
    ("codes", "record"), [pytest.param(codes, record, id=name) for codes, name, record in PUBLISHED]
)
def test_published_codes(caller: Caller, codes: set[int], record: dict[str, Any]) -> None:
    """A record with another published mistake is refused with its code and itself; the others are taken."""
    answer = upload(caller, *person("before"), record, *person("after"))

    assert (answer["status"], answer["processed"], len(answer["unprocessed"])) == ("partial", 6, 1)
    refused = answer["unprocessed"][0]
    assert set(refused) == {"status", "code", "error", "record"}
    assert refused["status"] == "fail"
    assert refused["code"] in codes
    assert "record number : 4" in refused["error"]
    assert refused["record"] == record
    assert estimate(caller, {}) == 2


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (profile("x", Email="1234", Phone="223") | {"ts": 0}, 525),
        (profile("x", Phone="223", Email="1234", Employed="?"), 515),
        (profile("x", Employed="?", Phone="223"), 516),
        (profile("x", Education="?", Employed="?"), 517),
        (profile("x", Married="?", Education="?"), 518),
        (profile("x", Age="?", Married="?"), 519),
    ],
    ids=lambda one: str(one) if isinstance(one, int) else "",
)
def test_first_mistake_counts(caller: Caller, record: dict[str, Any], code: int) -> None:
    """Of several mistakes in a record the first in the recorded order is reported."""
    assert [one["code"] for one in upload(caller, record)["unprocessed"]] == [code]


@pytest.mark.parametrize(
    "record",
    [
        profile("x", Phone="+35922333232"),
        profile("x", Age="18"),
        profile("x", Age=18),
        profile("x", Gender="F", Employed="N", Education="College", Married="N", DOB="$D_1487576752"),
        profile("x", **{"MSG-sms": False, "MSG-email": True, "MSG-push": True}),
        profile("x", **{"test.dot7": "a dot", "Größe": "L 😀"}),
        profile("x", Name="X") | {"ts": str(TODAY)},
        profile("x", Name="X") | {"source": "Segment", "more": {"of": ["it"]}},
        EVENT,
        EVENT | {"evtData": {"Items": [{"Category": "books", "Quantity": 1}], "Delivery By": "$D_1468322268"}},
        *(address("device", kind) for kind in ("fcm", "gcm", "apns")),
    ],
    ids=str,
)
def test_good_records(caller: Caller, record: dict[str, Any]) -> None:
    """What the documents show as good is taken."""
    assert upload(caller, record) == {"status": "success", "processed": 1, "unprocessed": []}


def test_documented_request(caller: Caller) -> None:
    """The documented request with profiles, events and tokens of people by several identifiers is taken whole."""
    purchase = {"Amount": 300, "Currency": "USD", "Delivery By": "$D_1468322268", "Items": [{"Quantity": 1}]}
    view = {"Product name": "Casio Chronograph Watch", "Price": 59.99, "Currency": "USD"}
    jack = {"Name": "Jack Montana", "Email": "jack@gmail.com", "Phone": "+14155551234", "Gender": "M"}
    records = [
        {
            "identity": "1189549",
            "type": "profile",
            "ts": 1468308340,
            "profileData": jack | {"Customer Type": "Platinum"},
        },
        {"FBID": "34322423", "ts": 1468308340, "type": "event", "evtName": "Product viewed", "evtData": view},
        {"identity": "jack@gmail.com", "ts": 1468208340, "type": "event", "evtName": "Charged", "evtData": purchase},
        address("__gc4grg4053"),
    ]

    assert upload(caller, *records) == {"status": "success", "processed": 4, "unprocessed": []}


def test_a_thousand_records(caller: Caller) -> None:
    """A thousand records of three kinds, some of them refused, are counted each under its own number."""
    records = [record for number in range(333) for record in person(f"user-{number}")] + [EVENT | {"ts": 0}]
    wrong = (1, 499, 998)
    for number in wrong:
        records[number - 1] = profile("x", Email="1234")

    answer = upload(caller, *records)

    assert (answer["status"], answer["processed"]) == ("partial", 996)
    bad = "Profile data is incorrect. Email is not valid.Skipped record number : {}"
    late = "Timestamp should be present in the Unix Epoch format. Skipped record number : 1000"
    assert [one["error"] for one in answer["unprocessed"]] == [*map(bad.format, wrong), late]


def test_dry_run(caller: Caller) -> None:
    """`dryRun=1` gives the same answer and stores nothing; `dryRun=0` stores."""
    records = [*person("user", City="Graz"), EVENT | {"ts": 0}]

    dry = upload(caller, *records, path=f"{UPLOAD}?dryRun=1")

    assert (dry["status"], dry["processed"], len(dry["unprocessed"])) == ("partial", 3, 1)
    assert estimate(caller, {}) == 0
    assert upload(caller, *records, path=f"{UPLOAD}?dryRun=0") == dry
    assert estimate(caller, {}) == 1
    upload(caller, profile("user", City="Linz"), path=f"{UPLOAD}?dryRun=1")
    assert (found(caller, "City", "Graz"), found(caller, "City", "Linz")) == (1, 0)


def test_list_operations(caller: Caller) -> None:
    """`$set`, `$add` and `$remove` on a list are seen by a `where` at once, one after the other."""
    caller.upload(*person("user"), *person("other", Likes="jazz"))

    def likes() -> set[str]:
        who = {"name": "Who", "value": "user"}
        wheres = {taste: [who, {"name": "Likes", "value": taste}] for taste in ("rock", "folk", "soul", "jazz")}
        found = {
            taste: estimate(caller, {"common_profile_properties": {"profile_fields": wheres[taste]}})
            for taste in wheres
        }
        return {taste for taste, count in found.items() if count}

    seen = [likes()]
    for operation in (
        {"Who": "user", "Likes": {"$set": ["rock", "folk"]}},
        {"Likes": {"$add": ["soul"]}},
        {"Likes": {"$add": ["soul", "rock"]}},
        {"Likes": {"$remove": ["rock", "jazz"]}},
        {"Likes": {"$set": ["jazz"]}},
        {"Likes": {"$delete": 1}},
    ):
        caller.upload(profile("user", **operation))
        seen.append(likes())

    expected: list[set[str]] = [
        set(),
        {"rock", "folk"},
        {"rock", "folk", "soul"},
        {"rock", "folk", "soul"},
        {"folk", "soul"},
        {"jazz"},
        set(),
    ]
    assert seen == expected
    assert found(caller, "Likes", "jazz") == 1  # the other user's


def test_number_operations(caller: Caller) -> None:
    """`$incr` and `$decr` count from what is there, and from nothing; `$delete` forgets."""
    caller.upload(*person("user", Points=10))
    for operation in (
        {"Points": {"$incr": 5}},
        {"Points": {"$decr": 7}},
        {"Points": {"$incr": 1.5}},
        {"Fresh": {"$incr": 3}},
    ):
        caller.upload(profile("user", **operation))

    assert found(caller, "Points", 9.5) == 1
    assert found(caller, "Fresh", 3) == 1
    assert found(caller, "Points", 9.5, "greater_than") == 0
    caller.upload(profile("user", Points={"$delete": 1}))
    assert found(caller, "Points", None, "exists") == 0
    assert found(caller, "Fresh", None, "exists") == 1


def test_operations_in_one_request(caller: Caller) -> None:
    """Several records of one user in one request count one after the other."""
    caller.upload(
        *person("user", Points=1),
        profile("user", Points={"$incr": 1}),
        profile("user", Points={"$incr": 1}, City="Graz"),
        profile("user", City="Linz"),
    )

    assert [found(caller, "Points", 3), found(caller, "City", "Graz"), found(caller, "City", "Linz")] == [1, 0, 1]


@pytest.mark.parametrize(
    ("operator", "value", "count"),
    [
        ("greater_than", 1_487_576_751, 1),
        ("greater_than", 1_487_576_752, 0),
        ("less_than", 1_487_576_753, 1),
        ("less_than_equals", 1_487_576_752, 1),
        ("greater_than", "$D_1487576751", 1),
        ("less_than", "$D_1487576752", 0),
        ("equals", "$D_1487576752", 1),
    ],
)
def test_dates(caller: Caller, operator: str, value: object, count: int) -> None:
    """A `$D_` date is compared as the number of its seconds."""
    caller.upload(*person("user", Joined="$D_1487576752"), *person("other"))

    assert found(caller, "Joined", value, operator) == count


NAMES: dict[str, dict[str, str]] = {
    "identity": {"identity": "jack"},
    "FBID": {"FBID": "34322423"},
    "GPID": {"GPID": "1928288389299292"},
    "objectId": {"objectId": "device-of-jack"},
    "Email": {"identity": "jack@example.com"},
    "Phone": {"identity": "+14155551234"},
}


def jack() -> list[dict[str, Any]]:
    """One user with a name of every kind."""
    names = NAMES["identity"] | NAMES["FBID"] | NAMES["GPID"] | NAMES["objectId"]
    data = {"Name": "Jack", "Email": "jack@example.com", "Phone": "+14155551234"}
    return [{"type": "profile", **names, "profileData": data}, address("device-of-jack")]


def test_names_of_one_user(caller: Caller) -> None:
    """Events and fields given under each of a user's names all belong to the one user."""
    caller.upload(*jack(), *person("other"))
    for kind, name in NAMES.items():
        caller.upload(
            {"type": "event", **name, "evtName": f"Event by {kind}", "ts": TODAY},
            {"type": "profile", **name, "profileData": {f"Field by {kind}": kind}},
        )

    assert {kind: did(caller, f"Event by {kind}") for kind in NAMES} == dict.fromkeys(NAMES, 1)
    caller.upload({"type": "event", **NAMES["identity"], "evtName": "Seen"})
    fields = [{"name": f"Field by {kind}", "value": kind} for kind in NAMES]
    assert estimate(caller, {"common_profile_properties": {"profile_fields": fields}}) == 1
    assert estimate(caller, {}) == 2


def settled(caller: Caller, tag: str) -> dict[str, int]:
    """A tag group's numbers, once they add up."""

    def ask() -> dict[str, int] | None:
        group: dict[str, int] | None = caller.get("/1/tag_groups.json")[1]["tag_groups"].get(tag)
        if group is None or not group["audience"]:
            return None
        parts = group["sent"] + group["unknown"] + group["failed"] + group["suppressed"]
        return group if parts == group["audience"] else None

    return wait_for(ask)


def test_sends_by_each_name(sending: Caller, sandbox: Sandbox) -> None:
    """A push by any of a user's names reaches the user's one device."""
    sending.upload(*jack(), *person("other"))
    by = {
        "FBID": "34322423",
        "GPID": "1928288389299292",
        "Email": "jack@example.com",
        "Identity": "jack",
        "objectId": "device-of-jack",
    }
    for kind, name in by.items():
        content = {"title": kind, "body": "b"}
        assert sending.post(PUSH, {"to": {kind: [name]}, "tag_group": kind, "content": content})[0] == 200

    assert {kind: settled(sending, kind)["sent"] for kind in by} == dict.fromkeys(by, 1)
    messages = sandbox.messages("fcm")
    assert {message["address"] for message in messages} == {token("fcm", "device-of-jack")}
    assert sorted(message["body"]["message"]["data"]["nt"] for message in messages) == sorted(by)


def test_known_device_becomes_a_user(caller: Caller) -> None:
    """What a device did before its user was known stays the user's."""
    caller.upload(address("phone"), {"type": "event", "objectId": "phone", "evtName": "Looked", "ts": TODAY})
    caller.upload({"type": "profile", "objectId": "phone", "identity": "jill", "profileData": {"City": "Graz"}})
    caller.upload({"type": "event", "identity": "jill", "evtName": "Bought", "ts": TODAY})

    assert [did(caller, "Looked"), did(caller, "Bought"), estimate(caller, {})] == [1, 1, 1]


def test_unknown_identity_is_created(sending: Caller, sandbox: Sandbox) -> None:
    """An event of somebody never heard of makes a user, who can be given an address later."""
    sending.upload({"type": "event", "identity": "new", "evtName": "Bought", "ts": TODAY})
    sending.upload({"type": "profile", "identity": "new", "profileData": {"Email": "new@example.com"}})

    body = {"to": {"Identity": ["new"]}, "tag_group": "tag", "content": {"subject": "s", "body": "b"}}
    assert sending.post(EMAIL, body)[0] == 200

    assert settled(sending, "tag")["sent"] == 1
    assert [message["address"] for message in sandbox.messages("smtp")] == ["new@example.com"]


def test_token_moves(sending: Caller, sandbox: Sandbox) -> None:
    """An address registered again by another device belongs to that one alone."""
    shared = {"type": "fcm", "id": token("fcm", "shared")}
    for name in ("one", "two"):
        sending.upload(
            {"type": "profile", "identity": name, "objectId": f"{name}-device", "profileData": {"Name": name}},
            {"type": "token", "objectId": f"{name}-device", "tokenData": shared},
        )

    assert estimate(sending, {}) == 1
    content = {"title": "{{ Profile.Name }}", "body": "b"}
    body = {"to": {"Identity": ["one", "two"]}, "tag_group": "tag", "content": content}
    assert sending.post(PUSH, body)[0] == 200
    assert settled(sending, "tag")["sent"] == 1
    assert [one["body"]["message"]["data"]["nt"] for one in sandbox.messages("fcm")] == ["two"]


def test_token_is_replaced(sending: Caller, sandbox: Sandbox) -> None:
    """A device with a new address of the same kind is reached at the new one only."""
    sending.upload(*person("user"))
    new = {"type": "fcm", "id": token("fcm", "new")}
    sending.upload({"type": "token", "objectId": "device-of-user", "tokenData": new})

    sending.result(sending.create())

    assert [message["address"] for message in sandbox.messages("fcm")] == [token("fcm", "new")]


def test_event_without_time_is_now(caller: Caller) -> None:
    """An event without `ts` happened when it came in, and one with a time as text at that time."""
    caller.upload(*person("user"), {"type": "event", "identity": "user", "evtName": "Past", "ts": str(TODAY)})
    year = time.gmtime().tm_year
    within = {"from": (year - 1) * 10000 + 1231, "to": (year + 1) * 10000 + 101}

    assert estimate(caller, {"event_name": "Seen", **within}) == 1
    assert [did(caller, "Seen"), did(caller, "Past")] == [0, 1]


def test_event_properties(caller: Caller) -> None:
    """Properties of events, texts, numbers, booleans and dates, are what a `where` compares with."""
    data = {"Product": "Watch", "Price": 59.99, "Gift": True, "By": "$D_1468322268", "größe": "ß😀"}
    caller.upload(*person("user"), EVENT | {"identity": "user", "evtData": data, "ts": TODAY})

    given: list[dict[str, Any]] = [
        {"name": "Product", "value": "Watch"},
        {"name": "Price", "value": 59.99},
        {"name": "Gift", "value": "True"},
        {"name": "By", "operator": "less_than", "value": 1468322269},
        {"name": "größe", "operator": "contains", "value": "😀"},
    ]
    assert [did(caller, "Bought", one) for one in given] == [1, 1, 1, 1, 1]
    assert did(caller, "Bought", *given) == 1
    assert did(caller, "Bought", *given[:-1], {"name": "größe", "value": "L"}) == 0


def test_accounts_are_apart(server: Server, caller: Caller) -> None:
    """What one account uploads no other one sees, not even under the same names."""
    other = server.account()

    caller.upload(*person("user", City="Graz"))
    other.upload(*person("user", City="Linz"), *person("more", City="Linz"))

    assert [estimate(caller, {}), found(caller, "City", "Graz"), found(caller, "City", "Linz")] == [1, 1, 0]
    assert [estimate(other, {}), found(other, "City", "Graz"), found(other, "City", "Linz")] == [2, 0, 2]


@pytest.mark.parametrize(
    "record",
    [
        {"type": "event", "identity": "u", "evtName": "E", "ts": "9" * 5000},
        {"type": "event", "identity": "u", "evtName": "E", "ts": 1},
        {"type": "event", "identity": "u", "evtName": "E", "evtData": {"n": 10**400}},
        {"type": "profile", "identity": "u", "profileData": {"Age": "9" * 5000}},
        {"type": "profile", "identity": "u", "profileData": {"n": 2**63}},
        {"type": "profile", "identity": "u", "profileData": {"MSG-push": {"$set": False}}},
        {"type": "profile", "identity": "u", "profileData": {"Email": {"$add": ["a@example.com"]}}},
        {"type": "token", "objectId": "o", "tokenData": {"type": [], "id": "t"}},
    ],
    ids=["digits", "before 1970", "integer", "age", "64 bits", "consent list", "address list", "token type"],
)
def test_odd_records_are_skipped_alone(caller: Caller, record: dict[str, Any]) -> None:
    """A record with a value no store can hold is skipped with its code; the one beside it is taken."""
    good = {"type": "profile", "identity": "good", "profileData": {"Name": "Good"}}
    status, answer = caller.post("/1/upload", {"d": [record, good]})
    assert (status, answer["status"], answer["processed"]) == (200, "partial", 1)
    assert answer["unprocessed"][0]["code"] in range(509, 536)


def test_an_address_follows_its_owner(sending: Caller, sandbox: Sandbox) -> None:
    """Who gives up an address gets no more mail for it, and who takes it up does."""

    def profile(identity: str, email: str) -> dict[str, Any]:
        return {"type": "profile", "identity": identity, "profileData": {"Email": email}}

    sending.upload(profile("u1", "shared@example.com"))
    sending.upload(profile("u1", "own@example.com"))
    sending.upload(profile("u2", "shared@example.com"))
    content = {"subject": "s", "body": "b"}
    sending.post("/1/send/email.json", {"to": {"Email": ["shared@example.com"]}, "content": content})
    wait_for(lambda: sandbox.counts()["smtp"]["accepted"] == 1)
    assert [message["address"] for message in sandbox.messages("smtp")] == ["shared@example.com"]
    # The vendor has it a moment before it is settled here.
    sent = wait_for(lambda: sending.get("/1/tag_groups.json")[1]["tag_groups"]["Not Tagged"]["sent"] or None)
    assert sent == 1
