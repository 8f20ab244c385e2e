"""The time of a record: `ts` as the many clients of the API write it. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

FIRST_TS = 86_400  # 1970 began everywhere a day after it began in UTC; a Date in ClickHouse is not before 1970
LATEST_TS = 4_102_444_800  # the year 2100
FIRST_MILLISECOND = 100_000_000_000  # 1973; below it, and from LATEST_TS on, nobody knows which unit is meant
TEXT_LENGTH = 64  # letters of a time as a text
NUMBER = re.compile(r"\d{1,13}(\.\d{1,9})?")
# The zone's ends that `fromisoformat` does not read: «… UTC», « +0530», and Java's «+05:30[Asia/Kolkata]».
UTC_NAME = re.compile(r"\s*(UTC|GMT)$", re.IGNORECASE)
ZONE_APART = re.compile(r"\s+(?=[+-]\d\d:?(\d\d)?$)")
ZONE_NAME = re.compile(r"\[[\w/+-]{1,40}\]$")


def read_timestamp(value: Any) -> int | None:
    """Return the epoch seconds that a `ts` means: a number of seconds or of milliseconds, as JSON or as a text, or an
    ISO 8601 time with its zone. None for anything else: a time without a zone would be hours wrong."""
    seconds = _read_text(value) if isinstance(value, str) else _read_number(value)
    return int(seconds) if seconds is not None and FIRST_TS <= seconds < LATEST_TS else None


def _read_text(text: str) -> float | None:
    text = text.strip()
    if len(text) > TEXT_LENGTH or not text.isascii():
        return None
    return _read_number(float(text)) if NUMBER.fullmatch(text) else _read_iso(text)


def _read_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value / 1000 if FIRST_MILLISECOND <= value < LATEST_TS * 1000 else value


def _read_iso(text: str) -> float | None:
    text = ZONE_APART.sub("", UTC_NAME.sub("Z", ZONE_NAME.sub("", text)))
    try:
        moment = datetime.fromisoformat(text.upper())
        return None if moment.tzinfo is None else moment.timestamp()
    except (ValueError, OverflowError):
        return None
