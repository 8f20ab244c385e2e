"""APNs provider tokens: their verification, and how often a connection may change its token.

Source: Apple, «Establishing a token-based connection to APNs».
"""

from __future__ import annotations

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

AGE_LIMIT = 3600
"""Seconds; an older token is ExpiredProviderToken."""

CHANGE_INTERVAL = 20 * 60
"""Seconds between two new tokens on one connection."""

SLACK = 60
"""Seconds the sender's clock may be ahead."""

TOKENS_KEPT = 1024


class ProviderTokens:
    """Verifies tokens of one key and team. Signatures are cached, ages are not."""

    def __init__(self, key: EllipticCurvePublicKey, key_id: str, team_id: str) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._issued: dict[str, float | None] = {}

    def issued(self, token: str) -> float | None:
        """Return `iat` (epoch seconds) of a genuine token, else None."""
        if token not in self._issued:
            if len(self._issued) >= TOKENS_KEPT:
                del self._issued[next(iter(self._issued))]
            self._issued[token] = self._verify(token)
        return self._issued[token]

    def _verify(self, token: str) -> float | None:
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["ES256"],
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.PyJWTError:
            return None
        issued = claims.get("iat")
        if header.get("kid") != self._key_id or claims.get("iss") != self._team_id:
            return None
        return float(issued) if isinstance(issued, int) and not isinstance(issued, bool) else None


class TokenPolicy:
    """The provider token in use on one connection."""

    def __init__(self, tokens: ProviderTokens) -> None:
        self._tokens = tokens
        self._current = ""
        self._current_issued = 0.0
        self._changed: float | None = None

    def refusal(self, authorization: str | None, now: float) -> tuple[int, str] | None:
        """Return status and reason that refuse an `authorization` header at `now` (epoch seconds), else None."""
        scheme, _, token = (authorization or "").partition(" ")
        if not token:
            return 403, "MissingProviderToken"
        if scheme.lower() != "bearer":
            return 403, "InvalidProviderToken"
        issued = self._tokens.issued(token)
        if issued is None or issued > now + SLACK:
            return 403, "InvalidProviderToken"
        if issued < now - AGE_LIMIT:
            return 403, "ExpiredProviderToken"
        if token == self._current:
            return None
        if self._current and not self._may_change(issued, now):
            return 429, "TooManyProviderTokenUpdates"
        if self._current:
            self._changed = now
        self._current, self._current_issued = token, issued
        return None

    def _may_change(self, issued: float, now: float) -> bool:
        """Return whether both the issue times and the changes of the token lie CHANGE_INTERVAL apart."""
        if abs(issued - self._current_issued) < CHANGE_INTERVAL:
            return False
        return self._changed is None or now - self._changed >= CHANGE_INTERVAL
