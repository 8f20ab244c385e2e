"""One HTTP vendor's side of a connection: its rules, with the fault scripts before and the record behind them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from tocsin.sandbox.accepted import Accepted, AcceptedLog
from tocsin.sandbox.faults import Fault, Faults, Kind, Vendor
from tocsin.sandbox.http import End, Head, VendorReply, VendorRequest, json_reply

_ENDS = {Kind.CUT: End.CUT, Kind.HALF: End.HALF, Kind.VANISH: End.VANISH}


class Ruling(msgspec.Struct, frozen=True):
    """What the rules say of a request. counted: whether an error answer to it is a refused message."""

    reply: VendorReply
    accepted: Accepted | None = None
    counted: bool = True


class VendorRules(Protocol):
    """A vendor's documented rules, for one connection."""

    @property
    def streams(self) -> int:
        """How many requests may be open at a time."""

    def is_message(self, head: Head) -> bool:
        """Whether the request sends a message; faults hit nothing else."""

    def is_grant(self, head: Head) -> bool:
        """Whether the request is for an access token."""

    def judge(self, request: VendorRequest) -> Ruling:
        """The verdict on a whole request."""

    def failure(self, fault: Fault) -> VendorReply:
        """The error that a fault of kind `status` asks for, in the vendor's format."""

    def farewell(self, fault: Fault) -> bytes:
        """The debug data of a GOAWAY frame."""


class VendorConnection:
    """The conversation of one connection with one vendor."""

    def __init__(self, vendor: Vendor, rules: VendorRules, faults: Faults, record: AcceptedLog) -> None:
        self._vendor = vendor
        self._rules = rules
        self._faults = faults
        self._record = record
        self._limit: int | None = None
        record.connect(vendor)

    @property
    def streams(self) -> int:
        """See Conversation. A SHRINK fault goes below the vendor's own limit, never above it."""
        return self._rules.streams if self._limit is None else min(self._limit, self._rules.streams)

    def opening(self, head: Head) -> Fault | None:
        """See Conversation."""
        if self._rules.is_grant(head):
            return self._faults.draw(self._vendor, "token")
        fault = self._faults.draw(self._vendor) if self._rules.is_message(head) else None
        if fault and fault.kind is Kind.SHRINK:
            self._limit = fault.streams
        return fault

    def farewell(self, fault: Fault) -> bytes:
        """See Conversation."""
        return self._rules.farewell(fault)

    def reply(self, request: VendorRequest) -> VendorReply:
        """See Conversation."""
        fault, kind = request.fault, request.fault.kind if request.fault else None
        grant = self._rules.is_grant(request.head)
        if grant:
            self._record.grant(self._vendor)
        if kind is Kind.HANG:
            return VendorReply(0, end=End.HANG)
        if fault and kind is Kind.STATUS:
            if not grant:
                self._record.refuse(self._vendor)
            return self._failure(fault)
        verdict = self._rules.judge(request)
        if verdict.accepted:
            self._record.accept(self._vendor, verdict.accepted)
        elif verdict.counted and verdict.reply.status >= 400:
            self._record.refuse(self._vendor)
        if fault and fault.kind in _ENDS and (verdict.accepted or grant):
            return VendorReply(0, end=_ENDS[fault.kind])
        if fault and kind is Kind.DELAY:
            return msgspec.structs.replace(verdict.reply, seconds=fault.seconds or 0.0)
        return verdict.reply

    def _failure(self, fault: Fault) -> VendorReply:
        wait = () if fault.retry_after is None else (("retry-after", str(fault.retry_after)),)
        status = fault.status or 500
        if fault.body is not None or fault.headers is not None:
            named = tuple((name.lower(), value) for name, value in (fault.headers or {}).items())
            # RFC 9110 15: these two have no content.
            return VendorReply(status, (*named, *wait), b"" if status in (204, 304) else (fault.body or "").encode())
        if fault.of == "token":
            # RFC 6749 5.2
            error = fault.code or ("server_error" if status >= 500 else "invalid_grant")
            return json_reply(status, {"error": error, "error_description": "Refused by a fault script."}, wait)
        return self._rules.failure(fault)
