"""The identity provider that people may log in with: OpenID Connect, what it says of itself, its keys and its tokens.

A token is looked at by PyJWT: signature by one of the provider's published keys, issuer, audience and times; here only
whether it is the answer to the log-in that was begun, and whose mailbox it proves.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import jwt
import msgspec
import structlog

from tocsin.api.places import Places
from tocsin.errors import Problem
from tocsin.providers.http.transfer import HttpPost, is_loopback
from tocsin.providers.public_address import is_allowed, read_networks
from tocsin.providers.transport import PoolLimits, Transport
from tocsin.settings import Settings

log = structlog.get_logger()

SCOPE = "openid email"
CALLBACK = "/dashboard/oidc/callback"
# Of a published key, never of a secret that both know: such a token anybody with the client's secret could write.
ALGORITHMS = frozenset(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)) | {"EdDSA"}
KEPT_SECONDS = 3600.0  # what the provider says of itself, and its keys
AGAIN_SECONDS = 60.0  # before keys are fetched once more for a token that names an unknown one
TIMEOUT_SECONDS = 10.0
AWAY_SECONDS = TIMEOUT_SECONDS  # in which others are told the same as whoever found it away: they would wait in a line
LEEWAY_SECONDS = 60.0  # between its clock and ours
AT_ONCE, ALL_AT_ONCE = 16, 256  # codes that it is asked about, of one address and of all
T = TypeVar("T")


class Discovery(msgspec.Struct, frozen=True):
    """What the provider says of itself (OpenID Connect Discovery, 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class _IdGrant(msgspec.Struct, frozen=True):
    id_token: str


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""


class IdentityProvider:
    """The provider of this server's settings. places: of codes that it is asked about. used: the states of log-ins that
    came back, and until when they are remembered."""

    def __init__(self, settings: Settings):
        self._settings = settings
        networks = read_networks(settings.oidc_networks, "TOCSIN_OIDC_NETWORKS")
        self._allows = functools.partial(is_allowed, networks=networks)
        self._found: tuple[float, Discovery] | None = None
        self._away: tuple[float, Problem] | None = None
        self._keys: tuple[float, jwt.PyJWKSet] | None = None
        self._lock = asyncio.Lock()
        self.places = Places(ALL_AT_ONCE, AT_ONCE)
        self.used: dict[str, float] = {}

    @property
    def on(self) -> bool:
        return bool(self._settings.oidc_issuer)

    async def make_address(self, state: str, nonce: str, verifier: str, now: float) -> str:
        """Return the address that the log-in goes on at. Raise Problem when the provider cannot be asked."""
        found = await self._discover(now)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._settings.oidc_client_id,
            "redirect_uri": self._settings.public_url + CALLBACK,
            "scope": SCOPE,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        join = "&" if urlsplit(found.authorization_endpoint).query else "?"
        return f"{found.authorization_endpoint}{join}{urlencode(asked)}"

    async def redeem(self, code: str, verifier: str, nonce: str, now: float) -> str:
        """Return the address of the mailbox that a code of the provider proves. Raise Problem when it proves none."""
        found, settings = await self._discover(now), self._settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": settings.public_url + CALLBACK,
            "client_id": settings.oidc_client_id,
            "code_verifier": verifier,
        }
        headers = ["Content-Type: application/x-www-form-urlencoded"]
        if settings.oidc_client_secret:
            if "client_secret_basic" in found.token_endpoint_auth_methods_supported:
                pair = f"{quote_plus(settings.oidc_client_id)}:{quote_plus(settings.oidc_client_secret)}"
                headers.append(f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
            else:
                form["client_secret"] = settings.oidc_client_secret
        grant = await self._ask(found.token_endpoint, _IdGrant, tuple(headers), urlencode(form).encode())
        return read_email_claim(await self._verify(grant.id_token, now), nonce)

    async def _discover(self, now: float) -> Discovery:
        async with self._lock:
            if self._found is None or not 0 <= now - self._found[0] < KEPT_SECONDS:
                issuer = self._settings.oidc_issuer
                if self._away is not None and abs(now - self._away[0]) < AWAY_SECONDS:
                    raise self._away[1].with_traceback(None)
                try:
                    found = await self._ask(f"{issuer.rstrip('/')}/.well-known/openid-configuration", Discovery)
                except Problem as problem:
                    self._away = now, problem
                    raise
                if found.issuer != issuer:
                    raise _refuse("The identity provider says that it is another issuer.")
                for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                    address = getattr(found, name)
                    if not address.startswith("https://") and not is_loopback(address):
                        raise _refuse(f"The identity provider's {name} is not at an https address.")
                self._found = now, found
            return self._found[1]

    async def _find_key(self, kid: str, now: float) -> jwt.PyJWK | None:
        """Return the published key of this id; keys that are unknown may be new."""
        found = await self._discover(now)
        async with self._lock:
            for seconds in (KEPT_SECONDS, AGAIN_SECONDS):
                if self._keys is None or not 0 <= now - self._keys[0] < seconds:
                    raw = await self._ask(found.jwks_uri, dict[str, Any])
                    try:
                        self._keys = now, jwt.PyJWKSet.from_dict(raw)
                    except jwt.PyJWTError:
                        raise _refuse("The identity provider's keys cannot be read.") from None
                keys = [one for one in self._keys[1].keys if one.public_key_use in (None, "sig")]
                fit = [one for one in keys if one.key_id == kid] if kid else keys
                if len(fit) == 1:
                    return fit[0]
        return None

    async def _verify(self, token: str, now: float) -> dict[str, Any]:
        """Return the claims of a token. Raise Problem for one that is not this provider's, for us, and of now."""
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise _refuse("The identity provider's token is not signed in a way that is taken here.")
            key = await self._find_key(str(header.get("kid") or ""), now)
            if key is None or key.algorithm_name not in ALGORITHMS:
                raise _refuse("The identity provider's token is signed by a key that it does not publish.")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=settings.oidc_client_id,
                issuer=settings.oidc_issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "aud", "iss", "sub"]},
            )
        except jwt.InvalidSignatureError:
            raise _refuse("The signature of the identity provider's token is wrong.") from None
        except jwt.ExpiredSignatureError:
            raise _refuse("The identity provider's token has ended. Check the clocks.") from None
        except jwt.InvalidAudienceError:
            raise _refuse("The identity provider's token is for somebody else.") from None
        except jwt.InvalidIssuerError:
            raise _refuse("The identity provider's token is of another issuer.") from None
        except jwt.PyJWTError as error:
            raise _refuse(f"The identity provider's token cannot be taken: {error}.") from None
        if claims.get("azp", settings.oidc_client_id) != settings.oidc_client_id:
            raise _refuse("The identity provider's token is for somebody else.")
        return claims

    async def _ask(self, url: str, kind: type[T], headers: tuple[str, ...] = (), body: bytes = b"") -> T:
        """Return what the provider answers. Nothing leads to addresses that are not allowed, redirects least of all."""
        request = HttpPost(
            url=url,
            headers=("Accept: application/json", *headers),
            body=body,
            version="1.1",
            timeout=TIMEOUT_SECONDS,
            get=not body,
        )
        async with Transport() as transport:
            pool = transport.pool(limits=PoolLimits(connections=1, fresh_dns=True, allows=self._allows))
            answer = await pool.request(request)
        if answer.failure:
            log.error("the identity provider cannot be reached", url=url, detail=answer.detail)
            raise _refuse("The identity provider cannot be reached. The server's log says why.", 502)
        if answer.status != 200:
            raise _refuse(
                f"The identity provider answers {answer.status} {_read_error(answer.body)}".rstrip() + ".", 502
            )
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _refuse("The identity provider's answer cannot be read.", 502) from None


def read_email_claim(claims: dict[str, Any], nonce: str) -> str:
    """Return the address in a token. Raise Problem for a token of another log-in, and for an address that nobody
    checked."""
    if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise _refuse("The identity provider's token is the answer to another log-in.")
    email = claims.get("email")
    if not isinstance(email, str) or not email:
        raise _refuse("The identity provider does not say your e-mail address.")
    if claims.get("email_verified") not in (True, "true"):
        raise _refuse("The identity provider has not checked that your e-mail address is yours.")
    return email


def _read_error(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Refusal).error[:80]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _refuse(sentence: str, status: int = 401) -> Problem:
    return Problem(sentence, code=status, status=status)
