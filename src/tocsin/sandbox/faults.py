"""Fault scripts: which messages fail, how, and how often. This only decides; the servers carry it out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tocsin.errors import Problem

SCRIPTS_LIMIT = 64
"""Scripts in force at a time."""

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}$")]
_Value = Annotated[str, Meta(max_length=1000, pattern=r"^[ -~]*$")]
_FRAMING = frozenset(("connection", "content-length", "transfer-encoding"))

Vendor = Literal["fcm", "apns", "wns", "smtp", "webhook", "vapid"]
VENDORS: tuple[Vendor, ...] = ("fcm", "apns", "wns", "smtp", "webhook", "vapid")


class Kind(StrEnum):
    """What a fault does to a message.

    STATUS answers with an error. CUT accepts and counts the message, then drops the connection without an answer.
    GOAWAY and REFUSE reject it unprocessed: by a GOAWAY frame or RST_STREAM REFUSED_STREAM in HTTP/2, by closing the
    connection in HTTP/1.1; in SMTP GOAWAY is a 421 at MAIL and REFUSE a close at MAIL. DELAY processes it and answers
    `seconds` later. HANG neither processes nor answers it.

    HALF and VANISH accept and count the message, then send nothing more on the connection: HALF closes the sending
    side (and in HTTP/2 continues to read), VANISH neither reads nor closes, like a machine without power. SHRINK
    processes the message and sets the stream limit of its connection to `streams`, up to the vendor's own. HALF and
    VANISH are not for SMTP, and SHRINK is for HTTP/2.
    """

    STATUS = "status"
    CUT = "cut"
    GOAWAY = "goaway"
    REFUSE = "refuse"
    DELAY = "delay"
    HANG = "hang"
    HALF = "half"
    VANISH = "vanish"
    SHRINK = "shrink"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One script. share: the fraction of messages it hits. retry_after, seconds: in seconds. count: hits at most.

    status and code are the vendor's: an HTTP status and its errorCode, reason or description, or an SMTP reply code
    and the enhanced code; at a token endpoint the `error` of OAuth 2. timestamp: milliseconds, of an APNs 410. body
    and headers: the exact answer, as a proxy might give it. of: what it hits, messages or requests for an access token
    (FCM and WNS). streams: the limit that SHRINK sets.
    """

    vendor: Vendor
    kind: Kind
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    status: Annotated[int, Meta(ge=200, le=599)] | None = None
    code: Annotated[str, Meta(max_length=200, pattern=r"^[ -~]*$")] | None = None
    retry_after: Annotated[int, Meta(ge=0, le=86400)] | None = None
    seconds: Annotated[float, Meta(ge=0, le=3600)] | None = None
    count: Annotated[int, Meta(ge=0)] | None = None
    of: Literal["message", "token"] = "message"
    body: Annotated[str, Meta(max_length=16_384)] | None = None
    headers: Annotated[dict[_Name, _Value], Meta(max_length=16)] | None = None
    timestamp: Annotated[int, Meta(ge=0)] | None = None
    streams: Annotated[int, Meta(ge=1, le=1000)] | None = None


class _Script:
    """A fault in force, with its own seeded random numbers, so that the same run gets the same faults."""

    def __init__(self, fault: Fault, ordinal: int) -> None:
        self.fault = fault
        self.fired = 0
        self._random = random.Random(f"{fault.vendor}/{fault.kind}/{ordinal}")  # noqa: S311 - repeatable, not secret

    def fires(self) -> bool:
        if self.fault.count is not None and self.fired >= self.fault.count:
            return False
        if self._random.random() >= self.fault.share:
            return False
        self.fired += 1
        return True


class Faults:
    """The scripts in force, in the order they were added; the first that fires for a request decides."""

    def __init__(self) -> None:
        self._scripts: dict[Vendor, list[_Script]] = {vendor: [] for vendor in VENDORS}

    def add(self, faults: Sequence[Fault]) -> None:
        """Put scripts in force, all or none. Raise Problem when one is incomplete or there are too many."""
        for fault in faults:
            _require_complete(fault)
        if self._number() + len(faults) > SCRIPTS_LIMIT:
            raise Problem(f"At most {SCRIPTS_LIMIT} fault scripts may be in force; DELETE /faults forgets them.")
        for fault in faults:
            self._scripts[fault.vendor].append(_Script(fault, self._number()))

    def draw(self, vendor: Vendor, of: Literal["message", "token"] = "message") -> Fault | None:
        """Return the fault for the next message to `vendor`, or for the next request for a token; None for no fault."""
        for script in self._scripts[vendor]:
            if script.fault.of == of and script.fires():
                return script.fault
        return None

    def shown(self) -> list[dict[str, object]]:
        """Return the scripts, each with the number of times it has fired."""
        scripts = [script for vendor in VENDORS for script in self._scripts[vendor]]
        return [{**msgspec.to_builtins(script.fault), "fired": script.fired} for script in scripts]

    def forget(self) -> None:
        """Remove every script."""
        for scripts in self._scripts.values():
            scripts.clear()

    def _number(self) -> int:
        return sum(len(scripts) for scripts in self._scripts.values())


def _require_complete(fault: Fault) -> None:
    if fault.kind is Kind.STATUS and fault.status is None:
        raise Problem("A fault of kind `status` needs `status`.")
    if fault.kind is Kind.DELAY and fault.seconds is None:
        raise Problem("A fault of kind `delay` needs `seconds`.")
    if fault.kind is Kind.SHRINK and (fault.streams is None or fault.vendor not in ("fcm", "apns", "vapid")):
        raise Problem("A fault of kind `shrink` needs `streams` and a vendor of HTTP/2: fcm, apns or vapid.")
    if fault.of == "token" and fault.vendor not in ("fcm", "wns"):
        raise Problem("Only fcm and wns give out access tokens.")
    if any(name.lower() in _FRAMING for name in fault.headers or {}):
        raise Problem(f"The sandbox itself sets {', '.join(sorted(_FRAMING))}.")
    if fault.vendor == "smtp":
        _require_smtp(fault)


def _require_smtp(fault: Fault) -> None:
    if fault.kind is Kind.STATUS and (fault.status or 0) < 400:
        raise Problem("The `status` of an smtp fault is a reply code from 400 to 599.")
    if fault.kind in (Kind.HALF, Kind.VANISH) or fault.body is not None or fault.headers is not None:
        raise Problem("An smtp fault has no `body` or `headers`, and its kind is not `half` or `vanish`.")
