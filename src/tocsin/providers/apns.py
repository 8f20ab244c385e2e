"""Apple Push Notification service: HTTP/2, one ES256 token for the whole provider."""

from __future__ import annotations

import math
import uuid
from hashlib import sha256
from typing import Annotated, ClassVar
from urllib.parse import quote
from weakref import WeakKeyDictionary

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Meta

from tocsin.channels import AddressKind, Platform
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.answer_table import (
    DENIED,
    GONE,
    REFUSED,
    SUSPECT,
    WRONG_TEMPLATE,
    AnswerRule,
    check_ca,
    check_endpoint,
    is_astray,
    judge_failure,
    judge_status,
    read_retry_after,
    throttled,
    unavailable,
    wrong_kind,
)
from tocsin.providers.contract import Address, HandOver, Message, Push, Receipt, Scope, unnoted
from tocsin.providers.es256 import sign_token
from tocsin.providers.payload import UnsendableError, make_apns_payload
from tocsin.providers.transport import HttpPost, PoolLimits, Transport, VendorAnswer

MINT_SECONDS = 35 * 60  # Apple: a new token no sooner than every 20 minutes, no later than every 60
CHURN_SECONDS = 20 * 60  # Apple: a second new token on a connection within this time is an offence
LAST_SECONDS = 55 * 60  # a token is kept so long at most: one of an hour is refused, and our clocks may differ
APPLE_WAIT = 900.0  # seconds: Apple: «After 15 minutes, you can retry» a 5xx
SOON_WAIT = 60.0  # seconds before a 5xx is tried again for a message that does not live for APPLE_WAIT
RECONNECT_WAIT = 1.0  # seconds, for a connection that went away
NO_DEVICE = "0" * 64  # a token that is well-formed, and nobody's


class ApnsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `tocsin provider set apns`."""

    key: Annotated[str, Meta(description="the signing key, the .p8 file from Apple", extra={"file": True})]
    key_id: Annotated[str, Meta(description="the key's 10 characters")]
    team_id: Annotated[str, Meta(description="the team's 10 characters")]
    topic: Annotated[str, Meta(description="the app's bundle id")]
    endpoint: Annotated[
        str, Meta(description="where APNs is; Apple's sandbox is https://api.sandbox.push.apple.com")
    ] = "https://api.push.apple.com"
    ca: Annotated[str, Meta(description="PEM file of the authorities to trust", extra={"file": True})] = ""
    timeout: Annotated[float, Meta(description="seconds to wait for an answer")] = 30.0

    def __repr__(self) -> str:
        return f"ApnsSettings(topic={self.topic!r}, endpoint={self.endpoint!r})"


_BROKEN = unavailable(APPLE_WAIT)
TABLE: dict[str, AnswerRule] = {
    "BadDeviceToken": SUSPECT,  # or the wrong environment
    "DeviceTokenNotForTopic": SUSPECT,  # or the wrong topic
    "TopicDisallowed": DENIED,
    "BadTopic": DENIED,
    "MissingTopic": DENIED,
    "BadCollapseId": WRONG_TEMPLATE,
    "BadExpirationDate": WRONG_TEMPLATE,
    "BadPriority": WRONG_TEMPLATE,
    "BadMessageId": WRONG_TEMPLATE,
    "InvalidPushType": WRONG_TEMPLATE,
    "DuplicateHeaders": WRONG_TEMPLATE,
    "PayloadEmpty": WRONG_TEMPLATE,
    "MissingDeviceToken": WRONG_TEMPLATE,
    "BadPath": WRONG_TEMPLATE,
    "MethodNotAllowed": WRONG_TEMPLATE,
    "IdleTimeout": unavailable(RECONNECT_WAIT),
    "BadCertificate": DENIED,
    "BadCertificateEnvironment": DENIED,
    "BadEnvironmentKeyIdInToken": DENIED,
    "ExpiredProviderToken": DENIED,
    "Forbidden": DENIED,
    "InvalidProviderToken": DENIED,
    "MissingProviderToken": DENIED,
    "UnrelatedKeyIdInToken": DENIED,
    "Unregistered": GONE,
    "ExpiredToken": GONE,
    "PayloadTooLarge": REFUSED,
    "TooManyRequests": throttled(60.0, Scope.DEVICE),
    "TooManyProviderTokenUpdates": throttled(60.0, Scope.LANE),
    "InternalServerError": _BROKEN,
    "ServiceUnavailable": _BROKEN,
    "Shutdown": unavailable(RECONNECT_WAIT, Scope.LANE),
}


class _ApnsBody(msgspec.Struct):
    reason: str = ""
    timestamp: float | None = None  # milliseconds: since when APNs knows that the device is gone


def receipt(answer: VendorAnswer, address: Address, left: float = math.inf) -> Receipt:
    """Return the receipt for APNs' answer. A 410 whose timestamp is older than the registration of `address` is
    `REFUSED`, not `GONE`: the token was registered again since. left: seconds that the message lives; with fewer than
    Apple's quarter of an hour it would never be tried again after a 5xx."""
    if answer.failure:
        return judge_failure(answer, RECONNECT_WAIT)
    if answer.status == 200:
        return Receipt(outcome=Outcome.ACCEPTED, vendor_id=answer.headers.get("apns-id", ""))
    body = _read_body(answer.body)
    code = f"{answer.status} {body.reason}".strip()
    verdict = TABLE.get(body.reason)
    wait = read_retry_after(answer)  # not documented for APNs, honoured where a proxy adds it
    if wait is None and left <= APPLE_WAIT and verdict in (_BROKEN, None):
        wait = SOON_WAIT
    if verdict is None and (answer.status in (401, 403, 404) or is_astray(answer.status)):
        # A proxy, or a reason newer than this table: every documented 403 is about the credential, and a 404
        # without BadPath is about the URL. Nothing is known about the device.
        return DENIED.receipt(code)
    if verdict is None:
        return judge_status(answer.status, code, "", APPLE_WAIT, wait)
    if answer.status == 410 and body.timestamp is not None and body.timestamp / 1000 < address.registered_at:
        return REFUSED.receipt(code, "the device registered again after APNs had last seen it gone")
    return verdict.receipt(code, retry_after=wait)


def _read_body(raw: bytes) -> _ApnsBody:
    try:
        return msgspec.json.decode(raw, type=_ApnsBody)
    except (msgspec.DecodeError, ValueError):
        return _ApnsBody()


def request(message: Push, body: bytes, origin: str, topic: str, token: str, timeout: float) -> HttpPost:
    """Return the POST for one message. body: its JSON. origin: `https://host[:port]`."""
    headers = (
        "authorization: bearer " + token,
        "apns-topic: " + topic,
        "apns-push-type: alert",
        "apns-priority: 10",
        f"apns-expiration: {int(message.expires_at)}",
        "apns-collapse-id: " + message.collapse,
        "apns-id: " + message.id,
        "content-type: application/json",
    )
    url = f"{origin}/3/device/{quote(message.address.value, safe='')}"
    return HttpPost(url=url, headers=headers, body=body, timeout=timeout)


class ApnsSigner:
    """The provider token of one key: Apple wants the same one on all connections, no second new one within 20 minutes
    and none older than an hour. `now` is epoch seconds.

    All sender processes make the same token without asking each other: it is issued at a multiple of 35 minutes, and
    signed without a random number (RFC 6979).
    """

    def __init__(self, settings: ApnsSettings) -> None:
        try:
            key = load_pem_private_key(settings.key.encode(), None)
        except ValueError:
            raise Misconfigured("key is not the .p8 file from Apple.") from None
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise Misconfigured("key is not an ES256 (P-256) key.")
        self._key = key
        self._key_id = settings.key_id
        self._team_id = settings.team_id
        self._token = ""
        self._issued = 0.0
        self._shown = 0.0  # since when it is used
        self._refused = False  # the token of this time: another one is made
        self._held = 0.0

    def __repr__(self) -> str:
        return f"ApnsSigner({self._key_id!r})"

    def token(self, now: float) -> str:
        """Return the current token; make a new one when it is 35 minutes old, and used for 20."""
        age = abs(now - self._issued)  # a clock set back makes a token from the future, which APNs refuses too
        old = age >= MINT_SECONDS and now - self._shown >= CHURN_SECONDS and now >= self._held
        if not self._token or old or age >= LAST_SECONDS:
            self._issued = now if self._refused else now // MINT_SECONDS * MINT_SECONDS
            self._token = self._sign(int(self._issued))
            self._shown, self._refused = now, False
        return self._token

    def _sign(self, issued: int) -> str:
        return sign_token({"iss": self._team_id, "iat": issued}, self._key, {"kid": self._key_id, "typ": None})

    def replace(self, token: str, now: float) -> bool:
        """Discard `token`, which APNs calls expired; return True when the message may be sent again with another. False
        when ours is younger than 20 minutes, or APNs has just had too many: then a clock is wrong, and another token
        would not help."""
        if token == self._token:
            if now - self._shown < CHURN_SECONDS or now < self._held:
                return False
            self._token, self._refused = "", True
        return True

    def hold(self, now: float) -> None:
        """Keep the token for 20 minutes: APNs has seen too many (`TooManyProviderTokenUpdates`)."""
        self._held = max(self._held, now + CHURN_SECONDS)


# The signers of a process, by its transport: accounts with the same key have to show the same token.
_SIGNERS: WeakKeyDictionary[Transport, dict[tuple[str, str, str, bytes], ApnsSigner]] = WeakKeyDictionary()
SIGNERS = 1000  # keys remembered for a transport; forgetting the oldest costs one new token


def share_signer(settings: ApnsSettings, origin: str, transport: Transport) -> ApnsSigner:
    """Return the one signer of a team, key and environment; it survives a change of the provider's settings."""
    known = _SIGNERS.setdefault(transport, {})
    # The key itself is part of the name: two accounts may claim the same ids, and only one of them have the key.
    name = (settings.team_id, settings.key_id, origin, sha256(settings.key.encode()).digest())
    signer = known.pop(name, None) or ApnsSigner(settings)
    known[name] = signer
    if len(known) > SIGNERS:
        del known[next(iter(known))]
    return signer


class Apns:
    """APNs for one team's key and one app."""

    name: ClassVar[str] = "apns"
    kind: ClassVar[AddressKind] = "apns"
    platform: ClassVar[Platform] = "ios"
    Settings: ClassVar[type[msgspec.Struct]] = ApnsSettings

    def __init__(self, settings: msgspec.Struct, transport: Transport) -> None:
        assert isinstance(settings, ApnsSettings)
        self._origin = check_endpoint("endpoint", settings.endpoint)
        self._topic = settings.topic
        self._timeout = settings.timeout
        self.signer = share_signer(settings, self._origin, transport)
        limits = PoolLimits(connections=1, streams=1000, in_flight=1000, idle=3600, fresh_dns=True)
        self._pool = transport.pool(ca=check_ca(settings.ca), limits=limits)

    def __repr__(self) -> str:
        return f"Apns({self._topic!r}, {self._origin!r})"

    def retire(self) -> None:
        """See `Provider.retire`."""
        self._pool.retire()

    @property
    def at_once(self) -> int:
        return self._pool.at_once

    async def send(self, message: Message, now: float, hand_over: HandOver = unnoted) -> Receipt:
        """Send one push; see `Provider.send`. A refusal that a new connection or token can cure is retried once."""
        if not isinstance(message, Push):
            return wrong_kind(self.name)
        try:
            body = make_apns_payload(message)
        except UnsendableError as error:
            return error.receipt
        for attempt in (1, 2):
            token = self.signer.token(now)
            generation = self._pool.generation
            answer = await self._pool.request(
                request(message, body, self._origin, self._topic, token, self._timeout), hand_over
            )
            came = receipt(answer, message.address, message.expires_at - now)
            if not self._recover(came.code, token, generation, now) or attempt == 2:
                break
        return came

    async def check(self, now: float) -> Receipt:
        """See `Provider.check`. APNs has no dry run; a made-up token is answered `BadDeviceToken`."""
        message = Push(
            id=str(uuid.uuid4()), collapse="check", address=Address("apns", NO_DEVICE), title="", body="-", expires_at=0
        )
        return await self.send(message, now)

    def _recover(self, code: str, token: str, generation: int, now: float) -> bool:
        """Renew token and connections after a refusal that is about them; return True when the message may be sent
        again at once."""
        if code == "403 ExpiredProviderToken":
            again = self.signer.replace(token, now)
        elif code in ("403 UnrelatedKeyIdInToken", "400 IdleTimeout"):
            again = True
        elif code == "429 TooManyProviderTokenUpdates":
            self.signer.hold(now)
            again = False
        elif code == "503 Shutdown":
            again = False
        else:
            return False
        # After any of these APNs refuses everything else on the connection.
        self._pool.renew(generation)
        return again
