"""A message encrypted for one browser: RFC 8291 in the one record of RFC 8188's `aes128gcm`. Pure, but for the random.

The steps are the RFCs'; ECDH, HKDF and AES-GCM are cryptography's.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CURVE = SECP256R1()
POINT_BYTES = 65  # of a public key: 4, then both coordinates
AUTH_BYTES = 16
SALT_BYTES = 16
RECORD_BYTES = 4096  # RFC 8291 4: a push service need not take more
HEADER_BYTES = SALT_BYTES + 4 + 1 + POINT_BYTES  # salt, record size, length of the key, the key
ROOM = RECORD_BYTES - HEADER_BYTES - 16 - 1  # for the text: without the tag of AES-GCM and the delimiter behind it


def encode_point(key: EllipticCurvePublicKey) -> bytes:
    """Return a public key as browsers write it: 65 bytes, uncompressed."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def encrypt(
    text: bytes, point: bytes, auth: bytes, key: EllipticCurvePrivateKey | None = None, salt: bytes = b""
) -> bytes:
    """Return the body of a push message that only one browser can read. point, auth: of its subscription (`p256dh`,
    `auth`). key, salt: new ones for each message, unless a test gives them. Raises ValueError for a point that is not
    on the curve, and for a text over ROOM bytes."""
    if len(text) > ROOM:
        raise ValueError(f"{len(text)} bytes, and a record has room for {ROOM}")
    browser = EllipticCurvePublicKey.from_encoded_point(CURVE, point)
    key = key or generate_private_key(CURVE)
    salt = salt or os.urandom(SALT_BYTES)
    own = encode_point(key.public_key())
    shared = key.exchange(ECDH(), browser)
    return seal(text, _derive(shared, auth, b"WebPush: info\0" + point + own, 32), salt, own)


def seal(text: bytes, secret: bytes, salt: bytes, key_id: bytes) -> bytes:
    """Return a text as the one record of RFC 8188's `aes128gcm`. key_id: tells the reader which secret it is."""
    content_key = _derive(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(secret, salt, b"Content-Encoding: nonce\0", 12)
    header = salt + RECORD_BYTES.to_bytes(4, "big") + bytes((len(key_id),)) + key_id
    return header + AESGCM(content_key).encrypt(nonce, text + b"\x02", None)  # 2 ends the last record


def _derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)
