"""Views and clicks, and the sent message that a signed id names.

A device or a mail server names its message by the signed id in it: `wzrk_pid` of a push, the unsubscribe link and the
envelope address of a mail. The signature is the permission; nobody logs in. What changes a person is in `mail.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection

from tocsin import queue
from tocsin.account import Account
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.push_id import read_push_id
from tocsin.errors import Problem
from tocsin.ingest import event_row
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

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
        """The id of every event about this message.

        The key of facts' `event` also holds the time of the report, in seconds: a view reported twice is two rows with
        one id. The numbers count ids, so they count it once; a `where` counts rows, so «viewed at least twice» finds a
        user who looked once.
        """
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
    """Record a view or click (`kind` is one of INTERACTIONS) as an event of the message's user, at `now`. Raise
    Problem 400 for an id that is not ours."""
    sent = await find_sent(ledger, secret, push_id)
    row = event_row(sent.account, INTERACTIONS[kind], sent.user, now, sent.event_id, sent.props)
    await facts.insert("event", [row])
