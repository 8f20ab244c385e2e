"""A push as the JSON of FCM and of APNs."""

from __future__ import annotations

from typing import Any

import msgspec

from tocsin.providers.contract import Push

FOUR_WEEKS = 2_419_200  # seconds, FCM's longest `ttl`


def make_fcm_payload(message: Push, now: float) -> bytes:
    """The JSON body; a field without a value is left out, because FCM refuses null."""
    shown: dict[str, Any] = {"title": message.title, "body": message.body}
    if message.image:
        shown["image"] = message.image
    android: dict[str, Any] = {"tag": message.collapse}
    if message.sound == "default":
        android["default_sound"] = True
    elif message.sound:
        android["sound"] = message.sound
    if message.channel:
        android["channel_id"] = message.channel
    if message.badge is not None:
        android["notification_count"] = message.badge
    ttl = min(max(int(message.expires_at - now), 0), FOUR_WEEKS)
    body = {
        "token": message.address.value,
        "notification": shown,
        "android": {
            "collapse_key": message.collapse,
            "priority": "high",
            "ttl": f"{ttl}s",
            "notification": android,
        },
    }
    if message.data:
        body["data"] = message.data
    return msgspec.json.encode({"message": body})


def make_apns_payload(message: Push) -> bytes:
    """The JSON body: the app's own keys stand beside `aps`, as Apple wants custom keys to."""
    aps: dict[str, Any] = {"alert": {"title": message.title, "body": message.body}}
    if message.badge is not None:
        aps["badge"] = message.badge
    if message.sound:
        aps["sound"] = message.sound
    if message.category:
        aps["category"] = message.category
    if message.mutable_content:
        aps["mutable-content"] = 1
    return msgspec.json.encode({**message.data, "aps": aps})
