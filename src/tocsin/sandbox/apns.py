"""APNs: `POST /3/device/<token>` over HTTP/2 only, with provider tokens.

The device token selects the answer: one that ends with `dead` gets 410 Unregistered with the present time, one that
begins with `bad0`, or is all zeros, 400 BadDeviceToken, one that begins with `bad1` 400 DeviceTokenNotForTopic.

Source: Apple, «Sending notification requests to APNs» and «Handling notification responses from APNs». The order of
the checks is that of pushy's validating mock server. Apple's table has no reason for malformed JSON; it gets
PayloadEmpty.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import msgspec

from tocsin.sandbox.accepted import Accepted
from tocsin.sandbox.apns_token import ProviderTokens, TokenPolicy
from tocsin.sandbox.credentials import TOPIC
from tocsin.sandbox.faults import Fault
from tocsin.sandbox.http import Head, VendorReply, VendorRequest, json_reply
from tocsin.sandbox.vendor import Ruling

STREAMS_UNPROVEN, STREAMS_PROVEN = 1, 1000
"""Requests a connection may have open before and after its first accepted provider token."""

PAYLOAD_LIMIT, VOIP_PAYLOAD_LIMIT = 4096, 5120
"""Bytes."""

COLLAPSE_ID_LIMIT = 64
"""Bytes."""

TOPIC_SUFFIXES = {
    "alert": "",
    "background": "",
    "mdm": "",
    "complication": ".complication",
    "controls": ".push-type.controls",
    "fileprovider": ".pushkit.fileprovider",
    "liveactivity": ".push-type.liveactivity",
    "location": ".location-query",
    "pushtotalk": ".voip-ptt",
    "voip": ".voip",
    "widgets": ".push-type.widgets",
}
"""What follows the bundle id in the topic, by push type."""

FREE_TYPES = ("voip", "mdm", "fileprovider", "complication", "pushtotalk")
"""Push types whose payload is the sender's own: `aps` may be missing (Apple, PKPushPayload and MDM protocol)."""

_DEVICE_PATH = "/3/device/"
_HEX = re.compile(r"[0-9a-f]{32,400}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TOPIC_FORM = re.compile(r"[A-Za-z0-9.\-]{1,255}")
_WHOLE = re.compile(r"\d{1,12}")
_ONCE = (
    "authorization",
    *(f"apns-{name}" for name in ("id", "topic", "priority", "expiration", "collapse-id", "push-type")),
)

_REASON_OF_HTTP = {
    400: "BadDeviceToken",
    403: "InvalidProviderToken",
    404: "BadPath",
    405: "MethodNotAllowed",
    410: "Unregistered",
    413: "PayloadTooLarge",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


class _Refused(Exception):  # noqa: N818 - an answer, not an error of this program
    def __init__(self, status: int, reason: str, why: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.why = why


class ApnsRules:
    """APNs's rules for one connection, whose stream limit and provider token change during it."""

    def __init__(self, tokens: ProviderTokens) -> None:
        self.streams = STREAMS_UNPROVEN
        self._policy = TokenPolicy(tokens)

    def is_message(self, head: Head) -> bool:
        """See VendorRules."""
        return head.target.startswith(_DEVICE_PATH)

    def is_grant(self, head: Head) -> bool:
        """See VendorRules. APNs has no token endpoint: senders sign their tokens themselves."""
        return False

    def goaway_data(self, fault: Fault) -> bytes:
        """See VendorRules. Apple sends JSON with a reason from the table of error codes."""
        return msgspec.json.encode({"reason": fault.code or "Shutdown"})

    def failure(self, fault: Fault, head: Head) -> VendorReply:
        """See VendorRules."""
        status = fault.status or 500
        headers = () if fault.retry_after is None else (("retry-after", str(fault.retry_after)),)
        reason = fault.code or _REASON_OF_HTTP.get(status, "InternalServerError")
        return _error(status, reason, head.header("apns-id") or str(uuid.uuid4()), headers, fault.timestamp)

    def judge(self, request: VendorRequest) -> Ruling:
        """See VendorRules."""
        apns_id = request.head.header("apns-id") or str(uuid.uuid4())
        if not _UUID.fullmatch(apns_id):
            why = f"apns-id is {apns_id[:50]}, not a UUID in small letters with hyphens"
            return Ruling(_error(400, "BadMessageId", str(uuid.uuid4())), why=why)
        headers = dict(request.head.headers)
        try:
            token = self._check_head(request.head, headers)
            self._check_sender(request.head)
            if not token.strip("0"):
                raise _Refused(400, "BadDeviceToken", "a device token of zeros is nobody's")
            payload = _check_payload(request.body, headers.get("apns-push-type"))
        except _Refused as refused:
            return Ruling(_error(refused.status, refused.reason, apns_id), why=refused.why)
        campaign = payload.get("wzrk_id") or headers.get("apns-collapse-id", "")
        message = Accepted(token, str(campaign), request.head.public_headers(), msgspec.Raw(request.body))
        return Ruling(VendorReply(200, (("apns-id", apns_id),)), message)

    def _check_head(self, head: Head, headers: dict[str, str]) -> str:
        """Return the device token. Raise _Refused when method, headers, path or token break a rule."""
        if len(headers) != len(head.headers):
            names = [name for name, _ in head.headers]
            if doubled := [name for name in _ONCE if names.count(name) > 1]:
                raise _Refused(400, "DuplicateHeaders", f"{doubled[0]} is there twice")
        if head.method != "POST":
            raise _Refused(405, "MethodNotAllowed", "a notification is sent with POST")
        _check_headers(headers)
        token = _check_path(head.target)
        if token.endswith("dead"):
            raise _Refused(410, "Unregistered", "the device's token ends with dead, which asks for this answer")
        if token.startswith("bad1"):
            raise _Refused(400, "DeviceTokenNotForTopic", "the device's token begins with bad1, which asks for this")
        return token

    def _check_sender(self, head: Head) -> None:
        refusal = self._policy.refusal(head.header("authorization"), time.time())
        if refusal:
            raise _Refused(*refusal)
        self.streams = STREAMS_PROVEN


def _check_headers(headers: dict[str, str]) -> None:
    push_type = headers.get("apns-push-type", "alert")
    _check_topic(headers.get("apns-topic"), TOPIC_SUFFIXES.get(push_type, ""))
    if len(headers.get("apns-collapse-id", "").encode("latin-1")) > COLLAPSE_ID_LIMIT:
        raise _Refused(400, "BadCollapseId", f"apns-collapse-id is over {COLLAPSE_ID_LIMIT} bytes")
    priority = headers.get("apns-priority", "10")
    if priority not in ("10", "5", "1") or (push_type == "background" and priority != "5"):
        raise _Refused(400, "BadPriority", f"apns-priority is {priority[:10]} (10 by default): a background push has 5")
    if not _WHOLE.fullmatch(headers.get("apns-expiration", "0")):
        raise _Refused(400, "BadExpirationDate", "apns-expiration is a time in whole seconds since 1970, or 0")
    if push_type not in TOPIC_SUFFIXES:
        raise _Refused(400, "InvalidPushType", f"apns-push-type is {push_type[:30]}, not {', '.join(TOPIC_SUFFIXES)}")


def _check_topic(topic: str | None, suffix: str) -> None:
    if not topic:
        raise _Refused(400, "MissingTopic", f"there is no apns-topic; it has to be {TOPIC + suffix}")
    if not _TOPIC_FORM.fullmatch(topic):
        raise _Refused(400, "BadTopic", f"apns-topic is {topic[:50]!r}, no bundle id")
    if topic != TOPIC + suffix:
        raise _Refused(400, "TopicDisallowed", f"apns-topic is {topic}, and this sandbox's app is {TOPIC + suffix}")


def _check_path(target: str) -> str:
    if not target.startswith(_DEVICE_PATH):
        raise _Refused(404, "BadPath", f"the path is {_DEVICE_PATH} and the device's token")
    token = target[len(_DEVICE_PATH) :].lower()
    if not token:
        raise _Refused(400, "MissingDeviceToken", f"nothing follows {_DEVICE_PATH}")
    if not _HEX.fullmatch(token):
        raise _Refused(400, "BadDeviceToken", "a device's token is 32 to 400 hexadecimal digits")
    if token.startswith("bad0"):
        raise _Refused(400, "BadDeviceToken", "the device's token begins with bad0, which asks for this answer")
    return token


def _check_payload(body: bytes, push_type: str | None) -> dict[str, Any]:
    if not body:
        raise _Refused(400, "PayloadEmpty", "there is no body")
    limit = VOIP_PAYLOAD_LIMIT if push_type == "voip" else PAYLOAD_LIMIT
    if len(body) > limit:
        raise _Refused(413, "PayloadTooLarge", f"the payload is over {limit} bytes")
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _Refused(400, "PayloadEmpty", "the body is no JSON") from None
    if not isinstance(payload, dict):
        raise _Refused(400, "PayloadEmpty", "the payload is no JSON object")
    aps = payload.get("aps")
    if aps is None and payload and push_type in FREE_TYPES:
        return dict(payload)
    if not isinstance(aps, dict):
        raise _Refused(400, "PayloadEmpty", f"the payload of a push of type {push_type or 'alert'} needs an object aps")
    # Apple: the push type must match the payload.
    shown = any(key in aps for key in ("alert", "badge", "sound"))
    if push_type == "background" and (shown or aps.get("content-available") != 1):
        raise _Refused(400, "InvalidPushType", "a background push has content-available 1 and no alert, badge or sound")
    if push_type == "alert" and not shown:
        raise _Refused(400, "InvalidPushType", "an alert has one of alert, badge and sound")
    return dict(payload)


def _error(
    status: int,
    reason: str,
    apns_id: str,
    headers: tuple[tuple[str, str], ...] = (),
    timestamp: int | None = None,
) -> VendorReply:
    content: dict[str, object] = {"reason": reason}
    if status == 410:
        # milliseconds; apns-expiration and iat are seconds
        content["timestamp"] = int(time.time() * 1000) if timestamp is None else timestamp
    return json_reply(status, content, (("apns-id", apns_id), *headers))
