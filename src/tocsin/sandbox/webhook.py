"""The receiver of text messages and web pushes: `POST /sms` and `POST /webpush`, signed as Standard Webhooks says.

An address that contains `expired` gets 410. A real receiver would remember `webhook-id` and drop a repetition; this
one accepts it, so that it is counted as a duplicate.

Source: the Standard Webhooks specification, «Verifying webhook authenticity».
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any

import msgspec

from tocsin.sandbox.accepted import Accepted
from tocsin.sandbox.faults import Fault
from tocsin.sandbox.http import Head, VendorReply, VendorRequest, json_reply
from tocsin.sandbox.vendor import Ruling

PATHS = {"/sms": "message.sms", "/webpush": "message.webpush"}
TOLERANCE = 300
"""Seconds between the sender's clock and ours."""


class WebhookRules:
    """The rules of the receiver; they have no state of a connection. key: of the HMAC-SHA256 signatures."""

    def __init__(self, key: bytes) -> None:
        self.streams = 1
        self._key = key

    def is_message(self, head: Head) -> bool:
        """See VendorRules."""
        return head.method == "POST" and head.target in PATHS

    def is_grant(self, head: Head) -> bool:
        """See VendorRules. There are no access tokens."""
        return False

    def goaway_data(self, fault: Fault) -> bytes:
        """See VendorRules. HTTP/1.1 has no GOAWAY frame."""
        return b""

    def failure(self, fault: Fault, head: Head) -> VendorReply:
        """See VendorRules."""
        wait = () if fault.retry_after is None else (("retry-after", str(fault.retry_after)),)
        return _error(fault.status or 500, fault.code or "Refused by a fault script.", wait)

    def judge(self, request: VendorRequest) -> Ruling:
        """See VendorRules."""
        head = request.head
        if head.target not in PATHS:
            return Ruling(_error(404, "There is nothing here."))
        if head.method != "POST":
            return Ruling(_error(405, "A message is sent with POST."))
        if (problem := self._signature_problem(request)) is not None:
            return Ruling(_error(401, problem))
        try:
            body = msgspec.json.decode(request.body)
        except msgspec.DecodeError:
            return Ruling(_error(400, "The body is no JSON."))
        if (problem := _body_problem(body, PATHS[head.target])) is not None:
            return Ruling(_error(422, problem))
        data: dict[str, Any] = body["data"]
        to = data["to"] if isinstance(data["to"], str) else msgspec.json.encode(data["to"]).decode()
        if "expired" in to:
            return Ruling(_error(410, "The subscription is over."))
        accepted = Accepted(to, str(data["campaign"]), head.public_headers(), msgspec.Raw(request.body))
        return Ruling(json_reply(202, {"status": "queued"}), accepted)

    def _signature_problem(self, request: VendorRequest) -> str | None:
        head = request.head
        message_id, timestamp, given = (
            head.header(f"webhook-{name}") or "" for name in ("id", "timestamp", "signature")
        )
        if not message_id or not timestamp.isdigit():
            return "webhook-id or webhook-timestamp is missing."
        if abs(int(timestamp) - time.time()) > TOLERANCE:
            return "webhook-timestamp is too old or too new."
        signed = message_id.encode() + b"." + timestamp.encode() + b"." + request.body
        wanted = base64.b64encode(hmac.new(self._key, signed, hashlib.sha256).digest()).decode()
        versions = [one.partition(",") for one in given.split(" ")]
        if not any(version == "v1" and hmac.compare_digest(value, wanted) for version, _, value in versions):
            return "The signature is wrong."
        return None


def _body_problem(body: Any, kind: str) -> str | None:
    if not isinstance(body, dict) or body.get("type") != kind or not isinstance(body.get("data"), dict):
        return f"The body has to be an object with the type {kind} and data."
    data = body["data"]
    if not data.get("to") or not isinstance(data.get("content"), dict) or not data["content"].get("body"):
        return "data lacks to or content."
    if kind == "message.sms" and not (isinstance(data["to"], str) and data["to"].startswith("+")):
        return "to has to be a number that begins with +."
    return None


def _error(status: int, sentence: str, headers: tuple[tuple[str, str], ...] = ()) -> VendorReply:
    return json_reply(status, {"error": sentence}, headers)
