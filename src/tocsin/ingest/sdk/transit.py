"""Encryption in transit, which an app may ask for: AES-256-GCM, with the key beside the data. It hides nothing from us
and proves nothing; TLS is what protects. Pure."""

from __future__ import annotations

import base64
import binascii
import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES, IV_BYTES = 32, 12


class SealedBody(msgspec.Struct):
    """A body as it comes: ciphertext with its tag, key and IV, each in base64."""

    itp: str
    itk: str
    itv: str


class Undecryptable(Exception):  # noqa: N818 - an answer: the SDK goes on in clear text
    """What is encrypted otherwise than the SDKs do it."""


_sealed = msgspec.json.Decoder(SealedBody)


def unseal(body: bytes) -> tuple[bytes, bytes]:
    """Return the text of an encrypted body, and the key that its answer may be encrypted with. Raise Undecryptable."""
    try:
        sealed = _sealed.decode(body)
        text, key, iv = (base64.b64decode(one, validate=True) for one in (sealed.itp, sealed.itk, sealed.itv))
        if len(key) != KEY_BYTES or len(iv) != IV_BYTES:
            raise Undecryptable
        return AESGCM(key).decrypt(iv, text, None), key
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError, InvalidTag):
        raise Undecryptable from None


def seal(text: bytes, key: bytes) -> bytes:
    """Return an answer, encrypted as the SDKs read it."""
    iv = os.urandom(IV_BYTES)
    parts = {"itp": AESGCM(key).encrypt(iv, text, None), "itv": iv}
    return msgspec.json.encode({name: base64.b64encode(part).decode() for name, part in parts.items()})
