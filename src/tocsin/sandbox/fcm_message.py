"""FCM's rules for a message beyond its types: one target, reserved keys, sizes, ranges.

Source: Firebase documentation, REST reference `Message` and the page of FCM error codes (INVALID_ARGUMENT).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from tocsin.sandbox.fcm_schema import DURATION, Violation

PAYLOAD_LIMIT = 4096
TOPIC_PAYLOAD_LIMIT = 2048
"""Bytes of keys and values, to a device and to a topic or condition."""

TTL_LIMIT = 2_419_200
"""Seconds, four weeks."""

TARGETS = ("fid", "token", "topic", "condition")

_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")
_LABEL = re.compile(r"[A-Za-z0-9\-_.~%]{1,50}")
_TOPIC = re.compile(r"[A-Za-z0-9\-_.~%]{1,900}")
_RESERVED_NAMES = ("from", "message_type", "gcm")
_RESERVED_PREFIXES = ("google", "gcm.notification.")


def check_message(message: dict[str, Any]) -> None:
    """Raise Violation for a message, already of the right types, that FCM would reject."""
    _check_target(message)
    if "android" in message and "android_v2" in message:
        raise Violation("message.android_v2", "android and android_v2 are two forms of one thing: only one may be set.")
    _check_data("message.data", message.get("data", {}))
    for name in ("android", "android_v2"):
        _check_android(f"message.{name}", message.get(name, {}))
    _check_labels(message)
    link = message.get("webpush", {}).get("fcm_options", {}).get("link", "https://")
    if not link.startswith("https://"):
        raise Violation("message.webpush.fcm_options.link", "A web link has to be an https URL.")
    _check_size(message)


def _check_target(message: dict[str, Any]) -> None:
    given = [name for name in TARGETS if name in message]
    if len(given) > 1:
        raise Violation("message", f"The target of a message is one of {', '.join(TARGETS)}; {len(given)} are set.")
    if not given:
        raise Violation("message", f"A message needs a target: one of {', '.join(TARGETS)}.")
    if "topic" in message and not _TOPIC.fullmatch(message["topic"]):
        raise Violation("message.topic", "Topic names are letters, digits and -_.~% without the /topics/ prefix.")
    if "condition" in message and " in topics" not in message["condition"]:
        raise Violation("message.condition", "A condition is made of `'name' in topics` terms.")


def _check_data(path: str, data: dict[str, str]) -> None:
    for place, key in enumerate(data):
        if key in _RESERVED_NAMES or key.startswith(_RESERVED_PREFIXES):
            raise Violation(f"{path}[{place}].key", f"The data key {key[:100]} is reserved.")


def _check_android(path: str, android: dict[str, Any]) -> None:
    _check_data(f"{path}.data", android.get("data", {}))
    if "remote_notification" in android and "background_sync" in android:
        raise Violation(path, "A message is a remote_notification or a background_sync, not both.")
    ttl = android.get("ttl")
    if ttl is not None:
        match = DURATION.fullmatch(ttl)
        assert match is not None
        if ttl.startswith("-") or float(ttl[:-1]) > TTL_LIMIT:
            raise Violation(f"{path}.ttl", f"The ttl has to lie between 0 and {TTL_LIMIT} seconds.")
    color = _shown(android).get("color")
    if color is not None and not _COLOR.fullmatch(color):
        raise Violation(f"{path}.notification.color", "A colour is written #rrggbb.")


def _shown(android: dict[str, Any]) -> dict[str, Any]:
    """Return the notification of either form of `android`, {} without one."""
    shown: dict[str, Any] = android.get("remote_notification", android).get("notification", {})
    return shown


def _check_labels(message: dict[str, Any]) -> None:
    blocks = [("message", message)]
    blocks += [(f"message.{name}", message.get(name, {})) for name in ("android", "android_v2", "apns", "webpush")]
    for path, block in blocks:
        label = block.get("fcm_options", {}).get("analytics_label")
        if label is not None and not _LABEL.fullmatch(label):
            raise Violation(f"{path}.fcm_options.analytics_label", "A label is 1 to 50 of letters, digits and -_.~%.")


def _check_size(message: dict[str, Any]) -> None:
    limit = TOPIC_PAYLOAD_LIMIT if "topic" in message or "condition" in message else PAYLOAD_LIMIT
    android = message.get("android") or message.get("android_v2", {})
    data = android.get("data") or message.get("data", {})
    notification = message.get("notification", {}) | _shown(android)
    size = _bytes(data) + _bytes({key: value for key, value in notification.items() if isinstance(value, str)})
    if size > limit:
        raise Violation("message", f"The message is too big: {size} bytes of keys and values, {limit} are allowed.")
    payload = message.get("apns", {}).get("payload")
    if payload is not None and len(msgspec.json.encode(payload)) > PAYLOAD_LIMIT:
        raise Violation("message.apns.payload", f"The payload for APNs is over {PAYLOAD_LIMIT} bytes.")


def _bytes(pairs: dict[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in pairs.items())
