"""Fault scripts: what shall go wrong, how often. Deciding is all this does; the servers carry it out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tocsin.errors import Problem

SCRIPTS_LIMIT = 64
"""How many scripts may be in force at a time."""

Vendor = Literal["fcm", "apns", "wns", "smtp"]
VENDORS: tuple[Vendor, ...] = ("fcm", "apns", "wns", "smtp")


class Kind(StrEnum):
    """What a fault does to a message.

    STATUS answers with an error. CUT accepts and counts the message, then drops the connection without an answer.
    GOAWAY and REFUSE turn it away unprocessed: by a GOAWAY frame or RST_STREAM REFUSED_STREAM in HTTP/2, by closing
    in HTTP/1.1; in SMTP GOAWAY is a 421 at MAIL and REFUSE a close there. DELAY handles it, then holds the answer
    back. HANG never handles and never answers it.
    """

    STATUS = "status"
    CUT = "cut"
    GOAWAY = "goaway"
    REFUSE = "refuse"
    DELAY = "delay"
    HANG = "hang"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One script. share: the part of messages it hits. retry_after, seconds: seconds. count: fires at most so often.

    status and code belong to the vendor: an HTTP status and its errorCode, reason or description, or an SMTP reply
    code and the enhanced code.
    """

    vendor: Vendor
    kind: Kind
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    status: Annotated[int, Meta(ge=200, le=599)] | None = None
    code: Annotated[str, Meta(max_length=200, pattern=r"^[ -~]*$")] | None = None
    retry_after: Annotated[int, Meta(ge=0, le=86400)] | None = None
    seconds: Annotated[float, Meta(ge=0, le=3600)] | None = None
    count: Annotated[int, Meta(ge=0)] | None = None


class _Script:
    """A fault in force: its own seeded chance, so the same run meets the same faults, and how often it has fired."""

    def __init__(self, fault: Fault, ordinal: int) -> None:
        self.fault = fault
        self.fired = 0
        self._chance = random.Random(f"{fault.vendor}/{fault.kind}/{ordinal}")  # noqa: S311 - repeatable on purpose

    def fires(self) -> bool:
        if self.fault.count is not None and self.fired >= self.fault.count:
            return False
        if self._chance.random() >= self.fault.share:
            return False
        self.fired += 1
        return True


class Faults:
    """The scripts in force, asked once per message in the order they were added; the first that fires wins."""

    def __init__(self) -> None:
        self._scripts: dict[Vendor, list[_Script]] = {vendor: [] for vendor in VENDORS}

    def add(self, faults: Sequence[Fault]) -> None:
        """Puts scripts in force, all or none. Raises Problem where one is incomplete or there are too many."""
        for fault in faults:
            _require_complete(fault)
        if self._number() + len(faults) > SCRIPTS_LIMIT:
            raise Problem(f"At most {SCRIPTS_LIMIT} fault scripts may be in force; DELETE /faults forgets them.")
        for fault in faults:
            self._scripts[fault.vendor].append(_Script(fault, self._number()))

    def draw(self, vendor: Vendor) -> Fault | None:
        """The fault that hits the next message for `vendor`, None where it is spared."""
        for script in self._scripts[vendor]:
            if script.fires():
                return script.fault
        return None

    def shown(self) -> list[dict[str, object]]:
        """The scripts with the number of times each has fired."""
        scripts = [script for vendor in VENDORS for script in self._scripts[vendor]]
        return [{**msgspec.to_builtins(script.fault), "fired": script.fired} for script in scripts]

    def forget(self) -> None:
        """Takes every script out of force."""
        for scripts in self._scripts.values():
            scripts.clear()

    def _number(self) -> int:
        return sum(len(scripts) for scripts in self._scripts.values())


def _require_complete(fault: Fault) -> None:
    if fault.kind is Kind.STATUS and fault.status is None:
        raise Problem("A fault of kind `status` needs `status`.")
    if fault.kind is Kind.STATUS and fault.vendor == "smtp" and (fault.status or 0) < 400:
        raise Problem("The `status` of an smtp fault is a reply code from 400 to 599.")
    if fault.kind is Kind.DELAY and fault.seconds is None:
        raise Problem("A fault of kind `delay` needs `seconds`.")
