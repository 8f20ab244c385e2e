"""The time zone that a profile's `Tz` names, in the three spellings of CleverTap's SDKs: «an abbreviation, a full name,
or a custom ID»: `PST`, `America/Los_Angeles`, `GMT-8:00`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

OFFSET = re.compile(r"(?:UTC|GMT)?([+-])([0-9]{1,2}):?([0-9]{2})?")
# Java's, by which CleverTap goes: `java.time.ZoneId.SHORT_IDS`, without the three that are zones of their own.
ABBREVIATIONS: Mapping[str, str] = {
    "ACT": "Australia/Darwin",
    "AET": "Australia/Sydney",
    "AGT": "America/Argentina/Buenos_Aires",
    "ART": "Africa/Cairo",
    "AST": "America/Anchorage",
    "BET": "America/Sao_Paulo",
    "BST": "Asia/Dhaka",
    "CAT": "Africa/Harare",
    "CNT": "America/St_Johns",
    "CST": "America/Chicago",
    "CTT": "Asia/Shanghai",
    "EAT": "Africa/Addis_Ababa",
    "ECT": "Europe/Paris",
    "IET": "America/Indiana/Indianapolis",
    "IST": "Asia/Kolkata",
    "JST": "Asia/Tokyo",
    "MIT": "Pacific/Apia",
    "NET": "Asia/Yerevan",
    "NST": "Pacific/Auckland",
    "PLT": "Asia/Karachi",
    "PNT": "America/Phoenix",
    "PRT": "America/Puerto_Rico",
    "PST": "America/Los_Angeles",
    "SST": "Pacific/Guadalcanal",
    "VST": "Asia/Ho_Chi_Minh",
}


@lru_cache(maxsize=1024)
def find_zone(name: str) -> tzinfo | None:
    """Return the zone of a name such as Asia/Kolkata or PST, or of an offset such as +05:30, 14 hours at most. None for
    others."""
    text = name.strip()
    found = OFFSET.fullmatch(text)
    if found is not None:
        minutes = int(found[2]) * 60 + int(found[3] or 0)
        return timezone(timedelta(minutes=minutes if found[1] == "+" else -minutes)) if minutes <= 14 * 60 else None
    try:
        return ZoneInfo(ABBREVIATIONS.get(text, text)) if text and not text.startswith(("/", ".")) else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
