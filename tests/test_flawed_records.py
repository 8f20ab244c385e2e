"""One wrong record takes nobody along: whatever is wrong with it and can be said of it alone, the others are stored."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import msgspec
import pytest
from conftest import THOROUGH, Caller, Server
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.api.http import read_records
from tocsin.errors import Problem
from tocsin.ingest.flaw import LEVELS, find_flaw, to_shown
from tocsin.ingest.record import Rejected, read_record

UPLOAD, SUBSCRIBE = "/1/upload", "/1/subscribe"
NOW = 1_750_000_000.0
DEEP = '{"a":' * 40 + "1" + "}" * 40

# JSON texts of values that no store keeps, wherever they stand in a record.
FLAWS = {
    "NUL": rb'"a\u0000b"',
    "first half of an emoji": rb'"a\ud83d"',
    "second half": rb'"\ude00 and more of it"',
    "halves turned round": rb'"\ude00\ud83d"',
    "half of one in UTF-8": b'"\xed\xa0\xbd"',
    "Latin-1": b'"Caf\xe9"',
    "half a letter of UTF-8": b'"Caf\xc3"',
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "NaN of Python": b"NaN",
    "Infinity of Python": b"Infinity",
    "-Infinity": b"-Infinity",
    "5,000 digits": b"1" * 5000,
    "40 levels": DEEP.encode(),
}
# JSON texts of values that are only wrong as a property.
LARGE = {"30 digits": b"1" * 30, "2^63": b"9223372036854775808", "long text": b'"' + b"x" * 2049 + b'"'}
PLACES = {
    "profile": b'{"type":"profile","identity":"%s","profileData":{"Name":%s}}',
    "key of a profile": b'{"type":"profile","identity":"%s","profileData":{%s:1}}',
    "list of a profile": b'{"type":"profile","identity":"%s","profileData":{"Likes":["tea",%s]}}',
    "operation": b'{"type":"profile","identity":"%s","profileData":{"Likes":{"$add":[%s]}}}',
    "event": b'{"type":"event","identity":"%s","evtName":"Bought","evtData":{"Price":%s}}',
    "items of an event": b'{"type":"event","identity":"%s","evtName":"Bought","evtData":{"Items":[{"a":%s}]}}',
    "name of an event": b'{"type":"event","identity":"%s","evtName":%s}',
    "token": b'{"type":"token","objectId":"%s","tokenData":{"type":"fcm","id":%s}}',
    "what nobody reads": b'{"type":"profile","identity":"%s","source":%s}',
    "objectId": b'{"type":"profile","identity":"%s","objectId":%s}',
    "ts": b'{"type":"profile","identity":"%s","ts":%s}',
}
WRONG = [
    (PLACES[place], flaw)
    for place in PLACES
    for flaw in (FLAWS | (LARGE if place in ("profile", "event", "list of a profile") else {})).values()
    if place != "key of a profile" or flaw.startswith(b'"')
]
GOOD = b'{"type":"profile","identity":"%s","profileData":{"Name":"Ada \\ud83d\\ude00","Points":1}}'


def join(records: Sequence[bytes]) -> bytes:
    return b'{"d":[' + b",".join(records) + b"]}"


def known(server: Server, caller: Caller) -> set[str]:
    """All identities and devices of an account."""
    with closing(sqlite3.connect(server.data / "ledger.db")) as ledger:
        asked = "SELECT value FROM identity WHERE account_id = ?"
        return {value for (value,) in ledger.execute(asked, [caller.account_id])}


@pytest.fixture(scope="module")
def everybody(server: Server) -> Caller:
    return server.account()


def test_each_flaw_in_each_place(server: Server, caller: Caller) -> None:
    """Of an upload with every flaw in every place all good records are stored and none of the others, and each of
    these is answered with its number, its place and itself as far as JSON can show it."""
    records = [one for number, (place, flaw) in enumerate(WRONG) for one in _pair(number, place, flaw)]
    status, answer, _ = caller.call("POST", UPLOAD, join(records))

    assert (status, answer["status"], answer["processed"]) == (200, "partial", len(WRONG))
    assert known(server, caller) == {f"good-{number}" for number in range(len(WRONG))}
    for number, one in enumerate(answer["unprocessed"]):
        assert one["error"].endswith(f"Skipped record number : {2 * number + 2}"), (WRONG[number], one)
        assert re.search(r"at \$\.d\[\d+\]", one["error"]) or one["error"].count("is too large"), (WRONG[number], one)
        assert f"bad-{number}" in (one["record"].get("identity"), one["record"].get("objectId"))


def _pair(number: int, place: bytes, flaw: bytes) -> list[bytes]:
    return [GOOD % b"good-%d" % number, place % (b"bad-%d" % number, flaw)]


def test_a_repeat_of_what_was_partly_refused(caller: Caller) -> None:
    """A record that JSON cannot show is shown the same way when an Idempotency-Key is repeated, and when the answer
    was too long to be kept."""
    record = b'{"type":"profile","identity":"x","profileData":{"a":NaN,"b":"\\ud800","c":"%s"}}' % (b"y" * 2000)
    for count in (2, 60):
        body, key = join([record] * count), {"Idempotency-Key": f"once-{count}"}
        first, again = (caller.call("POST", UPLOAD, body, key) for _ in range(2))
        assert first[:2] == again[:2]
        assert first[1]["unprocessed"][0]["record"]["profileData"] == {"a": None, "b": "\ufffd", "c": "y" * 2000}
        assert again[2]["idempotent-replayed"] == "true"


@pytest.mark.parametrize("flaw", [rb'"a\u0000b"', rb'"\ud800"', b"NaN", b"1e400", b'"\xff"', DEEP.encode()], ids=str)
def test_subscribe(everybody: Caller, flaw: bytes) -> None:
    """An address that is none takes no good one along."""
    good = b'{"type":"email","value":"a@example.com","status":"Unsubscribe"}'
    bad = good.replace(b'"a@example.com"', flaw)
    status, answer, _ = everybody.call("POST", SUBSCRIBE, join([good, bad, good]))

    assert (status, answer["status"], answer["processed"]) == (200, "partial", 2)
    assert answer["unprocessed"][0]["error"].endswith("record number : 2")


@pytest.mark.parametrize(
    "more",
    [rb'"\ud800"', rb'"\u0000"', b"NaN", b"1e400", b'"\xff"', DEEP.encode(), b"1" * 5000],
    ids=lambda one: one[:9],
)
def test_what_is_wrong_beside_the_records(server: Server, everybody: Caller, more: bytes) -> None:
    """A flaw that is in no record refuses the request, with its place, and nothing is stored."""
    status, answer, _ = everybody.call("POST", UPLOAD, b'{"d":[%s],"more":%s}' % (GOOD % b"beside", more))

    assert (status, answer["code"]) == (400, 400)
    assert re.search(r"^Malformed request.*(byte \d+|at `?\$|truncated|UTF-8|utf-8)", answer["error"])
    assert "beside" not in known(server, everybody)


def test_a_sum_beyond_all_numbers(server: Server, caller: Caller) -> None:
    """What `$incr` cannot say is refused, and the sum stays what it was."""
    caller.upload({"type": "profile", "identity": "rich", "profileData": {"Points": {"$incr": 1.7e308}}})
    more = {"type": "profile", "identity": "rich", "profileData": {"Points": {"$incr": 1.7e308}}}
    status, answer = caller.post(UPLOAD, {"d": [more, more | {"profileData": {"City": "Graz"}}]})

    assert (status, answer["processed"], answer["unprocessed"][0]["code"]) == (200, 1, 524)
    with closing(sqlite3.connect(server.data / "ledger.db")) as ledger:
        asked = "SELECT profile FROM user WHERE account_id = ?"
        [(profile,)] = ledger.execute(asked, [caller.account_id]).fetchall()
    assert json.loads(profile) == {"Points": 1.7e308, "City": "Graz"}


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(exclude_categories=[]), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=1000 if THOROUGH else 40)
@given(values, st.integers(0, 6))
def test_what_is_shown_is_without_flaw(value: Any, levels: int) -> None:
    """Anything can be shown, what is shown has no flaw but a NUL, and what has none is shown as it is."""
    shown = to_shown(value, levels)

    msgspec.json.encode(shown)
    flaw = find_flaw(shown, levels)
    assert flaw is None or "NUL" in flaw[0]
    if find_flaw(value, levels) is None:
        assert shown == value


letters = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
properties = st.dictionaries(
    letters.map(lambda key: f"p{key}"),
    letters | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    max_size=3,
)
UNKEPT = st.sampled_from(sorted(FLAWS.values()))
PLACE = st.sampled_from(sorted(PLACES.values()))
MISTAKES = st.sampled_from(
    [
        *(b'{"type":"profile","identity":"%s","profileData":{"Email":"1234"}}', b'{"type":"x","identity":"%s"}'),
        *(b'{"type":"event","identity":"%s"}', b'{"type":"event","identity":"%s","evtName":"E","ts":0}'),
        *(b'["%s"]', b'"%s"', b'{"type":"token","objectId":"%s","tokenData":{"type":"fcm"}}'),
    ]
)


@st.composite
def uploads(draw: st.DrawFn, prefix: str) -> tuple[list[bytes], list[bool]]:
    """Records as JSON texts, each about somebody of its own, and which of them are good."""
    right = draw(st.lists(st.booleans(), min_size=1, max_size=12))
    records = []
    for number, good in enumerate(right):
        name = f"{prefix}-{number}"
        if good:
            mine = draw(properties)
            kind = draw(st.sampled_from(["profile", "event"]))
            data = {"evtData": mine, "evtName": "Seen"} if kind == "event" else {"profileData": mine}
            records.append(json.dumps({"type": kind, "identity": name, **data}).encode())
        elif draw(st.booleans()):
            records.append(draw(MISTAKES) % name.encode())
        else:
            place = draw(PLACE.filter(lambda one: b"{%s:" not in one))
            records.append(place % (name.encode(), draw(UNKEPT)))
    return records, right


def test_exactly_the_good_ones_are_stored(server: Server, everybody: Caller) -> None:
    """An upload of good records with bad ones among them stores the good ones, no others, and says of each bad one
    which it was."""
    round_number = iter(range(10**6))

    @settings(max_examples=200 if THOROUGH else 15)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        prefix = f"law-{next(round_number)}"
        records, right = data.draw(uploads(prefix))
        status, answer, _ = everybody.call("POST", UPLOAD, join(records))

        bad = [number for number, good in enumerate(right) if not good]
        assert (status, answer["processed"]) == (200, len(right) - len(bad)), answer
        said = [int(one["error"].rpartition(": ")[2]) - 1 for one in answer["unprocessed"]]
        assert said == bad, answer
        mine = {name for name in known(server, everybody) if name.startswith(f"{prefix}-")}
        assert mine == {f"{prefix}-{number}" for number, good in enumerate(right) if good}

    check()


TOKENS = [
    *(
        b"NaN",
        b"null",
        b"1e400",
        rb"\ud800",
        rb"\u0000",
        b"\xff",
        b"\0",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
    ),
    *(
        b"-",
        b"9" * 400,
        b"true",
        b"[]",
        b"{}",
        b'{"d":[',
        b"\xef\xbb\xbf",
        b"\n",
        b"\xf0\x9f\x98",
        b"e",
        b".",
        b"[" * 2000,
    ),
]


def mutate(body: bytes, dice: random.Random) -> bytes:
    """The body with one to three pieces of it cut, doubled, replaced or moved."""
    for _ in range(dice.randint(1, 3)):
        start = dice.randrange(len(body) + 1)
        end = min(len(body), start + dice.choice([0, 0, 1, 1, 4, 30]))
        piece = dice.choice([b"", dice.choice(TOKENS), body[start:end] * 2, bytes([dice.randrange(256)])])
        body = body[:start] + piece + body[end:]
    return body


def mutated(count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """Bodies about people of their own, each changed somewhere."""
    dice = random.Random(seed)
    for number in range(count):
        name = b"m%d-" % number
        records = [
            GOOD % (name + b"a"),
            b'{"type":"event","identity":"%sb","evtName":"Seen","evtData":{"n":1.5,"deep":{"a":[1,"x"]}}}' % name,
            b'{"type":"token","objectId":"%sc","tokenData":{"id":"%sc:token","type":"fcm"}}' % (name, name),
            b'{"type":"profile","identity":"%sd","ts":"2026-11-20T10:00:00Z","profileData":[]}' % name,
        ]
        yield number, mutate(join(records), dice)


def test_mutated_bodies_are_read_or_refused() -> None:
    """2,000 changed bodies: each is records or a sentence with the place, each record is one or a sentence."""
    refused = taken = skipped = 0
    for found in asyncio.run(_read_all(body for _, body in mutated(2000, 15))):
        if isinstance(found, Problem):
            assert found.status == 400
            assert re.search(r"byte \d+|at `?\$|truncated|nested deeper", found.error), found.error
            refused += 1
        for raw in found if isinstance(found, list) else ():
            try:
                read_record(raw, NOW)
                taken += 1
            except Rejected as error:
                msgspec.json.encode([error.error, to_shown(raw)])
                skipped += 1
    assert min(refused, taken, skipped) > 100, (refused, taken, skipped)


async def _read_all(bodies: Iterable[bytes]) -> list[Any]:
    """What `d` is of each body, or why it is refused."""
    found: list[Any] = []
    for body in bodies:
        try:
            found.append((await read_records(body)).get("d"))
        except Problem as problem:
            found.append(problem)
    return found


@pytest.mark.timeout(1200 if THOROUGH else 120)
def test_mutated_bodies_are_stored_whole_or_not(server: Server, caller: Caller) -> None:
    """Of changed bodies that are sent every one is answered, never with a 5xx; a refused one stores nothing, of the
    others exactly the records that are not in `unprocessed` have their person."""
    before: set[str] = set()
    headers = {"Content-Type": "application/json", **caller.headers}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        for _, body in mutated(2000 if THOROUGH else 60, 16):
            connection.request("POST", UPLOAD, body, headers)
            reply = connection.getresponse()
            answer = msgspec.json.decode(reply.read())
            after = known(server, caller)
            if reply.status == 200:
                raws = json.loads(body.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape"))["d"]
                skipped = [int(one["error"].rpartition(": ")[2]) - 1 for one in answer["unprocessed"]]
                assert answer["processed"] == len(raws) - len(skipped)
                good = [raw for number, raw in enumerate(raws) if number not in skipped]
                wanted = {name for raw in good for name in (raw.get("identity"), raw.get("objectId")) if name}
                assert after == before | {str(name) for name in wanted}, (body, answer)
            else:
                assert 400 <= reply.status < 500, (body, answer)
                assert after == before, (body, answer)
            before = after


def test_levels() -> None:
    """A record may be as deep as a request, less the two levels around it, and the place of a flaw is its path."""
    deep: Any = 1
    for _ in range(LEVELS - 3):
        deep = {"a": deep}
    event = {"type": "event", "identity": "x", "evtName": "E"}
    assert read_record(event | {"more": deep}, NOW).keys == {"identity": "x"}
    with pytest.raises(Rejected, match="Nested deeper than 32 levels"):
        read_record(event | {"more": {"a": deep}}, NOW)
    with pytest.raises(Rejected, match=r"A text holds a NUL \(at \$\.d\[3\]\.evtData\.Items\[1\]\.a\)"):
        read_record(event | {"evtData": {"Items": [{}, {"a": "\0"}]}}, NOW, place="$.d[3]")
