"""Leases: by the database's clock where hosts share it, found by one index, exact when a transaction is broken off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Select, insert, select, text, update
from support.chunks import take_over
from support.database_clock import follow_clock
from support.stage import CONTENT, SETTINGS, Stage, Vendor

from tocsin import queue
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.send import accept, read_asked
from tocsin.campaign.send_queue import SendQueue
from tocsin.delivery.wakeup import Wakeup
from tocsin.outcome import Outcome
from tocsin.policy import set_policy
from tocsin.providers.contract import Message
from tocsin.queue import CAMPAIGN, TRANSACTIONAL, Chunk, NewRequest, Recipients, Share
from tocsin.store import schema
from tocsin.store.clock import ledger_now
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)
on_postgresql = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)

NOW, LEASE = 1_800_000_000.0, 60.0
table = schema.chunk


def add_chunk(store: Ledger, now: float) -> None:
    share = Share(expires_at=now + 3600)
    store.write_now(
        lambda c: queue.insert_run_chunks(
            *(c,),
            account_id="a",
            run_id=1,
            campaign_id=1,
            channel="push",
            shares={share: Recipients([(1, "android")])},
            now=now,
        )
    )


def lease(store: Ledger, owner: str, now: float) -> Chunk | None:
    """As a worker whose own clock says `now`."""
    take_over(store, owner, now)
    chunks = store.write_now(lambda c: queue.lease_due(c, owner, now, LEASE))
    return chunks[0] if chunks else None


def test_the_ledger_tells_the_time(store: Ledger) -> None:
    """On PostgreSQL it is the database's; on SQLite whatever it was given."""
    told = float(store.read_now(lambda c: c.scalar(select(ledger_now(c, NOW)))) or 0)
    assert told == NOW if store.embedded else abs(told - time.time()) < 60


@on_postgresql
@pytest.mark.parametrize("ahead", [LEASE + 1, 86_400.0])
def test_a_host_that_is_ahead_takes_nothing(store: Ledger, open_again: Callable[[], Ledger], ahead: float) -> None:
    """Two hosts, one of them ahead by more than a lease: it takes no chunk of a living worker, however that one keeps
    it; and after it is silent so long by the database's clock, it does."""
    other, at = open_again(), [NOW]
    for one in (store, other):
        follow_clock(one, lambda: at[0])
    add_chunk(store, NOW)
    held = lease(store, "true", NOW)
    assert held is not None
    assert lease(other, "ahead", NOW + ahead) is None
    at[0] += LEASE - 1
    assert store.write_now(lambda c: queue.settle(c, [held], at[0], LEASE)) == set()
    at[0] += LEASE - 1
    assert lease(other, "ahead", at[0] + ahead) is None
    assert store.write_now(lambda c: queue.renew(c, [held], at[0], LEASE)) == set()
    at[0] += LEASE
    assert lease(other, "ahead", at[0] + ahead) is None
    at[0] += 1
    taken = lease(other, "ahead", at[0] + ahead)
    assert taken is not None
    assert store.write_now(lambda c: queue.renew(c, [held], at[0], LEASE)) == {held.id}


@on_postgresql
@pytest.mark.parametrize("off", [-86_400.0, 86_400.0])
def test_a_clock_that_is_wrong_keeps_its_own_chunk(store: Ledger, open_again: Callable[[], Ledger], off: float) -> None:
    """A worker whose clock is wrong holds a chunk as long as any other, and not a day longer."""
    at = [NOW]
    other = open_again()
    for one in (store, other):
        follow_clock(one, lambda: at[0])
    add_chunk(store, NOW)
    assert lease(store, "wrong", NOW + off) is not None
    at[0] += LEASE
    assert lease(other, "true", at[0]) is None
    at[0] += 1
    assert lease(other, "true", at[0]) is not None


def fill(connection: Connection, requests: int, chunks: int, later: int) -> None:
    """A backlog: requests, chunks of a campaign, and chunks that are due tomorrow; as many that are closed; a hundred
    that are held."""
    one = NewRequest(account_id="a", channel="push", tag_group="", request="{}", expires_at=NOW + 60, now=NOW)
    queue.insert_requests(connection, [one])
    row: dict[str, Any] = dict(connection.execute(select(table)).one()._mapping)
    row.pop("id")
    kinds = ((TRANSACTIONAL, 0.0, requests - 1), (CAMPAIGN, 0.0, chunks), (CAMPAIGN, NOW + 86_400, later))
    for priority, not_before, count in kinds:
        same = row | {"priority": priority, "not_before": not_before}
        rows = [same | {"open": number % 2} for number in range(2 * count)]
        if rows:
            connection.execute(insert(table), rows)
    oldest = select(table.c.id).where(table.c.open == 1).order_by(table.c.id).limit(100)
    connection.execute(
        update(table).where(table.c.id.in_(oldest)).values(lease_owner="living", lease_until=time.time() + 600)
    )
    connection.execute(text("ANALYZE chunk" if connection.dialect.name == "postgresql" else "ANALYZE"))


def test_a_claim_reads_what_it_takes(store: Ledger) -> None:
    """With a backlog a claim neither sorts nor reads what it does not take; who fell silent is looked for among those
    that are held."""
    store.write_now(lambda c: fill(c, 1000, 1000, 1000))

    def explain(connection: Connection, query: Select[Any]) -> str:
        explained = query.compile(connection.engine, compile_kwargs={"literal_binds": True})
        how = "EXPLAIN QUERY PLAN" if store.embedded else "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF)"
        return "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(f"{how} {explained}"))

    for priority in (TRANSACTIONAL, CAMPAIGN):
        plan = store.read_now(lambda c, one=priority: explain(c, queue._FREE.params(priority=one, now=NOW, most=1)))  # type: ignore[misc]
        assert "chunk_due" in plan
        assert "sort" not in plan.lower()
        assert "TEMP B-TREE" not in plan
        assert "Removed by Filter" not in plan
    plan = store.read_now(lambda c: explain(c, queue._select_silent(c, "x", time.time(), alone=False)))
    assert "chunk_held" in plan
    assert "Removed by Filter: 100" in plan or store.embedded


BREAK_OFF = """
    CREATE SEQUENCE updates;
    CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('updates') = %d THEN RAISE serialization_failure; END IF; RETURN NEW; END $$;
    CREATE TRIGGER break_off BEFORE UPDATE ON chunk FOR EACH ROW EXECUTE FUNCTION break_off()
"""
MEND = "DROP TRIGGER break_off ON chunk; DROP FUNCTION break_off; DROP SEQUENCE updates"


@on_postgresql
@pytest.mark.parametrize("update", [1, 2, 3, 4])
async def test_a_commit_that_is_broken_off_is_made_again(store: Ledger, facts: Facts, update: int) -> None:
    """Whichever write of a chunk the database breaks off (lease, claim, settlement, release), everybody gets one
    message, and who is over a cap none."""
    vendor = Vendor(Outcome.ACCEPTED, Outcome.REFUSED)
    stage = Stage(store, facts, {"android": vendor}, SETTINGS)
    caps = '{"push": {"most": 1, "days": 1}}'
    store.write_now(lambda c: set_policy(c, stage.account.id, "caps", caps, stage.now))
    await stage.people(4)
    await stage.send({"Identity": ["u3"]})
    await stage.deliver_all()
    campaign = await stage.campaign()
    with store._writer.begin() as connection:
        connection.exec_driver_sql(BREAK_OFF % update)
    try:
        await stage.deliver_all()
        made = store.read_now(lambda c: c.scalar(text("SELECT last_value FROM updates"))) or 0
    finally:
        with store._writer.begin() as connection:
            connection.exec_driver_sql(MEND)
    assert sorted(vendor.tokens) == [f"u{number}-fcm-0" for number in range(4)]
    assert await stage.result(campaign) == {"audience": 4, "sent": 2, "failed": 1, "suppressed": 1}
    assert made >= update, "nothing was broken off"


async def send_to(stage: Stage, sends: SendQueue, *identities: str) -> None:
    asked = read_asked({"to": {"Identity": [*identities]}, "content": CONTENT})
    await accept(sends, stage.account, "push", asked, stage.now, stage.settings, CompilePool())


async def test_what_comes_alone_is_leased_as_it_is_inserted(own_ledger: Ledger, facts: Facts) -> None:
    """A request alone is with its worker once it is accepted, and goes out though nobody looks; one that comes while
    the vendor of another is waited for does too."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(_message: Message) -> Outcome:
        asked.set()
        await answered.wait()
        return Outcome.ACCEPTED

    vendor = Vendor(Outcome.ACCEPTED, slow)  # the first one proves the lane
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(4)
    stage.worker._wakeup, notified = Wakeup(), list[str]()  # it does not end when it has nothing to do
    sends = SendQueue(own_ledger, stage.worker, notified.append)
    await send_to(stage, sends, "u0", "u3")  # nothing is up yet: they wait in the queue
    assert notified == [stage.account.id]
    running = asyncio.create_task(stage.worker.run())
    async with asyncio.timeout(20):
        await asked.wait()
        stage.worker._next_due = float("inf")  # nobody looks
        while stage.worker._find_working():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        await send_to(stage, sends, "u1")
        while len(vendor.got) < 3:  # noqa: ASYNC110 - the vendor is a list
            await asyncio.sleep(0.01)
    assert notified == [stage.account.id]
    answered.set()
    stage.worker.stop()
    await running
    await send_to(stage, sends, "u2")
    assert notified == [stage.account.id] * 2, "a stopped worker leases nothing"
    assert len(vendor.got) == 3
