"""Windows Push Notification Services: HTTP/1.1, so one connection for each request in flight."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar
from urllib.parse import urlencode, urlsplit

import msgspec
import structlog
from msgspec import Meta

from tocsin.channels import AddressKind, Platform
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.answer_table import (
    DENIED,
    GONE,
    REFUSED,
    SUSPECT,
    WRONG_TEMPLATE,
    AnswerRule,
    check_ca,
    check_endpoint,
    clip,
    is_at,
    judge_failure,
    judge_status,
    move_to,
    read_retry_after,
    throttled,
    unavailable,
    wrong_kind,
)
from tocsin.providers.contract import HandOver, Message, Push, Receipt, Scope, unnoted
from tocsin.providers.oauth import Tokens
from tocsin.providers.outage import Outages
from tocsin.providers.payload import UnsendableError
from tocsin.providers.toast import make_tag, render
from tocsin.providers.transport import HttpPost, PoolLimits, Transport, VendorAnswer

log = structlog.get_logger()

ENTRA = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"
ENTRA_SCOPE = "https://wns.windows.com/.default"
LEGACY = "https://login.live.com/accesstoken.srf"
LEGACY_SCOPE = "notify.windows.com"
MICROSOFT_WAIT = 30.0  # seconds before a 500 or 503 is tried again

# Microsoft: never push to another domain, or its owner gets the app's token. Matched
# against the raw text, so that no two readers of URLs can disagree about where the host ends.
_CHANNEL = re.compile(r"https://(?:[a-z0-9-]+\.)*notify\.windows\.com(?::443)?/[!-~]*", re.IGNORECASE)
_PRINTABLE = re.compile(r"[!-~]+")
_TENANT = re.compile(r"[A-Za-z0-9.-]+")


class WnsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `tocsin provider set wns`."""

    client_id: Annotated[str, Meta(description="the app's id (Entra), or its package SID (legacy log-in)")]
    client_secret: Annotated[str, Meta(description="the app's secret", extra={"file": True})]
    tenant: Annotated[
        str, Meta(description="the Entra tenant; not for a package SID, which logs in the legacy way")
    ] = ""
    token_endpoint: Annotated[
        str, Meta(description="where tokens are given, if not where Microsoft gives them or at endpoint")
    ] = ""
    endpoint: Annotated[
        str, Meta(description="where to post instead of the channel, which goes along as X-Tocsin-Channel")
    ] = ""
    ca: Annotated[str, Meta(description="PEM file of the authorities to trust", extra={"file": True})] = ""
    timeout: Annotated[float, Meta(description="seconds to wait for an answer")] = 30.0

    def __repr__(self) -> str:
        return f"WnsSettings(client_id={self.client_id!r}, endpoint={self.endpoint!r})"


TABLE: dict[int, AnswerRule] = {
    400: WRONG_TEMPLATE,
    401: DENIED,
    403: SUSPECT,  # the channel of another app, or our credentials are another app's
    404: GONE,
    405: WRONG_TEMPLATE,
    406: throttled(600.0, Scope.LANE),
    410: GONE,
    412: unavailable(3600.0),  # undocumented, seen in the wild
    413: REFUSED,
    500: unavailable(MICROSOFT_WAIT),
    503: unavailable(MICROSOFT_WAIT),
}
_CHANNEL_THROTTLED = throttled(600.0, Scope.DEVICE)


def receipt(answer: VendorAnswer) -> Receipt:
    """Return the receipt for WNS's answer. A 200 may still be a refusal: `X-WNS-Status` can be «dropped»."""
    if answer.failure:
        return judge_failure(answer, MICROSOFT_WAIT)
    headers = answer.headers
    detail = headers.get("x-wns-error-description", "")
    if answer.status == 200:
        status = headers.get("x-wns-status") or headers.get("x-wns-notificationstatus") or "received"
        return _judge_200(status.lower(), detail, answer)
    code = str(answer.status)
    if answer.status == 410 and "domain" in f"{detail} {answer.body.decode('utf-8', 'replace')}".lower():
        return DENIED.receipt("410 Domain Blocked", detail)
    verdict = TABLE.get(answer.status)
    if verdict is GONE and not any(name.startswith("x-wns-") for name in headers):
        verdict = SUSPECT  # without Microsoft's headers it is a proxy's answer, which knows nothing of channels
    wait = read_retry_after(answer)
    if verdict is None:
        return judge_status(answer.status, code, detail, MICROSOFT_WAIT, wait)
    return verdict.receipt(code, detail, wait)


def _judge_200(status: str, detail: str, answer: VendorAnswer) -> Receipt:
    if status == "dropped":
        return REFUSED.receipt("200 dropped", detail)
    if status == "channelthrottled":
        return _CHANNEL_THROTTLED.receipt("200 channelthrottled", detail, read_retry_after(answer))
    offline = answer.headers.get("x-wns-deviceconnectionstatus", "").lower() == "disconnected"
    vendor_id = answer.headers.get("x-wns-msg-id", "")
    return Receipt(outcome=Outcome.ACCEPTED, vendor_id=vendor_id, detail="offline" if offline else "")


def is_allowed(channel: str, origin: str) -> bool:
    """Return whether our token may be sent to this channel URI: Microsoft's domain by https on port 443, or the
    operator's own `origin` («https://host:port», empty for none)."""
    if origin and channel.startswith(origin + "/"):
        return _PRINTABLE.fullmatch(channel) is not None
    return _CHANNEL.fullmatch(channel) is not None


def place_of(channel: str, origin: str) -> tuple[str, str]:
    """Return the URL that a channel's toast is posted to, and the channel when that is another: with an `origin` of
    the operator's nothing goes to Microsoft."""
    if not origin or channel.startswith(origin + "/"):
        return channel, ""
    return move_to(origin, channel), channel


def request(message: Push, body: bytes, now: float, token: str, timeout: float, origin: str = "") -> HttpPost:
    """Return the POST for one toast. body: its XML, from `toast.render`. origin: as for `place_of`."""
    url, channel = place_of(message.address.value, origin)
    headers = (
        "Authorization: Bearer " + token,
        "Content-Type: text/xml",
        "X-WNS-Type: wns/toast",
        "X-WNS-RequestForStatus: true",
        "X-WNS-Tag: " + make_tag(message.collapse),
        f"X-WNS-TTL: {max(int(message.expires_at - now), 1)}",
        *(("X-Tocsin-Channel: " + channel,) if channel else ()),
    )
    return HttpPost(url=url, headers=headers, body=body, version="1.1", timeout=timeout)


class Wns:
    """WNS for one app."""

    name: ClassVar[str] = "wns"
    kind: ClassVar[AddressKind] = "wns"
    platform: ClassVar[Platform] = "windows"
    Settings: ClassVar[type[msgspec.Struct]] = WnsSettings

    def __init__(self, settings: msgspec.Struct, transport: Transport) -> None:
        assert isinstance(settings, WnsSettings)
        self._origin = check_endpoint("endpoint", settings.endpoint) if settings.endpoint else ""
        if settings.tenant and not _TENANT.fullmatch(settings.tenant):
            raise Misconfigured("tenant has to be a tenant id or a domain.")
        self._timeout = settings.timeout
        # 60 s: a kept connection that the other side is about to drop ends in an unknown, so old ones are left alone.
        limits = PoolLimits(connections=100, streams=1, in_flight=100, idle=60)
        self._pool = transport.pool(ca=check_ca(settings.ca), limits=limits)
        self._tokens = Tokens(self._pool, _make_ask(settings))
        self._outages = Outages(MICROSOFT_WAIT)

    def __repr__(self) -> str:
        return f"Wns({self._origin!r})"

    def retire(self) -> None:
        """See `Provider.retire`."""
        self._pool.retire()

    @property
    def at_once(self) -> int:
        return self._pool.at_once

    async def send(self, message: Message, now: float, hand_over: HandOver = unnoted) -> Receipt:
        """Send one toast; see `Provider.send`. A channel outside Microsoft's domain is `GONE` and never called; a 401
        is retried once with a new token."""
        if not isinstance(message, Push):
            return wrong_kind(self.name)
        if not is_allowed(message.address.value, self._origin):
            log.warning("a channel is not Microsoft's", host=clip(message.address.value)[:60])
            return GONE.receipt("channel not allowed", "the channel URI is not Microsoft's")
        # A channel names its host, which may be gone, or never was: that is no trouble of other hosts' channels.
        host = urlsplit(place_of(message.address.value, self._origin)[0]).netloc.lower()
        if resting := self._outages.find(host, now):
            return resting
        try:
            body = render(message)
        except UnsendableError as error:
            return error.receipt
        for attempt in (1, 2):
            token = await self._tokens.get(now)
            if isinstance(token, Receipt):
                return token
            answer = await self._pool.request(
                request(message, body, now, token, self._timeout, self._origin), hand_over
            )
            if answer.status != 401 or attempt == 2:
                break
            self._tokens.drop(token)
        if 300 <= answer.status < 400:
            log.error("a channel redirects us: never followed, our token would go along", status=answer.status)
        return self._outages.weigh(host, receipt(answer), now)

    async def check(self, now: float) -> Receipt:
        """See `Provider.check`: Microsoft gives a token, or says why not."""
        token = await self._tokens.get(now)
        return token if isinstance(token, Receipt) else Receipt(outcome=Outcome.ACCEPTED)


class _Ask:
    """The request for a token. A class, so that no repr shows the secret in its form."""

    def __init__(self, url: str, form: bytes, timeout: float) -> None:
        self._request = HttpPost(
            url=url,
            headers=("Content-Type: application/x-www-form-urlencoded",),
            body=form,
            version="1.1",
            timeout=timeout,
        )

    def __call__(self, now: float) -> HttpPost:
        return self._request


def _make_ask(settings: WnsSettings) -> _Ask:
    # A package SID is the id of the legacy log-in; its tokens and Entra's do not open each other's channels.
    legacy = settings.client_id.lower().startswith("ms-app://")
    if not (legacy or settings.tenant or settings.token_endpoint):
        raise Misconfigured("tenant is needed, unless client_id is a package SID («ms-app://s-1-15-2-…»).")
    default = LEGACY if legacy else ENTRA.format(tenant=settings.tenant)
    origin = settings.endpoint.rstrip("/")
    url = check_endpoint("token_endpoint", settings.token_endpoint or (move_to(origin, default) if origin else default))
    if origin and not is_at(origin, url):
        raise Misconfigured(f"token_endpoint has to be at {origin}: with an endpoint nothing goes anywhere else.")
    form = {
        "grant_type": "client_credentials",
        "client_id": settings.client_id,
        "client_secret": settings.client_secret.strip(),
        "scope": LEGACY_SCOPE if legacy else ENTRA_SCOPE,
    }
    return _Ask(url, urlencode(form).encode(), settings.timeout)
