"""A batch: the messages of one window for one lane, and their result. Values that may cross to another process."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable

import msgspec

from tocsin.content import Addressing, Content, Renderer, Unrenderable
from tocsin.delivery.push_id import sign_push_id, unsubscribe_url
from tocsin.outcome import Outcome
from tocsin.providers.contract import Address, Message, Receipt

AT_ONCE = 256  # messages of one batch under way, at most; a pool has its own bound for all of them


class PendingMessage(msgspec.Struct, frozen=True, array_like=True):
    """A message before it is rendered. position: of its recipient in the chunk. device_id: in the ledger; 0 for a
    mailbox or number. profile: JSON, "" when the content does not read it."""

    position: int
    device_id: int
    address: Address
    profile: str = ""


class BatchContext(msgspec.Struct, frozen=True, array_like=True):
    """What all messages of a chunk share. content: `Content` as JSON. secret: signs push ids."""

    account_id: str
    chunk_id: int
    content: bytes
    campaign: str  # the `wzrk_id`
    collapse: str
    expires_at: float
    public_url: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Job({self.chunk_id})"


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """The messages of one window for one lane. slow_start_from: when the lane's last pause ended, whichever process
    met it; epoch seconds."""

    context: BatchContext
    platform: str
    messages: list[PendingMessage]
    slow_start_from: float = 0.0


class BatchResult(msgspec.Struct, frozen=True, array_like=True):
    """What came of a batch. answers: receipts of all that were not simply accepted, by their place in the batch.
    paused_until, slow_start_from: of the lane, epoch seconds. tally: the vendor's answers by outcome, as they came, and
    stops: how often the lane stopped, by reason; both since the batch before."""

    answers: dict[int, Receipt]
    paused_until: float = 0.0
    slow_start_from: float = 0.0
    tally: dict[str, int] = {}
    stops: dict[str, int] = {}


SendMessage = Callable[[Message], Awaitable[Receipt]]


async def send_batch(batch: Batch, send: SendMessage, at_once: int = AT_ONCE) -> dict[int, Receipt]:
    """Render and send every message of a batch, `at_once` at a time. Return the receipts of those not accepted, by
    place."""
    answers: dict[int, Receipt] = {}
    renderer, context, platform = compiled(batch.context.content), batch.context, batch.platform
    messages = iter(enumerate(batch.messages))

    async def pull() -> None:
        for place, pending in messages:
            try:
                profile = read_profile(pending.profile)
                message = renderer.render(platform, profile, _addressing(context, pending))
            except (Unrenderable, msgspec.DecodeError) as error:
                answers[place] = Receipt(outcome=Outcome.REFUSED, code=f"template: {error}")
                continue
            receipt = await send(message)
            if receipt.outcome is not Outcome.ACCEPTED:
                answers[place] = receipt

    await asyncio.gather(*(pull() for _ in range(min(len(batch.messages), at_once))))
    return answers


def read_profile(text: str) -> dict[str, object]:
    """Return a profile from its JSON; empty for ""."""
    profile: dict[str, object] = msgspec.json.decode(text) if text else {}
    return profile


@functools.lru_cache(maxsize=64)
def compiled(content: bytes) -> Renderer:
    """Return the compiled templates of a content; cached for the chunks of a campaign."""
    return Renderer(msgspec.json.decode(content, type=Content))


def _addressing(context: BatchContext, pending: PendingMessage) -> Addressing:
    # The same id on every attempt at this recipient and device.
    name = b"%d:%d:%d" % (context.chunk_id, pending.position, pending.device_id)
    digits = hashlib.blake2b(name, digest_size=16, key=context.secret).hexdigest()
    push_id = sign_push_id(context.secret, context.chunk_id, pending.position)
    return Addressing(
        id=f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}",  # a version 4 UUID
        collapse=context.collapse,
        campaign=context.campaign,
        push_id=push_id,
        address=pending.address,
        expires_at=int(context.expires_at),
        account=context.account_id,
        unsubscribe=unsubscribe_url(context.public_url, push_id) if pending.address.kind == "email" else "",
    )
