"""Text messages and web push by a signed POST to a server that the operator or the account names: a gateway, or a few
lines of glue.

One message a request, over HTTP/1.1, signed as Standard Webhooks says: `webhook-signature` is `v1,` and the base64 of
HMAC-SHA256 over «id.timestamp.body». `webhook-id` is the same on every attempt at this recipient, so a receiver that
remembers it sends nothing twice.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from tocsin.channels import AddressKind, Platform
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.answer_table import (
    DENIED,
    GONE,
    REFUSED,
    SUSPECT,
    AnswerRule,
    check_ca,
    check_endpoint,
    clip,
    judge_failure,
    judge_status,
    read_retry_after,
    throttled,
    wrong_kind,
)
from tocsin.providers.contract import HandOver, Message, Notice, Receipt, Scope, unnoted
from tocsin.providers.public_address import is_allowed
from tocsin.providers.transport import HttpPost, PoolLimits, Transport, VendorAnswer
from tocsin.settings import hide_passwords

WAIT = 30.0  # seconds before a 5xx is tried again
TOO_FAST = 60.0  # after a 429 that names no time
LEAST_SECRET = 24  # bytes; Standard Webhooks: 24 to 64
MOST_SECRET = 64
SECRET_BYTES = 32  # of one that is made here
WEBPUSH_BYTES = 3072  # before encryption: push services must take 4,096 bytes encrypted (RFC 8030)


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `tocsin provider set sms` and `webpush`."""

    url: Annotated[str, Meta(description="where messages are posted; https, or http on this machine")]
    secret: Annotated[
        str,
        Meta(description="whsec_ and the base64 of 24 to 64 bytes to sign with", extra={"file": True}),
    ]
    ca: Annotated[str, Meta(description="PEM file of the authorities to trust", extra={"file": True})] = ""
    connections: Annotated[int, Meta(description="connections at one time", ge=1, le=200)] = 20
    timeout: Annotated[float, Meta(description="seconds to wait for an answer")] = 30.0
    network: Annotated[
        Literal["any", "public"],
        Meta(description="public: no address of the operator's own network is connected to; so a dashboard sets it"),
    ] = "any"

    def __repr__(self) -> str:
        return f"WebhookSettings(url={hide_passwords(self.url)!r})"


TABLE: dict[int, AnswerRule] = {
    400: REFUSED,
    401: DENIED,
    403: DENIED,
    405: DENIED,
    413: REFUSED,
    422: REFUSED,
    429: throttled(TOO_FAST, Scope.LANE),
}


def receipt(answer: VendorAnswer, kind: str) -> Receipt:
    """Return the receipt for the receiver's answer. 404 and 410 mean that a browser's subscription is over (RFC 8030);
    but a 404 is also what a wrong URL, or a receiver that is being replaced, says to everybody. Text messages have no
    such thing, so there both mean that the gateway's URL is wrong."""
    if answer.failure:
        return judge_failure(answer, WAIT)
    detail, code = clip(answer.body.decode("utf-8", "replace")), str(answer.status)
    if 200 <= answer.status < 300:
        return Receipt(outcome=Outcome.ACCEPTED, vendor_id=clip(answer.headers.get("webhook-message-id", "")))
    if answer.status in (404, 410):
        over = GONE if answer.status == 410 else SUSPECT
        return (over if kind == "webpush" else DENIED).receipt(code, detail)
    if 300 <= answer.status < 400:
        return DENIED.receipt(code, "the address redirects, which is not followed: set where it leads")
    wait = read_retry_after(answer)
    verdict = TABLE.get(answer.status)
    if verdict is None:
        return judge_status(answer.status, code, detail, WAIT, wait)
    return verdict.receipt(code, detail, wait)


def encode(message: Notice, now: float) -> bytes:
    """Return the body: {type, timestamp, data}. `data` has the ids, the address, the content and the expiry."""
    to: object = message.address.value
    if message.address.kind == "webpush" and message.address.value.startswith("{"):
        to = msgspec.Raw(message.address.value.encode())
    return msgspec.json.encode(
        {
            "type": f"message.{message.address.kind}",
            "timestamp": _iso(now),
            "data": {
                "id": message.id,
                "campaign": message.campaign,
                "push_id": message.push_id,
                "collapse_key": message.collapse,
                "expires_at": _iso(message.expires_at),
                "to": to,
                "content": message.content,
            },
        }
    )


def sign(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`."""
    digest = hmac.digest(secret, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def make_secret() -> str:
    """Return a new secret."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def read_secret(text: str) -> bytes:
    """Return the key of a `whsec_…`. Raises Misconfigured when it is no base64 of 24 to 64 bytes."""
    try:
        key = base64.b64decode(text.strip().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not LEAST_SECRET <= len(key) <= MOST_SECRET:
        raise Misconfigured(f"secret has to be whsec_ and the base64 of {LEAST_SECRET} to {MOST_SECRET} bytes.")
    return key


class Webhook:
    """A receiver of one kind of message."""

    name: ClassVar[str]
    kind: ClassVar[AddressKind]
    platform: ClassVar[Platform]
    Settings: ClassVar[type[msgspec.Struct]] = WebhookSettings

    def __init__(self, settings: msgspec.Struct, transport: Transport) -> None:
        assert isinstance(settings, WebhookSettings)
        self._url = check_endpoint("url", settings.url)
        self._secret = read_secret(settings.secret)
        self._timeout = settings.timeout
        count = settings.connections
        allows = functools.partial(is_allowed, networks=()) if settings.network == "public" else None
        limits = PoolLimits(connections=count, streams=1, in_flight=count, idle=60, allows=allows)
        self._pool = transport.pool(ca=check_ca(settings.ca), limits=limits)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({hide_passwords(self._url)!r})"

    def retire(self) -> None:
        """See `Provider.retire`."""
        self._pool.retire()

    @property
    def at_once(self) -> int:
        return self._pool.at_once

    async def send(self, message: Message, now: float, hand_over: HandOver = unnoted) -> Receipt:
        """Send one notice; see `Provider.send`."""
        if not isinstance(message, Notice) or message.address.kind != self.kind:
            return wrong_kind(self.name)
        if self.kind == "webpush" and (size := len(msgspec.json.encode(message.content))) > WEBPUSH_BYTES:
            return REFUSED.receipt("payload too large", f"{size} bytes, and browsers take {WEBPUSH_BYTES}")
        body, timestamp = encode(message, now), int(now)
        headers = (
            "Content-Type: application/json",
            f"webhook-id: {message.id}",
            f"webhook-timestamp: {timestamp}",
            f"webhook-signature: {sign(self._secret, message.id, timestamp, body)}",
        )
        request = HttpPost(url=self._url, headers=headers, body=body, version="1.1", timeout=self._timeout)
        return receipt(await self._pool.request(request, hand_over), self.kind)

    async def check(self, now: float) -> Receipt:
        """See `Provider.check`: a receiver has nothing that could be asked."""
        return Receipt(outcome=Outcome.UNKNOWN, code="not asked")


class Sms(Webhook):
    """Text messages."""

    name: ClassVar[str] = "sms"
    kind: ClassVar[AddressKind] = "sms"
    platform: ClassVar[Platform] = "sms"


class Webpush(Webhook):
    """Messages for browsers."""

    name: ClassVar[str] = "webpush"
    kind: ClassVar[AddressKind] = "webpush"
    platform: ClassVar[Platform] = "webpush"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")
