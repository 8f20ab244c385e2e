"""When a campaign is sent: the `when` of a request, and the runs it means. Pure.

A run has a wall-clock time. On the account's clock that is one moment; on each user's own it is a moment for each zone,
and the run begins where the day does. Recurring runs are made one after the other.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Any, Literal

import msgspec

from tocsin.campaign.local_time import EARLIEST, LATEST, next_time, read_clock, read_day, to_epoch, to_local
from tocsin.campaign.quiet_hours import Quiet, read_quiet
from tocsin.errors import Problem

WHEN = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2}) ([0-9]{2}):([0-9]{2})")
LATEST_YEAR = 2100
DATES = 100  # of one campaign
JUST_NOW = 60.0  # «now» to the minute is not the past
MONTHS_AHEAD = 240  # looked through for a day that exists
Unit = Literal["day", "week", "month"]


class Repeat(msgspec.Struct, frozen=True):
    """Every so many days, weeks or months; on these weekdays (Sunday is 1) or days of the month, by default that of the
    first run. It ends with a day or after so many runs; both None: it does not end by itself."""

    every: int
    unit: Unit
    days: tuple[int, ...] = ()
    last_day: date | None = None
    runs: int | None = None


class When(msgspec.Struct, frozen=True, kw_only=True):
    """When a campaign is sent. times: wall-clock times of its runs, without a zone; for a recurring one the first.

    own_clock: each user's own clock, not the account's. wrap: who is past their time when the run begins gets it a day
        later, else not at all. cut_off: the time of day after which nothing of a run is sent any more.
    """

    times: tuple[datetime, ...]
    own_clock: bool = False
    wrap: bool = False
    repeat: Repeat | None = None
    quiet: Quiet | None = None
    cut_off: time | None = None


def read_schedule(body: Mapping[str, Any], zone: tzinfo, now: float) -> When:
    """The `when` of a create request: "now", "YYYYMMDD HH:MM" or an object. Raises Problem."""
    when = body.get("when")
    if when is None or when == "":
        raise Problem("Field when is empty")
    if isinstance(when, str) and when != "now":
        return _check_past(When(times=(_read_time(when, "$.when"),)), zone, now)
    given: dict[str, Any] = {"type": "now"} if when == "now" else when
    if not isinstance(given, dict):
        raise Problem('when must be "now", "YYYYMMDD HH:MM" or an object (at $.when)')
    kind, repeat = given.get("type"), None
    match kind:
        case "now":
            times: tuple[datetime, ...] = (to_local(now, zone),)
        case "later":
            times = _read_times(given)
        case "recurring":
            times, repeat = (_read_time(given.get("start_time"), "$.when.start_time"),), _read_repeat(given)
        case _:
            raise Problem("type must be now, later or recurring (at $.when.type)")
    own_clock = _read_clock_of(given) if kind != "now" else False
    found = When(
        times=times,
        own_clock=own_clock,
        wrap=_read_wrap(given),
        repeat=repeat,
        quiet=_read_quiet(given, body),
        cut_off=_read_cut_off(given, body),
    )
    if repeat is not None:
        found = msgspec.structs.replace(found, times=(_fit(times[0], repeat),))
    return found if kind == "now" else _check_past(found, zone, now)


def begins_at(local: datetime, when: When, zone: tzinfo) -> float:
    """When a run with this wall-clock time begins: on users' own clocks, where the day begins first."""
    return to_epoch(local, EARLIEST if when.own_clock else zone)


def due_for(local: datetime, when: When, user: tzinfo, began: float) -> float | None:
    """When a user of that zone is to be sent to; None: their time had passed when the run began, and is not made up."""
    at = to_epoch(local, user)
    if at >= began - JUST_NOW:
        return at
    if not when.wrap:
        return None
    return next_time(local.time(), began, user)


def cut_off_after(at: float, when: When, zone: tzinfo) -> float | None:
    """The moment after which nothing is sent that was due at `at`."""
    return None if when.cut_off is None else next_time(when.cut_off, at, zone)


def next_local(when: When, local: datetime, number: int) -> datetime | None:
    """The wall-clock time of the run after the one with this time, the `number`th; None when it was the last."""
    repeat = when.repeat
    if repeat is None or (repeat.runs is not None and number >= repeat.runs):
        return None
    day = _next_day(local.date(), when.times[0].date(), repeat)
    if day is None or (repeat.last_day is not None and day > repeat.last_day) or day.year >= LATEST_YEAR:
        return None
    return datetime.combine(day, local.time())


def _next_day(day: date, first: date, repeat: Repeat) -> date | None:
    if repeat.unit == "day":
        return day + timedelta(days=repeat.every)
    if repeat.unit == "week":
        days = repeat.days or (_weekday(first),)
        start = first - timedelta(days=_weekday(first) - 1)  # the Sunday of the first run's week
        for ahead in range(1, 7 * repeat.every + 1):
            one = day + timedelta(days=ahead)
            if _weekday(one) in days and (one - start).days // 7 % repeat.every == 0:
                return one
        return None
    days = repeat.days or (first.day,)
    for ahead in range(MONTHS_AHEAD):
        month = day.year * 12 + day.month - 1 + ahead
        if (month - first.year * 12 - first.month + 1) % repeat.every:
            continue
        year, number = month // 12, month % 12 + 1
        for wanted in sorted(days):  # a month without that day is left out
            if wanted <= monthrange(year, number)[1] and (one := date(year, number, wanted)) > day:
                return one
    return None


def _fit(first: datetime, repeat: Repeat) -> datetime:
    """The first run at or after the start that is on one of the days asked for."""
    if not repeat.days or repeat.unit == "day":
        return first
    day = _next_day(first.date() - timedelta(days=1), first.date(), repeat)
    if day is None:
        raise Problem("no day fits (at $.when)")
    return datetime.combine(day, first.time())


def _weekday(day: date) -> int:
    return day.isoweekday() % 7 + 1


def _check_past(when: When, zone: tzinfo, now: float) -> When:
    """A time that has passed everywhere it is meant for is refused."""
    if when.repeat is not None:
        return when
    for local in when.times:
        last = to_epoch(local, LATEST if when.own_clock else zone)
        if last < now - JUST_NOW and not (when.own_clock and when.wrap):
            raise Problem(f"{local:%Y%m%d %H:%M} is in the past in {zone} (at $.when)")
    return when


def _read_time(text: Any, place: str) -> datetime:
    found = WHEN.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Problem(f'a time is "YYYYMMDD HH:MM" (at {place})' if place != "$.when" else WORDS)
    try:
        local = datetime(*(int(part) for part in found.groups()))  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        raise Problem(f"{text} is not a time of the calendar (at {place})") from None
    if local.year >= LATEST_YEAR or local.year < 1970:
        raise Problem(f"{text} is after {LATEST_YEAR - 1} or before 1970 (at {place})")
    return local


WORDS = 'when must be "now", "YYYYMMDD HH:MM" or an object (at $.when)'


def _read_times(given: Mapping[str, Any]) -> tuple[datetime, ...]:
    raw = given.get("delivery_date_time")
    listed = [raw] if isinstance(raw, str) else raw
    if not isinstance(listed, list) or not 0 < len(listed) <= DATES:
        raise Problem(f"must be a list of 1 to {DATES} times (at $.when.delivery_date_time)")
    times = [_read_time(one, f"$.when.delivery_date_time[{index}]") for index, one in enumerate(listed)]
    return tuple(sorted(set(times)))


def _read_repeat(given: Mapping[str, Any]) -> Repeat:
    unit = given.get("repeat_type")
    if unit not in ("day", "week", "month"):
        raise Problem("repeat_type must be day, week or month (at $.when.repeat_type)")
    last = None
    if given.get("end_by_date") is not None and (last := read_day(given["end_by_date"])) is None:
        raise Problem("a day is YYYYMMDD (at $.when.end_by_date)")
    runs = None
    if given.get("end_by_occurrences") is not None:
        runs = _read_count(given, "end_by_occurrences", 1, 10_000)
    every = _read_count(given, "repeats_every", 1, 365, default=1)
    days: tuple[int, ...] = ()
    for key, of, most in (("repeat_on_days_of_week", "week", 7), ("repeat_on_days_of_month", "month", 31)):
        if given.get(key) is not None:
            if of != unit:
                raise Problem(f"{key} goes with a repeat_type of {of} (at $.when.{key})")
            days = _read_days(given[key], key, most)
    return Repeat(every=every, unit=unit, days=days, last_day=last, runs=runs)


def _read_days(raw: Any, key: str, most: int) -> tuple[int, ...]:
    fits = isinstance(raw, list) and all(
        isinstance(day, int) and not isinstance(day, bool) and 1 <= day <= most for day in raw
    )
    if not fits or not raw:
        raise Problem(f"{key} must be a list of numbers from 1 to {most} (at $.when.{key})")
    return tuple(sorted(set(raw)))


def _read_count(given: Mapping[str, Any], key: str, least: int, most: int, default: int | None = None) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Problem(f"{key} must be a whole number from {least} to {most} (at $.when.{key})")
    return value


def _read_clock_of(given: Mapping[str, Any]) -> bool:
    value = given.get("delivery_timezone", "account")
    if value not in ("user", "account"):
        raise Problem("delivery_timezone must be user or account (at $.when.delivery_timezone)")
    return bool(value == "user")


def _read_wrap(given: Mapping[str, Any]) -> bool:
    value = given.get("user_timezone_wrap_around", False)
    if not isinstance(value, bool):
        raise Problem('"user_timezone_wrap_around" must be a Boolean (at $.when)')
    return value


def _read_quiet(given: Mapping[str, Any], body: Mapping[str, Any]) -> Quiet | None:
    if given.get("dnd") is not None:
        return read_quiet(given["dnd"], "$.when.dnd")
    return read_quiet(body.get("dnd"), "$.dnd")


def _read_cut_off(given: Mapping[str, Any], body: Mapping[str, Any]) -> time | None:
    for holder, place in ((given, "$.when"), (body, "$")):
        raw = holder.get("campaign_cutoff")
        if raw is not None:
            found = read_clock(raw)
            if found is None:
                raise Problem(f"campaign_cutoff must be a time of day, HH:MM (at {place}.campaign_cutoff)")
            return found
    return None
