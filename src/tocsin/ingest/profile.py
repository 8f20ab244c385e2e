"""The profile document: how changes apply to it, and what it says about consent and reach. Pure."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from typing import Any

import msgspec

from tocsin.channels import ADDRESS_CHANNELS, CHANNELS, DEVICE_KINDS, PLATFORMS, Channel
from tocsin.ingest.record import BACK, INTEGERS, LEFT, LIST_LENGTH, Rejected, read_email, read_phone
from tocsin.store.props import fold

READERS = {"Email": read_email, "Phone": read_phone}  # of the properties that hold addresses

TRACKING = "MSG-email-tracking"  # the property that says no to being counted in mails
ZONE_LENGTH = 64  # of a name; the longest there is has 32
NEVER, REACHABLE, UNREACHABLE = 0, 1, 2  # facts.sql: what a platform column of `profile` says


def apply_changes(profile: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the profile after `changes`: a plain value replaces, an operation object changes the present value.

    `$set` and `$add` keep a list without repeats, newest last and at most LIST_LENGTH long. `$incr` and `$decr` take
    anything but a number for 0, and raise Rejected where no number is left. `$delete` removes the property, whatever
    its operand.
    """
    after = dict(profile)
    for key, value in changes.items():
        if key in (LEFT, BACK):
            _change_groups(after, value)
            continue
        operation = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else ""
        match operation:
            case "$delete":
                after.pop(key, None)
            case "$set":
                after[key] = _without_repeats(value["$set"])
            case "$add":
                after[key] = _without_repeats([*_as_list(after.get(key)), *_as_list(value["$add"])])
            case "$remove":
                removed = _as_list(value["$remove"])
                after[key] = [item for item in _as_list(after.get(key)) if item not in removed]
            case "$incr" | "$decr":
                sign = 1 if operation == "$incr" else -1
                total = _as_number(after.get(key)) + sign * value[operation]
                if isinstance(total, float) and not math.isfinite(total):
                    raise Rejected(524, f"Profile data is incorrect. {operation} of {key} leads out of all numbers.")
                after[key] = total if -INTEGERS <= total < INTEGERS else float(total)
            case _:
                after[key] = value
    return after


def _change_groups(profile: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Change the groups that a profile left: `$add` them, `$remove` them, or `$delete` for all."""
    [(operation, names)] = change.items()
    named = set() if operation == "$delete" else {fold(one) for one in names}
    left = [] if operation == "$delete" else [one for one in list_groups_left(profile) if fold(one) not in named]
    left += names if operation == "$add" else ()
    if len(left) > LIST_LENGTH:
        raise Rejected(524, f"Profile data is incorrect. {LEFT} would hold more than {LIST_LENGTH} groups.")
    profile.pop(LEFT, None)
    if left:
        profile[LEFT] = {"email": left}


def list_groups_left(profile: Mapping[str, Any]) -> list[str]:
    """Return the subscription groups that a profile says were left."""
    value = profile.get(LEFT)
    names = value.get("email") if isinstance(value, dict) else None
    return [one for one in names if isinstance(one, str)] if isinstance(names, list) else []


def split_push_choice(changes: Mapping[str, Any]) -> tuple[dict[str, Any], bool | None]:
    """Return the changes of a record that names a device without `MSG-push`, and whether the device wants push; None
    when `MSG-push` is not among them.

    CleverTap's «GDPR» guide: `MSG-push` blocks push for the specific device, `MSG-push-all` for all devices tagged to
    the user. `$delete` withdraws the choice, and a device without one gets push.
    """
    rest = dict(changes)
    wanted = not _is_false(rest.pop("MSG-push")) if "MSG-push" in rest else None
    return rest, wanted


def wants(profile: Mapping[str, Any], channel: Channel) -> bool:
    """Return False when one of the channel's consent properties says no. For push those are `MSG-push-all` and a
    `MSG-push` that was sent without a device: both are for all devices of the user."""
    said = [profile[key] for key in channel.consent if key in profile]  # of most nothing, and this is asked often
    return not any(map(_is_false, said))


def allows_tracking(profile: str) -> bool:
    """Return whether mails to somebody may report what is done with them. profile: its JSON; `MSG-email-tracking` says
    no as a consent does."""
    return TRACKING not in profile or not _is_false(msgspec.json.decode(profile).get(TRACKING))


def read_address(profile: Mapping[str, Any], channel: Channel) -> str:
    """Return a profile's address on a channel, normalized; "" when there is none or it is not valid."""
    return READERS[channel.property](profile.get(channel.property))


def find_reach(
    profile: Mapping[str, Any], devices: Iterable[tuple[str, bool]], suppressed: Container[str] = ()
) -> dict[str, int]:
    """Return what the platform columns say of a user: {platform: NEVER, REACHABLE or UNREACHABLE}.

    devices: (kind, whether it is alive and did not opt out). suppressed: addresses and numbers that bounced for good or
    opted out.
    """
    reach: dict[str, int] = dict.fromkeys(PLATFORMS, NEVER)
    push = wants(profile, CHANNELS["push"])
    for kind, willing in devices:
        platform = DEVICE_KINDS[kind].platform
        if willing and push:
            reach[platform] = REACHABLE
        elif reach[platform] == NEVER:
            reach[platform] = UNREACHABLE
    for channel in ADDRESS_CHANNELS:
        if profile.get(channel.property):
            address = read_address(profile, channel)
            fine = address and address not in suppressed and wants(profile, channel)
            reach[channel.platforms[0]] = REACHABLE if fine else UNREACHABLE
    return reach


def find_coordinates(profile: Mapping[str, Any]) -> tuple[float, float]:
    """Return the properties Latitude and Longitude, in degrees; (nan, nan) when they are no place on Earth."""
    latitude, longitude = (_as_degrees(profile.get(name)) for name in ("Latitude", "Longitude"))
    if abs(latitude) <= 90 and abs(longitude) <= 180:
        return latitude, longitude
    return math.nan, math.nan


def find_zone_name(profile: Mapping[str, Any]) -> str:
    """Return the property Tz; "" when it is no text that could name a time zone."""
    name = profile.get("Tz")
    return name if isinstance(name, str) and len(name) < ZONE_LENGTH else ""


def _as_degrees(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def to_facts(value: Any) -> Any:
    """Return a value as it is queried: a date of CleverTap, `$D_1487576752`, is the number of its epoch seconds."""
    if isinstance(value, dict) and _PLAIN.issuperset(map(type, value.values())):  # as most are, and no text a date
        texts = [one for one in value.values() if type(one) is str]
        if not any(one.startswith("$D_") for one in texts):
            return value
    if isinstance(value, str) and value.startswith("$D_"):
        digits = value[3:].removeprefix("-")
        return int(value[3:]) if digits.isascii() and digits.isdigit() and len(digits) < 14 else value
    if isinstance(value, dict):
        return {key: to_facts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [to_facts(inner) for inner in value]
    return value


_PLAIN = {str, int, float, bool, type(None)}


def _is_false(value: Any) -> bool:
    if isinstance(value, list):
        return any(_is_false(one) for one in value)
    return (
        value is False or (isinstance(value, str) and value.strip().lower() in ("false", "no", "n", "0")) or value == 0
    )


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _without_repeats(value: Any) -> list[Any]:
    kept: list[Any] = []
    for item in reversed(_as_list(value)):
        if item not in kept:
            kept.append(item)
    return kept[:LIST_LENGTH][::-1]


def _as_number(value: Any) -> int | float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0
