"""Microsoft's two token endpoints for WNS: Entra (`/oauth2/v2.0/token`) and live.com (`/accesstoken.srf`).

Source: Microsoft Learn, «Push notifications in the Windows App SDK» and «WNS request and response headers».
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
import uuid
from urllib.parse import parse_qsl

from tocsin.sandbox.credentials import Credentials
from tocsin.sandbox.http import Head, VendorReply, VendorRequest, json_reply

LIFETIME = 86_399
"""Seconds an access token is valid."""

TOKENS_KEPT = 10_000

ENTRA_PATH = "/oauth2/v2.0/token"
LEGACY_PATH = "/accesstoken.srf"

_ENTRA = re.compile(r"(/[^/?]+)?/oauth2/v2\.0/token")
_ENTRA_SCOPES = ("https://wns.windows.com/.default", "https://wns.windows.com/.default/")
_LEGACY_SCOPE = "notify.windows.com"


class WnsGrant:
    """Issues access tokens for a client id and secret, and keeps the newest TOKENS_KEPT."""

    def __init__(self, credentials: Credentials) -> None:
        self._client_id = credentials.wns_client_id
        self._package_sid = credentials.wns_package_sid
        self._secret = credentials.wns_client_secret
        self._expiry: dict[str, float] = {}

    def serves(self, head: Head) -> bool:
        """Return whether the request is for a token."""
        return head.target == LEGACY_PATH or _ENTRA.fullmatch(head.target) is not None

    def forget(self) -> None:
        """Revoke every token."""
        self._expiry.clear()

    def valid(self, authorization: str | None, now: float) -> bool:
        """Return whether an `authorization` header has a token that is valid at `now` (epoch seconds)."""
        scheme, _, token = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and self._expiry.get(token.strip(), 0.0) > now

    def answer(self, request: VendorRequest) -> VendorReply:
        """Return the answer to a form sent to either endpoint."""
        legacy = request.head.target == LEGACY_PATH
        if request.head.method != "POST":
            return VendorReply(405)
        form = dict(parse_qsl(request.body.decode("latin-1"), keep_blank_values=True))
        if form.get("grant_type") != "client_credentials":
            return _failure(400, "unsupported_grant_type", "The grant_type has to be client_credentials.")
        # live.com identifies an app by its Package SID, Entra by its application id.
        client_id = self._package_sid if legacy else self._client_id
        same_secret = hmac.compare_digest(form.get("client_secret", "").encode(), self._secret.encode())
        if form.get("client_id") != client_id or not same_secret:
            return _failure(400 if legacy else 401, "invalid_client", "The client id or its secret is wrong.")
        if form.get("scope") not in ((_LEGACY_SCOPE,) if legacy else _ENTRA_SCOPES):
            return _failure(400, "invalid_scope", "The scope is not that of WNS.")
        token = self._issue(time.time())
        # Entra's numbers may come as strings; the legacy endpoint's do not.
        expires: object = 86_400 if legacy else str(LIFETIME)
        return json_reply(200, {"access_token": token, "expires_in": expires, "token_type": "bearer"})

    def _issue(self, now: float) -> str:
        token = secrets.token_urlsafe(48)
        self._expiry[token] = now + LIFETIME
        while len(self._expiry) > TOKENS_KEPT:
            del self._expiry[next(iter(self._expiry))]
        return token


def _failure(status: int, error: str, description: str) -> VendorReply:
    trace = str(uuid.uuid4())
    return json_reply(status, {"error": error, "error_description": description, "trace_id": trace})
