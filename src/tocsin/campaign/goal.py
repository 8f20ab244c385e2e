"""The conversion goal of a campaign: an event, and how long after a message it counts."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tocsin.errors import Invalid, Problem

TIME = re.compile(r"([0-9]{1,4})([mHDWM])")
UNITS = {"m": 60, "H": 3600, "D": 86_400, "W": 7 * 86_400, "M": 30 * 86_400}
LEAST, MOST = 60, 150 * 86_400  # a minute to five months, as in CleverTap


class Goal(msgspec.Struct, frozen=True):
    """An event, and the seconds after a message in which it counts for it."""

    event_name: str
    seconds: int


class GoalJson(msgspec.Struct, frozen=True):
    """The `conversion_goal` of a campaign, as it is sent."""

    event_name: Annotated[str, Meta(pattern=r"\S", extra={"is": "a text that is not empty"})]
    conversion_time: str = "1D"
    filter_type: Any = None

    def __post_init__(self) -> None:
        if self.filter_type:
            raise Invalid("filter_type is not supported, and leaving it out would count more", ".filter_type")


def to_goal(asked: GoalJson) -> Goal:
    """Return the goal. Raise Problem for a time that is none."""
    return Goal(asked.event_name, read_time(asked.conversion_time, "$.conversion_goal.conversion_time"))


def read_time(text: str, place: str) -> int:
    """Return the seconds of a time such as 30m, 1H, 1D, 1W or 1M (30 days), of a minute to five months. Raise
    Problem."""
    found = TIME.fullmatch(text)
    seconds = int(found[1]) * UNITS[found[2]] if found else 0
    if not LEAST <= seconds <= MOST:
        raise Problem(f"a time is 1m to 5M, such as 30m, 1H, 1D, 1W (at {place})")
    return seconds
