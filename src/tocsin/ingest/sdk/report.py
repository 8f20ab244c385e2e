"""What one request of an SDK says, whichever SDK it was. Pure."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any, Literal

import msgspec

from tocsin.ingest.timestamp import FIRST_TS

ReportKind = Literal["profile", "event", "register", "unregister"]
# What became of a report that is not stored.
Dropped = Literal[
    "account",  # no app has this id and token
    "unreadable",  # no JSON, not packed as it should be, or not what an SDK sends
    "too large",
    "clock",  # a time a day ahead, or a year ago
    "internal",  # the SDK's own questions, pings and pages
    "forbidden",  # an event that only this server raises
    "property",  # one property that no profile or event may hold; the rest of it is kept
    "record",  # a name, an identity or a profile too many
    "token",  # no token of a push service that is known
    "stale",  # a later word was heard before
    "unconfirmed",  # identities and addresses that a device said, and the account does not take from devices
    "people",  # a device that names one person after another
    "push id",  # a view or click of a message that was not sent by this server, or not for this account, or long ago
]
# A CleverTap ID: a prefix and 32 hexadecimal digits, or what an app chose.
DEVICE = re.compile(r"[=|<>;+.A-Za-z0-9()!:$@_-]{1,128}")
AHEAD = 86_400.0  # seconds that a device's clock may be ahead
BEHIND = 366 * 86_400.0
VIEWS = {"Notification Viewed": "viewed", "Notification Clicked": "clicked"}
FETCH = "wzrk_fetch"
LAUNCHED = "App Launched"


class SdkReport(msgspec.Struct, frozen=True):
    """One thing that was told. at: epoch seconds by the device's clock. id: the same whenever it is told again. name:
    of an event, or the type of a token. data: properties; of a token {"id"}, and of a browser {"keys"}."""

    kind: ReportKind
    at: int
    id: int
    name: str = ""
    data: dict[str, Any] = {}


class SdkBatch(msgspec.Struct, frozen=True):
    """One request. device: the CleverTap ID. traits: what the app and the device are like, as properties of a profile.
    marks: properties that each event gets. views: (kind of interaction, id of the message). dropped: what is not
    stored, by reason."""

    device: str
    reports: list[SdkReport]
    views: list[tuple[str, str]]
    traits: dict[str, Any]
    marks: dict[str, Any]
    dropped: Counter[str]


def tells_traits(report: SdkReport) -> bool:
    """Return whether what the device is like is taken from the batch of a report: at the beginning of each session."""
    return report.kind == "profile" or (report.kind == "event" and report.name == LAUNCHED)


def is_device(value: Any) -> bool:
    """Return whether a value can be a CleverTap ID."""
    return isinstance(value, str) and DEVICE.fullmatch(value) is not None


def read_clock(value: Any, now: float) -> int | None:
    """Return the epoch seconds of a device's clock; None when it is too far off for anybody's history."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if max(FIRST_TS, now - BEHIND) <= value <= now + AHEAD else None


def make_id(*parts: bytes | str | int) -> int:
    """Return the 64-bit id of what was told, by what tells it from everything else."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return int.from_bytes(digest.digest(), "big")
