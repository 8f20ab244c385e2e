"""Requests that are claimed as they are inserted come to what they would have come to by the queue, in one commit."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, select
from sqlalchemy.exc import OperationalError
from support.stage import CONTENT, SETTINGS, Stage, Vendor, held, token

from tocsin.account import Account, create_account
from tocsin.campaign.send_queue import QueuedSend, SendQueue
from tocsin.delivery.arrival import Arrival
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.sender_pool import SenderPool
from tocsin.delivery.wakeup import Wakeup
from tocsin.delivery.worker import Worker
from tocsin.outcome import Outcome, State
from tocsin.policy import set_policy
from tocsin.providers.contract import Credential, Message
from tocsin.queue import NewRequest
from tocsin.stats.results import count_tag_groups
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

if TYPE_CHECKING:
    from engines import NewLedger

pytest_plugins = ("engines",)

OPTIONS = msgspec.structs.replace(SETTINGS, window=64)


class OpenStage(Stage):
    """A stage whose worker runs on, and is offered what comes. offers: what it made of that."""

    offers: Sequence[Arrival | None] = ()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run the worker, with lanes that are proven, and stop it in the end."""
        wakeup, offers = Wakeup(), list[Arrival | None]()
        arguments = (self.lanes, self.settings, Secrets(b"s" * 32, b"s" * 32), lambda: self.now, wakeup, self.folder)
        self.open_worker = worker = Worker(self.ledger, self.facts, *arguments)
        offer = worker.offer

        def note(entries: Sequence[QueuedSend]) -> Arrival | None:
            offers.append(offer(entries))
            return offers[-1]

        worker.offer = note  # type: ignore[method-assign]
        self.send_queue, self.offers = SendQueue(self.ledger, worker, wakeup.notify), offers
        task = asyncio.create_task(worker.run())
        await worker.ready.wait()
        await self.send({"Identity": ["u4"]}, respect_frequency_caps=False)
        await wait_for(lambda: all(lane.steady for lane in self.lanes.lanes_of(()).values()))
        await wait_for(lambda: not worker.busy)
        offers.clear()
        try:
            yield task
        finally:
            worker.stop()
            await asyncio.wait([task])


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what a thread or another task does
            await asyncio.sleep(0.005)


async def invite(stage: Stage) -> None:
    """u0 and u2 with a device of each of two platforms, u1 opted out, u3 with two of one, «none» without any."""
    await stage.people(5, kinds=("fcm", "apns"))
    second = {"type": "profile", "identity": "u3", "objectId": "u3-fcm-9", "profileData": {}}
    opted_out = {"type": "profile", "identity": "u1", "profileData": {"MSG-push": False}}
    await stage.upload(second, token("u3-fcm-9"), opted_out, {"type": "profile", "identity": "none", "profileData": {}})
    caps = '{"push": {"most": 2, "days": 1}}'
    await stage.ledger.write(lambda connection: set_policy(connection, stage.account.id, "caps", caps, stage.now))


def list_chunks(stage: Stage) -> list[tuple[str, list[str], str, int]]:
    """Of each request its tag group, the states of its recipients, their notes, and whether it is open."""
    table = schema.chunk
    query = select(table.c.tag_group, table.c.states, table.c.notes, table.c.open).order_by(table.c.id)
    rows = stage.ledger.read_now(lambda connection: connection.execute(query).all())
    return [(tag, [State(byte).name for byte in states], notes, opened) for tag, states, notes, opened in rows]


ASKED = st.fixed_dictionaries(
    {
        "to": st.lists(st.sampled_from(["u0", "u1", "u2", "u3", "none", "nobody"]), min_size=1, max_size=4),
        "respect_frequency_caps": st.booleans(),
        "send_to_all_devices": st.booleans(),
        "tag_group": st.sampled_from(["", "a", "b"]),
    }
)


@given(batches=st.lists(st.lists(ASKED, min_size=1, max_size=5), min_size=1, max_size=3))
@settings(
    max_examples=12 if THOROUGH else 3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_the_two_ways_agree(new_ledger: NewLedger, facts: Facts, batches: list[list[dict[str, Any]]]) -> None:
    """Whoever is named, whatever caps, consent and devices say: the same states, messages and numbers. (A message that
    is refused gives its place under a cap back, so there it counts who came when.)"""

    async def send_all(stage: Stage) -> Any:
        for batch in batches:
            requests = [dict(one) for one in batch]
            await asyncio.gather(*(stage.send({"Identity": one.pop("to")}, **one) for one in requests))

    def read(stage: Stage, vendors: dict[str, Vendor]) -> Any:
        found = [Counter(vendor.tokens) for vendor in vendors.values()]
        return list_chunks(stage), found, [len({one.id for one in vendor.got}) for vendor in vendors.values()]

    results = []
    for kind in (Stage, OpenStage):
        with new_ledger() as ledger:
            vendors: dict[str, Vendor] = {"android": Vendor(), "ios": Vendor()}
            stage = kind(ledger, facts, vendors, OPTIONS)
            await invite(stage)
            if isinstance(stage, OpenStage):
                async with stage.running():
                    await send_all(stage)
                assert None not in stage.offers
            else:
                await stage.send({"Identity": ["u4"]}, respect_frequency_caps=False)
                await stage.deliver_all()
                await send_all(stage)
                await stage.deliver_all()
            groups = await count_tag_groups(ledger, facts, stage.account.id)
            results.append((*read(stage, vendors), groups, await stage.count("outcome")))
    assert results[0] == results[1]


async def test_one_commit_accepts_and_claims(store: Ledger, facts: Facts) -> None:
    """The vendor has a request that comes alone after one transaction, which is that of its answer."""
    commits = Counter[str]()

    async def look(_: Message) -> Outcome:
        seen.append(commits["commit"])
        return Outcome.ACCEPTED

    seen: list[int] = []
    vendor = Vendor(Outcome.ACCEPTED, look)
    stage = OpenStage(store, facts, {"android": vendor}, OPTIONS)
    await stage.people(5)
    async with stage.running():
        event.listen(store._writer, "commit", lambda _: commits.update(["commit"]))
        await stage.send({"Identity": ["u0"]})
        await wait_for(lambda: bool(seen))
    assert seen == [1]
    assert vendor.tokens == ["u4-fcm-0", "u0-fcm-0"]


async def test_accounts_that_come_together(store: Ledger, facts: Facts) -> None:
    """Requests of two accounts that come together are both claimed at once, under ids of their own."""
    vendor = Vendor()
    stage = OpenStage(store, facts, {"android": vendor}, OPTIONS)
    await stage.people(5)
    async with stage.running():
        first, stage.account = stage.account, create_account(store, "other", "UTC", stage.now)[0]
        await stage.people(6)
        other, stage.account = stage.account, first
        entries = [make_entry(stage, account, name) for account in (first, other) for name in ("u0", "u5")]
        assert await asyncio.gather(*map(stage.send_queue.put, entries)) == [True] * 4
        assert [one is None for one in stage.offers] == [False]
    assert [states for _, states, _, _ in list_chunks(stage)[1:]].count(["ACCEPTED"]) == 3
    assert Counter(vendor.tokens) == {"u4-fcm-0": 1, "u0-fcm-0": 2, "u5-fcm-0": 1}


async def test_who_waits_is_not_overtaken(store: Ledger, facts: Facts) -> None:
    """While a lane is paused its requests wait in the queue; afterwards all of them are sent."""
    vendor = Vendor(Outcome.ACCEPTED, held(Outcome.THROTTLED, 30.0))
    stage = OpenStage(store, facts, {"android": vendor}, OPTIONS)
    await stage.people(5)
    async with stage.running():
        for number in range(3):
            await stage.send({"Identity": [f"u{number}"]})
            await wait_for(lambda: list_chunks(stage)[-1][1] == ["WAITING"])
        assert [one is None for one in stage.offers] == [False, True, True]
    assert [states for _, states, _, _ in list_chunks(stage)] == [["ACCEPTED"], *[["WAITING"]] * 3]
    stage.now += 31
    await stage.deliver_all()
    assert Counter(vendor.tokens) == {"u0-fcm-0": 2, "u1-fcm-0": 1, "u2-fcm-0": 1, "u4-fcm-0": 1}


async def test_a_campaign_leaves_room_for_requests(own_ledger: Ledger, facts: Facts) -> None:
    """While a campaign has all the room of a lane that it gets, a request is claimed as it is inserted."""
    answered = asyncio.Event()

    async def hang(_: Message) -> Outcome:
        await answered.wait()
        return Outcome.ACCEPTED

    vendor = Vendor(Outcome.ACCEPTED, *[hang] * 999)
    stage = OpenStage(own_ledger, facts, {"android": vendor}, OPTIONS)
    await stage.people(300)
    async with stage.running():
        [lane] = stage.lanes.lanes_of(()).values()
        await stage.campaign()
        stage.open_worker._wakeup.notify()
        await wait_for(lambda: lane.look(stage.now).room == 0)
        await stage.send({"Identity": ["u0"]})
        assert stage.offers[-1] is not None
        answered.set()
    assert (await stage.states())[-1] == "ACCEPTED"


def make_entry(stage: Stage, account: Account | None = None, name: str = "u0") -> QueuedSend:
    body = msgspec.json.encode({"to": {"Identity": [name]}, "content": CONTENT}).decode()
    account_id, end = (account or stage.account).id, stage.now + 600
    asked = NewRequest(account_id=account_id, channel="push", tag_group="", request=body, expires_at=end, now=stage.now)
    return QueuedSend(asked)


async def commit(stage: OpenStage) -> Arrival:
    """Insert a request that is claimed, and hand nothing over."""
    entry, queue = make_entry(stage), stage.send_queue
    arrival = stage.open_worker.offer([entry])
    assert arrival is not None
    await stage.ledger.write(lambda one: queue._insert(one, [entry], set(), arrival))
    return arrival


async def test_a_worker_that_stops_waits_for_what_is_being_inserted(store: Ledger, facts: Facts) -> None:
    """What was claimed before the stop is sent and settled."""
    vendor = Vendor()
    stage = OpenStage(store, facts, {"android": vendor}, OPTIONS)
    await stage.people(5)
    async with stage.running() as task:
        arrival = await commit(stage)
        stage.open_worker.stop()
        done, _ = await asyncio.wait([task], timeout=0.5)
        assert not done
        arrival.hand_over()
        arrival.end()
        await task
    assert await stage.states() == ["ACCEPTED"] * 2
    assert vendor.tokens == ["u4-fcm-0", "u0-fcm-0"]


async def test_what_a_dead_worker_had_claimed_is_sent_by_the_next(store: Ledger, facts: Facts) -> None:
    """Killed between the commit and the hand-over: no note says that it went, so it goes, once."""
    vendor = Vendor()
    stage = OpenStage(store, facts, {"android": vendor}, OPTIONS)
    await stage.people(5)
    async with stage.running() as task:
        arrival = await commit(stage)
        task.cancel()
        await asyncio.wait([task])
        arrival.hand_over()
        arrival.end()
        assert not stage.open_worker.busy
    assert await stage.states() == ["ACCEPTED", "CLAIMED"]
    stage.now += SETTINGS.lease_seconds + 1
    await stage.deliver_all()
    assert await stage.states() == ["ACCEPTED"] * 2
    assert vendor.tokens == ["u4-fcm-0", "u0-fcm-0"]


async def test_a_commit_whose_answer_got_lost(store: Ledger, facts: Facts) -> None:
    """Whoever called hears of a failure; what is in the ledger all the same is sent, once, and has one place under its
    cap. What is not in it is not sent."""
    lost: list[str] = []
    inserting = set[Connection]()

    def note(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO chunk"):
            inserting.add(connection)

    def lose(connection: Connection) -> None:
        if not lost or connection not in inserting:
            return
        found = connection.connection.dbapi_connection
        assert found is not None
        if lost.pop() == "after":
            found.commit()
        raise OperationalError("COMMIT", None, Exception("the connection went away"))

    vendor = Vendor()
    stage = OpenStage(store, facts, {"android": vendor}, OPTIONS)
    await stage.people(5)
    caps = '{"push": {"most": 1, "days": 1}}'
    store.write_now(lambda connection: set_policy(connection, stage.account.id, "caps", caps, stage.now))
    async with stage.running():
        event.listen(store._writer, "before_cursor_execute", note)
        event.listen(store._writer, "commit", lose)
        for moment, name in (("before", "u0"), ("after", "u1")):
            lost.append(moment)
            with pytest.raises(OperationalError):
                await stage.send({"Identity": [name]})
        await wait_for(lambda: len(vendor.got) == 2)
        [lane] = stage.lanes.lanes_of(()).values()
        assert lane.reserved == 0
    assert await stage.states() == ["ACCEPTED"] * 2
    assert vendor.tokens == ["u4-fcm-0", "u1-fcm-0"]
    places = select(schema.reservation.c.message)
    assert len(store.read_now(lambda connection: connection.execute(places).all())) == 1


def test_lanes_of_changed_credentials_are_not_current() -> None:
    """Nothing is claimed for a lane that was made from another row than the transaction reads."""
    pool = SenderPool(0, 8, lambda: 0.0)
    old, other = Credential("a", "fcm", "{}", 1.0), Credential("a", "apns", "{}", 1.0)
    assert pool.find_current([old]) is None
    lane = pool.find_lane(old)
    assert pool.find_current([old]) == {"android": lane}
    assert pool.find_current([msgspec.structs.replace(old, changed_at=2.0)]) is None
    assert pool.find_current([old, other]) is None
    assert pool.find_current([]) == {}
    assert pool.list_lanes("a", ("android", "ios")) == [lane]
    assert pool.list_lanes("b", ("android", "ios")) == []
