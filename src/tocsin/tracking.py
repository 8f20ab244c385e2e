"""Views and clicks coming back. The id in every message (`wzrk_pid`) is signed, so it is its own permission."""

from __future__ import annotations

import base64
import binascii
import hmac
import struct

from tocsin import chunk as chunks
from tocsin.account import Account
from tocsin.errors import Problem
from tocsin.ingest import event_row
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

EVENTS = {"viewed": "Notification Viewed", "clicked": "Notification Clicked"}
_ID = struct.Struct(">QH")
_SIGNATURE = 10  # bytes: 80 bits are far beyond guessing over a network


def sign_push_id(secret: bytes, chunk_id: int, position: int) -> str:
    """The id of one recipient's message: 27 letters of base64url."""
    what = _ID.pack(chunk_id, position)
    signed = what + hmac.digest(secret, what, "sha256")[:_SIGNATURE]
    return base64.urlsafe_b64encode(signed).decode().rstrip("=")


def read_push_id(secret: bytes, push_id: str) -> tuple[int, int]:
    """(chunk id, position). Raises Problem for anything this server did not sign."""
    try:
        raw = base64.urlsafe_b64decode(push_id + "=" * (-len(push_id) % 4))
    except (ValueError, binascii.Error):
        raw = b""
    what, signature = raw[: _ID.size], raw[_ID.size :]
    # The last letter has two bits to spare: only the one spelling we give out is ours.
    spelled = base64.urlsafe_b64encode(raw).decode().rstrip("=") == push_id
    if (
        not spelled
        or len(raw) != _ID.size + _SIGNATURE
        or not hmac.compare_digest(signature, hmac.digest(secret, what, "sha256")[:_SIGNATURE])
    ):
        raise Problem("id is not one this server gave out (at $.id)")
    chunk_id, position = _ID.unpack(what)
    return int(chunk_id), int(position)


async def record_interaction(ledger: Ledger, facts: Facts, secret: bytes, kind: str, push_id: str, now: float) -> None:
    """Stores a view or click as an event of the user. The event's id is the message's: reported twice, it counts once,
    with the numbers it adds to."""
    chunk_id, position = read_push_id(secret, push_id)
    found = await ledger.read(lambda connection: chunks.load(connection, chunk_id))
    if found is None or position >= len(found.users):
        raise Problem("id is not of a message this server sent (at $.id)")
    account = await ledger.read(lambda connection: Account.load(connection, found.account_id))
    props = {
        "Campaign id": found.campaign_id,
        "Variant": "default",
        "Channel": found.channel,
        "Platform": chunks.PLATFORM_CODES[found.platforms[position]],
        "Tag group": found.tag_group,
    }
    event_id = chunk_id * 65536 + position
    await facts.insert("event", [event_row(account, EVENTS[kind], found.users[position], now, event_id, props)])


def unsubscribe_url(public_url: str, push_id: str) -> str:
    """Where one POST takes the recipient of a mail off the list (RFC 8058); "" without a public address."""
    return f"{public_url}/u/{push_id}" if public_url else ""
