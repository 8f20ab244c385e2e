"""Conversions as events of webhooks: each that is counted is told, once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import THOROUGH
from support.role_processes import FactsServer

from tocsin.account import Account, create_account
from tocsin.audience.node import Everybody
from tocsin.campaign.goal import Goal, read_policy_goal
from tocsin.campaign.runs import insert_campaign
from tocsin.campaign.spec import Spec
from tocsin.content import Content
from tocsin.ingest import event_row
from tocsin.policy import Conversion, set_policy
from tocsin.stats.conversions import Grouping, count_conversions
from tocsin.stats.webhooks.batch import make_batch
from tocsin.stats.webhooks.conversion_finder import ConversionFinder
from tocsin.stats.webhooks.endpoint import CONVERTED, WebhookEndpoint
from tocsin.stats.webhooks.feed import FeedRow, FeedWindow, Place, find_horizon, listen_to, read_page
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

AT = int(datetime.now(UTC).timestamp()) - 10_000
BOUGHT, CHARGED = Goal("Bought", seconds=600), Goal("Charged", seconds=3600, revenue_property="Amount")
SENDS = {"event_name": "Charged", "conversion_time": "1H", "revenue_property": "Amount"}


class Shop:
    """An account with two campaigns with goals and a goal of its sends, that is told of conversions."""

    def __init__(self, ledger: Ledger, facts: Facts, account: Account, campaigns: dict[int, Goal]):
        self.ledger, self.facts, self.account, self.campaigns = ledger, facts, account, campaigns
        self.finder = ConversionFinder(ledger, facts)

    async def send(self, campaign: int, chunk: int, users: list[int], at: int) -> None:
        moment = datetime.fromtimestamp(at, UTC)
        own = ("ios", "push", "accepted", "", "news" if not campaign else "", "", moment.date(), moment)
        rows = [(self.account.id, campaign, chunk, place, user, *own) for place, user in enumerate(users)]
        await self.facts.insert("outcome", rows)

    async def do(self, name: str, user: int, at: int, event_id: int, **props: Any) -> None:
        await self.facts.insert("event", [event_row(self.account, name, user, at, event_id, props)])

    async def told(self) -> list[FeedRow]:
        """The conversions in the feed."""
        end = Place(await find_horizon(self.facts) + 10**9)
        rows = await read_page(self.facts, self.account.id, [CONVERTED], FeedWindow(Place(0), end), 10_000)
        return [one for one in rows if one.first]


async def open_shop(own_ledger: Ledger, facts: Facts) -> Shop:
    account = create_account(own_ledger, "shop", "UTC", AT)[0]
    campaigns: dict[int, Goal] = {}

    def write(connection: Any) -> None:
        for goal in (BOUGHT, CHARGED):
            spec = Spec(name="n", channel="push", where=Everybody(), content=Content(), platforms=("ios",), due_at=AT)
            made = insert_campaign(connection, account.id, msgspec.structs.replace(spec, conversion_goal=goal), AT)
            campaigns[made] = goal
        set_policy(connection, account.id, "conversion", msgspec.json.encode(SENDS).decode(), AT)

    own_ledger.write_now(write)
    await listen_to(facts, [account.id], [account.id])
    made = Shop(own_ledger, facts, account, campaigns)
    await made.finder.look()
    return made


@pytest.fixture
async def shop(own_ledger: Ledger, facts: Facts) -> Shop:
    return await open_shop(own_ledger, facts)


@pytest.mark.parametrize("seed", range(20 if THOROUGH else 2))
async def test_what_is_counted_is_told(shop: Shop, seed: int) -> None:
    """Messages and events in any order, looked at now and then: who converted is in the feed once for a campaign, and
    each message of a send that was converted after."""
    dice = random.Random(seed)
    chunk, event = 9_000 + seed * 100, 10**12
    for _ in range(10):
        chunk, event = chunk + 1, event + 1
        if dice.random() < 0.4:
            users = [dice.randrange(1, 6) for _ in range(3)]
            await shop.send(dice.choice([0, *shop.campaigns]), chunk, users, AT + dice.choice([0, 300, 900]))
        else:
            at = AT + dice.choice([0, 1, 299, 600, 601, 2000])
            await shop.do(dice.choice(["Bought", "Charged", "Seen"]), dice.randrange(1, 6), at, event, Amount=5)
        if dice.random() < 0.4:
            await shop.finder.look()
    for _ in range(2):
        await shop.finder.look()
    rows = await shop.told()
    found = [(msgspec.json.decode(one.detail)["Campaign id"], one.place.user, one.place.id) for one in rows]
    of_campaigns = [(campaign, user) for campaign, user, _ in found if campaign]
    assert len(of_campaigns) == len(set(of_campaigns))
    for campaign, goal in shop.campaigns.items():
        counted = await count_conversions(shop.facts, shop.account, {campaign: goal}, Grouping(cell="toString(user)"))
        assert sorted(str(user) for one, user in of_campaigns if one == campaign) == sorted(cell for _, cell in counted)
    goal = read_policy_goal(msgspec.convert(SENDS, Conversion))
    each = Grouping(cell="toString(chunk * 65536 + position)", each=True)
    counted = await count_conversions(shop.facts, shop.account, {0: goal}, each)
    assert sorted(str(message) for one, _, message in found if not one) == sorted(cell for _, cell in counted)


async def test_what_a_conversion_says(shop: Shop) -> None:
    """The message, the event and what it was worth, as a batch has it; the second of two events is no second one."""
    campaign = next(one for one, goal in shop.campaigns.items() if goal is CHARGED)
    await shop.send(campaign, 8_000, [3], AT)
    await shop.do("Charged", 3, AT + 10, 77, Amount=12.5)
    await shop.do("Charged", 3, AT + 20, 78, Amount=4)
    await asyncio.gather(shop.finder.look(), shop.finder.look())
    await shop.do("Charged", 3, AT + 5, 79, Amount=1)
    await shop.finder.look()
    [row] = await shop.told()
    fields: dict[str, Any] = dict.fromkeys(("failing_since", "answered_at", "disabled_at", "live", "replay"))
    fields |= {"id": "wh_1", "url": "", "events": (CONVERTED,), "settings": "", "created_at": 0.0}
    endpoint = WebhookEndpoint(account_id=shop.account.id, failures=0, next_at=0.0, answer="", **fields)
    batch = make_batch(endpoint, [row], FeedWindow(Place(0), row.place), {3: {"identity": "jane"}})
    [event] = msgspec.json.decode(batch.body)["data"]["events"]
    assert (event["type"], event["message"], event["profile"]) == (CONVERTED, "8000-0", {"identity": "jane"})
    assert event["timestamp"] == datetime.fromtimestamp(AT + 10, UTC).isoformat().replace("+00:00", "Z")
    own = {"Variant": "default", "Channel": "push", "Platform": "ios", "Tag group": ""}
    assert event["data"] == {"Campaign id": campaign, **own, "Event": "Charged", "Revenue": 12.5}


async def test_many_convert_over_the_wire(own_ledger: Ledger, tmp_path: Path) -> None:
    """What is put into the feed at once is more than an address of a request holds."""
    server = FactsServer(tmp_path / "facts")
    with contextlib.closing(open_facts(server.url)) as facts:
        shop = await open_shop(own_ledger, facts)
        await shop.send(0, 7_000, [3] * 1000, AT)
        await shop.do("Charged", 3, AT + 10, 77, Amount=1)
        await shop.finder.look()
        told = await shop.told()
    server.kill()
    assert sorted(one.place.id & 0xFFFF for one in told) == [*range(1000)]


async def test_accounts_do_not_wait_for_one_that_fails(shop: Shop) -> None:
    """Here one that the ledger does not know, which comes first."""
    await listen_to(shop.facts, [], ["", shop.account.id])
    await shop.send(next(iter(shop.campaigns)), 8_100, [4], AT)
    await shop.do("Bought", 4, AT + 10, 80)
    await shop.finder.look()
    assert len(await shop.told()) == 1
