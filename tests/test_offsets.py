"""The clock of a time zone as numbers: at any moment that of the zone, quickly, however many spans are asked for."""

from __future__ import annotations

import time
from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from tocsin.audience.offsets import DAY, find_offsets

ZONES = ("Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "UTC")


@given(
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    first=st.dates(date(1970, 1, 2), date(2099, 12, 31)),
    days=st.integers(0, 400),
    second=st.integers(0, DAY - 1),
)
def test_any_moment_has_the_offset_of_its_zone(zone: ZoneInfo, first: date, days: int, second: int) -> None:
    changes, seconds = find_offsets(zone, first, first + timedelta(days))
    assert len(seconds) == len(changes) + 1
    for day in (first, first + timedelta(days // 2), first + timedelta(days)):
        at = datetime(day.year, day.month, day.day, tzinfo=zone) + timedelta(seconds=second)
        stamp = int(at.astimezone(UTC).timestamp())
        offset = datetime.fromtimestamp(stamp, zone).utcoffset()
        assert offset == timedelta(seconds=seconds[bisect_right(changes, stamp)])


def test_spans_that_callers_choose_cost_nothing() -> None:
    """A question may have 200 of them, of any days: they must not keep the server from everybody else."""
    zone = ZoneInfo("America/Caracas")
    began = time.monotonic()
    for day in range(1, 21):
        assert find_offsets(zone, date(1970, 1, day), date(2099, 12, 31)).changes
    assert time.monotonic() - began < 3.0
