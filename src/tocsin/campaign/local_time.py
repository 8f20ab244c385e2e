"""Wall-clock times and the moments they are. Pure.

The rule of this project: a time that a clock change leaves out is moved on by what the clock left out; a time that
comes twice is its first; so each local time is one moment of each day. PEP 495's `fold=0` says the same.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any

from tocsin.store.time_zone import find_zone

EARLIEST = timezone(timedelta(hours=14))  # where a day begins first
LATEST = timezone(timedelta(hours=-12))  # and last


def to_epoch(local: datetime, zone: tzinfo) -> float:
    """Return the moment of a wall-clock time without a zone, in epoch seconds."""
    return local.replace(tzinfo=zone, fold=0).timestamp()


def to_local(at: float, zone: tzinfo) -> datetime:
    """Return what the clocks of a zone show at a moment."""
    return datetime.fromtimestamp(at, UTC).astimezone(zone).replace(tzinfo=None, fold=0)


def next_time(clock: time, after: float, zone: tzinfo) -> float:
    """Return the first moment at or after `after` that is this time of a day."""
    day = to_local(after, zone).date() - timedelta(days=1)
    while (found := to_epoch(datetime.combine(day, clock), zone)) < after:
        day += timedelta(days=1)
    return found


def read_zone(value: Any, otherwise: tzinfo) -> tzinfo:
    """Return a profile's own zone, or the account's where it has none that is known."""
    found = find_zone(value) if isinstance(value, str) and len(value) < 64 else None
    return otherwise if found is None else found


def read_day(text: Any) -> date | None:
    """Return the day of a text or a number YYYYMMDD; None for anything else."""
    try:
        return datetime.strptime(str(text), "%Y%m%d").date() if len(str(text)) == 8 else None
    except ValueError:
        return None
