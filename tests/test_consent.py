"""Whether a device wants push: `MSG-push` of a record with an objectId is that device's, any other is the person's."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import THOROUGH, Caller, Sandbox, new_sqlite, people
from conftest import token as address_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from support.devices import live_devices

from tocsin.account import Account, create_account
from tocsin.delivery.recipients import find_addresses, load_people, mark_gone
from tocsin.ingest import upload
from tocsin.ingest.identity import find_users
from tocsin.outcome import State
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

NOW = 1_800_000_000.0
NEVER, REACHABLE, UNREACHABLE = 0, 1, 2  # facts.sql
NOS = (False, "false", "No", "n", 0, "0")
YESES = (True, "true", "Yes", 1, {"$delete": True})


def choice(value: Any, **keys: str) -> dict[str, Any]:
    return {"type": "profile", **keys, "profileData": {"MSG-push": value}}


def token(device: str, value: str = "", kind: str = "fcm") -> dict[str, Any]:
    return {"type": "token", "objectId": device, "tokenData": {"type": kind, "id": value or f"token-of-{device}"}}


def owner(identity: str, *devices: str) -> list[dict[str, Any]]:
    return [{"type": "profile", "identity": identity, "objectId": one, "profileData": {}} for one in devices]


class House:
    """An account in both stores, and what it knows of who can be reached."""

    def __init__(self, ledger: Ledger, facts: Facts):
        self.ledger, self.facts, self.now = ledger, facts, NOW
        self.account: Account = create_account(ledger, "house", "UTC", NOW)[0]

    async def upload(self, *records: dict[str, Any], dry_run: bool = False) -> None:
        """Uploads records that must all be taken, a second after the ones before."""
        self.now += 1
        body = {"d": list(records)}
        result = await upload(self.ledger, self.facts, self.account, body, self.now, dry_run=dry_run)
        assert result.unprocessed == []

    def user(self, key: tuple[str, str]) -> int:
        return self.ledger.read_now(lambda connection: find_users(connection, self.account.id, [key]))[key]

    def meant(self, identity: str, platform: str = "android", *, every_device: bool = False) -> list[str] | State:
        """Where a message would go if it were claimed now, or why to nobody."""
        user = self.user(("identity", identity))
        found = self.ledger.read_now(lambda connection: load_people(connection, self.account.id, [user]))
        addresses = find_addresses(found[user], platform, every_device=every_device)
        return addresses if isinstance(addresses, State) else [address.value for _, address in addresses]

    async def reach(self, identity: str) -> tuple[int, int]:
        """What facts say of a person: android, ios."""
        rows = await self.facts.query(
            "SELECT android, ios FROM profile FINAL WHERE account = {account:String} AND user = {user:UInt32}",
            {"account": self.account.id, "user": self.user(("identity", identity))},
        )
        return rows[0][0], rows[0][1]

    def profile(self, identity: str) -> str:
        table, user = schema.user, self.user(("identity", identity))
        query = select(table.c.profile).where(table.c.account_id == self.account.id, table.c.id == user)
        return str(self.ledger.read_now(lambda connection: connection.scalar(query)))

    def opted_out(self) -> dict[str, float]:
        """The choices in the ledger: since when, by objectId."""
        table = schema.device_opt_out
        query = select(table.c.object_id, table.c.since).where(table.c.account_id == self.account.id)
        rows = self.ledger.read_now(lambda connection: connection.execute(query).all())
        return {row.object_id: row.since for row in rows}

    async def bury(self, identity: str, value: str) -> None:
        """A vendor says that this token is dead."""
        user = self.user(("identity", identity))
        found = self.ledger.read_now(lambda connection: live_devices(connection, self.account.id, [user]))
        dead = [one for one in found[user] if one[1].value == value]
        gone = {user: [(device_id, address, "410") for device_id, address in dead]}
        went = await self.ledger.write(lambda connection: mark_gone(connection, self.account.id, gone, self.now))
        assert len(went) == 1


@pytest.fixture
def house(store: Ledger, facts: Facts) -> House:
    """An account of its own, on each ledger in turn."""
    return House(store, facts)


@pytest.mark.parametrize("no", NOS, ids=repr)
async def test_a_device_opts_out(house: House, no: Any) -> None:
    """The newest device that did not opt out is sent to; the person's own MSG-push and other platforms stay as they
    were; and when no device is left, the person is unsubscribed there."""
    await house.upload(*owner("u", "old", "new", "phone"), token("old"), token("phone", kind="apns", value="aa" * 32))
    await house.upload(token("new"))
    assert house.meant("u") == ["token-of-new"]
    await house.upload(choice(no, identity="u", objectId="new"))
    assert (house.meant("u"), await house.reach("u")) == (["token-of-old"], (REACHABLE, REACHABLE))
    assert house.meant("u", every_device=True) == ["token-of-old"]
    await house.upload(choice(no, objectId="old"))
    assert (house.meant("u"), await house.reach("u")) == (State.UNSUBSCRIBED, (UNREACHABLE, REACHABLE))
    assert house.meant("u", "ios") == ["aa" * 32]
    assert "MSG-push" not in house.profile("u")


@pytest.mark.parametrize("yes", YESES, ids=repr)
async def test_a_device_comes_back(house: House, yes: Any) -> None:
    """True, or `$delete`, takes the device's own choice back."""
    await house.upload(*owner("u", "d"), token("d"), choice(False, objectId="d"))
    assert (house.meant("u"), await house.reach("u")) == (State.UNSUBSCRIBED, (UNREACHABLE, NEVER))
    await house.upload(choice(yes, objectId="d"))
    assert (house.opted_out(), house.meant("u")) == ({}, ["token-of-d"])
    assert await house.reach("u") == (REACHABLE, NEVER)
    await house.upload(choice(yes, objectId="d"))
    assert (house.meant("u"), "MSG-push" in house.profile("u")) == (["token-of-d"], False)


@pytest.mark.parametrize("kind", ["identity", "FBID", "GPID"])
async def test_without_a_device_it_is_the_person(house: House, kind: str) -> None:
    """MSG-push without an objectId counts for all devices, those that come later too, and no device overrules it."""
    name = {"identity": "u", "FBID": "f", "GPID": "g"}[kind]
    await house.upload(*owner("u", "d", "phone"), token("d"), token("phone", kind="apns", value="aa" * 32))
    await house.upload({"type": "profile", "identity": "u", "FBID": "f", "GPID": "g", "profileData": {}})
    await house.upload(choice(False, **{kind: name}))
    assert (house.opted_out(), '"MSG-push":false' in house.profile("u")) == ({}, True)
    assert (house.meant("u"), house.meant("u", "ios")) == (State.UNSUBSCRIBED, State.UNSUBSCRIBED)
    await house.upload(choice(True, objectId="d"), *owner("u", "later"), token("later"))
    assert (house.meant("u"), await house.reach("u")) == (State.UNSUBSCRIBED, (UNREACHABLE, UNREACHABLE))
    await house.upload(choice({"$delete": 1}, **{kind: name}))
    assert (house.meant("u"), await house.reach("u")) == (["token-of-later"], (REACHABLE, REACHABLE))


async def test_all_devices_stay_the_persons_word(house: House) -> None:
    """MSG-push-all is the person's, whichever device said it."""
    await house.upload(*owner("u", "d", "e"), token("d"), token("e"))
    await house.upload({"type": "profile", "objectId": "d", "profileData": {"MSG-push-all": False, "MSG-push": True}})
    assert (house.opted_out(), house.meant("u")) == ({}, State.UNSUBSCRIBED)


async def test_the_rest_of_the_record_is_the_persons(house: House) -> None:
    """What stands beside MSG-push in a device's record is stored in the profile as ever."""
    both = {"type": "profile", "identity": "u", "objectId": "d", "profileData": {"Plan": "Gold", "MSG-push": False}}
    await house.upload(both)
    assert (house.profile("u"), list(house.opted_out())) == ('{"Plan":"Gold"}', ["d"])


async def test_a_choice_outlives_tokens(house: House) -> None:
    """It may come before the token and holds for every token after."""
    await house.upload(choice(False, objectId="d"))
    await house.upload(*owner("u", "d"), token("d", "first"))
    assert (house.meant("u"), await house.reach("u")) == (State.UNSUBSCRIBED, (UNREACHABLE, NEVER))
    await house.upload(token("d", "second"))
    assert (house.meant("u"), await house.reach("u")) == (State.UNSUBSCRIBED, (UNREACHABLE, NEVER))
    await house.upload(token("e", "second"), *owner("u", "e"))
    assert house.meant("u") == ["second"], "a token on another device is that device's"


async def test_a_choice_goes_with_the_device(house: House) -> None:
    """A device that changes hands keeps its choice; whoever lost it is free of it."""
    await house.upload(*owner("a", "d", "e"), token("d"), token("e"), choice(False, objectId="d"))
    await house.upload(*owner("b", "d"))
    assert (house.meant("a"), house.meant("b")) == (["token-of-e"], State.UNSUBSCRIBED)
    assert (await house.reach("a"), await house.reach("b")) == ((REACHABLE, NEVER), (UNREACHABLE, NEVER))
    await house.upload(choice(True, objectId="d", identity="b"))
    assert (house.meant("b"), await house.reach("b")) == (["token-of-d"], (REACHABLE, NEVER))


async def test_the_last_word_of_an_upload_counts(house: House) -> None:
    """Several records on one device are taken in their order; said again, it is since the first time."""
    await house.upload(choice(True, objectId="d"), choice(False, objectId="d"))
    assert house.opted_out() == {"d": NOW + 1}
    await house.upload(choice("no", objectId="d"))
    assert house.opted_out() == {"d": NOW + 1}
    await house.upload(choice(False, objectId="d"), choice(True, objectId="d"), choice(False, objectId="e"))
    assert house.opted_out() == {"e": NOW + 3}


async def test_a_dry_run_chooses_nothing(house: House) -> None:
    """A record that is only checked leaves no choice behind."""
    await house.upload(choice(False, objectId="d"), dry_run=True)
    assert house.opted_out() == {}


async def test_dead_is_not_unsubscribed(house: House) -> None:
    """A live device that opted out says «unsubscribed», a dead one says «no device», whatever it chose."""
    await house.upload(*owner("u", "d", "e"), token("d"), token("e"))
    await house.bury("u", "token-of-d")
    await house.upload(choice(False, objectId="d"))
    assert house.meant("u") == ["token-of-e"]
    await house.upload(choice(False, objectId="e"))
    assert (house.meant("u"), await house.reach("u")) == (State.UNSUBSCRIBED, (UNREACHABLE, NEVER))
    await house.upload(choice(True, objectId="e"))
    await house.bury("u", "token-of-e")
    await house.upload(choice(False, objectId="e"))
    assert (house.meant("u"), await house.reach("u")) == (State.NO_DEVICE, (UNREACHABLE, NEVER))


async def test_accounts_choose_apart(house: House) -> None:
    """The same objectId in two accounts is two devices."""
    other = House(house.ledger, house.facts)
    for one in (house, other):
        await one.upload(*owner("u", "d"), token("d"))
    await house.upload(choice(False, objectId="d"))
    assert (house.meant("u"), other.meant("u")) == (State.UNSUBSCRIBED, ["token-of-d"])
    assert await other.reach("u") == (REACHABLE, NEVER)
    await other.upload(choice(True, objectId="d"))
    assert house.meant("u") == State.UNSUBSCRIBED


@pytest.mark.parametrize("object_id", ["é" * 128, "é" * 129, "x" * 1024], ids=["256 bytes", "258 bytes", "1024 bytes"])
async def test_an_id_that_gets_no_token(house: House, object_id: str) -> None:
    """An objectId too long for a token is no device: its profile is stored, and there is nothing to choose for."""
    await house.upload({"type": "profile", "objectId": object_id, "profileData": {"Plan": "Gold", "MSG-push": False}})
    assert house.user(("objectId", object_id)) == 1
    assert list(house.opted_out()) == ([object_id] if len(object_id.encode()) <= 256 else [])


# One step of what happens to two people and three devices: (what, person or device, device, value).
DEVICES = ("d0", "d1", "d2")
STEPS = st.one_of(
    st.tuples(st.just("own"), st.sampled_from("ab"), st.sampled_from(DEVICES), st.none()),
    st.tuples(st.just("token"), st.none(), st.sampled_from(DEVICES), st.integers(0, 9)),
    st.tuples(st.just("device"), st.none(), st.sampled_from(DEVICES), st.sampled_from((*NOS, *YESES))),
    st.tuples(st.just("both"), st.sampled_from("ab"), st.sampled_from(DEVICES), st.sampled_from((*NOS, *YESES))),
    st.tuples(st.just("person"), st.sampled_from("ab"), st.none(), st.sampled_from((*NOS, *YESES))),
)


class Model:
    """What the rule says, in the order in which it was said."""

    def __init__(self) -> None:
        self.owner = dict(zip(DEVICES, "aab", strict=True))
        self.tokens: dict[str, str] = {}  # of live devices, the newest last
        self.unwilling: set[str] = set()  # people and devices

    def take(self, step: tuple[str, Any, Any, Any]) -> dict[str, Any]:
        """The record of a step, after it."""
        what, person, device, value = step
        if what == "token":
            self.tokens.pop(device, None)
            self.tokens[device] = f"{device}-{value}"
            return token(device, self.tokens[device])
        if person and device:
            self.owner[device] = person
        if what == "own":
            return owner(person, device)[0]
        (self.unwilling.add if value in NOS else self.unwilling.discard)(device or person)
        keys = {"identity": person, "objectId": device}
        return choice(value, **{kind: key for kind, key in keys.items() if key})

    def meant(self, person: str) -> list[str] | State:
        mine = [device for device in self.tokens if self.owner[device] == person]
        if not mine:
            return State.NO_DEVICE
        willing = [self.tokens[device] for device in reversed(mine) if device not in self.unwilling]
        return willing if willing and person not in self.unwilling else State.UNSUBSCRIBED


@settings(
    max_examples=40 if THOROUGH else 12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEPS, max_size=25), st.booleans())
@example([("token", None, "d1", 1), ("token", None, "d1", 0), ("token", None, "d1", 1)], True)
async def test_any_order_of_words(
    tmp_path_factory: pytest.TempPathFactory, facts: Facts, steps: list[tuple[str, Any, Any, Any]], at_once: bool
) -> None:
    """Whatever is said and moved, one record at a time or all in one upload: claims and facts follow the rule."""
    ledger = open_ledger(new_sqlite(tmp_path_factory.mktemp("law")))
    try:
        house, model = House(ledger, facts), Model()
        await house.upload(*owner("a", "d0", "d1"), *owner("b", "d2"))
        records = [model.take(step) for step in steps]
        for part in [records] if at_once else [[record] for record in records]:
            await house.upload(*part)
        for person in "ab":
            expected, found = model.meant(person), house.meant(person, every_device=True)
            if at_once and isinstance(expected, list) and isinstance(found, list):
                expected, found = sorted(expected), sorted(found)  # one upload registers all at the same moment
            assert found == expected
            wanted = NEVER if expected is State.NO_DEVICE else REACHABLE
            wanted = UNREACHABLE if expected is State.UNSUBSCRIBED else wanted
            assert (await house.reach(person))[0] == wanted
    finally:
        ledger.close()


def test_over_http(sending: Caller, sandbox: Sandbox) -> None:
    """A device that opted out is no part of the estimate, gets nothing, and its owner's other devices do."""
    sending.upload(*people(3, kinds=("fcm",)))
    second = {"type": "profile", "identity": "user-0", "objectId": "tablet", "profileData": {"MSG-push": False}}
    sending.upload(second, token("tablet", address_of("fcm", "tablet")), choice(False, objectId="user-device-1"))

    estimate = {"name": "n", "where": {}, "content": {"title": "t", "body": "b"}, "when": "now", "estimate_only": True}
    status, answer = sending.post("/1/targets/create.json", estimate | {"devices": ["android"]})
    assert (status, answer["estimates"]) == (200, {"android": 2})
    result = sending.result(sending.create(devices=["android"], send_to_all_devices=True))

    assert (result["audience"], result["sent"], result["suppressed"]) == (3, 2, 1)
    assert {message["address"] for message in sandbox.messages("fcm")} == {
        address_of("fcm", f"user-{number}") for number in (0, 2)
    }
