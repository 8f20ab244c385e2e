"""What goes to whoever does the sending, and what comes back: values that may cross to another process."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable

import msgspec

from tocsin.content import Content, Envelope, Renderer, Unrenderable
from tocsin.outcome import Outcome
from tocsin.providers.contract import Address, Message, Receipt
from tocsin.tracking import sign_push_id, unsubscribe_url

AT_ONCE = 256  # messages of one batch under way, at most; a pool has its own bound for all of them


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """One message to come: for which recipient of the chunk, to which device. profile: JSON, "" when the content does
    not look at it."""

    position: int
    device_id: int
    address: Address
    profile: str = ""


class Job(msgspec.Struct, frozen=True, array_like=True):
    """What all messages of a chunk share. content: `Content` as JSON. secret: what push ids are signed with."""

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
    """The messages of one window for one lane. climbs_from: since when the lane climbs back to its rate, wherever it
    met the pause; epoch seconds."""

    job: Job
    platform: str
    parcels: list[Parcel]
    climbs_from: float = 0.0


class Sent(msgspec.Struct, frozen=True, array_like=True):
    """What came of a batch. answers: by the parcel's place in it, of all that were not simply accepted. paused_until,
    climbs_from: of the lane, epoch seconds. tally: the vendor's answers by outcome, as they came, and stops: how often
    the lane stopped, by reason; both since the lane was last asked."""

    answers: dict[int, Receipt]
    paused_until: float = 0.0
    climbs_from: float = 0.0
    tally: dict[str, int] = {}
    stops: dict[str, int] = {}


Hand = Callable[[Message], Awaitable[Receipt]]


async def carry(batch: Batch, hand_over: Hand, at_once: int = AT_ONCE) -> dict[int, Receipt]:
    """Renders every message of a batch and hands it over, so many at once. Answers what was not simply accepted."""
    answers: dict[int, Receipt] = {}
    renderer, job, platform = compiled(batch.job.content), batch.job, batch.platform
    parcels = iter(enumerate(batch.parcels))

    async def pull() -> None:
        for place, parcel in parcels:
            try:
                profile = read_profile(parcel.profile)
                message = renderer.render(platform, profile, _address(job, parcel))
            except (Unrenderable, msgspec.DecodeError) as error:
                answers[place] = Receipt(outcome=Outcome.REFUSED, code=f"template: {error}")
                continue
            receipt = await hand_over(message)
            if receipt.outcome is not Outcome.ACCEPTED:
                answers[place] = receipt

    await asyncio.gather(*(pull() for _ in range(min(len(batch.parcels), at_once))))
    return answers


def read_profile(text: str) -> dict[str, object]:
    profile: dict[str, object] = msgspec.json.decode(text) if text else {}
    return profile


@functools.lru_cache(maxsize=64)
def compiled(content: bytes) -> Renderer:
    """The templates of a content, compiled once for all chunks of a campaign."""
    return Renderer(msgspec.json.decode(content, type=Content))


def _address(job: Job, parcel: Parcel) -> Envelope:
    # The same id on every attempt at this recipient and device.
    name = b"%d:%d:%d" % (job.chunk_id, parcel.position, parcel.device_id)
    digits = hashlib.blake2b(name, digest_size=16, key=job.secret).hexdigest()
    push_id = sign_push_id(job.secret, job.chunk_id, parcel.position)
    return Envelope(
        id=f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}",  # a version 4 UUID
        collapse=job.collapse,
        campaign=job.campaign,
        push_id=push_id,
        address=parcel.address,
        expires_at=int(job.expires_at),
        account=job.account_id,
        unsubscribe=unsubscribe_url(job.public_url, push_id) if parcel.address.kind == "email" else "",
    )
