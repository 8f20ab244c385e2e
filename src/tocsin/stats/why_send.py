"""Why a send by identity reached somebody or not: what became of the requests of a tag group that named them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, select

from tocsin import queue
from tocsin.account import Account
from tocsin.audience.explain import explain_person
from tocsin.audience.node import Everybody
from tocsin.campaign.addressees import find_recipients, list_keys
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.goal import Goal, read_policy_goal
from tocsin.campaign.send import StoredRequest
from tocsin.policy import load_policy
from tocsin.settings import Settings
from tocsin.stats.conversions import SENT, Grouping, count_conversions
from tocsin.stats.delivered import DeliveredMessage, find_messages, find_unsettled, tell
from tocsin.stats.preview import Seen, look_at_request, show_messages
from tocsin.stats.results import show_conversions
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

REQUESTS = 1000  # the newest that wait for their turn, whose names are looked at
NAMES = 50_000  # and no further than to so many: 0.4 s of one of the ledger's few readers
TOGETHER = 10  # of them that are held at a time: each may be a mail of a megabyte, or name a thousand people
NAMED = "named in a request"
OF_SENDS = "campaign = 0 AND tag_group = {tag_group:String}"


class SendAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why somebody got the sends of a tag group or not. verdict: in a sentence. queued: requests that name them and
    wait for their turn. shown: what they see of the newest, by platform, while the request is kept."""

    verdict: str
    reachable: dict[str, bool]
    messages: list[DeliveredMessage] = []
    queued: int = 0
    shown: dict[str, dict[str, Any]] = {}
    conversions: dict[str, float] = {}


class _SendsOfUser(msgspec.Struct, frozen=True):
    unsettled: list[DeliveredMessage]
    queued: int
    goal: Goal | None


async def explain_send(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    tag_group: str,
    user: int,
    now: float,
    settings: Settings,
    compile_pool: CompilePool,
) -> SendAnswer:
    """Return why a user got the sends of a tag group or not; "" are those without one. Raise Problem 429 when too many
    contents of the account are being looked at."""
    known = await ledger.read(lambda connection: _look_up(connection, account.id, tag_group, user))
    which = OF_SENDS, {"tag_group": tag_group}
    messages = await find_messages(ledger, facts, account, user, known.unsettled, *which)
    explanation = await explain_person(facts, account, Everybody(), user, now)
    seen = await ledger.read(lambda connection: _look_at_newest(connection, account, messages, settings, user))
    return SendAnswer(
        verdict=_judge(messages, known.queued),
        reachable=explanation.reachable,
        messages=messages,
        queued=known.queued,
        shown={} if seen is None else await compile_pool.run(account.id, partial(show_messages, seen, now)),
        conversions=await _count_converted(facts, account, tag_group, user, known.goal),
    )


def _look_up(connection: Connection, account_id: str, tag_group: str, user: int) -> _SendsOfUser:
    chunk = schema.chunk
    mine = (chunk.c.account_id == account_id, chunk.c.run_id.is_(None), chunk.c.tag_group == tag_group)
    policy = load_policy(connection, account_id)
    return _SendsOfUser(
        find_unsettled(connection, user, *mine),
        _count_queued(connection, account_id, user, mine),
        None if policy.conversion is None else read_policy_goal(policy.conversion),
    )


def _count_queued(connection: Connection, account_id: str, user: int, mine: Sequence[ColumnElement[bool]]) -> int:
    """Return how many requests name a user whose people are not looked up yet."""
    chunk, count, names = schema.chunk, 0, 0
    waiting = select(chunk.c.id).where(*mine, schema.chunk_is_open, chunk.c.size == 0, chunk.c.request.is_not(None))
    newest = connection.scalars(waiting.order_by(chunk.c.id.desc()).limit(REQUESTS)).all()
    for start in range(0, len(newest), TOGETHER):
        by_channel: dict[str, list[str]] = {}
        some = select(chunk.c.request, chunk.c.channel).where(chunk.c.id.in_(newest[start : start + TOGETHER]))
        for request, channel in connection.execute(some.where(chunk.c.request.is_not(None))):
            by_channel.setdefault(channel, []).append(request)
        for channel, requests in by_channel.items():
            asked = [list_keys(msgspec.json.decode(one, type=StoredRequest).to) for one in requests]
            names += sum(map(len, asked))
            named = find_recipients(connection, account_id, asked, channel)
            count += sum(any(one == user for one, _ in pairs) for pairs in named)
        if names >= NAMES:
            break
    return count


def _look_at_newest(
    connection: Connection, account: Account, messages: Sequence[DeliveredMessage], settings: Settings, user: int
) -> Seen | None:
    """Return what the newest message is made of; None when its request is not kept any more."""
    found = queue.load(connection, messages[0].chunk) if messages else None
    if found is None or found.request is None:
        return None
    platforms = [one.platform for one in messages if one.chunk == found.id and one.platform]
    return look_at_request(connection, account, found, settings, user, platforms)


async def _count_converted(
    facts: Facts, account: Account, tag_group: str, user: int, goal: Goal | None
) -> dict[str, float]:
    if goal is None:
        return {}
    own = Grouping(
        messages=f"{SENT} AND tag_group = {{tag_group:String}}",
        people="user = {user:UInt32}",
        each=True,
        values={"user": user, "tag_group": tag_group},
    )
    found = await count_conversions(facts, account, {0: goal}, own)
    return show_conversions(goal, found.get((0, "")))


def _judge(messages: Sequence[DeliveredMessage], queued: int) -> str:
    """Return the answer in a sentence: about the newest request."""
    if queued:
        return f"{NAMED} that waits for its turn"
    if messages:
        return "; ".join(dict.fromkeys(tell(one, NAMED) for one in messages if one.chunk == messages[0].chunk))
    return (
        "named in no request of this tag group that is known: one that named them before there was such a person found "
        "nobody"
    )
