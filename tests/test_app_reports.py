"""What Android and iOS SDKs report: whatever comes twice, late or in another order is what the devices did."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from conftest import THOROUGH
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sdk import IOS, NOW, START, SdkWorld, encode, event, guid, launch, meta, profile, token

from tocsin.ingest.sdk.block import PEOPLE
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

ONE, TWO, THREE = guid(1), guid(2), guid(3)


@pytest.fixture
def world(ledger: Ledger, facts: Facts) -> SdkWorld:
    """On SQLite, where accounts keep the tests apart."""
    return SdkWorld(ledger, facts)


@pytest.fixture
def each_world(store: Ledger, facts: Facts) -> SdkWorld:
    """On SQLite and on PostgreSQL in turn."""
    return SdkWorld(store, facts)


async def test_the_first_launch(world: SdkWorld) -> None:
    """A person without a name becomes the one who logs in; what is told is theirs, and a `where` can ask for it."""
    await world.send(meta(ONE), launch(START), event("Viewed", START + 1, Price=5), token("register", "t1", START + 2))
    assert await world.events(ONE, "objectId") == [
        ("App Launched", START, {"Version": "1.0", "OS": "Android"}),
        ("Viewed", START + 1, {"Price": 5}),
    ]
    await world.send(meta(ONE), profile(START + 3, Identity="u1", Email="A@example.com", Since="$D_1500000000"))
    known = await world.profile("u1")
    assert known == {
        **{"Identity": "u1", "Email": "A@example.com", "Since": "$D_1500000000", "Tz": "Asia/Kolkata"},
        **{"Country": "United States", "App Version": "1.0", "App Build": "1", "OS": "Android", "OS Version": "14"},
        **{"SDK Version": 80200, "Make": "Google", "Model": "Pixel", "Locale": "en_US", "Device": "Mobile"},
    }
    assert await world.tokens("u1") == {"t1"}
    assert len(await world.events("u1")) == 2
    assert world.dropped == {}


async def test_twice_is_once(each_world: SdkWorld) -> None:
    """At-least-once delivery counts once: events, increments, and two equal events of one batch are still two."""
    world = each_world
    batch = (
        meta(ONE),
        profile(START + 1, Identity="u1", Score={"$incr": 5}, Tags={"$add": ["a"]}),
        launch(START),
        event("Viewed", START + 2),
        event("Viewed", START + 2),
    )
    for _ in range(3):
        await world.send(*batch)
    await asyncio.gather(*(world.send(*batch) for _ in range(5)))
    assert [name for name, *_ in await world.events("u1")] == ["App Launched", "Viewed", "Viewed"]
    assert (await world.profile("u1"))["Score"] == 5


async def test_what_was_said_last_counts(world: SdkWorld) -> None:
    """By the device's clock, also when an earlier request arrives late, or a second device says it."""
    await world.send(meta(ONE), profile(START + 5, Identity="u1", Plan="gold"))
    await world.send(meta(ONE), profile(START + 1, Plan="free", Colour="red"))
    await world.send(meta(TWO), profile(START + 3, Identity="u1", Plan="silver"))
    known = await world.profile("u1")
    assert (known["Plan"], known["Colour"]) == ("gold", "red")
    await world.send(meta(TWO), profile(START + 9, Plan={"$delete": True}))
    await world.send(meta(ONE), profile(START + 8, Plan="late"))
    assert "Plan" not in await world.profile("u1")


async def test_another_person_logs_in(each_world: SdkWorld) -> None:
    """The device's token goes to whom it belongs now, and the first person's pushes go there no more."""
    world = each_world
    await world.send(meta(ONE), profile(START, Identity="u1"), token("register", "t", START + 1))
    last = (meta(ONE), event("Bye", START + 5), token("unregister", "t", START + 6))
    first = (meta(TWO), profile(START + 7, Identity="u2"), launch(START + 7), token("register", "t", START + 8))
    await world.send(*last)
    await world.send(*first)
    assert (await world.tokens("u1"), await world.tokens("u2")) == (set(), {"t"})
    await world.send(*last)
    assert (await world.tokens("u1"), await world.tokens("u2")) == (set(), {"t"})
    assert [name for name, *_ in await world.events("u2")] == ["App Launched"]


async def test_a_lost_goodbye(world: SdkWorld) -> None:
    """One token under two GUIDs: the newest registration wins, whichever arrives last."""
    await world.send(meta(TWO), profile(START + 7, Identity="u2"), token("register", "t", START + 8))
    await world.send(meta(ONE), profile(START, Identity="u1"), token("register", "t", START + 1))
    assert (await world.tokens("u1"), await world.tokens("u2")) == (set(), {"t"})
    assert world.dropped["stale"] == 1


async def test_the_same_guid_changes_hands(world: SdkWorld) -> None:
    """A device that says somebody else uses it is theirs, with its token; an earlier log-in that comes late is not."""
    early = (meta(ONE), profile(START, Identity="u1", Plan="a"), token("register", "t", START + 1))
    await world.send(*early)
    await world.send(meta(ONE), profile(START + 5, Identity="u2"))
    assert (await world.tokens("u1"), await world.tokens("u2")) == (set(), {"t"})
    await world.send(*early)
    assert (await world.tokens("u1"), await world.tokens("u2")) == (set(), {"t"})


async def test_two_devices_of_one_person(each_world: SdkWorld) -> None:
    """Both are theirs, and so is what the second one did before it was told who uses it."""
    world = each_world
    await world.send(meta(ONE), profile(START, Identity="u1", Plan="gold"), token("register", "t1", START))
    await world.send(meta(TWO, IOS), event("Viewed", START + 1), token("register", "a" * 64, START, "apns"))
    await world.send(meta(TWO, IOS), profile(START + 2, Colour="red"))
    await world.send(meta(TWO, IOS), profile(START + 3, Identity="u1"), event("Bought", START + 4))
    assert await world.tokens("u1") == {"t1", "a" * 64}
    assert [name for name, *_ in await world.events("u1")] == ["Viewed", "Bought"]
    known = await world.profile("u1")
    assert (known["Plan"], known["Colour"], known["Make"]) == ("gold", "red", "Apple")


@pytest.mark.parametrize("before", [[], ["Sale"]], ids=["none", "some"])
async def test_groups_that_were_left_before_a_log_in(world: SdkWorld, before: list[str]) -> None:
    """Whoever it turns out to be has left them too, beside those that they had left."""
    left = "category-unsubscribe"
    await world.send(meta(ONE), profile(START, Identity="u1", Email="a@example.com", **{left: {"email": before}}))
    await world.send(meta(TWO), profile(START + 1, **{left: {"email": ["News"]}}))
    await world.send(meta(TWO), profile(START + 2, Identity="u1"))
    assert (await world.profile("u1"))[left] == {"email": [*before, "News"]}


@pytest.mark.parametrize("late", [False, True])
async def test_a_token_is_replaced(world: SdkWorld, late: bool) -> None:
    """An app has one token on a device: the newer one, however they come."""
    batches = [
        (meta(ONE), profile(START, Identity="u1"), token("register", "old", START + 1)),
        (meta(ONE), token("register", "new", START + 50)),
    ]
    for batch in [*(reversed(batches) if late else batches), *batches]:
        await world.send(*batch)
    assert await world.tokens("u1") == {"new"}


async def test_a_token_is_given_back(world: SdkWorld) -> None:
    """Once given back it stays so, also when its registration comes after; a new registration brings it again."""
    await world.send(meta(ONE), token("unregister", "t", START + 9))
    await world.send(meta(ONE), profile(START, Identity="u1"), token("register", "t", START + 1))
    assert await world.tokens("u1") == set()
    await world.send(meta(ONE), token("register", "t", START + 20))
    assert await world.tokens("u1") == {"t"}
    await world.send(meta(TWO), token("unregister", "t", START + 30))
    assert await world.tokens("u1") == {"t"}


async def test_choices_about_channels(world: SdkWorld) -> None:
    """`MSG-push` is the device's, the others are the person's."""
    await world.send(meta(ONE), profile(START, Identity="u1", Email="a@example.com"), token("register", "t1", START))
    await world.send(meta(TWO), profile(START, Identity="u1"), token("register", "t2", START))
    await world.send(meta(ONE), profile(START + 5, **{"MSG-push": False, "MSG-email": False}))
    await world.send(meta(ONE), profile(START + 1, **{"MSG-push": True}))
    assert await world.read("device_opt_out", "object_id") == [(ONE,)]
    assert (await world.profile("u1"))["MSG-email"] is False
    await world.send(meta(ONE), profile(START + 9, **{"MSG-push": True}))
    assert await world.read("device_opt_out", "object_id") == []


async def test_one_wrong_property_is_one_property(world: SdkWorld) -> None:
    """A log-in with a phone number that is none is a log-in."""
    await world.send(meta(ONE), profile(START, Identity="u1", Phone="12", Good=1, Bad=["x" * 3000]))
    known = await world.profile("u1")
    assert (known["Good"], "Phone" in known, "Bad" in known) == (1, False, False)
    assert world.dropped == {"property": 2}


FORBIDDEN = ["App Uninstalled", "Notification Sent", "Channel Unsubscribed", "Mail Bounced", "UTM Visited"]


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_only_the_server_raises_them(world: SdkWorld, name: str) -> None:
    """A stranger with the app's token takes nobody's address off, and makes up no outcome."""
    await world.upload({"type": "profile", "identity": "ann", "profileData": {"Email": "ann@example.com"}})
    props = {"Campaign Type": "Email", "Identity": "ann@example.com"}
    await world.send(meta(ONE), event(name, START, **props))
    assert world.dropped == {"forbidden": 1}
    assert await world.read("unsubscribed", "address") == []


@pytest.mark.parametrize("at", [int(NOW) + 20 * 366 * 86_400, 0, -1, 2**70, "1700000000", None, True, 1e300])
async def test_clocks(world: SdkWorld, at: Any) -> None:
    """What no clock of this year says is dropped, and the rest of the batch is kept."""
    await world.send(meta(ONE), event("Viewed", at), event("Viewed", START))
    assert world.dropped == {"clock": 1}
    assert len(await world.events(ONE, "objectId")) == 1


async def test_a_device_with_many_people(world: SdkWorld) -> None:
    """A device that claims a thousand people is believed a few times."""
    await asyncio.gather(
        *(world.send(meta(ONE), profile(START + number, Identity=f"u{number}")) for number in range(100))
    )
    people = [value for (value,) in await world.read("identity", "value", kind="identity")]
    assert len(people) == PEOPLE
    assert world.dropped["people"] == 100 - PEOPLE


async def test_names_are_left_for_the_server(world: SdkWorld) -> None:
    """What apps make up takes three quarters of an account's names at most."""
    for start in range(0, 500, 50):
        await world.send(meta(ONE), *(event(f"e{number}", START) for number in range(start, start + 50)))
    assert world.dropped["record"] == 500 - 512 * 3 // 4
    await world.upload({"type": "event", "identity": "u", "evtName": "of the server", "evtData": {}})
    for start in range(0, 1000, 250):
        await world.send(meta(ONE), profile(START + start, **{f"p{start + number}": 1 for number in range(250)}))
    await world.send(meta(ONE), *(profile(START + number, **{f"q{number}": 1}) for number in range(50)))
    await world.send(meta(TWO), profile(START, Identity="u1", Email="a@example.com", Another=1))
    assert (await world.profile("u1"))["Email"] == "a@example.com"
    assert "Another" not in await world.profile("u1")


async def test_nobody_is_taken_over(world: SdkWorld) -> None:
    """Without `trust` a device says nothing of who somebody is, before or after a server names them; the server's word
    makes it theirs."""
    world.trust = False
    claims = profile(START, Identity="ann", Email="ann@example.com", Phone="+491701234567", Name="Mallory", Plan="x")
    await world.send(meta(TWO), claims, token("register", "stranger", START))
    ann = {"type": "profile", "identity": "ann", "profileData": {"Email": "ann@example.com", "Name": "Ann"}}
    await world.upload(ann)
    await world.send(meta(ONE), claims, event("Viewed", START), token("register", "own", START))
    assert await world.profile("ann") == ann["profileData"]
    assert (await world.tokens("ann"), await world.events("ann")) == (set(), [])
    assert world.dropped == {"unconfirmed": 2}
    await world.upload({"type": "profile", "identity": "ann", "objectId": ONE, "profileData": {}})
    await world.send(meta(ONE), profile(START + 9, Name="Anna"), event("Bought", START + 9))
    assert (await world.profile("ann"))["Name"] == "Anna"
    assert await world.tokens("ann") == {"own"}
    assert [name for name, *_ in await world.events("ann")] == ["Bought"]


# A history: two phones and a tablet, three people, one of them known to a server before.
PEOPLE_NAMES = ("u1", "u2", "server")
HISTORY: tuple[tuple[dict[str, Any], ...], ...] = (
    (meta(ONE), launch(START), event("Viewed", START + 1, n=1), token("register", "t1", START + 2)),
    (meta(ONE), profile(START + 10, Identity="u1", Plan="free", Score={"$incr": 2}), event("Viewed", START + 11, n=2)),
    (meta(ONE), profile(START + 20, Plan="gold"), event("Bought", START + 21), event("Bought", START + 21)),
    (meta(ONE), event("Bye", START + 30), token("unregister", "t1", START + 31)),
    (
        meta(TWO),
        profile(START + 40, Identity="u2", Plan="new"),
        launch(START + 40),
        token("register", "t1", START + 41),
    ),
    (meta(TWO), profile(START + 45, Score={"$incr": 1}), event("Viewed", START + 46)),
    (
        meta(THREE, IOS),
        launch(START + 5),
        event("Viewed", START + 6, n=9),
        profile(START + 7, Colour="red", Score={"$incr": 5}),
    ),
    (meta(THREE, IOS), token("register", "a" * 64, START + 8, "apns")),
    (meta(THREE, IOS), profile(START + 50, Identity="u1", Plan="platinum"), event("Bought", START + 51)),
    (meta(THREE, IOS), token("register", "b" * 64, START + 60, "apns")),
    (meta(guid(4)), event("Viewed", START + 3), profile(START + 4, Size=4)),
    (meta(guid(4)), profile(START + 70, Identity="server", Name="Named"), event("Viewed", START + 71)),
)


async def test_any_order_is_the_same_history(ledger: Ledger, facts: Facts) -> None:
    """The same batches, each once or several times, in any order and many at a time: the same people, properties,
    tokens and events."""

    async def tell(order: list[int], together: int) -> dict[str, Any]:
        world = SdkWorld(ledger, facts)
        await world.upload({"type": "profile", "identity": "server", "profileData": {"Since": 1}})
        for start in range(0, len(order), together):
            await asyncio.gather(*(world.send(*HISTORY[place]) for place in order[start : start + together]))
        return await world.everything(PEOPLE_NAMES)

    straight = list(range(len(HISTORY)))
    wanted = await tell(straight, 1)
    assert (wanted["u1"][0]["Plan"], wanted["u1"][0]["Score"]) == ("platinum", 7)
    assert {len(one[2]) for one in wanted.values()} == {2, 9}
    dice = random.Random(7)
    for together in [24, 2, 24, *[5] * 20] if THOROUGH else (24, 6, 24):
        order = straight * 2
        dice.shuffle(order)
        assert await tell(order, together) == wanted, order


@given(st.binary(max_size=200))
@settings(max_examples=50 if THOROUGH else 15)
def test_bytes_are_read_or_not(raw: bytes) -> None:
    """No body is a failure of ours."""
    from tocsin.ingest.sdk.mobile import Unreadable, read_mobile

    for body in (raw, encode(meta(ONE))[:-1] + b"," + raw + b"]"):
        try:
            read_mobile(body, NOW)
        except Unreadable:
            continue
