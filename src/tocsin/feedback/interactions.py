"""What comes back names its message by the signed id in it (`wzrk_pid`; of a mail, its link and its envelope), which is
its own permission. Views and clicks are recorded here; what changes a person is in `feedback.py`."""

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

EVENTS = {"viewed": "Notification Viewed", "clicked": "Notification Clicked"}


class SentMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that this server sent: whose, to whom, and by what. campaign_id: 0 for a send by identity."""

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
        """The id of every event about this message: reported twice, it is one event."""
        return self.chunk_id * 65536 + self.position

    @property
    def props(self) -> dict[str, Any]:
        """What every event about this message says."""
        return {
            "Campaign id": self.campaign_id,
            "Variant": self.variant or "default",
            "Channel": self.channel,
            "Platform": self.platform,
            "Tag group": self.tag_group,
        }


async def find_sent(ledger: Ledger, secret: bytes, push_id: str) -> SentMessage:
    """The message of a signed id. Raises Problem for one that is not ours."""
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
    """Stores a view or click as an event of the user. The event's id is the message's: reported twice, it counts once,
    with the numbers it adds to."""
    sent = await find_sent(ledger, secret, push_id)
    row = event_row(sent.account, EVENTS[kind], sent.user, now, sent.event_id, sent.props)
    await facts.insert("event", [row])
