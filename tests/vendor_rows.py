"""What FCM, APNs, WNS and push services answer, as they shape it, and what must come of each.

Written from the vendors' documentation, not from the code that reads the answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tocsin.outcome import Outcome
from tocsin.providers.contract import Scope

LANE, DEVICE, MESSAGE, CAMPAIGN = Scope.LANE, Scope.DEVICE, Scope.MESSAGE, Scope.CAMPAIGN
ACCEPTED, GONE, REFUSED = Outcome.ACCEPTED, Outcome.GONE, Outcome.REFUSED
THROTTLED, UNAVAILABLE, DENIED, UNKNOWN = Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.DENIED, Outcome.UNKNOWN

REGISTERED = 1_700_000_000.0
"""When the device of every row was registered, epoch seconds."""


@dataclass(frozen=True)
class Row:
    """One answer of a vendor and what must come of it.

    answer: the fault that makes the sandbox give it. times: how many requests in a row meet it. requests: how many
    must have reached the vendor. proved: the same campaign has been accepted for another device before. aged: seconds
    our token is old when it is sent.
    """

    name: str
    answer: dict[str, Any]
    outcome: Outcome
    scope: Scope = MESSAGE
    wait: float | None = None
    code: str = ""
    suspect: bool = False
    times: int = 1
    requests: int = 1
    proved: bool = True
    aged: float = 0.0

    def __str__(self) -> str:
        return self.name


def raw(status: int, body: object = "", retry_after: int | None = None, **headers: str) -> dict[str, Any]:
    """An answer given word for word; underscores in the names of headers are dashes."""
    text = body if isinstance(body, str) else json.dumps(body)
    kind = "application/json; charset=UTF-8" if not isinstance(body, str) else "text/html; charset=UTF-8"
    named = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    given: dict[str, Any] = {"status": status, "body": text, "headers": named}
    return given if retry_after is None else given | {"retry_after": retry_after}


HTML = "<!DOCTYPE html><html lang=en><title>Error</title><p>That’s an error.</html>"
BAD_TOKEN = "The registration token is not a valid FCM registration token"


def google(
    status: int,
    canonical: str,
    code: str = "",
    message: str = "An error.",
    *more: dict[str, Any],
    retry_after: int | None = None,
) -> dict[str, Any]:
    """FCM's error: google.rpc's status, with an FcmError where `code` is given, and `more` details."""
    details = list(more)
    if code:
        details.append({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
    error: dict[str, Any] = {"code": status, "message": message, "status": canonical}
    return raw(status, {"error": error | ({"details": details} if details else {})}, retry_after)


def violation(name: str, sentence: str) -> dict[str, Any]:
    """google.rpc.BadRequest about one field."""
    described = {"field": name, "description": sentence}
    return {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [described]}


def quota(subject: str, sentence: str) -> dict[str, Any]:
    """google.rpc.QuotaFailure about one subject."""
    described = {"subject": subject, "description": sentence}
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [described]}


def info(reason: str) -> dict[str, Any]:
    """google.rpc.ErrorInfo."""
    told = {"service": "fcm.googleapis.com"}
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": told,
    }


def _over_quota(*more: dict[str, Any], retry_after: int | None = None) -> dict[str, Any]:
    return google(
        429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Resource has been exhausted.", *more, retry_after=retry_after
    )


_PROJECT_RATE = quota("project:my-device-topic-app", "Message rate quota exceeded")
_BAD = google(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", BAD_TOKEN)
_TTL = violation("message.android.ttl", "TTL must be a non-negative duration")
_DATA = violation("message.data[0].value", "Invalid value at 'message.data[0].value' (TYPE_STRING), 12")
_NO_API = info("SERVICE_DISABLED")
_OLD = google(401, "UNAUTHENTICATED", "", "Request had invalid credentials.", info("ACCESS_TOKEN_EXPIRED"))
_ENDED = google(401, "UNAUTHENTICATED", "", "Request had invalid authentication credentials.")

FCM: list[Row] = [
    Row("taken", raw(200, {"name": "projects/p/messages/0:1"}), ACCEPTED),
    Row("200 without a name", raw(200, {}), UNKNOWN),
    Row("200 of a proxy", raw(200, HTML), UNKNOWN),
    Row("bad token", _BAD, GONE, suspect=True, code="INVALID_ARGUMENT"),
    Row("bad token of an unproved campaign", _BAD, REFUSED, suspect=True, code="INVALID_ARGUMENT", proved=False),
    Row(
        "bad token as a field",
        google(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", BAD_TOKEN, violation("message.token", "Invalid token")),
        GONE,
        suspect=True,
    ),
    Row("bad field", google(400, "INVALID_ARGUMENT", "", "Invalid JSON payload received.", _DATA), REFUSED, CAMPAIGN),
    Row("bad ttl", google(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Invalid TTL", _TTL), REFUSED, CAMPAIGN),
    Row(
        "reserved key",
        google(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Invalid data payload key: google.a"),
        REFUSED,
        CAMPAIGN,
    ),
    Row("too big", google(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Android message is too big"), REFUSED),
    Row("413", raw(413, HTML), REFUSED, code="413"),
    Row("401 once", _OLD, ACCEPTED, requests=2),
    Row("401 twice", _ENDED, DENIED, LANE, times=2, requests=2, code="UNAUTHENTICATED"),
    Row("401 of a proxy twice", raw(401, HTML), DENIED, LANE, times=2, requests=2, code="401"),
    *(
        Row(code, google(401, "UNAUTHENTICATED", code, "Auth error from APNS or Web Push Service"), REFUSED, code=code)
        for code in ("THIRD_PARTY_AUTH_ERROR", "APNS_AUTH_ERROR")
    ),
    Row(
        "another sender's token",
        google(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", "SenderId mismatch"),
        GONE,
        suspect=True,
        code="SENDER_ID_MISMATCH",
    ),
    Row("no permission", google(403, "PERMISSION_DENIED", "", "Permission denied"), DENIED, LANE),
    Row("API disabled", google(403, "PERMISSION_DENIED", "", "Disabled.", _NO_API), DENIED, LANE),
    Row("403 of a proxy", raw(403, HTML), DENIED, LANE, code="403"),
    Row("unregistered", google(404, "NOT_FOUND", "UNREGISTERED", "Not found."), GONE, code="UNREGISTERED"),
    Row("404 without FcmError", google(404, "NOT_FOUND", "", "Requested entity was not found."), DENIED, LANE),
    Row("404 of a proxy", raw(404, HTML), DENIED, LANE, code="404"),
    Row("over the project's rate", _over_quota(_PROJECT_RATE), THROTTLED, LANE, 60, "QUOTA_EXCEEDED"),
    Row("over the project's rate, with a time", _over_quota(_PROJECT_RATE, retry_after=25), THROTTLED, LANE, 25),
    Row("overload without FcmError", google(429, "RESOURCE_EXHAUSTED"), THROTTLED, LANE, 60),
    Row("429 of a proxy", raw(429, HTML), THROTTLED, LANE, 60),
    Row("over a device's rate", _over_quota(quota("device:abc", "Device rate exceeded")), THROTTLED, DEVICE, 60),
    Row("device in words", _over_quota(quota("", "Device message rate exceeded")), THROTTLED, DEVICE, 60),
    Row(
        "over a topic's rate", _over_quota(quota("topic:news", "Rate exceeded"), retry_after=90), THROTTLED, DEVICE, 90
    ),
    Row("internal", google(500, "INTERNAL", "INTERNAL", "Internal error encountered."), UNAVAILABLE, MESSAGE, 10),
    Row("500 of a proxy", raw(500, HTML), UNAVAILABLE, MESSAGE, 10, "500"),
    Row("502", raw(502, HTML), UNAVAILABLE, MESSAGE, 10, "502"),
    Row("504", raw(504, HTML), UNAVAILABLE, MESSAGE, 10, "504"),
    Row("599", raw(599), UNAVAILABLE, MESSAGE, 10, "599"),
    Row("unavailable", google(503, "UNAVAILABLE", "UNAVAILABLE"), UNAVAILABLE, MESSAGE, 10, "UNAVAILABLE"),
    Row(
        "unavailable, with a time",
        google(503, "UNAVAILABLE", "UNAVAILABLE", retry_after=30),
        UNAVAILABLE,
        MESSAGE,
        30,
        "UNAVAILABLE",
    ),
    Row("redirect", raw(302, HTML, location="https://localhost/"), DENIED, LANE, code="302"),
]


def apple(status: int, reason: str, **more: Any) -> dict[str, Any]:
    """APNs' error."""
    return raw(status, {"reason": reason, **more})


def _apple_rows(outcome: Outcome, scope: Scope, status: int, reasons: str, **more: Any) -> list[Row]:
    return [
        Row(reason, apple(status, reason), outcome, scope, code=f"{status} {reason}", **more)
        for reason in reasons.split()
    ]


_WRONG = "BadCollapseId BadExpirationDate BadPriority BadMessageId InvalidPushType DuplicateHeaders PayloadEmpty"
_NO_ENTRY = (
    "InvalidProviderToken MissingProviderToken BadEnvironmentKeyIdInToken BadCertificate BadCertificateEnvironment"
)
_BEFORE, _SINCE = int(REGISTERED * 1000) - 1, int(REGISTERED * 1000)

APNS: list[Row] = [
    Row("taken", raw(200, "", apns_id="6f9619ff-8b86-4d01-b42d-00cf4fc964ff"), ACCEPTED),
    *_apple_rows(GONE, MESSAGE, 400, "BadDeviceToken DeviceTokenNotForTopic", suspect=True),
    *_apple_rows(DENIED, LANE, 400, "TopicDisallowed BadTopic MissingTopic"),
    *_apple_rows(REFUSED, CAMPAIGN, 400, _WRONG + " MissingDeviceToken"),
    *_apple_rows(REFUSED, CAMPAIGN, 404, "BadPath"),
    *_apple_rows(REFUSED, CAMPAIGN, 405, "MethodNotAllowed"),
    Row("IdleTimeout", apple(400, "IdleTimeout"), ACCEPTED, requests=2),
    Row("IdleTimeout twice", apple(400, "IdleTimeout"), UNAVAILABLE, MESSAGE, 1, times=2, requests=2),
    Row("expired, ours is old", apple(403, "ExpiredProviderToken"), ACCEPTED, requests=2, aged=21 * 60),
    Row("expired, ours is young", apple(403, "ExpiredProviderToken"), DENIED, LANE, aged=19 * 60),
    Row("expired twice", apple(403, "ExpiredProviderToken"), DENIED, LANE, times=2, requests=2, aged=21 * 60),
    *_apple_rows(DENIED, LANE, 403, _NO_ENTRY + " Forbidden"),
    Row("UnrelatedKeyIdInToken", apple(403, "UnrelatedKeyIdInToken"), ACCEPTED, requests=2),
    Row("UnrelatedKeyIdInToken twice", apple(403, "UnrelatedKeyIdInToken"), DENIED, LANE, times=2, requests=2),
    Row("Unregistered since", apple(410, "Unregistered", timestamp=_SINCE), GONE, code="410 Unregistered"),
    Row("Unregistered before", apple(410, "Unregistered", timestamp=_BEFORE), REFUSED, code="410 Unregistered"),
    Row("ExpiredToken since", apple(410, "ExpiredToken", timestamp=_SINCE), GONE, code="410 ExpiredToken"),
    Row("ExpiredToken before", apple(410, "ExpiredToken", timestamp=_BEFORE), REFUSED, code="410 ExpiredToken"),
    Row("Unregistered, no time", apple(410, "Unregistered"), GONE),
    Row("410 of a proxy", raw(410, HTML), REFUSED),
    *_apple_rows(REFUSED, MESSAGE, 413, "PayloadTooLarge"),
    *_apple_rows(THROTTLED, DEVICE, 429, "TooManyRequests", wait=60),
    *_apple_rows(THROTTLED, LANE, 429, "TooManyProviderTokenUpdates", wait=60),
    Row("429 of a proxy", raw(429, HTML, retry_after=20), THROTTLED, LANE, 20, "429"),
    *_apple_rows(UNAVAILABLE, MESSAGE, 500, "InternalServerError", wait=900),
    *_apple_rows(UNAVAILABLE, MESSAGE, 503, "ServiceUnavailable", wait=900),
    *_apple_rows(UNAVAILABLE, LANE, 503, "Shutdown", wait=1),
    Row("502", raw(502, HTML), UNAVAILABLE, MESSAGE, 900, "502"),
    Row("404 of a proxy", raw(404, HTML), DENIED, LANE, code="404"),
    Row("403 of a proxy", raw(403, HTML), DENIED, LANE, code="403"),
    Row("a new 403", apple(403, "SomethingNew"), DENIED, LANE, code="403 SomethingNew"),
    Row("a new 400", apple(400, "SomethingNew"), REFUSED, code="400 SomethingNew"),
    Row("redirect", raw(302, "", location="https://localhost/"), DENIED, LANE, code="302"),
]


def microsoft(status: int, description: str = "", retry_after: int | None = None, **headers: str) -> dict[str, Any]:
    """WNS's answer: no body, everything is in the headers."""
    told = {"x_wns_error_description": description} if description else {}
    named = {"x_wns_msg_id": "1FE5F2D0A1B2C3D4", "x_wns_debug_trace": "DB5SCH101", "ms_cv": "abc.0"}
    return raw(status, "", retry_after, **named, **told, **headers)


WNS: list[Row] = [
    Row("received", microsoft(200, x_wns_status="received"), ACCEPTED),
    Row("received, older header", microsoft(200, x_wns_notificationstatus="received"), ACCEPTED),
    Row("no status header", microsoft(200), ACCEPTED),
    Row("dropped", microsoft(200, "User off", x_wns_status="dropped"), REFUSED, code="200 dropped"),
    Row("dropped, older header", microsoft(200, x_wns_notificationstatus="dropped"), REFUSED, code="200 dropped"),
    Row("channel throttled", microsoft(200, x_wns_status="channelthrottled"), THROTTLED, DEVICE, 600),
    Row("offline", microsoft(200, x_wns_status="received", x_wns_deviceconnectionstatus="disconnected"), ACCEPTED),
    Row("400", microsoft(400, "Bad XML", x_wns_status="dropped"), REFUSED, CAMPAIGN),
    Row("401 once", microsoft(401, www_authenticate="Bearer"), ACCEPTED, requests=2),
    Row("401 twice", microsoft(401), DENIED, LANE, times=2, requests=2, code="401"),
    Row("403", microsoft(403, "Another app's channel"), GONE, suspect=True, code="403"),
    Row("404", microsoft(404, "No such channel"), GONE, code="404"),
    Row("405", microsoft(405), REFUSED, CAMPAIGN),
    Row("406", microsoft(406, x_wns_status="channelthrottled"), THROTTLED, LANE, 600, "406"),
    Row("406, with a time", microsoft(406, retry_after=120), THROTTLED, LANE, 120),
    Row("410", microsoft(410, "The channel expired"), GONE, code="410"),
    Row("404 of a proxy", raw(404, HTML), GONE, suspect=True, code="404"),
    Row("410 of a proxy", raw(410, HTML), GONE, suspect=True, code="410"),
    Row("410 in a header", microsoft(410, "Domain Blocked"), DENIED, LANE, code="410 Domain Blocked"),
    Row("410 in the body", raw(410, "Domain blocked."), DENIED, LANE, code="410 Domain Blocked"),
    Row("412", microsoft(412), UNAVAILABLE, MESSAGE, 3600),
    Row("413", microsoft(413), REFUSED, code="413"),
    Row("429", microsoft(429, retry_after=15), THROTTLED, LANE, 15, "429"),
    Row("500", microsoft(500), UNAVAILABLE, MESSAGE, 30),
    Row("503", microsoft(503), UNAVAILABLE, MESSAGE, 30),
    Row("503, with a time", microsoft(503, retry_after=45), UNAVAILABLE, MESSAGE, 45),
    Row("502", raw(502, HTML), UNAVAILABLE, MESSAGE, 30, "502"),
    *(Row(f"{n}", raw(n, "", location="https://localhost/w/"), REFUSED, code=f"{n}") for n in (301, 302, 307, 308)),
]


def mozilla(status: int, errno: int, sentence: str = "", retry_after: int | None = None) -> dict[str, Any]:
    """Autopush's error."""
    return raw(status, {"code": status, "errno": errno, "error": "An error", "message": sentence}, retry_after)


WEB_PUSH: list[Row] = [
    Row("created", raw(201, "", location="https://updates.push.services.mozilla.com/m/abc"), ACCEPTED),
    Row("received by Microsoft", microsoft(201, x_wns_status="received"), ACCEPTED),
    Row("accepted for later", raw(202, ""), ACCEPTED),
    Row("another key, Mozilla", mozilla(401, 109, "VAPID public key mismatch"), GONE, suspect=True, code="401 109"),
    Row("another key, Google", raw(403, "the VAPID credentials do not correspond"), GONE, suspect=True, code="403"),
    Row("another key, Apple", apple(400, "VapidPkHashMismatch"), GONE, suspect=True, code="400 VapidPkHashMismatch"),
    Row("a token Apple does not like", apple(403, "BadJwtToken"), GONE, suspect=True, code="403 BadJwtToken"),
    Row("no such subscription", mozilla(404, 102), GONE, suspect=True, code="404 102"),
    Row("404 of a proxy", raw(404, HTML), GONE, suspect=True, code="404"),
    Row("over", mozilla(410, 106), GONE, code="410 106"),
    Row("over, Apple", apple(410, "Unregistered"), GONE, code="410 Unregistered"),
    Row("bad request", mozilla(400, 111, "TTL"), REFUSED, code="400 111"),
    Row("too large", mozilla(413, 104), REFUSED, code="413 104"),
    Row("too many for a browser", mozilla(429, 201), THROTTLED, DEVICE, 60, "429 201"),
    Row("too many, with a time", mozilla(429, 201, retry_after=9), THROTTLED, DEVICE, 9),
    Row("too many for Edge", microsoft(406, "throttled"), THROTTLED, DEVICE, 600, "406"),
    Row("its trouble", mozilla(500, 999), UNAVAILABLE, MESSAGE, 30, "500 999"),
    Row("busy", mozilla(503, 201, retry_after=5), UNAVAILABLE, MESSAGE, 5),
    Row("502 of a proxy", raw(502, HTML), UNAVAILABLE, MESSAGE, 30, "502"),
    Row("redirect", raw(301, "", location="https://localhost/"), REFUSED, code="301"),
]


ROWS = {"fcm": FCM, "apns": APNS, "wns": WNS, "vapid": WEB_PUSH}

TOKEN_ROWS: list[tuple[str, Row]] = [
    *(
        (name, row)
        for name in ("fcm", "wns")
        for row in (
            Row("invalid_grant", raw(400, {"error": "invalid_grant"}), DENIED, LANE, code="token invalid_grant"),
            Row("invalid_client", raw(401, {"error": "invalid_client"}), DENIED, LANE, code="token invalid_client"),
            Row("400 of a proxy", raw(400, HTML), DENIED, LANE, code="token 400"),
            Row("429", raw(429, {}, 7), UNAVAILABLE, LANE, 7, "token 429"),
            Row("500", raw(500, HTML), UNAVAILABLE, LANE, 1, "token 500"),
            Row("503", raw(503, HTML, 12), UNAVAILABLE, LANE, 12, "token 503"),
            Row("their trouble as 400", raw(400, {"error": "temporarily_unavailable"}), UNAVAILABLE, LANE, 1),
            Row("200 that is none", raw(200, HTML), UNAVAILABLE, LANE, 10, "token 200"),
            Row("200 with an empty token", raw(200, {"access_token": ""}), UNAVAILABLE, LANE, 10, "token 200"),
        )
    ),
]
"""Answers of the token endpoints. No message may reach the vendor after one."""
