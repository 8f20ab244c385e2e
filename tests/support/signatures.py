"""Keys to sign mails with, and another library that verifies them."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

import dkim
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey] = {
    "rsa": RSA_KEY,
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def pem_of(key: Any) -> str:
    """A private key as PEM."""
    made = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert isinstance(made, bytes)
    return made.decode()


def record_of(kind: str) -> bytes:
    """What the DNS says of a key."""
    public = KEYS[kind].public_key()
    if kind == "rsa":
        shown = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        shown = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"v=DKIM1; k={kind}; p={base64.b64encode(shown).decode()}".encode()


class _VerifyKey:
    """What dkimpy wants of PyNaCl, from `cryptography`."""

    def __init__(self, key: bytes, encoder: object) -> None:
        self._key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(key))

    def verify(self, content: bytes, signature: bytes) -> None:
        self._key.verify(signature, content)


NACL = SimpleNamespace(
    signing=SimpleNamespace(VerifyKey=_VerifyKey),
    encoding=SimpleNamespace(Base64Encoder=None),
    exceptions=SimpleNamespace(BadSignatureError=InvalidSignature, ValueError=ValueError),
)


def verify(raw: bytes, kind: str) -> bool:
    """What dkimpy says of a mail."""
    asked: list[bytes] = []

    def answer(name: bytes, timeout: float = 5) -> bytes:
        asked.append(name)
        return record_of(kind)

    result = dkim.verify(raw, dnsfunc=answer)
    assert asked == [b"s1._domainkey.example.com."]
    return bool(result)
