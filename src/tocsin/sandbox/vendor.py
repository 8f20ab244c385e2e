"""One HTTP vendor's side of a connection: its rules, with the fault scripts before and the record behind them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from tocsin.sandbox.exchange import End, Head, Reply, Request
from tocsin.sandbox.faults import Fault, Faults, Kind, Vendor
from tocsin.sandbox.record import Accepted, Record


class Verdict(msgspec.Struct, frozen=True):
    """What the rules say of a request. counted: whether an error answer to it is a refused message."""

    reply: Reply
    accepted: Accepted | None = None
    counted: bool = True


class Rules(Protocol):
    """A vendor's documented rules, for one connection."""

    @property
    def streams(self) -> int:
        """How many requests may be open at a time."""

    def is_message(self, head: Head) -> bool:
        """Whether the request sends a message; faults hit nothing else."""

    def judge(self, request: Request) -> Verdict:
        """The verdict on a whole request."""

    def failure(self, fault: Fault) -> Reply:
        """The error that a fault of kind `status` asks for, in the vendor's format."""

    def farewell(self, fault: Fault) -> bytes:
        """The debug data of a GOAWAY frame."""


class Counter:
    """The conversation of one connection with one vendor."""

    def __init__(self, vendor: Vendor, rules: Rules, faults: Faults, record: Record) -> None:
        self._vendor = vendor
        self._rules = rules
        self._faults = faults
        self._record = record
        record.connect(vendor)

    @property
    def streams(self) -> int:
        """See Conversation."""
        return self._rules.streams

    def opening(self, head: Head) -> Fault | None:
        """See Conversation."""
        return self._faults.draw(self._vendor) if self._rules.is_message(head) else None

    def farewell(self, fault: Fault) -> bytes:
        """See Conversation."""
        return self._rules.farewell(fault)

    def reply(self, request: Request) -> Reply:
        """See Conversation."""
        kind = request.fault.kind if request.fault else None
        if kind is Kind.HANG:
            return Reply(0, end=End.HANG)
        if request.fault and kind is Kind.STATUS:
            self._record.refuse(self._vendor)
            return self._rules.failure(request.fault)
        verdict = self._rules.judge(request)
        if verdict.accepted:
            self._record.accept(self._vendor, verdict.accepted)
            if kind is Kind.CUT:
                return Reply(0, end=End.CUT)
        elif verdict.counted and verdict.reply.status >= 400:
            self._record.refuse(self._vendor)
        if request.fault and kind is Kind.DELAY:
            return msgspec.structs.replace(verdict.reply, seconds=request.fault.seconds or 0.0)
        return verdict.reply
