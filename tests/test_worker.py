"""Delivery with scripted vendors: what every answer becomes, and that nobody is lost or doubled on the way."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update
from support.stage import BODY, CONTENT, NOW, SETTINGS, Script, Stage, StageWorker, Vendor, held, token

from tocsin import queue
from tocsin.campaign.runs import insert_campaign, stop_campaign
from tocsin.campaign.spec import read_spec
from tocsin.delivery import handover, sender_pool
from tocsin.delivery.recorder import record_outcomes
from tocsin.delivery.snapshot import snapshot_due_runs
from tocsin.outcome import FINAL, Outcome, State
from tocsin.providers.contract import Message, Push, Receipt, Scope
from tocsin.stats.results import count_tag_groups
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

if TYPE_CHECKING:
    from engines import NewLedger

pytest_plugins = ("engines",)


@pytest.fixture
def own_ledger(store: Ledger) -> Ledger:
    """A ledger of its own for one test, on each engine in turn."""
    return store


def device(user: str, number: int) -> list[dict[str, object]]:
    name = f"{user}-fcm-{number}"
    return [{"type": "profile", "identity": user, "objectId": name, "profileData": {}}, token(name, "fcm")]


SLOW_DEVICE = Receipt(outcome=Outcome.THROTTLED, code="429", retry_after=60.0, scope=Scope.DEVICE)


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


class Hurried(Stage):
    """A stage whose clock goes on by half a minute whenever somebody looks at it."""

    @property
    def now(self) -> float:
        self._now += 30.0
        return self._now

    @now.setter
    def now(self, value: float) -> None:
        self._now = value


async def test_a_retry_that_is_due_at_once_has_its_lane(own_ledger: Ledger, facts: Facts) -> None:
    """On a machine so busy that the wait is over when the answer is settled, the recipient is tried again; nobody is
    told that there is no provider."""
    options = msgspec.structs.replace(SETTINGS, message_hours=24.0)
    stage = Hurried(own_ledger, facts, {"android": Vendor(Outcome.UNAVAILABLE)}, options)
    await stage.people(1)
    campaign = await stage.campaign()
    await stage.deliver_all()
    assert await stage.result(campaign) == {"audience": 1, "sent": 1}


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


async def test_a_lost_lease_sends_nothing_more(own_ledger: Ledger, facts: Facts, tmp_path: Path) -> None:
    """A worker that lost its chunk while a vendor thought sends no more of it: nobody gets two, and what it had under
    way is unknown, for its notes are another host's."""

    async def sleep_through(_message: Message) -> Outcome:
        stage.now += SETTINGS.lease_seconds + 1
        await StageWorker(stage, tmp_path, Script({"android": vendor}, lambda: stage.now)).run()
        return Outcome.ACCEPTED

    vendor = Vendor(sleep_through)
    stage = Stage(own_ledger, facts, {"android": vendor}, msgspec.structs.replace(SETTINGS, window=1))
    await stage.people(4)
    campaign = await stage.campaign()
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
    await stage.people(40)  # as many as are claimed ahead may go while the stop is being committed, on a busy machine
    campaign = await stage.campaign()
    await stage.deliver_all()
    got = len(vendor.got)
    assert 3 <= got < 40
    assert await stage.result(campaign) == {"audience": 40, "sent": got, "suppressed": 40 - got}
    assert await stage.count("outcome", "outcome = 'suppressed' AND code = 'stopped'") == 40 - got
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
    assert len(vendor.got) == 1
    assert await stage.states() == ["ACCEPTED"] + ["WAITING"] * 4


async def test_what_is_sent_a_day_later_is_of_that_day(own_ledger: Ledger, facts: Facts) -> None:
    """After a stop in the middle the rest goes a day later, and its outcomes and events say so."""

    async def stop(_message: Message) -> Outcome:
        stage.worker.stop()
        return Outcome.ACCEPTED

    stage = Stage(own_ledger, facts, {"android": Vendor(stop)})
    await stage.people(3)
    await stage.campaign()
    await stage.deliver()
    stage.now += 86_400 - 100  # the message lives for a day
    await own_ledger.write(lambda c: c.execute(update(schema.chunk).values(expires_at=stage.now + 3600)))
    await stage.deliver()
    assert await stage.states() == ["ACCEPTED"] * 3
    for day, count in ((NOW, 1), (stage.now, 2)):
        at = f"toUnixTimestamp(at) = {int(day)}"
        assert await stage.count("outcome", at) == count
        assert await stage.count("event", f"name = 'Notification Sent' AND {at}") == count


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


async def test_more_devices_than_notes(own_ledger: Ledger, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where people have more devices than a sender has hand-over notes, they come one after the other, each with all of
    their devices; of somebody who has more of them alone, as many get it as there are notes."""
    monkeypatch.setattr(handover, "SLOTS", 16)
    monkeypatch.setattr(sender_pool, "SPARE_SLOTS", 10)
    vendor = Vendor()
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(3, devices=12)
    await stage.upload(*(record for number in range(12, 20) for record in device("u2", number)))
    await stage.campaign(send_to_all_devices=True)
    await stage.deliver_all()
    assert Counter(await stage.states()) == {"ACCEPTED": 3}
    assert Counter(one.partition("-")[0] for one in vendor.tokens) == {"u0": 12, "u1": 12, "u2": 16}
    assert set(vendor.accepted.values()) == {1}


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


@settings(
    max_examples=12 if THOROUGH else 4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(ANSWERS, max_size=25),
    st.lists(ANSWERS, max_size=25),
    st.integers(0, 8),
    st.integers(1, 3),
    st.booleans(),
)
async def test_outcomes_add_up_to_the_audience(
    new_ledger: NewLedger,
    facts: Facts,
    android: list[Receipt | Outcome],
    ios: list[Receipt | Outcome],
    people: int,
    window: int,
    every: bool,
) -> None:
    """Whatever the vendors answer, everybody ends in one state, is recorded once, and the numbers are the audience."""
    with new_ledger() as ledger:
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
