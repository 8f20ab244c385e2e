"""A batch: claimed messages on their way to one lane of a sender process, and how one of them is rendered. Values that
may cross to another process."""

from __future__ import annotations

import functools
import hashlib

import msgspec

from tocsin.content import Addressing, Content, Renderer
from tocsin.delivery.mail_id import MailId, make_links
from tocsin.delivery.push_id import Secrets, sign_push_id, track_url, unsubscribe_url
from tocsin.providers.contract import Address, Message


class PendingMessage(msgspec.Struct, frozen=True, array_like=True):
    """A message before it is rendered. position: of its recipient in the chunk. device_id: in the ledger; 0 for a
    mailbox or number. profile: JSON, "" when the content does not read it."""

    position: int
    device_id: int
    address: Address
    profile: str = ""
    tracked: bool = True  # the recipient of a mail has not said no to that


class BatchContext(msgspec.Struct, frozen=True, array_like=True):
    """What all messages of a chunk share. content: `Content` as JSON. secret: makes and signs ids. sdk_id: what the
    account's apps call it; "" where it has none. opens, clicks: whether those of a mail are counted.
    collapsible: as in `Push`."""

    account_id: str
    chunk_id: int
    content: bytes
    campaign: str  # the `wzrk_id`
    collapse: str
    expires_at: float
    public_url: str
    secret: Secrets
    sdk_id: str = ""
    opens: bool = False
    clicks: bool = False
    collapsible: bool = True

    def __repr__(self) -> str:
        return f"BatchContext({self.chunk_id})"


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Messages of one or many chunks for one lane. places: of each message's context in `contexts`. slots: where each
    message's hand-over is noted, which is also its name. urgent: they go before others of the lane."""

    platform: str
    contexts: list[BatchContext]
    places: list[int]
    slots: list[int]
    messages: list[PendingMessage]
    urgent: bool = False


def render(context: BatchContext, platform: str, pending: PendingMessage, now: float = 0.0) -> Message:
    """Return the message for one address. now: epoch seconds. Raises Unrenderable, msgspec.DecodeError."""
    profile: dict[str, object] = msgspec.json.decode(pending.profile) if pending.profile else {}
    renderer = compiled(context.content, context.opens or context.clicks)
    return renderer.render(platform, profile, _addressing(context, pending, now))


@functools.lru_cache(maxsize=64)
def compiled(content: bytes, tracked: bool = False) -> Renderer:
    """Return the compiled templates of a content; cached for the chunks of a campaign. tracked: the links of some of
    its mails are followed."""
    return Renderer(msgspec.json.decode(content, type=Content), tracked=tracked)


def _addressing(context: BatchContext, pending: PendingMessage, now: float) -> Addressing:
    # The same id on every attempt at this recipient and device.
    name = b"%d:%d:%d" % (context.chunk_id, pending.position, pending.device_id)
    digits = hashlib.blake2b(name, digest_size=16, key=context.secret.message).hexdigest()
    signing, place = context.secret.signing, (context.chunk_id, pending.position)
    mail = pending.address.kind == "email"
    link = sign_push_id(signing, *place, "unsubscribe") if mail and context.public_url else ""
    tracking = None
    if mail and pending.tracked and (context.opens or context.clicks):
        mail_id = MailId(*place, int(now))
        tracking = make_links(context.public_url, signing, mail_id, clicks=context.clicks, opens=context.opens)
    return Addressing(
        id=f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}",  # a version 4 UUID
        collapse=context.collapse,
        collapsible=context.collapsible,
        campaign=context.campaign,
        push_id=sign_push_id(signing, *place, "bounce" if mail else "track"),
        address=pending.address,
        expires_at=int(context.expires_at),
        account=context.sdk_id or context.account_id,
        reports=bool(context.sdk_id),
        unsubscribe=unsubscribe_url(context.public_url, link) if link else "",
        track_url=track_url(context.public_url) if pending.address.kind == "webpush" else "",
        tracking=tracking,
    )
