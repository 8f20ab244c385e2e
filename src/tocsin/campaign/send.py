"""Stage 3 of 7 for people named one by one: `/1/send/…`. Accepted means queued durably; who the identities are is
looked up by the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tocsin.account import Account
from tocsin.campaign.addressees import TO_KINDS, TO_LIMIT, read_to
from tocsin.campaign.send_queue import NOT_TAGGED, QueuedSend, SendQueue
from tocsin.campaign.spec import read_flag, read_on_crash
from tocsin.content import read_content
from tocsin.errors import Problem
from tocsin.idempotency import IdempotencyKey
from tocsin.queue import NewRequest
from tocsin.settings import Settings

CODE_FREQUENCY_CAPS = 73
# Fields of the real service that would change who gets what; ignored, they would send differently.
NOT_YET = ("campaign_id", "provider_nick_name", "draft")
PLAIN_LEVELS = 32  # brackets a body may have to be read the quick way; `api/http.py` counts levels
KNOWN_CONTENTS = 256  # contents remembered as good
KNOWN_BYTES = 16 * 1024  # of one of them
ANSWER = '{"status":"success","message":"Added to queue for processing"}'


class Asked(msgspec.Struct, frozen=True):
    """The fields of a `/1/send` body. `to` is known to be good; `content` is JSON as it came."""

    to: dict[str, list[Any]]
    content: msgspec.Raw = msgspec.Raw(b"null")
    tag_group: Any = None
    respect_frequency_caps: Any = True
    send_to_all_devices: Any = False
    on_crash: Any = "report"
    campaign_id: Any = None
    provider_nick_name: Any = None
    draft: Any = None


class _Plain(Asked, frozen=True):
    # 256 letters are at most 1,024 bytes.
    to: dict[str, list[Annotated[str, Meta(min_length=1, max_length=256)]]]


_PLAIN = msgspec.json.Decoder(_Plain)


def read_plain(raw: bytes) -> Asked | None:
    """A body in one pass, if nothing is odd about it: a thousand names are checked in 30 µs instead of 200. None: the
    long way decides, and finds the words for what is wrong."""
    if rb"\u0000" in raw or raw.count(b"{") + raw.count(b"[") > PLAIN_LEVELS:
        return None
    try:
        raw.decode()  # what is skipped is not looked at
        asked = _PLAIN.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    count = 0
    for name, values in asked.to.items():
        if name.lower() not in TO_KINDS:
            return None
        count += len(values)
    return asked if 0 < count <= TO_LIMIT else None


def read_asked(body: Mapping[str, Any]) -> Asked:
    """A decoded body. Raises Problem 21 or 84 for `to`."""
    read_to(body.get("to"))
    content = msgspec.Raw(msgspec.json.encode(body.get("content")))
    fields = {name: body[name] for name in Asked.__struct_fields__ if name in body}
    return Asked(**fields | {"content": content})


async def accept(
    send_queue: SendQueue,
    account: Account,
    channel: str,
    asked: Asked,
    now: float,
    settings: Settings,
    key: IdempotencyKey | None = None,
) -> bool:
    """Queues one request; False: it was queued before, by its key. Raises Problem with the documented codes: 73, 400
    for the content, 422 for a key that stands for another request, 429."""
    caps = read_flag(
        {"respect_frequency_caps": asked.respect_frequency_caps}, "respect_frequency_caps", code=CODE_FREQUENCY_CAPS
    )
    for field in NOT_YET:
        if getattr(asked, field):
            raise Problem(f"{field} is not supported yet, and leaving it out would send differently (at $.{field})")
    content = await _check_content(bytes(asked.content), channel, settings.require_android_channel)
    request = StoredRequest(
        to=asked.to,
        content=msgspec.Raw(content),
        send_to_all_devices=read_flag({"send_to_all_devices": asked.send_to_all_devices}, "send_to_all_devices"),
        respect_frequency_caps=caps,
    )
    new = NewRequest(
        account_id=account.id,
        channel=channel,
        tag_group=_read_tag(asked.tag_group),
        request=msgspec.json.encode(request).decode(),
        resend=read_on_crash({"on_crash": asked.on_crash}) == "resend",
        expires_at=now + settings.message_hours * 3600,
        now=now,
    )
    return await send_queue.put(QueuedSend(new, key, ANSWER))


async def _check_content(raw: bytes, channel: str, require_channel: bool) -> bytes:
    """The content as it is kept. Templates are compiled and tried out in a thread, once: most requests say the same."""
    if len(raw) > KNOWN_BYTES:
        return await asyncio.to_thread(_compile, raw, channel, require_channel)
    if (known := _KNOWN.get((raw, channel, require_channel))) is None:
        known = await asyncio.to_thread(_compile, raw, channel, require_channel)
        _KNOWN[raw, channel, require_channel] = known
        while len(_KNOWN) > KNOWN_CONTENTS:
            del _KNOWN[next(iter(_KNOWN))]
    return known


_KNOWN: dict[tuple[bytes, str, bool], bytes] = {}


def _compile(raw: bytes, channel: str, require_channel: bool) -> bytes:
    try:
        content = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(f"Invalid JSON payload: {error}", code=78) from None
    return msgspec.json.encode(read_content(content, channel, require_channel=require_channel))


def _read_tag(tag: Any) -> str:
    if tag is None or tag == "":
        return ""
    if not isinstance(tag, str) or len(tag.encode()) > 256:
        raise Problem("tag_group must be a text of at most 256 bytes (at $.tag_group)")
    tag = tag.strip()
    return "" if tag == NOT_TAGGED else tag


class StoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a `/1/send` chunk keeps of its request. content: `Content` as JSON."""

    to: dict[str, list[Any]]
    content: msgspec.Raw
    send_to_all_devices: bool = False
    respect_frequency_caps: bool = True
