"""What docs/queries.md means, in plain Python over small random worlds: the other half of tests/test_queries.py.

Nothing here is shared with the compiler, nor made to be quick: a table row of the document is a function, and it looks
at one person at a time.
"""

from __future__ import annotations

import math
import operator as compared
import random
import re
import unicodedata
from calendar import monthrange
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from support.devices import live_devices

from tocsin.account import Account, create_account
from tocsin.delivery.recipients import mark_gone
from tocsin.ingest import refresh_profiles, upload
from tocsin.ingest.identity import IdentityKey, find_users
from tocsin.providers.contract import Address
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

Scalar = str | int | float | bool
Props = dict[str, Any]
Where = Mapping[str, Any]

# --- the account's clock ----------------------------------------------------------------------------------------------

RELATIVE_DAY = re.compile(r"-(\d+)([dwmy])", re.ASCII)
EARLIEST, LATEST = -62_000_000_000, 253_400_000_000  # of what datetime knows; days lie between 1000 and 9998


class Clock(NamedTuple):
    """The account's clock at the moment of asking."""

    zone: ZoneInfo
    now: float

    def at(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(seconds, UTC).astimezone(self.zone)

    def day_of(self, seconds: float) -> date:
        """«The day on the account's clock», however many hours it had."""
        if not EARLIEST < seconds < LATEST:
            return date.max if seconds > 0 else date.min
        return self.at(math.floor(seconds)).date()

    @property
    def today(self) -> date:
        return self.day_of(self.now)

    def relative_day(self, text: str) -> date | None:
        """`today`, `yesterday`, `-30d`, `-4w`, `-6m`, `-1y`, as of the day of asking."""
        if text in ("today", "yesterday"):
            return self.today - timedelta(days=text == "yesterday")
        if found := RELATIVE_DAY.fullmatch(text):
            count, unit = int(found[1]), found[2]
            if unit in "dw":
                return self.today - timedelta(days=count * (7 if unit == "w" else 1))
            return months_before(self.today, count * (12 if unit == "y" else 1))
        return None

    def event_day(self, asked: str | int) -> date:
        """A `from` or a `to`: `20250131` or a relative day."""
        relative = self.relative_day(str(asked))
        return relative if relative is not None else datetime.strptime(str(asked), "%Y%m%d").date()

    def asked_day(self, asked: Any) -> date | None:
        """A day in a condition that compares: `2025-03-30` or a relative day; None for what is no day."""
        if not isinstance(asked, str):
            return None
        return spelled_day(asked) or self.relative_day(asked)


def months_before(day: date, months: int) -> date:
    """«The same day of the month six months ago, or that month's last day.»"""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def spelled_day(text: str) -> date | None:
    """`2025-03-30`."""
    return date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) else None


# --- conditions -------------------------------------------------------------------------------------------------------

READS_AS_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
DATE_VALUE = re.compile(r"\$D_(-?\d{1,13})", re.ASCII)
BIG = 2**53
NEGATED = {"not_equals": "equals", "does_not_contain": "contains"}
ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "greater_than": compared.gt,
    "greater_than_equals": compared.ge,
    "less_than": compared.lt,
    "less_than_equals": compared.le,
}
OPERATORS = ("equals", *NEGATED, "contains", *ORDERS, "between", "exists", "does_not_exist")


class Found(NamedTuple):
    """The values of a property, of a list's or an object's all; `lacking`: one of the items has not the key."""

    values: list[Scalar]
    lacking: bool = False


def name_of(condition: Where) -> str:
    """`Key` and `field_name` are older spellings of `name`."""
    return str(next(condition[key] for key in ("name", "Key", "field_name") if key in condition))


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def meets_all(props: Props, conditions: Sequence[Where], clock: Clock) -> bool:
    return all(meets(props, condition, clock) for condition in conditions)


def meets(props: Props, condition: Where, clock: Clock) -> bool:
    """One condition. «A missing property meets not_equals, does_not_contain and does_not_exist, and nothing else.» A
    list meets it when one of its values does, the two negations when none is so."""
    operator: str = condition.get("operator", "equals")
    found = find_property(props, name_of(condition))
    if operator in ("exists", "does_not_exist"):
        return (found is not None) == (operator == "exists")
    if found is None:
        return operator in NEGATED
    asked = as_list(condition["value"])

    def is_so(value: Scalar) -> bool:
        return is_met(NEGATED.get(operator, operator), value, asked, clock)

    if condition.get("match") == "all":
        return meets_with_all(found, is_so)
    return any(is_so(value) for value in found.values) != (operator in NEGATED)


def meets_with_all(found: Found, is_so: Callable[[Scalar], bool]) -> bool:
    """«With "match": "all" every value must meet it; an empty list then meets nothing», and neither does «an item
    without that key»."""
    return bool(found.values) and not found.lacking and all(is_so(value) for value in found.values)


def find_property(props: Props, name: str) -> Found | None:
    """A property by its name, letter for letter; else `outer.key`: «the values of one key» of the objects in `outer`.
    «A property that was itself uploaded as `outer.key` goes first», and so does a longer `outer`. None: missing."""
    if props.get(name) is not None:
        return Found(list(values_in(props[name])))
    for dot in (place for place in reversed(range(len(name))) if name[place] == "."):
        outer, key = name[:dot], name[dot + 1 :]
        if outer in props and (found := find_in_items(list(items_in(props[outer])), key)) is not None:
            return found
    return None


def find_in_items(items: Sequence[Any], key: str) -> Found | None:
    """The values of a key in every item that has it; None when no item does."""
    found = [find_property(item, key) if isinstance(item, dict) else None for item in items]
    having = [one for one in found if one is not None]
    if not having:
        return None
    lacking = len(having) < len(found) or any(one.lacking for one in having)
    return Found([value for one in having for value in one.values], lacking)


def items_in(value: Any) -> Iterator[Any]:
    """The items of a list, or the one value."""
    for item in as_list(value):
        if isinstance(item, list):
            yield from items_in(item)
        else:
            yield item


def values_in(value: Any) -> Iterator[Scalar]:
    """«An object counts as the list of all values in it, at any depth.» A null is no value."""
    for item in items_in(value):
        if isinstance(item, dict):
            for inner in item.values():
                yield from values_in(inner)
        elif item is not None:
            yield as_date(item)


def as_date(value: Scalar) -> Scalar:
    """«Dates (`$D_1487576752`) are numbers, epoch seconds.»"""
    found = DATE_VALUE.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) if found else value


def is_met(operator: str, value: Scalar, asked: Sequence[Scalar], clock: Clock) -> bool:
    """Whether one stored value is so. «A list of values is OR», but for `between`."""
    if operator == "between":
        return is_between(value, asked, clock)
    if operator in ORDERS:
        return any(compares(operator, value, one, clock) for one in asked)
    return any((contains if operator == "contains" else equals)(value, one, clock) for one in asked)


def equals(value: Scalar, asked: Scalar, clock: Clock) -> bool:
    """`equals`: the same text, the same number, or a date in that whole day."""
    asked = as_date(asked)
    return fold(value) == fold(asked) or is_same_number(value, asked) or is_on_day(value, asked, clock)


def contains(value: Scalar, asked: Scalar, clock: Clock) -> bool:
    """`contains`: «has it in its text», a number «as its digits: 59.99 contains 9.9»; long ones are always digits."""
    return digits_of(asked) in digits_of(value)


def digits_of(value: Scalar) -> str:
    """«Whole numbers of 2^53 and more are their digits, whatever their spelling.»"""
    number = number_of(value)
    is_long = number is not None and abs(number) >= BIG and number == number.to_integral_value()
    return str(int(number)) if number is not None and is_long else fold(value)


def compares(operator: str, value: Scalar, asked: Scalar, clock: Clock) -> bool:
    """The four comparisons, of numbers, or of dates with a whole day: «greater_than is after its end,
    greater_than_equals from its start, …; a text that does not read as a number never compares with a day»."""
    number, limit, day = number_of(value), number_of(as_date(asked)), clock.asked_day(asked)
    if day is not None:
        return number is not None and ORDERS[operator](clock.day_of(float(number)), day)
    return number is not None and limit is not None and ORDERS[operator](float(number), float(limit))


def is_between(value: Scalar, asked: Sequence[Scalar], clock: Clock) -> bool:
    """`between`: «lies between the two, both included», numbers or days."""
    low, high = asked
    return compares("greater_than_equals", value, low, clock) and compares("less_than_equals", value, high, clock)


def is_on_day(value: Scalar, asked: Scalar, clock: Clock) -> bool:
    """«With equals and not_equals only the spelling 2025-03-30 is a day.»"""
    number, day = number_of(value), spelled_day(asked) if isinstance(asked, str) else None
    return number is not None and day is not None and clock.day_of(float(number)) == day


def is_same_number(value: Scalar, asked: Scalar) -> bool:
    """«"5", 5, 5.0 and "05" are equal. Whole numbers of 2^53 and more equal by their digits only.»"""
    one, other = number_of(value), number_of(asked)
    if one is None or other is None:
        return False
    return one == other if max(abs(one), abs(other)) >= BIG else float(one) == float(other)


def number_of(value: Scalar) -> Decimal | None:
    """«A text reads as a number when all of it is an ASCII decimal», here with all its digits. A boolean is none."""
    if isinstance(value, bool) or (isinstance(value, str) and not READS_AS_NUMBER.fullmatch(value)):
        return None
    number = Decimal(str(value))
    return number if math.isfinite(float(number)) else None


def fold(value: Scalar) -> str:
    """«Case does not count, by Unicode's case folding; composed and decomposed letters are the same»; booleans are the
    texts `true` and `false`, a number is its digits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value).casefold())


# --- people -----------------------------------------------------------------------------------------------------------

PLATFORM_OF_KIND = {"fcm": "android", "apns": "ios", "wns": "windows"}
PLATFORMS = (*PLATFORM_OF_KIND.values(), "email")
SPELLED_OUT = {
    "Gender": {"male": "M", "female": "F"},
    "Employed": {"yes": "Y", "no": "N", "true": "Y", "false": "N"},
    "Married": {"yes": "Y", "no": "N", "true": "Y", "false": "N"},
}
EARTH_KM = 6371.0


class Event(NamedTuple):
    name: str
    at: int
    props: Props


class Device(NamedTuple):
    kind: str
    number: int
    lives: bool


@dataclass
class Person:
    """Somebody of a world. `key`: how uploads name them. `user`: their number in the ledger, once loaded."""

    key: IdentityKey
    profile: Props = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    bounced: bool = False
    user: int = 0

    @property
    def name(self) -> str:
        return self.key[1]

    def __str__(self) -> str:
        happened = "".join(f"\n    {event.at} {event.name!r} {event.props}" for event in sorted(self.events))
        devices = [f"{one.kind}{'' if one.lives else ' (dead)'}" for one in self.devices]
        bounced = ", their address bounced" if self.bounced else ""
        return (
            f"user {self.user}{bounced}\n  profile {self.profile}\n  devices {devices}\n  events {happened or 'none'}"
        )


def has_platform(person: Person, condition: Where) -> bool:
    """`Platform`: «has or had a device of it»; `AndroidApp` is `Android`."""
    had = {PLATFORM_OF_KIND[device.kind] for device in person.devices}
    asked = {str(value).lower().removesuffix("app") for value in as_list(condition["value"])}
    return bool(had & asked) != (condition.get("operator") == "not_equals")


def reached_platforms(person: Person) -> set[str]:
    """Where «a message would really get to now: a live token that did not opt out (`MSG-push-all` or `MSG-push` of the
    person); for e-mail a valid address that did not opt out or bounce»."""
    says = person.profile
    reached: set[str] = set()
    if says.get("MSG-push") is not False and says.get("MSG-push-all") is not False:
        reached = {PLATFORM_OF_KIND[device.kind] for device in person.devices if device.lives}
    if "Email" in says and says.get("MSG-email") is not False and not person.bounced:
        reached.add("email")
    return reached


def meets_demographics(person: Person, condition: Where, clock: Clock) -> bool:
    """`demographics`: the profile keeps M and F, Y and N; `Male`, `Yes` and `True` are other spellings of them."""
    spellings = SPELLED_OUT.get(name_of(condition))
    if spellings is None or "value" not in condition:
        return meets(person.profile, condition, clock)
    kept = [spellings.get(fold(value), value) for value in as_list(condition["value"])]
    return meets(person.profile, {**condition, "value": kept}, clock)


def meets_technographics(person: Person, condition: Where, clock: Clock) -> bool:
    """`technographics`: `Platform`, or «the profile's property of that name»."""
    if name_of(condition) == "Platform":
        return has_platform(person, condition)
    return meets(person.profile, condition, clock)


def meets_reachability(person: Person, condition: Where) -> bool:
    """`reachability`: «`has_token`: a push would reach one of their devices now; `has_email`: an e-mail would»."""
    reached = reached_platforms(person)
    is_so = "email" in reached if name_of(condition) == "has_email" else bool(reached - {"email"})
    return is_so == (fold(condition["value"]) == "true")


def meets_place(person: Person, place: Sequence[str], clock: Clock) -> bool:
    """`geo_fields`: «the properties Country, Region, City, equal as in conditions; one or two names ask for less»."""
    names = ("Country", "Region", "City")
    wanted = [{"name": name, "value": value} for name, value in zip(names, place, strict=False)]
    return meets_all(person.profile, wanted, clock)


def meets_circle(person: Person, circle: Sequence[float]) -> bool:
    """`geo_radius`: within so many kilometres of a point."""
    latitude, longitude, kilometres = circle
    away = distance_to(person, latitude, longitude)
    return away is not None and away <= kilometres


def distance_to(person: Person, latitude: float, longitude: float) -> float | None:
    """Kilometres on a sphere (haversine); None for somebody without «degrees, both numbers»."""
    there, along = person.profile.get("Latitude"), person.profile.get("Longitude")
    if not isinstance(there, int | float) or not isinstance(along, int | float):
        return None
    one, other = math.radians(latitude), math.radians(there)
    half = math.sin((other - one) / 2) ** 2
    half += math.cos(one) * math.cos(other) * math.sin(math.radians(along - longitude) / 2) ** 2
    return 2 * EARTH_KM * math.asin(min(1.0, math.sqrt(half)))


def as_lists(value: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """One pair of minutes, or a list of such."""
    return value if isinstance(value[0], list) else [value]


def is_like(person: Person, common: Where, clock: Clock) -> bool:
    """`common_profile_properties`: «all must be met», in a list of places and of circles one."""
    tests: Mapping[str, Callable[[Where], bool]] = {
        "profile_fields": lambda condition: meets(person.profile, condition, clock),
        "app_fields": lambda condition: meets(person.profile, condition, clock),
        "demographics": lambda condition: meets_demographics(person, condition, clock),
        "technographics": lambda condition: meets_technographics(person, condition, clock),
        "reachability": lambda condition: meets_reachability(person, condition),
    }
    for key, wanted in common.items():
        if key == "geo_fields":
            met = any(meets_place(person, place, clock) for place in wanted)
        elif key == "geo_radius":
            met = any(meets_circle(person, circle) for circle in wanted)
        else:
            met = all(tests[key](condition) for condition in wanted)
        if not met:
            return False
    return True


# --- events -----------------------------------------------------------------------------------------------------------


def minute_of(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def is_in_minutes(event: Event, pair: Sequence[str], clock: Clock) -> bool:
    """`time_of_day`: «lay between the two minutes of the account's clock, both included; ["22:00", "06:00"] goes over
    midnight»."""
    at = clock.at(event.at)
    minute, (first, last) = at.hour * 60 + at.minute, map(minute_of, pair)
    return first <= minute <= last if first <= last else minute >= first or minute <= last


def is_edge(person: Person, index: int, pick: Callable[[list[int]], int]) -> bool:
    """`first_time` and `last_time`: «the person's first (latest) of that name, ever; of several events in the same
    second any one of them». Those in one second have the same properties here, so that it does not matter which."""
    same = [number for number, event in enumerate(person.events) if event.name == person.events[index].name]
    edge = pick([person.events[number].at for number in same])
    return index == next(number for number in same if person.events[number].at == edge)


def meets_session(person: Person, index: int, condition: Where, clock: Clock) -> bool:
    """One of `session_properties`, of the person's event of that index."""
    event = person.events[index]
    asked: Any = condition.get("value")
    match name_of(condition):
        case "first_time":
            return is_edge(person, index, min) == (fold(asked) == "true")
        case "last_time":
            return is_edge(person, index, max) == (fold(asked) == "true")
        case "time_of_day":
            return any(is_in_minutes(event, pair, clock) for pair in as_lists(asked))
        case "day_of_week":
            return clock.at(event.at).isoweekday() % 7 + 1 in as_list(asked)
        case "day_of_month":
            return clock.at(event.at).day in as_list(asked)
        case _:
            return meets(event.props, condition, clock)


def count_events(person: Person, entry: Where, clock: Clock) -> int:
    """How many of a person's events meet an entry: of that name letter for letter, in those days, and «one and the same
    event» with all `event_properties` and `session_properties`."""
    first, last = clock.event_day(entry["from"]), clock.event_day(entry["to"])
    conditions = entry.get("event_properties", entry.get("props", []))
    return sum(
        event.name == entry["event_name"]
        and first <= clock.day_of(event.at) <= last
        and meets_all(event.props, conditions, clock)
        and all(meets_session(person, index, one, clock) for one in entry.get("session_properties", []))
        for index, event in enumerate(person.events)
    )


def is_count(count: int, asked: Where) -> bool:
    """`operator` and `value`: «counting is among those who did it at least once»."""
    operator = asked.get("operator", "equals")
    is_so = compared.eq if operator == "equals" else ORDERS[operator]
    return count > 0 and ("value" not in asked or bool(is_so(count, asked["value"])))


def did(person: Person, entry: Where, clock: Clock) -> bool:
    return is_count(count_events(person, entry, clock), entry)


def did_advanced(person: Person, advanced: Where, clock: Clock) -> bool:
    """`advanced_query`: «`did_all`: each of them, as many times as each says. `did_any`: at least one of them; with
    `operator` and `value`, their sum. `did_none`: not a single one of them.»"""
    some = advanced.get("did_any")
    return (
        all(did(person, entry, clock) for entry in advanced.get("did_all", []))
        and (some is None or is_count(sum(count_events(person, one, clock) for one in some["any_events"]), some))
        and not any(did(person, entry, clock) for entry in advanced.get("did_none", []))
    )


# --- samples ----------------------------------------------------------------------------------------------------------

WORD = 2**64 - 1


def siphash(text: bytes, key: bytes = bytes(16)) -> int:
    """SipHash-2-4 of Aumasson and Bernstein, 64 bits."""
    one, other = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    start = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    state = (start[0] ^ one, start[1] ^ other, start[2] ^ one, start[3] ^ other)
    padded = text + bytes(7 - len(text) % 8) + bytes([len(text) % 256])
    for place in range(0, len(padded), 8):
        word = int.from_bytes(padded[place : place + 8], "little")
        a, b, c, d = state
        state = sip_round(*sip_round(a, b, c, d ^ word))
        state = (state[0] ^ word, *state[1:])
    a, b, c, d = state
    state = (a, b, c ^ 0xFF, d)
    for _ in range(4):
        state = sip_round(*state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def sip_round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a, c = (a + b) & WORD, (c + d) & WORD
    b, d = rotate(b, 13) ^ a, rotate(d, 16) ^ c
    a = rotate(a, 32)
    c, a = (c + b) & WORD, (a + d) & WORD
    b, d = rotate(b, 17) ^ c, rotate(d, 21) ^ a
    return a, b, rotate(c, 32), d


def rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & WORD


def is_drawn(person: Person, sample: Where) -> bool:
    """`sample`: a percentage of everybody, by the seed and the number of the user in the ledger."""
    drawn = siphash(f"{sample.get('seed', '')}:{person.user}".encode()) % 10_000
    share: float = sample["percent"]
    return drawn < round(share * 100)


# --- the whole question -----------------------------------------------------------------------------------------------


def is_meant(person: Person, where: Where, clock: Clock) -> bool:
    """«Everything in one `where` must be true at once (AND).» `{}` and the segment `all` are everybody."""
    common = where.get("common_profile_properties", where.get("common_profile_prop", {}))
    return (
        ("event_name" not in where or did(person, where, clock))
        and is_like(person, common, clock)
        and did_advanced(person, where.get("advanced_query", {}), clock)
        and where.get("segment", "all") == "all"
        and all(is_meant(person, part, clock) for part in where.get("and", []))
        and ("or" not in where or any(is_meant(person, part, clock) for part in where["or"]))
        and ("not" not in where or not is_meant(person, where["not"], clock))
        and ("sample" not in where or is_drawn(person, where["sample"]))
    )


# --- worlds -----------------------------------------------------------------------------------------------------------

PEOPLE = 40
ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Pacific/Auckland"),
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # south of the equator, and its clocks change by half an hour
    "America/Santiago",  # south of the equator, and its clocks change at midnight
    "America/Havana",  # an hour after midnight comes twice, and midnight itself never comes
)
EVENTS = ("Viewed", "viewed", "Charged", 'Größe\'s "x"', "App Launched")
LONG = "Länge" + "x" * 114  # 120 bytes, as long as an upload takes

TEXTS: tuple[Scalar, ...] = (
    *("Gold", "gold", "GOLD plus", "Silver", "Platinum", "straße", "STRASSE", "Größe", "GRÖSSE", "σίσυφος", "ΣΊΣΥΦΟΣ"),
    *(
        "日本",
        "🔔 bell",
        'q"uo',
        "it's",
        "a\\b",
        " x ",
        "",
        "%",
        "_",
        "G_ld",
        "null",
        "[]",
        "{}",
        "true story",
        "tab\t",
    ),
    *(
        "İzmir",
        "izmir",
        "ﬁn",
        "FIN",
        "today",
        "-30d",
        "10:00",
        "line\nbreak",
        "bell\x07byte",
        "Café",
        "CAFE\u0301",
        "$D_soon",
        "{a:String}",
    ),
)
NUMBERISH: tuple[Scalar, ...] = (
    *("5", "05", "5.0", "-5", "1e3", "59.99", "12", "0", "-0.5", "1000", "100.00", "+5", ".5", "5."),
    *(
        "12 kg",
        "inf",
        "nan",
        "-Infinity",
        "0x10",
        "1_000",
        "１２",
        "1,5",
        "--5",
        "5-",
        "1e400",
    ),  # none of these is a number
)
NUMBERS: tuple[Scalar, ...] = (5, 5.0, 5.5, -5, 0, 0.25, 1000, 12, 59.99, -0.5, 100, 7, 3, 9.9, 0.1, 42, 1, -1)
BIGS: tuple[Scalar, ...] = (
    *(BIG - 1, BIG, BIG + 1, BIG + 2, -BIG, -BIG - 1, 123_456_789_012_345_678, 2**63 - 1, -(2**63)),
    *(
        str(BIG - 1),
        str(BIG),
        str(BIG + 1),
        str(-BIG - 1),
        f"0{BIG + 1}",
        f"{BIG}.0",
        "123456789012345679",
        str(2**64 + 1),
    ),
)
BOOLEANS: tuple[Scalar, ...] = (True, False, "true", "FALSE", "True", "yes")
MAKES: tuple[Scalar, ...] = ("Nokia", "NOKIA", "Siemens", "nokia 3310")
PLACES = (
    ("India", "Maharashtra", "Mumbai"),
    ("india", "Goa", "Panaji"),
    ("Österreich", "Wien", "WIEN"),
    ("Fiji", "", ""),
)
POINTS = (
    (19.08, 72.88),
    (15.5, 73.83),
    (48.21, 16.37),
    (-17.7, 179.9),
    (-17.7, -179.9),
    (0, 0),
    (89.5, 10),
    (-33, -71),
)


class World:
    """People with profiles, devices and events in the account of some time zone at some moment, and what each question
    means over them. `everybody_reachable`: each has one live device, and no consent is refused."""

    def __init__(self, seed: int, *, everybody_reachable: bool = False):
        self._dice = random.Random(seed)
        self.seed = seed
        zone = ZoneInfo(self._dice.choice(ZONES))
        self.clock = Clock(zone, self._pick_now(zone))
        self.moments = moments_of(self.clock)
        self.people = [self._make_person(number) for number in range(PEOPLE)]
        if everybody_reachable:
            for number, person in enumerate(self.people):
                person.devices = [Device(self._dice.choice(list(PLATFORM_OF_KIND)), number, lives=True)]
                person.profile = {key: value for key, value in person.profile.items() if not key.startswith("MSG-")}

    @staticmethod
    def of(clock: Clock, people: Sequence[Person]) -> World:
        """These people, instead of random ones."""
        world = World(0)
        world.clock, world.people = clock, list(people)
        return world

    @property
    def names(self) -> dict[int, str]:
        return {person.user: person.name for person in self.people}

    def means(self, where: Where) -> set[str]:
        """The people of a question."""
        return {person.name for person in self.people if is_meant(person, where, self.clock)}

    def reach(self, names: set[str]) -> dict[str, int]:
        """How many of them a message would really get to, by platform."""
        reached = [reached_platforms(person) for person in self.people if person.name in names]
        return {platform: sum(platform in one for one in reached) for platform in PLATFORMS}

    def recipients(self, names: set[str]) -> set[tuple[int, str]]:
        """Each of them on every platform they have or had."""
        people = [person for person in self.people if person.name in names]
        pushed = {(person.user, PLATFORM_OF_KIND[device.kind]) for person in people for device in person.devices}
        return pushed | {(person.user, "email") for person in people if "Email" in person.profile}

    def tell(self, where: Where, found: set[str], meant: set[str]) -> str:
        """Where an answer and the meaning part, with everything about one person."""
        person = next(one for one in self.people if one.name in found ^ meant)
        verdict = "missing" if person.name in meant else "not meant"
        others = len(found ^ meant) - 1
        return (
            f"{where}\nworld {self.seed}, {self.clock.zone}, asked at {self.clock.at(self.clock.now)}:\n"
            f"{person.name} is {verdict} (and {others} more are wrong): {person}"
        )

    # --- making one

    def _pick_now(self, zone: ZoneInfo) -> float:
        """Some moment of four years: often the last of a month, or near a change of the clocks."""
        day = date(2024, 1, 1) + timedelta(days=self._dice.randrange(4 * 365))
        match self._dice.randrange(4):
            case 0:
                day = day.replace(day=monthrange(day.year, day.month)[1])
            case 1:
                day = self._dice.choice(days_of_change(zone, day.year) or [day]) + timedelta(self._dice.randrange(9))
        at = time(self._dice.choice((0, 23, self._dice.randrange(24))), self._dice.randrange(60), 1)
        return datetime.combine(day, at, zone).timestamp() + 0.25

    def _pick_moment(self) -> int:
        """A second to happen at: near midnights, on the same few days, or anywhere in two months."""
        match self._dice.randrange(4):
            case 0:
                return self._dice.choice(self.moments)
            case 1:
                return int(self.clock.now) - self._dice.randrange(-86_400, 3 * 86_400)
            case _:
                return int(self.clock.now) - self._dice.randrange(60 * 86_400)

    def _make_person(self, number: int) -> Person:
        dice = self._dice
        if dice.random() < 0.1:  # known by a device only
            person = Person(("objectId", f"device-{number}"))
            person.devices = [Device(dice.choice(list(PLATFORM_OF_KIND)), 0, dice.random() < 0.8)]
        else:
            person = Person(("identity", f"user-{number}"))
            kinds = dice.choices(list(PLATFORM_OF_KIND), k=dice.choice((0, 1, 1, 2, 4)))
            person.devices = [Device(kind, index, dice.random() < 0.7) for index, kind in enumerate(kinds)]
            if dice.random() < 0.9:
                person.profile = self._make_profile(number)
                person.bounced = "Email" in person.profile and dice.random() < 0.2
        person.events = self._make_events() if dice.random() < 0.85 else []
        return person

    def _make_profile(self, number: int) -> Props:
        dice = self._dice
        profile = self._make_props() | self._make_place()
        for name, values in (
            ("Gender", ("M", "F")),
            ("Age", (18, 30, 31, 65)),
            ("Education", ("School", "College", "Graduate")),
            ("Employed", ("Y", "N")),
            ("Married", ("Y", "N")),
            ("Make", MAKES),
            ("App Version", ("4.5", 4.5, "4.5.1", "4.10")),
            ("OS", ("Android", "iOS")),
            ("Email", (f"User{number}@example.com",)),
            ("MSG-push", (True, False)),
            ("MSG-push-all", (True, True, False)),
            ("MSG-email", (True, False)),
        ):
            if dice.random() < 0.5:
                profile[name] = dice.choice(values)
        return profile

    def _make_place(self) -> Props:
        dice = self._dice
        place: Props = {}
        if dice.random() < 0.7:
            place = dict(zip(("Country", "Region", "City"), dice.choice(PLACES), strict=True))
            if dice.random() < 0.2:
                del place[dice.choice(list(place))]
        if dice.random() < 0.7:
            latitude, longitude = dice.choice(POINTS)
            place["Latitude"] = latitude + dice.choice((0, dice.random() / 3))
            place["Longitude"] = longitude + dice.choice((0, dice.random() / 10))
            if dice.random() < 0.2:
                place[dice.choice(("Latitude", "Longitude"))] = dice.choice(("n/a", None))
        return {name: value for name, value in place.items() if value is not None}

    def _make_events(self) -> list[Event]:
        """A few. Those of one name in the same second are equal, and there is one in another second: then it makes no
        difference which of them is the first and which the latest."""
        dice = self._dice
        happened: dict[tuple[str, int], Event] = {}
        names = dice.choices(EVENTS, k=2)
        for _ in range(dice.randrange(1, 9)):
            name, at = dice.choice(names), self._pick_moment()
            happened[name, at] = Event(name, at, self._make_props() | self._make_items())
        events = list(happened.values())
        for name in names:
            same = [event for event in happened.values() if event.name == name]
            if len(same) > 1 and dice.random() < 0.3:
                events += [dice.choice(same)] * dice.choice((1, 2))
        dice.shuffle(events)
        return events

    def _make_props(self) -> Props:
        """Properties with telling names and values of one kind, and a few with values of any kind."""
        dice = self._dice
        makers: Mapping[str, Callable[[], Any]] = {
            "Plan": lambda: dice.choice((dice.choice(TEXTS[:6]), {"Level": dice.choice((*TEXTS[:3], {"x": 5}))})),
            "plan": lambda: dice.choice(TEXTS[:6]),
            "Plan.Level": lambda: dice.choice((self._pick_value(), {"x": self._pick_value()})),
            "Dotted.outer": lambda: {"x": self._pick_value(), "y": [self._pick_value()]},
            "Plan.Level.x": lambda: dice.choice(NUMBERS),
            "Odd": lambda: {"a.b": self._pick_value(), "c": {"d": self._pick_value(), "e\"'`": dice.choice(NUMBERS)}},
            "Score": lambda: dice.choice((*NUMBERS, *NUMBERISH)),
            "Id": lambda: dice.choice(BIGS),
            "Flag": lambda: dice.choice(BOOLEANS),
            "Seen": lambda: dice.choice(("$D_{}", "$D_{}", "$D_{}", "{}")).format(dice.choice(self.moments)),
            "Wild": self._pick_wild,
            'city\'s "x"': lambda: dice.choice(TEXTS),
            "Größe 100% `a`": self._pick_value,
            "a\\b[0]:c/d~e-f": self._pick_value,
            LONG: lambda: dice.choice(TEXTS),
            "Tags": lambda: [self._pick_value() for _ in range(dice.randrange(5))],
            "Same": lambda: [dice.choice(TEXTS[:3]) for _ in range(dice.randrange(3))],
        }
        return {name: make() for name, make in makers.items() if dice.random() < 0.4}

    def _make_items(self) -> Props:
        """`Items` of a charge, each with some of the keys; at times `Items.Category` itself."""
        dice = self._dice

        def make_item() -> Props:
            item: Props = {
                "Category": dice.choice(TEXTS[:5]),
                "Price": dice.choice(NUMBERS),
                "Bought": f"$D_{dice.choice(self.moments)}",
                "Labels": dice.choices((*TEXTS[:5], None), k=2),
                "by.dot": dice.choice(NUMBERS),
            }
            return {key: value for key, value in item.items() if dice.random() < 0.75} or {"Category": "Gold"}

        props: Props = {"Amount": dice.choice(NUMBERS)}
        if dice.random() < 0.6:
            props["Items"] = [make_item() for _ in range(dice.randrange(1, 4))]
        if dice.random() < 0.15:
            props["Items.Category"] = dice.choice(TEXTS[:5])
        return props

    def _pick_value(self) -> Scalar:
        pool = self._dice.choice((TEXTS, TEXTS, NUMBERISH, NUMBERS, BIGS, BOOLEANS))
        if self._dice.random() < 0.1:
            day = self.clock.day_of(self._dice.choice(self.moments))
            return self._dice.choice((f"$D_{self._dice.choice(self.moments)}", day.isoformat()))
        return self._dice.choice(pool)

    def _pick_wild(self, levels: int = 2) -> Any:
        """A value, a list of a few, or an object."""
        dice = self._dice
        match dice.randrange(4) if levels else 0:
            case 0:
                return self._pick_value()
            case 1:
                return {key: self._pick_wild(levels - 1) for key in dice.sample(("k", "l", "K", "ß"), k=2)}
            case _:
                return [self._pick_wild(levels - 1) for _ in range(dice.randrange(1, 4))]

    # --- loading one

    async def load(self, ledger: Ledger, facts: Facts) -> Account:
        """Uploads everybody to a new account, some of it twice; then devices die and addresses bounce."""
        now = self.clock.now
        account = create_account(ledger, "world", self.clock.zone.key, now)[0]
        for people in (self.people, self.people[:10]):
            records = list(self._records(people))
            found = await upload(ledger, facts, account, {"d": records}, now, system=True)
            assert found.unprocessed == [], found.unprocessed[:3]
        keys = {person.key: person for person in self.people}
        users = await ledger.read(lambda connection: find_users(connection, account.id, keys))
        for key, person in keys.items():
            person.user = users[key]
        await self._lose_addresses(ledger, facts, account)
        return account

    def _records(self, people: Sequence[Person]) -> Iterator[dict[str, Any]]:
        for person in people:
            kind, name = person.key
            if kind == "identity" and person.profile:  # what was true once is not what is asked
                stale = {"Plan": "Stale", "Wild": ["Stale"], "Score": 5}
                yield {"type": "profile", kind: name, "profileData": stale}
                left = {key: {"$delete": 1} for key in stale}
                yield {"type": "profile", kind: name, "profileData": left | person.profile}
            for device in person.devices:
                device_id = object_id(person, device)
                if kind == "identity":
                    yield {"type": "profile", kind: name, "objectId": device_id, "profileData": {}}
                data = {"type": device.kind, "id": token(person, device)}
                yield {"type": "token", "objectId": device_id, "tokenData": data}
            for event in person.events:
                yield {"type": "event", kind: name, "evtName": event.name, "ts": event.at, "evtData": event.props}
            if not (person.profile or person.devices or person.events):
                yield {"type": "profile", kind: name, "profileData": {}}

    async def _lose_addresses(self, ledger: Ledger, facts: Facts, account: Account) -> None:
        users = {person.user: person for person in self.people}
        devices = await ledger.read(lambda connection: live_devices(connection, account.id, list(users)))
        gone: dict[int, list[tuple[int, Address, str]]] = {}
        for user, person in users.items():
            dead = {token(person, device) for device in person.devices if not device.lives}
            gone[user] = [(number, address, "410") for number, address in devices[user] if address.value in dead]
            if person.bounced:
                gone[user].append((0, Address("email", person.profile["Email"].lower()), "550"))
        await ledger.write(lambda connection: mark_gone(connection, account.id, gone, self.clock.now))
        await refresh_profiles(ledger, facts, account.id, [user for user, lost in gone.items() if lost])


def object_id(person: Person, device: Device) -> str:
    return person.name if person.key[0] == "objectId" else f"{person.name}-{device.number}"


def token(person: Person, device: Device) -> str:
    address = f"{person.name}-{device.number}-{device.kind}"
    return f"https://db3.notify.windows.com/?token={address}" if device.kind == "wns" else address


def moments_of(clock: Clock) -> list[int]:
    """Seconds worth having: midnights and changes of the clocks, and those a second beside them."""
    days = [clock.today - timedelta(days=back) for back in (-1, 0, 1, 2, 7, 28, 29, 30, 31, 60, 183, 365, 366)]
    for change in days_of_change(clock.zone, clock.today.year):
        days += [change - timedelta(days=1), change, change + timedelta(days=1)]
    starts = {int(datetime.combine(day, time(hour), clock.zone).timestamp()) for day in days for hour in (0, 1, 3)}
    return sorted({start + beside for start in starts for beside in (-1, 0, 1)})


def days_of_change(zone: ZoneInfo, year: int) -> list[date]:
    """The days on which the clocks change."""
    days = [date(year, 1, 1) + timedelta(days=number) for number in range(365)]
    offsets = [datetime.combine(day, time(0), zone).utcoffset() for day in days]
    return [day for day, one, next_one in zip(days, offsets, offsets[1:], strict=False) if one != next_one]
