"""`common_profile_properties`: what a person is like, each of its lists → nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tocsin.audience.condition import CONDITIONS, WITHOUT_VALUE, Conditions, nodes_of
from tocsin.audience.node import AnyOf, Condition, Is, Near, Not, Query, Reachable, Uses
from tocsin.audience.session import read_flag
from tocsin.errors import Invalid, show

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
REACHABILITY: Mapping[str, Literal["push", "email"]] = {"has_token": "push", "has_email": "email"}
PLACES = ("Country", "Region", "City")
FARTHEST = 20_040  # km: half the way around the earth

PlaceJson = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=512)], ...],
    Meta(min_length=1, max_length=3, extra={"is": "[country], [country, region] or [country, region, city]"}),
]
CircleJson = Annotated[
    tuple[
        Annotated[float, Meta(ge=-90, le=90)],
        Annotated[float, Meta(ge=-180, le=180)],
        Annotated[float, Meta(gt=0, le=FARTHEST)],
    ],
    Meta(extra={"is": "[latitude, longitude, kilometres]"}),
]


class CommonJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """What a person is like, as it is sent."""

    profile_fields: Conditions = ()
    demographics: Conditions = ()
    technographics: Conditions = ()
    app_fields: Conditions = ()
    reachability: Conditions = ()
    geo_fields: Annotated[tuple[PlaceJson, ...], Meta(max_length=CONDITIONS)] = ()
    geo_radius: Annotated[tuple[CircleJson, ...], Meta(max_length=CONDITIONS)] = ()

    def __post_init__(self) -> None:
        _ = self.parts  # what is wrong with it is refused while its place is known

    @cached_property
    def parts(self) -> tuple[Query, ...]:
        """What must all be met."""
        parts: list[Query] = []
        for conditions in (
            nodes_of(self.profile_fields, "profile_fields"),
            _read_demographics(nodes_of(self.demographics, "demographics")),
            nodes_of(self.app_fields, "app_fields"),
        ):
            parts.extend([Is(conditions)] if conditions else [])
        parts.extend(_read_technographics(nodes_of(self.technographics, "technographics")))
        parts.extend(_read_reachability(nodes_of(self.reachability, "reachability")))
        places = [Is(tuple(map(_is_in, PLACES, names))) for names in self.geo_fields]
        if places:
            parts.append(places[0] if len(places) == 1 else AnyOf(tuple(places)))
        if self.geo_radius:
            parts.append(Near(self.geo_radius))
        return tuple(parts)


def _is_in(kind: str, name: str) -> Condition:
    return Condition(kind, "equals", (name,))


def _read_demographics(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    return tuple(_respell(one, f".demographics[{index}]") for index, one in enumerate(conditions))


def _respell(condition: Condition, field: str) -> Condition:
    if condition.name not in DEMOGRAPHICS:
        raise Invalid(f"{show(condition.name)} is no demographic; known are {', '.join(DEMOGRAPHICS)}", f"{field}.name")
    known = SPELLINGS.get(condition.name)
    if known is None or condition.operator in WITHOUT_VALUE:
        return condition
    if condition.operator not in ("equals", "not_equals"):
        raise Invalid(f"{condition.name} takes equals, not_equals, exists, does_not_exist only", f"{field}.operator")
    return msgspec.structs.replace(condition, values=_translate(condition, known, known.values(), f"{field}.value"))


def _translate(condition: Condition, known: Mapping[str, str], names: Collection[str], field: str) -> tuple[str, ...]:
    """Return the values in our words. Raise Invalid for one that is not `known`, with the `names` there are."""
    for value in condition.values:
        if str(value).lower() not in known:
            raise Invalid(f"{show(value)} is no {condition.name}; known are {', '.join(dict.fromkeys(names))}", field)
    return tuple(dict.fromkeys(known[str(value).lower()] for value in condition.values))


def _read_technographics(conditions: Sequence[Condition]) -> list[Query]:
    others = tuple(one for one in conditions if one.name != "Platform")
    parts: list[Query] = [Is(others)] if others else []
    for index, one in enumerate(conditions):
        if one.name == "Platform":
            field = f".technographics[{index}]"
            if one.operator not in ("equals", "not_equals") or one.match == "all":
                raise Invalid("Platform takes equals and not_equals only", f"{field}.operator")
            uses = Uses(_translate(one, PLATFORMS, PLATFORM_NAMES, f"{field}.value"))
            parts.append(uses if one.operator == "equals" else Not(uses))
    return parts


def _read_reachability(conditions: Sequence[Condition]) -> list[Query]:
    parts: list[Query] = []
    for index, one in enumerate(conditions):
        field = f".reachability[{index}]"
        if one.name not in REACHABILITY:
            raise Invalid(f"{show(one.name)} is no reachability; known are {', '.join(REACHABILITY)}", f"{field}.name")
        if one.operator != "equals" or one.match == "all":
            raise Invalid(f"{one.name} takes equals only", f"{field}.operator")
        reachable, flag = Reachable(REACHABILITY[one.name]), read_flag(list(one.values))
        if flag is None:
            raise Invalid(f'{one.name} must be "True" or "False"', f"{field}.value")
        parts.append(reachable if flag else Not(reachable))
    return parts
