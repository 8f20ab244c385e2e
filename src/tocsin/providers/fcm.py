"""Firebase Cloud Messaging, HTTP v1: Android devices, one message a request."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any, ClassVar

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Meta

from tocsin.channels import AddressKind, Platform
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.answer_table import (
    DENIED,
    GONE,
    REFUSED,
    SUSPECT,
    UNKNOWN,
    WRONG_TEMPLATE,
    AnswerRule,
    check_ca,
    check_endpoint,
    is_astray,
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
from tocsin.providers.payload import Style, UnsendableError, make_fcm_payload
from tocsin.providers.transport import HttpPost, PoolLimits, Transport, VendorAnswer

GOOGLE = "https://fcm.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
AUDIENCE = "https://oauth2.googleapis.com/token"  # what Google expects whatever host the token is asked from
FLOOR = 10.0  # seconds: FCM: never retry sooner
QUOTA_WAIT = 60.0  # seconds: FCM: a 429 without Retry-After
DRY_RUN = b'{"validate_only":true,"message":{"token":"made-up","notification":{"title":"-"}}}'
PROVED = 512  # campaigns of which one message was accepted, remembered
KEYS_KEPT = 64  # of service accounts, ready to sign with


class FcmSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `tocsin provider set fcm`."""

    service_account: Annotated[
        str, Meta(description="the service account's key, the JSON file from Google", extra={"file": True})
    ]
    style: Annotated[
        Style, Meta(description="sdk: apps with CleverTap's SDK show the message; notification: Android shows it")
    ] = "sdk"
    endpoint: Annotated[str, Meta(description="where FCM is; tokens are asked for there too, if not at Google")] = (
        GOOGLE
    )
    ca: Annotated[str, Meta(description="PEM file of the authorities to trust", extra={"file": True})] = ""
    timeout: Annotated[float, Meta(description="seconds to wait for an answer, FCM asks for 10 at least")] = 30.0

    def __repr__(self) -> str:
        return f"FcmSettings(endpoint={self.endpoint!r})"


class _Account(msgspec.Struct):
    project_id: str
    private_key: str
    client_email: str
    private_key_id: str = ""
    token_uri: str = AUDIENCE

    def __repr__(self) -> str:
        return f"_Account({self.client_email!r})"


class _Detail(msgspec.Struct):
    type: str = msgspec.field(name="@type", default="")
    error_code: str = msgspec.field(name="errorCode", default="")
    field_violations: list[dict[str, Any]] = msgspec.field(name="fieldViolations", default_factory=list)
    violations: list[dict[str, Any]] = []


class _Error(msgspec.Struct):
    message: str = ""
    status: str = ""
    details: list[_Detail] = []


class _FcmBody(msgspec.Struct):
    name: str = ""
    error: _Error | None = None


# FCM's errorCode decides, not the HTTP status. Empty second half: no FcmError in the answer.
_UNRELATED = AnswerRule(Outcome.REFUSED)  # a wrong APNs key in Firebase says nothing about Android
TABLE: dict[tuple[int, str], AnswerRule] = {
    (401, ""): DENIED,
    (401, "THIRD_PARTY_AUTH_ERROR"): _UNRELATED,
    (401, "APNS_AUTH_ERROR"): _UNRELATED,
    (403, ""): DENIED,
    (403, "SENDER_ID_MISMATCH"): SUSPECT,  # the token of another project, or our account is another project's
    (404, ""): DENIED,  # wrong project or URL: nothing is known about the device
    (404, "UNREGISTERED"): GONE,
    (413, ""): REFUSED,
    (429, ""): throttled(QUOTA_WAIT, Scope.LANE),
    (429, "QUOTA_EXCEEDED"): throttled(QUOTA_WAIT, Scope.LANE),
    (500, "INTERNAL"): unavailable(FLOOR),
    (503, "UNAVAILABLE"): unavailable(FLOOR),
}
_ONE_DEVICE = throttled(QUOTA_WAIT, Scope.DEVICE)
_UNPROVED = AnswerRule(Outcome.REFUSED, suspect=True)
# A quota's subject is «project:ID», and an ID may spell «device».
_PROJECT = re.compile(r"projects?[:/][\w.:-]+")
_NARROW = re.compile(r"\b(device|topic)")


def receipt(answer: VendorAnswer, *, proved: bool) -> Receipt:
    """Return the receipt for FCM's answer. proved: FCM has accepted this campaign's payload for another device, so a
    complaint about the registration token is about the token; before that the payload may be what is wrong."""
    if answer.failure:
        return judge_failure(answer, FLOOR)
    body = _read_body(answer.body)
    if answer.status == 200:
        if body.name:
            return Receipt(outcome=Outcome.ACCEPTED, vendor_id=body.name)
        return UNKNOWN.receipt("200 without name", "the answer is not FCM's")
    error = body.error or _Error()
    named = next((d.error_code for d in error.details if d.error_code), "")
    code = named or error.status or str(answer.status)
    if answer.status == 400:
        return _judge_400(error, named, proved).receipt(code, error.message)
    wait = read_retry_after(answer)
    if answer.status == 429 and _names_one_device(error):
        return _ONE_DEVICE.receipt(code, error.message, wait)
    verdict = TABLE.get((answer.status, named))
    if verdict is None and is_astray(answer.status):
        verdict = DENIED
    if verdict is None:
        return judge_status(answer.status, code, error.message, FLOOR, wait)
    return verdict.receipt(code, error.message, wait)


def _judge_400(error: _Error, named: str, proved: bool) -> AnswerRule:
    fields = [str(v.get("field", "")) for d in error.details for v in d.field_violations]
    if "registration token" in error.message or "message.token" in fields:
        return SUSPECT if proved else _UNPROVED
    if "too big" in error.message or "too large" in error.message:
        return REFUSED  # its size is the recipient's: the next one may fit
    return WRONG_TEMPLATE if fields or named == "INVALID_ARGUMENT" else REFUSED


def _names_one_device(error: _Error) -> bool:
    text = " ".join([error.message, *(str(v) for d in error.details for v in d.violations)]).lower()
    return _NARROW.search(_PROJECT.sub("", text)) is not None


def _read_body(raw: bytes) -> _FcmBody:
    try:
        return msgspec.json.decode(raw, type=_FcmBody)
    except (msgspec.DecodeError, ValueError):
        return _FcmBody()  # a proxy's HTML


def request(body: bytes, url: str, token: str, timeout: float) -> HttpPost:
    """Return the POST for one message. body: its JSON. url: `…/v1/projects/{project}/messages:send`."""
    headers = ("Authorization: Bearer " + token, "Content-Type: application/json")
    return HttpPost(url=url, headers=headers, body=body, timeout=timeout)


class Fcm:
    """Firebase Cloud Messaging for one service account."""

    name: ClassVar[str] = "fcm"
    kind: ClassVar[AddressKind] = "fcm"
    platform: ClassVar[Platform] = "android"
    Settings: ClassVar[type[msgspec.Struct]] = FcmSettings

    def __init__(self, settings: msgspec.Struct, transport: Transport) -> None:
        assert isinstance(settings, FcmSettings)
        endpoint = check_endpoint("endpoint", settings.endpoint)
        self._account = account = _read_account(settings.service_account)
        token_uri = check_endpoint("token_uri in service_account", account.token_uri)
        self._token_uri = token_uri if is_at(GOOGLE, endpoint) else move_to(endpoint, token_uri)
        self._key = _read_key(account.private_key)
        self._url = f"{endpoint}/v1/projects/{account.project_id}/messages:send"
        self._timeout = settings.timeout
        self._style = settings.style
        # FCM: at most 100 streams on a connection.
        self._pool = transport.pool(
            ca=check_ca(settings.ca), limits=PoolLimits(connections=10, streams=100, in_flight=1000)
        )
        self._tokens = Tokens(self._pool, self._ask)
        self._proved: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"Fcm({self._url!r})"

    def retire(self) -> None:
        """See `Provider.retire`."""
        self._pool.retire()

    @property
    def at_once(self) -> int:
        return self._pool.at_once

    async def send(self, message: Message, now: float, hand_over: HandOver = unnoted) -> Receipt:
        """Send one push; see `Provider.send`. A 401 is retried once with a new token, a second one is `DENIED`."""
        if not isinstance(message, Push):
            return wrong_kind(self.name)
        try:
            body = make_fcm_payload(message, now, self._style)
        except UnsendableError as error:
            return error.receipt
        for attempt in (1, 2):
            token = await self._tokens.get(now)
            if isinstance(token, Receipt):
                return token
            answer = await self._pool.request(request(body, self._url, token, self._timeout), hand_over)
            came = receipt(answer, proved=message.collapse in self._proved)
            if answer.status != 401 or came.outcome is not Outcome.DENIED or attempt == 2:
                break
            self._tokens.drop(token)
        if came.outcome is Outcome.ACCEPTED:
            self._prove(message.collapse)
        return came

    async def check(self, now: float) -> Receipt:
        """See `Provider.check`: a dry run to a made-up token."""
        token = await self._tokens.get(now)
        if isinstance(token, Receipt):
            return token
        return receipt(await self._pool.request(request(DRY_RUN, self._url, token, self._timeout)), proved=True)

    def _prove(self, collapse: str) -> None:
        if collapse not in self._proved:
            if len(self._proved) >= PROVED:
                self._proved.pop(next(iter(self._proved)))
            self._proved[collapse] = None

    def _ask(self, now: float) -> HttpPost:
        account = self._account
        claims = {"iss": account.client_email, "scope": SCOPE, "aud": AUDIENCE, "iat": int(now), "exp": int(now) + 3600}
        headers = {"kid": account.private_key_id} if account.private_key_id else None
        assertion = jwt.encode(claims, self._key, algorithm="RS256", headers=headers)
        body = f"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
        form = ("Content-Type: application/x-www-form-urlencoded",)
        return HttpPost(url=self._token_uri, headers=form, body=body.encode(), timeout=self._timeout)


def _read_account(text: str) -> _Account:
    try:
        return msgspec.json.decode(text, type=_Account)
    except msgspec.DecodeError as error:
        raise Misconfigured(f"service_account is not a Google service account's JSON file: {error}.") from None


@functools.lru_cache(KEYS_KEPT)
def _read_key(pem: str) -> RSAPrivateKey:
    """Return the key of a text. To check that its numbers belong together takes 50 ms, at every lane that is made."""
    try:
        key = load_pem_private_key(pem.encode(), None)
    except ValueError:
        raise Misconfigured("service_account holds no readable private key.") from None
    if not isinstance(key, RSAPrivateKey):
        raise Misconfigured("The private key of service_account is not the RSA key that Google gives out.")
    return key
