"""APNs provider tokens: their verification, and how often a connection may change its token.

Source: Apple, «Establishing a token-based connection to APNs».
"""

from __future__ import annotations

import base64

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

AGE_LIMIT = 3600
"""Seconds; an older token is ExpiredProviderToken."""

CHANGE_INTERVAL = 20 * 60
"""Seconds between two new tokens on one connection."""

SLACK = 60
"""Seconds the sender's clock may be ahead."""

TOKENS_KEPT = 1024

_NUMBER_BYTES = 32  # of r and of s, on P-256


class ProviderTokens:
    """Verifies tokens of one key and team. Signatures are cached, ages are not."""

    def __init__(self, key: EllipticCurvePublicKey, key_id: str, team_id: str) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._issued: dict[str, float | str] = {}

    def issued(self, token: str) -> float | str:
        """Return `iat` (epoch seconds) of a genuine token, else a sentence on what is wrong with it."""
        if token not in self._issued:
            if len(self._issued) >= TOKENS_KEPT:
                del self._issued[next(iter(self._issued))]
            self._issued[token] = self._verify(token)
        return self._issued[token]

    def _verify(self, token: str) -> float | str:
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(
                _with_plain_signature(token),
                self._key,
                algorithms=["ES256"],
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.InvalidSignatureError:
            return "the token is not signed with this sandbox's key"
        except jwt.PyJWTError as error:
            return f"the token is no JWT signed with ES256: {error}"
        if header.get("kid") != self._key_id:
            return f"the token's kid is {str(header.get('kid'))[:20]}, the key's id is {self._key_id}"
        if claims.get("iss") != self._team_id:
            return f"the token's iss is {str(claims.get('iss'))[:20]}, the team is {self._team_id}"
        issued = claims.get("iat")
        if not isinstance(issued, int) or isinstance(issued, bool):
            return "the token's iat is not a number of whole seconds"
        return float(issued)


def _with_plain_signature(token: str) -> str:
    """Return the token with a signature as RFC 7518 3.4 has it, 64 bytes. Java's SHA256withECDSA, and pushy with it,
    writes the same two numbers in ASN.1, 70 to 72 bytes; Apple takes both."""
    signed, _, signature = token.rpartition(".")
    try:
        raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
        if len(raw) == 2 * _NUMBER_BYTES:
            return token
        numbers = decode_dss_signature(raw)
        plain = b"".join(number.to_bytes(_NUMBER_BYTES, "big") for number in numbers)
    except (ValueError, OverflowError):
        return token
    return f"{signed}.{base64.urlsafe_b64encode(plain).decode().rstrip('=')}"


class TokenPolicy:
    """The provider token in use on one connection."""

    def __init__(self, tokens: ProviderTokens) -> None:
        self._tokens = tokens
        self._current = ""
        self._current_issued = 0.0
        self._changed: float | None = None

    def refusal(self, authorization: str | None, now: float) -> tuple[int, str, str] | None:
        """Return status, reason and a sentence that refuse an `authorization` header at `now` (epoch seconds), else
        None."""
        scheme, _, token = (authorization or "").partition(" ")
        if not token:
            return 403, "MissingProviderToken", "there is no authorization: bearer TOKEN"
        if scheme.lower() != "bearer":
            return 403, "InvalidProviderToken", f"authorization begins with {scheme[:20]}, not bearer"
        issued = self._tokens.issued(token)
        if isinstance(issued, str):
            return 403, "InvalidProviderToken", issued
        if issued > now + SLACK:
            return 403, "InvalidProviderToken", "the token's iat lies in the future"
        if issued < now - AGE_LIMIT:
            return 403, "ExpiredProviderToken", f"the token is {now - issued:.0f} seconds old, an hour is the most"
        if token == self._current:
            return None
        if self._current and not self._may_change(issued, now):
            return 429, "TooManyProviderTokenUpdates", "a connection may change its token once in 20 minutes"
        if self._current:
            self._changed = now
        self._current, self._current_issued = token, issued
        return None

    def _may_change(self, issued: float, now: float) -> bool:
        """Return whether both the issue times and the changes of the token lie CHANGE_INTERVAL apart."""
        if abs(issued - self._current_issued) < CHANGE_INTERVAL:
            return False
        return self._changed is None or now - self._changed >= CHANGE_INTERVAL
