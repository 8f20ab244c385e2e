"""`common_profile_properties`: what a person is like, each of its lists → nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tocsin.audience.condition import CONDITIONS, WITHOUT_VALUE, fail, read_conditions, refuse_unknown, show
from tocsin.audience.node import AnyOf, Condition, Is, Near, Not, Query, Reachable, Uses
from tocsin.audience.session import read_flag

YES_NO = {"y": "Y", "yes": "Y", "true": "Y", "n": "N", "no": "N", "false": "N"}
# Stored as M/F and Y/N; asked for as CleverTap's samples do («Female»).
SPELLINGS: Mapping[str, Mapping[str, str]] = {
    "Gender": {"m": "M", "male": "M", "f": "F", "female": "F"},
    "Employed": YES_NO,
    "Married": YES_NO,
    "Education": {"school": "School", "college": "College", "graduate": "Graduate"},
}
DEMOGRAPHICS = (*SPELLINGS, "Age")
PLATFORM_NAMES = ("Android", "AndroidApp", "iOS", "iOSApp", "Windows", "WindowsApp")
PLATFORMS = {name.lower(): name.lower().removesuffix("app") for name in PLATFORM_NAMES}
REACHABILITY = {"has_token": "push", "has_email": "email"}
PLACES = ("Country", "Region", "City")
FARTHEST = 20_040.0  # km: half the way around the earth


def read_common(raw: Any, place: str) -> list[Query]:
    if not isinstance(raw, dict):
        fail("must be an object", place)
    refuse_unknown(raw, READERS, place)
    return [part for key, value in raw.items() for part in READERS[key](value, f"{place}.{key}")]


def _read_fields(raw: Any, place: str) -> list[Query]:
    conditions = read_conditions(raw, place)
    return [Is(conditions)] if conditions else []


def _read_demographics(raw: Any, place: str) -> list[Query]:
    conditions = []
    for index, one in enumerate(read_conditions(raw, place)):
        if one.name not in DEMOGRAPHICS:
            fail(f"{show(one.name)} is no demographic; known are {', '.join(DEMOGRAPHICS)}", f"{place}[{index}].name")
        conditions.append(_respell(one, f"{place}[{index}]") if one.name in SPELLINGS else one)
    return [Is(tuple(conditions))] if conditions else []


def _respell(condition: Condition, place: str) -> Condition:
    if condition.operator in WITHOUT_VALUE:
        return condition
    if condition.operator not in ("equals", "not_equals"):
        fail(f"{condition.name} takes equals, not_equals, exists, does_not_exist only", f"{place}.operator")
    known = SPELLINGS[condition.name]
    values = [known.get(str(value).lower()) for value in condition.values]
    if None in values:
        wrong = condition.values[values.index(None)]
        fail(
            f"{show(wrong)} is no {condition.name}; known are {', '.join(dict.fromkeys(known.values()))}",
            f"{place}.value",
        )
    return msgspec.structs.replace(condition, values=tuple(value for value in values if value is not None))


def _read_technographics(raw: Any, place: str) -> list[Query]:
    parts: list[Query] = []
    conditions = []
    for index, one in enumerate(read_conditions(raw, place)):
        if one.name != "Platform":
            conditions.append(one)
            continue
        if one.operator not in ("equals", "not_equals") or one.match == "all":
            fail("Platform takes equals and not_equals only", f"{place}[{index}].operator")
        platforms = [PLATFORMS.get(str(value).lower()) for value in one.values]
        if None in platforms:
            wrong = one.values[platforms.index(None)]
            fail(f"{show(wrong)} is no Platform; known are {', '.join(PLATFORM_NAMES)}", f"{place}[{index}].value")
        uses = Uses(tuple(dict.fromkeys(name for name in platforms if name is not None)))
        parts.append(uses if one.operator == "equals" else Not(uses))
    return [Is(tuple(conditions)), *parts] if conditions else parts


def _read_reachability(raw: Any, place: str) -> list[Query]:
    parts: list[Query] = []
    for index, one in enumerate(read_conditions(raw, place)):
        here = f"{place}[{index}]"
        if one.name not in REACHABILITY:
            fail(f"{show(one.name)} is no reachability; known are {', '.join(REACHABILITY)}", f"{here}.name")
        if one.operator != "equals" or one.match == "all":
            fail(f"{one.name} takes equals only", f"{here}.operator")
        reachable = Reachable(REACHABILITY[one.name])  # type: ignore[arg-type]  # the table above
        parts.append(reachable if read_flag(list(one.values), f"{here}.value") else Not(reachable))
    return parts


def _read_geo_fields(raw: Any, place: str) -> list[Query]:
    found = []
    for index, names in enumerate(_read_geo(raw, place)):
        if not 0 < len(names) <= len(PLACES) or not all(isinstance(one, str) and one for one in names):
            fail(
                'needs a country, or with its region and city, as texts: ["India", "Maharashtra"]', f"{place}[{index}]"
            )
        fields = [{"name": name, "value": value} for name, value in zip(PLACES, names, strict=False)]
        found.append(Is(read_conditions(fields, f"{place}[{index}]")))
    return [found[0] if len(found) == 1 else AnyOf(tuple(found))] if found else []


def _read_geo_radius(raw: Any, place: str) -> list[Query]:
    circles = []
    for index, numbers in enumerate(_read_geo(raw, place)):
        fine = len(numbers) == 3 and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
        if not fine or abs(numbers[0]) > 90 or abs(numbers[1]) > 180 or not 0 < numbers[2] <= FARTHEST:
            fail("needs [latitude, longitude, kilometres], within 90, 180 and 20040", f"{place}[{index}]")
        circles.append((float(numbers[0]), float(numbers[1]), float(numbers[2])))
    return [Near(tuple(circles))] if circles else []


def _read_geo(raw: Any, place: str) -> list[list[Any]]:
    if not isinstance(raw, list) or len(raw) > CONDITIONS or not all(isinstance(one, list) for one in raw):
        fail(f"must be a list of at most {CONDITIONS} lists", place)
    return raw


READERS: dict[str, Callable[[Any, str], list[Query]]] = {
    "profile_fields": _read_fields,
    "demographics": _read_demographics,
    "technographics": _read_technographics,
    "app_fields": _read_fields,
    "reachability": _read_reachability,
    "geo_fields": _read_geo_fields,
    "geo_radius": _read_geo_radius,
}
