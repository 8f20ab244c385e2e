"""What the SDKs told of one person, so that what is told twice, or late, changes nothing. Pure.

Mobile SDKs send again until they hear an answer, and a request may overtake another. A profile report is applied once;
a property keeps the value that was said last by the devices' clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.ingest.record import is_operation

PROPERTIES = 300  # of which the time is kept, the ones said last
REPORTS = 200  # that are known to be applied, the latest ones


class Told(msgspec.Struct):
    """times: when a property was last said. applied: reports, with their times."""

    times: dict[str, int] = {}
    applied: dict[str, int] = {}

    def knows(self, report: int) -> bool:
        """Return whether a report was applied before."""
        return format(report, "x") in self.applied

    def take(self, changes: Mapping[str, Any], at: int, report: int = 0) -> dict[str, Any]:
        """Return those changes that no later word replaces, and remember them, and the report they are of. An increment
        and other changes of what is there are applied whenever they come."""
        kept = {key: value for key, value in changes.items() if is_operation(value) or at >= self.times.get(key, at)}
        for key, value in kept.items():
            if not is_operation(value) or "$delete" in value:
                self.times.pop(key, None)
                self.times[key] = at
        if report:
            self.applied[format(report, "x")] = at
        self.times = _newest(self.times, PROPERTIES)
        self.applied = _newest(self.applied, REPORTS)
        return kept


_decoder = msgspec.json.Decoder(Told)


def read_told(text: str | None) -> Told:
    """Return what the ledger has of a person; nothing for None."""
    return Told() if text is None else _decoder.decode(text)


def encode_told(told: Told) -> str:
    return msgspec.json.encode(told).decode()


def _newest(times: dict[str, int], most: int) -> dict[str, int]:
    if len(times) <= most:
        return times
    return dict(sorted(times.items(), key=lambda one: one[1])[-most:])
