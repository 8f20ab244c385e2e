"""Tokens signed with ES256. The signature of the same claims is the same, so that processes need not ask each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import ECAlgorithm
from jwt.api_jws import PyJWS
from jwt.utils import der_to_raw_signature


class _RepeatableES256(ECAlgorithm):
    """ES256 without a random number (RFC 6979)."""

    def sign(self, msg: bytes, key: EllipticCurvePrivateKey) -> bytes:
        signature = key.sign(msg, ECDSA(SHA256(), deterministic_signing=True))
        return der_to_raw_signature(signature, key.curve)


_SIGNATURES = PyJWS()
_SIGNATURES.unregister_algorithm("ES256")
_SIGNATURES.register_algorithm("ES256", _RepeatableES256(ECAlgorithm.SHA256))


def sign_token(claims: Mapping[str, Any], key: EllipticCurvePrivateKey, headers: Mapping[str, Any]) -> str:
    """Return a JWT of these claims. headers: beside `alg`; `typ` is JWT unless it is None here."""
    return _SIGNATURES.encode(msgspec.json.encode(claims), key, "ES256", headers=dict(headers))
