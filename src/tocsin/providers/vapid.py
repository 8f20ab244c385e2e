"""Web push, straight to the browsers' push services: RFC 8030, encrypted for each browser, signed by VAPID.

One credential speaks to several push services, and whoever uploads a subscription chooses which. So nothing that one of
them answers is about all: it is about a browser, or weighed as a suspect.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import structlog
from msgspec import Meta

from tocsin.channels import AddressKind, Platform
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.aes128gcm import encrypt
from tocsin.providers.answer_table import (
    GONE,
    REFUSED,
    SUSPECT,
    AnswerRule,
    check_ca,
    check_endpoint,
    clip,
    judge_failure,
    judge_status,
    move_to,
    read_retry_after,
    throttled,
    unavailable,
    wrong_kind,
)
from tocsin.providers.contract import Address, HandOver, Message, Notice, Receipt, Scope, unnoted
from tocsin.providers.outage import Outages
from tocsin.providers.payload import UnsendableError
from tocsin.providers.transport import HttpPost, PoolLimits, Transport, VendorAnswer
from tocsin.providers.vapid_key import VapidSigner, describe_key, read_key
from tocsin.providers.web_push import (
    DEFAULT_URGENCY,
    PUSH_HOSTS,
    Subscription,
    find_browser,
    make_payload,
    make_topic,
    pick_block,
    read_subscription,
    read_ttl,
)

log = structlog.get_logger()

WAIT = 30.0  # seconds before a 5xx is tried again
TOO_FAST = 60.0  # after a 429 that names no time
WNS_TOO_FAST = 600.0  # a 406 is how Edge's push service says 429
_MADE = {"made": True}  # by the commands; no option


class VapidSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `tocsin provider set vapid`."""

    key: Annotated[
        str, Meta(description="the private key: PEM, or the base64url of its 32 bytes", extra={"file": True})
    ]
    subject: Annotated[str, Meta(description="where push services reach you: mailto:ops@example.com, or an https URL")]
    hosts: Annotated[
        str, Meta(description="push services that may be written to, with commas; *.name is every host below it")
    ] = ",".join(PUSH_HOSTS)
    endpoint: Annotated[
        str, Meta(description="where to post instead of the push services, with theirs as X-Tocsin-Endpoint")
    ] = ""
    ca: Annotated[str, Meta(description="PEM file of the authorities to trust", extra={"file": True})] = ""
    timeout: Annotated[float, Meta(description="seconds to wait for an answer")] = 30.0
    previous: Annotated[str, Meta(description="the private key before this one", extra=_MADE)] = ""
    rotated_at: Annotated[float, Meta(description="when it was replaced, epoch seconds", extra=_MADE)] = 0.0
    public_key: Annotated[str, Meta(description="the public keys, the newest first", extra=_MADE)] = ""

    def __repr__(self) -> str:
        return f"VapidSettings(public_key={self.public_key!r}, endpoint={self.endpoint!r})"


# RFC 8030 7.2 and 7.3; mozilla-services.github.io/autopush-rs/errors.html; Apple, «Sending web push notifications in
# web apps and browsers»; Microsoft, «Push notification service request and response headers» (for Edge).
TABLE: dict[int, AnswerRule] = {
    400: REFUSED,
    401: SUSPECT,  # Mozilla: the subscription is another key's («VAPID public key mismatch»), or our token is wrong
    403: SUSPECT,  # Google and Apple say it so
    404: SUSPECT,  # the subscription is over; a proxy says it to everybody
    406: throttled(WNS_TOO_FAST, Scope.DEVICE),
    410: GONE,
    413: REFUSED,
    429: throttled(TOO_FAST, Scope.DEVICE),
}
OTHER_KEY = (401, 403)  # what a subscription of the previous key is answered


class _Reason(msgspec.Struct):
    """What Apple and Mozilla write in an error's body."""

    reason: str = ""
    errno: int = 0


def receipt(answer: VendorAnswer) -> Receipt:
    """Return the receipt for a push service's answer."""
    if answer.failure:
        return judge_failure(answer, WAIT)
    if 200 <= answer.status < 300:
        return Receipt(outcome=Outcome.ACCEPTED, vendor_id=clip(answer.headers.get("location", "").rpartition("/")[2]))
    try:
        told = msgspec.json.decode(answer.body, type=_Reason)
    except (msgspec.DecodeError, ValueError):
        told = _Reason()
    code = clip(f"{answer.status} {told.reason or told.errno or ''}".strip())
    detail, wait = clip(answer.body.decode("utf-8", "replace")), read_retry_after(answer)
    verdict = SUSPECT if told.reason == "VapidPkHashMismatch" else TABLE.get(answer.status)  # Apple: a 400
    if verdict is None and answer.status >= 500:
        verdict = unavailable(WAIT)
    if verdict is None:
        return judge_status(answer.status, code, detail, WAIT, wait)
    return verdict.receipt(code, detail, wait)


def request(
    message: Notice, target: Subscription, now: float, authorization: str, timeout: float, endpoint: str = ""
) -> HttpPost:
    """Return the POST of one message. endpoint: the operator's own, for all of them. Raises UnsendableError."""
    block = pick_block(message, find_browser(target.host))
    try:
        body = encrypt(make_payload(message, block), target.point, target.auth)
    except ValueError:
        raise UnsendableError("no keys", "the subscription's p256dh is no point of P-256") from None
    headers = (
        "Authorization: " + authorization,
        "Content-Type: application/octet-stream",
        "Content-Encoding: aes128gcm",
        f"TTL: {read_ttl(block, message, now)}",
        f"Urgency: {block.get('urgency', DEFAULT_URGENCY)}",
        "Topic: " + make_topic(message.collapse),
        *(("X-Tocsin-Endpoint: " + target.endpoint,) if endpoint else ()),
    )
    url = move_to(endpoint, target.endpoint) if endpoint else target.endpoint
    return HttpPost(url=url, headers=headers, body=body, timeout=timeout)


class Vapid:
    """The push services of browsers, for one key."""

    name: ClassVar[str] = "vapid"
    kind: ClassVar[AddressKind] = "webpush"
    platform: ClassVar[Platform] = "webpush"
    Settings: ClassVar[type[msgspec.Struct]] = VapidSettings

    def __init__(self, settings: msgspec.Struct, transport: Transport) -> None:
        assert isinstance(settings, VapidSettings)
        if not settings.subject.startswith(("mailto:", "https://")) or not settings.subject.isascii():
            raise Misconfigured("subject has to be a mailto: or https: URL; Apple refuses others.")
        self._endpoint = check_endpoint("endpoint", settings.endpoint) if settings.endpoint else ""
        self._hosts = read_hosts(settings.hosts)
        self._timeout = settings.timeout
        self._signer = VapidSigner(read_key("key", settings.key), settings.subject)
        self._previous: VapidSigner | None = None
        if settings.previous:
            self._previous = VapidSigner(read_key("previous", settings.previous), settings.subject)
        self._rotated_at = settings.rotated_at
        self._outages = Outages(WAIT)
        self._pool = transport.pool(ca=check_ca(settings.ca), limits=PoolLimits(connections=4, streams=100))

    def __repr__(self) -> str:
        return f"Vapid({self._signer.public_key!r}, {self._endpoint!r})"

    def retire(self) -> None:
        """See `Provider.retire`."""
        self._pool.retire()

    @property
    def at_once(self) -> int:
        return self._pool.at_once

    async def send(self, message: Message, now: float, hand_over: HandOver = unnoted) -> Receipt:
        """Send one notice; see `Provider.send`. A subscription at a host that is not named is refused and never
        called. One that the first key does not open is tried once with the other."""
        if not isinstance(message, Notice) or message.address.kind != self.kind:
            return wrong_kind(self.name)
        try:
            target = read_subscription(message.address.value, self._hosts)
        except UnsendableError as error:
            return error.receipt
        if resting := self._outages.find(target.host, now):
            return resting
        for signer in self._pick_signers(message.address):
            try:
                posted = request(
                    *(message, target, now, signer.authorize(target.origin, now)), self._timeout, self._endpoint
                )
            except UnsendableError as error:
                return error.receipt
            answer = await self._pool.request(posted, hand_over)
            if answer.failure or answer.status not in OTHER_KEY:
                break
        if 300 <= answer.status < 400:
            log.error("a push service redirects us: never followed", host=target.host, status=answer.status)
        return self._outages.weigh(target.host, receipt(answer), now)

    async def check(self, now: float) -> Receipt:
        """See `Provider.check`: no push service knows a key before a browser subscribed with it."""
        return Receipt(outcome=Outcome.ACCEPTED)

    def _pick_signers(self, address: Address) -> list[VapidSigner]:
        """Return the keys to try in their order: a browser that registered before the key was replaced has the one
        before."""
        if self._previous is None:
            return [self._signer]
        both = [self._signer, self._previous]
        return both if address.registered_at >= self._rotated_at else both[::-1]


def read_hosts(text: str) -> tuple[str, ...]:
    """Return the hosts of a list with commas. Raises Misconfigured for a list that would let everything through."""
    hosts = tuple(one.strip().lower() for one in text.split(",") if one.strip())
    if not hosts or any("." not in one.removeprefix("*.") or "/" in one or ":" in one for one in hosts):
        raise Misconfigured("hosts has to be names such as push.example.com or *.push.example.com, with commas.")
    return hosts


def complete(settings: VapidSettings) -> VapidSettings:
    """Return the settings with their public keys, which pages are told without the key of the ledger."""
    keys = [read_key("key", settings.key)]
    if settings.previous:
        keys.append(read_key("previous", settings.previous))
    return msgspec.structs.replace(settings, public_key=" ".join(map(describe_key, keys)))
