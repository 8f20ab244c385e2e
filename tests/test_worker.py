"""Delivery with scripted vendors: what every answer becomes, and that nobody is lost or doubled on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update

from tocsin import queue
from tocsin.account import create_account
from tocsin.audience.members import count_reachable
from tocsin.audience.query import read_where
from tocsin.campaign.runs import find_campaign, insert_campaign, stop_campaign
from tocsin.campaign.send import accept, read_asked
from tocsin.campaign.send_queue import SendQueue
from tocsin.campaign.spec import read_spec
from tocsin.channels import PLATFORMS, AddressKind, Platform
from tocsin.delivery.lane import Lane
from tocsin.delivery.recorder import record_outcomes
from tocsin.delivery.snapshot import snapshot_due_runs
from tocsin.delivery.wakeup import Wakeup
from tocsin.delivery.worker import Worker
from tocsin.ingest import upload
from tocsin.outcome import FINAL, Outcome, State
from tocsin.providers.contract import Address, Message, Push, Receipt, Scope
from tocsin.queue import Chunk
from tocsin.settings import Settings
from tocsin.stats.results import count_tag_groups, read_result
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

NOW = 1_800_000_000.0
SETTINGS = Settings(window=2, lease_seconds=60.0, retry_floor=10.0, retries=2, message_hours=1.0)
CONTENT = {"title": "Hi", "body": "there"}
BODY = {"name": "n", "where": {}, "content": CONTENT, "devices": ["android"], "when": "now"}
SLOW_DEVICE = Receipt(outcome=Outcome.THROTTLED, code="429", retry_after=60.0, scope=Scope.DEVICE)
Answer = Receipt | Outcome | Callable[[Message], Awaitable[Receipt | Outcome]]


class Vendor:
    """A vendor that answers by a script: the answers in turn, then always «accepted»."""

    name: ClassVar[str] = "script"
    kind: ClassVar[AddressKind] = "fcm"
    platform: ClassVar[Platform] = "android"
    Settings: ClassVar[type[msgspec.Struct]] = msgspec.Struct

    def __init__(self, *answers: Answer):
        self.answers = list(answers)
        self.got: list[Message] = []
        self.accepted: Counter[str] = Counter()

    async def send(self, message: Message, now: float) -> Receipt:
        self.got.append(message)
        answer: Any = self.answers.pop(0) if self.answers else Outcome.ACCEPTED
        if callable(answer) and not isinstance(answer, Outcome):
            answer = await answer(message)
        receipt = answer if isinstance(answer, Receipt) else Receipt(outcome=answer, code=str(answer.value))
        self.accepted[message.address.value] += receipt.outcome is Outcome.ACCEPTED
        return receipt

    @property
    def tokens(self) -> list[str]:
        return [message.address.value for message in self.got]


class Script:
    """The lanes of every account lead to these vendors."""

    def __init__(self, vendors: dict[str, Vendor], clock: Callable[[], float]):
        self.by_platform = {platform: Lane("any", "script", vendor, clock) for platform, vendor in vendors.items()}

    async def for_account(self, account_id: str) -> dict[str, Lane]:
        return self.by_platform


class Stage:
    """A ledger, an account with people, vendors, a worker and a clock that the test moves."""

    def __init__(self, ledger: Ledger, facts: Facts, vendors: dict[str, Vendor], options: Settings = SETTINGS):
        self.ledger, self.facts, self.now, self.settings = ledger, facts, NOW, options
        self.account = create_account(ledger, "stage", "UTC", NOW)[0]
        self.lanes = Script(vendors, lambda: self.now)
        self.send_queue = SendQueue(ledger)
        self.worker = Worker(ledger, facts, self.lanes, options, b"s" * 32, lambda: self.now, Wakeup())

    async def upload(self, *records: dict[str, Any]) -> None:
        result = await upload(self.ledger, self.facts, self.account, {"d": list(records)}, self.now)
        assert result.unprocessed == []

    async def people(self, count: int, devices: int = 1, kinds: Sequence[str] = ("fcm",)) -> None:
        """People u0, u1, … with `devices` of each kind."""
        records: list[dict[str, Any]] = []
        for user in range(count):
            for kind in kinds:
                for number in range(devices):
                    device = f"u{user}-{kind}-{number}"
                    records.append({"type": "profile", "identity": f"u{user}", "objectId": device, "profileData": {}})
                    records.append(token(device, kind))
        await self.upload(*records)

    async def campaign(self, **fields: Any) -> int:
        """A campaign that is due, frozen."""
        spec = read_spec(BODY | fields, self.account, self.now)
        made = await self.ledger.write(lambda c: insert_campaign(c, self.account.id, spec, self.now))
        assert await snapshot_due_runs(self.ledger, self.facts, self.now, self.settings) == 1
        return made

    async def send(self, to: dict[str, list[Any]], channel: str = "push", **fields: Any) -> None:
        body = {"to": to, "content": CONTENT} | fields
        await accept(self.send_queue, self.account, channel, read_asked(body), self.now, self.settings)

    async def lease(self, owner: str | None = None) -> Chunk | None:
        name = owner or self.worker.owner
        return await self.ledger.write(
            lambda connection: queue.lease_next(connection, name, self.now, self.settings.lease_seconds)
        )

    async def deliver(self) -> int:
        """Delivers what is due now; answers how many chunks."""
        count = 0
        while chunk := await self.lease():
            await self.worker.deliver(chunk)
            count += 1
            assert count < 1000, "chunks come back without end"
        return count

    async def deliver_all(self) -> None:
        """Delivers, and moves the clock to whatever waits next, until nothing is open."""
        table = schema.chunk
        nearest = select(table.c.not_before).where(table.c.open == 1).order_by(table.c.not_before).limit(1)
        for _ in range(1000):
            await self.deliver()
            due = await self.ledger.read(lambda connection: connection.scalar(nearest))
            if due is None:
                return
            self.now = max(self.now, due)
        raise AssertionError("recipients wait for ever")

    async def states(self) -> list[str]:
        """Where everybody stands in the ledger, by the order of chunks and positions."""
        table = schema.chunk
        query = select(table.c.states).where(table.c.account_id == self.account.id).order_by(table.c.id)
        rows = await self.ledger.read(lambda connection: connection.scalars(query).all())
        return [State(byte).name for row in rows for byte in row]

    async def state(self, campaign_id: int) -> str:
        """The state of a campaign's run."""
        row = await self.ledger.read(lambda connection: find_campaign(connection, self.account.id, campaign_id))
        return str(row.state)

    async def result(self, campaign_id: int) -> dict[str, int]:
        numbers = await read_result(self.ledger, self.facts, self.account.id, campaign_id)
        return {name: count for name, count in numbers.items() if count}

    async def count(self, table: str, more: str = "1") -> int:
        """Rows of the account in facts."""
        rows = await self.facts.query(
            f"SELECT count() FROM {table} FINAL WHERE account = {{account:String}} AND {more}",
            {"account": self.account.id},
        )
        return int(rows[0][0])

    async def sent_events(self) -> int:
        return await self.count("event", "name = 'Notification Sent'")

    async def reachable(self) -> int:
        counts = await count_reachable(self.facts, self.account, read_where({}), PLATFORMS, NOW)
        return counts["android"]

    async def gone_codes(self) -> list[str | None]:
        device = schema.device
        query = select(device.c.gone_code).where(device.c.account_id == self.account.id).order_by(device.c.id)
        return list(await self.ledger.read(lambda connection: connection.scalars(query).all()))


def token(device: str, kind: str = "fcm") -> dict[str, Any]:
    value = f"https://db3.notify.windows.com/?token={device}" if kind == "wns" else device
    return {"type": "token", "objectId": device, "tokenData": {"type": kind, "id": value}}


def held(outcome: Outcome, seconds: float | None = None) -> Receipt:
    return Receipt(outcome=outcome, code="429", retry_after=seconds, scope=Scope.LANE)


async def test_a_campaign_is_frozen_once(own_ledger: Ledger, facts: Facts) -> None:
    """A due run asks for its audience once; nobody who joins later gets it, and everybody in it gets one message."""
    vendor = Vendor()
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(5)
    campaign = await stage.campaign()
    assert await snapshot_due_runs(own_ledger, facts, stage.now, SETTINGS) == 0
    await stage.people(7)
    await stage.deliver_all()
    assert sorted(vendor.tokens) == [f"u{n}-fcm-0" for n in range(5)]
    assert await stage.result(campaign) == {"audience": 5, "sent": 5}
    assert len({message.id for message in vendor.got}) == 5
    assert {message.collapse for message in vendor.got if isinstance(message, Push)} == {f"tocsin-{campaign}"}


async def test_an_empty_audience_is_complete_at_once(own_ledger: Ledger, facts: Facts) -> None:
    """A campaign that means nobody has its result as soon as it begins."""
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    campaign = await stage.campaign()
    assert await stage.result(campaign) == {}
    assert await stage.deliver() == 0


async def test_a_campaign_that_cannot_begin_holds_up_nobody(own_ledger: Ledger, facts: Facts) -> None:
    """A run whose stored question cannot be read leaves the runs after it to begin in time."""
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    await stage.people(1)
    spec = read_spec(BODY, stage.account, NOW)

    def create(connection: Connection) -> tuple[int, int]:
        made = [insert_campaign(connection, stage.account.id, spec, NOW) for _ in range(2)]
        table = schema.campaign
        connection.execute(update(table).where(table.c.id == made[0]).values(spec="{}"))
        return made[0], made[1]

    broken, fine = await own_ledger.write(create)
    with contextlib.suppress(msgspec.MsgspecError):
        await snapshot_due_runs(own_ledger, facts, NOW, SETTINGS)
    assert (await stage.state(broken), await stage.state(fine)) == ("scheduled", "running")


async def test_a_retry_counts_once(own_ledger: Ledger, facts: Facts) -> None:
    """Unavailable and then accepted is one message sent, with the same id both times, after the floor at least."""
    vendor = Vendor(Outcome.UNAVAILABLE)
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(1)
    campaign = await stage.campaign()
    await stage.deliver()
    assert (await stage.states(), len(vendor.got)) == (["WAITING"], 1)
    stage.now += 9.9
    assert await stage.deliver() == 0
    await stage.deliver_all()
    assert stage.now >= NOW + 10
    assert vendor.got[0] == vendor.got[1]
    assert len(vendor.got) == 2
    assert await stage.result(campaign) == {"audience": 1, "sent": 1}
    assert (await stage.count("outcome"), await stage.sent_events()) == (1, 1)


async def test_tries_run_out(own_ledger: Ledger, facts: Facts) -> None:
    """Unavailable on the first try and on every retry is expired, and counts as failed."""
    vendor = Vendor(*[Outcome.UNAVAILABLE] * 99)
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(1)
    campaign = await stage.campaign()
    await stage.deliver_all()
    assert (len(vendor.got), await stage.states()) == (1 + SETTINGS.retries, ["EXPIRED"])
    assert await stage.result(campaign) == {"audience": 1, "failed": 1}
    assert await stage.count("outcome", "outcome = 'expired' AND code = 'unavailable'") == 1


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.DENIED])
async def test_a_held_lane_waits(own_ledger: Ledger, facts: Facts, outcome: Outcome) -> None:
    """Throttled or denied stops the line: the others wait unsent, no try is spent, and afterwards all are sent."""
    vendor, other = Vendor(held(outcome, 30.0)), Vendor()
    stage = Stage(own_ledger, facts, {"android": vendor, "ios": other}, msgspec.structs.replace(SETTINGS, window=1))
    await stage.people(4, kinds=("fcm", "apns"))
    campaign = await stage.campaign(devices=["android", "ios"])
    await stage.deliver()
    assert (len(vendor.got), len(other.got)) == (1, 4)
    assert Counter(await stage.states()) == {"WAITING": 4, "ACCEPTED": 4}
    notes = own_ledger.read_now(lambda connection: connection.scalars(select(schema.chunk.c.notes)).all())
    assert "tries" not in "".join(notes)
    stage.now += 29.9
    await stage.deliver()
    assert len(vendor.got) == 1
    await stage.deliver_all()
    assert stage.now == NOW + 30
    assert len(vendor.got) == 5
    assert await stage.result(campaign) == {"audience": 8, "sent": 8}


async def test_a_dead_device_is_forgotten(own_ledger: Ledger, facts: Facts) -> None:
    """Gone marks the device, the copy in facts becomes unreachable, and the next campaign does not send to it."""
    vendor = Vendor(Outcome.GONE)
    stage = Stage(own_ledger, facts, {"android": vendor}, msgspec.structs.replace(SETTINGS, window=1))
    await stage.people(2)
    assert await stage.reachable() == 2
    campaign = await stage.campaign()
    await stage.deliver_all()
    assert await stage.result(campaign) == {"audience": 2, "sent": 1, "failed": 1}
    assert await stage.gone_codes() == ["gone", None]
    assert await stage.reachable() == 1
    second = await stage.campaign()
    await stage.deliver_all()
    assert await stage.result(second) == {"audience": 2, "sent": 1, "suppressed": 1}
    assert Counter(vendor.tokens) == {"u0-fcm-0": 1, "u1-fcm-0": 2}
    stage.now += 5
    await stage.upload(token("u0-fcm-0"))
    assert (await stage.gone_codes(), await stage.reachable()) == ([None, None], 2)


async def test_a_device_registered_again_lives(own_ledger: Ledger, facts: Facts) -> None:
    """Gone says nothing about a device that was registered again while the message was under way."""

    async def register(message: Message) -> Outcome:
        stage.now += 5
        await stage.upload(token(message.address.value))
        return Outcome.GONE

    stage = Stage(own_ledger, facts, {"android": Vendor(register)})
    await stage.people(1)
    await stage.campaign()
    await stage.deliver_all()
    assert await stage.states() == ["GONE"]
    assert (await stage.gone_codes(), await stage.reachable()) == ([None], 1)


async def test_a_late_message_expires(own_ledger: Ledger, facts: Facts) -> None:
    """A message whose time is over is not sent any more, and is failed."""
    vendor = Vendor()
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(3)
    campaign = await stage.campaign(ttl=30)
    stage.now += 1800
    await stage.deliver()
    assert (vendor.got, await stage.states()) == ([], ["EXPIRED"] * 3)
    assert await stage.result(campaign) == {"audience": 3, "failed": 3}
    assert await stage.count("outcome", "outcome = 'expired' AND code = 'too late'") == 3


@pytest.mark.parametrize("taker", ["another process", None], ids=["another process", "a sibling in the same process"])
async def test_a_lost_lease_sends_nothing_more(own_ledger: Ledger, facts: Facts, taker: str | None) -> None:
    """A worker that lost its chunk while a vendor thought sends no more of it: nobody gets two."""

    taken, done = asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def sleep_through(_message: Message) -> Outcome:
        stage.now += SETTINGS.lease_seconds + 1
        chunk = await stage.lease(taker)
        assert chunk is not None
        sibling = Worker(own_ledger, facts, stage.lanes, stage.settings, b"s" * 32, lambda: stage.now, Wakeup())
        sibling.owner = taker or stage.worker.owner
        tasks.append(asyncio.create_task(sibling.deliver(chunk)))
        await taken.wait()
        return Outcome.ACCEPTED

    async def think(_message: Message) -> Outcome:
        taken.set()
        await done.wait()
        return Outcome.ACCEPTED

    vendor = Vendor(Outcome.ACCEPTED, sleep_through, think)
    stage = Stage(own_ledger, facts, {"android": vendor}, msgspec.structs.replace(SETTINGS, window=1))
    proof = Push(id="0", collapse="c", address=Address("fcm", "proof"), title="t", body="b", expires_at=0)
    await stage.lanes.by_platform["android"].send(proof)  # a lane that is not proven sends one at a time
    vendor.got.clear()
    await stage.people(4)
    campaign = await stage.campaign()
    chunk = await stage.lease()
    assert chunk is not None
    await stage.worker.deliver(chunk)
    done.set()
    await asyncio.gather(*tasks)
    await stage.deliver_all()
    assert Counter(vendor.tokens) == {f"u{n}-fcm-0": 1 for n in range(4)}
    assert await stage.states() == ["UNKNOWN", "ACCEPTED", "ACCEPTED", "ACCEPTED"]
    assert await stage.result(campaign) == {"audience": 4, "sent": 3, "unknown": 1}


async def test_a_stop_in_the_middle(own_ledger: Ledger, facts: Facts) -> None:
    """After a stop what is with the vendor is settled, and the rest is suppressed as stopped."""

    async def stop(_message: Message) -> Outcome:
        await own_ledger.write(lambda c: stop_campaign(c, stage.account.id, campaign, stage.now))
        return Outcome.ACCEPTED

    vendor = Vendor(Outcome.ACCEPTED, Outcome.ACCEPTED, stop)
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(7)
    campaign = await stage.campaign()
    await stage.deliver_all()
    assert len(vendor.got) == 4
    assert await stage.result(campaign) == {"audience": 7, "sent": 4, "suppressed": 3}
    assert await stage.count("outcome", "outcome = 'suppressed' AND code = 'stopped'") == 3
    assert await stage.state(campaign) == "stopped"


async def test_a_worker_that_stops_claims_nothing_more(own_ledger: Ledger, facts: Facts) -> None:
    """Told to stop, a worker settles what is with the vendor and leaves the rest waiting for the next one."""

    async def stop(_message: Message) -> Outcome:
        stage.worker.stop()
        return Outcome.ACCEPTED

    vendor = Vendor(stop)
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(5)
    await stage.campaign()
    await stage.worker.run()
    assert len(vendor.got) == 2
    assert await stage.states() == ["ACCEPTED"] * 2 + ["WAITING"] * 3


async def test_outcomes_recorded_twice_are_one(own_ledger: Ledger, facts: Facts) -> None:
    """Recording a chunk again, as after a crash, adds neither an outcome nor an event."""
    stage = Stage(own_ledger, facts, {"android": Vendor(Outcome.REFUSED)})
    await stage.people(3)
    await stage.campaign()
    await stage.deliver_all()
    chunk = own_ledger.read_now(lambda connection: queue.load(connection, 1))
    assert chunk is not None
    for _ in range(2):
        await record_outcomes(facts, [(stage.account, chunk)])
    assert (await stage.count("outcome"), await stage.sent_events()) == (3, 2)


async def test_a_request_reaches_each_once(own_ledger: Ledger, facts: Facts) -> None:
    """Identities that mean the same person are one recipient; one that nobody has is counted, not sent to."""
    vendor = Vendor()
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(1)
    mail = {"type": "profile", "identity": "u0", "profileData": {"Email": "Ann@Example.com"}}
    await stage.upload(mail, {"type": "profile", "identity": "none", "profileData": {}})
    to = {
        "Identity": ["u0", "u0", "none", "nobody", "ann@example.com"],
        "Email": ["ann@example.com", "ANN@example.com"],
        "objectId": ["u0-fcm-0"],
    }
    await stage.send(to, tag_group="welcome")
    await stage.deliver_all()
    assert vendor.tokens == ["u0-fcm-0"]
    assert sorted(await stage.states()) == ["ACCEPTED", "NOT_FOUND", "NO_DEVICE"]
    [(tag, numbers)] = (await count_tag_groups(own_ledger, facts, stage.account.id)).items()
    assert (tag, numbers["audience"], numbers["sent"], numbers["suppressed"]) == ("welcome", 3, 1, 2)


async def test_all_devices_count_once(own_ledger: Ledger, facts: Facts) -> None:
    """With `send_to_all_devices` every device gets its own message and the person counts once; else the newest does."""
    vendor = Vendor(Outcome.GONE, Outcome.REFUSED)
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(1, devices=3)
    stage.now += 1
    await stage.upload(token("u0-fcm-1"))
    campaign = await stage.campaign(send_to_all_devices=True)
    await stage.deliver_all()
    assert sorted(vendor.tokens) == ["u0-fcm-0", "u0-fcm-1", "u0-fcm-2"]
    assert len({message.id for message in vendor.got}) == 3
    assert await stage.result(campaign) == {"audience": 1, "sent": 1}
    assert [code for code in await stage.gone_codes() if code] == ["gone"]
    vendor.got.clear()
    stage.now += 1
    await stage.upload(token("u0-fcm-1"))
    await stage.send({"Identity": ["u0"]})
    await stage.deliver_all()
    assert vendor.tokens == ["u0-fcm-1"]


@pytest.mark.parametrize("other", [Outcome.UNAVAILABLE, Outcome.UNKNOWN, SLOW_DEVICE, Outcome.REFUSED])
async def test_one_device_is_enough(own_ledger: Ledger, facts: Facts, other: Receipt | Outcome) -> None:
    """A person one of whose devices has the message is done: nothing is sent again to that device."""
    vendor = Vendor(other)
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(1, devices=2)
    campaign = await stage.campaign(send_to_all_devices=True)
    await stage.deliver_all()
    assert (await stage.result(campaign))["sent"] == 1
    assert sum(vendor.accepted.values()) == 1


async def test_who_is_not_tried(own_ledger: Ledger, facts: Facts) -> None:
    """Opted out, without a live device, without a provider or with a template that breaks: each with its reason."""
    vendor = Vendor()
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(3, kinds=("fcm", "apns"))
    await stage.upload(
        {"type": "profile", "identity": "u0", "profileData": {"MSG-push": False}},
        {"type": "profile", "identity": "u1", "profileData": {"Long": "x" * 2000}},
    )
    body = "{% if Profile.Long %}{% for i in (1..99999) %}x{% endfor %}{% endif %}Hi"
    campaign = await stage.campaign(devices=["android", "ios"], content=CONTENT | {"body": body})
    await stage.deliver_all()
    states = Counter(await stage.states())
    assert states == {"NO_PROVIDER": 3, "UNSUBSCRIBED": 1, "REFUSED": 1, "ACCEPTED": 1}
    assert await stage.result(campaign) == {"audience": 6, "sent": 1, "failed": 1, "suppressed": 4}
    assert vendor.tokens == ["u2-fcm-0"]


ANSWERS = st.sampled_from(
    [
        *(Outcome.ACCEPTED, Outcome.GONE, Outcome.REFUSED, Outcome.UNKNOWN, Outcome.UNAVAILABLE),
        *(held(Outcome.THROTTLED, 30.0), held(Outcome.DENIED), held(Outcome.UNAVAILABLE, 20.0)),
        SLOW_DEVICE,
    ]
)
SAME = {"ACCEPTED": "accepted", "GONE": "gone", "REFUSED": "refused", "UNKNOWN": "unknown", "EXPIRED": "expired"}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ANSWERS, max_size=25),
    st.lists(ANSWERS, max_size=25),
    st.integers(0, 8),
    st.integers(1, 3),
    st.booleans(),
)
async def test_outcomes_add_up_to_the_audience(
    tmp_path_factory: pytest.TempPathFactory,
    facts: Facts,
    android: list[Receipt | Outcome],
    ios: list[Receipt | Outcome],
    people: int,
    window: int,
    every: bool,
) -> None:
    """Whatever the vendors answer, everybody ends in one state, is recorded once, and the numbers are the audience."""
    ledger = open_ledger(f"sqlite:///{Path(tmp_path_factory.mktemp('law')) / 'ledger.db'}")
    try:
        vendors = {"android": Vendor(*android), "ios": Vendor(*ios)}
        stage = Stage(ledger, facts, vendors, msgspec.structs.replace(SETTINGS, window=window))
        await stage.people(people, devices=2, kinds=("fcm", "apns", "wns"))
        campaign = await stage.campaign(devices=["android", "ios", "windows"], send_to_all_devices=every)
        await stage.deliver_all()
        states = await stage.states()
        result = await stage.result(campaign)
        assert len(states) == people * 3 == result.pop("audience", 0) == sum(result.values())
        assert {State[name] for name in states} <= FINAL
        assert await stage.count("outcome") == people * 3
        for name, outcome in SAME.items():
            assert await stage.count("outcome", f"outcome = '{outcome}'") == states.count(name)
        assert await stage.sent_events() == states.count("ACCEPTED") == result.get("sent", 0)
        assert states.count("NO_PROVIDER") == people
        assert all(count <= 1 for vendor in vendors.values() for count in vendor.accepted.values())
    finally:
        ledger.close()
