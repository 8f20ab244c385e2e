"""People who leave: everything about them goes from both stores, every count is less by theirs alone, and a crash in
the middle is made good."""

from __future__ import annotations

import asyncio
import functools
import random
import secrets
import string
import time
from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from conftest import ROOMY, Caller, Server, people, token, wait_for
from sqlalchemy import Connection, func, select
from support.chunks import NOW, must_lease, release, settle
from support.sdk import START, SdkWorld, event, guid, launch, meta, profile

from tocsin import queue
from tocsin.account import Account, create_account
from tocsin.api.people import delete_named
from tocsin.audience.node import Everybody
from tocsin.authenticator import audit
from tocsin.authenticator.audit import NAMELESS, list_deeds, note
from tocsin.campaign.runs import insert_campaign, move_run
from tocsin.campaign.spec import Spec
from tocsin.cli import tocsin
from tocsin.content import Content
from tocsin.dashboard.person_rights import write_dossier
from tocsin.delivery.cleaner import clean_events, find_old_events
from tocsin.delivery.leavers import SETTLE_SECONDS, erase_leavers
from tocsin.delivery.recipients import load_people
from tocsin.delivery.recorder import record_outcomes
from tocsin.ingest import event_row, leaving, upload
from tocsin.ingest.identity import find_users
from tocsin.ingest.leaving import remove_people
from tocsin.outcome import State
from tocsin.policy import set_policy
from tocsin.queue import Chunk, Recipients, Share
from tocsin.stats.export.dossier import PAGE, read_dossier
from tocsin.stats.webhooks.feed import listen_to
from tocsin.store import schema
from tocsin.store.deadline import begin_deadline
from tocsin.store.erasure import erase_people
from tocsin.store.facts import EACH, Facts
from tocsin.store.ledger import Ledger, open_ledger

if TYPE_CHECKING:
    from engines import NewLedger

pytest_plugins = ("engines",)

SPEC = Spec(name="n", channel="push", where=Everybody(), content=Content(), platforms=("android",), due_at=NOW)
LOOKED = "person looked at"  # as the dashboard's page of people writes it
DELETE = "/1/delete/profiles.json"
SHOWN = {"event": "*", "outcome": "*", "profile": "version, android, ios, props"}
PEOPLE = 12


def insert_run(ledger: Ledger, account: Account, users: Collection[int]) -> None:
    """A campaign of one chunk with these recipients."""

    def write(connection: Connection) -> None:
        campaign = insert_campaign(connection, account.id, SPEC, NOW)
        run = int(connection.scalar(select(func.max(schema.run.c.id))) or 0)
        assert move_run(connection, run, "running", frozen_at=NOW, audience=len(users))
        queue.insert_run_chunks(
            *(connection,),
            account_id=account.id,
            run_id=run,
            campaign_id=campaign,
            channel="push",
            shares={Share(expires_at=NOW + 1e6): Recipients([(user, "android") for user in users])},
            resend=False,
            now=NOW,
        )

    ledger.write_now(write)


async def close(ledger: Ledger, facts: Facts, account: Account, chunk: Chunk) -> None:
    """Everybody in a chunk got their message."""
    chunk.move_all(range(len(chunk.states)), State.CLAIMED)
    chunk.move_all(range(len(chunk.states)), State.ACCEPTED)
    assert settle(ledger, chunk)
    await record_outcomes(facts, [(account, chunk)])
    release(ledger, chunk)


def count(facts: Facts, account: Account) -> dict[str, list[tuple[Any, ...]]]:
    """What the facts store has, a line each with its user."""
    mine = {"account": account.id}
    found = {
        name: facts.query_now(
            f"SELECT user, {shown} FROM {name} FINAL WHERE account = {{account:String}} ORDER BY ALL", mine
        )
        for name, shown in SHOWN.items()
    }
    found["activity"] = facts.query_now(
        "SELECT arrayJoin(bitmapToArray(groupBitmapMergeState(users))) AS user, name, day FROM activity "
        "WHERE account = {account:String} GROUP BY name, day ORDER BY ALL",
        mine,
    )
    return found


def remove(ledger: Ledger, account: Account, *names: str) -> int:
    keys = [("identity", name) for name in names]
    return ledger.write_now(lambda connection: remove_people(connection, account.id, keys, NOW))


def rows_about(connection: Connection, account: Account, users: Collection[int]) -> dict[str, int]:
    """How many rows each table of the ledger has that name these users."""
    found: dict[str, int] = {}
    for name, table in schema.metadata.tables.items():
        column = table.c.get("user_id", table.c.id if name == "user" else None)
        if column is not None and name != "leaver":
            mine = (table.c.account_id == account.id, column.in_(users))
            found[name] = connection.scalar(select(func.count()).where(*mine)) or 0
    return found


async def make_town(ledger: Ledger, facts: Facts, dice: random.Random) -> tuple[Account, dict[str, int]]:
    """An account whose people have devices, events and messages; its people by identity."""
    account = create_account(ledger, "town", "UTC", NOW)[0]
    events = [
        {
            "type": "event",
            "identity": f"user-{dice.randrange(PEOPLE)}",
            "evtName": dice.choice(("Played", "Paused")),
            "ts": int(NOW) - 86_400 * dice.randrange(3),
            "evtData": {"Score": number},
        }
        for number in range(60)
    ]
    await upload(ledger, facts, account, {"d": [*people(PEOPLE), *events]}, NOW)
    keys = [("identity", f"user-{number}") for number in range(PEOPLE)]
    found = ledger.read_now(lambda connection: find_users(connection, account.id, keys))
    users = {name: user for (_, name), user in found.items()}
    insert_run(ledger, account, users.values())
    await close(ledger, facts, account, must_lease(ledger))
    return account, users


async def test_each_count_is_less_by_theirs(new_ledger: NewLedger, facts: Facts) -> None:
    """Of every table of both stores only the rows of who left are gone; numbers of campaigns stay, and outcomes as
    nobody's; another account with the same numbers of users keeps everything."""
    dice = random.Random(7)
    with new_ledger() as ledger:
        account, users = await make_town(ledger, facts, dice)
        other, _ = await make_town(ledger, facts, dice)
        before, others = count(facts, account), count(facts, other)
        sums = ledger.read_now(lambda connection: connection.execute(select(schema.run_sum)).all())
        left = dice.sample(sorted(users), 5)
        numbers = {users[name] for name in left}
        assert sum(ledger.read_now(lambda connection: rows_about(connection, account, numbers)).values()) > 20

        told = await read_dossier(ledger, facts, account, min(numbers), 1)
        [message] = msgspec.json.decode(msgspec.json.encode(told["messages"]))
        assert (message["name"], message["outcome"], message["platform"]) == ("n", "accepted", "android")

        for name in (left[0].upper(), f"{left[1]}@example.com", "user-99"):
            ledger.write_now(functools.partial(note, account_id=account.id, who="a", what=LOOKED, detail=name, now=NOW))

        assert remove(ledger, account, *left, "nobody") == len(left)
        deeds = ledger.read_now(lambda connection: list_deeds(connection, account.id, 10))
        assert [deed.detail for deed in deeds] == ["user-99", NAMELESS, NAMELESS]
        assert set(ledger.read_now(lambda connection: rows_about(connection, account, numbers)).values()) == {0}
        assert await erase_leavers(ledger, facts, NOW) == len(left)
        nobodys = sorted((0, *row[1:5], 0, *row[6:]) for row in before["outcome"] if row[0] in numbers)
        assert count(facts, account) == {
            name: [*(nobodys if name == "outcome" else ()), *(row for row in rows if row[0] not in numbers)]
            for name, rows in before.items()
        }
        assert count(facts, other) == others
        assert ledger.read_now(lambda connection: connection.execute(select(schema.run_sum)).all()) == sums
        chunk = schema.chunk
        query = select(chunk.c.users, chunk.c.sent).where(chunk.c.account_id == account.id)
        packed, sent = ledger.read_now(lambda connection: connection.execute(query).one())
        assert sorted(queue.unpack_users(bytes(packed))) == sorted(
            0 if user in numbers else user for user in users.values()
        )
        assert sent == PEOPLE

        # Somebody of the name who comes again is new, and nothing is told about them that was told before.
        await upload(ledger, facts, account, {"d": [{"type": "profile", "identity": left[0], "profileData": {}}]}, NOW)
        [new] = ledger.read_now(lambda one: find_users(one, account.id, [("identity", left[0])])).values()
        assert new > max(users.values())
        assert load_new(ledger, account, new) == "{}"
        assert await erase_leavers(ledger, facts, NOW + SETTLE_SECONDS + 1) == len(left)
        assert ledger.read_now(lambda one: one.scalar(select(func.count()).select_from(schema.leaver))) == 0
        assert [row for row in count(facts, account)["profile"] if row[0] == new]


async def test_a_busy_account_delays_only_its_own(own_ledger: Ledger, facts: Facts) -> None:
    """While one account asks so much that nothing more is answered about it, the people of another one are erased."""
    busy, users = await make_town(own_ledger, facts, random.Random(2))
    calm, _ = await make_town(own_ledger, facts, random.Random(2))
    for account in (busy, calm):
        assert remove(own_ledger, account, "user-0", "user-1") == 2
    asked = ("SELECT sleep(2.5) WHERE {account:String} != ''", {"account": busy.id})
    questions = [asyncio.create_task(facts.query(*asked)) for _ in range(EACH)]
    try:
        await asyncio.sleep(0)  # they have their turns
        facts.bound(1.0)
        assert await erase_leavers(own_ledger, facts, NOW) == 2
    finally:
        facts.bound()
        await asyncio.gather(*questions)
    gone = {users["user-0"], users["user-1"]}
    assert not gone & {row[0] for row in count(facts, calm)["outcome"]}
    assert gone <= {row[0] for row in count(facts, busy)["outcome"]}
    assert await erase_leavers(own_ledger, facts, NOW) == 2
    assert not gone & {row[0] for row in count(facts, busy)["outcome"]}


def load_new(ledger: Ledger, account: Account, user: int) -> str:
    return ledger.read_now(lambda connection: load_people(connection, account.id, [user])[user].profile)


async def test_who_leaves_while_a_campaign_runs(new_ledger: NewLedger, facts: Facts) -> None:
    """They are nobody at the next claim; and what is recorded when their chunk ends is erased too, however late."""
    with new_ledger() as ledger:
        account, users = await make_town(ledger, facts, random.Random(1))
        insert_run(ledger, account, users.values())
        gone = users["user-3"]
        assert remove(ledger, account, "user-3") == 1
        assert gone not in ledger.read_now(lambda one: load_people(one, account.id, list(users.values())))
        assert await erase_leavers(ledger, facts, NOW) == 1
        late = NOW + SETTLE_SECONDS + 1
        assert await erase_leavers(ledger, facts, late) == 0  # they are in an open chunk
        await close(ledger, facts, account, must_lease(ledger))
        assert [row for row in count(facts, account)["outcome"] if row[0] == gone]
        assert await erase_leavers(ledger, facts, late + SETTLE_SECONDS + 1) == 1
        assert not any(row[0] == gone for rows in count(facts, account).values() for row in rows)


async def test_who_leaves_before_their_chunk_is_closed(own_ledger: Ledger, facts: Facts) -> None:
    """A chunk that is recorded and not yet closed is nobody's after the second erasure at the latest."""
    account, users = await make_town(own_ledger, facts, random.Random(2))
    insert_run(own_ledger, account, users.values())
    chunk = must_lease(own_ledger)
    for state in (State.CLAIMED, State.ACCEPTED):
        chunk.move_all(range(len(chunk.states)), state)
    assert settle(own_ledger, chunk)
    await record_outcomes(facts, [(account, chunk)])
    assert remove(own_ledger, account, "user-3") == 1
    assert await erase_leavers(own_ledger, facts, NOW) == 1
    release(own_ledger, chunk)
    assert await erase_leavers(own_ledger, facts, NOW + SETTLE_SECONDS + 1) == 1
    packed = own_ledger.read_now(lambda one: one.scalars(select(schema.chunk.c.users)).all())
    assert not any(users["user-3"] in queue.unpack_users(bytes(one)) for one in packed)
    assert not any(row[0] == users["user-3"] for rows in count(facts, account).values() for row in rows)


async def test_webhooks_are_told_nothing_more(own_ledger: Ledger, facts: Facts) -> None:
    """What was to be posted about somebody, or could be once more, goes with them; that of others stays."""
    account = create_account(own_ledger, "told", "UTC", time.time())[0]
    await listen_to(facts, [account.id])
    await upload(own_ledger, facts, account, {"d": people(2)}, time.time())
    keys = [("identity", f"user-{number}") for number in range(2)]
    stays, goes = sorted(own_ledger.read_now(lambda one: find_users(one, account.id, keys)).values())
    said = {"Email": "goes@example.com"}
    rows = [event_row(account, "Mail Bounced", user, time.time(), 7, said) for user in (stays, goes)]
    await facts.insert("event", rows)
    await asyncio.to_thread(erase_people, facts, [(account.id, goes)])
    left = facts.query_now("SELECT user FROM feed WHERE account = {account:String}", {"account": account.id})
    assert left == [(stays,)]


def read_stores(ledger: Ledger, facts: Facts) -> bytes:
    """Every byte of a SQLite ledger, and of the parts that the facts store has not thrown away."""
    folder = Path(ledger.url.removeprefix("sqlite:///")).parent
    parts = [Path(row[0]) for row in facts.query_now("SELECT path FROM system.parts WHERE active", {})]
    files = [*folder.glob("ledger.db*"), *(file for part in parts for file in part.iterdir())]
    return b"".join(file.read_bytes() for file in files)


def mark() -> str:
    """Something to look for. Four of its letters are hardly found before it in a file, or LZ4 would cut it in two."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(32))


async def test_no_byte_is_left(own_ledger: Ledger, facts: Facts) -> None:
    """A name, an address, a token, properties and what an event said: found in the files before, and not after."""
    account = create_account(own_ledger, "bytes", "UTC", NOW)[0]

    name, address, token, trait, said = (mark() for _ in range(5))
    stays = mark()
    seen = functools.partial(note, account_id=account.id, who="a", what=LOOKED, detail=name, now=NOW)
    own_ledger.write_now(seen)
    records = [
        {"type": "profile", "identity": name, "objectId": f"o{name}", "profileData": {"Email": f"{address}@x.org"}},
        {"type": "profile", "identity": name, "profileData": {"Trait": trait, "Long": trait * 40}},
        {"type": "token", "objectId": f"o{name}", "tokenData": {"type": "fcm", "id": token}},
        {"type": "event", "identity": name, "evtName": "Said", "evtData": {"What": said}, "ts": int(NOW)},
        {"type": "profile", "identity": "b", "profileData": {"Trait": stays}},
    ]
    for record in records:
        assert (await upload(own_ledger, facts, account, {"d": [record]}, NOW)).processed == 1
    marks = [one.encode() for one in (name, address, token, trait, said)]
    assert all(one in read_stores(own_ledger, facts) for one in marks)
    assert remove(own_ledger, account, name) == 1
    assert await erase_leavers(own_ledger, facts, NOW) == 1
    left = read_stores(own_ledger, facts)
    assert [one for one in marks if one in left] == []
    assert stays.encode() in left


async def test_a_long_log_is_read_in_pieces(own_ledger: Ledger, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are taken out of all of it before the person goes, a piece at a time; the write that takes them looks at
    what is newer alone."""
    account = create_account(own_ledger, "log", "UTC", NOW)[0]
    await upload(own_ledger, facts, account, {"d": [{"type": "profile", "identity": "a", "profileData": {}}]}, NOW)
    for number in range(40):
        detail = "A" if number % 3 else "b"
        own_ledger.write_now(
            functools.partial(note, account_id=account.id, who="x", what=LOOKED, detail=detail, now=NOW)
        )
    monkeypatch.setattr(audit, "LINES_AT_ONCE", 7)
    read: list[int] = []
    find = audit.find_named_lines

    def count(connection: Connection, account_id: str, names: Collection[str], after: int = 0) -> tuple[list[int], int]:
        read.append(after)
        return find(connection, account_id, names, after)

    monkeypatch.setattr(leaving, "find_named_lines", count)
    assert await delete_named(own_ledger, account, [("identity", "a")], "API", NOW) == 1
    deeds = own_ledger.read_now(lambda connection: list_deeds(connection, account.id, 50))
    assert Counter(deed.detail for deed in deeds if deed.what == LOOKED) == {NAMELESS: 26, "b": 14}
    assert len(read) == 8, "six pieces and their end, and once more while the person goes"
    assert read[-1] == read[-2] == max(read)


async def test_no_byte_of_an_anonymous_past_is_left(own_ledger: Ledger, facts: Facts) -> None:
    """What a device did before somebody logged in on it goes with them: told by an app, which copies the events, or by
    an upload, which does not; and what a device nobody logged in on did stays."""
    world = SdkWorld(own_ledger, facts)
    app, bare, other, known = guid(1), guid(2), guid(3), mark()
    said, trait, later, seen, stays = (mark() for _ in range(5))
    await world.upload({"type": "profile", "identity": known, "profileData": {"Plan": "Gold"}})
    await world.send(meta(app), launch(START), event("Said", START + 1, What=said))
    await world.send(meta(app), profile(START + 2, Trait=trait))
    former = await world.find(app, "objectId")
    await world.send(meta(app), profile(START + 10, Identity=known))
    await world.send(meta(app), event("Said", START + 20, What=later))
    assert await world.find(app, "objectId") == await world.find(known) != former

    for device, what in ((bare, seen), (other, stays)):
        await world.upload(
            {"type": "profile", "objectId": device, "profileData": {"Trait": what}},
            {"type": "event", "objectId": device, "evtName": "Seen", "evtData": {"What": what}, "ts": int(NOW)},
        )
    await world.upload({"type": "profile", "identity": known, "objectId": bare, "profileData": {}})
    marks = [one.encode() for one in (known, said, trait, later, seen)]
    assert [one for one in marks if one not in read_stores(own_ledger, facts)] == []

    user = await world.find(known)
    assert user is not None
    told = await read_dossier(own_ledger, facts, world.account, user, 1)
    assert [one["name"] for one in told["events"]] == ["App Launched", "Said", "Said", "Seen"]

    assert remove(own_ledger, world.account, known) == 1
    assert await erase_leavers(own_ledger, facts, NOW) == 3
    left = read_stores(own_ledger, facts)
    assert [one for one in marks if one in left] == []
    assert stays.encode() in left
    assert await world.read("former_user", "former_id") == []


async def test_a_download_outlasts_its_request(own_ledger: Ledger, facts: Facts) -> None:
    """Whoever carries off everything about somebody may take longer than one question does, and gets all of it."""
    account, count = create_account(own_ledger, "slow", "UTC", NOW)[0], 2 * PAGE + 1
    await upload(own_ledger, facts, account, {"d": people(1)}, NOW)
    [user] = own_ledger.read_now(lambda one: find_users(one, account.id, [("identity", "user-0")])).values()
    await facts.insert("event", [event_row(account, "Seen", user, NOW, number, {}) for number in range(count)])
    first = await read_dossier(own_ledger, facts, account, user, 1)
    begin_deadline(0.0)  # the request's own time is over
    lines = [line async for line in write_dossier(own_ledger, facts, account, user, first, 60.0)]
    assert [len(msgspec.json.decode(line)["events"]) for line in lines] == [PAGE, PAGE, 1]


def is_erased(caller: Caller) -> bool:
    status, answer = caller.get(DELETE)
    assert status == 200
    return bool(answer["waiting"] == 0)


def test_deleted_by_the_api(server: Server, caller: Caller) -> None:
    """One or several, by identity, guid and objectId, in CleverTap's shape; twice is once; and the audit log says who,
    when and how many, and no name."""
    caller.upload(*people(6))
    for body, deleted in (
        ({"identity": "user-0", "guid": None}, 1),
        ({"identity": "user-0"}, 0),
        ({"identity": ["user-1", "user-2", "nobody"]}, 2),
        ({"guid": "user-device-3"}, 1),
        ({"objectId": ["user-device-4", "user-device-4"]}, 1),
    ):
        assert caller.post(DELETE, body) == (200, {"status": "success", "deleted": deleted})
    assert caller.get("/1/profile.json?identity=user-1")[0] == 404
    wait_for(lambda: is_erased(caller))
    assert caller.post("/1/counts/profiles.json", {}) == (200, {"status": "success", "count": 1})
    ledger = open_ledger(server.ledger_url)
    deeds = ledger.read_now(lambda connection: list_deeds(connection, caller.account_id, 10))
    ledger.close()
    assert [(deed.who, deed.what, deed.detail) for deed in deeds][:2] == [
        ("API", "people deleted", "1 of 1 named"),
        ("API", "people deleted", "1 of 1 named"),
    ]
    assert abs(deeds[0].at - time.time()) < 60


def test_nobody_leaves_no_line(server: Server, caller: Caller) -> None:
    """The audit log has room for so many lines: whoever names nobody, as often as they like, adds none to it."""
    caller.post(DELETE, {"identity": "nobody"})
    caller.post("/1/demerge/profiles.json", {"identities": ["nobody"]})
    caller.post("/1/disassociate", {"d": [{"type": "phone", "value": "+4915100000000"}]})
    ledger = open_ledger(server.ledger_url)
    deeds = ledger.read_now(lambda connection: list_deeds(connection, caller.account_id, 10))
    ledger.close()
    assert deeds == []


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "$.identity"),
        ({"identity": []}, "$.identity"),
        ({"identity": [str(number) for number in range(101)]}, "$.identity"),
        ({"identity": {"a": 1}}, "$.identity"),
        ({"email": "a@b.de"}, "$.email"),
    ],
)
def test_a_wrong_deletion_deletes_nobody(caller: Caller, body: dict[str, Any], place: str) -> None:
    status, answer = caller.post(DELETE, body)
    assert (status, answer["status"]) == (400, "fail")
    assert place in answer["error"]


def test_an_address_that_left_stays_away(caller: Caller) -> None:
    """Of who was deleted the address is not kept, and still gets no mail when it comes again; nor does the list show
    it. Resubscribe lets it come back."""
    person = {"type": "profile", "identity": "jane", "profileData": {"Email": "jane@example.com"}}
    reach = {
        "where": {},
        "when": "now",
        "target_mode": "email",
        "content": {"subject": "a", "body": "b", "sender_name": "c"},
    }

    def count_reach() -> int:
        status, answer = caller.post("/1/targets/create.json", reach | {"name": "n", "estimate_only": True})
        assert status == 200, answer
        return int(sum(answer["estimates"].values()))

    def change(status: str) -> None:
        record = {"type": "email", "value": "jane@example.com", "status": status}
        assert caller.post("/1/subscribe", {"d": [record]})[1]["processed"] == 1

    caller.upload(person)
    change("Unsubscribe")
    assert caller.post(DELETE, {"identity": "jane"})[1]["deleted"] == 1
    [kept] = caller.post("/1/suppressions/list.json", {})[1]["suppressed"]
    assert kept["address"].startswith("#")
    assert "jane" not in kept["address"]
    wait_for(lambda: is_erased(caller))
    caller.upload(person)
    assert count_reach() == 0
    change("Resubscribe")
    assert caller.post("/1/suppressions/list.json", {})[1]["suppressed"] == []
    assert count_reach() == 1


def test_names_and_numbers_are_taken(caller: Caller) -> None:
    """A number goes from everybody who has it; an identity only from who has another."""
    phone = "+4915112345678"
    caller.upload(
        {"type": "profile", "identity": "a", "profileData": {"Phone": phone}},
        {"type": "profile", "identity": "b", "profileData": {"Phone": phone}},
        {"type": "profile", "identity": "c", "profileData": {"Phone": "+49 151 999 00 11"}},
        {"type": "profile", "identity": "a", "profileData": {"Identity": "a2"}},
    )
    asked = [
        {"type": "phone", "value": phone},
        {"type": "email", "value": "x"},
        {"type": "phone", "value": "+4930901820"},
        {"type": "phone", "value": "+491519990011"},
    ]
    status, answer = caller.post("/1/disassociate", {"d": asked})
    assert (status, answer["status"], answer["processed"]) == (200, "partial", 2)
    assert [one["record"] for one in answer["unprocessed"]] == asked[1:3]
    for name in ("a", "b", "c"):
        assert "Phone" not in caller.get(f"/1/profile.json?identity={name}")[1]["record"]["profileData"]

    status, answer = caller.post("/1/demerge/profiles.json", {"identities": ["a2", "b"]})
    assert (answer["status"], answer["processed"]) == ("partial", 1)
    assert caller.get("/1/profile.json?identity=a2")[0] == 404
    assert caller.get("/1/profile.json?identity=a")[0] == 200


def test_a_kill_in_the_middle(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """A server that dies right behind its answer has deleted them: the next one does what is left."""
    server = start_server(tmp_path, ROOMY)
    caller = server.account()
    plays = [{"type": "event", "identity": f"user-{one}", "evtName": "Played", "evtData": {}} for one in range(40)]
    caller.upload(*people(40), *plays)
    assert caller.post(DELETE, {"identity": [f"user-{one}" for one in range(30)]})[1]["deleted"] == 30
    server.kill()
    server = start_server(tmp_path, ROOMY, server.port)
    wait_for(lambda: is_erased(caller))
    assert caller.post("/1/counts/profiles.json", {})[1]["count"] == 10
    assert (
        caller.post("/1/counts/events.json", {"event_name": "Played", "from": "-1d", "to": "today"})[1]["count"] == 10
    )
    assert server.stop() == 0


def test_everything_about_somebody(server: Server, caller: Caller) -> None:
    """What was uploaded comes back, page by page, of them alone; the commands export and delete beside the server."""
    record = {"type": "event", "identity": "user-1", "evtName": "Played", "ts": int(time.time()) - 90}
    plays = [record | {"evtData": {"Number": number}} for number in range(PAGE + 1)]
    caller.upload(*people(3), *plays, record | {"identity": "user-2", "evtData": {}})
    caller.upload({"type": "profile", "objectId": "user-device-1", "profileData": {"MSG-push": False}})
    caller.post("/1/subscribe", {"d": [{"type": "email", "value": "user-1@example.com", "status": "Unsubscribe"}]})

    def run(command: str, identity: str) -> Result:
        arguments = ["person", command, identity, "--account", caller.account_id, "--data", str(server.data)]
        return CliRunner().invoke(tocsin, arguments)

    first, second = map(msgspec.json.decode, run("export", "user-1").output.splitlines())
    assert caller.get("/1/person.json?identity=user-1") == (200, first)
    assert caller.get("/1/person.json?email=User-1@example.com&page=2") == (200, second)
    events = [*first["events"], *second["events"]]
    assert sorted(one["event_props"]["Number"] for one in events if one["name"] == "Played") == list(range(PAGE + 1))
    assert [one["name"] for one in events].count("Channel Unsubscribed") == 1
    person = first["person"]
    assert person["profileData"]["Name"] == "Name 1"
    assert person["identities"]["objectId"] == ["user-device-1"]
    assert [one["token"] for one in person["devices"]] == [token("apns", "user-1")]
    assert person["consents"]["unsubscribed"] == ["user-1@example.com"]
    assert person["consents"]["devices_without_push"] == ["user-device-1"]
    assert caller.get("/1/person.json?identity=nobody")[0] == 404
    assert caller.get("/1/person.json?identity=user-1&page=0")[0] == 400

    assert msgspec.json.decode(run("delete", "user-1").output) == {"status": "success", "deleted": 1}
    assert "Nobody has the identity" in str(run("delete", "user-1").exception)


async def test_events_are_kept_as_long_as_the_account_says(own_ledger: Ledger, facts: Facts) -> None:
    """By name, and all others; to the day, in the account's zone; with a line in the audit log, once."""
    account = create_account(own_ledger, "days", "Asia/Tokyo", NOW)[0]
    ages = (0, 1, 9, 10, 11, 29, 30, 31)

    def play(name: str, age: int) -> dict[str, Any]:
        return {"type": "event", "identity": "p", "evtName": name, "evtData": {}, "ts": int(NOW) - age * 86_400}

    plays = [play(name, age) for name in ("Short", "Long", "Other") for age in ages]
    await upload(own_ledger, facts, account, {"d": plays}, NOW)
    value = '{"events": {"Short": 10, "*": 30, "Long": 3650}}'
    own_ledger.write_now(lambda connection: set_policy(connection, account.id, "retention", value, NOW))
    for _ in range(2):
        await clean_events(own_ledger, facts, NOW, asyncio.Event())
    for table, more in (("event", ""), ("activity", "FINAL")):
        rows = facts.query_now(
            f"SELECT name, uniqExact(day) FROM {table} {more} WHERE account = {{account:String}} GROUP BY name",
            {"account": account.id},
        )
        assert dict(rows) == {"Short": 4, "Long": len(ages), "Other": 7}
    [deed] = own_ledger.read_now(lambda connection: list_deeds(connection, account.id, 10))
    assert (deed.who, deed.what) == ("retention", "events erased")
    today = datetime.fromtimestamp(NOW, account.zone).date()
    assert deed.detail == f"5 events: Other before {today - timedelta(30)}, Short before {today - timedelta(10)}"


async def test_an_account_that_fails_keeps_no_other_waiting(
    own_ledger: Ledger, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the old events of one account cannot be looked for, those of all others go all the same."""
    accounts = [create_account(own_ledger, "old", "UTC", NOW)[0] for _ in range(3)]
    old = {"type": "event", "identity": "p", "evtName": "Old", "evtData": {}, "ts": int(NOW) - 86_400 * 9}
    for one in accounts:
        await upload(own_ledger, facts, one, {"d": [old]}, NOW)
        own_ledger.write_now(
            functools.partial(set_policy, account_id=one.id, name="retention", value='{"events": {"*": 5}}', now=NOW)
        )
    broken = min(one.id for one in accounts)

    async def find(facts: Facts, account_id: str, *given: Any) -> Any:
        if account_id == broken:
            raise OSError("away")
        return await find_old_events(facts, account_id, *given)

    monkeypatch.setattr("tocsin.delivery.cleaner.find_old_events", find)
    await clean_events(own_ledger, facts, NOW, asyncio.Event())
    assert [one.id for one in accounts if count(facts, one)["event"]] == [broken]
