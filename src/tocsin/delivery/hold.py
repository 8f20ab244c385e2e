"""Hold: nothing of an older ledger goes out until somebody says so.

A ledger from a backup does not know what was sent after it. Everything that waits in it may have reached its people by
now, may have been stopped, or they may have left. So it is held, campaign by campaign: held chunks and runs keep their
time, moved by HOLD_SECONDS into a future that nobody lives to see. A stop ends what is held, as ever.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, text, update

from tocsin import queue
from tocsin.campaign.runs import run_is_held
from tocsin.delivery.frequency_cap import free_places, name_message
from tocsin.delivery.retry import RetryPolicy
from tocsin.delivery.settle import SettleRules, rescue
from tocsin.outcome import State
from tocsin.queue import CAMPAIGN, HOLD_SECONDS, TRANSACTIONAL, Chunk
from tocsin.settings import Settings
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.notification import notify

PAGE = 200  # chunks in one transaction
IDS_A_SECOND = 100_000  # chunks that a lost ledger may have made in a second, at the very most
IDS_SPARE = 1_000_000

chunk, run = schema.chunk, schema.run


class HeldCampaign(msgspec.Struct, frozen=True, kw_only=True):
    """What is held of a campaign; of id 0: of an account's requests to `/1/send`. waiting: recipients, of a request
    whose people were not looked up yet none."""

    account: str
    campaign: int
    name: str
    runs: int
    chunks: int
    waiting: int


def hold_all(ledger: Ledger, settings: Settings, now: float) -> None:
    """Hold everything that waits. What was with a vendor is settled as after a power cut: unknown, or with `on_crash:
    resend` waiting, and so held. No process may deliver meanwhile; a repeat changes nothing. Ids of chunks go on behind
    all those that a lost ledger may have given out: their messages are out there with links that unsubscribe."""
    policy = RetryPolicy(settings.retry_floor, settings.retries)
    rules = SettleRules(policy, every_device=True, random=random.Random().random)  # noqa: S311 - jitter
    last: int | None = 0
    while last is not None:
        last = ledger.write_now(functools.partial(_hold_page, after=last, rules=rules, now=now))
    ledger.write_now(_hold_runs)
    ledger.write_now(lambda connection: _skip_ids(connection, now))


def list_held(connection: Connection) -> Sequence[HeldCampaign]:
    """Return what is held, by account and campaign."""
    found: dict[tuple[str, int], dict[str, int]] = {}
    runs = select(run.c.account_id, run.c.campaign_id, func.count().label("runs")).where(run_is_held())
    for row in connection.execute(runs.group_by(run.c.account_id, run.c.campaign_id)):
        found[row.account_id, row.campaign_id] = {"runs": row.runs, "chunks": 0, "waiting": 0}
    held = select(chunk.c.account_id, chunk.c.campaign_id, chunk.c.states).where(_chunk_is_held())
    for row in connection.execute(held.execution_options(yield_per=PAGE)):
        one = found.setdefault((row.account_id, row.campaign_id), {"runs": 0, "chunks": 0, "waiting": 0})
        one["chunks"] += 1
        one["waiting"] += bytes(row.states).count(State.WAITING)
    campaign = schema.campaign
    ids = {campaign_id for _, campaign_id in found}
    named = connection.execute(select(campaign.c.id, campaign.c.name).where(campaign.c.id.in_(ids)))
    names = {row.id: row.name for row in named}
    return [
        HeldCampaign(account=account, campaign=campaign_id, name=names.get(campaign_id, "requests to /1/send"), **one)
        for (account, campaign_id), one in sorted(found.items())
    ]


def resume(connection: Connection, account_id: str, campaign_id: int) -> bool:
    """Let go of what is held of a campaign, or of id 0 of an account's requests to `/1/send`: everybody who waits gets
    their message at its time, unless that has passed. Return whether anything was held."""
    runs = update(run).where(run_is_held(), run.c.account_id == account_id, run.c.campaign_id == campaign_id)
    mine = (chunk.c.account_id == account_id, chunk.c.campaign_id == campaign_id)
    chunks = update(chunk).where(_chunk_is_held(), *mine)
    count = connection.execute(runs.values(retry_at=run.c.retry_at - HOLD_SECONDS)).rowcount
    count += connection.execute(chunks.values(not_before=chunk.c.not_before - HOLD_SECONDS)).rowcount
    notify(connection)
    return count > 0


def count_requests(connection: Connection, account_id: str) -> int:
    """Return how many of an account's requests to `/1/send` are held."""
    mine = (chunk.c.account_id == account_id, chunk.c.campaign_id == 0)
    return connection.scalar(select(func.count()).where(_chunk_is_held(), *mine)) or 0


def drop_requests(connection: Connection, account_id: str, now: float) -> int:
    """End what is held of an account's requests to `/1/send`: whoever waits is settled as expired, by a worker. Return
    how many requests that were."""
    mine = (chunk.c.account_id == account_id, chunk.c.campaign_id == 0)
    ended = {"not_before": 0.0, "expires_at": now - 1.0}
    count = connection.execute(update(chunk).where(_chunk_is_held(), *mine).values(ended)).rowcount
    notify(connection)
    return count


def _hold_page(connection: Connection, after: int, rules: SettleRules, now: float) -> int | None:
    """Hold the next open chunks behind an id. Return the last id, None when there is none."""
    asked = select(chunk.c.id).where(schema.chunk_is_open, chunk.c.id > after).order_by(chunk.c.id).limit(PAGE)
    found = list(connection.scalars(asked))
    chunks = [one for one in (queue.load(connection, chunk_id) for chunk_id in found) if one is not None]
    claimed = [one for one in chunks if one.states.count(State.CLAIMED)]
    for one in claimed:
        unsent = rescue(one, None, rules, now)
        free_places(connection, one.account_id, one.channel, name_message(one), unsent)
    queue.set_free(connection, claimed)
    queue.hold(connection, [one.id for one in chunks if _waits(one)])
    return found[-1] if found else None


def _waits(one: Chunk) -> bool:
    """Return whether somebody may still get a message; the others are recorded and closed by a worker as ever."""
    return one.states.count(State.WAITING) > 0 or (one.request is not None and not one.users)


def _hold_runs(connection: Connection) -> None:
    waits = and_(run.c.state.in_(("scheduled", "running")), func.coalesce(run.c.retry_at, 0.0) < HOLD_SECONDS)
    connection.execute(update(run).where(waits).values(retry_at=func.coalesce(run.c.retry_at, 0.0) + HOLD_SECONDS))


def _skip_ids(connection: Connection, now: float) -> None:
    newest = connection.execute(select(chunk.c.id, chunk.c.created_at).order_by(chunk.c.id.desc()).limit(1)).first()
    oldest_account = connection.scalar(select(func.min(schema.account.c.created_at)))
    last, since = (newest.id, newest.created_at) if newest is not None else (0, oldest_account or now)
    following = last + int(max(now - since, 0.0) * IDS_A_SECOND) + IDS_SPARE
    if connection.dialect.name == "postgresql":
        asked = text("SELECT setval(pg_get_serial_sequence('chunk', 'id'), :following)")
        connection.execute(asked, {"following": following})
        return
    # SQLite gives out what follows the highest id there is: a closed request of nobody holds that place.
    empty = {"users": b"", "platforms": b"", "states": b"", "notes": "{}", "size": 0, "sent": 0, "unknown": 0}
    closed = {"open": 0, "not_before": now, "expires_at": now, "created_at": now, "priority": 0, "campaign_id": 0}
    names = {"account_id": "", "channel": "", "tag_group": "", "failed": 0, "suppressed": 0}
    connection.execute(insert(chunk).values(id=following, **empty, **closed, **names))


def _chunk_is_held() -> ColumnElement[bool]:
    free = and_(schema.chunk_is_open, chunk.c.lease_owner.is_(None))  # a range of the index `chunk_due`
    return and_(free, chunk.c.priority.in_((TRANSACTIONAL, CAMPAIGN)), chunk.c.not_before >= HOLD_SECONDS)
