"""Broken requests: each is a 4xx with the place and the reason, stores nothing, and leaves the server answering."""

from __future__ import annotations

import http.client
import re
import select
import socket
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import msgspec
import pytest
from conftest import ROOMY, Caller, Server, wait_for

CREATE, STOP, RESULT, LIST = (f"/1/targets/{name}.json" for name in ("create", "stop", "result", "list"))
PUSH, EMAIL, UPLOAD, TAGS = "/1/send/push.json", "/1/send/email.json", "/1/upload", "/1/tag_groups.json"
JSON = "application/json;charset=utf-8"
BODY_LIMIT = 5 * 1024 * 1024
DEVICES = ["android", "ios", "windows"]
# Every refusal says where, or what about the whole.
PLACE = r"byte \d+|at `?\$|body|truncated|nested deeper|UTF-8|campaign id"

GOOD: dict[str, dict[str, Any]] = {
    CREATE: {
        "name": "n",
        "where": {},
        "content": {"title": "t", "body": "b", "platform_specific": {"android": {"Key": "v"}}},
        "devices": DEVICES,
        "when": "now",
    },
    STOP: {"id": 1},
    RESULT: {"id": 1},
    LIST: {"from": 20260101, "to": 20260102},
    PUSH: {"to": {"Identity": ["somebody"]}, "tag_group": "tag", "content": {"title": "t", "body": "b"}},
    EMAIL: {"to": {"Identity": ["somebody"]}, "tag_group": "tag", "content": {"subject": "s", "body": "b"}},
    UPLOAD: {
        "d": [
            {"type": "token", "objectId": "device", "tokenData": {"type": "fcm", "id": "one:fcm-registration-token"}},
            {"type": "event", "objectId": "device", "evtName": "Bought", "evtData": {"Price": 1}},
            {"type": "profile", "objectId": "device", "profileData": {"Email": "a@example.com"}},
        ]
    },
}
PATHS = list(GOOD)
SENDS = [PUSH, EMAIL]


def name_of(path: object) -> str | None:
    """An endpoint's short name for a test's id."""
    return path.rsplit("/", 1)[-1].removesuffix(".json") if isinstance(path, str) and path.startswith("/1/") else None


def with_value(path: str, place: str, value: object) -> dict[str, Any]:
    """The good request with the value at a place such as `content.title` or `d.0.objectId`."""
    body: Any = msgspec.json.decode(msgspec.json.encode(GOOD[path]))
    *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    holder = body
    for part in way:
        holder = holder[part] if isinstance(part, int) else holder.setdefault(part, {})
    holder[last] = value
    whole: dict[str, Any] = body
    return whole


def raw_value(path: str, place: str, text: bytes) -> bytes:
    """The good request with raw JSON text at a place."""
    return msgspec.json.encode(with_value(path, place, "@raw@")).replace(b'"@raw@"', text)


def nested(levels: int, inner: bytes = b"1") -> bytes:
    return b'{"a":' * levels + inner + b"}" * levels


def nothing_queued(caller: Caller) -> None:
    """The server answers, and the account has no campaign and no send."""
    status, listed = caller.post(LIST, {"from": 20000101, "to": 20991231})
    assert (status, listed) == (200, {"status": "success", "targets": []})
    assert caller.get(TAGS) == (200, {"status": "success", "tag_groups": {}, "total": {}})


def nothing_stored(caller: Caller) -> None:
    """The same, and it has no device and no address."""
    nothing_queued(caller)
    status, value = caller.post(CREATE, GOOD[CREATE] | {"estimate_only": True})
    assert (status, value["estimates"]) == (200, dict.fromkeys(DEVICES, 0))
    email = {"target_mode": "email", "content": {"subject": "s", "body": "b"}, "estimate_only": True}
    status, value = caller.post(CREATE, GOOD[CREATE] | email)
    assert (status, value["estimates"]) == (200, {"web": 0})


@pytest.fixture(scope="module")
def quiet(server: Server) -> Iterator[Caller]:
    """One account for everything that is refused whole; when all of it was tried it has neither device nor address."""
    caller = server.account("Europe/Berlin")
    yield caller
    nothing_stored(caller)


def check_shape(status: int, value: Any, headers: Any) -> None:
    """A 4xx in the documented shape."""
    assert 400 <= status < 500, value
    assert headers["content-type"] == JSON
    assert set(value) == {"status", "error", "code"}
    assert value["status"] == "fail"
    assert isinstance(value["error"], str)
    assert value["error"]
    assert type(value["code"]) is int


def refusal(caller: Caller, path: str, body: Any, names: str) -> dict[str, Any]:
    """The answer to what must be refused in a sentence with `names` (a pattern)."""
    status, value, headers = caller.call("POST", path, body)
    check_shape(status, value, headers)
    assert re.search(names, value["error"]), (path, value)
    assert len(value["error"]) < 2000
    answer: dict[str, Any] = value
    return answer


def refused(caller: Caller, path: str, body: Any, names: str) -> dict[str, Any]:
    """The same, and nothing came of it."""
    answer = refusal(caller, path, body, names)
    nothing_queued(caller)
    return answer


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"   ", id="spaces"),
        pytest.param(b"{", id="open"),
        pytest.param(b"nonsense", id="word"),
        pytest.param(b"<xml/>", id="xml"),
        pytest.param(b"name=n&when=now", id="form"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"true", id="true"),
        pytest.param(b"7", id="number"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"NaN", id="NaN"),
        pytest.param(b"\xff\xfe{\x00}\x00", id="UTF-16"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="100,000 arrays"),
        pytest.param(nested(100_000), id="100,000 objects"),
        pytest.param(nested(100_000)[:400_000], id="never closed"),
    ],
)
def test_body_is_no_object(quiet: Caller, body: bytes) -> None:
    """A body that is no JSON object is refused by every endpoint."""
    for path in PATHS:
        value = refusal(quiet, path, body, PLACE)
        if path in SENDS:
            assert (value["code"], value["error"][:20]) == (78, "Invalid JSON payload")
    nothing_queued(quiet)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda good: good[:-1], id="cut"),
        pytest.param(lambda good: good + b"}", id="one brace more"),
        pytest.param(lambda good: good[:-1] + b",}", id="comma at the end"),
        pytest.param(lambda good: good.replace(b'"', b"'"), id="single quotes"),
        pytest.param(lambda good: good[:-1] + b',"more":NaN}', id="NaN"),
        pytest.param(lambda good: good[:-1] + b',"more":Infinity}', id="Infinity"),
        pytest.param(lambda good: good[:-1] + b',"more":"\xff"}', id="invalid UTF-8"),
        pytest.param(lambda good: good[:-1] + b',"more":"\xed\xa0\x80"}', id="surrogate in UTF-8"),
        pytest.param(lambda good: good[:-1] + b',"more":"\\ud800"}', id="lone surrogate"),
        pytest.param(lambda good: good[:-1] + b',"more":"\\udc00\\ud800"}', id="surrogates turned round"),
        pytest.param(lambda good: good[:-1] + b',"\\ud800":1}', id="lone surrogate in a key"),
        pytest.param(lambda good: good[:-1] + b',"more":"a\nb"}', id="line break in a text"),
    ],
)
def test_broken_json(quiet: Caller, broken: Callable[[bytes], bytes]) -> None:
    """A request that is almost JSON is refused as malformed by every endpoint."""
    for path in PATHS:
        value = refusal(quiet, path, broken(msgspec.json.encode(GOOD[path])), PLACE)
        if path in SENDS:
            assert (value["code"], value["error"][:20]) == (78, "Invalid JSON payload")
        else:
            assert (value["code"], value["error"][:17]) == (400, "Malformed request")
    nothing_queued(quiet)


# For each endpoint and place: values of types that do not belong there.
WRONG_TYPES: list[tuple[str, str, list[Any]]] = [
    (CREATE, "name", [7, None, True, ["n"], {"n": 1}]),
    (CREATE, "where", [7, None, True, "everybody", [], [{}]]),
    (CREATE, "content", [7, None, True, "Hello", []]),
    (CREATE, "content.title", [7, None, True, ["t"], {"t": 1}]),
    (CREATE, "content.body", [7, None, True, ["b"], {"b": 1}]),
    (CREATE, "content.platform_specific", [7, True, "android", []]),
    (CREATE, "content.platform_specific.ios", [7, True, "sound", []]),
    (CREATE, "devices", [7, None, True, "android", {"android": 1}, [7], [None], [["ios"]]]),
    (CREATE, "when", [7, None, True, ["now"], 2**70]),
    (CREATE, "estimate_only", ["yes", 7, [], {}]),
    (CREATE, "target_mode", [7, True, ["push"], "carrier pigeon"]),
    *((path, "id", [None, True, "x", 1.5, [1], {}, -1, 2**31, 2**70]) for path in (STOP, RESULT)),
    *((LIST, key, [None, True, "x", [20260101], {}, 20260230, 0, 2**70]) for key in ("from", "to")),
    *((path, "content", [7, None, True, "Hello", []]) for path in SENDS),
    *((path, "content.body", [7, True, ["b"], {"b": 1}]) for path in SENDS),
    *((path, "tag_group", [7, True, ["t"], {"t": 1}]) for path in SENDS),
    (PUSH, "content.title", [7, None, True, ["t"], {"t": 1}]),
    (EMAIL, "content.subject", [7, None, True, ["s"], {"s": 1}]),
    (UPLOAD, "d", [7, None, True, "records", {}, {"0": {}}]),
]


@pytest.mark.parametrize(
    ("path", "place", "values"), [pytest.param(*one, id=f"{name_of(one[0])} {one[1]}") for one in WRONG_TYPES]
)
def test_wrong_type(quiet: Caller, path: str, place: str, values: list[Any]) -> None:
    """A field of the wrong type is refused by its name."""
    for value in values:
        refusal(quiet, path, with_value(path, place, value), place.rsplit(".", 1)[-1])
    nothing_queued(quiet)


@pytest.mark.parametrize("path", [STOP, RESULT, LIST, UPLOAD], ids=name_of)
def test_missing_field(quiet: Caller, path: str) -> None:
    """A request without its one required field is refused by its name."""
    for field in GOOD[path]:
        refused(quiet, path, {key: value for key, value in GOOD[path].items() if key != field}, field)


@pytest.mark.parametrize(
    ("path", "place", "text"),
    [
        *((path, "id", text) for path in (STOP, RESULT) for text in (b"1e400", b"-1e400", b"1" * 400, b"1.0e1")),
        (CREATE, "where.from", b"1e400"),
        (CREATE, "content.platform_specific.ios.badge_count", b"1e400"),
        (CREATE, "content.platform_specific.android.Key", b"1e400"),
        (CREATE, "name", b"1e400"),
        (PUSH, "content.title", b"1e400"),
        (LIST, "from", b"1e400"),
        (UPLOAD, "d", b"1e400"),
    ],
    ids=lambda one: name_of(one) or str(one)[:16],
)
def test_huge_number(quiet: Caller, path: str, place: str, text: bytes) -> None:
    """A number no computer counts to is refused, wherever it stands."""
    refused(quiet, path, raw_value(path, place, text), PLACE)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (CREATE, "where"),
        (CREATE, "where.common_profile_properties"),
        (CREATE, "content"),
        (CREATE, "content.platform_specific.android.Key"),
        (CREATE, "content.platform_specific.ios"),
        (CREATE, "devices"),
        (PUSH, "to"),
        (PUSH, "to.Identity"),
        (PUSH, "content.platform_specific.ios.Key"),
        (EMAIL, "content"),
        (UPLOAD, "d"),
        (STOP, "id"),
        (RESULT, "id"),
    ],
    ids=lambda one: name_of(one) or str(one),
)
def test_deep_nesting(quiet: Caller, path: str, place: str) -> None:
    """Objects in objects without end are refused, wherever they stand."""
    for levels in (200, 20_000, 100_000):
        refusal(quiet, path, raw_value(path, place, nested(levels)), PLACE)
    nothing_queued(quiet)


@pytest.mark.parametrize("levels", [200, 20_000, 100_000])
@pytest.mark.parametrize("place", ["d.0.tokenData", "d.1.evtData", "d.2.profileData", "d.0"])
def test_deep_nesting_in_a_record(caller: Caller, place: str, levels: int) -> None:
    """A record with objects in objects without end is refused, by itself or with the whole request."""
    body = raw_value(UPLOAD, place, nested(levels))

    status, value, headers = caller.call("POST", UPLOAD, body)

    assert headers["content-type"] == JSON
    if status != 200:
        check_shape(status, value, headers)
        nothing_stored(caller)
    else:
        assert [value["status"], value["processed"], len(value["unprocessed"])] == ["partial", 2, 1]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (CREATE, "name"),
        (CREATE, "content.title"),
        (CREATE, "content.body"),
        (CREATE, "content.platform_specific.android.Key"),
        (CREATE, "where.event_name"),
        (CREATE, "when"),
        (PUSH, "content.title"),
        (PUSH, "tag_group"),
        (PUSH, "to.Identity.0"),
        (EMAIL, "to.Identity.0"),
        (EMAIL, "content.subject"),
        (EMAIL, "content.body"),
    ],
    ids=lambda one: name_of(one) or str(one),
)
def test_nul_in_a_value(quiet: Caller, path: str, place: str) -> None:
    """A NUL in a text is refused, wherever it stands."""
    refused(quiet, path, with_value(path, place, "a\0b"), PLACE)


@pytest.mark.parametrize("path", [CREATE, PUSH, EMAIL], ids=name_of)
def test_nul_in_a_key(quiet: Caller, path: str) -> None:
    """A NUL in a key is refused: an own key of a platform would carry it to a vendor."""
    refused(quiet, path, with_value(path, "content.platform_specific", {"android": {"a\0b": "v"}}), PLACE)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("d.0.objectId", "a\0b"),
        ("d.0.tokenData.id", "a\0b"),
        ("d.1.evtName", "a\0b"),
        ("d.1.evtData", {"a\0b": 1}),
        ("d.1.evtData.Price", "a\0b"),
        ("d.2.profileData", {"a\0b": 1}),
        ("d.2.profileData", {"Name": "a\0b"}),
    ],
    ids=str,
)
def test_nul_in_a_record(caller: Caller, place: str, value: object) -> None:
    """A record with a NUL in a key or a value is refused by itself."""
    status, answer, headers = caller.call("POST", UPLOAD, with_value(UPLOAD, place, value))

    assert (status, headers["content-type"]) == (200, JSON)
    assert [answer["status"], answer["processed"], len(answer["unprocessed"])] == ["partial", 2, 1]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (CREATE, "content.title"),
        (CREATE, "name"),
        (PUSH, "content.title"),
        (PUSH, "tag_group"),
        (EMAIL, "content.subject"),
    ],
    ids=lambda one: name_of(one) or str(one),
)
def test_long_text(caller: Caller, path: str, place: str) -> None:
    """A title, a name or a tag of 200 KB is refused by its place."""
    refused(caller, path, with_value(path, place, "x" * 200_000), "|".join(place.split(".")))


@pytest.mark.parametrize(
    "devices",
    [["palm"], ["android", "palm"], ["Android "], ["android", ""], ["web"]],
    ids=str,
)
def test_unknown_device(quiet: Caller, devices: list[str]) -> None:
    """A device Tocsin has no vendor for is refused, also beside known ones."""
    refused(quiet, CREATE, GOOD[CREATE] | {"devices": devices}, "devices|palm")


FROM_TO = {"event_name": "Bought", "from": 20240101, "to": 20240201}
WHERES: list[tuple[str, Any, str]] = [
    ("30 February from", FROM_TO | {"from": 20240230}, "from"),
    ("30 February to", FROM_TO | {"to": 20240230}, "to"),
    ("29 February of no leap year", FROM_TO | {"from": 20230229}, "from"),
    ("month 13", FROM_TO | {"from": 20231301}, "from"),
    ("day 0", FROM_TO | {"from": 20240100}, "from"),
    ("year 0", FROM_TO | {"from": 101}, "from"),
    ("0", FROM_TO | {"from": 0}, "from"),
    ("negative", FROM_TO | {"from": -20240101}, "from"),
    ("with hours", FROM_TO | {"from": 202401011200}, "from"),
    ("2^70", FROM_TO | {"to": 2**70}, "to"),
    ("true", FROM_TO | {"from": True}, "from"),
    ("a fraction", FROM_TO | {"from": 20240101.5}, "from"),
    ("a word", FROM_TO | {"from": "one day"}, "from"),
    ("a list", FROM_TO | {"to": [20240201]}, "to"),
    ("null", FROM_TO | {"to": None}, "to"),
    ("from after to", FROM_TO | {"from": 20240202}, "The from date cannot be after the to date"),
    ("empty event name", FROM_TO | {"event_name": ""}, "event_name"),
    ("event name 7", FROM_TO | {"event_name": 7}, "event_name"),
    ("event name true", FROM_TO | {"event_name": True}, "event_name"),
    ("event name list", FROM_TO | {"event_name": ["Bought"]}, "event_name"),
    ("event name null", FROM_TO | {"event_name": None}, "event_name"),
    ("unknown key", {"evnt_name": "Bought"}, "evnt_name"),
    ("unknown key beside known", FROM_TO | {"event_nane": "Bought"}, "event_nane"),
    ("From in capitals", {"event_name": "Bought", "From": 20240101, "to": 20240201}, "From"),
    ("did_not", FROM_TO | {"did_not": [FROM_TO]}, "did_not"),
    ("did_not alone", {"did_not": FROM_TO}, "did_not"),
    ("advanced did_not", {"advanced_query": {"did_not": [FROM_TO]}}, "did_not|advanced_query"),
    ("advanced did_not_all", {"advanced_query": {"did_not_all": [FROM_TO]}}, "did_not_all|advanced_query"),
    (
        "advanced did_not beside an event",
        FROM_TO | {"advanced_query": {"did_not": [FROM_TO]}},
        "did_not|advanced_query",
    ),
    ("advanced list", {"advanced_query": [FROM_TO]}, "advanced_query"),
    ("advanced text", {"advanced_query": "everybody"}, "advanced_query"),
    ("properties as text", FROM_TO | {"event_properties": "Price"}, "event_properties"),
    ("properties as object", FROM_TO | {"event_properties": {"Price": 1}}, "event_properties"),
    ("property as text", FROM_TO | {"event_properties": ["Price"]}, "event_properties"),
    ("property without name", FROM_TO | {"event_properties": [{"value": 1}]}, "name|event_properties"),
    ("property without value", FROM_TO | {"event_properties": [{"name": "Price"}]}, "value|event_properties"),
    ("property name 7", FROM_TO | {"event_properties": [{"name": 7, "value": 1}]}, "name|event_properties"),
    ("value object", FROM_TO | {"event_properties": [{"name": "Price", "value": {"a": 1}}]}, "value|Price"),
    (
        "unknown operator",
        FROM_TO | {"event_properties": [{"name": "Price", "operator": "resembles", "value": 1}]},
        "resembles",
    ),
    (
        "operator in capitals and SQL",
        FROM_TO | {"event_properties": [{"name": "Price", "operator": "= 1 OR 1 =", "value": 1}]},
        "operator|= 1 OR 1 =",
    ),
    ("operator 7", FROM_TO | {"event_properties": [{"name": "Price", "operator": 7, "value": 1}]}, "operator"),
    (
        "unknown key of a property",
        FROM_TO | {"event_properties": [{"name": "Price", "value": 1, "unless": 2}]},
        "unless",
    ),
    ("properties without an event", {"event_properties": [{"name": "Price", "value": 1}]}, "event"),
    ("common as list", {"common_profile_properties": []}, "common_profile_properties"),
    ("common as text", {"common_profile_properties": "all"}, "common_profile_properties"),
    ("unknown kind of common", {"common_profile_properties": {"horoscope": []}}, "horoscope"),
    ("profile_fields as object", {"common_profile_properties": {"profile_fields": {"a": 1}}}, "profile_fields"),
    ("profile_fields as text", {"common_profile_properties": {"profile_fields": "a"}}, "profile_fields"),
    (
        "unknown operator of a profile field",
        {"common_profile_properties": {"profile_fields": [{"name": "a", "operator": "resembles", "value": 1}]}},
        "resembles",
    ),
    (
        "profile field without name",
        {"common_profile_properties": {"profile_fields": [{"value": 1}]}},
        "name|profile_fields",
    ),
    (
        "profile field without value",
        {"common_profile_properties": {"profile_fields": [{"name": "a"}]}},
        "value|profile_fields",
    ),
]


@pytest.mark.parametrize(("where", "names"), [pytest.param(where, names, id=name) for name, where, names in WHERES])
def test_where_is_never_ignored(quiet: Caller, where: dict[str, Any], names: str) -> None:
    """A `where` that is not understood is refused by the name of what is wrong, never read as everybody."""
    refused(quiet, CREATE, GOOD[CREATE] | {"where": where}, names)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e400", b"1e400"), ("NaN", b"NaN"), ("2^70 digits", b"1" * 400), ("20240101.0e0", b"2.0240101e400")],
)
def test_where_from_as_text(quiet: Caller, text: str, value: bytes) -> None:
    """A `from` that is no number one can count to is refused."""
    body = msgspec.json.encode(GOOD[CREATE] | {"where": FROM_TO | {"from": "@"}}).replace(b'"@"', value)

    refused(quiet, CREATE, body, PLACE)


@pytest.mark.parametrize(
    "when",
    [
        *(
            "20270230 10:00",
            "20271301 10:00",
            "20270101 24:01",
            "20270101 10:60",
            "20270101",
            "10:00",
            "tomorrow",
            "NOW!",
        ),
        *("20270101 10:00:00", "2027-01-01 10:00", "20270101  10:00", "20270101T10:00", " ", "99999999 99:99"),
        *("٢٠٢٧٠١٠١ ١٠:٠٠", "+2027101 10:00", "x" * 10_000),
    ],
    ids=lambda when: when[:20],
)
def test_when(quiet: Caller, when: str) -> None:
    """A `when` that is neither `now` nor a time there is, is refused by its name."""
    refused(quiet, CREATE, GOOD[CREATE] | {"when": when}, "when")


@pytest.mark.parametrize("path", SENDS, ids=name_of)
@pytest.mark.parametrize(
    "sizes",
    [
        *({"Identity": 1001}, {"FBID": 1001}, {"Email": 1001}, {"Identity": 500, "Email": 501}, {"Identity": 100_000}),
        {"FBID": 201, "GPID": 200, "Email": 200, "Identity": 200, "objectId": 200},
    ],
    ids=str,
)
def test_too_many_recipients(quiet: Caller, path: str, sizes: dict[str, int]) -> None:
    """More than 1,000 recipients are refused, counted over all kinds of identifiers together."""
    to = {kind: [f"{kind}{number}@example.com" for number in range(size)] for kind, size in sizes.items()}

    refused(quiet, path, GOOD[path] | {"to": to}, "1,?000")


@pytest.mark.parametrize(
    "to",
    [
        pytest.param({}, id="empty"),
        pytest.param({"Identity": []}, id="empty list"),
        pytest.param({"Identity": [], "Email": []}, id="empty lists"),
        pytest.param([], id="list"),
        pytest.param("JohnDoe", id="text"),
        pytest.param(7, id="number"),
        pytest.param({"Identity": "JohnDoe"}, id="text for a list"),
        pytest.param({"Identity": {"0": "JohnDoe"}}, id="object for a list"),
        pytest.param({"Identity": [None]}, id="null"),
        pytest.param({"Identity": [True]}, id="boolean"),
        pytest.param({"Identity": [["JohnDoe"]]}, id="list in a list"),
        pytest.param({"Identity": [{"a": 1}]}, id="object in a list"),
        pytest.param({"Identity": [""]}, id="empty text"),
        pytest.param({"Identity": ["JohnDoe", ""]}, id="empty text beside a name"),
        pytest.param({"Telex": ["123"]}, id="unknown kind"),
        pytest.param({"Identity": ["JohnDoe"], "Telex": ["123"]}, id="unknown kind beside a known one"),
    ],
)
@pytest.mark.parametrize("path", SENDS, ids=name_of)
def test_invalid_recipients(quiet: Caller, path: str, to: object) -> None:
    """Recipients that are no lists of names are refused with code 84."""
    assert refused(quiet, path, GOOD[path] | {"to": to}, "Invalid recipients")["code"] == 84


@pytest.mark.parametrize("count", [1001, 5000])
def test_too_many_records(quiet: Caller, count: int) -> None:
    """More than 1,000 records are refused as a whole."""
    record = GOOD[UPLOAD]["d"][0]

    refused(quiet, UPLOAD, {"d": [record] * count}, "1,?000")


@pytest.mark.parametrize(
    "record", [7, None, True, "text", [], ["profile"], {}, 1.5], ids=lambda record: f"{type(record).__name__} {record}"
)
def test_record_is_no_record(caller: Caller, record: object) -> None:
    """A record that is none is refused, by itself or with the whole request, and nothing of it is stored."""
    status, value, headers = caller.call("POST", UPLOAD, {"d": [record]})

    assert headers["content-type"] == JSON
    if status != 200:
        check_shape(status, value, headers)
    else:
        assert [value["status"], value["processed"], len(value["unprocessed"])] == ["fail", 0, 1]
    nothing_stored(caller)


def padded(path: str, size: int) -> bytes:
    return msgspec.json.encode(GOOD[path]).ljust(size)


@pytest.mark.parametrize("path", [CREATE, PUSH, UPLOAD, RESULT], ids=name_of)
def test_body_over_the_limit(quiet: Caller, path: str) -> None:
    """A body one byte over 5 MiB is refused with 413."""
    status, value, headers = quiet.call("POST", path, padded(path, BODY_LIMIT + 1))

    check_shape(status, value, headers)
    assert (status, value["code"]) == (413, 413)
    nothing_queued(quiet)


def test_body_at_the_limit(caller: Caller) -> None:
    """A body of exactly 5 MiB is read."""
    assert caller.call("POST", UPLOAD, padded(UPLOAD, BODY_LIMIT))[:2] == (
        200,
        {"status": "success", "processed": 3, "unprocessed": []},
    )


def test_endless_body(quiet: Caller) -> None:
    """A body that comes in chunks and tells no length is refused with 413 once it is over the limit."""
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked", **quiet.headers}
    with closing(http.client.HTTPConnection("127.0.0.1", quiet.port, timeout=60)) as connection:
        chunks = iter([padded(UPLOAD, BODY_LIMIT), b" " * 10])
        connection.request("POST", UPLOAD, chunks, headers, encode_chunked=True)
        reply = connection.getresponse()
        value = msgspec.json.decode(reply.read())

    check_shape(reply.status, value, {"content-type": reply.getheader("Content-Type")})
    assert reply.status == 413
    nothing_queued(quiet)


SAME: list[tuple[str, dict[str, str | None], str]] = [
    ("no account id", {"X-CleverTap-Account-Id": None}, "12 digit account ID mandatory"),
    ("empty account id", {"X-CleverTap-Account-Id": ""}, "12 digit account ID mandatory|Account ID is not valid"),
    ("short account id", {"X-CleverTap-Account-Id": "ABC"}, "12 digit account ID mandatory|Account ID is not valid"),
    ("unknown account id", {"X-CleverTap-Account-Id": "ZZZ-ZZZ-ZZZZ"}, "Account ID is not valid"),
    (
        "long account id",
        {"X-CleverTap-Account-Id": "Z" * 5000},
        "12 digit account ID mandatory|Account ID is not valid",
    ),
    ("no passcode", {"X-CleverTap-Passcode": None}, "Passcode Invalid|Invalid Credentials"),
    ("empty passcode", {"X-CleverTap-Passcode": ""}, "Passcode Invalid|Invalid Credentials"),
    ("wrong passcode", {"X-CleverTap-Passcode": "ABC-DEF-GHIJ"}, "Passcode Invalid|Invalid Credentials"),
    ("long passcode", {"X-CleverTap-Passcode": "Z" * 5000}, "Passcode Invalid|Invalid Credentials"),
    ("Latin-1 passcode", {"X-CleverTap-Passcode": "\xe4\xff"}, "Passcode Invalid|Invalid Credentials"),
    ("neither", {"X-CleverTap-Account-Id": None, "X-CleverTap-Passcode": None}, "12 digit account ID mandatory"),
]


@pytest.mark.parametrize(("changed", "error"), [pytest.param(changed, error, id=name) for name, changed, error in SAME])
def test_wrong_credentials(quiet: Caller, changed: dict[str, str | None], error: str) -> None:
    """A request without good credentials is a 401 in the recorded words on every endpoint, whatever else it says."""
    headers = {key: value for key, value in (quiet.headers | changed).items() if value is not None}
    for path in PATHS:
        for body in (GOOD[path], b"{"):
            status, value, answered = Caller(quiet.port, headers).call("POST", path, body)
            check_shape(status, value, answered)
            assert (status, value["code"]) == (401, 401)
            assert re.fullmatch(error, value["error"])
    nothing_queued(quiet)


def test_passcode_of_another_account(server: Server, caller: Caller) -> None:
    """One account's passcode opens no other account."""
    other = server.account()
    mixed = other.headers | {"X-CleverTap-Account-Id": caller.account_id}

    status, value, headers = Caller(caller.port, mixed).call("POST", UPLOAD, GOOD[UPLOAD])

    check_shape(status, value, headers)
    assert (status, value["code"]) == (401, 401)
    nothing_stored(caller)
    nothing_stored(other)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_wrong_method(quiet: Caller, method: str) -> None:
    """Another method than POST is answered 405 in JSON by every endpoint."""
    for path in PATHS:
        status, value, headers = quiet.call(method, path, None if method == "GET" else GOOD[path])
        assert (status, value) == (405, {"status": "fail", "error": "Method Not Allowed", "code": 405})
        assert headers["content-type"] == JSON
    nothing_queued(quiet)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        *("/", "/1", "/1/", "/1/nope", "/1/targets/nope.json", "/1/targets/create", "/2/send/push.json", "/1/upload/x"),
        *("/1/../etc/passwd", "/1/%00", "/1/%ff", "/1/" + "x" * 5000),
    ],
    ids=lambda path: path[:24],
)
def test_unknown_path(caller: Caller, path: str, method: str) -> None:
    """A path there is not is answered 404 in JSON, never with an empty body."""
    status, value, headers = caller.call(method, path, None if method == "GET" else {})

    check_shape(status, value, headers)
    assert (status, value["code"]) == (404, 404)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"nonsense\r\n\r\n", id="no HTTP"),
        pytest.param(b"POST /1/upload HTTP/1.1\r\nContent-Length: -5\r\n\r\n", id="negative length"),
        pytest.param(b"POST /1/upload HTTP/1.1\r\nContent-Length: many\r\n\r\n", id="length of many"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", id="200 KB of header"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
    ],
)
def test_no_http(quiet: Caller, text: bytes) -> None:
    """Whoever speaks no HTTP does no harm to those who do."""
    with closing(socket.create_connection(("127.0.0.1", quiet.port), timeout=10)) as connection:
        reply = b""
        with suppress(OSError):  # a head that is too long is hung up on before its end
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            reply = connection.recv(100)

    assert not reply.startswith(b"HTTP/1.1 2")
    nothing_queued(quiet)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the throttle as it comes, and a small limit for bodies."""
    server = Server(tmp_path_factory.mktemp("strict"), {"TOCSIN_BODY_LIMIT": "2000", "TOCSIN_SENDERS": "0"})
    yield server
    assert server.stop() == 0


def test_body_limit_is_a_setting(strict: Server) -> None:
    """`TOCSIN_BODY_LIMIT` moves the limit."""
    caller = strict.account()

    assert caller.call("POST", UPLOAD, padded(UPLOAD, 2000))[0] == 200
    status, value, headers = caller.call("POST", UPLOAD, padded(UPLOAD, 2001))

    check_shape(status, value, headers)
    assert status == 413


def test_one_create_a_second(strict: Server) -> None:
    """A second `create` within a second is a 429 and creates nothing; another account and a later call are not."""
    caller, other = strict.account(), strict.account()
    body = GOOD[CREATE] | {"when": "20991231 10:00"}

    first = caller.post(CREATE, body)
    status, value, headers = caller.call("POST", CREATE, body)
    unrelated = other.post(CREATE, body)

    assert first[0] == unrelated[0] == 200
    check_shape(status, value, headers)
    assert (status, value["code"]) == (429, 429)
    later = wait_for(lambda: _id_of(caller.post(CREATE, body)), 5)
    _, listed = caller.post(LIST, {"from": 20000101, "to": 20991231})
    assert sorted(one["id"] for one in listed["targets"]) == sorted([first[1]["id"], later])


def _id_of(reply: tuple[int, Any]) -> int | None:
    status, value = reply
    return int(value["id"]) if status == 200 else None


def test_three_creates_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of 40 `create` at the same moment exactly three are served; the others are a 429 and create nothing. The ledger
    is held back until all have their place or their refusal."""
    quick = {key: value for key, value in ROOMY.items() if key != "TOCSIN_CREATE_AT_ONCE"}
    server = Server(tmp_path_factory.mktemp("at-once"), quick)
    try:
        caller = server.account()
        nothing_queued(caller)  # the passcode is known now: nobody has to read the ledger for it
        body = msgspec.json.encode(GOOD[CREATE] | {"when": "20991231 10:00"})
        headers = {"Content-Type": "application/json", **caller.headers, "Content-Length": len(body)}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"POST {CREATE} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{head}\r\n".encode() + body
        with ExitStack() as stack:
            writer = stack.enter_context(closing(sqlite3.connect(server.data / "ledger.db", isolation_level=None)))
            writer.execute("BEGIN IMMEDIATE")
            connections = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)) for _ in range(40)
            ]
            for connection in connections:
                connection.sendall(request)
            wait_for(lambda: len(select.select(connections, [], [], 0)[0]) >= 37, 20)
            assert len(select.select(connections, [], [], 0)[0]) == 37
            writer.execute("ROLLBACK")
            replies = [connection.makefile("rb").read() for connection in connections]

        statuses = Counter(reply.split(b" ", 2)[1] for reply in replies)
        assert statuses == {b"200": 3, b"429": 37}
        for reply in replies:
            head_bytes, _, content = reply.partition(b"\r\n\r\n")
            if b" 429 " in head_bytes.partition(b"\r\n")[0]:
                refusal_of = {"status": "fail", "error": "Too many concurrent requests", "code": 429}
                assert msgspec.json.decode(content) == refusal_of
        _, listed = caller.post(LIST, {"from": 20000101, "to": 20991231})
        assert len(listed["targets"]) == 3
        assert caller.post(CREATE, GOOD[CREATE])[0] == 200
    finally:
        assert server.stop() == 0
