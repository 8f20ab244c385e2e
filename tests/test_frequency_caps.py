"""Frequency caps: nobody is over one, and no place is lost to a message that was not sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from support.blocked import wait_until_blocked
from support.stage import SETTINGS, Stage, Vendor

from tocsin import queue
from tocsin.account import create_account
from tocsin.campaign.runs import stop_campaign
from tocsin.campaign.spec import read_spec
from tocsin.delivery.frequency_cap import (
    CapDecision,
    CapRule,
    Claim,
    forget_old_reservations,
    give_back,
    reserve,
)
from tocsin.errors import Misconfigured, Problem
from tocsin.outcome import Outcome, State
from tocsin.policy import Cap, load_policy, set_policy
from tocsin.providers.contract import Message, Push
from tocsin.queue import Note
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

NOW, DAY, HOUR, MINUTE = 1_790_000_000.0, 86_400.0, 3600.0, 60.0
OPTIONS = msgspec.structs.replace(SETTINGS, retries=1)


@pytest.fixture
def own_ledger(store: Ledger) -> Ledger:
    """A ledger of its own for one test, on each engine in turn."""
    return store


def set_caps(stage: Stage, **caps: dict[str, Any]) -> None:
    text = msgspec.json.encode(caps).decode()
    stage.ledger.write_now(lambda c: set_policy(c, stage.account.id, "caps", text, stage.now))


def states(stage: Stage) -> list[str]:
    table = schema.chunk
    query = select(table.c.states).where(table.c.account_id == stage.account.id).order_by(table.c.id)
    found = stage.ledger.read_now(lambda c: c.scalars(query).all())
    return [State(byte).name for one in found for byte in one]


def held(stage: Stage) -> Counter[tuple[int, str]]:
    """(user, message) of every reservation."""
    table = schema.reservation
    query = select(table.c.user_id, table.c.message).where(table.c.account_id == stage.account.id)
    return Counter((user, message) for user, message in stage.ledger.read_now(lambda c: c.execute(query).all()))


def may_have_sent(stage: Stage) -> Counter[tuple[int, str]]:
    """(user, message) of every recipient that was sent to, or may have been, on whichever try."""
    table = schema.chunk

    def read(connection: Any) -> Counter[tuple[int, str]]:
        found: Counter[tuple[int, str]] = Counter()
        for chunk_id in connection.scalars(select(table.c.id).where(table.c.account_id == stage.account.id)).all():
            chunk = queue.load(connection, chunk_id)
            assert chunk is not None
            name = f"s{chunk.id}" if chunk.run_id is None else f"r{chunk.run_id}"
            for position, (user, state) in enumerate(zip(chunk.users, chunk.states, strict=True)):
                assert state not in (State.WAITING, State.CLAIMED)
                note = chunk.notes.get(position, Note())
                found[user, name] += state in (State.ACCEPTED, State.UNKNOWN) or note.doubt
        return +found

    return stage.ledger.read_now(read)


ANSWERS = st.sampled_from(
    [Outcome.ACCEPTED] * 3 + [Outcome.REFUSED, Outcome.UNKNOWN, Outcome.GONE, Outcome.UNAVAILABLE, "killed", "stopped"]
)
STEP = st.tuples(
    # Campaigns at this moment: whether each respects the caps, and resends what nobody knows about.
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=3),
    st.lists(ANSWERS, max_size=8),
    st.sampled_from([0.0, HOUR, 10 * HOUR, DAY, 2 * DAY]),  # until the next
)


@given(steps=st.lists(STEP, min_size=1, max_size=5), most=st.integers(1, 2), days=st.sampled_from([0.5, 1.0, 3.0]))
@settings(
    max_examples=25 if THOROUGH else 6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_nobody_is_over_and_nothing_is_lost(
    own_ledger: Ledger, facts: Facts, steps: list[Any], most: int, days: float
) -> None:
    """Campaigns side by side, refusals, dead devices, doubts, resends, stops, workers that are killed: every window of
    the days holds at most so many messages to one user; what is reserved is exactly what was sent or may have been."""

    async def stop(message: Message) -> Outcome:
        assert isinstance(message, Push)
        campaign = int(message.data["wzrk_id"].partition("_")[0])
        await own_ledger.write(lambda c: stop_campaign(c, stage.account.id, campaign, stage.now))
        return Outcome.ACCEPTED

    vendor = Vendor()
    stage = Stage(own_ledger, facts, {"android": vendor}, OPTIONS)
    special: dict[Any, Any] = {"killed": stage.kill, "stopped": stop}
    set_caps(stage, push={"most": most, "days": days})
    await stage.people(3, devices=2)
    respecting: set[str] = set()
    for campaigns, answers, pause in steps:
        vendor.answers[:] = [special.get(answer, answer) for answer in answers]
        for respect, resend in campaigns:
            on_crash = "resend" if resend else "report"
            await stage.campaign(devices=["android"], respect_frequency_caps=respect, on_crash=on_crash)
            if respect:
                respecting.add(newest_run(own_ledger))
        for _ in range(len(answers) + 2):
            await stage.deliver()
            stage.now += OPTIONS.lease_seconds + 1
        stage.now += pause
    assert held(stage) == Counter({key: count for key, count in may_have_sent(stage).items() if key[1] in respecting})
    table = schema.reservation
    query = select(table.c.user_id, table.c.at).where(table.c.account_id == stage.account.id).order_by(table.c.at)
    by_user: dict[int, list[float]] = {}
    for user, at in own_ledger.read_now(lambda c: c.execute(query).all()):
        by_user.setdefault(user, []).append(at)
    for times in by_user.values():
        for first, beyond in zip(times, times[most:], strict=False):
            assert beyond - first >= days * DAY
    vendor.answers.clear()
    await stage.campaign(devices=["android"])
    await stage.deliver()
    full = {user for user, times in by_user.items() if sum(at > stage.now - days * DAY for at in times) >= most}
    for user, state in states_of_run(stage, newest_run(own_ledger)).items():
        assert state == "NO_DEVICE" or (state == "FREQUENCY_CAP") == (user in full)


def states_of_run(stage: Stage, name: str) -> dict[int, str]:
    """What became of each user of a run."""
    table = schema.chunk
    query = select(table.c.id).where(table.c.run_id == int(name[1:]))
    found: dict[int, str] = {}
    for chunk_id in stage.ledger.read_now(lambda connection: connection.scalars(query).all()):
        chunk = stage.ledger.read_now(lambda connection, one=chunk_id: queue.load(connection, one))  # type: ignore[misc]
        assert chunk is not None
        found |= {user: State(state).name for user, state in zip(chunk.users, chunk.states, strict=True)}
    return found


def newest_run(ledger: Ledger) -> str:
    return f"r{ledger.read_now(lambda connection: connection.scalar(select(func.max(schema.run.c.id))))}"


@pytest.mark.parametrize(
    ("caps", "gaps", "expected"),
    [
        ({"most": 2, "days": 1}, [0, HOUR, 2 * HOUR, DAY - 3 * HOUR], "AAFA"),  # it rolls: the first is a day old
        ({"most": 2, "days": 1}, [0, HOUR, 2 * HOUR, DAY - 3 * HOUR - 1], "AAFF"),
        ({"dwell_minutes": 15}, [0, 14 * MINUTE, MINUTE, 16 * MINUTE], "ADAA"),
        ({"most": 1, "days": 2, "dwell_minutes": 15}, [0, MINUTE, DAY], "AFF"),
        ({"throttle": 1}, [0, 0, 0], "AAA"),  # not asked for
    ],
    ids=str,
)
async def test_caps_roll(
    own_ledger: Ledger, facts: Facts, caps: dict[str, Any], gaps: Sequence[float], expected: str
) -> None:
    """One user, one send after the other: Accepted, Frequency cap, Dwell time."""
    stage = Stage(own_ledger, facts, {"android": Vendor()}, OPTIONS)
    set_caps(stage, push=caps)
    await stage.people(1)
    for gap in gaps:
        stage.now += gap
        await stage.send({"Identity": ["u0"]})
        await stage.deliver()
    assert "".join(state[0] for state in states(stage)) == expected


async def test_false_skips_and_does_not_count(own_ledger: Ledger, facts: Facts) -> None:
    stage = Stage(own_ledger, facts, {"android": Vendor()}, OPTIONS)
    set_caps(stage, push={"most": 1, "days": 1})
    await stage.people(1)
    for respect in (False, True, False, True):
        await stage.send({"Identity": ["u0"]}, respect_frequency_caps=respect)
        await stage.deliver()
    assert states(stage) == ["ACCEPTED", "ACCEPTED", "ACCEPTED", "FREQUENCY_CAP"]


async def test_a_stop_takes_nobodys_place(own_ledger: Ledger, facts: Facts) -> None:
    """Who was not sent to, because the campaign was stopped, gets the next one."""

    async def stop(_message: Message) -> Outcome:
        await own_ledger.write(lambda c: stop_campaign(c, stage.account.id, stopped, stage.now))
        return Outcome.ACCEPTED

    stage = Stage(own_ledger, facts, {"android": Vendor(stop)}, OPTIONS)
    set_caps(stage, push={"most": 1, "days": 1})
    await stage.people(4)
    stopped = await stage.campaign()
    await stage.deliver()
    await stage.campaign()
    await stage.deliver()
    assert states(stage) == ["ACCEPTED", *["STOPPED"] * 3, "FREQUENCY_CAP", *["ACCEPTED"] * 3]


async def test_a_doubt_keeps_its_place(own_ledger: Ledger, facts: Facts) -> None:
    """Somebody who may have the message, and waits to be sent to again, gets no other one meanwhile; nor afterwards,
    when the second try is refused."""
    stage = Stage(own_ledger, facts, {"android": Vendor(Outcome.UNKNOWN, Outcome.REFUSED)}, OPTIONS)
    set_caps(stage, push={"most": 1, "days": 1})
    await stage.people(1)
    await stage.campaign(on_crash="resend")
    await stage.deliver()
    assert states(stage) == ["WAITING"]
    await stage.campaign()
    await stage.deliver()
    assert states(stage) == ["WAITING", "FREQUENCY_CAP"]
    await stage.deliver_all()
    await stage.campaign()
    await stage.deliver()
    assert states(stage) == ["REFUSED", "FREQUENCY_CAP", "FREQUENCY_CAP"]


async def test_two_platforms_are_one_message(own_ledger: Ledger, facts: Facts) -> None:
    stage = Stage(own_ledger, facts, {"android": Vendor(), "ios": Vendor()}, OPTIONS)
    set_caps(stage, push={"most": 1, "days": 1})
    await stage.people(1, kinds=("fcm", "apns"))
    for _ in range(2):
        await stage.campaign(devices=["android", "ios"])
        await stage.deliver()
    assert states(stage) == ["ACCEPTED"] * 2 + ["FREQUENCY_CAP"] * 2


async def test_a_campaigns_own_cap(own_ledger: Ledger, facts: Facts) -> None:
    """Over its runs; others do not count."""
    stage = Stage(own_ledger, facts, {"android": Vendor()}, OPTIONS)
    await stage.people(1)
    rule = CapRule(
        account_id=stage.account.id, channel="push", message="r1", campaign_id=7, campaign=Cap(most=1, days=7)
    )
    claim = [Claim(0, 1, 1)]

    def ask(at: float, **fields: Any) -> CapDecision:
        one = msgspec.structs.replace(rule, **fields)
        return own_ledger.write_now(lambda c: reserve(c, [(one, claim)], at)[0])

    assert ask(NOW).dropped == {}
    assert ask(NOW + 6 * DAY, message="r2").dropped == {0: State.CAMPAIGN_CAP}
    assert ask(NOW + 6 * DAY, message="r3", campaign_id=8).dropped == {}
    assert ask(NOW + 7 * DAY, message="r2").dropped == {}


async def test_the_throttle_holds_back(own_ledger: Ledger, facts: Facts) -> None:
    """Any five minutes bring at most so many, and all of them come."""
    vendor = Vendor()
    options = msgspec.structs.replace(OPTIONS, message_hours=24.0)
    stage = Stage(own_ledger, facts, {"android": vendor}, options)
    set_caps(stage, push={"throttle": 4})
    await stage.people(10)
    await stage.campaign(devices=["android"], respect_throttle=True)
    times: list[float] = []
    for _ in range(200):
        before = len(vendor.got)
        await stage.deliver()
        times += [stage.now] * (len(vendor.got) - before)
        stage.now += 7
    assert len(times) == 10
    assert all(later - first >= 300 for first, later in zip(times, times[4:], strict=False))
    assert times[-1] - times[0] < 700


def test_what_is_given_back_late_makes_no_room_twice(own_ledger: Ledger) -> None:
    """Four places taken in one slot and given back in the next are four, also when the first slot is forgotten."""
    account = create_account(own_ledger, "late", "UTC", NOW)[0]
    rule = CapRule(account_id=account.id, channel="push", message="r1", campaign_id=1, throttle=4)

    def take(at: float) -> int:
        claims = [Claim(position, position, 1, at) for position in range(10)]
        return 10 - len(own_ledger.write_now(lambda c: reserve(c, [(rule, claims)], at)[0]).later)

    assert take(NOW) == 4
    own_ledger.write_now(lambda c: give_back(c, rule, [Claim(position, position, 1, NOW) for position in range(4)]))
    assert [take(NOW + 305), take(NOW + 312), take(NOW + 600), take(NOW + 630)] == [4, 0, 0, 4]


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)  # SQLite has one writer
async def test_two_processes_take_turns(store: Ledger, open_again: Any) -> None:
    """While one is at the caps in its transaction the other waits, and then sees what it took."""
    account = create_account(store, "two", "UTC", NOW)[0]
    rule = CapRule(account_id=account.id, channel="push", message="r1", campaign_id=1, account=Cap(most=1))
    other = open_again()
    with store._writer.begin() as connection:
        assert reserve(connection, [(rule, [Claim(0, 1, 1)])], NOW)[0].dropped == {}
        second = [(msgspec.structs.replace(rule, message="r2"), [Claim(0, 1, 1)])]
        again = asyncio.ensure_future(other.write(lambda c: reserve(c, second, NOW)[0]))
        await asyncio.to_thread(wait_until_blocked, store, 1)
    assert (await again).dropped == {0: State.FREQUENCY_CAP}
    other.write_now(lambda c: give_back(c, rule, [Claim(0, 1, 1)]))
    free = store.write_now(
        lambda c: reserve(c, [(msgspec.structs.replace(rule, message="r2"), [Claim(0, 1, 1)])], NOW)[0]
    )
    assert free.dropped == {}
    store.write_now(lambda c: forget_old_reservations(c, NOW + 91 * DAY))
    assert store.read_now(lambda c: c.scalar(select(func.count()).select_from(schema.reservation))) == 0


@pytest.mark.parametrize(
    "text",
    ['{"fax": {"most": 1}}', '{"push": {"most": 0}}', '{"push": {"mots": 1}}', '{"push": {"days": 1000}}', "[]", "{"],
)
def test_wrong_caps_are_refused(own_ledger: Ledger, text: str) -> None:
    account = create_account(own_ledger, "wrong", "UTC", NOW)[0]
    with pytest.raises(Misconfigured):
        own_ledger.write_now(lambda c: set_policy(c, account.id, "caps", text, NOW))
    assert own_ledger.read_now(lambda c: load_policy(c, account.id)).caps == {}


@pytest.mark.parametrize(
    "cap", [7, {}, {"most": 0}, {"days": 2}, {"most": 1, "throttle": 5}, {"most": 1, "x": 1}], ids=str
)
def test_a_wrong_cap_of_a_campaign_says_where(own_ledger: Ledger, cap: Any) -> None:
    account = create_account(own_ledger, "wrong", "UTC", NOW)[0]
    body = {"name": "n", "where": {}, "content": {"title": "t", "body": "b"}, "devices": ["ios"], "when": "now"}
    with pytest.raises(Problem) as caught:
        read_spec(body | {"frequency_cap": cap}, account, NOW)
    assert "$.frequency_cap" in caught.value.error
