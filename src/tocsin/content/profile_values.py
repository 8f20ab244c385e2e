"""A profile as templates see it, and how its values read: as a person would write them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from liquid import Markup, escape

from tocsin.content.metering import WORK, weigh
from tocsin.store.time_zone import find_zone

FEW = 30  # keys that are looked through sooner than a table of them is made
_DATE = re.compile(r"\$D_(-?[0-9]{1,12})")


class ProfileDate(datetime):
    """A date of CleverTap, `$D_1795000000`, on the clock of the profile's `Tz`, else in UTC. It reads «18 Nov 2026»,
    and Liquid's `date` takes it."""

    def __str__(self) -> str:
        return f"{self.day} {self:%b %Y}"


class ProfileValues(Mapping[str, Any]):
    """The profile as templates see it. A key is looked up as it is spelled, then without regard to case."""

    def __init__(self, profile: Mapping[str, Any]):
        self._profile = profile
        self._spelled: dict[str, str] | None = None  # keys by their lower case, once one of many was looked for

    def __getitem__(self, key: str) -> Any:
        if key in self._profile:
            return self._read(self._profile[key])
        spelled = self._spell(str(key).lower())
        if spelled is None:
            raise KeyError(key)
        return self._read(self._profile[spelled])

    def __iter__(self) -> Iterator[str]:
        return iter(self._profile)

    def __len__(self) -> int:
        return len(self._profile)

    def __str__(self) -> str:
        return ""

    def find(self, key: str, folded: str) -> Any:
        """Return a value, None where there is none: a template shows nothing for both. folded: `key` in lower case."""
        profile = self._profile
        if key in profile:
            return self._read(profile[key])
        spelled = self._spell(folded)
        return None if spelled is None else self._read(profile[spelled])

    def _spell(self, folded: str) -> str | None:
        """Return a key as the profile spells it; of two the first."""
        if len(self._profile) <= FEW:
            for name in self._profile:
                if name.lower() == folded:
                    return name
            return None
        if self._spelled is None:
            self._spelled = {name.lower(): name for name in reversed(list(self._profile))}
        return self._spelled.get(folded)

    def _read(self, value: Any) -> Any:
        """Return a value with its dates."""
        if isinstance(value, str):
            return self._read_date(value) if value.startswith("$D_") else value
        # One that is too large for a message is not gone through.
        if not isinstance(value, list | dict) or weigh(value) > WORK:
            return value
        if isinstance(value, list):
            return [self._read(one) for one in value]
        return {key: self._read(one) for key, one in value.items()}

    def _read_date(self, text: str) -> Any:
        found = _DATE.fullmatch(text)
        if found is None:
            return text
        zone = find_zone(str(self._profile.get("Tz", ""))[:64]) or UTC
        try:
            return ProfileDate.fromtimestamp(int(found[1]), zone)
        except (ValueError, OverflowError, OSError):  # beyond the year 9999
            return text


def show_value(value: Any, *, html: bool) -> str:
    """Return a value as a message shows it, escaped if `html`: a list with commas, an object as JSON."""
    match value:
        case str():
            text = value
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            shown = [show_value(one, html=html) for one in value]
            return Markup(", ").join(shown) if html else ", ".join(shown)
        case dict():
            text = msgspec.json.encode(value, enc_hook=str).decode()
        case _:
            text = str(value)
    return escape(text) if html else text
