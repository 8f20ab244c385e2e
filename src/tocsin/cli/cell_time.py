"""Times as people write them in files, read as epoch seconds."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

from tocsin.ingest.timestamp import FIRST_TS, LATEST_TS

# Digits of a number of milliseconds, microseconds and nanoseconds since 1973, and how many make a second.
FRACTIONS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
QUARTER = 900  # seconds; the offset of a zone never changes inside of one
NUMBER = re.compile(r"-?\d+(\.\d*)?")
ZONE_WORD = re.compile(r"\s*(UTC|GMT|Z)\Z", re.IGNORECASE)
SPACED_OFFSET = re.compile(r"\s+([+-]\d\d:?\d\d)\Z")
WORDS = ("%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%b %d %Y", "%b %d, %Y", "%d %b %Y", "%B %d, %Y", "%d %B %Y", "%d-%b-%Y")
DAY_FIRST = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?:,?[ T]+(.+))?")
SLASHES = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})(?:,?[ T]+(.+))?")
CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?(?: ?([AaPp])\.?[Mm]\.?)?")


class UnreadTime(ValueError):  # noqa: N818 - one cell's answer
    """A value is no time that is understood. Its text says why."""


def read_time(value: Any, zone: tzinfo) -> int:
    """Return a time as epoch seconds; one without an offset is a clock of `zone`.

    Numbers are seconds, milliseconds, microseconds or nanoseconds by their size, and `20261120100000` a date with its
    time, as CleverTap exports it. Raises UnreadTime, also for `03/04/2026`, which is in March or in April.
    """
    if isinstance(value, datetime):
        return _stamp(value, zone)
    if isinstance(value, date):
        return _stamp(datetime(value.year, value.month, value.day), zone)
    if isinstance(value, bool):
        raise UnreadTime("a time is a number or a text")
    if isinstance(value, int | float):
        return _read_number(str(value) if isinstance(value, int) else f"{value:.6f}", zone)
    if not isinstance(value, str):
        raise UnreadTime("a time is a number or a text")
    text = value.strip()
    if NUMBER.fullmatch(text):
        return _read_number(text, zone)
    return _read_text(text, zone)


def read_clocks(clocks: Any, zone: tzinfo) -> Any:
    """Return the epoch seconds that wall-clock times are in a zone. Both are Arrow arrays of seconds. Arrow itself goes
    by the system's time zones, of which Python may have newer ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    quarters = pc.divide(clocks, QUARTER).dictionary_encode()
    offsets = [_find_offset(one * QUARTER, zone) for one in quarters.dictionary.to_pylist()]
    return pc.subtract(clocks, pa.array(offsets, pa.int64()).take(quarters.indices))


def _find_offset(clock: int, zone: tzinfo) -> int:
    """Return how far a wall-clock time is ahead of UTC, in seconds."""
    try:
        local = datetime(1970, 1, 1) + timedelta(seconds=clock)
        return clock - int((local.replace(tzinfo=zone) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    except OverflowError:  # no year that Python knows
        return 0


def _read_number(text: str, zone: tzinfo) -> int:
    whole = text.partition(".")[0]
    if whole[:2] in ("19", "20") and len(whole) in (8, 14):
        try:
            return _stamp(datetime.strptime(whole, "%Y%m%d" if len(whole) == 8 else "%Y%m%d%H%M%S"), zone)
        except ValueError:
            pass
    number = int(whole)
    for least, parts in FRACTIONS:
        if number >= least:
            number //= parts
            break
    return _check(number, text)


def _read_text(text: str, zone: tzinfo) -> int:
    plain = SPACED_OFFSET.sub(r"\1", ZONE_WORD.sub("+00:00", text))
    for format in (None, *WORDS):
        try:
            moment = datetime.strptime(text, format) if format else datetime.fromisoformat(plain)
        except ValueError:
            continue
        return _stamp(moment, zone)
    if found := DAY_FIRST.fullmatch(text):
        day, month = int(found[1]), int(found[2])
    elif found := SLASHES.fullmatch(text):
        day, month = _order(int(found[1]), int(found[2]), text)
    else:
        raise UnreadTime(f"{text[:40]!r} is no time that is understood: write 2026-11-20 10:00:00 or epoch seconds")
    try:
        return _stamp(datetime(int(found[3]), month, day, *_read_clock(found[4])), zone)
    except ValueError:
        raise UnreadTime(f"{text[:40]!r} is not in the calendar") from None


def _order(first: int, second: int, text: str) -> tuple[int, int]:
    """Return (day, month) of a date with slashes, of which only one order can be."""
    if first > 12 or first == second:
        return first, second
    if second > 12:
        return second, first
    raise UnreadTime(f"{text[:40]!r} may be two days, by whether day or month come first: write 2026-11-20")


def _read_clock(text: str | None) -> tuple[int, int, int]:
    if not text:
        return 0, 0, 0
    found = CLOCK.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    hour = int(found[1])
    if found[4]:
        if not 1 <= hour <= 12:
            raise ValueError(text)
        hour = hour % 12 + (12 if found[4] in "pP" else 0)
    return hour, int(found[2]), int(found[3] or 0)


def _stamp(moment: datetime, zone: tzinfo) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    seconds = (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    return _check(int(seconds), str(moment))


def _check(seconds: int, text: str) -> int:
    if not FIRST_TS <= seconds < LATEST_TS:
        raise UnreadTime(f"{text[:40]!r} is before 1970 or after 2099")
    return seconds
