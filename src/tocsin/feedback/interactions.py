"""Views and clicks, and the sent message that a signed id names.

A device or a mail server names its message by the signed id in it: `wzrk_pid` of a push, the unsubscribe link and the
envelope address of a mail. The signature is the permission; nobody logs in. What changes a person is in `mail.py`.
"""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select, tuple_

from tocsin import queue
from tocsin.account import Account, list_accounts
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.push_id import Purpose
from tocsin.errors import Problem
from tocsin.feedback.signed_id import SignedIds
from tocsin.ingest import event_row
from tocsin.queue import Chunk
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.rows import insert_new

TRACK_DAYS = 90.0  # after it was sent, a message can be viewed and clicked
LONGEST_DAYS = 30  # between a message and the end of its chunk: 28 days, and a day for time zones at either end
DAY = 86_400.0
# The kind of `/track/KIND` and the number of `result.json` → the event it is recorded as.
INTERACTIONS = {"viewed": "Notification Viewed", "clicked": "Notification Clicked"}
# What a program did that reads mails for somebody: no view and no click.
MACHINE = {"machine_viewed": "Notification Viewed by Machine", "machine_clicked": "Notification Clicked by Machine"}
EVENTS = {**INTERACTIONS, **MACHINE}

SWEEP = 1000  # rows deleted in one transaction, at most
SWEEP_REST = 0.05  # seconds between two of them: the writer is there for others


class SentMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that this server sent. user: 0 when none was found. campaign_id: 0 for a send by identity. tag_group,
    variant: "" for none. sent_by: when it was sent at the latest, in epoch seconds; inf while others of its chunk are
    under way."""

    account: Account
    chunk_id: int
    position: int
    user: int
    campaign_id: int
    channel: str
    platform: str
    tag_group: str
    variant: str = ""
    sent_by: float = math.inf
    cleaned: bool = False  # the ledger no longer keeps whom it went to

    def require_younger(self, days: float, now: float) -> None:
        """Raise Problem 410 when the message was sent more than so many days ago."""
        require_younger(self.sent_by, days, now)

    @property
    def event_id(self) -> int:
        """The id of every event about this message."""
        return self.chunk_id * 65536 + self.position

    @property
    def props(self) -> dict[str, Any]:
        """The properties of every event about this message."""
        return {
            "Campaign id": self.campaign_id,
            "Variant": self.variant or "default",
            "Channel": self.channel,
            "Platform": self.platform,
            "Tag group": self.tag_group,
        }


def require_younger(sent_by: float, days: float, now: float) -> None:
    """Raise Problem 410 when a message was sent more than so many days ago."""
    if now - sent_by > days * DAY:
        sentence = f"The message was sent more than {days:g} days ago, and its id has ended"
        raise Problem(sentence, code=410, status=410)


async def find_sent(
    ledger: Ledger, facts: Facts, signed_ids: SignedIds, push_id: str, *purposes: Purpose
) -> SentMessage:
    """Return the message of an id that was signed for one of these purposes, also when the ledger no longer keeps whom
    it went to. Raise Problem 400 for an id that this server did not sign, or whose message it does not have."""
    chunk_id, position = await signed_ids.read(push_id, *purposes)

    def read(connection: Connection) -> tuple[Chunk | None, SentMessage | None, float]:
        found, end = queue.load(connection, chunk_id), _find_end(connection, chunk_id)
        if found is None or position >= len(found.users):
            return found, None, end
        message = SentMessage(
            account=Account.load(connection, found.account_id),
            chunk_id=chunk_id,
            position=position,
            user=found.users[position],
            campaign_id=found.campaign_id,
            channel=found.channel,
            platform=PLATFORM_CODES[found.platforms[position]],
            tag_group=found.tag_group,
            variant=found.variant,
            sent_by=end,
        )
        return found, message, end

    chunk, sent, end = await ledger.read(read)
    if sent is None and (chunk is None or not chunk.users):
        sent = await _find_cleaned(ledger, facts, chunk, chunk_id, position, end)
    if sent is None:
        raise Problem("id is not of a message this server sent (at $.id)")
    return sent


async def find_cleaned_message(ledger: Ledger, facts: Facts, chunk_id: int, position: int) -> SentMessage:
    """Return a message of which the ledger no longer keeps whom it went to. Raise Problem 400 when facts do not know it
    either."""

    def read(connection: Connection) -> tuple[Chunk | None, float]:
        return queue.load(connection, chunk_id), _find_end(connection, chunk_id)

    chunk, end = await ledger.read(read)
    sent = await _find_cleaned(ledger, facts, chunk, chunk_id, position, end)
    if sent is None:
        raise Problem("id is not of a message this server sent (at $.id)")
    return sent


def _find_end(connection: Connection, chunk_id: int) -> float:
    """Return when a chunk was closed; inf for one that is open."""
    table = schema.chunk
    closed = select(table.c.not_before).where(table.c.id == chunk_id, table.c.open == 0)
    end = connection.scalar(closed)
    return math.inf if end is None else float(end)


async def _find_cleaned(
    ledger: Ledger, facts: Facts, chunk: Chunk | None, chunk_id: int, position: int, end: float
) -> SentMessage | None:
    """Return a message of a chunk that was cleaned, by its outcome in facts; None when there is none. chunk: without
    its recipients; None when it was a request's, and its account is any: ids of chunks are unique over all.
    end: when the chunk was closed."""
    accounts = {one.id: one for one in await asyncio.to_thread(list_accounts, ledger)}
    rows = await facts.query(
        "SELECT account, user, channel, platform, tag_group, toUnixTimestamp(at) FROM outcome "
        "WHERE account IN {accounts:Array(String)} "
        "AND campaign = {campaign:UInt32} AND chunk = {chunk:UInt64} AND position = {position:UInt16} "
        "AND user != 0 LIMIT 1",
        {
            "accounts": list(accounts) if chunk is None else [chunk.account_id],
            "campaign": 0 if chunk is None else chunk.campaign_id,
            "chunk": chunk_id,
            "position": position,
        },
    )
    if not rows:
        return None
    account_id, user, channel, platform, tag_group, at = rows[0]
    return SentMessage(
        account=accounts[account_id],
        chunk_id=chunk_id,
        position=position,
        user=int(user),
        campaign_id=0 if chunk is None else chunk.campaign_id,
        channel=channel,
        platform=platform,
        tag_group=tag_group,
        variant="" if chunk is None else chunk.variant,
        # An outcome may have the time of its chunk's beginning: a day later it was certainly sent.
        sent_by=end if chunk is not None else float(at) + DAY,
        cleaned=True,
    )


async def record_sent(ledger: Ledger, facts: Facts, sent: SentMessage, kind: str, now: float) -> bool:
    """Record a view or click of a message, as an event at `now` or whenever it was first reported. kind: one of EVENTS.
    Return whether it is the first of its kind.

    The key of facts' `event` holds the time: with the same time a repeat writes the same row, and one view is one event
    to everybody who counts.
    """
    # What the ledger knew of a message's first view went when the message was cleaned; the event itself stayed.
    before = await _find_event(facts, sent, kind) if sent.cleaned else None
    first = now if before is None else before
    at = await ledger.write(lambda connection: _keep_first(connection, sent, kind, first))
    row = event_row(sent.account, EVENTS[kind], sent.user, at, sent.event_id, sent.props)
    await facts.insert("event", [row])
    return at == now and before is None


async def _find_event(facts: Facts, sent: SentMessage, kind: str) -> float | None:
    """Return when this was first reported, by its event; None when there is none."""
    rows = await facts.query(
        "SELECT at FROM event WHERE account = {account:String} AND name = {name:String} AND day >= {day:Date} "
        "AND user = {user:UInt32} AND id = {id:UInt64} ORDER BY at LIMIT 1",
        {
            "account": sent.account.id,
            "name": EVENTS[kind],
            "day": datetime.fromtimestamp(sent.sent_by - LONGEST_DAYS * DAY, UTC).date(),
            "user": sent.user,
            "id": sent.event_id,
        },
    )
    return float(rows[0][0].replace(tzinfo=UTC).timestamp()) if rows else None


async def forget_old_reports(ledger: Ledger, now: float, report_days: float) -> int:
    """Delete when views and clicks were first reported of which no report is taken any more, SWEEP in a transaction.
    Return how many."""
    table = schema.interaction
    keys = (table.c.chunk_id, table.c.position, table.c.kind)
    old = select(*keys).where(table.c.at < now - report_days * DAY).limit(SWEEP)
    forget = delete(table).where(tuple_(*keys).in_(old))
    total = 0
    while True:
        deleted = await ledger.write(lambda connection: connection.execute(forget).rowcount)
        total += deleted
        if deleted < SWEEP:
            return total
        await asyncio.sleep(SWEEP_REST)


def _keep_first(connection: Connection, sent: SentMessage, kind: str, now: float) -> float:
    """Return when this was first reported; that is `now` when nobody did before."""
    table = schema.interaction
    key = {"account_id": sent.account.id, "chunk_id": sent.chunk_id, "position": sent.position, "kind": kind}
    if insert_new(connection, table, key | {"at": now}):
        return now
    same = [table.c[name] == value for name, value in key.items()]
    return float(connection.execute(select(table.c.at).where(*same)).scalar_one())
