"""Views and clicks, and the sent message that a signed id names.

A device or a mail server names its message by the signed id in it: `wzrk_pid` of a push, the unsubscribe link and the
envelope address of a mail. The signature is the permission; nobody logs in. What changes a person is in `mail.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, select

from tocsin import queue
from tocsin.account import Account
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.push_id import read_push_id
from tocsin.errors import Problem
from tocsin.ingest import event_row
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.rows import insert_new

# The kind of `/track/KIND` and the number of `result.json` → the event it is recorded as.
INTERACTIONS = {"viewed": "Notification Viewed", "clicked": "Notification Clicked"}


class SentMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that this server sent. user: 0 when none was found. campaign_id: 0 for a send by identity. tag_group,
    variant: "" for none."""

    account: Account
    chunk_id: int
    position: int
    user: int
    campaign_id: int
    channel: str
    platform: str
    tag_group: str
    variant: str = ""

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


async def find_sent(ledger: Ledger, secret: bytes, push_id: str) -> SentMessage:
    """Return the message of a signed id. Raise Problem 400 for an id that this server did not sign, or whose message it
    does not have."""
    chunk_id, position = read_push_id(secret, push_id)

    def read(connection: Connection) -> SentMessage | None:
        found = queue.load(connection, chunk_id)
        if found is None or position >= len(found.users):
            return None
        return SentMessage(
            account=Account.load(connection, found.account_id),
            chunk_id=chunk_id,
            position=position,
            user=found.users[position],
            campaign_id=found.campaign_id,
            channel=found.channel,
            platform=PLATFORM_CODES[found.platforms[position]],
            tag_group=found.tag_group,
            variant=found.variant,
        )

    sent = await ledger.read(read)
    if sent is None:
        raise Problem("id is not of a message this server sent (at $.id)")
    return sent


async def record_interaction(ledger: Ledger, facts: Facts, secret: bytes, kind: str, push_id: str, now: float) -> None:
    """Record a view or click (`kind` is one of INTERACTIONS) as an event of the message's user, at `now` or whenever it
    was first reported. Raise Problem 400 for an id that is not ours.

    The key of facts' `event` holds the time: with the same time a repeat writes the same row, and one view is one event
    to everybody who counts.
    """
    sent = await find_sent(ledger, secret, push_id)
    at = await ledger.write(lambda connection: _keep_first(connection, sent, kind, now))
    row = event_row(sent.account, INTERACTIONS[kind], sent.user, at, sent.event_id, sent.props)
    await facts.insert("event", [row])


def _keep_first(connection: Connection, sent: SentMessage, kind: str, now: float) -> float:
    """Return when this was first reported; that is `now` when nobody did before."""
    table = schema.interaction
    key = {"account_id": sent.account.id, "chunk_id": sent.chunk_id, "position": sent.position, "kind": kind}
    if insert_new(connection, table, key | {"at": now}):
        return now
    same = [table.c[name] == value for name, value in key.items()]
    return float(connection.execute(select(table.c.at).where(*same)).scalar_one())
