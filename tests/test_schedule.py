"""Time: runs, users' own clocks, quiet hours, cut-offs; over two clock changes in four zones, and against an oracle
that walks through the minutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from conftest import THOROUGH
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, select, update
from support.stage import BODY, SETTINGS, Stage, Vendor

from tocsin import choose_zones
from tocsin.campaign.local_time import next_time, to_epoch, to_local
from tocsin.campaign.quiet_hours import Quiet, Window, quiet_until
from tocsin.campaign.runs import find_campaign, insert_campaign, stop_campaign
from tocsin.campaign.schedule import Repeat, When, begins_at, cut_off_after, due_for, next_local, read_schedule
from tocsin.campaign.spec import read_spec
from tocsin.delivery.snapshot import snapshot_due_runs
from tocsin.errors import Problem
from tocsin.outcome import State
from tocsin.policy import set_policy
from tocsin.repair import copy_all_profiles
from tocsin.stats.results import read_result
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.time_zone import find_zone

pytest_plugins = ("engines",)

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def local(text: str) -> datetime:
    return datetime.fromisoformat(text)


# Two clock changes in four zones, one of them without any. wall-clock time → the moment in UTC. The first of a pair
# lies in the gap or comes twice, the second is an ordinary one of the same day.
MOMENTS = [
    ("Europe/Berlin", "2026-03-29T02:30", "2026-03-29T01:30"),  # 02:00 → 03:00: it is 03:30
    ("Europe/Berlin", "2026-03-29T08:00", "2026-03-29T06:00"),
    ("Europe/Berlin", "2026-10-25T02:30", "2026-10-25T00:30"),  # 03:00 → 02:00: the first
    ("Europe/Berlin", "2026-10-25T08:00", "2026-10-25T07:00"),
    ("America/New_York", "2026-03-08T02:15", "2026-03-08T07:15"),  # it is 03:15
    ("America/New_York", "2026-03-08T08:00", "2026-03-08T12:00"),
    ("America/New_York", "2026-11-01T01:30", "2026-11-01T05:30"),  # the first
    ("America/New_York", "2026-11-01T08:00", "2026-11-01T13:00"),
    ("Australia/Lord_Howe", "2026-10-04T02:10", "2026-10-03T15:40"),  # half an hour: it is 02:40
    ("Australia/Lord_Howe", "2026-10-04T08:00", "2026-10-03T21:00"),
    ("Australia/Lord_Howe", "2026-04-05T01:45", "2026-04-04T14:45"),  # the first
    ("Australia/Lord_Howe", "2026-04-05T08:00", "2026-04-04T21:30"),
    ("Asia/Kolkata", "2026-03-29T02:30", "2026-03-28T21:00"),
    ("Asia/Kolkata", "2026-10-25T02:30", "2026-10-24T21:00"),
]


@pytest.mark.parametrize(("zone", "clock", "at"), MOMENTS)
def test_a_local_time_is_one_moment(zone: str, clock: str, at: str) -> None:
    """Of `when` on the account's clock, of users' own clocks, and of a run that recurs every day."""
    there, when = ZoneInfo(zone), When(times=(local(clock),))
    assert to_epoch(local(clock), there) == utc(at)
    assert begins_at(local(clock), when, there) == utc(at)
    own = When(times=(local(clock),), own_clock=True)
    assert due_for(local(clock), own, there, begins_at(local(clock), own, there)) == utc(at)
    daily = When(times=(local(clock) - timedelta(days=3),), repeat=Repeat(every=1, unit="day"))
    run: datetime | None = daily.times[0]
    for number in range(1, 4):
        assert run is not None
        run = next_local(daily, run, number)
    assert run is not None
    assert begins_at(run, daily, there) == utc(at)


# zone, from, to, a moment in UTC, until when it is quiet in UTC ("" for not).
NIGHTS = [
    ("Europe/Berlin", "22:00", "08:00", "2026-03-28T21:30", "2026-03-29T06:00"),  # nine hours
    ("Europe/Berlin", "22:00", "08:00", "2026-10-24T21:30", "2026-10-25T07:00"),  # eleven
    ("Europe/Berlin", "22:00", "02:30", "2026-03-29T00:30", "2026-03-29T01:30"),  # ends in the gap
    ("Europe/Berlin", "22:00", "02:30", "2026-10-25T00:15", "2026-10-25T00:30"),  # the first 02:15
    ("Europe/Berlin", "22:00", "02:30", "2026-10-25T01:15", ""),  # the second 02:15: the night is over
    ("Europe/Berlin", "02:30", "06:00", "2026-03-29T01:15", ""),  # 03:15 is before what became of 02:30
    ("America/New_York", "22:00", "08:00", "2026-03-08T08:00", "2026-03-08T12:00"),
    ("America/New_York", "22:00", "08:00", "2026-11-01T08:00", "2026-11-01T13:00"),
    ("America/New_York", "22:00", "01:30", "2026-11-01T06:15", ""),  # the second 01:15
    ("Australia/Lord_Howe", "22:00", "08:00", "2026-10-03T15:00", "2026-10-03T21:00"),
    ("Australia/Lord_Howe", "22:00", "08:00", "2026-04-04T15:00", "2026-04-04T21:30"),
    ("Asia/Kolkata", "22:00", "08:00", "2026-03-28T21:00", "2026-03-29T02:30"),
    ("Asia/Kolkata", "22:00", "08:00", "2026-03-29T02:30", ""),
]


@pytest.mark.parametrize(("zone", "start", "end", "now", "until"), NIGHTS)
def test_nights_with_a_clock_change(zone: str, start: str, end: str, now: str, until: str) -> None:
    window = (Window(time.fromisoformat(start), time.fromisoformat(end)),)
    quiet = Quiet({str(day): window for day in range(1, 8)}, "user", "delay")
    assert quiet_until(quiet, utc(now), ZoneInfo(zone)) == (utc(until) if until else None)


CUT_OFFS = [
    ("Europe/Berlin", "2026-03-29T00:00", "02:30", "2026-03-29T01:30"),
    ("Europe/Berlin", "2026-10-25T00:00", "02:30", "2026-10-25T00:30"),
    ("Europe/Berlin", "2026-10-25T00:45", "02:30", "2026-10-26T01:30"),  # the second 02:30 is none
    ("America/New_York", "2026-03-08T06:00", "14:20", "2026-03-08T18:20"),
    ("America/New_York", "2026-11-01T04:00", "14:20", "2026-11-01T19:20"),
    ("Australia/Lord_Howe", "2026-10-03T14:00", "02:10", "2026-10-03T15:40"),
    ("Australia/Lord_Howe", "2026-04-04T14:00", "01:45", "2026-04-04T14:45"),
    ("Asia/Kolkata", "2026-03-29T09:00", "14:20", "2026-03-30T08:50"),
]


@pytest.mark.parametrize(("zone", "due", "clock", "at"), CUT_OFFS)
def test_cut_offs_with_a_clock_change(zone: str, due: str, clock: str, at: str) -> None:
    when = When(times=(), cut_off=time.fromisoformat(clock))
    assert cut_off_after(utc(due), when, ZoneInfo(zone)) == utc(at)


ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca", "UTC")
CHANGES = ("2026-03-29", "2026-10-25", "2026-03-08", "2026-11-01", "2026-10-04", "2026-04-05", "2026-02-15")
clocks = st.times().map(lambda one: one.replace(second=0, microsecond=0))


@lru_cache(maxsize=10_000)
def walked(zone: ZoneInfo, day: datetime, clock: time) -> float:
    """The moment of a wall-clock time by walking through the minutes: the first that shows it; where none does, as many
    minutes after the clock was moved as it lay after the last one shown."""
    wanted, start = datetime.combine(day, clock), moment_of_day(day) - 15 * HOUR
    last = start
    for minute in range(54 * 60):
        at = start + minute * MINUTE
        shown = datetime.fromtimestamp(at, zone).replace(tzinfo=None, fold=0)
        if shown == wanted:
            return at
        if shown > wanted:
            before = datetime.fromtimestamp(last, zone).replace(tzinfo=None, fold=0)
            return last + (wanted - before).total_seconds()
        last = at
    raise AssertionError("no such day")


def moment_of_day(day: datetime) -> float:
    return day.replace(tzinfo=UTC).timestamp()


@given(zone=st.sampled_from(ZONES), day=st.sampled_from(CHANGES), shift=st.integers(-1, 1), clock=clocks)
@settings(max_examples=60 if THOROUGH else 20, deadline=None)
def test_a_local_time_against_walking(zone: str, day: str, shift: int, clock: time) -> None:
    there, date = ZoneInfo(zone), local(day) + timedelta(days=shift)
    at = to_epoch(datetime.combine(date, clock), there)
    assert at == walked(there, date, clock)
    assert next_time(clock, at, there) == at
    assert next_time(clock, at + 1, there) == walked(there, date + timedelta(days=1), clock)


@given(
    zone=st.sampled_from(ZONES),
    day=st.sampled_from(CHANGES),
    minute=st.integers(-1440, 2880),
    windows=st.dictionaries(
        st.sampled_from("1234567"), st.lists(st.builds(Window, clocks, clocks), max_size=2).map(tuple), max_size=4
    ),
)
@settings(max_examples=40 if THOROUGH else 15, deadline=None)
def test_quiet_hours_against_walking(
    zone: str, day: str, minute: int, windows: Mapping[str, tuple[Window, ...]]
) -> None:
    """Minute by minute: it is quiet up to the answer and not at it; nothing is said of a minute that is not quiet."""
    there, now = ZoneInfo(zone), utc(f"{day}T00:00") + minute * MINUTE
    quiet = Quiet(dict(windows), "user", "delay")
    spans = []
    for ahead in range(-3, 12):
        date = datetime.combine(to_local(now, there).date(), time()) + timedelta(days=ahead)
        for window in windows.get(str(date.isoweekday() % 7 + 1), ()):
            last = date if window.start < window.end else date + timedelta(days=1)
            spans.append((walked(there, date, window.start), walked(there, last, window.end)))

    def is_quiet(at: float) -> bool:
        return any(start <= at < end for start, end in spans)

    until, at = quiet_until(quiet, now, there), now
    while is_quiet(at) and at < now + 8 * DAY:
        at += MINUTE
    if until != float("inf"):
        assert until == (at if at > now else None)
    else:
        assert at >= now + 6 * DAY


RECURRING: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"repeats_every": 2, "repeat_type": "day"}, "20260327 09:00", ["03-27", "03-29", "03-31", "04-02"]),
    ({"repeat_type": "week"}, "20260328 09:00", ["03-28", "04-04", "04-11", "04-18"]),
    (  # the Sundays and Saturdays of every second week, from the week of the first on
        {"repeat_type": "week", "repeats_every": 2, "repeat_on_days_of_week": [1, 7]},
        "20260326 09:00",
        ["03-28", "04-05", "04-11", "04-19"],
    ),
    ({"repeat_type": "month"}, "20260131 09:00", ["01-31", "03-31", "05-31", "07-31"]),  # months without are left out
    (
        {"repeat_type": "month", "repeat_on_days_of_month": [30, 1]},
        "20260115 09:00",
        ["01-30", "02-01", "03-01", "03-30"],
    ),
    ({"repeat_type": "day", "end_by_occurrences": 2}, "20260327 09:00", ["03-27", "03-28"]),
    ({"repeat_type": "day", "end_by_date": 20260329}, "20260327 09:00", ["03-27", "03-28", "03-29"]),
]


@pytest.mark.parametrize(("fields", "start", "days"), RECURRING, ids=str)
def test_recurring_runs(fields: dict[str, Any], start: str, days: list[str]) -> None:
    when = read_schedule({"when": {"type": "recurring", "start_time": start} | fields}, ZoneInfo("UTC"), 0.0)
    runs: list[datetime] = []
    run: datetime | None = when.times[0]
    while run is not None and len(runs) < 4:
        runs.append(run)
        run = next_local(when, run, len(runs))
    assert [f"{run:%m-%d}" for run in runs] == days
    assert {run.time() for run in runs} == {time(9)}


def read_recurring(fields: dict[str, Any], start: str, now: float, zone: str = "UTC") -> When:
    return read_schedule({"when": {"type": "recurring", "start_time": start} | fields}, ZoneInfo(zone), now)


def list_runs(when: When, count: int) -> list[datetime]:
    """The first runs of a recurring campaign."""
    found: list[datetime] = []
    run: datetime | None = when.times[0]
    while run is not None and len(found) < count:
        found.append(run)
        run = next_local(when, run, len(found))
    return found


PAST: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"repeat_type": "day"}, "19700102 09:00", ["03-29", "03-30"]),  # 20,540 days; today's 09:00 is over
    ({"repeat_type": "day"}, "19700102 13:00", ["03-28", "03-29"]),
    ({"repeat_type": "day"}, "20260328 11:59", ["03-28", "03-29"]),  # a minute is not the past
    ({"repeat_type": "day", "repeats_every": 7}, "20260301 09:00", ["03-29", "04-05"]),
    ({"repeat_type": "week", "repeats_every": 2, "repeat_on_days_of_week": [7]}, "20260307 09:00", ["04-04", "04-18"]),
    ({"repeat_type": "month"}, "19700131 09:00", ["03-31", "05-31"]),
    ({"repeat_type": "day", "end_by_occurrences": 5}, "20260326 09:00", ["03-29", "03-30"]),  # three are over
    ({"repeat_type": "day", "end_by_date": 20260329}, "20260101 09:00", ["03-29"]),
    # On users' own clocks as well the account's clock says what is past.
    ({"repeat_type": "day", "delivery_timezone": "user"}, "20260101 01:00", ["03-29", "03-30"]),
    ({"repeat_type": "day", "delivery_timezone": "user"}, "20260101 13:00", ["03-28", "03-29"]),
]


@pytest.mark.parametrize(("fields", "start", "days"), PAST, ids=str)
def test_recurring_start_in_the_past(fields: dict[str, Any], start: str, days: list[str]) -> None:
    """It begins with the first run that is not past, on the days it would have had."""
    found = list_runs(read_recurring(fields, start, utc("2026-03-28T12:00")), 2)
    assert [f"{run:%m-%d}" for run in found] == days


@given(
    fields=st.fixed_dictionaries(
        {"repeats_every": st.integers(1, 9)},
        optional={"end_by_occurrences": st.integers(1, 400), "end_by_date": st.just("20260501")},
    ),
    unit=st.sampled_from(
        [
            {"repeat_type": "day"},
            {"repeat_type": "week"},
            {"repeat_type": "week", "repeat_on_days_of_week": [2, 4, 7]},
            {"repeat_type": "month"},
            {"repeat_type": "month", "repeat_on_days_of_month": [1, 15, 31]},
        ]
    ),
    own=st.sampled_from(["user", "account"]),
    start=st.datetimes(datetime(2023, 1, 1), datetime(2026, 4, 1)),
    zone=st.sampled_from(ZONES),
)
@settings(max_examples=100 if THOROUGH else 30, deadline=None)
def test_start_in_the_past_leaves_the_rest_as_it_was(
    fields: dict[str, Any], unit: dict[str, Any], own: str, start: datetime, zone: str
) -> None:
    """The runs are those it would have had from its start, without those that are past; none left is refused."""
    now, asked = utc("2026-03-28T12:00"), {**fields, **unit, "delivery_timezone": own}
    whole = read_recurring(asked, f"{start:%Y%m%d %H:%M}", 0.0, zone)
    rest = [run for run in list_runs(whole, 2000) if to_epoch(run, ZoneInfo(zone)) >= now - MINUTE]
    if rest:
        assert list_runs(read_recurring(asked, f"{start:%Y%m%d %H:%M}", now, zone), 50) == rest[:50]
        return
    with pytest.raises(Problem, match="past"):
        read_recurring(asked, f"{start:%Y%m%d %H:%M}", now, zone)


LIVED_IN = (*ZONES, "Asia/Tokyo", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/Vancouver")


@given(
    when=st.sampled_from(
        [
            {"repeat_type": "day"},
            {"repeat_type": "day", "end_by_occurrences": 1},
            {"repeat_type": "week", "repeat_on_days_of_week": [1, 2, 5]},
            {"repeat_type": "month"},
            *({"days": days} for days in ([0], [0, 1], [0, 1, 3])),
        ]
    ),
    wrap=st.booleans(),
    now=st.datetimes(datetime(2026, 3, 1), datetime(2026, 11, 20)).map(moment_of_day),
    ahead=st.integers(-2000, 3000),
    account=st.sampled_from(LIVED_IN),
)
@settings(max_examples=80, deadline=None)
def test_on_their_own_clock_each_time_comes_once(
    when: dict[str, Any], wrap: bool, now: float, ahead: int, account: str
) -> None:
    """Whoever lives wherever: a time that is to come comes, none comes twice at once, and with the wrap everybody gets
    something."""
    start = (to_local(now, ZoneInfo(account)) + timedelta(minutes=ahead)).replace(second=0, microsecond=0)
    asked: dict[str, Any] = {"type": "recurring", "start_time": f"{start:%Y%m%d %H:%M}"} | when
    if "days" in when:
        times = [f"{start + timedelta(days=day):%Y%m%d %H:%M}" for day in when["days"]]
        asked = {"type": "later", "delivery_date_time": times}
    asked |= {"delivery_timezone": "user", "user_timezone_wrap_around": wrap}
    try:
        found = read_schedule({"when": asked}, ZoneInfo(account), now)
    except Problem:
        return
    runs = list_runs(found, 5) if found.repeat is not None else list(found.times)
    for zone in map(ZoneInfo, LIVED_IN):
        begun = {run: max(now, begins_at(run, found, ZoneInfo(account))) for run in runs}
        got = [at for run in runs if (at := due_for(run, found, zone, begun[run])) is not None]
        assert len({*got}) == len(got), zone
        coming = {at for run in runs if (at := to_epoch(run, zone)) >= now}
        assert coming <= {*got}, zone
        assert got or not wrap, zone


WRONG: list[tuple[Any, str]] = [
    ({"type": "recurring", "start_time": "20260101 10:00", "repeat_type": "day", "end_by_date": "20260228"}, "past"),
    ({"type": "recurring", "start_time": "20260101 10:00", "repeat_type": "day", "end_by_occurrences": 59}, "past"),
    ({}, "$.when.type"),
    ({"type": "sometimes"}, "$.when.type"),
    ({"type": "later"}, "$.when.delivery_date_time"),
    ({"type": "later", "delivery_date_time": ["tomorrow"]}, "$.when.delivery_date_time[0]"),
    ({"type": "later", "delivery_date_time": ["20260230 10:00"]}, "$.when.delivery_date_time[0]"),
    ({"type": "later", "delivery_date_time": ["20260330 10:00"], "delivery_timezone": "mars"}, "delivery_timezone"),
    ({"type": "later", "delivery_date_time": ["20200330 10:00"]}, "past"),
    ({"type": "recurring"}, "$.when.start_time"),
    ({"type": "recurring", "start_time": "20260330 10:00"}, "$.when.repeat_type"),
    (  # the first day that fits is after the end
        {
            "type": "recurring",
            "start_time": "20260310 10:00",
            "repeat_type": "month",
            "repeat_on_days_of_month": [5],
            "end_by_date": 20260331,
        },
        "$.when.end_by_date",
    ),
    (
        {"type": "recurring", "start_time": "20260330 10:00", "repeat_type": "day", "end_by_date": "20260320"},
        "$.when.end_by_date",
    ),
    (  # past on every clock: nobody gets it a day later
        {
            "type": "later",
            "delivery_date_time": "20250330 10:00",
            "delivery_timezone": "user",
            "user_timezone_wrap_around": True,
        },
        "past",
    ),
    ({"type": "recurring", "start_time": "20260330 10:00", "repeat_type": "day", "repeats_every": 0}, "repeats_every"),
    (
        {"type": "recurring", "start_time": "20260330 10:00", "repeat_type": "day", "repeat_on_days_of_week": [1]},
        "repeat_on_days_of_week",
    ),
    (
        {"type": "recurring", "start_time": "20260330 10:00", "repeat_type": "week", "repeat_on_days_of_week": [8]},
        "repeat_on_days_of_week",
    ),
    ({"type": "now", "dnd": {}}, "$.when.dnd.dnd_info"),
    ({"type": "now", "dnd": {"dnd_info": {"0": []}}}, "$.when.dnd.dnd_info.0"),
    ({"type": "now", "dnd": {"dnd_info": {"1": [{"from": "25:00", "to": "08:00"}]}}}, "$.when.dnd.dnd_info.1[0]"),
    ({"type": "now", "dnd": {"dnd_info": {"1": []}, "message_state": "shout"}}, "message_state"),
    ({"type": "now", "campaign_cutoff": "soon"}, "$.when.campaign_cutoff"),
    ({"type": "now", "user_timezone_wrap_around": "yes"}, "user_timezone_wrap_around"),
    (
        {"type": "recurring", "start_time": "20260330 10:00", "repeat_type": "day", "end_by_ocurrences": 5},
        "$.when.end_by_ocurrences",
    ),
    ({"type": "now", "dnd": {"dnd_info": {"1": []}, "mesage_state": "discard"}}, "$.when.dnd.mesage_state"),
    (7, "$.when"),
]


@pytest.mark.parametrize(("when", "place"), WRONG, ids=str)
def test_a_wrong_when_says_where(when: Any, place: str) -> None:
    with pytest.raises(Problem) as caught:
        read_schedule({"when": when}, ZoneInfo("UTC"), utc("2026-03-01T00:00"))
    assert place in caught.value.error


def test_now_is_now_on_every_clock() -> None:
    """As callers send it."""
    asked = {"type": "now", "delivery_timezone": "user", "user_timezone_wrap_around": True}
    assert read_schedule({"when": asked}, ZoneInfo("UTC"), utc("2026-03-01T00:00")).own_clock is False


@given(st.floats(1.7e9, 2e9))
def test_now_is_not_after_now(now: float) -> None:
    """What is due now is due at this moment, however finely it is told."""
    zone = ZoneInfo("Asia/Kolkata")
    when = read_schedule({"when": "now"}, zone, now)
    assert begins_at(when.times[0], when, zone) <= now


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        *(("Asia/Kolkata", 5.5), ("+05:30", 5.5), ("GMT-3", -3), ("UTC+0530", 5.5)),
        *(
            ("PST", -8),
            ("IST", 5.5),
            ("GMT-8:00", -8),
            ("", None),
            ("../etc", None),
            ("X", None),
            ("+15:00", None),
            ("/UTC", None),
        ),
    ],
)
def test_zones_of_profiles(name: str, hours: float | None) -> None:
    found = find_zone(name)
    assert (None if found is None else found.utcoffset(local("2026-01-01T00:00"))) == (
        None if hours is None else timedelta(hours=hours)
    )


@pytest.mark.parametrize(("versions", "chosen"), [(["1999a"], 0), (["2999a"], 1), ([], 0), (["2999a", "1999a"], 2)])
def test_the_newest_law_of_the_clocks_is_taken(tmp_path: Path, versions: list[str], chosen: int) -> None:
    """The system's time zones or the package's: what a system was not told for years is not believed."""
    folders = [str(tmp_path / str(number)) for number in range(len(versions))]
    for folder, version in zip(folders, versions, strict=True):
        Path(folder).mkdir()
        (Path(folder) / "tzdata.zi").write_text(f"# version {version}\n# This zic input file\n")
    assert list(choose_zones(folders)) == folders[:chosen]


class Days:
    """A stage whose clock moves until nothing more happens."""

    def __init__(self, stage: Stage, vendor: Vendor):
        self.stage, self.vendor = stage, vendor

    async def people(self, **zones: str) -> None:
        for name, zone in zones.items():
            data = {"Tz": zone} if zone else {}
            token = {"type": "token", "objectId": name, "tokenData": {"type": "fcm", "id": f"{name}:token"}}
            await self.stage.upload({"type": "profile", "identity": name, "objectId": name, "profileData": data}, token)

    async def create(self, when: Any, **fields: Any) -> int:
        stage = self.stage
        spec = read_spec(BODY | {"devices": ["android"], "when": when} | fields, stage.account, stage.now)
        zone = stage.account.zone
        return await stage.ledger.write(lambda c: insert_campaign(c, stage.account.id, spec, stage.now, zone))

    async def step(self, at: float) -> list[str]:
        """Who got something at a moment."""
        self.stage.now, before = at, len(self.vendor.tokens)
        await snapshot_due_runs(self.stage.ledger, self.stage.facts, at, self.stage.settings)
        await self.stage.deliver()
        return sorted(token.split(":")[0] for token in self.vendor.tokens[before:])

    async def result(self, campaign: int) -> dict[str, int]:
        return await read_result(self.stage.ledger, self.stage.facts, self.stage.account.id, campaign)

    def states(self) -> list[str]:
        table = schema.chunk
        found = self.stage.ledger.read_now(
            lambda c: c.scalars(select(table.c.states).where(table.c.account_id == self.stage.account.id)).all()
        )
        return sorted(State(byte).name for states in found for byte in states)


@pytest.fixture
async def days(store: Ledger, facts: Facts) -> Days:
    vendor = Vendor()
    stage = Stage(
        store, facts, {"android": vendor}, msgspec.structs.replace(SETTINGS, late_minutes=30.0, message_hours=48.0)
    )
    stage.now = utc("2026-03-28T00:00")
    table = schema.account
    store.write_now(
        lambda c: c.execute(update(table).where(table.c.id == stage.account.id).values(timezone="Europe/Berlin"))
    )
    stage.account = msgspec.structs.replace(stage.account, timezone="Europe/Berlin")
    return Days(stage, vendor)


async def test_each_user_at_their_own_time(days: Days) -> None:
    """08:00 on 29 March on four clocks, one of them changed that night; who has no zone has the account's."""
    await days.people(kolkata="Asia/Kolkata", york="America/New_York", berlin="", howe="Australia/Lord_Howe")
    when = {"type": "later", "delivery_date_time": ["20260329 08:00"], "delivery_timezone": "user"}
    campaign = await days.create(when)
    assert await days.step(utc("2026-03-28T17:59")) == []
    assert await days.step(utc("2026-03-28T18:00")) == []  # where the day begins first, nobody lives
    assert await days.step(utc("2026-03-28T20:59")) == []
    assert await days.step(utc("2026-03-28T21:00")) == ["howe"]
    assert await days.step(utc("2026-03-29T02:30")) == ["kolkata"]
    assert await days.step(utc("2026-03-29T06:00")) == ["berlin"]
    with pytest.raises(Problem):
        await days.result(campaign)
    assert await days.step(utc("2026-03-29T12:00")) == ["york"]
    assert (await days.result(campaign))["sent"] == 4


@pytest.fixture
def profiles_read() -> Iterator[list[str]]:
    """The statements that read profiles from the ledger."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "profile" in statement and statement.startswith("SELECT"):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


OWN_CLOCK = {"type": "later", "delivery_date_time": ["20260329 08:00"], "delivery_timezone": "user"}
HOURS = [("2026-03-28T21:00", "howe"), ("2026-03-29T02:30", "kolkata"), ("2026-03-29T06:00", "berlin")]


async def test_a_run_reads_zones_with_its_audience(days: Days, profiles_read: list[str]) -> None:
    """The begin of a run asks the ledger for nobody's profile; a zone changed or taken back counts as it is."""
    await days.people(kolkata="America/New_York", berlin="Asia/Kolkata", howe="")
    await days.people(kolkata=" Asia/Kolkata ", howe="Australia/Lord_Howe")
    delete = {"Tz": {"$delete": 1}}
    await days.stage.upload({"type": "profile", "identity": "berlin", "objectId": "berlin", "profileData": delete})
    await days.create(OWN_CLOCK)
    profiles_read.clear()
    begun = await snapshot_due_runs(days.stage.ledger, days.stage.facts, utc("2026-03-28T18:00"), days.stage.settings)
    assert (begun, profiles_read) == (1, [])
    for at, who in HOURS:
        assert await days.step(utc(at)) == [who]


async def test_copies_of_an_earlier_version_have_no_zone(days: Days, profiles_read: list[str]) -> None:
    """Until `tocsin repair` has copied them, those whose zone the facts store does not know are looked up."""
    await days.people(kolkata="Asia/Kolkata", berlin="", howe="Australia/Lord_Howe")
    account = days.stage.account.id
    copied = "account, user, version + 1, android, ios, windows, email, sms, webpush, latitude, longitude, props"
    days.stage.facts.command_now(
        f"INSERT INTO profile ({copied.replace(' + 1', '')}) SELECT {copied} FROM profile FINAL "
        f"WHERE account = '{account}' AND user != 2"
    )
    await days.create(OWN_CLOCK)
    profiles_read.clear()
    await snapshot_due_runs(days.stage.ledger, days.stage.facts, utc("2026-03-28T18:00"), days.stage.settings)
    assert profiles_read
    for at, who in HOURS:
        assert await days.step(utc(at)) == [who]
    table = schema.user  # the two copies above were newer than the ledger's
    await days.stage.ledger.write(lambda c: c.execute(update(table).values(version=table.c.version + 2)))
    await copy_all_profiles(days.stage.ledger, days.stage.facts, account)
    zones = "SELECT zone FROM profile FINAL WHERE account = {account:String} ORDER BY zone"
    assert await days.stage.facts.query(zones, {"account": account}) == [
        ("",),
        ("Asia/Kolkata",),
        ("Australia/Lord_Howe",),
    ]


@pytest.mark.parametrize("wrap", [False, True])
async def test_who_is_past_their_time(days: Days, wrap: bool) -> None:
    """A campaign made when it is late in the east: those are left out, or get it a day later."""
    await days.people(east="Asia/Tokyo", west="America/New_York")
    days.stage.now = utc("2026-03-29T05:00")  # 14:00 in Tokyo, 01:00 in New York
    when = {"type": "later", "delivery_date_time": ["20260329 09:00"], "delivery_timezone": "user"}
    campaign = await days.create(when | {"user_timezone_wrap_around": wrap})
    assert await days.step(utc("2026-03-29T05:00")) == []
    assert await days.step(utc("2026-03-29T13:00")) == ["west"]
    assert await days.step(utc("2026-03-30T00:00")) == (["east"] if wrap else [])
    result = await days.result(campaign)
    assert (result["audience"], result["sent"], result["suppressed"]) == ((2, 2, 0) if wrap else (2, 1, 1))


async def test_now_in_the_hour_that_comes_twice(days: Days) -> None:
    """The second time it is 02:30 in Berlin is now as well, and not an hour ago."""
    await days.people(berlin="")
    days.stage.now = utc("2026-10-25T01:30")
    campaign = await days.create({"type": "now"})
    assert await days.step(utc("2026-10-25T01:31")) == ["berlin"]
    assert (await days.result(campaign))["sent"] == 1


@pytest.mark.parametrize("wrap", [False, True])
async def test_recurring_on_own_clocks_begins_on_the_day_it_says(days: Days, wrap: bool) -> None:
    """Asked for in the morning for every evening from today on: whose evening is over waits for the next one, and gets
    one message then, whether or not it would have been made up."""
    await days.people(east="Asia/Tokyo", west="America/New_York", berlin="")
    days.stage.now = utc("2026-03-28T10:00")  # 11:00 in Berlin, 19:00 in Tokyo
    when = {"type": "recurring", "start_time": "20260328 18:00", "repeat_type": "day", "delivery_timezone": "user"}
    await days.create(when | {"user_timezone_wrap_around": wrap})
    assert await days.step(utc("2026-03-28T10:00")) == []
    assert await days.step(utc("2026-03-28T17:00")) == ["berlin"]
    assert await days.step(utc("2026-03-28T22:00")) == ["west"]
    assert await days.step(utc("2026-03-29T04:00")) == []
    assert await days.step(utc("2026-03-29T09:00")) == ["east"]
    assert await days.step(utc("2026-03-29T16:00")) == ["berlin"]


@pytest.mark.parametrize("state", ["delay", "discard"])
async def test_quiet_hours(days: Days, state: str) -> None:
    """At 23:00 in Berlin it is quiet there and not in New York; the night of the clock change is an hour short."""
    await days.people(berlin="", york="America/New_York")
    dnd = {str(day): [{"from": "22:00", "to": "08:00"}] for day in range(1, 8)}
    days.stage.now = utc("2026-03-28T22:00")
    campaign = await days.create({"type": "now", "dnd": {"dnd_info": dnd, "message_state": state}})
    assert await days.step(utc("2026-03-28T22:00")) == ["york"]
    assert await days.step(utc("2026-03-29T05:59")) == []
    assert await days.step(utc("2026-03-29T06:00")) == (["berlin"] if state == "delay" else [])
    result = await days.result(campaign)
    assert (result["sent"], result["suppressed"]) == ((2, 0) if state == "delay" else (1, 1))
    if state == "discard":
        assert days.states() == ["ACCEPTED", "QUIET_HOURS"]


NIGHT = {str(day): [{"from": "22:00", "to": "08:00"}] for day in range(1, 8)}
# the account's state and zone, what is asked, who gets it at 23:00 in Berlin before the clock is moved, and at 08:00.
NIGHTS_OF_AN_ACCOUNT: list[tuple[str, str, dict[str, Any], list[str], list[str]]] = [
    ("delay", "user", {}, ["york"], ["berlin"]),
    ("discard", "user", {}, ["york"], []),
    ("delay", "account", {}, [], ["berlin", "york"]),
    ("discard", "account", {}, [], []),
    ("delay", "account", {"respect_frequency_caps": False}, ["berlin", "york"], []),
]
OWN_NIGHTS: list[tuple[str, str, dict[str, Any], list[str], list[str]]] = [
    ("delay", "account", {"dnd": {"dnd_info": NIGHT, "message_state": "discard"}}, ["york"], []),
    ("discard", "account", {"dnd": {"dnd_info": NIGHT, "dnd_timezone": "user"}}, ["york"], ["berlin"]),
    ("discard", "account", {"dnd": {"dnd_info": {"1": []}}}, ["berlin", "york"], []),
    ("discard", "user", {"respect_frequency_caps": False, "dnd": {"dnd_info": NIGHT}}, ["york"], ["berlin"]),
]


@pytest.mark.parametrize("sent", [False, True], ids=["campaign", "send"])
@pytest.mark.parametrize(("state", "zone", "asked", "at_night", "in_the_morning"), [*NIGHTS_OF_AN_ACCOUNT, *OWN_NIGHTS])
async def test_quiet_hours_of_an_account(
    days: Days, state: str, zone: str, asked: dict[str, Any], at_night: list[str], in_the_morning: list[str], sent: bool
) -> None:
    """They hold for campaigns and for sends by identity, but for those that keep to no caps; a campaign's own go
    before them. The night of the clock change is an hour short."""
    if sent and "dnd" in asked:
        return  # a send has none of its own
    await days.people(berlin="", york="America/New_York")
    stage, dnd = days.stage, {"dnd_info": NIGHT, "dnd_timezone": zone, "message_state": state}
    value = msgspec.json.encode(dnd).decode()
    await stage.ledger.write(lambda one: set_policy(one, stage.account.id, "dnd", value, 1.0))
    stage.now = utc("2026-03-28T22:00")
    if sent:
        await stage.send({"Identity": ["berlin", "york"]}, **asked)
    else:
        await days.create({"type": "now"}, **asked)
    assert sorted(await days.step(utc("2026-03-28T22:00"))) == at_night
    assert await days.step(utc("2026-03-29T05:59")) == []
    assert sorted(await days.step(utc("2026-03-29T06:00"))) == in_the_morning
    dropped = 2 - len(at_night) - len(in_the_morning)
    assert days.states().count("QUIET_HOURS") == dropped
    assert days.states().count("ACCEPTED") == 2 - dropped


async def test_a_cut_off_ends_what_waits(days: Days) -> None:
    """What quiet hours or a vendor hold back past the time of day is not sent any more."""
    await days.people(berlin="", york="America/New_York")
    dnd = {str(day): [{"from": "22:00", "to": "08:00"}] for day in range(1, 8)}
    days.stage.now = utc("2026-03-28T22:00")
    await days.create({"type": "now", "dnd": {"dnd_info": dnd}, "campaign_cutoff": "07:30"})
    assert await days.step(utc("2026-03-28T22:00")) == ["york"]
    assert await days.step(utc("2026-03-29T06:00")) == []
    assert days.states() == ["ACCEPTED", "CUT_OFF"]


async def test_several_times(days: Days) -> None:
    """Each time is a run; the campaign's numbers are of all of them, and one stop stops the rest."""
    await days.people(berlin="")
    times = ["20260328 09:00", "20260328 12:00", "20260328 15:00"]
    campaign = await days.create({"type": "later", "delivery_date_time": times})
    assert await days.step(utc("2026-03-28T08:00")) == ["berlin"]
    assert (await days.result(campaign))["audience"] == 1
    assert await days.step(utc("2026-03-28T11:00")) == ["berlin"]
    assert (await days.result(campaign))["sent"] == 2
    stage = days.stage
    await stage.ledger.write(lambda c: stop_campaign(c, stage.account.id, campaign, stage.now))
    assert await days.step(utc("2026-03-28T14:00")) == []
    found = stage.ledger.read_now(lambda c: find_campaign(c, stage.account.id, campaign))
    assert (found.state, found.completed, found.ended_at is not None) == ("stopped", 2, True)


async def test_a_start_in_1970_is_one_run(days: Days) -> None:
    """What would have been before the campaign was created is neither sent nor missed."""
    await days.people(berlin="")
    campaign = await days.create({"type": "recurring", "start_time": "19700102 09:00", "repeat_type": "day"})
    assert await days.step(utc("2026-03-28T07:59")) == []
    assert await days.step(utc("2026-03-28T08:00")) == ["berlin"]
    result = await days.result(campaign)
    assert (result["sent"], result.get("missed", 0)) == (1, 0)


async def test_own_clocks_are_late_one_by_one(days: Days) -> None:
    """Down while the day began in the far east, for longer than a run may be late: whose time is to come loses nothing.
    What is over on every clock is missed."""
    await days.people(east="Asia/Tokyo", west="America/New_York", berlin="")
    when = {"type": "recurring", "start_time": "20260329 08:00", "repeat_type": "day", "delivery_timezone": "user"}
    campaign = await days.create(when | {"end_by_occurrences": 2})
    assert await days.step(utc("2026-03-29T03:00")) == []  # nine hours after the first of all clocks, four after Tokyo
    assert await days.step(utc("2026-03-29T06:00")) == ["berlin"]
    assert await days.step(utc("2026-03-29T12:00")) == ["west"]
    assert await days.step(utc("2026-03-30T20:31")) == []  # 08:31 at the last of all clocks
    result = await days.result(campaign)
    assert (result["sent"], result["suppressed"], result["missed"]) == (2, 1, 1)


async def test_a_missed_run_is_reported(days: Days) -> None:
    """Down from the second day to the fourth: a run less than half an hour late is sent, the others are missed."""
    await days.people(berlin="")
    when = {"type": "recurring", "start_time": "20260328 09:00", "repeat_type": "day", "end_by_occurrences": 4}
    campaign = await days.create(when)
    assert await days.step(utc("2026-03-28T08:29")) == ["berlin"]
    back = utc("2026-03-31T07:29")  # 09:00 was at 07:00
    sent = [await days.step(back + turn) for turn in range(4)]
    assert sorted(sent) == [[], [], [], ["berlin"]]
    result = await days.result(campaign)
    assert (result["sent"], result["missed"], result["audience"]) == (2, 2, 2)
    found = days.stage.ledger.read_now(lambda c: find_campaign(c, days.stage.account.id, campaign))
    assert (found.state, found.missed, found.completed) == ("completed", 2, 2)
    assert found.ended_at is not None
