"""Webhooks: each record arrives, signed, in the order it was stored, whatever fails on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOMY, THOROUGH, Sandbox, Server, people, wait_for
from cryptography.fernet import Fernet
from support.database_clock import follow_clock
from support.libraries import install, run
from support.receiver import Receiver

from tocsin.account import Account, create_account
from tocsin.authenticator.audit import list_deeds
from tocsin.errors import Problem
from tocsin.ingest import event_row
from tocsin.providers.encryption import encrypt_again
from tocsin.providers.public_address import is_allowed, read_networks
from tocsin.providers.transport import Pool, Transport, VendorAnswer
from tocsin.settings import Settings
from tocsin.stats.webhooks import endpoint as endpoints
from tocsin.stats.webhooks.endpoint import EVENT_TYPES, WebhookEndpoint, check_url
from tocsin.stats.webhooks.feed import FeedWindow, Place, find_horizon, listen_to, read_page
from tocsin.stats.webhooks.poster import WebhookPoster, describe_answer, move_on, open_pool, post_test
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

HERE = Settings(webhook_networks="127.0.0.0/8")
CHUNKS = itertools.count(1)
PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", ".")
RECIPE = Path(__file__).parent / "webhooks" / "requirements.txt"
KINDS = {"accepted": "sent", "refused": "failed", "expired": "failed", "unknown": "unknown", "suppressed": "suppressed"}


class World:
    """Accounts with endpoints on one ledger and the facts store, and posters that look when they are told."""

    def __init__(self, store: Ledger, facts: Facts, pool: Pool, settings: Settings = HERE):
        self.store, self.facts, self.pool, self.settings = store, facts, pool, settings
        self.now = datetime.now(UTC).timestamp()
        follow_clock(store, lambda: self.now)
        self.poster = self.new_poster()

    def new_poster(self) -> WebhookPoster:
        return WebhookPoster(self.store, self.facts, self.settings, lambda: self.now)

    def account(self) -> Account:
        return create_account(self.store, "test", "UTC", self.now)[0]

    async def endpoint(
        self, account: Account, receiver: Receiver, events: tuple[str, ...] = EVENT_TYPES
    ) -> WebhookEndpoint:
        """A new endpoint that has begun: what is stored from now on is its own."""
        given = (account.id, receiver.url, events, self.settings.secret_key, "test", self.now)
        made, _ = self.store.write_now(lambda connection: endpoints.create(connection, *given))
        await self.poster.look(self.pool)
        await self.poster.finish()
        return self.find(made)

    def find(self, one: WebhookEndpoint) -> WebhookEndpoint:
        return self.store.read_now(lambda connection: endpoints.find(connection, one.account_id, one.id))

    async def sent(self, account: Account, count: int, outcome: str = "accepted", code: str = "") -> int:
        """Store the outcomes of a new chunk; its number."""
        chunk = next(CHUNKS)
        await self.store_again(account, chunk, count, outcome, code)
        return chunk

    async def store_again(
        self, account: Account, chunk: int, count: int, outcome: str = "accepted", code: str = ""
    ) -> None:
        at = datetime.fromtimestamp(self.now, UTC)
        rows = [
            (account.id, 7, chunk, position, 1 + position, "ios", "push", outcome, code, "", "", date.today(), at)
            for position in range(count)
        ]
        await self.facts.insert("outcome", rows)

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.poster.look(self.pool)
            await self.poster.finish()


@pytest.fixture
async def world(store: Ledger, facts: Facts) -> AsyncIterator[World]:
    async with Transport() as transport:
        yield World(store, facts, open_pool(transport, HERE))


@pytest.fixture
def new_receiver() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def new(*given: Any) -> Receiver:
        made.append(Receiver(*given))
        return made[-1]

    yield new
    for one in made:
        one.close()


def messages(receiver: Receiver) -> list[str]:
    return [event["message"] for event in receiver.taken()]


@pytest.mark.parametrize("seed", range(20 if THOROUGH else 2))
async def test_every_record_arrives(world: World, new_receiver: Callable[..., Receiver], seed: int) -> None:
    """Outcomes stored once or many times, posts refused or broken off after they arrived, processes that end at any
    point: each record arrives, the first time in the order it was stored; once, where every answer was heard."""
    dice = random.Random(seed)
    broken = seed % 2 == 1
    receiver = new_receiver(lambda: dice.choice([(200, {}), (500, {}), (0, {})]) if broken else (200, {}))
    account, other = world.account(), world.account()
    one = await world.endpoint(account, receiver)
    stored: list[tuple[int, int]] = []
    for _ in range(5):
        for _ in range(dice.randrange(3)):
            count = dice.choice([1, 3, 700])
            stored.append((await world.sent(account, count), count))
        if stored:
            chunk, count = dice.choice(stored)
            await world.store_again(account, chunk, count)
        await world.sent(other, 5)
        world.now += 7200.0
        looking = asyncio.create_task(world.look())
        if broken and dice.random() < 0.5:
            await asyncio.wait([looking], timeout=dice.random() / 20)
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await world.poster.finish(0)
            world.now += 3600.0  # its lease is over
            world.poster = world.new_poster()
    receiver.answer = lambda: (200, {})
    world.now += 7200.0
    await world.look(3)
    came = messages(receiver)
    expected = [f"{chunk}-{position}" for chunk, count in stored for position in range(count)]
    assert list(dict.fromkeys(came)) == expected
    if not broken:
        assert came == expected
    assert len({event["id"] for event in receiver.taken()}) == len(expected)
    assert world.find(one).failures == 0


async def test_inserts_under_way_are_waited_for(facts: Facts) -> None:
    """What is stored with an earlier time than what can be read already, for it is many rows, is not passed over."""
    account = f"feed-{next(CHUNKS)}"
    await listen_to(facts, [account])
    end, seen = Place(await find_horizon(facts)), list[int]()
    large = (
        "INSERT INTO outcome SELECT '{}', 7, {}, number, number + 1, 'ios', 'push', "
        "if(number = 0, 'refused', 'accepted'), '', '', '', today(), now() FROM numbers(60000)"
    )
    chunks = [next(CHUNKS) for _ in range(4)]

    def store_all() -> None:
        for chunk in chunks:
            facts.command_now(large.format(account, chunk))

    storing = asyncio.create_task(asyncio.to_thread(store_all))
    stored = False
    while not stored:
        stored = storing.done()
        # It may lie a little further back than before: the clock is read some time before what runs.
        after, end = end, max(end, Place(await find_horizon(facts)))
        rows = await read_page(facts, account, ["outcome.failed"], FeedWindow(after, end), 10)
        seen += [row.place.id >> 16 for row in rows]
    assert seen == chunks


async def test_nothing_is_fed_before_somebody_listens(facts: Facts) -> None:
    """A store that is opened has no views that write the feed, which each insert would wait for; the first account
    that listens makes them, and gets what is stored from then on."""
    account = f"feed-{next(CHUNKS)}"
    for view in ("outcome_to_feed", "event_to_feed", "other_event_to_feed"):
        facts.command_now(f"DROP VIEW IF EXISTS {view}")
    await asyncio.to_thread(lambda: open_facts(facts.url).close())
    await listen_to(facts, [])
    asked = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND endsWith(name, '_to_feed')"
    assert await facts.query(asked, {}) == [(0,)]
    await listen_to(facts, [account])
    assert await facts.query(asked, {}) == [(2,)], "and none for every event"
    at = datetime.now(UTC)
    await facts.insert("outcome", [(account, 7, 1, 0, 1, "ios", "push", "refused", "", "", "", date.today(), at)])
    assert len(await facts.query("SELECT id FROM feed WHERE account = {account:String}", {"account": account})) == 1


async def test_a_batch_keeps_its_id(world: World, new_receiver: Callable[..., Receiver]) -> None:
    """What is posted again after an answer that nobody heard is the same bytes under the same id, also by another
    process, and although more was stored meanwhile."""
    receiver = new_receiver(lambda: (0, {}))
    account = world.account()
    await world.endpoint(account, receiver)
    await world.sent(account, 3)
    await world.look()
    await world.sent(account, 4)
    receiver.answer = lambda: (200, {})
    world.now += 7200.0
    world.poster = world.new_poster()
    await world.look(2)
    first, again, rest = receiver.posted
    assert (first.body, first.headers["webhook-id"]) == (again.body, again.headers["webhook-id"])
    assert len(rest.events) == 4
    assert rest.headers["webhook-id"] != first.headers["webhook-id"]


async def test_what_an_event_says(world: World, new_receiver: Callable[..., Receiver]) -> None:
    """Outcomes with the vendor's code or our reason, reports of a message, opt-outs; what was not asked for is left
    out, and so are other events."""
    everything, failures = new_receiver(), new_receiver()
    account = world.account()
    await world.endpoint(account, everything)
    await world.endpoint(account, failures, ("outcome.failed",))
    chunks = {outcome: await world.sent(account, 1, outcome, f"code of {outcome}") for outcome in KINDS}
    told = {
        "Notification Viewed": "interaction.viewed",
        "Notification Clicked": "interaction.clicked",
        "Channel Unsubscribed": "consent.unsubscribed",
        "Channel Resubscribed": "consent.resubscribed",
        "Mail Bounced": "consent.bounced",
    }
    rows = [event_row(account, name, 1, world.now, 65536, {"Identity": "a@b.de"}) for name in (*told, "Charged")]
    await world.facts.insert("event", rows)
    await world.look()
    came = {(event["type"], event["data"].get("Code")) for event in everything.taken()}
    assert came == {
        *((f"outcome.{kind}", f"code of {outcome}") for outcome, kind in KINDS.items()),
        *((kind, None) for kind in told.values()),
    }
    assert sorted(messages(failures)) == sorted(f"{chunks[one]}-0" for one in ("refused", "expired"))
    event = next(one for one in everything.taken() if one["type"] == "outcome.suppressed")
    assert event["data"] == {
        **{"Campaign id": 7, "Variant": "default", "Channel": "push", "Platform": "ios", "Tag group": ""},
        **{"Outcome": "suppressed", "Code": "code of suppressed"},
    }


async def test_a_replay_posts_again(world: World, new_receiver: Callable[..., Receiver]) -> None:
    """Everything that was stored between two times comes again, under the same ids of events and others of batches,
    beside what is new."""
    receiver = new_receiver()
    account = world.account()
    one = await world.endpoint(account, receiver)
    await world.sent(account, 700)
    await world.look()
    world.now = datetime.now(UTC).timestamp()

    def replay(since: float, until: float) -> None:
        given = (account.id, one.id, world.now + since, world.now + until, world.now)
        world.store.write_now(lambda connection: endpoints.replay(connection, *given))

    for since, until, why in [(-60.0, -60.0, "before"), (1.0, 60.0, "before"), (-31 * 86_400.0, 0.0, "longer ago")]:
        with pytest.raises(Problem, match=why):
            replay(since, until)
    replay(-600.0, 60.0)
    chunk = await world.sent(account, 1)
    await world.look(2)
    came = [event["id"] for event in receiver.taken()]
    assert len(came) == 1401
    assert came[:700] == came[701:]
    assert messages(receiver)[700] == f"{chunk}-0"
    ids = [posted.headers["webhook-id"] for posted in receiver.posted]
    assert len(set(ids)) == len(ids) == 5
    assert world.find(one).replay is None


async def test_a_replay_gives_way_to_another(world: World, new_receiver: Callable[..., Receiver]) -> None:
    """What is written of a replay that was replaced meanwhile does not count."""
    account = world.account()
    one = await world.endpoint(account, new_receiver())
    world.now = datetime.now(UTC).timestamp()

    def do(work: Callable[..., Any], *given: Any, **values: Any) -> Any:
        return world.store.write_now(lambda connection: work(connection, *given, **values))

    do(endpoints.replay, account.id, one.id, world.now - 60.0, world.now, world.now)
    held = do(endpoints.lease, one, "somebody", world.now)
    assert do(endpoints.save, held, "somebody", world.now, replay=held.replay)
    do(endpoints.replay, account.id, one.id, world.now - 90.0, world.now, world.now)
    assert not do(endpoints.save, held, "somebody", world.now, replay=None)
    assert world.find(one).replay is not None


async def test_a_failing_endpoint_is_disabled(world: World, new_receiver: Callable[..., Receiver]) -> None:
    """It is tried after a growing wait, and as long as it asked for; at 410, or after days, no more, and the audit log
    says so. Enabled, it goes on where it was."""
    receiver = new_receiver(lambda: (503, {"Retry-After": "900"}))
    account = world.account()
    one = await world.endpoint(account, receiver)
    await world.sent(account, 2)
    await world.look(3)
    assert len(receiver.posted) == 1
    found = world.find(one)
    assert (found.failures, found.failing_since, found.answer[:3]) == (1, world.now, "503")
    assert world.now + 900 <= found.next_at <= world.now + 910
    world.now += 899.0
    await world.look()
    assert len(receiver.posted) == 1
    world.now += 11.0
    await world.look()
    assert len(receiver.posted) == 2
    world.now += 5 * 86_400.0
    await world.look(2)
    assert world.find(one).disabled_at == world.now
    (deed, *_) = world.store.read_now(lambda connection: list_deeds(connection, account.id, 5))
    assert (deed.who, deed.what) == ("webhooks", "webhook disabled")
    assert "failing" in deed.detail
    receiver.answer = lambda: (410, {})
    world.store.write_now(lambda connection: endpoints.enable(connection, account.id, one.id, "test", world.now))
    await world.look(2)
    assert world.find(one).disabled_at == world.now
    assert len(receiver.posted) == 4
    receiver.answer = lambda: (200, {})
    world.store.write_now(lambda connection: endpoints.enable(connection, account.id, one.id, "test", world.now))
    await world.look()
    assert len(receiver.taken()) == 2


@pytest.mark.parametrize("failure", ["", "unknown"])
def test_an_answer_is_one_line_of_text(failure: Any) -> None:
    """What a receiver says goes to the ledger and to terminals: PostgreSQL refuses a NUL, and the batch would be posted
    for ever; and no receiver writes on an operator's screen."""
    said = "\0no\r\n\x1b[2Jmore \u202e"
    shown = describe_answer(VendorAnswer(status=500, body=said.encode(), failure=failure, detail=said))
    assert shown.removeprefix("500 ") == "no [2Jmore"


async def test_nobody_waits_for_a_dead_endpoint(world: World, new_receiver: Callable[..., Receiver]) -> None:
    """While the endpoints of one account do not answer, another account's events arrive; of one account only so many
    are posted to at one time."""
    free = threading.Event()

    def hang() -> tuple[int, Mapping[str, str]]:
        free.wait(20)
        return 200, {}

    slow, quick = new_receiver(hang), new_receiver()
    hostile, account = world.account(), world.account()
    for _ in range(6):
        await world.endpoint(hostile, slow)
    await world.endpoint(account, quick)
    await world.sent(hostile, 1)
    await world.sent(account, 1)
    await world.poster.look(world.pool)
    await asyncio.to_thread(quick.came.acquire)
    await world.poster.look(world.pool)
    assert not [one for one in slow.posted if one.status]
    held = sum(slow.came.acquire(blocking=False) for _ in range(10))
    free.set()
    await world.poster.finish()
    await world.look()
    assert held <= 4
    assert len(slow.taken()) == 6


async def test_two_processes_post_once(
    world: World, open_again: Callable[[], Ledger], new_receiver: Callable[..., Receiver]
) -> None:
    """Two schedulers on one PostgreSQL ledger post nothing twice."""
    if world.store.embedded:
        pytest.skip("SQLite has one process")
    receiver = new_receiver()
    account = world.account()
    await world.endpoint(account, receiver)
    other = WebhookPoster(open_again(), world.facts, HERE, lambda: world.now)
    for _ in range(5):
        await world.sent(account, 30)
        await asyncio.gather(world.poster.look(world.pool), other.look(world.pool))
        await asyncio.gather(world.poster.finish(), other.finish())
        world.now += 10.0
    await world.look(2)
    assert len(messages(receiver)) == len(set(messages(receiver))) == 150


@pytest.mark.parametrize(
    ("address", "networks", "allowed"),
    [
        *((one, "", False) for one in ("127.0.0.1", "10.0.0.8", "172.16.0.1", "192.168.1.1", "169.254.169.254")),
        *((one, "", False) for one in ("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1")),
        *((one, "", False) for one in ("::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1")),
        *((one, "", False) for one in ("::ffff:10.0.0.8", "2002:0a00:0008::", "64:ff9b::10.0.0.8", "64:ff9b::7f00:1")),
        *((one, "", True) for one in ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::93.184.216.34")),
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16, fd00::/8", False),
        ("fd00::1", "10.1.0.0/16, fd00::/8", True),
        ("::ffff:10.1.2.3", "10.1.0.0/16", True),
    ],
)
def test_private_addresses_are_not_posted_to(address: str, networks: str, allowed: bool) -> None:
    assert is_allowed(address, read_networks(networks)) is allowed


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://example.com/hook", True),
        ("http://example.com/hook", False),
        ("https://u:p@example.com/", False),
        ("https://10.0.0.1/", False),
        ("https://[::1]/", False),
        ("http://localhost:80/", False),
        ("ftp://example.com/", False),
        ("https://example.com/a b", False),
        ("https:///", False),
        ("https://example.com/" + "a" * 2048, False),
    ],
)
def test_urls_are_checked(url: str, fine: bool) -> None:
    if fine:
        assert check_url(url, "") == url
    else:
        with pytest.raises(Problem, match=r"at \$\.url"):
            check_url(url, "")


async def test_a_name_is_checked_when_it_is_connected_to(world: World, new_receiver: Callable[..., Receiver]) -> None:
    """A name that leads to this machine is not connected to, whatever it led to before; a redirect is not followed."""
    inside = new_receiver()
    account = world.account()
    one = await world.endpoint(account, inside)
    named = msgspec.structs.replace(one, url=f"http://localhost:{inside.port}/")
    for networks in ("", "10.0.0.0/8"):
        said = await post_test(named, Settings(webhook_networks=networks), world.now)
        assert (said["arrived"], "not posted to" in said["answer"]) == (False, True)
    assert not inside.posted
    assert (await post_test(named, Settings(webhook_networks="127.0.0.0/8,::1/128"), world.now))["arrived"]
    outside = new_receiver(lambda: (307, {"Location": inside.url}))
    said = await post_test(msgspec.structs.replace(one, url=outside.url), HERE, world.now)
    assert (said["arrived"], len(inside.posted)) == (False, 1)


async def test_signatures_are_verified(
    store: Ledger, facts: Facts, new_receiver: Callable[..., Receiver], tmp_path: Path
) -> None:
    """The specification's own library takes a batch, with the secret and, after a rotation, for a day with the one
    before; the ledger holds both encrypted, and can encrypt them again."""
    folder = install(
        RECIPE,
        "standardwebhooks",
        (*PIP, "--requirement", RECIPE.name),
    )
    key = Fernet.generate_key().decode()
    receiver = new_receiver()
    async with Transport() as transport:
        world = World(store, facts, open_pool(transport, HERE), msgspec.structs.replace(HERE, secret_key=key))
        account = world.account()
        one = await world.endpoint(account, receiver)
        first = one.read_secrets(key).secret
        given = (account.id, one.id, key, "test", world.now)
        second = store.write_now(lambda connection: endpoints.rotate(connection, *given))
        assert first not in world.find(one).settings
        again = Fernet.generate_key().decode()
        assert store.write_now(lambda connection: encrypt_again(connection, f"{again},{key}")) == 1
        world.settings = msgspec.structs.replace(HERE, secret_key=again)
        world.poster = world.new_poster()
        await world.sent(account, 2)
        await world.look()
        world.now += 86_401.0
        await world.sent(account, 2)
        await world.look()
    both, alone = receiver.posted
    script = (
        "import sys, json; from standardwebhooks import Webhook; secret, headers, body = json.load(sys.stdin);\n"
        "Webhook(secret).verify(body, {**headers, 'webhook-timestamp': headers['webhook-timestamp']})"
    )
    for posted, secret, fine in [
        (both, first, True),
        (both, second, True),
        (alone, second, None),
        (alone, first, None),
    ]:
        (tmp_path / "given.json").write_text(
            msgspec.json.encode([secret, posted.headers, posted.body.decode()]).decode()
        )
        program = script.replace("sys.stdin", f"open({str(tmp_path / 'given.json')!r})")
        wrong = run((sys.executable, "-c", program), folder, {}, 60)[1]
        if fine:
            assert not wrong
        else:  # a day from now, which the library calls too new
            assert "too new" in wrong
    assert alone.headers["webhook-signature"].count("v1,") == 1
    assert both.headers["webhook-signature"].count("v1,") == 2


def test_a_clock_that_was_set_back_loses_nothing() -> None:
    """A window goes on where the last one ended; where the store's clock is behind that, from a minute before it."""
    second = 1_000_000
    unread = FeedWindow(Place(5), Place(9 * second))
    assert move_on(unread, 100 * second) == unread
    read = FeedWindow(Place(1000 * second), Place(1000 * second))
    assert move_on(read, 1001 * second) == FeedWindow(Place(1000 * second), Place(1001 * second))
    assert move_on(read, 1000 * second - 5).is_read
    assert move_on(read, 700 * second) == FeedWindow(Place(640 * second), Place(700 * second))


async def test_an_account_has_few(world: World) -> None:
    """An eleventh endpoint is refused, and one that is removed or of another account is not found."""
    account, other = world.account(), world.account()

    def make(connection: Any) -> WebhookEndpoint:
        return endpoints.create(connection, account.id, "https://a.example/", EVENT_TYPES, "", "test", world.now)[0]

    made = [world.store.write_now(make) for _ in range(10)]
    with pytest.raises(Problem, match="at most 10"):
        world.store.write_now(make)
    with pytest.raises(Problem, match="no webhook"):
        world.store.write_now(lambda connection: endpoints.remove(connection, other.id, made[0].id, "test", 0.0))
    world.store.write_now(lambda connection: endpoints.remove(connection, account.id, made[0].id, "test", 0.0))
    with pytest.raises(Problem, match="no webhook"):
        world.find(made[0])


def test_over_a_kill_nothing_is_lost(tmp_path: Path, sandbox: Sandbox, new_receiver: Callable[..., Receiver]) -> None:
    """A campaign's outcomes and an opt-out, through the API, while the server is killed."""
    receiver = new_receiver()
    server = Server(tmp_path / "data", ROOMY | {"TOCSIN_WEBHOOK_NETWORKS": "127.0.0.0/8"})
    caller = server.account()
    server.use_sandbox(caller, sandbox)
    status, made = caller.post("/1/webhooks/create.json", {"url": receiver.url})
    assert (status, made["secret"][:6], made["events"]) == (200, "whsec_", list(EVENT_TYPES))
    assert caller.post("/1/webhooks/test.json", {"id": made["id"]})[1]["arrived"]
    receiver.posted.clear()

    def begun() -> bool:
        with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
            return ledger.read_now(lambda one: endpoints.find(one, caller.account_id, made["id"])).live is not None

    wait_for(begun)
    caller.upload(*people(40, "p", ("fcm",)))
    for number in range(2):
        caller.result(caller.create(devices=["android"]))
        if not number:
            server.kill()
            server = server.again()
    caller.post("/1/subscribe", {"d": [{"type": "email", "value": "p-3@example.com", "status": "Unsubscribe"}]})

    def complete() -> bool:
        return len({event["id"] for event in receiver.taken()}) >= 81

    wait_for(complete)
    kinds = {event["id"]: (event["type"], event["profile"]["identity"]) for event in receiver.taken()}
    assert sorted(kinds.values()) == sorted(
        [("outcome.sent", f"p-{one}") for one in range(40)] * 2 + [("consent.unsubscribed", "p-3")]
    )
    assert caller.post("/1/webhooks/list.json", {})[1]["webhooks"][0]["id"] == made["id"]
    assert server.stop() == 0


def test_the_log_names_the_host_alone(own_ledger: Ledger) -> None:
    """A path and a query may be secrets of whoever gets the posts; everybody of the account reads the log."""
    account = create_account(own_ledger, "log", "UTC", 0.0)[0]
    url = "https://hooks.example.com:8443/services/T0/SECRET?token=SECRET#SECRET"
    own_ledger.write_now(lambda one: endpoints.create(one, account.id, url, ("outcome.sent",), "", "x", 0.0))
    [deed] = own_ledger.read_now(lambda connection: list_deeds(connection, account.id, 5))
    assert deed.detail.endswith(" https://hooks.example.com:8443")
