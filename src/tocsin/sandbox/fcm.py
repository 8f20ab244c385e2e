"""FCM's HTTP v1 API: `POST /v1/projects/{project}/messages:send` and, on the same port, `POST /token`.

The registration token selects the answer: one that contains `-unregistered` gets 404 UNREGISTERED, one with
`-mismatch` 403 SENDER_ID_MISMATCH, one shorter than 8 characters or with other than printable ASCII 400
INVALID_ARGUMENT. The same holds for an installation id (`fid`).

Source: Firebase documentation, REST reference of `projects.messages.send`, `ErrorCode` and `FcmError`.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import msgspec

from tocsin.sandbox.accepted import Accepted
from tocsin.sandbox.credentials import PROJECT
from tocsin.sandbox.faults import Fault
from tocsin.sandbox.fcm_grant import Bearers, FcmGrant
from tocsin.sandbox.fcm_message import check_message
from tocsin.sandbox.fcm_schema import SEND_REQUEST, Violation
from tocsin.sandbox.http import Head, VendorReply, VendorRequest, json_reply
from tocsin.sandbox.vendor import Ruling

STREAMS = 100
"""Requests one connection may have open, as Google's SDKs assume."""

TOKEN_PATH = "/token"  # noqa: S105 - a path

_SEND = re.compile(r"/v1/projects/([^/?]+)/messages:send(?:\?.*)?")
_WELL_FORMED = re.compile(r"[!-~]{8,4096}")
_BAD_TOKEN = "The registration token is not a valid FCM registration token"  # noqa: S105 - a sentence

_STATUS_OF_CODE = {
    "UNSPECIFIED_ERROR": "UNKNOWN",
    "INVALID_ARGUMENT": "INVALID_ARGUMENT",
    "UNREGISTERED": "NOT_FOUND",
    "SENDER_ID_MISMATCH": "PERMISSION_DENIED",
    "QUOTA_EXCEEDED": "RESOURCE_EXHAUSTED",
    "UNAVAILABLE": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
    "THIRD_PARTY_AUTH_ERROR": "UNAUTHENTICATED",
    "APNS_AUTH_ERROR": "UNAUTHENTICATED",
}
"""google.rpc status by FcmError errorCode; any other code is a google.rpc status without an FcmError."""

_CODE_OF_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNREGISTERED",
    429: "QUOTA_EXCEEDED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}

_SENTENCES = {
    "INVALID_ARGUMENT": _BAD_TOKEN,
    "UNREGISTERED": "Requested entity was not found.",
    "SENDER_ID_MISMATCH": "SenderId mismatch",
    "QUOTA_EXCEEDED": "Quota exceeded for the message rate of this project.",
    "UNAVAILABLE": "The service is currently unavailable.",
    "INTERNAL": "Internal error encountered.",
}


class FcmRules:
    """FCM's rules. They have no state of a connection, so one object serves all connections."""

    def __init__(self, grant: FcmGrant, bearers: Bearers) -> None:
        self.streams = STREAMS
        self._grant = grant
        self._bearers = bearers

    def is_message(self, head: Head) -> bool:
        """See VendorRules."""
        return head.method == "POST" and _SEND.fullmatch(head.target) is not None

    def is_grant(self, head: Head) -> bool:
        """See VendorRules."""
        return head.method == "POST" and head.target == TOKEN_PATH

    def goaway_data(self, fault: Fault) -> bytes:
        """See VendorRules."""
        return (fault.code or "session_timed_out").encode()

    def failure(self, fault: Fault, head: Head) -> VendorReply:
        """See VendorRules."""
        status = fault.status or 500
        code = fault.code or _CODE_OF_HTTP.get(status, "INTERNAL")
        headers = () if fault.retry_after is None else (("retry-after", str(fault.retry_after)),)
        return _error(status, code, _SENTENCES.get(code, f"The request failed with {code}."), headers)

    def judge(self, request: VendorRequest) -> Ruling:
        """See VendorRules."""
        head = request.head
        if head.target == TOKEN_PATH:
            if head.method != "POST":
                return Ruling(_page(405), counted=False)
            return Ruling(self._grant.answer(request.body), counted=False)
        path = _SEND.fullmatch(head.target)
        if path is None or head.method != "POST":
            return Ruling(_page(404))
        if not self._bearers.valid(head.header("authorization"), time.time()):
            why = f"no access token of this sandbox's {TOKEN_PATH}, or one that ran out or was taken back"
            return Ruling(_error(401, "UNAUTHENTICATED", "The request has no valid OAuth 2 access token."), why=why)
        if path[1] != PROJECT:
            why = f"the project in the path is {path[1][:100]}, the service account's is {PROJECT}"
            return Ruling(_error(403, "PERMISSION_DENIED", "This account may not send for this project."), why=why)
        return self._judge_body(request)

    def _judge_body(self, request: VendorRequest) -> Ruling:
        try:
            sent = SEND_REQUEST(_decode(request.body), "")
            if "message" not in sent:
                raise Violation("message", "The field message is required.")
            check_message(sent["message"])
        except Violation as violation:
            return Ruling(_bad_request(violation), why=violation.explain())
        message = sent["message"]
        address = message.get("fid", message.get("token"))
        if address is not None:
            refusal = _refusal(address)
            if refusal is not None:
                return Ruling(refusal, why=f"the device's token asks for this answer: {address[:100]}")
        name = {"name": f"projects/{PROJECT}/messages/0:{uuid.uuid4().hex}"}
        if sent.get("validate_only"):
            return Ruling(json_reply(200, {"name": f"projects/{PROJECT}/messages/fake_message_id"}))
        return Ruling(json_reply(200, name), _accepted(message, address, request))


def _accepted(message: dict[str, Any], address: str | None, request: VendorRequest) -> Accepted:
    target = address or message.get("topic") or message.get("condition", "")
    android = message.get("android") or message.get("android_v2", {})
    campaign = message.get("data", {}).get("wzrk_id") or android.get("collapse_key", "")
    return Accepted(target, campaign, request.head.public_headers(), msgspec.Raw(request.body))


def _refusal(address: str) -> VendorReply | None:
    """Return the error that the device's token asks for, else None."""
    if not _WELL_FORMED.fullmatch(address):
        return _error(400, "INVALID_ARGUMENT", _BAD_TOKEN)
    if "-unregistered" in address:
        return _error(404, "UNREGISTERED", _SENTENCES["UNREGISTERED"])
    if "-mismatch" in address:
        return _error(403, "SENDER_ID_MISMATCH", _SENTENCES["SENDER_ID_MISMATCH"])
    return None


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Violation("", f"Invalid JSON payload received. {error}") from None


def _bad_request(violation: Violation) -> VendorReply:
    described = {"field": violation.field, "description": violation.description}
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [described]}]
    error = {"code": 400, "message": violation.description, "status": "INVALID_ARGUMENT", "details": details}
    return json_reply(400, {"error": error})


def _error(status: int, code: str, sentence: str, headers: tuple[tuple[str, str], ...] = ()) -> VendorReply:
    """Return an error with an FcmError when `code` is one of its codes, else with the google.rpc status alone."""
    error: dict[str, Any] = {"code": status, "message": sentence, "status": _STATUS_OF_CODE.get(code, code)}
    if code in _STATUS_OF_CODE:
        kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
        error["details"] = [{"@type": kind, "errorCode": code}]
    if code == "QUOTA_EXCEEDED":
        violation = {"subject": f"project:{PROJECT}", "description": sentence}
        error["details"].append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    return json_reply(status, {"error": error}, headers)


def _page(status: int) -> VendorReply:
    """Return the HTML page that Google's front end gives for an unknown path."""
    body = f"<!DOCTYPE html><html lang=en><title>Error {status}</title><p>{status}. There is nothing here.</html>"
    return VendorReply(status, (("content-type", "text/html; charset=UTF-8"),), body.encode())
