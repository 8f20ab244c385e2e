"""One connection to a vendor over HTTP: fault scripts first, then the vendor's rules, then the counts."""

from __future__ import annotations

from typing import Protocol

import msgspec

from tocsin.sandbox.accepted import Accepted, AcceptedLog
from tocsin.sandbox.faults import Fault, Faults, Kind, Vendor
from tocsin.sandbox.http import End, Head, VendorReply, VendorRequest, json_reply
from tocsin.sandbox.refusals import RefusalLog, explain

_ENDS = {Kind.CUT: End.CUT, Kind.HALF: End.HALF, Kind.VANISH: End.VANISH}


class Ruling(msgspec.Struct, frozen=True):
    """The result of the rules. accepted: the message, if it was one. counted: whether an error counts as refused. why:
    what the sender has to know of an error that its answer does not say."""

    reply: VendorReply
    accepted: Accepted | None = None
    counted: bool = True
    why: str = ""


class VendorRules(Protocol):
    """A vendor's documented rules."""

    @property
    def streams(self) -> int:
        """Requests that a connection may have open at a time."""

    def is_message(self, head: Head) -> bool:
        """Return whether the request sends a message. Faults of messages hit nothing else."""

    def is_grant(self, head: Head) -> bool:
        """Return whether the request is for an access token."""

    def judge(self, request: VendorRequest) -> Ruling:
        """Check a whole request and return its answer, with the message when it is accepted."""

    def failure(self, fault: Fault, head: Head) -> VendorReply:
        """Return the error that a fault of kind `status` asks for, in the vendor's format, to a request with `head`."""

    def goaway_data(self, fault: Fault) -> bytes:
        """Return the debug data of a GOAWAY frame."""


class VendorConnection:
    """The RequestHandler of one connection to one vendor."""

    def __init__(
        self, vendor: Vendor, rules: VendorRules, faults: Faults, record: AcceptedLog, refusals: RefusalLog
    ) -> None:
        self._vendor = vendor
        self._rules = rules
        self._faults = faults
        self._record = record
        self._refusals = refusals
        self._limit: int | None = None
        record.connect(vendor)

    @property
    def streams(self) -> int:
        """See RequestHandler. A SHRINK fault lowers the vendor's own limit, and never raises it."""
        return self._rules.streams if self._limit is None else min(self._limit, self._rules.streams)

    def draw_fault(self, head: Head) -> Fault | None:
        """See RequestHandler."""
        if self._rules.is_grant(head):
            return self._faults.draw(self._vendor, "token")
        fault = self._faults.draw(self._vendor) if self._rules.is_message(head) else None
        if fault and fault.kind is Kind.SHRINK:
            self._limit = fault.streams
        return fault

    def goaway_data(self, fault: Fault) -> bytes:
        """See RequestHandler."""
        return self._rules.goaway_data(fault)

    def note_break(self, why: str) -> None:
        """See RequestHandler."""
        self._refusals.note(self._vendor, "a connection", "closed", why)

    def reply(self, request: VendorRequest) -> VendorReply:
        """See RequestHandler."""
        fault, kind = request.fault, request.fault.kind if request.fault else None
        grant = self._rules.is_grant(request.head)
        if grant:
            self._record.grant(self._vendor)
        if kind is Kind.HANG:
            return VendorReply(0, end=End.HANG)
        if fault and kind is Kind.STATUS:
            if not grant:
                self._record.refuse_by_fault(self._vendor, request.head.target, request.body)
            return self._failure(fault, request.head)
        ruling = self._rules.judge(request)
        if ruling.accepted:
            self._record.accept(self._vendor, ruling.accepted)
        elif ruling.counted and ruling.reply.status >= 400:
            self._record.refuse(self._vendor)
        if ruling.reply.status >= 400:
            self._note_refusal(request.head, ruling)
        if fault and fault.kind in _ENDS and (ruling.accepted or grant):
            return VendorReply(0, end=_ENDS[fault.kind])
        if fault and kind is Kind.DELAY:
            return msgspec.structs.replace(ruling.reply, seconds=fault.seconds or 0.0)
        return ruling.reply

    def _note_refusal(self, head: Head, ruling: Ruling) -> None:
        answer, sentence = explain(ruling.reply)
        self._refusals.note(self._vendor, f"{head.method} {head.target}", answer, ruling.why or sentence)

    def _failure(self, fault: Fault, head: Head) -> VendorReply:
        wait = () if fault.retry_after is None else (("retry-after", str(fault.retry_after)),)
        status = fault.status or 500
        if fault.body is not None or fault.headers is not None:
            named = tuple((name.lower(), value) for name, value in (fault.headers or {}).items())
            # RFC 9110 15.3.5 and 15.4.5: 204 and 304 have no content.
            return VendorReply(status, (*named, *wait), b"" if status in (204, 304) else (fault.body or "").encode())
        if fault.of == "token":
            # RFC 6749 5.2
            error = fault.code or ("server_error" if status >= 500 else "invalid_grant")
            return json_reply(status, {"error": error, "error_description": "Refused by a fault script."}, wait)
        return self._rules.failure(fault, head)
