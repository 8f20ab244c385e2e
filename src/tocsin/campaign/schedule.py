"""When a campaign is sent: the `when` of a request, and the runs it means. Pure.

A run has a wall-clock time. On the account's clock that is one moment; on each user's own it is a moment for each zone,
and the run begins where the day does. Recurring runs are made one after the other.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tocsin.campaign.local_time import EARLIEST, LATEST, next_time, read_day, to_epoch, to_local
from tocsin.campaign.quiet_hours import Quiet, to_quiet
from tocsin.errors import Invalid, Problem, read_struct
from tocsin.policy import Clock, QuietJson

WHEN = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2}) ([0-9]{2}):([0-9]{2})")
WORDS = '"now", "YYYYMMDD HH:MM" or an object'
LATEST_YEAR = 2100
DATES = 100  # of one campaign
JUST_NOW = 60.0  # «now» to the minute is not the past
MONTHS_AHEAD = 240  # looked through for a day that exists
Time = Annotated[str, Meta(extra={"is": 'a time, "YYYYMMDD HH:MM"'})]
Times = Annotated[
    str | Annotated[tuple[Time, ...], Meta(min_length=1, max_length=DATES)],
    Meta(extra={"is": f'a time, "YYYYMMDD HH:MM", or a list of 1 to {DATES}'}),
]
Unit = Literal["day", "week", "month"]
DaysOfWeek = Annotated[tuple[Annotated[int, Meta(ge=1, le=7)], ...], Meta(min_length=1)]
DaysOfMonth = Annotated[tuple[Annotated[int, Meta(ge=1, le=31)], ...], Meta(min_length=1)]


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


class TimingJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", dict=True):
    """The `when` of a create request as an object; which one, its `type` says. An unknown field is refused: a recurring
    campaign whose end is misspelled would have none."""

    delivery_timezone: Literal["user", "account"] = "account"
    dnd: QuietJson | None = None
    campaign_cutoff: Clock | None = None
    user_timezone_wrap_around: bool = False


class NowJson(TimingJson, frozen=True, kw_only=True, tag="now"):
    """As soon as it is created, on every clock."""


class LaterJson(TimingJson, frozen=True, kw_only=True, tag="later"):
    """At one time or at several, "YYYYMMDD HH:MM"."""

    delivery_date_time: Times

    def __post_init__(self) -> None:
        _ = self.times  # what is wrong with it is refused while its place is known

    @cached_property
    def times(self) -> tuple[datetime, ...]:
        given, field = self.delivery_date_time, ".delivery_date_time"
        listed = (given,) if isinstance(given, str) else given
        return tuple(sorted({_read_time(one, f"{field}[{index}]") for index, one in enumerate(listed)}))


class RecurringJson(TimingJson, frozen=True, kw_only=True, tag="recurring"):
    """Again and again, from a time on."""

    start_time: Time
    repeat_type: Unit
    repeats_every: Annotated[int, Meta(ge=1, le=365)] = 1
    repeat_on_days_of_week: DaysOfWeek | None = None
    repeat_on_days_of_month: DaysOfMonth | None = None
    end_by_date: str | int | None = None
    end_by_occurrences: Annotated[int, Meta(ge=1, le=10_000)] | None = None

    def __post_init__(self) -> None:
        _ = self.times  # what is wrong with it is refused while its place is known

    @cached_property
    def times(self) -> tuple[datetime, ...]:
        first, last = _fit(_read_time(self.start_time, ".start_time"), self.repeat), self.repeat.last_day
        if last is not None and first.date() > last:
            raise Invalid(f"the first run would be on {first:%Y%m%d}, after that day", ".end_by_date")
        return (first,)

    @cached_property
    def repeat(self) -> Repeat:
        days: tuple[int, ...] = ()
        for key, unit in (("repeat_on_days_of_week", "week"), ("repeat_on_days_of_month", "month")):
            if (given := getattr(self, key)) is not None:
                if unit != self.repeat_type:
                    raise Invalid(f"{key} goes with a repeat_type of {unit}", f".{key}")
                days = tuple(sorted(set(given)))
        last = None if self.end_by_date is None else read_day(self.end_by_date)
        if last is None and self.end_by_date is not None:
            raise Invalid("a day is YYYYMMDD", ".end_by_date")
        return Repeat(self.repeats_every, self.repeat_type, days, last, self.end_by_occurrences)


class ScheduleJson(msgspec.Struct, frozen=True):
    """The fields of a create request that say when. `dnd` and `campaign_cutoff` may stand in `when` or beside it."""

    when: Annotated[str | NowJson | LaterJson | RecurringJson | None, Meta(extra={"is": WORDS})] = None
    dnd: QuietJson | None = None
    campaign_cutoff: Clock | None = None

    def __post_init__(self) -> None:
        if isinstance(self.when, str) and self.when not in ("", "now"):
            _read_time(self.when, ".when")


def read_schedule(body: Mapping[str, Any], zone: tzinfo, now: float) -> When:
    """Return when the campaign of a create request is sent. Raise Problem."""
    asked = read_struct(body, ScheduleJson)
    if asked.when is None or asked.when == "":
        raise Problem("Field when is empty")
    given = asked.when
    if isinstance(given, str):
        given = NowJson() if given == "now" else LaterJson(delivery_date_time=given)
    repeat = given.repeat if isinstance(given, RecurringJson) else None
    # A datetime has microseconds and may round a moment up: to after it, when the run would not be due yet.
    times = (to_local(int(now), zone),) if isinstance(given, NowJson) else given.times
    quiet, cut_off = given.dnd or asked.dnd, given.campaign_cutoff or asked.campaign_cutoff
    found = When(
        times=times,
        own_clock=not isinstance(given, NowJson) and given.delivery_timezone == "user",
        wrap=given.user_timezone_wrap_around,
        repeat=repeat,
        quiet=to_quiet(quiet) if quiet else None,
        cut_off=time.fromisoformat(cut_off) if cut_off else None,
    )
    return found if isinstance(given, NowJson) else _check_past(found, zone, now)


def begins_at(local: datetime, when: When, zone: tzinfo) -> float:
    """Return when a run with this wall-clock time begins, in epoch seconds: on users' own clocks, where the day begins
    first (UTC+14)."""
    return to_epoch(local, EARLIEST if when.own_clock else zone)


def over_at(local: datetime, when: When, zone: tzinfo) -> float:
    """Return when a run with this wall-clock time has been due for everybody, in epoch seconds: on users' own clocks,
    where the day begins last (UTC-12)."""
    return to_epoch(local, LATEST if when.own_clock else zone)


def due_for(local: datetime, when: When, user: tzinfo, began: float) -> float | None:
    """Return when a user of that zone is to be sent to, in epoch seconds. None: their time had passed when the run
    began, and is not made up, or another run is due for them by then."""
    at = to_epoch(local, user)
    if at >= began - JUST_NOW:
        return at
    if not when.wrap:
        return None
    made_up = next_time(local.time(), began, user)
    others = (*when.times, next_local(when, local, 1))  # only a first run begins when somebody's time has passed
    same = [run for run in others if run is not None and run > local and run.time() == local.time()]
    return None if any(to_epoch(run, user) <= made_up for run in same) else made_up


def cut_off_after(at: float, when: When, zone: tzinfo) -> float | None:
    """Return the moment after which nothing is sent that was due at `at`; None: there is none."""
    return None if when.cut_off is None else next_time(when.cut_off, at, zone)


def next_local(when: When, local: datetime, number: int) -> datetime | None:
    """Return the wall-clock time of the first run after this one, the `number`th; None when that was the last."""
    repeat = when.repeat
    if repeat is None or (repeat.runs is not None and number >= repeat.runs):
        return None
    day = _next_day(local.date(), when.times[0].date(), repeat)
    if day is None or (repeat.last_day is not None and day > repeat.last_day) or day.year >= LATEST_YEAR:
        return None
    return datetime.combine(day, local.time())


def _next_day(day: date, first: date, repeat: Repeat) -> date | None:
    """Return the first day of a run after `day`. first: that of the first run."""
    if repeat.unit == "day":
        return first + timedelta(days=((day - first).days // repeat.every + 1) * repeat.every)
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
    """Return the first run at or after the start that is on one of the days asked for. Raise Invalid when none is."""
    if not repeat.days or repeat.unit == "day":
        return first
    day = _next_day(first.date() - timedelta(days=1), first.date(), repeat)
    if day is None:
        raise Invalid("no month of a run has such a day", ".repeat_on_days_of_month")
    return datetime.combine(day, first.time())


def _weekday(day: date) -> int:
    return day.isoweekday() % 7 + 1


def _check_past(when: When, zone: tzinfo, now: float) -> When:
    """Return `when`; a recurring one without its past runs. Raise Problem for a time that has passed everywhere it is
    meant for."""
    if when.repeat is not None:
        return _skip_past(when, when.repeat, zone, now)
    for local in when.times:
        if over_at(local, when, zone) < now - JUST_NOW:
            raise Problem(f"{local:%Y%m%d %H:%M} is in the past in {zone} (at $.when)")
    return when


def _skip_past(when: When, repeat: Repeat, zone: tzinfo, now: float) -> When:
    """Return a recurring `when` from its first run that is not past on the account's clock; those before it count as
    runs. Raise Problem when they were the last."""
    first, number = when.times[0], 1
    local: datetime | None = first
    if repeat.runs is None:  # nothing to count: two days ago is past in every zone
        local = max(first, datetime.combine(to_local(now, UTC).date() - timedelta(days=2), first.time()))
    while local is not None and to_epoch(local, zone) < now - JUST_NOW:
        local, number = next_local(when, local, number), number + 1
    if local is None:
        raise Problem(f"every run from {first:%Y%m%d %H:%M} on is in the past in {zone} (at $.when)")
    left = repeat if repeat.runs is None else msgspec.structs.replace(repeat, runs=repeat.runs - number + 1)
    return msgspec.structs.replace(when, times=(local,), repeat=left)


def _read_time(text: str, field: str) -> datetime:
    found = WHEN.fullmatch(text)
    if found is None:
        raise Invalid(f"when must be {WORDS}" if field == ".when" else 'a time is "YYYYMMDD HH:MM"', field)
    try:
        local = datetime(*(int(part) for part in found.groups()))  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        raise Invalid(f"{text} is not a time of the calendar", field) from None
    if local.year >= LATEST_YEAR or local.year < 1970:
        raise Invalid(f"{text} is after {LATEST_YEAR - 1} or before 1970", field)
    return local
