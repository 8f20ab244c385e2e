"""What goes wrong at the vendors while campaigns go out, and what they have to show for it afterwards."""

from __future__ import annotations

from collections import Counter
from typing import Any

from conftest import Sandbox

STREAMS = 500
"""Requests that may be open on one HTTP/2 connection: a cut loses the answers of all of them."""

SCRIPTS: tuple[dict[str, Any], ...] = (
    # Tried again soon: the vendor itself says when, for else it would be 10 s (FCM) to 15 min (APNs) later.
    {"vendor": "fcm", "kind": "status", "status": 503, "code": "UNAVAILABLE", "retry_after": 1, "share": 0.01},
    {"vendor": "fcm", "kind": "status", "status": 500, "code": "INTERNAL", "retry_after": 0, "share": 0.02},
    {"vendor": "apns", "kind": "status", "status": 503, "retry_after": 1, "share": 0.01},
    {"vendor": "apns", "kind": "status", "status": 500, "retry_after": 0, "share": 0.02},
    {"vendor": "wns", "kind": "status", "status": 503, "retry_after": 0, "share": 0.02},
    # The whole lane pauses for a second.
    {"vendor": "fcm", "kind": "status", "status": 429, "code": "QUOTA_EXCEEDED", "retry_after": 1, "count": 3},
    # The device is dead for good.
    {"vendor": "fcm", "kind": "status", "status": 404, "code": "UNREGISTERED", "share": 0.01},
    {"vendor": "apns", "kind": "status", "status": 410, "code": "Unregistered", "share": 0.01},
    {"vendor": "wns", "kind": "status", "status": 410, "share": 0.01},
    {"vendor": "smtp", "kind": "status", "status": 550, "code": "5.1.1", "share": 0.01},
    # Accepted, and no answer: one message on HTTP/1.1 and SMTP, a connection full of them on HTTP/2.
    {"vendor": "fcm", "kind": "cut", "share": 0.002, "count": 1},
    {"vendor": "apns", "kind": "cut", "share": 0.002, "count": 1},
    {"vendor": "wns", "kind": "cut", "share": 0.005},
    {"vendor": "smtp", "kind": "cut", "share": 0.005},
    # Turned away unprocessed. (Not WNS and SMTP: closing there pauses the lane for 30 and 60 s.)
    {"vendor": "fcm", "kind": "goaway", "share": 0.001},
    {"vendor": "apns", "kind": "goaway", "share": 0.001},
    {"vendor": "fcm", "kind": "refuse", "share": 0.003},
    {"vendor": "apns", "kind": "refuse", "share": 0.003},
    # Slow.
    *({"vendor": name, "kind": "delay", "seconds": 0.05, "share": 0.02} for name in ("fcm", "apns", "wns", "smtp")),
)


BREAKING = ("cut", "goaway", "refuse")
"""They end or empty connections: what else is on those the vendor has not read, and has not seen."""


def set_faults(sandbox: Sandbox, *, breaking: bool) -> None:
    """All of them, or without the breaking ones, with their counts anew. The first that fires wins, so those that are
    counted go first."""
    sandbox.control.call("DELETE", "/faults")
    for script in sorted(SCRIPTS, key=lambda script: "count" not in script):
        if breaking or script["kind"] not in BREAKING:
            sandbox.fault(**script)


def read_cut(sandbox: Sandbox) -> int:
    """How many messages at most lost their answer because a script cut the connection."""
    lost = 0
    for script in sandbox.control.get("/faults")[1]["faults"]:
        if script["kind"] == "cut":
            lost += script["fired"] * (STREAMS if script["vendor"] in ("fcm", "apns") else 1)
    return lost


def read_accepted(sandbox: Sandbox) -> dict[int, Counter[str]]:
    """The addresses each campaign was accepted for, by the campaign's number, with how often."""
    found: dict[int, Counter[str]] = {}
    for vendor in ("fcm", "apns", "wns", "smtp"):
        for message in sandbox.messages(vendor):
            campaign = int(message["campaign"].partition("_")[0])
            found.setdefault(campaign, Counter())[message["address"]] += 1
    return found


def read_refused(sandbox: Sandbox) -> str:
    """Everything that arrived and was answered with an error, in which one may look for an address."""
    return "\n".join(f"{one['target']} {one['body']}" for one in sandbox.read_refused())


def count_accepted(sandbox: Sandbox) -> int:
    return sum(one["accepted"] for one in sandbox.counts().values())


def count_doubled(sandbox: Sandbox) -> int:
    return sum(one["duplicates"] for one in sandbox.counts().values())
