"""The clock of a time zone as numbers, for SQL. The facts store brings a time zone database of its own, which is of
another year than the one that days and schedules are made with: what is asked of both must come from one. Pure."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAY = 86_400
LAST = 2**32 - 1  # the last second that facts' `at` can hold


class Offsets(NamedTuple):
    """Moments at which the offset from UTC changes, in epoch seconds; and the offsets in seconds: before the first,
    between, after the last."""

    changes: tuple[int, ...]
    seconds: tuple[int, ...]


def find_offsets(zone: ZoneInfo, first: date, last: date) -> Offsets:
    """Return the offsets of a zone over the days from the first to the last."""
    start, end = (int(datetime.combine(day, time(), UTC).timestamp()) for day in (first, last))
    every = list_offsets(zone)
    before, past = bisect_right(every.changes, start - DAY), bisect_right(every.changes, end + 2 * DAY)
    return Offsets(every.changes[before:past], every.seconds[before : max(before, past) + 1])


@lru_cache(maxsize=1024)  # 50 ms each, and there are some 600 zones
def list_offsets(zone: ZoneInfo) -> Offsets:
    """Return all offsets of a zone that an event can meet."""
    before, changes, seconds = 0, list[int](), [_offset_at(0, zone)]
    for at in (*range(DAY, LAST, DAY), LAST):
        if (offset := _offset_at(at, zone)) != seconds[-1]:
            changes.append(_find_change(before, at, zone))
            seconds.append(offset)
        before = at
    return Offsets(tuple(changes), tuple(seconds))


def _find_change(before: int, after: int, zone: ZoneInfo) -> int:
    """Return the first second of the new offset."""
    old = _offset_at(before, zone)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if _offset_at(middle, zone) == old else (before, middle)
    return after


def _offset_at(at: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())
