"""A push service of browsers: `POST` to a subscription's endpoint over HTTP/2 or HTTP/1.1, signed by VAPID.

What a real one cannot see it looks at as well: it has the browser's keys, decrypts the message, and refuses one that no
browser could read. A subscription's name selects the answer: `expired` gets 410, `notfound` 404, `throttled` 429.

Sources: RFC 8030 (5: TTL, Urgency, Topic), RFC 8188, RFC 8291, RFC 8292; autopush's documentation, «Error Codes».
"""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from tocsin.sandbox.accepted import Accepted
from tocsin.sandbox.faults import Fault
from tocsin.sandbox.http import Head, VendorReply, VendorRequest, json_reply
from tocsin.sandbox.vendor import Ruling
from tocsin.sandbox.web_push_key import NAME, Subscriptions, Unopened, decode, decrypt, fingerprint

BODY_LIMIT = 4096
"""Bytes of an encrypted message; a push service must take so many (RFC 8030 7.2) and browsers' take no more."""

TOKEN_SECONDS = 24 * 3600
"""RFC 8292 2: how far a token's `exp` may lie ahead."""

SLACK = 60
"""Seconds the sender's clock may be ahead."""

TOKENS_KEPT = 1024
STREAMS = 100

_MARKED = (
    ("expired", 410, 106, "The subscription is over."),
    ("notfound", 404, 102, "There is no such subscription."),
    ("throttled", 429, 201, "Too many messages to this subscription."),
)
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_URGENCY = re.compile(r"very-low|low|normal|high")
_TTL = re.compile(r"\d{1,10}")
_VAPID = re.compile(r"vapid\s+(.+)", re.IGNORECASE)


class _RefusedPush(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, errno: int, sentence: str) -> None:
        super().__init__(sentence)
        self.reply = _error(status, errno, sentence)


class WebPushRules:
    """The rules of a push service; they have no state of a connection. origin: its own, `https://127.0.0.1:PORT`."""

    def __init__(self, subscriptions: Subscriptions, origin: str) -> None:
        self.streams = STREAMS
        self._subscriptions = subscriptions
        self._origin = origin
        self._verified: dict[str, dict[str, object]] = {}

    def is_message(self, head: Head) -> bool:
        """See VendorRules."""
        return head.method == "POST" and _name(head) is not None

    def is_grant(self, head: Head) -> bool:
        """See VendorRules. There are no access tokens."""
        return False

    def goaway_data(self, fault: Fault) -> bytes:
        """See VendorRules."""
        return b""

    def failure(self, fault: Fault, head: Head) -> VendorReply:
        """See VendorRules. `code` is the sentence."""
        wait = () if fault.retry_after is None else (("retry-after", str(fault.retry_after)),)
        return _error(fault.status or 500, 999, fault.code or "Refused by a fault script.", wait)

    def judge(self, request: VendorRequest) -> Ruling:
        """See VendorRules."""
        head, name = request.head, _name(request.head)
        if name is None:
            return Ruling(_error(404, 102, "There is no such subscription."))
        if head.method != "POST":
            return Ruling(_error(405, 999, "A message is sent with POST."))
        try:
            endpoint = head.header("x-tocsin-endpoint") or _endpoint(head, self._origin)
            self._check_authorization(head, name, endpoint)
            self._check_headers(head)
            return self._accept(request, name, endpoint)
        except _RefusedPush as refused:
            return Ruling(refused.reply)

    def _accept(self, request: VendorRequest, name: str, endpoint: str) -> Ruling:
        """Return the ruling on a message whose headers are right."""
        head = request.head
        if len(request.body) > BODY_LIMIT:
            raise _RefusedPush(413, 104, f"The message is over {BODY_LIMIT} bytes.")
        for marker, status, errno, sentence in _MARKED:
            if marker in name:
                wait = (("retry-after", "60"),) if status == 429 else ()
                return Ruling(_error(status, errno, sentence, wait))
        text = b""
        if request.body:
            if head.header("content-encoding") != "aes128gcm":
                raise _RefusedPush(400, 110, "The Content-Encoding has to be aes128gcm.")
            try:
                text = decrypt(request.body, self._subscriptions.find(name))
            except Unopened as undecryptable:
                raise _RefusedPush(400, 110, f"No browser could read it: {undecryptable}.") from None
        message = Accepted(endpoint, _campaign(text) or head.header("topic") or "", head.public_headers(), _body(text))
        place = (("location", f"{self._origin}/m/{name.partition('.')[0]}"), ("ttl", head.header("ttl") or "0"))
        return Ruling(VendorReply(201, place), message)

    def _check_headers(self, head: Head) -> None:
        if not _TTL.fullmatch(head.header("ttl") or ""):
            raise _RefusedPush(400, 111, "TTL is missing or no number of seconds.")
        topic, urgency = head.header("topic"), head.header("urgency")
        if topic is not None and not _TOPIC.fullmatch(topic):
            raise _RefusedPush(400, 113, "Topic has to be at most 32 letters of base64url.")
        if urgency is not None and not _URGENCY.fullmatch(urgency):
            raise _RefusedPush(400, 999, "Urgency has to be very-low, low, normal or high.")

    def _check_authorization(self, head: Head, name: str, endpoint: str) -> None:
        """Raise _RefusedPush unless the request shows the VAPID key that the subscription was made for, see RFC 8292
        4.2."""
        found = _VAPID.fullmatch(head.header("authorization") or "")
        given = dict(part.strip().partition("=")[::2] for part in found[1].split(",")) if found else {}
        token, key = given.get("t", ""), given.get("k", "")
        if not token or not key:
            raise _RefusedPush(401, 109, "The Authorization has to be vapid t=TOKEN, k=KEY.")
        claims = self._verify(token, key)
        now, end, parts = time.time(), claims.get("exp"), urlsplit(endpoint)
        if claims.get("aud") != f"{parts.scheme}://{parts.netloc}":
            raise _RefusedPush(401, 109, f"The token's aud is {str(claims.get('aud'))[:60]}, the origin is another.")
        if not isinstance(end, int | float) or not now < end <= now + TOKEN_SECONDS + SLACK:
            raise _RefusedPush(401, 109, "The token's exp is over, or more than 24 hours ahead.")
        if not str(claims.get("sub", "")).startswith(("mailto:", "https:")):
            raise _RefusedPush(403, 109, "The token's sub has to be a mailto: or https: URL.")
        if fingerprint(decode(key)) != name.partition(".")[2]:
            raise _RefusedPush(403, 109, "VAPID public key mismatch: the subscription was made for another key.")

    def _verify(self, token: str, key: str) -> dict[str, object]:
        """Return the claims of a token that is signed with `key`; those of one that was verified before are known."""
        kept = self._verified.get(f"{token} {key}")
        if kept is not None:
            return kept
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decode(key))
        except ValueError:
            raise _RefusedPush(401, 109, "k is no point of P-256.") from None
        try:
            claims: dict[str, object] = jwt.decode(
                token,
                public,
                algorithms=["ES256"],
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.PyJWTError as error:
            raise _RefusedPush(401, 109, f"The token is no JWT signed with k by ES256: {error}.") from None
        if len(self._verified) >= TOKENS_KEPT:
            del self._verified[next(iter(self._verified))]
        self._verified[f"{token} {key}"] = claims
        return claims


def _name(head: Head) -> str | None:
    """Return the name of the subscription that a request is for: the last part of its path."""
    last = head.target.rpartition("/")[2]
    return last if NAME.fullmatch(last) else None


def _endpoint(head: Head, origin: str) -> str:
    """Return the URL of a request that was not pointed here: by a proxy, or as it stands."""
    host = head.authority or head.header("host")
    return (f"https://{host}" if host else origin) + head.target


def _campaign(text: bytes) -> str:
    """Return the `wzrk_id` in a message, "" when it has none."""
    try:
        return str(msgspec.json.decode(text)["notificationOptions"]["data"]["wzrk_id"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""


def _body(text: bytes) -> msgspec.Raw | str:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text.decode("utf-8", "replace")
    return msgspec.Raw(text)


def _error(status: int, errno: int, sentence: str, headers: tuple[tuple[str, str], ...] = ()) -> VendorReply:
    """Return an error in autopush's form."""
    return json_reply(status, {"code": status, "errno": errno, "error": sentence}, headers)
