"""The finder of conversions: looks at the events that are new in the feed, and puts into it who converted by one.

A conversion is a question and no record, so it is asked about those who did something since the last look, by what
counts conversions. What is found again is the same record, so a look may be repeated, and several processes may look.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
import structlog
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.campaign.goal import Goal, read_policy_goal
from tocsin.campaign.runs import find_newest_goals
from tocsin.policy import load_policy
from tocsin.stats.conversions import ConvertedMessage, Grouping, find_converted
from tocsin.stats.webhooks.endpoint import CONVERTED
from tocsin.stats.webhooks.feed import MICRO, FeedRow, FeedWindow, Place, find_fed, find_horizon, read_page
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.patience import rest
from tocsin.store.rows import upsert_rows

log = structlog.get_logger()

LOOK_SECONDS = 5.0
TROUBLE_SECONDS = 60.0  # before what failed is tried again
OVERLAP = 120 * MICRO  # looked at once more: a message's outcome may be stored after what its reader did
EVENTS = 5000  # looked at in one question
GOALS = 1000  # the newest campaigns with a goal that are asked about
# The events that the feed has under another type than `event.` and their name.
TYPES = {
    "Notification Viewed": "interaction.viewed",
    "Notification Clicked": "interaction.clicked",
    "Channel Unsubscribed": "consent.unsubscribed",
    "Channel Resubscribed": "consent.resubscribed",
    "Mail Bounced": "consent.bounced",
}
# Of details in one statement: ClickHouse takes an address of 1 MiB, with values of 128 KiB (http_max_field_value_size).
LETTERS = 16_000
OF_MESSAGE = ("variant", "channel", "platform", "tag_group")

_FeedValues: TypeAlias = tuple[int, int, int, str]  # message, user, time, detail

table = schema.conversion_place


def name_type(event_name: str) -> str:
    """Return the type that an event has in the feed."""
    return TYPES.get(event_name, f"event.{event_name}")


class AccountGoals(msgspec.Struct, frozen=True):
    """What counts as a conversion of an account. looked_until: where its feed was looked at; None: nowhere yet."""

    account: Account
    of_campaigns: dict[int, Goal]
    of_sends: Goal | None
    looked_until: int | None


class ConversionFinder:
    """Finds the conversions of all accounts that are told of them, until it is stopped."""

    def __init__(self, ledger: Ledger, facts: Facts):
        self._ledger, self._facts = ledger, facts
        self._troubled: dict[str, float] = {}  # by account, when it is looked at again, by the loop's clock

    async def run(self, stop: asyncio.Event) -> None:
        """Look for new ones until `stop` is set; a failure is logged, and the look is repeated."""
        while not stop.is_set():
            pause = LOOK_SECONDS
            try:
                await self.look()
            except Exception:
                log.exception("conversions interrupted")
                pause = TROUBLE_SECONDS
            await rest(stop, pause)

    async def look(self) -> None:
        """Put every conversion into the feed that is new since the last look. An account whose events cannot be looked
        at is tried again later; the others do not wait for it."""
        fed = await find_fed(self._facts)
        if not fed:
            return
        horizon, now = await find_horizon(self._facts), asyncio.get_running_loop().time()
        for account_id in sorted(fed):
            if self._troubled.get(account_id, now) > now:
                continue
            try:
                await self._look_for(account_id, horizon)
            except Exception:
                log.exception("conversions interrupted", account=account_id)
                self._troubled[account_id] = asyncio.get_running_loop().time() + TROUBLE_SECONDS

    async def _look_for(self, account_id: str, horizon: int) -> None:
        known = await self._ledger.read(functools.partial(_find_goals, account_id=account_id))
        if known.looked_until is not None:
            await self._look_at(known, known.looked_until, horizon)
        place = functools.partial(_note_place, account_id=account_id, looked_until=horizon)
        await self._ledger.write(place, durable=False)

    async def _look_at(self, known: AccountGoals, after: int, horizon: int) -> None:
        goals = [*known.of_campaigns.values(), *((known.of_sends,) if known.of_sends else ())]
        types = sorted({name_type(one.event_name) for one in goals})
        window = FeedWindow(Place(max(0, after - OVERLAP)), Place(horizon))
        while types and not window.is_read:
            rows = await read_page(self._facts, known.account.id, types, window, EVENTS)
            if rows:
                await self._tell(known, rows)
            window = FeedWindow(rows[-1].place if len(rows) == EVENTS else window.end, window.end)

    async def _tell(self, known: AccountGoals, rows: Sequence[FeedRow]) -> None:
        """Put the conversions into the feed that some new events are."""
        account, done = known.account, {row.place.type for row in rows}
        new = {(row.place.user, row.place.id) for row in rows}
        users = sorted({user for user, _ in new})
        parts = tuple(f"toString({name})" for name in OF_MESSAGE)
        grouping = Grouping(people="user IN {people:Array(UInt32)}", parts=parts, values={"people": users})
        found: list[ConvertedMessage] = []
        of_campaigns = {one: goal for one, goal in known.of_campaigns.items() if name_type(goal.event_name) in done}
        if of_campaigns:
            told = await self._find_told(account.id, users)
            firsts = await find_converted(self._facts, account, of_campaigns, grouping)
            found += [one for one in firsts if (one.user, one.campaign_id) not in told]
        if known.of_sends is not None and name_type(known.of_sends.event_name) in done:
            each = msgspec.structs.replace(grouping, each=True)
            found += await find_converted(self._facts, account, {0: known.of_sends}, each)
        await self._store(known, [one for one in found if (one.user, one.event) in new])

    async def _find_told(self, account_id: str, users: Collection[int]) -> set[tuple[int, int]]:
        """Return (user, campaign) of the conversions that are in the feed."""
        rows = await self._facts.query(
            "SELECT DISTINCT user, JSONExtractUInt(detail, 'Campaign id') FROM feed "
            "WHERE account = {account:String} AND type = {type:String} AND user IN {users:Array(UInt32)}",
            {"account": account_id, "type": CONVERTED, "users": list(users)},
        )
        return {(int(user), int(campaign)) for user, campaign in rows}

    async def _store(self, known: AccountGoals, found: Iterable[ConvertedMessage]) -> None:
        """Store conversions in the feed. The statement has the store write their time while it inserts them, as the
        horizon of the feed needs."""
        rows = [(one.message, one.user, one.at, _describe(one, known)) for one in found]
        sql = (
            "INSERT INTO feed (account, id, type, user, stored, at, detail) SELECT {account:String}, row.1, "
            "{type:String}, row.2, toUInt64(toUnixTimestamp64Micro(now64(6))), toDateTime(row.3, 'UTC'), row.4 "
            "FROM (SELECT arrayJoin({rows:Array(Tuple(UInt64, UInt32, UInt32, String))}) AS row)"
        )
        for block in _split(rows):
            asked = {"account": known.account.id, "type": CONVERTED, "rows": block}
            await asyncio.to_thread(self._facts.command_now, sql, asked)


def _split(rows: Iterable[_FeedValues]) -> Iterator[list[_FeedValues]]:
    """Yield conversions in blocks that fit into the address of a request, where a statement's values are."""
    block, letters = list[_FeedValues](), 0
    for row in rows:
        letters += len(row[-1])
        if block and letters > LETTERS:
            yield block
            block, letters = [], len(row[-1])
        block.append(row)
    if block:
        yield block


def _describe(one: ConvertedMessage, known: AccountGoals) -> str:
    goal = known.of_campaigns.get(one.campaign_id) or known.of_sends
    assert goal is not None
    variant, channel, platform, tag_group = one.parts
    detail = {
        "Campaign id": one.campaign_id,
        "Variant": variant or "default",
        "Channel": channel,
        "Platform": platform,
        "Tag group": tag_group,
        "Event": goal.event_name,
    }
    worth = {} if goal.revenue_property is None else {"Revenue": one.worth}
    return msgspec.json.encode(detail | worth).decode()


def _find_goals(connection: Connection, account_id: str) -> AccountGoals:
    policy = load_policy(connection, account_id)
    looked_until = connection.scalar(select(table.c.looked_until).where(table.c.account_id == account_id))
    return AccountGoals(
        Account.load(connection, account_id),
        find_newest_goals(connection, account_id, GOALS),
        None if policy.conversion is None else read_policy_goal(policy.conversion),
        looked_until,
    )


def _note_place(connection: Connection, account_id: str, looked_until: int) -> None:
    upsert_rows(connection, table, [{"account_id": account_id, "looked_until": looked_until}], keys=("account_id",))
