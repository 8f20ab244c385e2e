"""Every row of the vendors' tables: an answer goes in, a receipt comes out, and nothing touches the network."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from typing import Any
from xml.etree import ElementTree

import pytest

from tocsin.delivery.circuit_breaker import SUSPECTS, CircuitBreaker
from tocsin.delivery.retry import RetryPolicy, decide
from tocsin.outcome import Outcome, State
from tocsin.providers import apns, fcm, smtp, toast, webhook, wns
from tocsin.providers.contract import Address, Mail, Push, Receipt, Scope
from tocsin.providers.http.transfer import VendorAnswer
from tocsin.providers.mail import mime
from tocsin.providers.oauth import read_grant
from tocsin.providers.payload import make_apns_payload, make_fcm_payload

NOW = 1_800_000_000.0
ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
LANE, DEVICE, MESSAGE, CAMPAIGN = Scope.LANE, Scope.DEVICE, Scope.MESSAGE, Scope.CAMPAIGN
ACCEPTED, GONE, REFUSED = Outcome.ACCEPTED, Outcome.GONE, Outcome.REFUSED
THROTTLED, UNAVAILABLE, DENIED, UNKNOWN = Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.DENIED, Outcome.UNKNOWN

Row = tuple[Outcome, Scope, float | None]


def row(came: Receipt) -> Row:
    """The part of a receipt that retries act on."""
    assert came.outcome is ACCEPTED or came.code
    return came.outcome, came.scope, came.retry_after


def push(**changed: Any) -> Push:
    """A push with the least in it."""
    given = {"id": ID, "collapse": "1_20260101", "address": Address("fcm", "token"), "title": "Hello", "body": "World"}
    return Push(**{**given, "expires_at": int(NOW) + 600, **changed})


def mail(**changed: Any) -> Mail:
    """A mail with both bodies."""
    given = {"id": ID, "campaign": "1_20260101", "address": Address("email", "ann@example.com"), "subject": "Hello"}
    return Mail(**{**given, "html": "<p>World</p>", "text": "World", **changed})


def fcm_error(status: int, canonical: str, code: str = "", message: str = "", **detail: Any) -> VendorAnswer:
    """An answer of FCM with an FcmError when `code` is given, and one more detail when `detail` is."""
    details: list[dict[str, Any]] = []
    if code:
        details.append({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
    if detail:
        details.append({"@type": "type.googleapis.com/google.rpc.Other", **detail})
    error = {"code": status, "status": canonical, "message": message, "details": details}
    return VendorAnswer(status=status, body=json.dumps({"error": error}).encode())


BAD_TOKEN = fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "The registration token is not a valid one")
VIOLATION = {"fieldViolations": [{"field": "message.data[0].value", "description": "Invalid value"}]}
FCM_ROWS: list[tuple[VendorAnswer, Row]] = [
    (VendorAnswer(status=200, body=b'{"name":"projects/p/messages/1"}'), (ACCEPTED, MESSAGE, None)),
    (VendorAnswer(status=200, body=b"<html>"), (UNKNOWN, MESSAGE, None)),
    (BAD_TOKEN, (GONE, MESSAGE, None)),
    (fcm_error(400, "INVALID_ARGUMENT", "", "Invalid value", **VIOLATION), (REFUSED, CAMPAIGN, None)),
    (fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Invalid ttl"), (REFUSED, CAMPAIGN, None)),
    (fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Message is too big"), (REFUSED, MESSAGE, None)),
    (VendorAnswer(status=400, body=b"?"), (REFUSED, MESSAGE, None)),
    (fcm_error(401, "UNAUTHENTICATED"), (DENIED, LANE, None)),
    (fcm_error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), (REFUSED, MESSAGE, None)),
    (fcm_error(401, "UNAUTHENTICATED", "APNS_AUTH_ERROR"), (REFUSED, MESSAGE, None)),
    (fcm_error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), (GONE, MESSAGE, None)),
    (fcm_error(403, "PERMISSION_DENIED"), (DENIED, LANE, None)),
    (fcm_error(404, "NOT_FOUND", "UNREGISTERED"), (GONE, MESSAGE, None)),
    (fcm_error(404, "NOT_FOUND"), (DENIED, LANE, None)),
    (VendorAnswer(status=404, body=b"<html>"), (DENIED, LANE, None)),
    (VendorAnswer(status=413), (REFUSED, MESSAGE, None)),
    (fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), (THROTTLED, LANE, 60)),
    (fcm_error(429, "RESOURCE_EXHAUSTED"), (THROTTLED, LANE, 60)),
    (
        fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", violations=[{"subject": "device:abc"}]),
        (THROTTLED, DEVICE, 60),
    ),
    (
        fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", violations=[{"description": "Topic rate exceeded"}]),
        (THROTTLED, DEVICE, 60),
    ),
    (fcm_error(500, "INTERNAL", "INTERNAL"), (UNAVAILABLE, MESSAGE, 10)),
    (VendorAnswer(status=502), (UNAVAILABLE, MESSAGE, 10)),
    (VendorAnswer(status=504, body=b"<html>"), (UNAVAILABLE, MESSAGE, 10)),
    (fcm_error(503, "UNAVAILABLE", "UNAVAILABLE"), (UNAVAILABLE, MESSAGE, 10)),
    (VendorAnswer(status=418), (REFUSED, MESSAGE, None)),
    *((VendorAnswer(status=status, body=b"<html>"), (DENIED, LANE, None)) for status in (301, 302, 308, 405, 407)),
    (VendorAnswer(status=408), (UNAVAILABLE, MESSAGE, 10)),
    (VendorAnswer(failure="unknown", detail="timeout"), (UNKNOWN, MESSAGE, None)),
    (VendorAnswer(failure="unsent", detail="refused"), (UNAVAILABLE, LANE, 10)),
]


@pytest.mark.parametrize(("answer", "expected"), FCM_ROWS)
def test_fcm_row(answer: VendorAnswer, expected: Row) -> None:
    """FCM's table, decided by errorCode and only then by the HTTP status."""
    assert row(fcm.receipt(answer, proved=True)) == expected


def test_suspicion_is_of_codes_that_may_be_about_us() -> None:
    """These say «not yours» of a device, and would say so of every device under the wrong credential; no others do."""
    apns_codes = {reason for _, reason, _ in APNS_ROWS if reason in apns.TABLE and apns.TABLE[reason].suspect}
    assert apns_codes == {"BadDeviceToken", "DeviceTokenNotForTopic"}
    found = [fcm.receipt(answer, proved=proved) for answer, _ in FCM_ROWS for proved in (True, False)]
    assert {came.code for came in found if came.suspect} == {"INVALID_ARGUMENT", "SENDER_ID_MISMATCH"}
    assert [came.suspect for came in found if came.code == "INVALID_ARGUMENT"].count(True) == 2
    assert {status for status, verdict in wns.TABLE.items() if verdict.suspect} == {403}
    assert wns.receipt(wns_answer(404)).suspect  # without one header of Microsoft's: a proxy's
    assert not wns.receipt(wns_answer(404, x_wns_msg_id="1")).suspect


def test_fcm_bad_token_of_an_unproved_campaign_keeps_the_address() -> None:
    """Until a campaign's payload has been accepted once, a complaint about the token may be about the payload."""
    assert row(fcm.receipt(BAD_TOKEN, proved=False)) == (REFUSED, MESSAGE, None)


@pytest.mark.parametrize("status", [429, 503])
def test_fcm_retry_after_goes_before_the_table(status: int) -> None:
    """The vendor's own seconds are taken, also as a date beside the answer's own; a date alone or nonsense is not."""
    own = 60 if status == 429 else 10
    for given, date, expected in (
        ("7", "", 7),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 06:58:00 GMT", 1800),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:05 GMT", 0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "", own),
        ("soon", "Wed, 21 Oct 2026 07:28:05 GMT", own),
        ("-5", "", own),
        ("Wed, 99 Oct 99999 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:05 GMT", own),
    ):
        answer = VendorAnswer(status=status, headers={"retry-after": given, "date": date})
        assert fcm.receipt(answer, proved=True).retry_after == expected


def test_fcm_code_is_the_vendors() -> None:
    """The receipt carries errorCode, or the canonical status where there is none."""
    assert fcm.receipt(fcm_error(404, "NOT_FOUND", "UNREGISTERED"), proved=True).code == "UNREGISTERED"
    assert fcm.receipt(fcm_error(403, "PERMISSION_DENIED"), proved=True).code == "PERMISSION_DENIED"


def test_fcm_notification_has_everything_and_no_null() -> None:
    """A full push in the style of Android's own becomes the documented JSON; a bare one leaves out what it lacks."""
    full = push(image="https://e.example/i.png", sound="ding.mp3", channel="news", badge=3, data={"wzrk_id": "1_2"})
    message = json.loads(make_fcm_payload(full, NOW, "notification"))["message"]
    assert message["token"] == "token"
    assert message["notification"] == {"title": "Hello", "body": "World", "image": "https://e.example/i.png"}
    assert message["data"] == {"wzrk_id": "1_2"}
    android = message["android"]
    assert (android["collapse_key"], android["priority"], android["ttl"]) == ("1_20260101", "high", "600s")
    expected = {"tag": "1_20260101", "sound": "ding.mp3", "channel_id": "news", "notification_count": 3}
    assert android["notification"] == expected
    bare = make_fcm_payload(push(sound="default"), NOW, "notification")
    assert b"null" not in bare
    assert json.loads(bare)["message"]["android"]["notification"] == {"tag": "1_20260101", "default_sound": True}


@pytest.mark.parametrize(("expires", "ttl"), [(-5, "0s"), (10**9, "2419200s")])
def test_fcm_ttl_stays_in_its_range(expires: int, ttl: str) -> None:
    """FCM answers 400 to a time to live outside zero to four weeks."""
    sent = json.loads(make_fcm_payload(push(expires_at=int(NOW) + expires), NOW))
    assert sent["message"]["android"]["ttl"] == ttl


def apns_error(status: int, reason: str, **more: Any) -> VendorAnswer:
    """An answer of APNs with its reason."""
    return VendorAnswer(status=status, body=json.dumps({"reason": reason, **more}).encode())


APNS_ROWS: list[tuple[int, str, Row]] = [
    (400, "BadDeviceToken", (GONE, MESSAGE, None)),
    (400, "DeviceTokenNotForTopic", (GONE, MESSAGE, None)),
    *((400, reason, (DENIED, LANE, None)) for reason in ("TopicDisallowed", "BadTopic", "MissingTopic")),
    *(
        (400, reason, (REFUSED, CAMPAIGN, None))
        for reason in ("BadCollapseId", "BadExpirationDate", "BadPriority", "BadMessageId", "InvalidPushType")
    ),
    *((400, reason, (REFUSED, CAMPAIGN, None)) for reason in ("DuplicateHeaders", "PayloadEmpty")),
    (400, "MissingDeviceToken", (REFUSED, CAMPAIGN, None)),
    (404, "BadPath", (REFUSED, CAMPAIGN, None)),
    (405, "MethodNotAllowed", (REFUSED, CAMPAIGN, None)),
    (400, "IdleTimeout", (UNAVAILABLE, MESSAGE, 1)),
    *(
        (403, reason, (DENIED, LANE, None))
        for reason in ("ExpiredProviderToken", "InvalidProviderToken", "MissingProviderToken", "Forbidden")
    ),
    *(
        (403, reason, (DENIED, LANE, None))
        for reason in ("BadCertificate", "BadCertificateEnvironment", "BadEnvironmentKeyIdInToken")
    ),
    (403, "UnrelatedKeyIdInToken", (DENIED, LANE, None)),
    (413, "PayloadTooLarge", (REFUSED, MESSAGE, None)),
    (429, "TooManyRequests", (THROTTLED, DEVICE, 60)),
    (429, "TooManyProviderTokenUpdates", (THROTTLED, LANE, 60)),
    (429, "SomethingNew", (THROTTLED, LANE, 60)),
    (403, "SomethingNew", (DENIED, LANE, None)),
    (404, "SomethingNew", (DENIED, LANE, None)),
    (500, "InternalServerError", (UNAVAILABLE, MESSAGE, 900)),
    (503, "ServiceUnavailable", (UNAVAILABLE, MESSAGE, 900)),
    (503, "Shutdown", (UNAVAILABLE, LANE, 1)),
    (400, "SomethingNew", (REFUSED, MESSAGE, None)),
    (500, "SomethingNew", (UNAVAILABLE, MESSAGE, 900)),
]


@pytest.mark.parametrize(("status", "reason", "expected"), APNS_ROWS)
def test_apns_row(status: int, reason: str, expected: Row) -> None:
    """APNs' table, reason by reason; the code names status and reason."""
    came = apns.receipt(apns_error(status, reason), Address("apns", "ab"))
    assert (row(came), came.code) == (expected, f"{status} {reason}")


def test_apns_accepted_and_broken() -> None:
    """200 keeps the apns-id, an answer that is no JSON is judged by its status, silence is unknown."""
    address = Address("apns", "ab")
    came = apns.receipt(VendorAnswer(status=200, headers={"apns-id": ID}), address)
    assert (came.outcome, came.vendor_id) == (ACCEPTED, ID)
    assert row(apns.receipt(VendorAnswer(status=502, body=b"<html>"), address)) == (UNAVAILABLE, MESSAGE, 900)
    assert row(apns.receipt(VendorAnswer(failure="unknown"), address)) == (UNKNOWN, MESSAGE, None)
    assert row(apns.receipt(VendorAnswer(failure="unsent"), address)) == (UNAVAILABLE, LANE, 1)


def test_apns_answers_of_no_apns_are_about_the_way() -> None:
    """A redirect, a method or a log-in that a proxy wants would be everybody's answer; 408 has read nothing."""
    address = Address("apns", "ab")
    for status in (301, 302, 307, 401, 405, 407):
        assert row(apns.receipt(VendorAnswer(status=status, body=b"<html>"), address)) == (DENIED, LANE, None)
    assert row(apns.receipt(VendorAnswer(status=408), address)) == (UNAVAILABLE, MESSAGE, 900)


@pytest.mark.parametrize(
    ("answer", "left", "wait"),
    [
        (apns_error(503, "ServiceUnavailable"), 3600, 900),
        (apns_error(503, "ServiceUnavailable"), 600, 60),
        (apns_error(500, "InternalServerError"), 900, 60),
        (VendorAnswer(status=502, body=b"<html>"), 600, 60),
        (VendorAnswer(status=503, headers={"retry-after": "7"}), 600, 7),
        (apns_error(503, "Shutdown"), 600, 1),
        (apns_error(429, "TooManyRequests"), 600, 60),
        (apns_error(400, "IdleTimeout"), 600, 1),
    ],
)
def test_a_short_lived_push_is_tried_again(answer: VendorAnswer, left: int, wait: float) -> None:
    """Apple wants a quarter of an hour after a 5xx; a message that does not live so long gets an earlier try instead of
    none."""
    came = apns.receipt(answer, Address("apns", "ab"), left)
    assert came.retry_after == wait
    decision = decide(came, 0, NOW, NOW + left, RetryPolicy(floor=10, retries=5), 0.5)
    assert decision.state is State.WAITING
    assert NOW + wait <= decision.not_before < NOW + left


@pytest.mark.parametrize("reason", ["Unregistered", "ExpiredToken"])
@pytest.mark.parametrize(("registered", "outcome"), [(NOW - 1, GONE), (NOW, GONE), (NOW + 1, REFUSED)])
def test_apns_410_is_held_against_the_registration(reason: str, registered: float, outcome: Outcome) -> None:
    """A device that registered after APNs saw it gone is alive: the timestamp is in milliseconds."""
    answer = apns_error(410, reason, timestamp=int(NOW * 1000))
    came = apns.receipt(answer, Address("apns", "ab", registered))
    assert (came.outcome, came.code) == (outcome, f"410 {reason}")


def test_apns_request_has_the_documented_headers() -> None:
    """Topic, type, priority, expiration, collapse id and id; the app's own keys stand beside aps."""
    message = push(address=Address("apns", "a/b"), badge=0, sound="default", category="c", data={"k": "v", "aps": "x"})
    sent = apns.request(message, make_apns_payload(message), "https://h.example", "com.example.app", "JWT", 5.0)
    assert sent.url == "https://h.example/3/device/a%2Fb"
    assert set(sent.headers) >= {
        "authorization: bearer JWT",
        "apns-topic: com.example.app",
        "apns-push-type: alert",
        "apns-priority: 10",
        f"apns-expiration: {int(NOW) + 600}",
        "apns-collapse-id: 1_20260101",
        f"apns-id: {ID}",
    }
    body = json.loads(sent.body)
    alert = {"title": "Hello", "body": "World"}
    sdk = {"wzrk_rnv": "true", "wzrk_pivot": "wzrk_default"}
    assert body == sdk | {"k": "v", "aps": {"alert": alert, "badge": 0, "sound": "default", "category": "c"}}


def wns_answer(status: int, **headers: str) -> VendorAnswer:
    """An answer of WNS; header names with underscores."""
    return VendorAnswer(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


WNS_ROWS: list[tuple[VendorAnswer, Row]] = [
    (wns_answer(200), (ACCEPTED, MESSAGE, None)),
    (wns_answer(200, x_wns_status="received"), (ACCEPTED, MESSAGE, None)),
    (wns_answer(200, x_wns_notificationstatus="dropped"), (REFUSED, MESSAGE, None)),
    (wns_answer(200, x_wns_status="dropped"), (REFUSED, MESSAGE, None)),
    (wns_answer(200, x_wns_status="channelthrottled"), (THROTTLED, DEVICE, 600)),
    (wns_answer(400), (REFUSED, CAMPAIGN, None)),
    (wns_answer(401), (DENIED, LANE, None)),
    (wns_answer(403), (GONE, MESSAGE, None)),
    (wns_answer(404), (GONE, MESSAGE, None)),
    (wns_answer(405), (REFUSED, CAMPAIGN, None)),
    (wns_answer(406), (THROTTLED, LANE, 600)),
    (wns_answer(406, retry_after="20"), (THROTTLED, LANE, 20)),
    (wns_answer(410), (GONE, MESSAGE, None)),
    (wns_answer(410, x_wns_error_description="Domain Blocked"), (DENIED, LANE, None)),
    (wns_answer(412), (UNAVAILABLE, MESSAGE, 3600)),
    (wns_answer(413), (REFUSED, MESSAGE, None)),
    (wns_answer(500), (UNAVAILABLE, MESSAGE, 30)),
    (wns_answer(503), (UNAVAILABLE, MESSAGE, 30)),
    (wns_answer(503, retry_after="5"), (UNAVAILABLE, MESSAGE, 5)),
    (wns_answer(302), (REFUSED, MESSAGE, None)),
    (wns_answer(504), (UNAVAILABLE, MESSAGE, 30)),
    (wns_answer(402), (REFUSED, MESSAGE, None)),
    (VendorAnswer(failure="unknown"), (UNKNOWN, MESSAGE, None)),
    (VendorAnswer(failure="unsent"), (UNAVAILABLE, LANE, 30)),
]


@pytest.mark.parametrize(("answer", "expected"), WNS_ROWS)
def test_wns_row(answer: VendorAnswer, expected: Row) -> None:
    """WNS's table; 200 is only a yes when the notification status does not take it back."""
    assert row(wns.receipt(answer)) == expected


def test_wns_offline_device_is_noted() -> None:
    """A disconnected device is accepted all the same, and the receipt says so."""
    assert wns.receipt(wns_answer(200, x_wns_deviceconnectionstatus="disconnected")).detail == "offline"


@pytest.mark.parametrize(
    "channel",
    [
        "https://notify.windows.com/?token=a",
        "https://wns2-by3p.notify.windows.com/?token=AwYAAAD%2b",
        "https://DB5P.Notify.Windows.com:443/x",
        "https://127.0.0.1:8203/w/?token=1",
    ],
)
def test_wns_channel_allowed(channel: str) -> None:
    """Microsoft's domain by https, or the operator's own origin."""
    assert wns.is_allowed(channel, "https://127.0.0.1:8203")


@pytest.mark.parametrize(
    "channel",
    [
        "http://db5p.notify.windows.com/x",
        "https://notify.windows.com.evil.example/x",
        "https://evilnotify.windows.com/x",
        "https://evil.example/notify.windows.com/x",
        "https://evil.example#.notify.windows.com/x",
        "https://evil.example\\.notify.windows.com/x",
        "https://user@db5p.notify.windows.com/x",
        "https://db5p.notify.windows.com:8443/x",
        "https://db5p.notify.windows.com@evil.example/x",
        "https://db5p.notify.windows.com/x\r\nX: y",
        "https://db5p.notify.windows.com",
        "https://127.0.0.1:82030/x",
        "https://127.0.0.1:8203@evil.example/",
        "https://127.0.0.1:8203/x y",
        "",
    ],
)
def test_wns_channel_elsewhere_is_refused(channel: str) -> None:
    """A token of ours goes to nobody who merely looks like Microsoft."""
    assert not wns.is_allowed(channel, "https://127.0.0.1:8203")


def test_wns_toast_holds_hostile_text() -> None:
    """Markup, control characters and resource names in a message stay text; the launch string comes back whole."""
    hostile = push(title='<a b="c">&\x00', body=" MS-Resource:secret", data={"wzrk_id": "1&2"}, deep_link="app://x?y=<")
    tree = ElementTree.fromstring(toast.render(hostile))
    assert [text.text for text in tree.iter("text")] == ['<a b="c">&', "\u200bMS-Resource:secret"]
    assert tree.attrib["launch"] == "wzrk_id=1%262&wzrk_dl=app%3A%2F%2Fx%3Fy%3D%3C"
    assert tree.find("audio") is not None


def test_wns_tag_fits() -> None:
    """A short alphanumeric collapse key is its own tag, any other becomes sixteen digits that stand for it."""
    assert toast.make_tag("abc123") == "abc123"
    made = toast.make_tag("1_20260101")
    assert len(made) == 16
    assert made.isalnum()
    assert made != toast.make_tag("2_20260101")


SMTP_ROWS: list[tuple[str, Row]] = [
    ("250 2.0.0 Ok: queued as 4XyZ", (ACCEPTED, MESSAGE, None)),
    ("450 4.2.0 Greylisted", (UNAVAILABLE, MESSAGE, 300)),
    ("451 4.7.1 Try again later", (UNAVAILABLE, MESSAGE, 300)),
    ("452 4.3.1 Insufficient storage", (UNAVAILABLE, MESSAGE, 300)),
    ("421 4.3.2 Going down", (UNAVAILABLE, LANE, 60)),
    *((f"550 {code} No", (GONE, MESSAGE, None)) for code in ("5.1.1", "5.1.2", "5.1.10", "5.2.1")),
    ("452 4.2.2 Full", (UNAVAILABLE, DEVICE, 300)),
    ("552 5.2.2 Full", (REFUSED, MESSAGE, None)),
    *((f"550 {code} Policy", (REFUSED, MESSAGE, None)) for code in ("5.7.1", "5.7.26", "5.7.515")),
    ("550 5.4.1 Recipient address rejected: Access denied", (REFUSED, MESSAGE, None)),
    ("550 spam", (REFUSED, MESSAGE, None)),
    ("552 Too large", (REFUSED, CAMPAIGN, None)),
    ("554 5.3.4 Too large", (REFUSED, CAMPAIGN, None)),
    ("530 5.7.0 Must issue a STARTTLS command first", (DENIED, LANE, None)),
    ("534 5.7.9 Too weak", (DENIED, LANE, None)),
    ("535 5.7.8 Wrong", (DENIED, LANE, None)),
    ("454 4.7.0 TLS not available", (UNAVAILABLE, LANE, 300)),
    ("554 5.9.9 Unheard of", (REFUSED, MESSAGE, None)),
]


@pytest.mark.parametrize(("line", "expected"), SMTP_ROWS)
def test_smtp_row(line: str, expected: Row) -> None:
    """The table of replies: relay codes first, then the enhanced code, then the first digit."""
    came = smtp.receipt(VendorAnswer(status=int(line[:3]), replies=("250 2.1.0 Ok", line)))
    assert row(came) == expected
    assert came.outcome is ACCEPTED or came.code == " ".join(line.split()[: 2 if "." in line.split()[1] else 1])


@pytest.mark.parametrize(
    ("step", "line", "expected"),
    [
        (".", "454 Throttling failure: Maximum sending rate exceeded.", (THROTTLED, LANE, 10)),
        (".", "454 Throttling failure: Daily message quota exceeded.", (THROTTLED, LANE, 600)),
        ("RCPT", "550 5.4.5 Daily user sending limit exceeded.", (THROTTLED, LANE, 600)),
        ("RCPT", "550 5.4.5 Daily SMTP relay sending limit exceeded for customer.", (THROTTLED, LANE, 600)),
        (".", "550 5.1.90 you've reached your daily limit for message recipients", (THROTTLED, LANE, 600)),
        (".", "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", (THROTTLED, LANE, 600)),
        ("RCPT", "451 You've exceeded your messaging limits", (THROTTLED, LANE, 600)),
        ("RCPT", "550 Domain e.example has exceeded the max emails per hour (51/50 (102%))", (THROTTLED, LANE, 600)),
        ("STARTTLS", "454 4.7.0 TLS not available", (UNAVAILABLE, LANE, 300)),
        ("RCPT", "454 4.7.1 Relay access denied", (UNAVAILABLE, LANE, 300)),
        ("RCPT", "552 5.2.2 The mailbox is over its daily quota", (REFUSED, MESSAGE, None)),
        ("MAIL", "552 Message size exceeds maximum permitted", (REFUSED, CAMPAIGN, None)),
        ("MAIL", "550 no", (REFUSED, MESSAGE, None)),
        ("RCPT", "552 Mailbox full", (REFUSED, MESSAGE, None)),
    ],
)
def test_smtp_limits_are_ours(step: str, line: str, expected: Row) -> None:
    """What a relay lets us send in a second, an hour or a day stops the lane for a while, and loses nobody; a size is
    the campaign's."""
    assert row(smtp.receipt(VendorAnswer(status=int(line[:3]), replies=(line,), step=step))) == expected


def test_a_sender_that_is_not_verified_stops_the_lane() -> None:
    """As Amazon SES says it of every mail, without a code."""
    words = (
        "554 Message rejected: Email address is not verified. The following identities failed the check: n@e.example"
    )
    assert smtp.receipt(VendorAnswer(status=554, replies=(words,), step=".")).suspect


def test_a_mailbox_that_exchange_does_not_know_is_no_policy() -> None:
    """Ten of these among two hundred must not stop the relay's lane, as a policy's refusals do."""
    words = "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)"
    assert not smtp.receipt(VendorAnswer(status=550, replies=(words,), step="RCPT")).suspect
    assert smtp.receipt(VendorAnswer(status=550, replies=("550 5.4.1 Relay Access Denied",), step="RCPT")).suspect


def test_smtp_lost_connection() -> None:
    """Lost before the final dot nothing was taken, after it nobody knows."""
    assert row(smtp.receipt(VendorAnswer(failure="unsent"))) == (UNAVAILABLE, LANE, 60)
    assert row(smtp.receipt(VendorAnswer(failure="unknown"))) == (UNKNOWN, MESSAGE, None)


def test_mail_reads_back_as_written() -> None:
    """The bytes parse to the same texts, names and headers, in short CRLF lines, with a Message-ID that stays."""
    written = mail(subject="Grüße " * 30, sender_name='Jörg "J", X', html="<p>é</p>\n.\n" * 400)
    raw = mime.write(written, "news@e.example", NOW).join()
    assert raw == mime.write(written, "news@e.example", NOW).join()
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")
    assert max(map(len, raw.split(b"\r\n"))) < 998
    read = message_from_bytes(raw, policy=policy.default)
    assert not read.defects
    assert str(read["subject"]).strip() == written.subject.strip()
    assert [(one.display_name, one.addr_spec) for one in read["from"].addresses] == [('Jörg "J", X', "news@e.example")]
    assert (read["message-id"], read["x-tocsin-campaign"]) == (f"<{ID}@e.example>", "1_20260101")
    assert [part.get_content_type() for part in read.iter_parts()] == ["text/plain", "text/html"]
    html = read.get_body(("html",))
    assert html is not None
    assert html.get_content().replace("\r\n", "\n") == written.html


@pytest.mark.parametrize(
    "changed",
    [
        {"subject": "a\r\nBcc: b@example.com"},
        {"sender_name": "a\nb"},
        {"reply_to": "a@example.com\rX: y"},
        {"address": Address("email", "a@example.com>\r\nRCPT TO:<b@example.com")},
        {"address": Address("email", "a@example.com> SIZE=1")},
        {"address": Address("email", "nobody")},
        {"campaign": "1\n2"},
        {"html": "", "text": ""},
    ],
)
def test_mail_with_two_readings_is_not_rendered(changed: dict[str, Any]) -> None:
    """A line break in a header, or an address that is more than one, is found before anything is sent."""
    assert mime.find_fault(mail(**changed), "news@e.example")


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("webpush", 410, (GONE, MESSAGE, None)),
        ("webpush", 404, (GONE, MESSAGE, None)),
        ("sms", 410, (DENIED, LANE, None)),
        ("sms", 404, (DENIED, LANE, None)),
        *((kind, status, (DENIED, LANE, None)) for kind in ("sms", "webpush") for status in (301, 401, 403, 405)),
        *((kind, status, (REFUSED, MESSAGE, None)) for kind in ("sms", "webpush") for status in (400, 413, 422)),
        *((kind, 429, (THROTTLED, LANE, 60)) for kind in ("sms", "webpush")),
        *((kind, status, (UNAVAILABLE, MESSAGE, 30)) for kind in ("sms", "webpush") for status in (408, 502)),
    ],
)
def test_webhook_row(kind: str, status: int, expected: Row) -> None:
    """What a receiver of text messages or web pushes says, as the reference has it."""
    assert row(webhook.receipt(VendorAnswer(status=status), kind)) == expected


@pytest.mark.parametrize(("accepted", "lost"), [(0, 0), (500, SUSPECTS)])
def test_a_receiver_that_is_away_costs_no_browsers(accepted: int, lost: int) -> None:
    """Where its URL is wrong, or a proxy stands in for it, each message is answered 404: of 500 browsers hardly one is
    forgotten."""
    breaker = CircuitBreaker()
    breaker.accept(accepted, NOW)
    away = webhook.receipt(VendorAnswer(status=404), "webpush")
    came = [breaker.judge(away, NOW).outcome for _ in range(500)]
    assert came.count(GONE) <= lost


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (VendorAnswer(status=400, body=b'{"error":"invalid_grant"}'), (DENIED, LANE, None)),
        (VendorAnswer(status=401, body=b'{"error":"invalid_client"}'), (DENIED, LANE, None)),
        (VendorAnswer(status=400, body=b"<html>"), (DENIED, LANE, None)),
        (VendorAnswer(status=400, body=b'{"error":"server_error"}'), (UNAVAILABLE, LANE, 1)),
        (VendorAnswer(status=408), (UNAVAILABLE, LANE, 1)),
        (VendorAnswer(status=200, body=b'{"access_token":""}'), (UNAVAILABLE, LANE, 10)),
        (VendorAnswer(status=429, headers={"retry-after": "3"}), (UNAVAILABLE, LANE, 3)),
        (VendorAnswer(status=503), (UNAVAILABLE, LANE, 1)),
        (VendorAnswer(status=200, body=b"{}"), (UNAVAILABLE, LANE, 10)),
        (VendorAnswer(failure="unknown"), (UNAVAILABLE, LANE, 1)),
        (VendorAnswer(failure="unsent"), (UNAVAILABLE, LANE, 1)),
    ],
)
def test_token_endpoint_row(answer: VendorAnswer, expected: Row) -> None:
    """A refusal by the token endpoint stops the lane, its own trouble pauses it; a lost grant doubles nothing."""
    came = read_grant(answer)
    assert isinstance(came, Receipt)
    assert row(came) == expected


def test_token_lifetime_may_be_text_or_missing() -> None:
    """Entra writes its numbers as strings, one sample of the legacy log-in has none."""
    assert read_grant(VendorAnswer(status=200, body=b'{"access_token":"t","expires_in":"86399"}')) == ("t", 86399.0)
    assert read_grant(VendorAnswer(status=200, body=b'{"access_token":"t"}')) == ("t", 3600.0)
