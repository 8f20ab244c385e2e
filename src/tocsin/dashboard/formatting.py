"""Numbers and times as people read them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def thousands(number: float) -> str:
    """A number with its thousands apart; money and the like with two decimals."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.2f}"


def rounded(number: float) -> str:
    """A number with one decimal below ten, and none above."""
    return f"{number:,.1f}" if number < 10 else f"{number:,.0f}"


def points(share: float) -> str:
    """A difference of rates in percentage points: «+1.25»."""
    return f"{share * 100:+.2f}"


def percent(part: int, whole: int) -> str:
    """A share in percent, with one decimal below ten; «–» of nothing."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.1f} %" if 0 < share < 10 else f"{share:.0f} %"


def lasting(minutes: float) -> str:
    """How long something takes, no more exactly than it is known: «about 3 minutes»."""
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        whole = round(minutes)
        return "about a minute" if whole == 1 else f"about {whole} minutes"
    hours = minutes / 60
    return f"about {hours:,.1f} hours" if hours < 48 else f"about {hours / 24:,.0f} days"


def short_time(at: float, zone: ZoneInfo, now: float) -> str:
    """A minute of the account's clock, with no more of the date than is needed: «today, 14:05», «3 Feb, 09:00»."""
    local, today = datetime.fromtimestamp(at, zone), datetime.fromtimestamp(now, zone)
    clock = f"{local:%H:%M}"
    if local.date() == today.date():
        return f"today, {clock}"
    year = "" if local.year == today.year else f" {local.year}"
    return f"{local.day} {MONTHS[local.month - 1]}{year}, {clock}"


def full_time(at: float, zone: ZoneInfo) -> str:
    """A second of the account's clock: «Mon 3 Feb 2025, 09:00:07»."""
    local = datetime.fromtimestamp(at, zone)
    return f"{DAYS[local.weekday()]} {local.day} {MONTHS[local.month - 1]} {local.year}, {local:%H:%M:%S}"


def iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def pretty_json(value: Any) -> str:
    """JSON with a line for each field."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def plain_json(value: Any) -> str:
    """JSON on one line."""
    return msgspec.json.encode(value).decode()
