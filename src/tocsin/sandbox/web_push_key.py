"""The browser's side of a web push: subscriptions, and what only they can decrypt.

A subscription's keys are made from its name, so none is stored; its name says for which VAPID key it was made.

Sources: RFC 8188 (aes128gcm), RFC 8291 (keys of a message), RFC 8292 (the key a subscription is restricted to).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import re
import secrets
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HOSTS = {
    "firefox": "https://updates.push.services.mozilla.com/wpush/v2/",
    "chrome": "https://fcm.googleapis.com/fcm/send/",
    "safari": "https://web.push.apple.com/",
}
"""Where subscriptions of each browser are."""

NAME = re.compile(r"[A-Za-z0-9-]{1,64}\.([A-Za-z0-9_-]{16})")
LEAST_RECORD = 18
"""RFC 8188 2.1: a record size below this has no room for a byte."""

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256's group


class Unopened(Exception):  # noqa: N818 - what a browser says of a message, no failure of ours
    """The browser would drop this message; the sentence says why."""


class Keys(msgspec.Struct, frozen=True):
    """What a browser holds. point, auth: what it tells the site (`p256dh`, `auth`)."""

    private: ec.EllipticCurvePrivateKey
    point: bytes
    auth: bytes


def encode(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Return the bytes of base64url, padded or not. Raise ValueError for what is none."""
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)


def fingerprint(public_key: bytes) -> str:
    """Return what a subscription's name says of the VAPID key it was made for."""
    return encode(hashlib.sha256(public_key).digest()[:12])


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as 65 bytes."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


class Subscriptions:
    """All subscriptions of a sandbox. secret: their keys are made of it. public_key: the VAPID key that they are made
    for unless another is asked for."""

    def __init__(self, secret: bytes, public_key: bytes) -> None:
        self._secret = secret
        self._public_key = public_key
        self._find = functools.lru_cache(maxsize=4096)(self._make_keys)

    def make(self, browser: str = "firefox", marker: str = "", public_key: bytes = b"") -> dict[str, Any]:
        """Return a new subscription as `PushSubscription.toJSON()` does. marker: stands in its name, such as
        «expired»."""
        name = f"{marker}{secrets.token_hex(8)}.{fingerprint(public_key or self._public_key)}"
        keys = self.find(name)
        return {
            "endpoint": HOSTS[browser] + name,
            "expirationTime": None,
            "keys": {"p256dh": encode(keys.point), "auth": encode(keys.auth)},
        }

    def find(self, name: str) -> Keys:
        """Return the keys of a subscription."""
        return self._find(name)

    def _make_keys(self, name: str) -> Keys:
        digest = hmac.digest(self._secret, name.encode(), "sha512")
        private = ec.derive_private_key(int.from_bytes(digest[:40], "big") % (_ORDER - 1) + 1, ec.SECP256R1())
        return Keys(private, point_of(private.public_key()), digest[40:56])


def decrypt(body: bytes, keys: Keys) -> bytes:
    """Return the text of a push message, as the browser with these keys reads it. Raise Unopened."""
    sender = body[21 : 21 + body[20]] if len(body) > 20 else b""
    try:
        shared = keys.private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
    except ValueError:
        raise Unopened("the header's key is no point of P-256") from None
    return unseal(body, _expand(_extract(keys.auth, shared), b"WebPush: info\x00" + keys.point + sender, 32))


def unseal(body: bytes, secret: bytes) -> bytes:
    """Return the text of one record of RFC 8188's `aes128gcm`. Raise Unopened."""
    if len(body) < 21:
        raise Unopened("the body is shorter than a header of aes128gcm")
    salt, size, record = body[:16], int.from_bytes(body[16:20], "big"), body[21 + body[20] :]
    if size < LEAST_RECORD or len(record) > size:
        raise Unopened("a push message is one record, not longer than its header says")
    pseudorandom = _extract(salt, secret)
    content_key = _expand(pseudorandom, b"Content-Encoding: aes128gcm\x00", 16)
    nonce = _expand(pseudorandom, b"Content-Encoding: nonce\x00", 12)
    try:
        padded = AESGCM(content_key).decrypt(nonce, record, None)
    except InvalidTag:
        raise Unopened("the message is not encrypted for this subscription") from None
    text = padded.rstrip(b"\x00")
    if not text.endswith(b"\x02"):
        raise Unopened("the last record has to end with the delimiter 2, and padding behind it")
    return text[:-1]


def _extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt, secret, "sha256")


def _expand(key: bytes, info: bytes, length: int) -> bytes:
    """Return the first block of HKDF-Expand (RFC 5869), which is all that is needed here."""
    return hmac.digest(key, info + b"\x01", "sha256")[:length]
