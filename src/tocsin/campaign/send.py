"""Stage 3 of 7 for people named one by one: the body of `/1/send/…`, checked and queued. Accepted means queued durably;
which users the identities are is looked up by the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from tocsin.account import Account
from tocsin.campaign.addressees import TO_KINDS, TO_LIMIT, check_to
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.send_queue import NOT_TAGGED, QueuedSend, SendQueue
from tocsin.campaign.send_rate import SendRate
from tocsin.campaign.spec import OnCrash
from tocsin.content import read_content
from tocsin.errors import Problem, read_struct
from tocsin.idempotency import IdempotencyKey
from tocsin.queue import NewRequest
from tocsin.settings import Settings

CODE_FREQUENCY_CAPS = 73
TAG_BYTES = 256
# Fields of the real service that would change who gets what; ignored, they would send differently.
NOT_YET = ("campaign_id", "subscription_groups", "draft")
PLAIN_LEVELS = 32  # brackets a body may have to be read the quick way; `api/http.py` counts levels
KNOWN_CONTENTS = 256  # contents remembered as good
KNOWN_BYTES = 16 * 1024  # of one of them
PLAIN_BYTES = 2 * 1024  # of a content that is checked on the event loop
ANSWER = '{"status":"success","message":"Added to queue for processing"}'


class SendJson(msgspec.Struct, frozen=True):
    """The body of `/1/send`. `to` has been checked by `check_to` or `read_plain`; `content` is JSON as it came."""

    to: dict[str, list[Any]]
    content: msgspec.Raw = msgspec.Raw(b"null")
    tag_group: str | None = None
    respect_frequency_caps: Annotated[bool, Meta(extra={"code": CODE_FREQUENCY_CAPS})] = True
    send_to_all_devices: bool = False
    on_crash: OnCrash = "report"
    track_opens: bool = True
    track_clicks: bool = True
    campaign_id: Any = None
    provider_nick_name: Any = None
    subscription_groups: Any = None
    draft: Any = None


class PlainSendJson(SendJson, frozen=True):
    # 256 letters are at most 1,024 bytes.
    to: dict[str, list[Annotated[str, Meta(min_length=1, max_length=256)]]]


_PLAIN = msgspec.json.Decoder(PlainSendJson)


def read_plain(raw: bytes) -> SendJson | None:
    """Return a body that is checked while it is decoded, when nothing is odd about it: a thousand names in 53 µs
    instead of 121, one in 2 instead of 7. None: `read_asked` decides, and finds the words for what is wrong."""
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


def read_asked(body: Mapping[str, Any]) -> SendJson:
    """Return a decoded body as a struct. Raise Problem 21 or 84 for `to`, 73 for respect_frequency_caps, 400."""
    check_to(body.get("to"))
    content = msgspec.Raw(msgspec.json.encode(body.get("content")))
    return read_struct({**body, "content": content}, SendJson)


async def accept(
    send_queue: SendQueue,
    account: Account,
    channel: str,
    asked: SendJson,
    now: float,
    settings: Settings,
    compile_pool: CompilePool,
) -> bool:
    """Queue one request, as `prepare` and `SendQueue.put` do together."""
    return await send_queue.put(await prepare(account, channel, asked, now, settings, compile_pool))


async def prepare(
    account: Account,
    channel: str,
    asked: SendJson,
    now: float,
    settings: Settings,
    compile_pool: CompilePool,
    key: IdempotencyKey | None = None,
    rate: SendRate | None = None,
    traceparent: str = "",
) -> QueuedSend:
    """Return one request as it is queued. Raise Problem with the documented codes: 400 for the content, 429. key: under
    which it is queued once. rate: the account's, of which several processes keep one count."""
    for field in NOT_YET:
        if getattr(asked, field):
            raise Problem(f"{field} is not supported yet, and leaving it out would send differently (at $.{field})")
    rules = settings.require_android_channel, bool(settings.public_url)
    content = await _check_content(_AskedContent(bytes(asked.content), channel, *rules), account.id, compile_pool)
    request = StoredRequest(
        to=asked.to,
        content=msgspec.Raw(content),
        send_to_all_devices=asked.send_to_all_devices,
        respect_frequency_caps=asked.respect_frequency_caps,
        track_opens=asked.track_opens,
        track_clicks=asked.track_clicks,
        traceparent=traceparent or msgspec.UNSET,
    )
    new = NewRequest(
        account_id=account.id,
        channel=channel,
        tag_group=read_tag(asked.tag_group),
        request=msgspec.json.encode(request).decode(),
        resend=asked.on_crash == "resend",
        expires_at=now + settings.message_hours * 3600,
        now=now,
    )
    return QueuedSend(new, key, rate, sum(map(len, asked.to.values())))


async def _check_content(asked: _AskedContent, account_id: str, compile_pool: CompilePool) -> bytes:
    """Return the content as it is kept. Templates are compiled and tried out by the pool, and remembered as good: most
    requests say the same. A short content without templates is checked at once, in less time than a thread takes."""
    raw = asked.raw
    if len(raw) > KNOWN_BYTES:
        return await compile_pool.run(account_id, asked.compile)
    if (known := _KNOWN.get(asked)) is None:
        if len(raw) <= PLAIN_BYTES and b"{{" not in raw and b"{%" not in raw and rb"\u00" not in raw:
            return asked.compile()
        known = await compile_pool.run(account_id, asked.compile)
        _KNOWN[asked] = known
        while len(_KNOWN) > KNOWN_CONTENTS:
            del _KNOWN[next(iter(_KNOWN))]
    return known


class _AskedContent(NamedTuple):
    """A content as it came, and what decides whether it is right."""

    raw: bytes
    channel: str
    require_channel: bool
    unsubscribe_link: bool

    def compile(self) -> bytes:
        """Return the content as it is kept. Raise Problem."""
        try:
            content = msgspec.json.decode(self.raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(f"Invalid JSON payload: {error}", code=78) from None
        read = read_content(
            content,
            self.channel,
            require_channel=self.require_channel,
            unsubscribe_link=self.unsubscribe_link,
        )
        return msgspec.json.encode(read)


_KNOWN: dict[_AskedContent, bytes] = {}


def read_tag(tag: str | None) -> str:
    """Return the tag group; "" for none, and for the name that those without one go by."""
    if tag is not None and len(tag.encode()) > TAG_BYTES:
        raise Problem(f"tag_group must be a text of at most {TAG_BYTES} bytes (at $.tag_group)")
    tag = (tag or "").strip()
    return "" if tag == NOT_TAGGED else tag


class StoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a `/1/send` chunk keeps of its request. content: `Content` as JSON. to: empty once its users are known.
    traceparent: of the span that accepted it; left out when it is not traced."""

    to: dict[str, list[Any]]
    content: msgspec.Raw
    send_to_all_devices: bool = False
    respect_frequency_caps: bool = True
    track_opens: bool = True
    track_clicks: bool = True
    traceparent: str | msgspec.UnsetType = msgspec.UNSET

    def without_names(self) -> str:
        """Return it as JSON that names nobody: the chunk has the users by then, and would keep them twice."""
        return msgspec.json.encode(msgspec.structs.replace(self, to={})).decode()
