"""Quiet hours as they are sent: the `dnd` of a campaign, and of an account."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from tocsin.errors import Invalid

Clock = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z", extra={"is": "a time of day, HH:MM"})]
NAMES = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
DAYS = ("1", "2", "3", "4", "5", "6", "7")  # as they are sent
WEEK = "an object of lists, by weekday 1 (Sunday) to 7"
WINDOWS = 8  # of one day


class WindowJson(msgspec.Struct, frozen=True):
    start: Clock = field(name="from")
    end: Clock = field(name="to")


Windows = Annotated[tuple[WindowJson, ...], Meta(max_length=WINDOWS)]


class WeekJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=dict(zip(NAMES, DAYS, strict=True))):
    """`dnd_info`: windows by weekday, "1" (Sunday) to "7". Not a dict, whose keys msgspec leaves out of a place."""

    sunday: Windows | UnsetType = UNSET
    monday: Windows | UnsetType = UNSET
    tuesday: Windows | UnsetType = UNSET
    wednesday: Windows | UnsetType = UNSET
    thursday: Windows | UnsetType = UNSET
    friday: Windows | UnsetType = UNSET
    saturday: Windows | UnsetType = UNSET

    def __post_init__(self) -> None:
        if all(getattr(self, name) is UNSET for name in NAMES):
            raise Invalid(f"dnd_info must be {WEEK}")


class QuietJson(msgspec.Struct, frozen=True):
    """The `dnd` object (its shape: CleverTap's create-campaign)."""

    dnd_info: Annotated[WeekJson, Meta(extra={"is": WEEK})]
    dnd_timezone: Literal["user", "account"] = "user"
    message_state: Literal["delay", "discard"] = "delay"
