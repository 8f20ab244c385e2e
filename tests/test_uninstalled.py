"""`App Uninstalled`: a vendor says that a push token is dead, and it becomes an event of whoever had the device."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from conftest import Caller, Sandbox, Server, people, token
from sqlalchemy import update
from support.stage import SETTINGS, Stage, Vendor
from support.town import Town

from tocsin.cli.local_server import ask
from tocsin.outcome import Outcome
from tocsin.providers.contract import Address, Message
from tocsin.store import schema
from tocsin.store.data_folder import find_running
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

ANDROID = "fcm-unregistered-token"


@pytest_asyncio.fixture
async def town(store: Ledger, facts: Facts, sandbox: Sandbox) -> AsyncIterator[Town]:
    """An account that sends to the sandbox, on each ledger in turn."""
    town = Town(store, facts, sandbox)
    yield town
    await town.senders.aclose()


def moment(at: float) -> datetime:
    """As facts keep it: whole seconds."""
    return datetime.fromtimestamp(int(at), UTC)


@pytest.mark.parametrize(
    ("kind", "value", "platform", "code"),
    [
        ("fcm", ANDROID, "Android", "UNREGISTERED"),
        ("apns", "a" * 60 + "dead", "iOS", "410 Unregistered"),
        ("apns", "bad0" + "a" * 60, "iOS", "400 BadDeviceToken"),
        ("wns", "https://127.0.0.1:{port}/w/?token=expired", "Windows", "410"),
        ("wns", "https://127.0.0.1:{port}/w/?token=notfound", "Windows", "404"),
    ],
)
async def test_a_dead_token_is_an_event(town: Town, kind: str, value: str, platform: str, code: str) -> None:
    """The event is the user's, at the ledger's time, with the campaign that found out and the vendor's code."""
    await town.move_in("u", "d", value.format(port=town.wns_port), kind)
    await town.move_in("fine", "f", token(kind, "fine", town.wns_port), kind)
    await town.push("fine")  # «bad token» may be about our settings where nothing was accepted
    campaign = await town.campaign(devices=[platform.lower()])
    await town.deliver_all()
    assert [one for one in town.gone() if one[0]] == [(town.now, code)]
    props = {"Platform": platform, "Campaign id": campaign, "Code": code}
    assert await town.events() == [(1, moment(town.now), props)]


async def test_only_dead_tokens_are_events(town: Town) -> None:
    """Who was reached, who was refused and whose mailbox is unknown keep their app; a send has the campaign 0."""
    await town.move_in("dead", "d", ANDROID)
    await town.move_in("fine", "e", "fcm-fine-token")
    await town.upload({"type": "profile", "identity": "dead", "profileData": {"Email": "unknown@example.com"}})
    await town.push("dead", "fine")
    await town.send({"Identity": ["dead"]}, "email", content={"subject": "s", "body": "<p>b</p>"})
    await town.deliver_all()
    assert sorted(await town.states()) == ["ACCEPTED", "GONE", "GONE"]
    [(user, _, props)] = await town.events()
    assert (user, props) == (1, {"Platform": "Android", "Campaign id": 0, "Code": "UNREGISTERED"})
    await town.repair()
    assert len(await town.events()) == 1


async def test_each_device_goes_by_itself(town: Town) -> None:
    """Two dead devices of one person are two events, and a dead one beside a live one is one."""
    await town.move_in("u", "d", ANDROID)
    await town.move_in("u", "e", ANDROID + "-2")
    await town.move_in("u", "f", "fcm-fine-token")
    await town.push("u", send_to_all_devices=True)
    assert (await town.states(), len(await town.events())) == (["ACCEPTED"], 2)
    await town.push("u", send_to_all_devices=True)
    assert len(await town.events()) == 2


async def test_registered_again_and_gone_again(town: Town) -> None:
    """A device that comes back and dies again went twice; the first time stays."""
    await town.move_in("u", "d", ANDROID)
    await town.push("u")
    first = town.now
    await town.move_in("u", "d", ANDROID)
    assert town.gone() == [(None, None)]
    await town.repair()
    assert [at for _, at, _ in await town.events()] == [moment(first)]
    await town.push("u")
    assert [at for _, at, _ in await town.events()] == [moment(first), moment(town.now)]


async def test_registered_since_raises_nothing(town: Town) -> None:
    """A device that was registered again, or got a new token, while the message was under way is left alone."""
    await town.move_in("u", "d", ANDROID)
    gone = await town.find_dead(1, ANDROID)
    await town.move_in("u", "d", ANDROID)
    assert (await town.bury(gone), town.gone()) == ([], [(None, None)])
    gone = await town.find_dead(1, ANDROID)
    await town.move_in("u", "d", "fcm-new-token")
    assert (await town.bury(gone), town.gone()) == ([], [(None, None)])
    await town.repair()
    assert await town.events() == []


async def test_two_vendors_answers_are_one_going(town: Town) -> None:
    """Two messages that find the same device dead are one going, at the first time and of the first campaign."""
    await town.move_in("u", "d", ANDROID)
    gone = await town.find_dead(1, ANDROID)
    [went] = await town.bury(gone)
    first = town.now
    town.now += 5
    assert (await town.bury(gone, 8), town.gone()) == ([], [(first, "410")])
    assert (went.id, went.gone_at, went.gone_user, went.gone_campaign) == (gone[1][0][0], first, 1, 7)


async def test_an_address_that_bounces_is_no_device(town: Town) -> None:
    """A dead mailbox is forgotten and is no app."""
    await town.move_in("u", "d", "fcm-fine-token")
    assert await town.bury({1: [(0, Address("email", "u@example.com"), "550 5.1.1")]}) == []
    await town.repair()
    assert await town.events() == []


async def test_repair_writes_what_was_lost(town: Town) -> None:
    """A crash between the ledger and facts loses no event, and repairing twice is repairing once."""
    for number in range(3):
        await town.move_in(f"u{number}", f"d{number}", f"{ANDROID}-{number}")
        await town.bury(await town.find_dead(number + 1, f"{ANDROID}-{number}"))
    assert await town.events() == []
    for _ in range(2):
        await town.repair()
        props = {"Platform": "Android", "Campaign id": 7, "Code": "410"}
        expected = [(user, moment(at), props) for user, (at, _) in enumerate(town.gone(), 1)]
        assert await town.events() == expected


async def test_repair_agrees_with_delivery(town: Town) -> None:
    """What delivery wrote is what repair writes, also when the device has another owner since."""
    await town.move_in("u", "d", ANDROID)
    await town.push("u")
    before = await town.events()
    assert [user for user, *_ in before] == [1]
    await town.upload({"type": "profile", "identity": "heir", "objectId": "d", "profileData": {}})
    await town.repair()
    assert await town.events() == before


async def test_a_device_that_moved_goes_from_its_owner(town: Town) -> None:
    """The event is of whoever has the device when it goes, even when the message was to somebody else."""
    await town.move_in("u", "d", ANDROID)
    gone = await town.find_dead(1, ANDROID)
    await town.upload({"type": "profile", "identity": "heir", "objectId": "d", "profileData": {}})
    await town.bury(gone)
    await town.repair()
    assert [user for user, *_ in await town.events()] == [2]


async def test_facts_that_refuse_hold_up_nobody(town: Town) -> None:
    """When the event cannot be written the delivery ends all the same, and repair makes up for it."""
    await town.move_in("u", "d", ANDROID)
    await town.move_in("v", "e", "fcm-fine-token")
    name = f"refused_{town.account.id.replace('-', '_')}"
    mine = f"account = '{town.account.id}' AND name = 'App Uninstalled'"
    town.facts.command_now(f"ALTER TABLE event ADD CONSTRAINT {name} CHECK NOT ({mine})")
    try:
        await town.push("u", "v")
        assert (sorted(await town.states()), await town.events()) == (["ACCEPTED", "GONE"], [])
    finally:
        town.facts.command_now(f"ALTER TABLE event DROP CONSTRAINT {name}")
    assert await town.lease() is None
    await town.repair()
    assert [(user, at) for user, at, _ in await town.events()] == [(1, moment(town.now))]


async def test_a_delivery_that_breaks_off(own_ledger: Ledger, facts: Facts) -> None:
    """What was committed as gone is an event, also when the delivery fails after it."""

    async def spoil(_message: Message) -> Outcome:
        table = schema.user
        broken = update(table).where(table.c.account_id == stage.account.id, table.c.id == 3).values(profile='{"MSG-')
        await own_ledger.write(lambda connection: connection.execute(broken))
        return Outcome.GONE

    vendor = Vendor(spoil)
    stage = Stage(own_ledger, facts, {"android": vendor}, msgspec.structs.replace(SETTINGS, window=1))
    await stage.people(3)
    await stage.campaign()
    await stage.deliver()
    assert len(vendor.got) == 2
    assert await stage.count("event", "name = 'App Uninstalled' AND user = 1") == 1
    assert await stage.reachable() == 2


def test_over_http(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """Of a completed campaign a `where` can ask for it, by platform, campaign and code; repair changes nothing."""
    sending.upload(*people(4, kinds=("fcm",)))
    for user in (0, 1):
        dead = {"type": "fcm", "id": token("fcm", f"user-{user}-unregistered")}
        sending.upload({"type": "token", "objectId": f"user-device-{user}", "tokenData": dead})
    campaign = sending.create(devices=["android"])
    assert sending.result(campaign)["failed"] == 2

    def count(*conditions: tuple[str, Any]) -> int:
        """How many people with an address raised it so."""
        properties = [{"name": name, "value": value} for name, value in conditions]
        where = {"event_name": "App Uninstalled", "from": "yesterday", "to": "today", "event_properties": properties}
        content = {"subject": "s", "body": "b", "sender_name": "Tocsin"}
        body = {"name": "n", "where": where, "content": content, "target_mode": "email", "when": "now"}
        status, answer = sending.post("/1/targets/create.json", body | {"estimate_only": True})
        assert status == 200, answer
        return int(answer["estimates"]["web"])

    running = find_running(server.data)
    assert running is not None
    for _ in range(2):
        assert count() == 2
        assert count(("Platform", "android"), ("Campaign id", campaign), ("Code", "UNREGISTERED")) == 2
        assert count(("Platform", "iOS")) == 0
        assert ask(running, "/local/repair", sending.account_id, {})["outcomes"] == 4
