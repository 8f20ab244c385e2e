"""Quiet hours in a form: a line for each day of the week, «22:00-08:00», several with commas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tocsin.dashboard.form_entry import FormMistake, show_struct_mistake
from tocsin.dashboard.texts import ENGLISH
from tocsin.policy import DAYS, NAMES, WINDOWS, QuietJson

WEEK = (*NAMES[1:], NAMES[0])  # as people read one
SPAN = re.compile(r"\s*([0-9]{1,2}:[0-9]{2})\s*(?:-|–|to)\s*([0-9]{1,2}:[0-9]{2})\s*")


class WeekForm(msgspec.Struct, frozen=True):
    """The fields of the form."""

    monday: str = ""
    tuesday: str = ""
    wednesday: str = ""
    thursday: str = ""
    friday: str = ""
    saturday: str = ""
    sunday: str = ""
    dnd_timezone: Literal["user", "account"] = "user"
    message_state: Literal["delay", "discard"] = "delay"


def show_week(stored: QuietJson) -> dict[str, Any]:
    """Return what the form shows of an account's quiet hours."""
    given = msgspec.to_builtins(stored)
    days = {
        name: ", ".join(f"{one['from']}-{one['to']}" for one in given["dnd_info"].get(day, []))
        for day, name in zip(DAYS, NAMES, strict=True)
    }
    return days | {name: given[name] for name in ("dnd_timezone", "message_state")}


def read_week(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `dnd` that a form means. Raise FormMistake."""
    days = {day: _read_day(name, values[name]) for day, name in zip(DAYS, NAMES, strict=True) if values.get(name)}
    if not days:
        raise FormMistake(WEEK[0], ENGLISH.quiet_needs_day)
    asked = {"dnd_info": days, **{name: values[name] for name in ("dnd_timezone", "message_state")}}
    for day, name in zip(DAYS, NAMES, strict=True):
        if day in days:
            show_struct_mistake(asked | {"dnd_info": {day: days[day]}}, QuietJson, (name,))
    return asked


def _read_day(name: str, text: str) -> list[dict[str, str]]:
    spans = [SPAN.fullmatch(part) for part in text.split(",")]
    if not all(spans) or len(spans) > WINDOWS:
        raise FormMistake(name, ENGLISH.quiet_day_wrong.format(most=WINDOWS))
    return [{"from": one[1].zfill(5), "to": one[2].zfill(5)} for one in spans if one]
