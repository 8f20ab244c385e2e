"""VAPID (RFC 8292): the key an account signs with, and the tokens that show it to the push services."""

from __future__ import annotations

import base64
import binascii

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tocsin.errors import Misconfigured
from tocsin.providers.aes128gcm import CURVE, encode_point
from tocsin.providers.es256 import sign_token

# A token ends at a multiple of so many seconds, at least as many and at most twice as many from now: RFC 8292 allows 24
# hours, and clocks differ. All processes make the same one.
TOKEN_SECONDS = 6 * 3600
ORIGINS = 1000  # whose tokens are kept; forgetting the oldest costs one signature
KEY_BYTES = 32


def decode_base64url(text: str) -> bytes:
    """Return the bytes of base64url (or base64), padded or not; b"" for what is none."""
    plain = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def encode_base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def make_key() -> str:
    """Return a new private key as `read_key` reads it."""
    number = generate_private_key(CURVE).private_numbers().private_value
    return encode_base64url(number.to_bytes(KEY_BYTES, "big"))


def read_key(option: str, text: str) -> EllipticCurvePrivateKey:
    """Return a private key: PEM, or the base64url of 32 bytes, as `web-push generate-vapid-keys` writes it. Raises
    Misconfigured for anything else."""
    if "-----BEGIN" not in text:
        number = int.from_bytes(decode_base64url(text), "big")
        try:
            return derive_private_key(number, CURVE)
        except ValueError:
            raise Misconfigured(f"{option} has to be a PEM file, or the base64url of {KEY_BYTES} bytes.") from None
    try:
        key = load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError):  # TypeError: it has a password
        raise Misconfigured(f"{option} is not a private key in PEM.") from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise Misconfigured(f"{option} is not a P-256 key.")
    return key


def describe_key(key: EllipticCurvePrivateKey) -> str:
    """Return the public key as a site needs it: the `applicationServerKey`."""
    return encode_base64url(encode_point(key.public_key()))


class VapidSigner:
    """Makes the `Authorization` of requests to push services, one token for all requests to an origin. subject: a
    mailto: or https: URL at which a push service can reach the operator."""

    def __init__(self, key: EllipticCurvePrivateKey, subject: str) -> None:
        self._key = key
        self._subject = subject
        self.public_key = describe_key(key)
        self._kept: dict[str, tuple[int, str]] = {}  # by origin: when the token ends, the header

    def __repr__(self) -> str:
        return f"VapidSigner({self.public_key!r})"

    def authorize(self, origin: str, now: float) -> str:
        """Return the header's value for an origin (`https://host`). now: epoch seconds."""
        end = (int(now) // TOKEN_SECONDS + 2) * TOKEN_SECONDS
        kept = self._kept.get(origin)
        if kept is not None and kept[0] == end:
            return kept[1]
        token = sign_token({"aud": origin, "exp": end, "sub": self._subject}, self._key, {})
        self._kept.pop(origin, None)
        if len(self._kept) >= ORIGINS:
            del self._kept[next(iter(self._kept))]
        value = f"vapid t={token}, k={self.public_key}"
        self._kept[origin] = end, value
        return value
