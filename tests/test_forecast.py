"""A forecast is what the run comes to when nothing changes between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from conftest import THOROUGH
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert, update
from support.counting_pool import CountingPool
from support.stage import NOW, SETTINGS, Stage, Vendor, token

from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.runs import insert_campaign, read_stored_spec
from tocsin.campaign.spec import Spec, read_spec
from tocsin.delivery import forecast as forecasts
from tocsin.delivery.forecast import Forecast, find_coming, forecast, foresee_all
from tocsin.delivery.snapshot import PlannedRun, snapshot_due_runs
from tocsin.errors import Problem
from tocsin.feedback.interactions import EVENTS
from tocsin.ingest import event_row
from tocsin.ingest.identity import find_users
from tocsin.outcome import Outcome
from tocsin.policy import set_policy
from tocsin.providers.contract import Receipt
from tocsin.stats.pace import estimate_minutes, find_pace
from tocsin.stats.results import read_breakdown
from tocsin.stats.why import PersonalAnswer, explain_campaign
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

if TYPE_CHECKING:
    from engines import NewLedger

pytest_plugins = ("engines",)

OPTIONS = msgspec.structs.replace(SETTINGS, window=64)
HOW = (OPTIONS, CompilePool())  # why is looked for
CONTENT = {
    "push": {"title": "Hi", "body": "there"},
    "email": {"subject": "Hi", "body": "<p>there</p>", "sender_name": "n"},
}
DAY = {str(day): [{"from": "00:00", "to": "09:30"}] for day in range(1, 8)}  # NOW is 08:00 in UTC


class Somebody(msgspec.Struct, frozen=True):
    """mailbox: several may have the same. tz: their own, "" for the account's. dead: no device of theirs is alive."""

    mailbox: int | None
    devices: int
    wanted: bool
    tz: str
    dead: bool
    got: bool  # a campaign before this one
    left: bool = False  # the group of the campaign


class Asked(msgspec.Struct, frozen=True):
    channel: str
    quiet: str
    control: float
    system: float
    most: int | None
    own: bool
    platforms: tuple[str, ...]
    provided: bool
    minutes: int | None
    of_account: bool = False  # the quiet hours are, and not the campaign's
    groups: tuple[str, ...] = ()


PEOPLE = st.lists(
    st.builds(
        Somebody,
        mailbox=st.none() | st.integers(0, 4),
        devices=st.integers(0, 2),
        wanted=st.booleans(),
        tz=st.sampled_from(["", "Asia/Tokyo", "Europe/Berlin", "America/New_York"]),
        dead=st.booleans(),
        got=st.booleans(),
        left=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)
ASKED = st.builds(
    Asked,
    channel=st.sampled_from(["push", "email"]),
    quiet=st.sampled_from(["", "delay", "discard"]),
    control=st.sampled_from([0.0, 30.0]),
    system=st.sampled_from([0.0, 30.0]),
    most=st.none() | st.integers(1, 2),
    own=st.booleans(),
    platforms=st.sampled_from([("android",), ("android", "ios")]),
    provided=st.booleans(),
    minutes=st.none() | st.sampled_from([30, 600]),
    of_account=st.booleans(),
    groups=st.sampled_from([(), ("NEWS", "other")]),
)


CROWD = [
    Somebody(
        mailbox=number % 5,
        devices=number % 3,
        wanted=number % 4 > 0,
        tz=tz,
        dead=number == 4,
        got=number % 3 == 1,
        left=number in (2, 3),
    )
    for number, tz in enumerate(["", "Asia/Tokyo", "Europe/Berlin", "America/New_York"] * 3)
]
PUSH = Asked("push", "discard", 30.0, 30.0, 1, True, ("android", "ios"), False, None)


@settings(
    max_examples=100 if THOROUGH else 3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(people=PEOPLE, asked=ASKED)
@example(people=CROWD, asked=PUSH)
@example(people=CROWD, asked=Asked("email", "delay", 0.0, 0.0, 1, True, ("android",), True, 30))
@example(people=CROWD, asked=Asked("push", "delay", 0.0, 0.0, 2, True, ("android",), True, 600, of_account=True))
@example(people=CROWD, asked=Asked("email", "", 0.0, 0.0, None, True, ("android",), True, None, groups=("NEWS",)))
def test_a_forecast_is_what_the_run_comes_to(
    new_ledger: NewLedger, facts: Facts, people: list[Somebody], asked: Asked
) -> None:
    """With consents, groups, caps, quiet hours, control groups, shared mailboxes, dead tokens, a missing provider: as
    many are sent to, are late and are held back for each reason, as was said."""
    with new_ledger() as ledger:
        asyncio.run(_compare(ledger, facts, people, asked))


async def _compare(ledger: Ledger, facts: Facts, people: list[Somebody], asked: Asked) -> None:
    vendors = {"android": Vendor(), "email": Vendor(), "ios": Vendor()}
    if not asked.provided:
        del vendors["ios"]
    stage = Stage(ledger, facts, vendors, OPTIONS)
    await _settle_in(stage, people, asked)
    spec = read_spec(_write_body(asked), stage.account, stage.now)
    made = await ledger.write(lambda c: insert_campaign(c, stage.account.id, spec, stage.now))

    said = await _forecast(stage, spec, made)

    assert await snapshot_due_runs(ledger, facts, stage.now, stage.settings) == 1
    await stage.deliver_all()
    came = await stage.result(made)
    by = (await read_breakdown(ledger, facts, stage.account.id, made)).get("suppressed_by", {})
    numbers = {name: count for name in ("audience", "sent", "failed", "suppressed") if (count := getattr(said, name))}
    assert (numbers, said.suppressed_by) == (came, by)


async def _forecast(stage: Stage, spec: Spec, campaign_id: int) -> Forecast:
    run = await stage.ledger.read(lambda c: find_coming(c, stage.account.id, campaign_id))
    assert run is not None
    return await forecast(stage.ledger, stage.facts, stage.account, run, spec, stage.now, stage.settings)


def _write_body(asked: Asked) -> dict[str, Any]:
    when: dict[str, Any] = {"type": "now"}
    if asked.quiet and not asked.of_account:
        when["dnd"] = _write_dnd(asked)
    body = {
        **{"name": "n", "target_mode": asked.channel, "where": {}, "when": when, "devices": list(asked.platforms)},
        **{"content": CONTENT[asked.channel], "ttl": asked.minutes},
    }
    if asked.groups and asked.channel == "email":
        body["subscription_groups"] = list(asked.groups)
    if asked.control:
        body["control_group"] = {"type": "campaign", "percentage": asked.control}
    return body


def _write_dnd(asked: Asked) -> dict[str, Any]:
    zone = "user" if asked.own else "account"
    return {"dnd_info": DAY, "dnd_timezone": zone, "message_state": asked.quiet}


async def _settle_in(stage: Stage, people: list[Somebody], asked: Asked) -> None:
    """Uploads the people, sends some of them a campaign, and lets devices and mailboxes die."""
    records: list[dict[str, Any]] = []
    for number, one in enumerate(people):
        profile: dict[str, Any] = {"Got": one.got} | ({"Tz": one.tz} if one.tz else {})
        if one.mailbox is not None:
            profile["Email"] = f"m{one.mailbox}@example.com"
        if one.left:
            profile["category-unsubscribe"] = {"email": ["News"]}
        if not one.wanted:
            profile |= {"MSG-email": False, "MSG-push-all": False}
        records.append({"type": "profile", "identity": f"u{number}", "profileData": profile})
        for device in range(one.devices):
            name, kind = f"u{number}-{device}", ("fcm", "apns")[device]
            records.append({"type": "profile", "identity": f"u{number}", "objectId": name, "profileData": {}})
            records.append(token(name if kind == "fcm" else f"{number:064x}", kind) | {"objectId": name})
    await stage.upload(*records)
    caps = {channel: {"most": asked.most, "days": 1} for channel in CONTENT if asked.most}
    policies = {"caps": caps, "control": {"percent": asked.system}}
    for name, value in policies.items():
        text = msgspec.json.encode(value).decode()
        stage.ledger.write_now(lambda c, name=name, text=text: set_policy(c, stage.account.id, name, text, NOW))  # type: ignore[misc]
    for name in ("fcm", "smtp", *(["apns"] if asked.provided else [])):
        row = {"account_id": stage.account.id, "name": name, "settings": "{}", "trusted": 0, "changed_at": NOW}
        stage.ledger.write_now(lambda c, row=row: c.execute(insert(schema.provider).values(row)))  # type: ignore[misc]
    got = {"common_profile_properties": {"profile_fields": [{"name": "Got", "operator": "equals", "value": True}]}}
    await stage.campaign(where=got, target_mode=asked.channel, content=CONTENT[asked.channel])
    await stage.deliver_all()
    if asked.quiet and asked.of_account:
        text = msgspec.json.encode(_write_dnd(asked)).decode()
        stage.ledger.write_now(lambda c: set_policy(c, stage.account.id, "dnd", text, NOW))
    stage.now += 1
    table = schema.device
    for number, one in enumerate(people):
        if one.dead:
            mine = (table.c.account_id == stage.account.id, table.c.object_id.like(f"u{number}-%"))
            stage.ledger.write_now(lambda c, mine=mine: c.execute(update(table).where(*mine).values(gone_at=NOW)))  # type: ignore[misc]


@pytest.fixture
def own_ledger(store: Ledger) -> Ledger:
    return store


def test_why_while_it_runs(own_ledger: Ledger, facts: Facts) -> None:
    """Who waits, what the vendor said to an attempt, and what became of it in the end; by the ledger, before the facts
    know of it."""

    async def go() -> None:
        answer = Receipt(outcome=Outcome.UNAVAILABLE, code="503 busy")
        stage = Stage(own_ledger, facts, {"android": Vendor(answer, Outcome.GONE)}, OPTIONS)
        await stage.people(300)
        await stage.upload({"type": "profile", "identity": "u299", "profileData": {"Who": "u299"}})
        made = await stage.campaign(where=is_identity("u299"))
        users = await own_ledger.read(lambda c: find_users(c, stage.account.id, [("identity", "u299")]))

        async def why() -> PersonalAnswer:
            [user] = users.values()
            return await explain_campaign(
                own_ledger, facts, stage.account, made, user, stage.now, stage.settings, CompilePool()
            )

        assert [one.state for one in (await why()).messages] == ["waiting"]
        await stage.deliver()
        [message] = (await why()).messages
        assert (message.state, message.code, message.tries) == ("waiting", "503 busy", 1)
        assert message.not_before > stage.now
        await stage.deliver_all()
        found = await why()
        assert (found.verdict, found.messages[0].tries) == ("in the audience, gone: gone", 2)
        assert found.shown["android"]["title"] == "Hi"

    asyncio.run(go())


def test_what_came_back(own_ledger: Ledger, facts: Facts) -> None:
    """A view, a click and a conversion of this person, and not of the other."""

    async def go() -> None:
        stage = Stage(own_ledger, facts, {"android": Vendor()}, OPTIONS)
        await stage.people(2)
        made = await stage.campaign(conversion_goal={"event_name": "Charged", "conversion_time": "1D"})
        await stage.deliver_all()
        names = [("identity", "u0"), ("identity", "u1")]
        users = await own_ledger.read(lambda c: find_users(c, stage.account.id, names))
        asked = (own_ledger, facts, stage.account, made)
        first, other = [await explain_campaign(*asked, users[name], NOW, *HOW) for name in names]
        [message] = first.messages
        assert (first.verdict, message.came_back) == ("in the audience: the vendor took the message for android", {})
        event = message.chunk * 65536 + message.position
        for seconds, kind in ((10, "viewed"), (20, "clicked")):
            props = {"Campaign id": made, "Variant": "default"}
            row = event_row(stage.account, EVENTS[kind], users[names[0]], NOW + seconds, event, props)
            await facts.insert("event", [row])
        await stage.upload({"type": "event", "identity": "u0", "evtName": "Charged", "ts": int(NOW) + 30})
        first, other = [await explain_campaign(*asked, users[name], NOW + 60, *HOW) for name in names]
        assert first.messages[0].came_back == {"viewed": int(NOW) + 10, "clicked": int(NOW) + 20}
        assert (first.conversions["click_through"], other.conversions["converted"]) == (1, 0)
        assert other.messages[0].came_back == {}

    asyncio.run(go())


def test_forecasts_leave_threads_to_delivery(own_ledger: Ledger, facts: Facts) -> None:
    """However many one account asks for at once, one is made at a time: what is sent and recorded meanwhile needs the
    same threads. Who would wait too long is told so."""

    async def go() -> None:
        asyncio.get_running_loop().set_default_executor(pool := CountingPool())
        stage = Stage(own_ledger, facts, {"android": Vendor()}, OPTIONS)
        await stage.people(50)
        asked = Asked("push", "", 0, 0, None, False, ("android",), True, None)
        spec = read_spec(_write_body(asked), stage.account, NOW)
        made = await own_ledger.write(lambda c: insert_campaign(c, stage.account.id, spec, NOW))
        pool.most = 0
        said = await asyncio.gather(*(_forecast(stage, spec, made) for _ in range(12)))
        assert (pool.most, len({one.audience for one in said})) == (1, 1)
        late = msgspec.structs.replace(stage.settings, query_seconds=0.0)
        run = PlannedRun(made, None)
        waiting = [
            asyncio.create_task(foresee_all(own_ledger, facts, stage.account, run, spec, NOW, one))
            for one in (stage.settings, late)
        ]
        with pytest.raises(Problem, match="Too much is asked"):
            await waiting[1]
        assert len(await waiting[0]) == 50

    asyncio.run(go())


def is_identity(name: str) -> dict[str, Any]:
    return {"common_profile_properties": {"profile_fields": [{"name": "Who", "operator": "equals", "value": name}]}}


def test_a_large_audience_is_judged_by_a_sample(
    own_ledger: Ledger, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are scaled, add up, and say how many people they come from."""

    async def go() -> None:
        monkeypatch.setattr(forecasts, "SAMPLE", 100)
        stage = Stage(own_ledger, facts, {"android": Vendor()}, OPTIONS)
        await stage.people(400)
        row = {"account_id": stage.account.id, "name": "fcm", "settings": "{}", "trusted": 0, "changed_at": NOW}
        stage.ledger.write_now(lambda c: c.execute(insert(schema.provider).values(row)))
        spec = read_spec(
            _write_body(Asked("push", "", 0, 0, None, False, ("android",), True, None)), stage.account, NOW
        )
        made = await own_ledger.write(lambda c: insert_campaign(c, stage.account.id, spec, NOW))
        said = await _forecast(stage, spec, made)
        assert said.sampled is not None
        assert 50 < said.sampled < 150
        assert said.audience == said.sent == said.sampled * 4

    asyncio.run(go())


async def test_a_run_that_took_long_is_a_slow_pace(own_ledger: Ledger, facts: Facts) -> None:
    """One message that was tried for hours is a pace too, and none of nothing a minute."""
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    await stage.people(1)
    campaign = await stage.campaign()
    await stage.deliver_all()
    chunk = schema.chunk
    own_ledger.write_now(lambda c: c.execute(update(chunk).values(not_before=chunk.c.started_at + 7200)))

    def estimate(connection: Connection) -> float | None:
        spec = read_stored_spec(connection, stage.account.id, campaign)
        pace = find_pace(connection, stage.account.id, "push", stage.now)
        return estimate_minutes(connection, stage.account.id, spec, 3, pace)

    assert own_ledger.read_now(estimate) == pytest.approx(360, rel=0.01)
