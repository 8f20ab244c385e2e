"""Quiet hours: when nobody is to be disturbed, and how long that lasts. Pure.

A window belongs to the day it begins on, and each of its ends is one moment of that day (`local_time.py`), so a night
with a clock change is an hour shorter or longer and is quiet once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Literal

import msgspec
from msgspec import UNSET

from tocsin.campaign.local_time import to_epoch, to_local
from tocsin.policy import DAYS, NAMES, WINDOWS, QuietJson

ROUNDS = 7 * WINDOWS + 1


class Window(msgspec.Struct, frozen=True):
    """From a time of the day to a later one, or to one of the next day. The same twice is a whole day."""

    start: time
    end: time


class Quiet(msgspec.Struct, frozen=True):
    """windows: by weekday, Sunday is "1". zone: whose clock. state: what becomes of a message that meets one."""

    windows: dict[str, tuple[Window, ...]]
    zone: Literal["user", "account"]
    state: Literal["delay", "discard"]


def to_quiet(asked: QuietJson) -> Quiet:
    """Return the quiet hours of a `dnd`."""
    windows = {}
    for day, name in zip(DAYS, NAMES, strict=True):
        if (given := getattr(asked.dnd_info, name)) is not UNSET:
            windows[day] = tuple(Window(time.fromisoformat(one.start), time.fromisoformat(one.end)) for one in given)
    return Quiet(windows, asked.dnd_timezone, asked.message_state)


def quiet_until(quiet: Quiet, now: float, zone: tzinfo) -> float | None:
    """Return when it is no longer quiet, in epoch seconds; None when it is not quiet now, `inf` when there is no end
    within a week. Windows that touch are one."""
    at = now
    for _ in range(ROUNDS):
        end = max((end for start, end in _around(quiet, at, zone) if start <= at < end), default=None)
        if end is None:
            return at if at > now else None
        at = end
    return float("inf")


def _around(quiet: Quiet, at: float, zone: tzinfo) -> Iterator[tuple[float, float]]:
    """Yield the windows of the days around a moment, in epoch seconds. A clock change may move an end before its start:
    then there is nothing between them."""
    today = to_local(at, zone).date()
    for day in (today - timedelta(days=2), today - timedelta(days=1), today, today + timedelta(days=1)):
        for window in quiet.windows.get(_weekday(day), ()):
            last = day if window.start < window.end else day + timedelta(days=1)
            yield (
                to_epoch(datetime.combine(day, window.start), zone),
                to_epoch(datetime.combine(last, window.end), zone),
            )


def _weekday(day: date) -> str:
    return str(day.isoweekday() % 7 + 1)
