"""Conversions: who did what a campaign was for, in time after its message."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from tocsin.errors import Problem

TIME = re.compile(r"([0-9]{1,4})([mHDWM])")
UNITS = {"m": 60, "H": 3600, "D": 86_400, "W": 7 * 86_400, "M": 30 * 86_400}
LEAST, MOST = 60, 150 * 86_400  # a minute to five months, as in CleverTap


class Goal(msgspec.Struct, frozen=True):
    """An event, and the seconds after a message in which it counts for it."""

    event_name: str
    seconds: int


def read_goal(raw: Any) -> Goal | None:
    """The `conversion_goal` of a campaign. Raises Problem."""
    if raw is None:
        return None
    name = raw.get("event_name") if isinstance(raw, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise Problem("conversion_goal needs an event_name (at $.conversion_goal)")
    if raw.get("filter_type"):
        raise Problem("filter_type is not supported, and leaving it out would count more (at $.conversion_goal)")
    return Goal(name, read_time(raw.get("conversion_time", "1D"), "$.conversion_goal.conversion_time"))


def read_time(text: Any, place: str) -> int:
    """Seconds of a time such as 30m, 1H, 1D, 1W or 1M (30 days). Raises Problem."""
    found = TIME.fullmatch(text) if isinstance(text, str) else None
    seconds = int(found[1]) * UNITS[found[2]] if found else 0
    if not LEAST <= seconds <= MOST:
        raise Problem(f"a time is 1m to 5M, such as 30m, 1H, 1D, 1W (at {place})")
    return seconds
