"""Quiet hours: when nobody is to be disturbed, and how long that lasts. Pure.

A window belongs to the day it begins on, and each of its ends is one moment of that day (`zone.py`), so a night with a
clock change is an hour shorter or longer and is quiet once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Any, Literal

import msgspec

from tocsin.campaign.local_time import read_clock, to_epoch, to_local
from tocsin.errors import Problem

DAYS = ("1", "2", "3", "4", "5", "6", "7")  # Sunday is 1
WINDOWS = 8  # of one day
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


def read_quiet(raw: Any, place: str) -> Quiet | None:
    """The `dnd` object of a campaign (its shape: CleverTap's create-campaign). Raises Problem."""
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise Problem(f"dnd must be an object (at {place})")
    info = raw.get("dnd_info")
    if not isinstance(info, dict) or not info:
        raise Problem(f"dnd_info must be an object of lists, by weekday 1 (Sunday) to 7 (at {place}.dnd_info)")
    windows = {}
    for day, given in info.items():
        here = f"{place}.dnd_info.{day[:20]}"
        if day not in DAYS:
            raise Problem(f"a weekday is 1 (Sunday) to 7 (at {here})")
        if not isinstance(given, list) or len(given) > WINDOWS:
            raise Problem(f"must be a list of at most {WINDOWS} windows (at {here})")
        windows[day] = tuple(_read_window(one, f"{here}[{index}]") for index, one in enumerate(given))
    return Quiet(
        windows=windows,
        zone=_read_choice(raw, "dnd_timezone", ("user", "account"), "user", place),
        state=_read_choice(raw, "message_state", ("delay", "discard"), "delay", place),
    )


def _read_window(raw: Any, place: str) -> Window:
    start, end = (read_clock(raw.get(key)) if isinstance(raw, dict) else None for key in ("from", "to"))
    if start is None or end is None:
        raise Problem(f'a window is {{"from": "HH:MM", "to": "HH:MM"}} (at {place})')
    return Window(start, end)


def _read_choice(raw: Mapping[str, Any], key: str, known: tuple[str, ...], default: str, place: str) -> Any:
    value = raw.get(key, default)
    if value not in known:
        raise Problem(f"{key} must be one of {', '.join(known)} (at {place}.{key})")
    return value


def quiet_until(quiet: Quiet, now: float, zone: tzinfo) -> float | None:
    """When it is no longer quiet; None when it is not quiet now. Windows that touch are one. `inf` when there is no end
    within a week."""
    at = now
    for _ in range(ROUNDS):
        end = max((end for start, end in _around(quiet, at, zone) if start <= at < end), default=None)
        if end is None:
            return at if at > now else None
        at = end
    return float("inf")


def _around(quiet: Quiet, at: float, zone: tzinfo) -> Iterator[tuple[float, float]]:
    """The windows of the days around a moment, as moments. A clock change may move an end before its start: then there
    is nothing between them."""
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
