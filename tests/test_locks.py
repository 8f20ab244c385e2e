"""Two processes on one PostgreSQL ledger meet: a stop holds, nobody deadlocks, no version is given twice.

Each transaction runs once, without the retries of the ledger: what would be a deadlock is an error here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, func, select, text
from support.blocked import run_apart, wait_until_blocked
from support.chunks import NOW, must_lease
from support.stage import BODY, SETTINGS, Stage, Vendor

from tocsin import queue
from tocsin.account import Account, create_account
from tocsin.campaign.runs import insert_campaign, stop_campaign
from tocsin.campaign.spec import read_spec
from tocsin.delivery.completer import Completer, DeliveredChunk
from tocsin.delivery.frequency_cap import CapRule, Claim, give_back, reserve
from tocsin.delivery.recipients import mark_gone
from tocsin.delivery.recorder import record_outcomes
from tocsin.delivery.snapshot import snapshot_due_runs
from tocsin.ingest import upload
from tocsin.ingest.people import People
from tocsin.ingest.profile_copy import bump_versions, copy_profiles
from tocsin.ingest.record import read_record
from tocsin.ingest.subscription import AddressChange, apply_address_changes
from tocsin.outcome import State
from tocsin.policy import Cap
from tocsin.providers.contract import Address
from tocsin.queue import Chunk
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)
pytestmark = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)  # SQLite has one writer

run, chunk = schema.run, schema.chunk


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def account(store: Ledger) -> Account:
    return create_account(store, "locks", "UTC", NOW)[0]


@contextmanager
def holding(store: Ledger, statement: str) -> Iterator[None]:
    """A transaction of somebody else that has a lock."""
    with store._writer.begin() as connection:
        connection.execute(text(statement))
        yield


def runs_of(store: Ledger) -> list[tuple[str, bool]]:
    """(state, whether it has ended) of every run."""
    query = select(run.c.state, run.c.ended_at.is_not(None)).order_by(run.c.id)
    return [(state, ended) for state, ended in store.read_now(lambda c: c.execute(query).all())]


DAILY = {"type": "recurring", "start_time": "20270115 08:00", "repeat_type": "day", "end_by_occurrences": 5}


async def recurring(stage: Stage) -> int:
    """A recurring campaign whose first run is due."""
    await stage.people(2)
    stage.now = NOW - 3600
    spec = read_spec(BODY | {"when": DAILY}, stage.account, stage.now)
    stage.now = NOW + 60
    return await stage.ledger.write(lambda c: insert_campaign(c, stage.account.id, spec, NOW - 3600))


async def test_a_stop_that_meets_a_snapshot(
    store: Ledger, open_again: Callable[[], Ledger], facts: Facts, threads: ThreadPoolExecutor
) -> None:
    """A recurring campaign is stopped while another process begins its run and adds the next: both are stopped, and
    the chunks are due to be settled."""
    stage, other = Stage(store, facts, {"android": Vendor()}), open_again()
    campaign = await recurring(stage)
    with holding(other, "LOCK TABLE chunk IN SHARE MODE"):  # the snapshot has moved its run, and waits with the chunks
        begun = asyncio.ensure_future(snapshot_due_runs(store, facts, stage.now, SETTINGS))
        await asyncio.to_thread(wait_until_blocked, store, 1)
        stop = threads.submit(run_apart(other, lambda c: stop_campaign(c, stage.account.id, campaign, stage.now)))
        await asyncio.to_thread(wait_until_blocked, store, 2, stop)
    assert (await begun, stop.result(30)) == (1, "running")
    assert runs_of(store) == [("stopped", False), ("stopped", True)]
    due = store.read_now(lambda c: c.scalars(select(chunk.c.not_before).where(chunk.c.open == 1)).all())
    assert due == [stage.now]
    assert await snapshot_due_runs(store, facts, stage.now + 86_400, SETTINGS) == 0


async def test_a_snapshot_that_meets_a_stop(
    store: Ledger, open_again: Callable[[], Ledger], facts: Facts, threads: ThreadPoolExecutor
) -> None:
    """The other way round: who begins the run waits for the stop, finds it, and adds nothing."""
    stage, other = Stage(store, facts, {"android": Vendor()}), open_again()
    campaign = await recurring(stage)
    stopped, go = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        stop_campaign(connection, stage.account.id, campaign, stage.now)
        stopped.set()
        assert go.wait(30)

    stop = threads.submit(run_apart(other, hold))
    assert await asyncio.to_thread(stopped.wait, 30)
    begun = asyncio.ensure_future(snapshot_due_runs(store, facts, stage.now, SETTINGS))
    await asyncio.to_thread(wait_until_blocked, store, 1)
    go.set()
    stop.result(30)
    assert await begun == 0
    assert runs_of(store) == [("stopped", True)]
    assert store.read_now(lambda c: c.scalar(select(func.count()).select_from(chunk))) == 0


async def running(stage: Stage, campaigns: int, size: int = 1) -> list[int]:
    """So many running campaigns of one chunk each; their ids."""
    await stage.people(size)
    return [await stage.campaign() for _ in range(campaigns)]


def finished(store: Ledger) -> Chunk:
    """A chunk that is leased and wholly settled."""
    leased = must_lease(store)
    for position in range(len(leased.states)):
        leased.move(position, State.CLAIMED)
        leased.move(position, State.ACCEPTED)
    assert store.write_now(lambda c: queue.settle(c, [leased], NOW, 60.0)) == set()
    return leased


async def test_a_stop_that_meets_the_last_chunk(
    store: Ledger, open_again: Callable[[], Ledger], facts: Facts, threads: ThreadPoolExecutor
) -> None:
    """A campaign is stopped while another process closes its chunk: one waits for the other, and neither fails."""
    stage, other = Stage(store, facts, {"android": Vendor()}), open_again()
    [campaign] = await running(stage, 1)
    done = finished(store)
    with holding(store, "SELECT 1 FROM run FOR UPDATE"):
        stop = threads.submit(run_apart(other, lambda c: stop_campaign(c, stage.account.id, campaign, NOW)))
        await asyncio.to_thread(wait_until_blocked, store, 1, stop)
        close = threads.submit(run_apart(store, lambda c: queue.release(c, [(done, None)], NOW)))
        await asyncio.to_thread(wait_until_blocked, store, 2, close)
    assert (stop.result(30), close.result(30)) == ("running", [campaign])
    assert runs_of(store) == [("stopped", True)]


async def test_two_that_close_chunks_crosswise(
    store: Ledger, open_again: Callable[[], Ledger], facts: Facts, threads: ThreadPoolExecutor
) -> None:
    """Two processes close chunks of the same two runs, each in its own order, beside a stop of one of them."""
    stage, other = Stage(store, facts, {"android": Vendor(), "ios": Vendor()}), open_again()
    await stage.people(1, kinds=("fcm", "apns"))
    campaigns = [await stage.campaign(devices=["android", "ios"]) for _ in range(2)]
    chunks = [finished(store) for _ in range(4)]
    assert len({one.run_id for one in chunks[:2]}) == 1
    blocks = [(chunks[0], chunks[2]), (chunks[3], chunks[1])]
    await record_outcomes(facts, [(stage.account, one) for one in chunks])  # here, so that nobody waits for facts below

    async def close(ledger: Ledger, block: tuple[Chunk, ...]) -> None:
        completer = Completer(ledger, facts, lambda: NOW, lambda: False, lambda: None)
        await completer.close([DeliveredChunk(stage.account, one) for one in block])

    with holding(store, "SELECT 1 FROM run FOR UPDATE"):
        stop = threads.submit(run_apart(other, lambda c: stop_campaign(c, stage.account.id, campaigns[1], NOW)))
        await asyncio.to_thread(wait_until_blocked, store, 1, stop)
        closing = asyncio.gather(*(close(one, block) for one, block in zip((store, other), blocks, strict=True)))
        await asyncio.to_thread(wait_until_blocked, store, 3)
    stop.result(30)
    await closing
    assert runs_of(store) in ([("completed", True), (state, True)] for state in ("completed", "stopped"))
    assert deadlocks(store) == 0


def deadlocks(store: Ledger) -> int:
    """How many this database has met."""

    def read(connection: Connection) -> int:
        connection.execute(text("SELECT pg_stat_clear_snapshot(), pg_stat_force_next_flush()"))
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(connection.scalar(text(query)) or 0)

    return store.read_now(read)


def profile(name: str, **data: Any) -> dict[str, Any]:
    return {"type": "profile", "identity": name, "objectId": f"d-{name}", "profileData": data}


def save(connection: Connection, account: Account, *raws: dict[str, Any], pause: Callable[[], Any] = bool) -> list[Any]:
    """What an upload does, with a pause in the middle; the copies for facts."""
    records = [read_record(raw, NOW) for raw in raws]
    people = People(connection, account.id, NOW)
    people.load(records)
    users = [people.apply(record) for record in records]
    pause()
    people.save(users)
    return copy_profiles(connection, account.id, users)


def refresh(connection: Connection, account: Account, users: list[int]) -> list[Any]:
    bump_versions(connection, account.id, users)
    return copy_profiles(connection, account.id, users)


def test_no_version_is_given_twice(
    store: Ledger, open_again: Callable[[], Ledger], account: Account, threads: ThreadPoolExecutor
) -> None:
    """An upload has read its people; another process copies them again. Each copy has a version of its own, and the one
    with the highest is what the ledger knows."""
    other = open_again()
    store.write_now(lambda c: save(c, account, profile("a", Level="none"), profile("b", Level="none")))
    loaded, go = threading.Event(), threading.Event()

    def pause() -> None:
        loaded.set()
        assert go.wait(30)

    gold = [profile("b", Level="Gold"), profile("a", Level="Gold")]
    uploading = threads.submit(run_apart(store, lambda c: save(c, account, *gold, pause=pause)))
    assert loaded.wait(30)
    copying = threads.submit(run_apart(other, lambda c: refresh(c, account, [1, 2])))
    wait_until_blocked(store, 1, copying)
    go.set()
    copies = sorted((row[1], row[2], row) for row in (*uploading.result(30), *copying.result(30)))
    assert [(user, version) for user, version, _ in copies] == [(1, 2), (1, 3), (2, 2), (2, 3)]
    now = store.read_now(lambda c: copy_profiles(c, account.id, [1, 2]))
    assert [row for _, version, row in copies if version == 3] == sorted(now)


def test_the_database_counts_versions(store: Ledger, account: Account) -> None:
    """Whatever was read before, a version is the stored one and one more; also without any lock."""
    store.write_now(lambda c: save(c, account, profile("a")))

    def behind(connection: Connection) -> list[Any]:
        connection.execute(text('UPDATE "user" SET version = 7'))
        return []

    def write(connection: Connection) -> list[Any]:
        return save(connection, account, profile("a", X=1), pause=lambda: behind(connection))

    assert [row[2] for row in store.write_now(write)] == [8]


async def test_an_opt_out_by_event_is_a_new_version(store: Ledger, facts: Facts, account: Account) -> None:
    """An uploaded «Channel Unsubscribed» changes what its user's copy says, so the copy has a new version."""
    await upload(store, facts, account, {"d": [profile("a", Email="a@example.com")]}, NOW)
    event = {"type": "event", "identity": "a", "evtName": "Channel Unsubscribed", "ts": int(NOW)}
    await upload(store, facts, account, {"d": [event | {"evtData": {"Campaign Type": "Email"}}]}, NOW, system=True)
    [row] = store.read_now(lambda c: copy_profiles(c, account.id, [1]))
    assert row[2] > 1  # the person's, and once more as one of those who have the address


def cross(
    threads: ThreadPoolExecutor, store: Ledger, other: Ledger, first: Callable[..., Any], second: Callable[..., Any]
) -> tuple[Any, Any]:
    """What two transactions return, of which the second starts when the first is in its middle (`pause`)."""
    begun, go = threading.Event(), threading.Event()

    def pause() -> None:
        begun.set()
        assert go.wait(30)

    one: Future[Any] = threads.submit(run_apart(store, lambda c: first(c, pause)))
    assert begun.wait(30)
    two: Future[Any] = threads.submit(run_apart(other, second))
    wait_until_blocked(store, 1, two)
    go.set()
    return one.result(30), two.result(30)


def test_dead_devices_meet_an_upload(
    store: Ledger, open_again: Callable[[], Ledger], account: Account, threads: ThreadPoolExecutor
) -> None:
    """Two devices are found dead while an upload takes them to another user, in the other order."""
    tokens = [
        {"type": "token", "objectId": f"d-{name}", "tokenData": {"type": "fcm", "id": f"t-{name}"}} for name in "ab"
    ]
    store.write_now(lambda c: save(c, account, profile("a"), profile("b"), *tokens))
    addresses = {user: Address("fcm", f"t-{name}", NOW) for user, name in ((1, "a"), (2, "b"))}

    def bury(connection: Connection, pause: Callable[[], None]) -> int:
        removed = 0
        for user, address in addresses.items():
            removed += len(mark_gone(connection, account.id, {user: [(user, address, "410")]}, NOW))
            if user == 1:
                pause()
        return removed

    moves = [profile("c") | {"objectId": "d-b"}, profile("c") | {"objectId": "d-a"}]
    removed, _ = cross(threads, store, open_again(), bury, lambda c: save(c, account, *moves))
    assert removed == 2
    owners = store.read_now(lambda c: set(c.scalars(select(schema.device.c.user_id))))
    assert owners == {3}


def test_opt_outs_meet(
    store: Ledger, open_again: Callable[[], Ledger], account: Account, threads: ThreadPoolExecutor
) -> None:
    """Two requests that opt the same addresses out, in opposite orders."""
    changes = [AddressChange("email", f"{name}@example.com", True) for name in "ab"]

    def first(connection: Connection, pause: Callable[[], None]) -> None:
        apply_address_changes(connection, account.id, changes[:1], NOW)
        pause()
        apply_address_changes(connection, account.id, changes[1:], NOW)

    cross(threads, store, open_again(), first, lambda c: apply_address_changes(c, account.id, changes[::-1], NOW))
    assert store.read_now(lambda c: c.scalar(select(func.count()).select_from(schema.unsubscribed))) == 2


def test_claims_under_caps_meet(
    store: Ledger, open_again: Callable[[], Ledger], account: Account, threads: ThreadPoolExecutor
) -> None:
    """One gives places back and claims, the other does the same in between: it waits, and sees what the first left.
    Another account waits for nobody."""
    rule = CapRule(account_id=account.id, channel="push", message="r1", campaign_id=1, account=Cap(most=1), throttle=10)
    second = msgspec.structs.replace(rule, message="r2")
    claims = [Claim(0, 1, 1, NOW), Claim(1, 2, 1, NOW)]
    store.write_now(lambda c: reserve(c, [(rule, claims)], NOW))
    other = open_again()
    elsewhere = msgspec.structs.replace(rule, account_id="other")

    def turn(connection: Connection, pause: Callable[[], None]) -> Any:
        give_back(connection, rule, claims[:1])
        pause()
        assert other.write_now(lambda c: reserve(c, [(elsewhere, claims)], NOW)[0]).dropped == {}
        return reserve(connection, [(rule, claims[:1])], NOW)[0].dropped

    def meanwhile(connection: Connection) -> Any:
        give_back(connection, second, [Claim(5, 9, 1, NOW)])
        return reserve(connection, [(second, claims)], NOW)[0].dropped

    dropped = cross(threads, store, other, turn, meanwhile)
    assert dropped == ({}, {0: State.FREQUENCY_CAP, 1: State.FREQUENCY_CAP})
