"""Everything has an end: what one caller may store, keep, name and list, and what is forgotten by its age."""

from __future__ import annotations

import asyncio
import functools
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import THOROUGH, Caller
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, func, insert, select, text, update
from sqlalchemy.engine import make_url
from support.empty_ledger import drop_tables
from support.stage import BODY, NOW, Stage, Vendor, report_view

from tocsin.account import Account, create_account
from tocsin.api.upload import restore_answer, shorten_answer
from tocsin.audience.segment import NAMED, STORED_BYTES, WHERE_BYTES
from tocsin.campaign.runs import find_goals, find_labels
from tocsin.campaign.spec import LABEL_BYTES, SPEC_BYTES, read_spec
from tocsin.delivery.cleaner import clean
from tocsin.delivery.push_id import sign_push_id
from tocsin.errors import Problem
from tocsin.feedback.interactions import DAY, TRACK_DAYS, forget_old_reports
from tocsin.feedback.signed_id import SignedIds
from tocsin.idempotency import (
    ANSWER_BYTES,
    ANSWERS_BYTES,
    FULL_SECONDS,
    KEPT_SECONDS,
    SWEEP,
    IdempotencyKey,
    KeyRoom,
    complete,
    forget_all_old,
    keep,
    require_answer_room,
)
from tocsin.ingest import UploadResult, upload
from tocsin.ingest.people import People
from tocsin.ingest.profile import apply_changes
from tocsin.ingest.record import IDENTITIES, PROFILE_BYTES, ProfileRecord, Rejected, read_record
from tocsin.policy import set_policy
from tocsin.store import schema
from tocsin.store.facts import COLUMNS, Facts
from tocsin.store.ledger import Ledger, migrate, open_ledger
from tocsin.store.signing_key import SigningKey

pytest_plugins = ("engines",)

SECRET = b"s" * 32
IDS = SignedIds([SigningKey(SECRET)])
ROOT = Path(__file__).parent.parent


def new_account(ledger: Ledger, **limits: int) -> Account:
    account = create_account(ledger, "bounded", "UTC", NOW)[0]
    if limits:
        value = msgspec.json.encode(limits).decode()
        ledger.write_now(lambda connection: set_policy(connection, account.id, "limits", value, NOW))
    return account


def profile(user: str, **data: Any) -> dict[str, Any]:
    return {"type": "profile", "identity": user, "profileData": data}


def event(user: str, name: str, **data: Any) -> dict[str, Any]:
    return {"type": "event", "identity": user, "evtName": name, "evtData": data}


def stored_profile(ledger: Ledger, account: Account, user: int = 1) -> str:
    table = schema.user
    query = select(table.c.profile).where(table.c.account_id == account.id, table.c.id == user)
    return ledger.read_now(lambda connection: connection.scalar(query)) or ""


async def codes(ledger: Ledger, facts: Facts, account: Account, *records: dict[str, Any]) -> list[tuple[int, int]]:
    """What an upload refuses: (number of the record from 1, code)."""
    result = await upload(ledger, facts, account, {"d": list(records)}, NOW)
    found = [(number + 1, one["code"]) for number, one in zip(result.numbers, result.unprocessed, strict=True)]
    assert [int(one["error"].rpartition(": ")[2]) for one in result.unprocessed] == [number for number, _ in found]
    assert [one["record"] for one in result.unprocessed] == [records[number - 1] for number, _ in found]
    assert result.processed == len(records) - len(found)
    return found


async def test_a_profile_ends(ledger: Ledger, facts: Facts) -> None:
    """What would make it too large is refused by itself and changes nothing; what makes it smaller is taken."""
    account = new_account(ledger)
    fat = [profile("fat", **{f"k{part}-{number}": "v" * 2000 for number in range(100)}) for part in range(4)]
    assert await codes(ledger, facts, account, *fat, profile("fat", Name="Fat"), event("fat", "Ate")) == [
        *((number, 522) for number in (3, 4)),
    ]
    before = stored_profile(ledger, account)
    assert len(before) <= PROFILE_BYTES
    assert "Fat" in before
    assert await codes(ledger, facts, account, fat[3], fat[0], profile("other", Name="O")) == [(1, 522)]
    assert stored_profile(ledger, account) == before
    smaller = profile("fat", **{f"k0-{number}": {"$delete": 1} for number in range(100)})
    assert await codes(ledger, facts, account, smaller, fat[3]) == []


async def test_a_profile_of_before_there_was_an_end(ledger: Ledger, facts: Facts) -> None:
    """It is not read for what cannot be taken, still gets events and devices, and may be made smaller."""
    account = new_account(ledger)
    assert await codes(ledger, facts, account, profile("old", Name="Old", Email="old@example.com")) == []

    def put(text: str) -> None:
        mine = schema.user.c.account_id == account.id
        ledger.write_now(lambda connection: connection.execute(update(schema.user).where(mine).values(profile=text)))

    put("{" * 600_000)  # reading it would fail
    assert await codes(ledger, facts, account, profile("old", a=1), event("old", "Ate")) == [(1, 522)]
    large = msgspec.json.encode({"Name": "Old", **{f"k{number}": "v" * 2000 for number in range(1000)}}).decode()
    put(large)
    token = {"type": "token", "objectId": "d", "tokenData": {"type": "fcm", "id": "t" * 30}}
    device = event("old", "Ate") | {"objectId": "d"}
    assert await codes(ledger, facts, account, profile("old", a=1), device, token) == [(1, 522)]
    assert stored_profile(ledger, account) == large
    less = [profile("old", **{f"k{n}": {"$delete": 1} for n in range(at, at + 200)}) for at in range(0, 1000, 200)]
    assert await codes(ledger, facts, account, *less, profile("old", a=1)) == []
    assert stored_profile(ledger, account) == '{"Name":"Old","a":1}'


EXAMPLES = 500 if THOROUGH else 12
LETTERS = st.characters(codec="utf-8", exclude_characters="\0")  # another one refuses its record
VALUES = st.one_of(
    st.integers(-(2**40), 2**40),
    st.text(LETTERS, max_size=6),
    st.lists(st.text(LETTERS, max_size=3), max_size=3),
    st.sampled_from([{"$delete": 1}, {"$incr": 5}, {"$add": ["ü", 'a"b']}, {"$remove": ["ü"]}]),
)
RECORDS = st.lists(st.dictionaries(st.sampled_from(["a", "ß", 'q"', "long name"]), VALUES, max_size=3), max_size=6)


def as_profile(changes: dict[str, Any]) -> ProfileRecord:
    record = read_record(profile("u", **changes), NOW)
    assert isinstance(record, ProfileRecord)
    return record


@settings(max_examples=EXAMPLES)
@given(uploads=st.lists(RECORDS, min_size=1, max_size=3), room=st.integers(0, 120))
def test_a_profile_is_measured_as_it_is_stored(ledger: Ledger, uploads: list[list[Any]], room: int) -> None:
    """A profile near its end is refused a change when it would be too large, give or take a comma, and only then; it is
    never taken for smaller than it is."""
    account, near = new_account(ledger), {f"f{n}": "v" * 2000 for n in range(260)} | {"last": ""}
    near["last"] = "v" * (PROFILE_BYTES - len(msgspec.json.encode(near)) - room)
    parts = [dict(list(near.items())[:200]), dict(list(near.items())[200:])]

    def write(connection: Connection, records: list[ProfileRecord]) -> tuple[People, list[ProfileRecord]]:
        people = People(connection, account.id, NOW)
        people.load(records)
        users, refused = [], []
        for record in records:
            try:
                users.append(people.apply(record))
            except Rejected:
                refused.append(record)
        people.save(users)
        return people, refused

    for changes in [parts, *uploads]:
        records: list[ProfileRecord] = [as_profile(one) for one in changes]
        people, refused = ledger.write_now(functools.partial(write, records=records))
        size = len(stored_profile(ledger, account).encode())
        assert size <= PROFILE_BYTES
        assert people.sizes.get(1, size) + 2 >= size
        if refused and refused == records[-1:]:  # nothing came after it
            before = msgspec.json.decode(stored_profile(ledger, account))
            after = apply_changes(before, records[-1].changes)
            assert len(msgspec.json.encode(after)) > PROFILE_BYTES - 2


async def test_a_person_has_so_many_names(ledger: Ledger, facts: Facts) -> None:
    account = new_account(ledger)
    names = [profile("one") | {"objectId": f"d{number}"} for number in range(IDENTITIES)]
    assert await codes(ledger, facts, account, *names) == [(IDENTITIES, 523)]
    assert await codes(ledger, facts, account, profile("one", a=1) | {"objectId": "d0"}, names[-1]) == [(2, 523)]


async def test_names_of_an_account_end(ledger: Ledger, facts: Facts) -> None:
    """A new name too many is refused by itself, with the code for its kind; known ones, those of the system and those
    that are only taken away are not counted, and another account has its own."""
    account = new_account(ledger, event_names=2, event_properties=3, profile_properties=3)
    good = [event("u", "A", x=1), event("u", "B", x={"y": 1}), profile("u", p=1, Name="N", q={"$add": ["a"]})]
    assert await codes(ledger, facts, account, *good) == []
    asked = [
        *(event("u", "C"), event("u", "A", x=2), event("u", "A", z=1), event("u", "A", more=1)),
        *(profile("u", r={"s": 1}), profile("u", r=1, gone={"$delete": 1}), profile("u", late=1, p=2)),
        profile("u", Name={"a": 1}),
        *(event("new", "D"), event("u", "B", **{"x.y": 5})),
    ]
    refused = [(1, 528), (4, 522), (5, 522), (7, 522), (8, 522), (9, 528)]
    assert await codes(ledger, facts, account, *asked) == refused
    assert await codes(ledger, facts, account, *asked) == refused, "and again"
    assert msgspec.json.decode(stored_profile(ledger, account)) == {"p": 1, "Name": "N", "q": ["a"], "r": 1}
    last_user = select(schema.account.c.last_user).where(schema.account.c.id == account.id)
    assert ledger.read_now(lambda connection: connection.scalar(last_user)) == 1, "who is refused is nobody"
    system = await upload(ledger, facts, account, {"d": [event("u", "App Launched", x=1)]}, NOW, system=True)
    assert system.unprocessed == []
    assert await codes(ledger, facts, new_account(ledger), *asked) == []


async def test_two_uploads_at_once_share_the_names(store: Ledger, facts: Facts) -> None:
    """Two processes that take the last names take each only once."""
    account = new_account(store, event_names=10)
    parts = [[event(f"u{part}", f"E{part}-{number}", x=1) for number in range(8)] for part in range(3)]
    parts[0].append(profile("u0", x=1))
    refused = await asyncio.gather(*(codes(store, facts, account, *part) for part in parts))
    assert sum(map(len, refused)) == 24 - 10
    kinds = select(schema.known_name.c.kind, func.count()).where(schema.known_name.c.account_id == account.id)
    rows = store.read_now(lambda connection: connection.execute(kinds.group_by(schema.known_name.c.kind)).all())
    assert dict(map(tuple, rows)) == {"event_names": 10, "event_properties": 1, "profile_properties": 1}


def ask(caller: Caller, path: str, **body: Any) -> Any:
    status, answer = caller.post(path, body)
    assert (status, answer["status"]) == (200, "success"), answer
    return answer


def refused(caller: Caller, path: str, says: str, **body: Any) -> None:
    status, answer = caller.post(path, body)
    assert (status, answer["status"], answer["code"]) == (400, "fail", 400), answer
    assert says in answer["error"]


def named(*values: str, name: str = "Plan") -> dict[str, Any]:
    return {"common_profile_properties": {"profile_fields": [{"name": name, "value": list(values)}]}}


def test_segments_end(caller: Caller) -> None:
    """A question of 64 kB is the largest that is kept, also with those in it; a list has no questions in it."""
    texts = [f"{number:04}" + "x" * 1000 for number in range(60)]
    large, too_large = named(*texts), named(*texts, *(text + "y" for text in texts[:10]))
    assert len(msgspec.json.encode(large)) < WHERE_BYTES < len(msgspec.json.encode(too_large))
    save, many = "/1/segments/save.json", {"and": [{"segment": f"s{number}"} for number in range(5)]}
    refused(caller, save, f"at most {WHERE_BYTES}", name="s", where=too_large)
    for number in range(5):
        ask(caller, save, name=f"s{number}", where=large)
    refused(caller, save, f"larger than {STORED_BYTES}", name="all of them", where=many)
    crowd = {"and": [{"or": [{"segment": f"n{a}-{b}"} for b in range(26)]} for a in range(2)]}
    refused(caller, save, f"at most {NAMED}", name="crowd", where=crowd)
    for number in range(5):
        listed = ask(caller, "/1/segments/list.json", page=number + 1, limit=1)
        assert listed["total_pages"] == 5
        assert [set(one) for one in listed["segments"]] == [{"name", "changed_at"}]
        assert [one["name"] for one in listed["segments"]] == [f"s{number}"]
    assert ask(caller, "/1/segments/list.json", page=6, limit=1)["segments"] == []


def test_labels_end(sending: Caller) -> None:
    """A label has 120 bytes at most; each counts once for a campaign, and the newest campaigns count."""
    create = "/1/targets/create.json"
    for label in ("x" * (LABEL_BYTES + 1), "ß" * 61, ""):
        refused(sending, create, "(at $.labels[1])", **(BODY | {"labels": ["fine", label]}))
    refused(sending, create, "50", **(BODY | {"labels": [f"l{number}" for number in range(51)]}))
    label = "ß" * 60
    goal = {"event_name": "Charged", "conversion_time": "1D"}
    for _ in range(2):
        sending.result(sending.create(labels=[label, label, "spring"], conversion_goal=goal))
    found = sending.get("/1/labels.json")[1]["labels"]
    assert {name: one["campaigns"] for name, one in found.items()} == {label: 2, "spring": 2}


async def test_a_campaign_ends(ledger: Ledger) -> None:
    body = {"subject": "s", "body": "x" * 900_000}
    asked = BODY | {"target_mode": "email", "content": body}
    account = new_account(ledger)
    read_spec(asked, account, NOW)
    parts = [{"name": f"v{number}", "percentage": 25, "content": body} for number in range(4)]
    with pytest.raises(Problem, match=f"at most {SPEC_BYTES}"):
        read_spec(asked | {"content": None, "variants": parts}, account, NOW)


def test_campaigns_are_listed_by_pages(caller: Caller) -> None:
    """Newest first, none twice; one page with all of them looks as it is documented."""
    ids = [caller.create(when="20990101 10:00", target_mode="push", name=f"n{number}") for number in range(5)]
    days = {"from": 20990101, "to": 20990101}
    whole = ask(caller, "/1/targets/list.json", **days)
    assert [one["id"] for one in whole["targets"]] == ids[::-1]
    assert set(whole) == {"status", "targets"}
    pages = [ask(caller, "/1/targets/list.json", **days, page=page, limit=2) for page in (1, 2, 3, 4)]
    assert [[one["id"] for one in page["targets"]] for page in pages] == [ids[:2:-1], ids[2:0:-1], ids[:1], []]
    assert [page["total_pages"] for page in pages] == [3] * 4
    refused(caller, "/1/targets/list.json", "limit", **days, limit=1001)


def test_labels_and_goals_of_before(ledger_url: str) -> None:
    """A ledger of 0011 is upgraded: its campaigns' labels and goals are found, labels that were too long are cut."""
    location = make_url(ledger_url)
    postgresql = location.get_backend_name() == "postgresql"
    engine = create_engine(location.set(drivername="postgresql+psycopg") if postgresql else location)
    drop_tables(ledger_url)
    migrate(ledger_url, "0011")
    specs: list[dict[str, Any]] = [{"labels": ["a", "ß" * 100, "ß" * 90]}, {"labels": []}, {"labels": ["b", "a"]}]
    specs[1]["conversion_goal"] = {"event_name": "Charged", "seconds": 60}
    columns = "id, account_id, name, channel, spec, created_at"
    row = text(f"INSERT INTO campaign ({columns}) VALUES (:id, 'a', 'n', 'push', :spec, :id)")
    with engine.begin() as connection:
        for number in range(120):
            spec = msgspec.json.encode(specs[number % 3]).decode()
            connection.execute(row, {"id": number + 1, "spec": spec})
    engine.dispose()
    upgraded = open_ledger(ledger_url)
    labels, goals = upgraded.read_now(lambda c: (find_labels(c, "a", 4), find_goals(c, "a", range(116, 121))))
    upgraded.close()
    assert {one: sorted(names) for one, names in labels.items()} == {
        118: ["a", "ß" * 60],
        117: ["a", "b"],
        120: ["a", "b"],
    }
    assert {one: (goal.event_name, goal.seconds) for one, goal in goals.items()} == {
        119: ("Charged", 60),
        116: ("Charged", 60),
    }


async def test_old_keys_go_until_none_is_left(store: Ledger) -> None:
    """More than one transaction takes; what is younger than a day stays."""
    account, table = new_account(store), schema.idempotency
    row = {"account_id": account.id, "digest": b"", "answer": ""}
    rows = [row | {"name": f"k{number}", "created_at": NOW + (number == 7)} for number in range(2 * SWEEP + 5)]
    store.write_now(lambda connection: connection.execute(insert(table), rows))
    assert await forget_all_old(store, NOW + KEPT_SECONDS) == 2 * SWEEP + 4
    names = select(table.c.name).where(table.c.account_id == account.id)
    assert store.read_now(lambda connection: connection.scalars(names).all()) == ["k7"]


def test_keys_of_an_account_end(store: Ledger) -> None:
    """A key too many is refused, one that is known is answered; there is room again when old ones have gone."""
    account, room = new_account(store), KeyRoom(3)

    def put(name: str, now: float) -> str:
        key = IdempotencyKey(account.id, name, b"d")
        try:
            kept = store.write_now(lambda connection: keep(connection, key, name, now, room))
        except Problem as problem:
            return str(problem.code)
        return "new" if kept is None else kept.answer

    assert [put(name, NOW) for name in "abcdabd"] == ["new", "new", "new", "429", "a", "b", "429"]
    later = NOW + KEPT_SECONDS + FULL_SECONDS
    asyncio.run(forget_all_old(store, later))
    assert [put(name, later) for name in "ad"] == ["new", "new"]


def test_answers_of_an_account_end(store: Ledger) -> None:
    account, table = new_account(store), schema.idempotency
    key = IdempotencyKey(account.id, "k", b"d")
    store.write_now(lambda connection: keep(connection, key, "", NOW))
    store.write_now(lambda connection: complete(connection, key, "ä" * 2000))
    sizes = select(table.c.answer_bytes).where(table.c.account_id == account.id)
    assert store.read_now(lambda connection: connection.scalar(sizes)) == 4000
    store.read_now(lambda connection: require_answer_room(connection, account.id))
    mine = table.c.account_id == account.id
    store.write_now(lambda c: c.execute(update(table).where(mine).values(answer_bytes=ANSWERS_BYTES)))
    with pytest.raises(Problem, match=str(ANSWERS_BYTES)):
        store.read_now(lambda connection: require_answer_room(connection, account.id))


@pytest.mark.parametrize(
    ("wrong", "same"),
    [
        ({"type": "profile", "identity": "x", "profileData": {"Email": "no" * 100}}, True),
        ({"type": "profile", "identity": "x", "profileData": {"k" * 121: 1}}, True),
        ({"type": "event", "identity": "x", "evtName": "E", "evtData": {"{}": [[[[[[[[[1]]]]]]]]]}}, False),
    ],
)
def test_a_long_answer_is_kept_short(caller: Caller, wrong: dict[str, Any], same: bool) -> None:
    """A repeat gets the answer again, with the records that it brought itself; only where the sentences alone are too
    long they are shorter."""
    key = {"Idempotency-Key": "long"}
    text = msgspec.json.encode(wrong).decode()
    records = [msgspec.json.decode(text.replace("{}", f"{number}" * 20)) for number in range(1000)]
    body = {"d": [*records[1:], profile("good")]}
    status, first, _ = caller.call("POST", "/1/upload", body, key)
    assert (status, first["processed"], len(first["unprocessed"])) == (200, 1, 999)
    status, again, headers = caller.call("POST", "/1/upload", body, key)
    assert (status, headers["idempotent-replayed"], again == first) == (200, "true", same)
    for one, before in zip(again["unprocessed"], first["unprocessed"], strict=True):
        assert {name: one[name] for name in ("status", "code", "record")} == {
            name: before[name] for name in ("status", "code", "record")
        }
        assert one["error"].rpartition("Skipped")[2] == before["error"].rpartition("Skipped")[2]
        assert before["error"].startswith(one["error"].partition(".")[0])


def test_no_answer_is_kept_long() -> None:
    wrong = [
        {"status": "fail", "code": 512, "error": f"Event data. {n:0120} {n}. Skipped record number : {n}"}
        for n in range(1000)
    ]
    result = UploadResult("fail", 0, [one | {"record": {"x": "y" * 500}} for one in wrong], list(range(1000)))
    whole = msgspec.json.encode({"status": "fail", "processed": 0, "unprocessed": result.unprocessed}).decode()
    short = shorten_answer(whole, result)
    assert len(short.encode()) <= ANSWER_BYTES
    again = msgspec.json.decode(restore_answer(short, {"d": [1] * 1000}))
    assert again["unprocessed"][7] == {
        "status": "fail",
        "code": 512,
        "error": "Event data. Skipped record number : 8",
        "record": 1,
    }
    small = '{"status":"success","processed":1,"unprocessed":[]}'
    assert restore_answer(shorten_answer(small, UploadResult("success", 1, [], [])), {}) == small


async def test_reports_end(store: Ledger, facts: Facts) -> None:
    """A view is one view before and after its message was cleaned, and is not taken for ever."""
    stage = Stage(store, facts, {"android": Vendor()})
    await stage.people(1)
    await stage.campaign()
    await stage.deliver()
    await stage.send({"Identity": ["u0"]})
    await stage.send({"Identity": ["u0"]})
    await stage.deliver()
    table, first = schema.chunk, schema.interaction
    chunks = store.read_now(lambda c: c.scalars(select(table.c.id).where(table.c.account_id == stage.account.id)).all())
    assert len(chunks) == 3

    async def report(chunk: int, days: float) -> None:
        push_id = sign_push_id(SECRET, chunk, 0, "track")
        await report_view(store, facts, IDS, push_id, NOW + days * DAY)

    async def views() -> int:
        return await stage.count("event", "name = 'Notification Viewed'")

    kept = select(func.count()).where(first.c.account_id == stage.account.id)
    for chunk in chunks:
        await report(chunk, 1)
    await clean(store, NOW + 31 * DAY, asyncio.Event())
    assert store.read_now(lambda connection: connection.scalar(kept)) == 0
    for days in (32, 33):
        for chunk in chunks:
            await report(chunk, days)
    assert await views() == 3
    assert store.read_now(lambda connection: connection.scalar(kept)) == 3
    for chunk in chunks:
        with pytest.raises(Problem, match="more than 90 days ago") as refusal:
            await report(chunk, TRACK_DAYS + 1.01)
        assert refusal.value.status == 410
    assert await forget_old_reports(store, NOW + (TRACK_DAYS + 2) * DAY, TRACK_DAYS) >= 3
    assert store.read_now(lambda connection: connection.scalar(kept)) == 0


def test_what_grows_is_documented() -> None:
    """Every table of both stores stands in the list of what grows, in a row that says what ends it."""
    document = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(r"^## What grows, and how far\n(.*?)^## ", document, re.MULTILINE | re.DOTALL)
    assert found is not None
    _, ledger, facts = found[1].split("| ends |\n")
    for tables, rows in ((schema.metadata.tables, ledger), ([*COLUMNS, "activity", "interaction", "feed"], facts)):
        cells = [line.split("|")[1:-1] for line in rows.splitlines() if line.startswith("| `")]
        assert all(len(row) == 3 and row[2].strip() for row in cells)
        assert sorted(name for row in cells for name in re.findall(r"`(\w+)`", row[0])) == sorted(tables)
