"""The clock of a time zone as numbers, for SQL. The facts store brings a time zone database of its own, which is of
another year than the one that days and schedules are made with: what is asked of both must come from one. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAY = 86_400


class Offsets(NamedTuple):
    """Moments at which the offset from UTC changes, in epoch seconds; and the offsets in seconds: before the first,
    between, after the last."""

    changes: tuple[int, ...]
    seconds: tuple[int, ...]


@lru_cache(maxsize=256)
def find_offsets(zone: ZoneInfo, first: date, last: date) -> Offsets:
    """Return the offsets of a zone over the days from the first to the last."""
    start, end = (int(datetime.combine(day, time(), UTC).timestamp()) for day in (first, last))
    at, changes = start - DAY, list[int]()
    seconds = [_offset_at(at, zone)]
    while at < end + 2 * DAY:
        after = at + DAY
        if _offset_at(after, zone) != seconds[-1]:
            changes.append(_find_change(at, after, zone))
            seconds.append(_offset_at(after, zone))
        at = after
    return Offsets(tuple(changes), tuple(seconds))


def _find_change(before: int, after: int, zone: ZoneInfo) -> int:
    """Return the first second of the new offset."""
    old = _offset_at(before, zone)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if _offset_at(middle, zone) == old else (before, middle)
    return after


def _offset_at(at: int, zone: ZoneInfo) -> int:
    offset = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at)).astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())
