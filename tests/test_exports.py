"""People and events read back: pages that neither repeat nor miss a record, and cursors in every style there is."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from conftest import THOROUGH, Caller, Server, people, token
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tocsin.account import Account, create_account
from tocsin.audience.query import read_where, split_base
from tocsin.errors import Problem
from tocsin.ingest import upload
from tocsin.stats.export import page as pages
from tocsin.stats.export.cursor import LONGEST, SECONDS, Cursor, seal, unseal
from tocsin.stats.export.page import find_last_user, read_events, read_profiles
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.signing_key import read_signing_keys

pytest_plugins = ("engines",)

NOW = 1_790_000_000.0
DAY = 86_400
PROFILES, EVENTS = "/1/profiles.json", "/1/events.json"
WHERES: tuple[dict[str, Any], ...] = (
    {"event_name": "Played", "from": 20260901, "to": 20261001},
    {"event_name": "Played", "from": 20260901, "to": "today", "event_properties": [{"name": "Level", "value": 1}]},
    {
        "event_name": "Played",
        "from": "-9d",
        "to": "today",
        "common_profile_properties": {"profile_fields": [{"name": "Kind", "value": "even"}]},
    },
)


def a_person(number: int) -> dict[str, Any]:
    kind = "even" if number % 2 == 0 else "odd"
    return {"type": "profile", "identity": f"p{number}", "profileData": {"Kind": kind}, "ts": int(NOW)}


def a_play(number: int, person: int, at: float, size: int = 0) -> dict[str, Any]:
    data = {"Level": number % 3, "Number": number, "Filling": "x" * size}
    return {"type": "event", "identity": f"p{person}", "evtName": "Played", "evtData": data, "ts": int(at)}


class Export:
    """An export in this process, page by page, each cursor by way of its text."""

    def __init__(self, ledger: Ledger, facts: Facts, account: Account, kind: Any, where: dict[str, Any], size: int):
        self._stores = (ledger, facts, account)
        self._kind, self._where, self._size = kind, where, size
        self._text = ""

    async def begin(self) -> None:
        ledger, _, account = self._stores
        base, rest = split_base(self._where, read_where(self._where))
        if self._kind == "profiles" and base is not None:
            rest, base = (base, *rest), None
        last = await find_last_user(ledger, account.id)
        given = {"kind": self._kind, "account": account.id, "began": NOW, "size": self._size}
        cursor = Cursor(**given, base=base, rest=rest, last_user=last)
        self._text = ledger.read_now(lambda connection: seal(connection, cursor))

    async def read(self) -> list[Any] | None:
        """The records of the next page; None behind the last."""
        if not self._text:
            return None
        ledger, facts, account = self._stores
        again = quote(quote(self._text, safe=""), safe="")
        cursor = ledger.read_now(lambda connection: unseal(connection, again, self._kind, account.id, NOW + 60))
        read = read_profiles if self._kind == "profiles" else read_events
        records, following = await read(ledger, facts, account, cursor)
        assert len(records) <= self._size
        self._text = ledger.read_now(lambda connection: seal(connection, following)) if following else ""
        return [msgspec.json.decode(record) for record in records]


@settings(
    max_examples=40 if THOROUGH else 3,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a world is drawn from a seed: nothing smaller is near it
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
async def test_pages_under_writes(ledger: Ledger, facts: Facts, seed: int) -> None:
    """While people and events come in, before and behind the place where the exports are: what was there when an export
    began is given out exactly once, what came later at most once, and nothing that is not meant."""
    dice = random.Random(seed)
    account = create_account(ledger, "pages", "Europe/Berlin", NOW)[0]
    read_signing_keys(ledger, NOW)
    numbers = {"people": 0, "plays": 0}
    played: list[dict[str, Any]] = []

    async def write(most: int) -> None:
        # What was uploaded before is no other event; in one request it would be.
        records = [*dice.sample(played, min(len(played), 2))]
        for _ in range(dice.randrange(most)):
            numbers["people"] += 1
            records.append(a_person(numbers["people"]))
        for _ in range(dice.randrange(most) if numbers["people"] else 0):
            numbers["plays"] += 1
            person = dice.randrange(1, numbers["people"] + 1)
            play = a_play(numbers["plays"], person, NOW - dice.choice([0, 1, DAY, 5 * DAY, 40 * DAY]))
            played.append(play)
            records.append(play)
        await upload(ledger, facts, account, {"d": records}, NOW)

    await write(60)
    kinds = [("profiles", {}), ("profiles", WHERES[1]), *(("events", where) for where in WHERES)]
    exports = [Export(ledger, facts, account, kind, where, dice.choice([5, 11, 40])) for kind, where in kinds]
    found: list[list[Any]] = [[] for _ in exports]
    await asyncio.gather(*(one.begin() for one in exports))
    before = (numbers["people"], list(played))
    open_ones = list(range(len(exports)))
    while open_ones:
        some = [one for one in open_ones if dice.random() < 0.8]
        got = await asyncio.gather(*(exports[one].read() for one in some), *([write(4)] if dice.random() < 0.3 else []))
        for one, records in zip(some, got, strict=False):
            if records is None:
                open_ones.remove(one)
            else:
                found[one].extend(records)

    def is_meant(play: dict[str, Any], where: int) -> bool:
        data, recent = play["evtData"], play["ts"] > NOW - 10 * DAY
        person = int(play["identity"][1:])
        return bool(recent and (where != 1 or data["Level"] == 1) and (where != 2 or person % 2 == 0))

    check_once(
        [record["identity"] for record in found[0]],
        [f"p{number}" for number in range(1, before[0] + 1)],
        [f"p{number}" for number in range(1, numbers["people"] + 1)],
    )
    check_once(
        [record["identity"] for record in found[1]],
        {play["identity"] for play in before[1] if is_meant(play, 1)},
        {play["identity"] for play in played if is_meant(play, 1)},
    )
    for where in range(3):
        check_once(
            [record["event_props"]["Number"] for record in found[2 + where]],
            [play["evtData"]["Number"] for play in before[1] if is_meant(play, where)],
            [play["evtData"]["Number"] for play in played if is_meant(play, where)],
        )


def check_once(given: Sequence[Any], needed: Any, allowed: Any) -> None:
    assert [one for one, count in Counter(given).items() if count > 1] == []
    assert set(needed) <= set(given) <= set(allowed)


async def test_a_page_has_an_end_in_bytes(ledger: Ledger, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records are asked for, a page ends before it is too large, and the next one goes on there; a record
    that is too large by itself is a page."""
    account = create_account(ledger, "bytes", "UTC", NOW)[0]
    read_signing_keys(ledger, NOW)
    plays = [a_play(number, number % 3, NOW - number % 2, size=2000) for number in range(12)]
    profiles = [a_person(number) | {"profileData": {"Long": "x" * 2000}} for number in range(10)]
    await upload(ledger, facts, account, {"d": profiles + plays}, NOW)
    for limit, kind, count in ((10_000, "events", 12), (10_000, "profiles", 10), (1000, "events", 12)):
        monkeypatch.setattr(pages, "PAGE_BYTES", limit)
        export = Export(ledger, facts, account, kind, WHERES[0] if kind == "events" else {}, 1000)
        await export.begin()
        sizes = []
        while (records := await export.read()) is not None:
            sizes.append(len(records))
            assert len(records) == 1 or len(msgspec.json.encode(records)) < limit + 100
        assert (sum(sizes), len(sizes) > 2) == (count, True)


def test_cursors_of_others(ledger: Ledger) -> None:
    """One that was changed, is another account's or of the other kind, or has ended, is refused in the documented
    words; a question that makes none that fits into an address says so."""
    read_signing_keys(ledger, NOW)
    cursor = Cursor(kind="events", account="a", began=NOW, size=9, base=None, rest=(), last_user=5)
    text = ledger.read_now(lambda connection: seal(connection, cursor))

    def refuse(text: str, kind: Any = "events", account: str = "a", now: float = NOW) -> None:
        with pytest.raises(Problem, match="Incorrect Usage") as refused:
            ledger.read_now(lambda connection: unseal(connection, text, kind, account, now))
        assert (refused.value.code, refused.value.status) == (3, 200)

    assert ledger.read_now(lambda connection: unseal(connection, text, "events", "a", NOW + SECONDS)) == cursor
    refuse(text, now=NOW + SECONDS + 1)
    refuse(text, kind="profiles")
    refuse(text, account="b")
    for wrong in (
        "",
        "x",
        "ü",
        text[:-2],
        text[:9] + ("B" if text[9] == "A" else "A") + text[10:],
        text + "AAAA",
        text * 99,
    ):
        refuse(wrong)
    dice = random.Random(5)
    values = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=40)) for _ in range(400)]
    where = {"common_profile_properties": {"profile_fields": [{"name": "Code", "value": values}]}}
    long = msgspec.structs.replace(cursor, rest=(read_where(where),))
    with pytest.raises(Problem, match=str(LONGEST)):
        ledger.read_now(lambda connection: seal(connection, long))


def collect(caller: Caller, path: str, cursor: str, method: str = "GET") -> list[dict[str, Any]]:
    """All records behind a cursor, asked for as the clients do."""
    found = []
    while cursor:
        status, answer, _ = caller.call(method, f"{path}?cursor={cursor}")
        assert (status, answer["status"], "cursor" in answer) == (200, "success", False)
        found.extend(answer.get("records", ()))
        cursor = answer.get("next_cursor", "")
    return found


def test_every_style_of_cursor(server: Server, caller: Caller) -> None:
    """A question as a body or in the address, pages by GET and POST, cursors encoded again: the same records."""
    caller.upload(*people(5, kinds=("fcm",)))
    at = int(time.time()) - 60
    plays = [
        {
            "type": "event",
            "identity": f"user-{number % 3}",
            "evtName": "Played",
            "evtData": {"N": number},
            "ts": at + number,
        }
        for number in range(7)
    ]
    caller.upload(*plays)
    where = {"event_name": "Played", "from": "yesterday", "to": "today"}
    packed = quote(msgspec.json.encode(where).decode())
    for path, count in ((PROFILES, 3), (EVENTS, 7)):
        starts = [
            caller.post(f"{path}?batch_size=2", where)[1],
            caller.post(f"{path}?batch_size=50000&app=true&profile=true", {**where, "groups": {}, "segment": None})[1],
            caller.get(f"{path}?batch_size=2&query={packed}")[1],
            caller.post(path, {"where": where})[1],
        ]
        assert all(set(one) == {"status", "cursor"} for one in starts)
        wanted = collect(caller, path, starts[0]["cursor"])
        assert len(wanted) == count
        assert collect(caller, path, quote(starts[1]["cursor"]), "POST") == wanted
        assert collect(caller, path, quote(quote(starts[2]["cursor"]))) == wanted
        assert collect(caller, path, starts[3]["cursor"]) == wanted
    everybody = collect(caller, PROFILES, caller.post(PROFILES, {"segment": "all"})[1]["cursor"])
    assert [record["identity"] for record in everybody] == [f"user-{number}" for number in range(5)]
    first = everybody[0]
    assert (first["email"], first["profileData"]["Name"]) == ("user-0@example.com", "Name 0")
    device = {"platform": "Android", "push_token": token("fcm", "user-0"), "objectId": "user-device-0"}
    assert first["platformInfo"] == [device]
    event = wanted[0]
    local = time.strftime("%Y%m%d%H%M", time.gmtime(at))
    assert (event["event_props"], event["session_props"]) == ({"N": 0}, {})
    assert event["profile"]["identity"] == "user-0"
    assert event["profile"]["objectId"] == "user-device-0"
    assert len(str(event["ts"])) == len("20260101000000")
    assert str(event["ts"])[:4] == local[:4]
    bare = collect(caller, PROFILES, caller.post(PROFILES + "?app=false&profile=false&events=true", where)[1]["cursor"])
    played = {"count": 3, "first_seen": at, "last_seen": at + 6}
    assert bare[0] == {"identity": "user-0", "email": "user-0@example.com", "events": {"Played": played}}


def test_one_person(caller: Caller) -> None:
    """By any identity; a plus in an address that was appended as it is; nobody is 404."""
    caller.upload(
        {
            "type": "profile",
            "identity": "jane",
            "objectId": "phone",
            "profileData": {"Email": "jane+1@example.com", "N": 5},
        },
        {"type": "event", "identity": "jane", "evtName": "Played", "evtData": {}, "ts": 1_790_000_000},
        {"type": "event", "identity": "jane", "evtName": "Played", "evtData": {}, "ts": 1_790_000_009},
    )
    played = {"count": 2, "first_seen": 1_790_000_000, "last_seen": 1_790_000_009}
    record = {
        "identity": "jane",
        "email": "jane+1@example.com",
        "profileData": {"Email": "jane+1@example.com", "N": 5},
        "events": {"Played": played},
        "platformInfo": [{"objectId": "phone"}],
    }
    for query in ("identity=jane", "objectId=phone", "email=jane+1@example.com", "email=Jane%2B1@Example.com"):
        assert caller.get(f"/1/profile.json?{query}") == (200, {"status": "success", "record": record})
    assert caller.get("/1/profile.json?identity=joe")[0] == 404
    assert caller.get("/1/profile.json")[0] == 400
    assert caller.get("/1/profile.json?identity=jane&email=jane")[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (EVENTS, {}, 400, "$.event_name"),
        (EVENTS, {"segment": "all"}, 400, "$.event_name"),
        (EVENTS, {"event_name": "Never", "from": "today", "to": "today"}, 200, '["Invalid event : Never"]'),
        (
            EVENTS,
            {"event_name": "Notification Sent", "from": "today", "to": "today"},
            400,
            "Export not allowed for this event",
        ),
        (PROFILES, {"event_name": "x", "from": 20260102, "to": 20260101}, 400, "cannot be after"),
        (PROFILES, {"did_not": []}, 400, "$.did_not"),
        (PROFILES, {"segment": "nobody knows"}, 400, "$.segment"),
        (PROFILES + "?batch_size=0", {}, 400, "$.batch_size"),
        (PROFILES + "?batch_size=many", {}, 400, "$.batch_size"),
        (PROFILES + "?app=maybe", {}, 400, "$.app"),
        (PROFILES + "?cursor=abc", None, 200, "Incorrect Usage"),
        (PROFILES + "?query=%7B", None, 400, "Malformed request"),
    ],
    ids=str,
)
def test_what_is_wrong(caller: Caller, path: str, body: Any, status: int, words: str) -> None:
    """Every failure says so in its body, for some clients look at nothing else."""
    answer = caller.post(path, body)

    assert (answer[0], answer[1]["status"]) == (status, "fail")
    assert words in answer[1]["error"]


def test_nothing_there(caller: Caller) -> None:
    """An empty export is a success without records, and no failure is one."""
    for path, where in ((PROFILES, {}), (EVENTS, {"event_name": "Charged", "from": "today", "to": "today"})):
        cursor = caller.post(path, where)[1]["cursor"]
        assert caller.get(f"{path}?cursor={cursor}") == (200, {"status": "success"})
    assert caller.get(PROFILES)[0] == 400
