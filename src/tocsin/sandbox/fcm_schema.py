"""The v1 message of FCM as a proto3 JSON table, and the parser that checks a body against it.

Source: Google's REST reference of `projects.messages` (discovery document v1) for names and types, the proto3 JSON
mapping for what each type accepts: snake_case and camelCase names, null as absent, enums by name or number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DURATION = re.compile(r"-?(\d{1,12})(\.\d{1,9})?s")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_WHOLE = re.compile(r"-?\d{1,10}")

_FCM = "type.googleapis.com/google.firebase.fcm.v1."


class Violation(Exception):  # noqa: N818 - it is what google.rpc.BadRequest calls a field violation
    """A field that breaks a rule. field: its path, as `message.data[0].value`; description: the sentence."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field
        self.description = description

    def explain(self) -> str:
        """Return the sentence with the field before it."""
        return f"{self.field}: {self.description}" if self.field else self.description


def _bad_value(path: str, type_name: str, value: object) -> Violation:
    shown = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return Violation(path, f"Invalid value at '{path}' ({type_name}), {shown[:200]}")


Check = Callable[[Any, str], Any]
"""Takes a JSON value that is not null and its path, and returns the normalized value. Raises Violation."""


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _bad_value(path, "TYPE_STRING", value)
    return value


def _bool(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _bad_value(path, "TYPE_BOOL", value)
    return value


def _int32(value: Any, path: str) -> int:
    number = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not -(2**31) <= number < 2**31:
        raise _bad_value(path, "TYPE_INT32", value)
    return number


def _float(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad_value(path, "TYPE_FLOAT", value)
    return float(value)


def _duration(value: Any, path: str) -> str:
    if not isinstance(value, str) or not DURATION.fullmatch(value):
        raise _bad_value(path, "type.googleapis.com/google.protobuf.Duration", value)
    return value


def _timestamp(value: Any, path: str) -> str:
    if not isinstance(value, str) or not TIMESTAMP.fullmatch(value):
        raise _bad_value(path, "type.googleapis.com/google.protobuf.Timestamp", value)
    return value


def _struct(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad_value(path, "type.googleapis.com/google.protobuf.Struct", value)
    return value


def _string_map(value: Any, path: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _bad_value(path, "Map", value)
    for place, item in enumerate(value.values()):
        if not isinstance(item, str):
            raise _bad_value(f"{path}[{place}].value", "TYPE_STRING", item)
    return value


def _enum(name: str, *values: str) -> Check:
    """Return a check that compares names without case: the SDKs send `high`, the reference says HIGH."""

    def check(value: Any, path: str) -> str:
        if isinstance(value, str) and value.upper() in values:
            return value.upper()
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(values):
            return values[value]
        raise _bad_value(path, _FCM + name, value)

    return check


def _list(check: Check) -> Check:
    def check_all(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _bad_value(path, "TYPE_LIST", value)
        return [check(item, f"{path}[{place}]") for place, item in enumerate(value)]

    return check_all


@dataclass(frozen=True)
class Table:
    """A message type: its fields by snake_case name."""

    fields: Mapping[str, Check]

    def __call__(self, value: Any, path: str) -> dict[str, Any]:
        """Return the object with snake_case names and without nulls. Raise Violation when a field does not fit."""
        if not isinstance(value, dict):
            raise _bad_value(path, "TYPE_MESSAGE", value)
        read: dict[str, Any] = {}
        for key, item in value.items():
            name = key if key in self.fields else _snake(key)
            check = self.fields.get(name)
            if check is None:
                where = f" at '{path}'" if path else ""
                problem = f'Invalid JSON payload received. Unknown name "{key[:200]}"{where}: Cannot find field.'
                raise Violation(path, problem)
            if item is None:
                continue
            place = f"{path}.{name}" if path else name
            if name in read:
                raise Violation(place, f"Invalid JSON payload received. Field '{place}' is given twice.")
            read[name] = check(item, place)
        return read


def _snake(key: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)


_LABEL = Table({"analytics_label": _string})
_COLOR = Table({"red": _float, "green": _float, "blue": _float, "alpha": _float})
_LIGHTS = Table({"color": _COLOR, "light_on_duration": _duration, "light_off_duration": _duration})

_NOTIFICATION = Table({"title": _string, "body": _string, "image": _string})

_ANDROID_NOTIFICATION = Table(
    dict.fromkeys(("title", "body", "icon", "color", "sound", "tag", "click_action", "image", "ticker"), _string)
    | dict.fromkeys(("body_loc_key", "title_loc_key", "channel_id"), _string)
    | dict.fromkeys(("body_loc_args", "title_loc_args"), _list(_string))
    | dict.fromkeys(("sticky", "local_only", "default_sound", "default_vibrate_timings"), _bool)
    | dict.fromkeys(("default_light_settings", "bypass_proxy_notification"), _bool)
    | {
        "event_time": _timestamp,
        "notification_priority": _enum(
            "AndroidNotification.NotificationPriority",
            *(f"PRIORITY_{level}" for level in ("UNSPECIFIED", "MIN", "LOW", "DEFAULT", "HIGH", "MAX")),
        ),
        "vibrate_timings": _list(_duration),
        "visibility": _enum("AndroidNotification.Visibility", "VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"),
        "notification_count": _int32,
        "light_settings": _LIGHTS,
        "proxy": _enum("AndroidNotification.Proxy", "PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"),
    }
)

_V1_ONLY = ("bypass_proxy_notification", "proxy")
_ANDROID_NOTIFICATION_V2 = Table(
    {name: check for name, check in _ANDROID_NOTIFICATION.fields.items() if name not in _V1_ONLY} | {"id": _int32}
)

_ANDROID = Table(
    dict.fromkeys(("direct_boot_ok", "bandwidth_constrained_ok", "restricted_satellite_ok"), _bool)
    | {
        "collapse_key": _string,
        "priority": _enum("AndroidMessagePriority", "NORMAL", "HIGH"),
        "ttl": _duration,
        "restricted_package_name": _string,
        "data": _string_map,
        "notification": _ANDROID_NOTIFICATION,
        "fcm_options": _LABEL,
    }
)

_ANDROID_V2 = Table(
    dict.fromkeys(("direct_boot_ok", "bandwidth_constrained_ok", "restricted_satellite_ok"), _bool)
    | dict.fromkeys(("collapse_key", "restricted_package_name"), _string)
    | {
        "ttl": _duration,
        "data": _string_map,
        "fcm_options": _LABEL,
        "background_sync": Table({}),
        "remote_notification": Table(
            {"mutable_content": _bool, "use_as_v1_data_message": _bool, "notification": _ANDROID_NOTIFICATION_V2}
        ),
    }
)
"""AndroidConfigV2, a preview of 2026: remote_notification is urgent and shown, background_sync is neither."""

_APNS = Table(
    {
        "headers": _string_map,
        "payload": _struct,
        "fcm_options": Table({"analytics_label": _string, "image": _string}),
        "live_activity_token": _string,
    }
)

_WEBPUSH = Table(
    {
        "headers": _string_map,
        "data": _string_map,
        "notification": _struct,
        "fcm_options": Table({"link": _string, "analytics_label": _string}),
    }
)

_MESSAGE = Table(
    dict.fromkeys(("name", "fid", "token", "topic", "condition"), _string)
    | {
        "data": _string_map,
        "notification": _NOTIFICATION,
        "android": _ANDROID,
        "android_v2": _ANDROID_V2,
        "webpush": _WEBPUSH,
        "apns": _APNS,
        "fcm_options": _LABEL,
    }
)

SEND_REQUEST = Table({"validate_only": _bool, "message": _MESSAGE})
"""The body of `messages:send`."""
