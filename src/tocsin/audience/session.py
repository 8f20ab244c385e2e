"""`session_properties`: when an event was, beyond its day; and properties of the event that tell of its session."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Annotated, Any

from msgspec import UNSET, Meta

from tocsin.audience.condition import CONDITIONS, ConditionJson
from tocsin.audience.node import Condition, Session
from tocsin.errors import Invalid, show

CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
PAIRS = 20


class SessionJson(ConditionJson, frozen=True):
    """A time of the session by its name; any other name is a condition on the event's own properties."""

    def __post_init__(self) -> None:
        _ = self.node if self.time is None else self.time

    @cached_property
    def time(self) -> tuple[str, Any] | None:
        """The field of `Session` and its value. None: it is a condition."""
        name = self.given_name
        if name not in READERS:
            if (spelled := name.lower().replace(" ", "_")) in READERS:
                raise Invalid(f"{show(name)} is spelled {spelled}")
            return None
        if self.operator != "equals" or self.match != "any":
            raise Invalid(f"{name} takes equals only", ".operator")
        field, read, needed = READERS[name]
        value = None if self.value is UNSET else read(self.value)
        if value is None:
            raise Invalid(f"{name} must be {needed}", ".value")
        return field, value


Sessions = Annotated[tuple[SessionJson, ...], Meta(max_length=CONDITIONS)]


def read_session(those: Sequence[SessionJson]) -> tuple[Session, tuple[Condition, ...]]:
    """Return the times of the session, and the conditions that are about the event's own properties."""
    times: dict[str, Any] = {}
    for index, one in enumerate(those):
        if one.time is not None and one.time[0] in times:
            raise Invalid(f"{one.given_name} is given twice", f".session_properties[{index}]")
        times |= [one.time] if one.time else []
    return Session(**times), tuple(one.node for one in those if one.time is None)


def read_flag(value: Any) -> bool | None:
    """Return what `"True"` or `"False"`, the Boolean, or a list of one of them says; None for anything else."""
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    return {"true": True, "false": False}.get(str(text).lower())


def _read_minutes(value: Any) -> tuple[tuple[int, int], ...] | None:
    pairs = value if isinstance(value, list) and isinstance(value[0], list) else [value]
    read = []
    for pair in pairs:
        found = [CLOCK.fullmatch(str(one)) for one in pair] if isinstance(pair, list) else []
        minutes = [int(one[1]) * 60 + int(one[2]) for one in found if one]
        if not len(minutes) == len(found) == 2:
            return None
        read.append((minutes[0], minutes[1]))
    return tuple(read) if len(read) <= PAIRS else None


def _read_days(value: Any, last: int) -> tuple[int, ...] | None:
    days = [str(one) for one in (value if isinstance(value, list) else [value])]
    fits = all(re.fullmatch("[0-9]{1,2}", day) and 1 <= int(day) <= last for day in days)
    return tuple(dict.fromkeys(map(int, days))) if fits else None


# The session property of CleverTap → the field of Session, how its value is read, and what it must be.
READERS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "first_time": ("first", read_flag, '"True" or "False"'),
    "last_time": ("last", read_flag, '"True" or "False"'),
    "time_of_day": (
        "minutes",
        _read_minutes,
        f'a pair like ["22:30", "22:35"], or a list of at most {PAIRS} pairs',
    ),
    "day_of_week": ("weekdays", partial(_read_days, last=7), "a number from 1 to 7, or a list of them"),
    "day_of_month": ("monthdays", partial(_read_days, last=31), "a number from 1 to 31, or a list of them"),
}
