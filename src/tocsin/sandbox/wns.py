"""WNS: `POST /w/?token=…` or `/?token=…` over HTTP/1.1, with bearer tokens of either of Microsoft's endpoints.

The channel selects the answer: a token that contains `expired` gets 410, `notfound` 404, `foreign` 403 (the
channel of another app), `dropped` 200 with status dropped, `throttled` 200 with channelthrottled; with `offline` the
device counts as not connected. A client that was pointed here sends the channel it has as `X-Tocsin-Channel`: that is
the address of what was accepted.

Source: Microsoft Learn, «Push notification service request and response headers (Windows Runtime apps)».
"""

from __future__ import annotations

import re
import secrets
import time
from xml.etree import ElementTree

from tocsin.sandbox.accepted import Accepted
from tocsin.sandbox.faults import Fault
from tocsin.sandbox.http import Head, VendorReply, VendorRequest
from tocsin.sandbox.toast import Malformed, campaign_in, read_document
from tocsin.sandbox.vendor import Ruling
from tocsin.sandbox.wns_grant import WnsGrant

PAYLOAD_LIMIT = 5000
"""Bytes."""

CHANNEL_PATH = "/w/"

TYPES = {
    "wns/toast": "text/xml",
    "wns/tile": "text/xml",
    "wns/badge": "text/xml",
    "wns/raw": "application/octet-stream",
}
"""The Content-Type that each X-WNS-Type requires."""

_CHANNEL = re.compile(r"(?:/w)?/\?token=([^&#\s]{1,2048})")
_RULES = {
    "x-wns-requestforstatus": re.compile(r"true|false"),
    "x-wns-ttl": re.compile(r"[1-9]\d{0,9}"),
    "x-wns-tag": re.compile(r"[A-Za-z0-9]{1,16}"),
    "x-wns-group": re.compile(r"[A-Za-z0-9]{1,16}"),
    "x-wns-priority": re.compile(r"[1-4]"),
    "x-wns-cache-policy": re.compile(r"cache|no-cache"),
    "ms-cv": re.compile(r"[!-~]{1,127}"),
}
_PHONE_ONLY = ("x-wns-suppresspopup", "x-wns-match")
_CHANNEL_ERRORS = (
    ("expired", 410, "The channel expired."),
    ("notfound", 404, "The channel URI is not valid."),
    ("foreign", 403, "The channel belongs to another app."),
)


class WnsRules:
    """WNS's rules; they have no state of a connection. endpoint: `https://127.0.0.1:PORT`, for a message's address."""

    def __init__(self, grant: WnsGrant, endpoint: str) -> None:
        self.streams = 1
        self._grant = grant
        self._endpoint = endpoint

    def is_message(self, head: Head) -> bool:
        """See VendorRules."""
        return head.method == "POST" and _CHANNEL.match(head.target) is not None

    def is_grant(self, head: Head) -> bool:
        """See VendorRules."""
        return head.method == "POST" and self._grant.serves(head)

    def goaway_data(self, fault: Fault) -> bytes:
        """See VendorRules. HTTP/1.1 has no GOAWAY frame."""
        return b""

    def failure(self, fault: Fault, head: Head) -> VendorReply:
        """See VendorRules. `code` is the notification status of a 200 and the location of a redirect."""
        status, code = fault.status or 500, fault.code or ""
        headers = [] if fault.retry_after is None else [("Retry-After", str(fault.retry_after))]
        if status < 300:
            return _outcome(code or "dropped", None)
        if status < 400:
            return VendorReply(status, (("Location", code or "https://localhost/w/"), *headers))
        throttled = status == 406
        return _error(status, code or f"Refused with {status}.", tuple(headers), throttled=throttled)

    def judge(self, request: VendorRequest) -> Ruling:
        """See VendorRules."""
        head = request.head
        sized = head.header("transfer-encoding") is None and head.header("content-length") is not None
        if head.method == "POST" and not sized:
            return Ruling(_error(411, "Content-Length is required and chunked bodies are not supported."))
        if self._grant.serves(head):
            return Ruling(self._grant.answer(request), counted=False)
        channel = _CHANNEL.fullmatch(head.target)
        if channel is None:
            return Ruling(_error(404, "The channel URI is not valid."))
        if head.method != "POST":
            return Ruling(_error(405, "A notification is sent with POST."))
        if not self._grant.valid(head.header("authorization"), time.time()):
            challenge = (("WWW-Authenticate", 'Bearer error="invalid_token"'),)
            return Ruling(_error(401, "The access token is missing, wrong or expired.", challenge))
        return self._judge_message(request, channel[1])

    def _judge_message(self, request: VendorRequest, channel: str) -> Ruling:
        problem = _header_problem(request.head)
        if problem:
            return Ruling(_error(400, problem))
        if len(request.body) > PAYLOAD_LIMIT:
            return Ruling(_error(413, f"The payload is over {PAYLOAD_LIMIT} bytes."))
        try:
            root = _document(request)
        except Malformed as malformed:
            return Ruling(_error(400, str(malformed)))
        for marker, status, sentence in _CHANNEL_ERRORS:
            if marker in channel:
                return Ruling(_error(status, sentence))
        dropped = any(request.head.header(name) for name in _PHONE_ONLY) or "dropped" in channel
        asked = request.head.header("x-wns-requestforstatus") == "true"
        connection = ("disconnected" if "offline" in channel else "connected") if asked else None
        if dropped or "throttled" in channel:
            return Ruling(_outcome("dropped" if dropped else "channelthrottled", connection))
        campaign = campaign_in(root) if root is not None else ""
        message = Accepted(
            request.head.header("x-tocsin-channel") or self._endpoint + request.head.target,
            campaign or request.head.header("x-wns-tag") or "",
            request.head.public_headers(),
            request.body.decode("utf-8", "replace"),
        )
        return Ruling(_outcome("received", connection), message)


def _document(request: VendorRequest) -> ElementTree.Element | None:
    wns_type = request.head.header("x-wns-type") or ""
    if wns_type == "wns/raw":
        return None
    return read_document(request.body, wns_type)


def _header_problem(head: Head) -> str | None:
    """Return a sentence on the first header that breaks a rule, else None."""
    wns_type = head.header("x-wns-type")
    if wns_type not in TYPES:
        return f"X-WNS-Type has to be one of {', '.join(TYPES)}."
    content_type = (head.header("content-type") or "").partition(";")[0].strip().lower()
    if content_type != TYPES[wns_type]:
        return f"The Content-Type of {wns_type} is {TYPES[wns_type]}."
    for name, value in head.headers:
        rule = _RULES.get(name)
        if rule is not None and not rule.fullmatch(value):
            return f"The value of {name} is not allowed."
    if wns_type == "wns/toast" and head.header("x-wns-cache-policy") is not None:
        return "X-WNS-Cache-Policy is for tiles, badges and raw notifications."
    if head.header("expect") is not None:
        return "Expect: 100-continue is not supported."
    return None


def _outcome(status: str, connection: str | None) -> VendorReply:
    """Return a 200 with both names of the status header: X-WNS-Status of today's documentation and the older name."""
    headers = [*_identity(), ("X-WNS-Status", status), ("X-WNS-NotificationStatus", status)]
    if connection:
        headers.append(("X-WNS-DeviceConnectionStatus", connection))
    if status == "dropped":
        headers.append(("X-WNS-Error-Description", "The notification was dropped."))
    return VendorReply(200, tuple(headers))


def _error(
    status: int, description: str, headers: tuple[tuple[str, str], ...] = (), *, throttled: bool = False
) -> VendorReply:
    outcome = "channelthrottled" if throttled else "dropped"
    named = (("X-WNS-Status", outcome), ("X-WNS-NotificationStatus", outcome), ("X-WNS-Error-Description", description))
    return VendorReply(status, (*_identity(), *named, *headers))


def _identity() -> list[tuple[str, str]]:
    """Return X-WNS-Msg-ID (at most 16 characters) and the debug trace."""
    number = secrets.token_hex(8).upper()
    return [("X-WNS-Msg-ID", number), ("X-WNS-Debug-Trace", f"SANDBOX-{number[:6]}")]
