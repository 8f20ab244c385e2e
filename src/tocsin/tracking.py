"""What comes back names its message by the signed id in it (`wzrk_pid`; of a mail, its link and its envelope), which is
its own permission. Views and clicks are recorded here; what changes a person is in `feedback.py`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from typing import Any

import msgspec
from sqlalchemy import Connection

from tocsin import chunk as chunks
from tocsin.account import Account
from tocsin.errors import Problem
from tocsin.ingest import event_row
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

EVENTS = {"viewed": "Notification Viewed", "clicked": "Notification Clicked"}
_ID = struct.Struct(">QH")
_LETTERS = 27
_SIGNATURE = 10  # bytes: 80 bits are far beyond guessing over a network


def _sign(secret: bytes, what: bytes) -> bytes:
    # Keyed BLAKE2b is a MAC by itself (RFC 7693), in a quarter of HMAC's time: this runs once a message.
    return hashlib.blake2b(what, digest_size=_SIGNATURE, key=secret, person=b"push id").digest()


def sign_push_id(secret: bytes, chunk_id: int, position: int) -> str:
    """The id of one recipient's message: 27 letters of base64url."""
    what = _ID.pack(chunk_id, position)
    signed = what + _sign(secret, what)
    return base64.urlsafe_b64encode(signed)[:_LETTERS].decode()


def read_push_id(secret: bytes, push_id: str) -> tuple[int, int]:
    """(chunk id, position). Raises Problem for anything this server did not sign."""
    try:
        raw = base64.urlsafe_b64decode(push_id + "=" * (-len(push_id) % 4))
    except (ValueError, binascii.Error):
        raw = b""
    what, signature = raw[: _ID.size], raw[_ID.size :]
    # The last letter has two bits to spare: only the one spelling we give out is ours.
    spelled = base64.urlsafe_b64encode(raw).decode().rstrip("=") == push_id
    if not spelled or len(raw) != _ID.size + _SIGNATURE or not hmac.compare_digest(signature, _sign(secret, what)):
        raise Problem("id is not one this server gave out (at $.id)")
    chunk_id, position = _ID.unpack(what)
    return int(chunk_id), int(position)


def unsubscribe_url(public_url: str, push_id: str) -> str:
    """Where a mail's `List-Unsubscribe` leads (RFC 8058), "" when the server has no `public_url`."""
    return f"{public_url}/u/{push_id}" if public_url else ""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
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


async def find_sent(ledger: Ledger, secret: bytes, push_id: str) -> Sent:
    """The message of a signed id. Raises Problem for one that is not ours."""
    chunk_id, position = read_push_id(secret, push_id)

    def read(connection: Connection) -> Sent | None:
        found = chunks.load(connection, chunk_id)
        if found is None or position >= len(found.users):
            return None
        return Sent(
            account=Account.load(connection, found.account_id),
            chunk_id=chunk_id,
            position=position,
            user=found.users[position],
            campaign_id=found.campaign_id,
            channel=found.channel,
            platform=chunks.PLATFORM_CODES[found.platforms[position]],
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
