"""One suite for every ledger: what SQLite promises, PostgreSQL promises too."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, func, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from support.chunks import LEASE, NOW, lease, load, must_lease, release, settle, take_over
from support.empty_ledger import drop_tables

from tocsin import queue
from tocsin.account import Account, add_passcode, create_account, find_account, list_accounts, revoke_passcode
from tocsin.audience.node import Everybody
from tocsin.authenticator import Authenticator
from tocsin.campaign.runs import insert_campaign, move_run, stop_campaign
from tocsin.campaign.spec import LATEST_ID, Spec
from tocsin.channels import PLATFORM_CODES
from tocsin.content import Content
from tocsin.errors import Misconfigured, Problem
from tocsin.ingest.identity import find_users
from tocsin.ingest.people import People
from tocsin.ingest.record import read_record
from tocsin.outcome import FINAL, NUMBERS, State
from tocsin.queue import Chunk, NewRequest, Note, Recipients, Share
from tocsin.stats import counts
from tocsin.store import schema
from tocsin.store.ledger import Ledger, migrate, open_ledger, read_secret
from tocsin.store.rows import upsert_rows

pytest_plugins = ("engines",)

NOTHING = {"sent": 0, "unknown": 0, "failed": 0, "suppressed": 0}
SPEC = Spec(name="n", channel="push", where=Everybody(), content=Content(), platforms=("android",), due_at=NOW)


def new_account(store: Ledger) -> Account:
    return create_account(store, "test", "UTC", NOW)[0]


def put_secret(name: str) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(insert(schema.secret).values(name=name, value=b"x"))

    return work


def names_of(connection: Connection) -> set[str]:
    return set(connection.scalars(select(schema.secret.c.name)))


def run_of(connection: Connection, campaign: int) -> int:
    run = schema.run
    return int(connection.scalar(select(func.max(run.c.id)).where(run.c.campaign_id == campaign)) or 0)


def sum_run(store: Ledger, run_id: int) -> dict[str, int]:
    """The numbers of a run's campaign."""

    def read(connection: Connection) -> dict[str, int]:
        campaign = connection.scalar(select(schema.run.c.campaign_id).where(schema.run.c.id == run_id))
        return counts.sum_numbers(connection, campaign or 0)

    return store.read_now(read)


def insert_owner(connection: Connection) -> None:
    """The account whose campaigns and requests these are."""
    owner = {"id": "a", "name": "a", "timezone": "UTC", "created_at": NOW, "last_user": 0}
    upsert_rows(connection, schema.account, [owner], keys=("id",))


def add_run(store: Ledger, sizes: Sequence[int] = (3,), now: float = NOW) -> int:
    """A running campaign with a chunk of each of these sizes; the run's id."""

    def write(connection: Connection) -> int:
        insert_owner(connection)
        run_id = run_of(connection, insert_campaign(connection, "a", SPEC, now))
        assert move_run(connection, run_id, "running", frozen_at=now, audience=sum(sizes))
        for size in sizes:
            queue.insert_run_chunks(
                connection,
                account_id="a",
                run_id=run_id,
                campaign_id=1,
                channel="push",
                shares={Share(expires_at=now + 3600): Recipients((user, "android") for user in range(1, size + 1))},
                now=now,
            )
        return run_id

    return store.write_now(write)


def add_request(store: Ledger, now: float = NOW) -> int:
    request = NewRequest(account_id="a", channel="push", tag_group="t", request="{}", expires_at=now + 3600, now=now)

    def write(connection: Connection) -> int:
        insert_owner(connection)
        queue.insert_requests(connection, [request])
        return connection.scalar(select(func.max(schema.chunk.c.id))) or 0

    return store.write_now(write)


def end_all(chunk: Chunk, state: State = State.ACCEPTED) -> None:
    for position in range(len(chunk.states)):
        chunk.move(position, State.CLAIMED)
        chunk.move(position, state)


def run_row(store: Ledger, run_id: int) -> tuple[str, float | None]:
    run = schema.run
    row = store.read_now(lambda c: c.execute(select(run.c.state, run.c.ended_at).where(run.c.id == run_id)).one())
    return row.state, row.ended_at


@pytest.fixture
def commits(store: Ledger) -> Iterator[Counter[str]]:
    """Counts the commits of every engine while a test runs."""
    counted: Counter[str] = Counter()

    def count(_connection: Connection) -> None:
        counted["commits"] += 1

    event.listen(Engine, "commit", count)
    yield counted
    event.remove(Engine, "commit", count)


def test_migrations_make_the_schema(store: Ledger) -> None:
    """The tables that migrations make are those that schema.py describes, in every column and index."""
    context = store.read_now(
        lambda connection: compare_metadata(MigrationContext.configure(connection), schema.metadata)
    )
    assert context == []


def test_renamed_tables_keep_their_rows(ledger_url: str) -> None:
    """A ledger of 0007 is upgraded with rows in the two tables that 0008 renames, and then has the schema of today."""
    location = make_url(ledger_url)
    postgresql = location.get_backend_name() == "postgresql"
    engine = create_engine(location.set(drivername="postgresql+psycopg") if postgresql else location)
    drop_tables(ledger_url)
    migrate(ledger_url, "0007")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO pace VALUES ('a', 'push', 180000000, 7)"))
        connection.execute(text("INSERT INTO turn VALUES ('a', 'create', 'one', 1800000000.5)"))
    engine.dispose()

    upgraded = open_ledger(ledger_url)
    rows = upgraded.read_now(
        lambda connection: [
            tuple(connection.execute(select(table)).one()) for table in (schema.rate_window, schema.concurrency_slot)
        ]
    )
    differences = upgraded.read_now(
        lambda connection: compare_metadata(MigrationContext.configure(connection), schema.metadata)
    )
    upgraded.close()
    assert rows == [("a", "push", 180_000_000, 7), ("a", "create", "one", 1_800_000_000.5)]
    assert differences == []


def test_opening_again_changes_nothing(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """A second process that opens the ledger finds what the first wrote."""
    store.write_now(put_secret("kept"))
    assert open_again().read_now(names_of) == {"kept"}


async def test_a_write_is_visible_when_it_returns(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """What was written is read by this process and by another as soon as the write has returned."""
    other = open_again()
    for name in ("one", "two", "three"):
        await store.write(put_secret(name))
        assert name in await store.read(names_of)
        assert name in await other.read(names_of)


async def test_a_failing_write_harms_nobody_else(store: Ledger) -> None:
    """Of many writes in one transaction the failing ones leave no trace and the others are all kept."""

    def fail(name: str) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            put_secret(name)(connection)
            raise ValueError(name)

        return work

    held, go = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        held.set()
        assert go.wait(30)

    first = asyncio.ensure_future(store.write(hold))
    await asyncio.to_thread(held.wait, 30)
    works = [put_secret(f"good {n}") if n % 3 else fail(f"bad {n}") for n in range(30)]
    works.append(put_secret("good 1"))  # breaks the primary key, in the database itself
    writes = [asyncio.ensure_future(store.write(work)) for work in works]
    asyncio.get_running_loop().call_soon(go.set)  # after the writes have queued
    results = await asyncio.gather(first, *writes, return_exceptions=True)
    good = {f"good {n}" for n in range(30) if n % 3}
    assert {str(one) for one in results if isinstance(one, ValueError)} == {f"bad {n}" for n in range(0, 30, 3)}
    assert isinstance(results[-1], IntegrityError)
    assert results.count(None) == len(good) + 1
    assert store.read_now(names_of) == good


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)  # PostgreSQL: a transaction apiece
async def test_writes_side_by_side_share_commits(store: Ledger, commits: Counter[str]) -> None:
    """A hundred writes that wait together take a few commits, not a hundred."""
    held, go = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        held.set()
        assert go.wait(30)

    first = asyncio.ensure_future(store.write(hold))
    await asyncio.to_thread(held.wait, 30)
    writes = [asyncio.ensure_future(store.write(put_secret(f"s{n}"))) for n in range(100)]
    asyncio.get_running_loop().call_soon(go.set)  # after the writes have queued
    await asyncio.gather(first, *writes)
    assert len(store.read_now(names_of)) == 100
    assert 1 <= commits["commits"] <= 5


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_a_durable_commit_waits_for_the_disk(store: Ledger) -> None:
    """Whatever the commit before it did; one that need not be durable waits for none."""

    def look(connection: Connection) -> Any:
        return connection.exec_driver_sql("PRAGMA synchronous").scalar()

    asked = (True, True, False, False, True, False, True)
    full, normal = 2, 1
    assert [await store.write(look, durable=one) for one in asked] == [full if one else normal for one in asked]


def test_close_waits_for_accepted_writes(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """What was queued before `close` is there for whoever opens the ledger next."""
    other = open_again()
    held, go = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        held.set()
        assert go.wait(30)

    threads = [threading.Thread(target=other.write_now, args=(hold,))]
    threads[0].start()
    assert held.wait(30)
    threads += [threading.Thread(target=other.write_now, args=(put_secret(f"s{n}"),)) for n in range(5)]
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(30)
    other.close()
    assert len(store.read_now(names_of)) == 5


def test_a_secret_is_made_once(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """Every process of an installation reads the same secret, and each name has its own."""
    first = read_secret(store, "push_id")
    assert read_secret(open_again(), "push_id") == first
    assert len(first) == 32
    assert read_secret(store, "other") != first


async def test_gate_admits_by_passcode(store: Ledger) -> None:
    """A passcode opens its own account only, and a wrong account or passcode gets the documented 401."""
    account, passcode = create_account(store, " Shop ", "Europe/Berlin", NOW)
    other, other_passcode = create_account(store, "Other", "UTC", NOW)
    authenticator = Authenticator(store)
    assert (await authenticator.authenticate(account.id, passcode, NOW)) == account
    assert (await authenticator.authenticate(other.id, other_passcode, NOW)) == other
    assert (account.name, account.zone.key) == ("Shop", "Europe/Berlin")
    for name, code, sentence in (
        (None, passcode, "12 digit account ID mandatory"),
        ("", passcode, "12 digit account ID mandatory"),
        ("AAA-AAA-AAAA", passcode, "Account ID is not valid"),
        (account.id, other_passcode, "Invalid Credentials"),
        (account.id, passcode.lower(), "Invalid Credentials"),
        (account.id, "", "Invalid Credentials"),
        (account.id, None, "Invalid Credentials"),
        (account.id, "é\ud800", "Invalid Credentials"),
    ):
        with pytest.raises(Problem, match=sentence) as caught:
            await authenticator.authenticate(name, code, NOW)
        assert (caught.value.status, caught.value.code) == (401, 401)


async def test_a_revoked_passcode_is_out(store: Ledger) -> None:
    """Revoking a label ends its passcodes within a second, leaves the others, and counts once."""
    account, first = create_account(store, "Shop", "UTC", NOW)
    second = add_passcode(store, account.id, "second", NOW)
    authenticator = Authenticator(store)
    for code in (first, second):
        await authenticator.authenticate(account.id, code, NOW)
    assert revoke_passcode(store, account.id, "first", NOW) == 1
    assert revoke_passcode(store, account.id, "first", NOW) == 0
    with pytest.raises(Problem, match="Invalid Credentials"):
        await authenticator.authenticate(account.id, first, NOW + 1)
    with pytest.raises(Problem, match="Invalid Credentials"):
        await Authenticator(store).authenticate(account.id, first, NOW)
    await authenticator.authenticate(account.id, second, NOW + 1)


def test_accounts_are_checked_and_listed(store: Ledger) -> None:
    """An account needs a name and a real time zone, has at most a hundred passcodes, and is found by its id."""
    for name, zone in (("", "UTC"), ("x", "Mars/Olympus"), ("x", "")):
        with pytest.raises(Misconfigured):
            create_account(store, name, zone, NOW)
    account = new_account(store)
    assert list_accounts(store) == [account]
    assert find_account(store, account.id) == account
    with pytest.raises(Misconfigured, match="no account"):
        add_passcode(store, "AAA-AAA-AAAA", "x", NOW)
    for _ in range(99):
        add_passcode(store, account.id, "x", NOW)
    with pytest.raises(Misconfigured, match="at most 100"):
        add_passcode(store, account.id, "x", NOW)
    assert revoke_passcode(store, account.id, "x", NOW) == 99
    add_passcode(store, account.id, "x", NOW)


def upload(store: Ledger, account_id: str, *raws: dict[str, Any], now: float = NOW) -> list[int]:
    """The users of these records, once they are stored."""
    records = [read_record(raw, now) for raw in raws]

    def write(connection: Connection) -> list[int]:
        people = People(connection, account_id, now)
        people.load(records)
        users = [people.apply(record) for record in records]
        people.save(users)
        return users

    return store.write_now(write)


def profile(**fields: Any) -> dict[str, Any]:
    return {"type": "profile", "profileData": {"Name": "N"}} | fields


def token(device: str, value: str) -> dict[str, Any]:
    return {"type": "token", "objectId": device, "tokenData": {"type": "fcm", "id": value}}


def test_identities_are_written_once(store: Ledger) -> None:
    """The same identity again is the same user, with the new profile, a new version, and its first day kept."""
    account = new_account(store)
    assert upload(store, account.id, profile(identity="a", objectId="d"), profile(identity="b")) == [1, 2]
    assert upload(store, account.id, profile(objectId="d", profileData={"X": 1}), now=NOW + 5) == [1]
    assert upload(store, account.id, profile(identity="c"), now=NOW + 5) == [3]
    user = schema.user
    rows = store.read_now(lambda connection: connection.execute(select(user).order_by(user.c.id)).all())
    assert [(row.id, row.profile, row.version, row.created_at, row.updated_at) for row in rows] == [
        (1, '{"Name":"N","X":1}', 2, NOW, NOW + 5),
        (2, '{"Name":"N"}', 1, NOW, NOW),
        (3, '{"Name":"N"}', 1, NOW + 5, NOW + 5),
    ]
    assert upload(store, new_account(store).id, profile(identity="a")) == [1]


def test_a_device_follows_whoever_was_named_on_it_last(store: Ledger) -> None:
    """An objectId that is uploaded for somebody else moves to them with its token, on any engine."""
    account = new_account(store)
    upload(store, account.id, profile(identity="a", objectId="d"), token("d", "t1"))
    assert upload(store, account.id, profile(identity="b", objectId="d"), now=NOW + 5) == [2]
    upload(store, account.id, token("d", "t2"), now=NOW + 6)
    keys = [("identity", "a"), ("identity", "b"), ("objectId", "d"), ("objectId", "x")]
    found = store.read_now(lambda connection: find_users(connection, account.id, keys))
    assert found == {keys[0]: 1, keys[1]: 2, keys[2]: 2}
    device = schema.device
    rows = store.read_now(
        lambda connection: connection.execute(select(device.c.user_id, device.c.token, device.c.registered_at)).all()
    )
    assert [tuple(row) for row in rows] == [(2, "t2", NOW + 6)]


def test_upsert_alters_all_but_what_is_kept(store: Ledger) -> None:
    """A row whose key exists takes the new values, except in the columns that are kept."""
    row = {"account_id": "a", "id": 1, "profile": "{}", "version": 1, "created_at": 1.0, "updated_at": 1.0}
    other = row | {"id": 2}
    changed = row | {"profile": '{"x":1}', "version": 2, "created_at": 9.0, "updated_at": 9.0}

    def write(connection: Connection) -> list[Any]:
        upsert_rows(connection, schema.user, [row], keys=("account_id", "id"), kept=("created_at",))
        upsert_rows(connection, schema.user, [changed, other], keys=("account_id", "id"), kept=("created_at",))
        return [dict(one._mapping) for one in connection.execute(select(schema.user).order_by(schema.user.c.id))]

    assert store.write_now(write) == [changed | {"created_at": 1.0}, other]


async def test_campaign_ids_are_unique_and_small(store: Ledger) -> None:
    """Three hundred campaigns of one second have an id each, near that second and within signed 32 bits."""
    ids = await asyncio.gather(*(store.write(lambda c: insert_campaign(c, "a", SPEC, NOW)) for _ in range(300)))
    assert sorted(ids) == list(range(int(NOW), int(NOW) + 300))
    assert store.write_now(lambda connection: insert_campaign(connection, "b", SPEC, NOW - 99)) == NOW + 300
    with pytest.raises(OverflowError):
        store.write_now(lambda connection: insert_campaign(connection, "b", SPEC, LATEST_ID + 1.0))
    assert store.write_now(lambda connection: insert_campaign(connection, "b", SPEC, NOW)) == NOW + 301


async def test_two_processes_make_campaigns_side_by_side(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """Two API processes that create campaigns in the same second never collide."""
    ledgers = (store, open_again())
    made = [ledgers[n % 2].write(lambda c: insert_campaign(c, "a", SPEC, NOW)) for n in range(100)]
    ids = await asyncio.gather(*made, return_exceptions=True)
    assert [one for one in ids if isinstance(one, BaseException)] == []
    assert len(set(ids)) == 100


async def test_two_processes_take_uploads_side_by_side(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """Two API processes that meet new people of one account at once give each a number of their own."""
    account = new_account(store)
    ledgers = (store, open_again())
    uploads = [asyncio.to_thread(upload, ledgers[n % 2], account.id, profile(identity=f"i{n}")) for n in range(60)]
    users = await asyncio.gather(*uploads, return_exceptions=True)
    assert [one for one in users if isinstance(one, BaseException)] == []
    assert sorted(one[0] for one in users if isinstance(one, list)) == list(range(1, 61))


def test_transactional_goes_before_campaign(store: Ledger) -> None:
    """A send by identity overtakes the chunks of campaigns that wait longer; among equals the oldest is first."""
    run_id = add_run(store, (1, 1), NOW - 100)
    requests = [add_request(store), add_request(store, NOW + 1)]
    order = [must_lease(store, now=NOW) for _ in range(4)]
    assert [chunk.id for chunk in order] == [*requests, *sorted(chunk.id for chunk in order[2:])]
    assert [chunk.run_id for chunk in order[2:]] == [run_id, run_id]
    assert lease(store) is None


async def test_no_chunk_has_two_owners(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """Two processes that lease side by side until nothing is left get every chunk exactly once."""
    add_run(store, [1] * 30)
    taken: list[int] = []

    async def work(ledger: Ledger, owner: str) -> None:
        while chunks := await ledger.write(lambda connection: queue.lease_due(connection, owner, NOW, LEASE, limit=2)):
            taken.extend(chunk.id for chunk in chunks)

    ledgers = (store, open_again())
    await asyncio.gather(*(work(ledgers[n % 2], f"owner {n}") for n in range(6)))
    assert len(taken) == 30
    assert len(set(taken)) == 30


def test_a_lost_worker_leaves_unknowns(store: Ledger) -> None:
    """After a lease ran out, what was claimed is unknown for good, what waited still waits, finals stay."""
    run_id = add_run(store, (4,))
    chunk = must_lease(store)
    for position in (0, 1, 2):
        chunk.move(position, State.CLAIMED)
    chunk.notes[1] = Note(tries=2, code="503")
    chunk.move(0, State.ACCEPTED)
    assert settle(store, chunk)
    assert lease(store, "two", NOW + LEASE) is None
    again = must_lease(store, "two", NOW + LEASE + 1)
    assert again.id == chunk.id
    assert bytes(again.states) == bytes((State.ACCEPTED, State.UNKNOWN, State.UNKNOWN, State.WAITING))
    at = NOW + LEASE + 1
    assert again.notes == {1: Note(tries=3, code="worker lost", at=at), 2: Note(tries=1, code="worker lost", at=at)}
    assert again.waiting(NOW + LEASE + 1) == [3]
    stored = load(store, chunk.id)
    assert (stored.states, stored.notes, stored.started_at) == (again.states, again.notes, NOW)
    numbers = sum_run(store, run_id)
    assert numbers == NOTHING | {"sent": 1, "unknown": 2}


def test_settling_renews_the_lease(store: Ledger) -> None:
    """A worker that settles keeps its chunk for another lease from then on."""
    add_run(store)
    chunk = must_lease(store)
    assert settle(store, chunk, now=NOW + 50)
    assert lease(store, "two", NOW + 50 + LEASE) is None
    assert lease(store, "two", NOW + 50 + LEASE + 1) is not None


@pytest.mark.parametrize("owner", ["two", "one"], ids=["another process", "a sibling in the same process"])
def test_a_taken_lease_is_fenced(store: Ledger, owner: str) -> None:
    """A worker whose chunk was taken can settle, freeze and release nothing, whoever took it."""
    run_id = add_run(store)
    late = must_lease(store, "one")
    late.move(0, State.CLAIMED)
    assert settle(store, late, "one")
    now = NOW + LEASE + 1
    current = must_lease(store, owner, now)
    before = load(store, current.id)
    late.move(0, State.ACCEPTED)
    late.move(1, State.CLAIMED)
    assert not settle(store, late, "one", now)
    queue.name_recipients(late, [(9, "ios")], now)
    assert not settle(store, late, "one", now)
    assert not release(store, late, now + 5, "one", now)
    assert load(store, current.id) == before
    assert settle(store, current, owner, now)
    assert run_row(store, run_id) == ("running", None)


def test_released_chunk_stays_open(store: Ledger) -> None:
    """A chunk let go for later is leased by anybody from then on, as it was left."""
    run_id = add_run(store)
    chunk = must_lease(store)
    chunk.move(0, State.CLAIMED)
    chunk.move(0, State.WAITING)
    chunk.notes[0] = Note(tries=1, code="503", not_before=NOW + 30)
    assert settle(store, chunk)
    assert not release(store, chunk, NOW + 30)
    assert lease(store, "two", NOW + 29) is None
    again = must_lease(store, "two", NOW + 30)
    assert (again.states, again.notes) == (chunk.states, chunk.notes)
    assert run_row(store, run_id) == ("running", None)


def test_the_last_closed_chunk_ends_its_run(store: Ledger) -> None:
    """A run is completed when its last chunk closes, at that moment, and its numbers are all there."""
    run_id = add_run(store, (2, 3))
    first, second = must_lease(store), must_lease(store)
    for chunk in (first, second):
        end_all(chunk)
        assert settle(store, chunk)
    assert not release(store, first)
    assert run_row(store, run_id) == ("running", None)
    assert release(store, second, now=NOW + 9)
    assert run_row(store, run_id) == ("completed", NOW + 9)
    assert lease(store, now=NOW + 9999) is None
    assert not release(store, second, now=NOW + 10)
    assert run_row(store, run_id) == ("completed", NOW + 9)


def test_a_chunk_under_way_cannot_be_closed(store: Ledger) -> None:
    """Completing a chunk with a recipient that is not final is a bug, and it stays open."""
    add_run(store)
    chunk = must_lease(store)
    with pytest.raises(ValueError, match="under way"):
        release(store, chunk)
    assert lease(store, "two", NOW + LEASE + 1) is not None


def test_stop_is_seen_at_the_next_claim(store: Ledger) -> None:
    """A stopped run says so to the transaction that claims, and stays stopped when its chunks close."""
    run_id = add_run(store)
    campaign = int(NOW)
    assert store.read_now(lambda connection: queue.find_stopped(connection, [run_id, None])) == set()
    chunk = must_lease(store)
    assert store.write_now(lambda c: stop_campaign(c, "a", campaign, NOW)) == "running"
    assert store.read_now(lambda connection: queue.find_stopped(connection, [run_id, None, 999])) == {run_id}
    for position in range(3):
        chunk.move(position, State.STOPPED)
    assert settle(store, chunk)
    assert release(store, chunk, now=NOW + 1)
    assert run_row(store, run_id) == ("stopped", NOW + 1)
    assert store.write_now(lambda c: stop_campaign(c, "a", campaign, NOW)) == "stopped"
    with pytest.raises(Problem, match="Invalid campaign id"):
        store.write_now(lambda c: stop_campaign(c, "b", campaign, NOW))


def test_a_request_is_frozen_to_its_people(store: Ledger) -> None:
    """A send by identity gets its recipients once; those nobody has, or nobody can reach, are final at once."""
    add_request(store)
    chunk = must_lease(store)
    pairs = [(7, "ios"), (8, ""), (0, ""), (2**32 - 1, "email")]
    queue.name_recipients(chunk, pairs, NOW)
    assert settle(store, chunk)
    stored = load(store, chunk.id)
    assert list(stored.users) == [7, 8, 0, 2**32 - 1]
    assert [PLATFORM_CODES[code] for code in stored.platforms] == ["ios", "", "", "email"]
    assert [State(byte).name for byte in stored.states] == ["WAITING", "NO_DEVICE", "NOT_FOUND", "WAITING"]
    row = store.read_now(lambda connection: connection.execute(select(schema.chunk)).one())
    assert (row.size, row.suppressed, row.sent, row.priority, row.tag_group) == (4, 2, 0, 0, "t")


def test_numbers_equal_a_recount(store: Ledger) -> None:
    """The sums of a run are those of its recipients' bytes, for every state and over several chunks."""
    run_id = add_run(store, (len(State), 1000, 1))
    add_run(store, (2,), NOW + 1)
    everything = bytes(State) + bytes(State.ACCEPTED for _ in range(600)) + bytes(401)
    for start in (0, len(State), len(State) + 1000):
        chunk = must_lease(store)
        chunk.states[:] = everything[start : start + len(chunk.states)]
        assert settle(store, chunk)
    numbers = sum_run(store, run_id)
    recount = {name: sum(State(byte) in members for byte in everything) for name, members in NUMBERS.items()}
    assert numbers == recount
    assert recount["sent"] == 601
    assert sum(numbers.values()) == sum(State(byte) in FINAL for byte in everything)


def test_chunks_hold_a_thousand(store: Ledger) -> None:
    """An audience is cut into chunks of at most a thousand, nobody lost and nobody doubled."""
    add_run(store, (2001,))
    sizes, users = [], []
    while chunk := lease(store):
        sizes.append(len(chunk.states))
        users += list(chunk.users)
    assert sizes == [1000, 1000, 1]
    assert users == list(range(1, 2002))


def test_dead_owners_are_freed(store: Ledger) -> None:
    """Where one process has the ledger to itself, what another owner held is leased at once, its claims unknown."""
    add_run(store, (2, 1, 1))
    dead, ours = must_lease(store, "dead"), must_lease(store, "ours")
    dead.move(0, State.CLAIMED)
    assert settle(store, dead, "dead")
    assert take_over(store, "ours", NOW, alone=True) == ["dead"]
    taken = [must_lease(store, "ours"), must_lease(store, "ours")]
    assert {chunk.id for chunk in taken} & {ours.id} == set()
    assert [bytes(chunk.states) for chunk in taken if chunk.id == dead.id] == [bytes((State.UNKNOWN, State.WAITING))]
    assert lease(store, "ours") is None


def test_times_and_bytes_come_back(store: Ledger) -> None:
    """Fractions of a second, any byte and any letter are stored as they were given."""
    add_run(store, (1,), NOW + 0.123456)
    chunk = must_lease(store, now=NOW + 1.654321)
    chunk.notes[0] = Note(tries=1, code='550 «nein» 🔔 "x"\\', not_before=NOW + 2.000001)
    assert settle(store, chunk)
    stored = load(store, chunk.id)
    assert stored.notes == chunk.notes
    assert stored.started_at == NOW + 1.654321
    blob = bytes(range(256))
    store.write_now(lambda connection: connection.execute(insert(schema.secret).values(name="b", value=blob)))
    assert store.read_now(lambda connection: bytes(connection.scalar(select(schema.secret.c.value)) or b"")) == blob
    changed = update(schema.secret).values(name="é" * 64)
    assert store.write_now(lambda connection: connection.execute(changed).rowcount) == 1
    assert store.read_now(lambda connection: connection.scalar(select(func.count()).select_from(schema.secret))) == 1
