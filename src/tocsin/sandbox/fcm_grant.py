"""Google's token endpoint for service accounts, and the access tokens it has issued.

Source: RFC 7523 (JWT bearer grant) and Google's «Using OAuth 2.0 for Server to Server Applications».
"""

from __future__ import annotations

import secrets
import time
from typing import Any
from urllib.parse import parse_qsl

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tocsin.sandbox.http import VendorReply, json_reply

LIFETIME = 3599
"""Seconds an access token is valid."""

SLACK = 300
"""Seconds that clocks may differ, and that an assertion may be longer than its hour."""

TOKENS_KEPT = 10_000

_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_GOOGLE_AUDIENCE = "https://oauth2.googleapis.com/token"
_SCOPE_PREFIX = "https://www.googleapis.com/auth/"
_SENDING_SCOPES = {_SCOPE_PREFIX + name for name in ("firebase.messaging", "cloud-platform")}
_SHORT_SCOPES = {"openid", "email", "profile"}


class Bearers:
    """Valid access tokens, the newest TOKENS_KEPT. Times are epoch seconds."""

    def __init__(self) -> None:
        self._expiry: dict[str, float] = {}

    def issue(self, now: float, lifetime: float = LIFETIME) -> str:
        """Return a new token, valid until `now` + `lifetime`."""
        token = secrets.token_urlsafe(48)
        self._expiry[token] = now + lifetime
        while len(self._expiry) > TOKENS_KEPT:
            del self._expiry[next(iter(self._expiry))]
        return token

    def forget(self) -> None:
        """Revoke every token."""
        self._expiry.clear()

    def valid(self, authorization: str | None, now: float) -> bool:
        """Return whether an `authorization` header has a valid token."""
        scheme, _, token = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and self._expiry.get(token.strip(), 0.0) > now


class FcmGrant:
    """Exchanges an assertion signed with the service account's key for an access token."""

    def __init__(self, key: RSAPublicKey, key_id: str, client_email: str, token_uri: str, bearers: Bearers) -> None:
        self._key = key
        self._key_id = key_id
        self._client_email = client_email
        self._audiences = {_GOOGLE_AUDIENCE, token_uri}
        self._bearers = bearers

    def answer(self, body: bytes) -> VendorReply:
        """Return the answer to a form sent to the token endpoint."""
        form = dict(parse_qsl(body.decode("latin-1"), keep_blank_values=True))
        if form.get("grant_type") != _GRANT:
            return _failure("unsupported_grant_type", "Invalid grant_type: " + form.get("grant_type", "")[:100])
        try:
            claims = jwt.decode(
                form.get("assertion", ""),
                self._key,
                algorithms=["RS256"],
                options={"verify_aud": False, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
            key_id = jwt.get_unverified_header(form["assertion"]).get("kid", self._key_id)
        except jwt.InvalidSignatureError:
            return _failure("invalid_grant", "Invalid JWT signature.")
        except jwt.PyJWTError as error:
            return _failure("invalid_grant", f"Invalid JWT: {error}")
        if key_id != self._key_id:
            return _failure("invalid_grant", "Invalid JWT signature: there is no key of this id.")
        return self._judge(claims, time.time())

    def _judge(self, claims: dict[str, Any], now: float) -> VendorReply:
        if claims.get("iss") != self._client_email:
            return _failure("invalid_grant", "Invalid grant: account not found")
        if claims.get("aud") not in self._audiences:
            return _failure("invalid_grant", "Invalid JWT: the audience is not this token endpoint.")
        scopes = str(claims.get("scope", "")).split()
        foreign = [one for one in scopes if one not in _SHORT_SCOPES and not one.startswith(_SCOPE_PREFIX)]
        if foreign or not scopes:
            return _failure("invalid_scope", f"Invalid OAuth scope or ID token audience provided: {foreign[:3]}")
        if not _SENDING_SCOPES & set(scopes):  # Google grants it, and FCM then refuses every message
            return _failure("invalid_scope", "None of the scopes may send: firebase.messaging or cloud-platform.")
        issued, expires = claims.get("iat"), claims.get("exp")
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            return _failure("invalid_grant", "Invalid JWT: iat and exp have to be numbers.")
        if issued > now + SLACK or expires < now - SLACK or expires > issued + 3600 + SLACK or expires <= issued:
            return _failure("invalid_grant", "Invalid JWT: iat and exp do not make an hour that includes now.")
        token = self._bearers.issue(now)
        return json_reply(200, {"access_token": token, "expires_in": LIFETIME, "token_type": "Bearer"})


def _failure(error: str, description: str) -> VendorReply:
    return json_reply(400, {"error": error, "error_description": description})
