"""`platform_specific`: the keys and values that one platform's block of a push may hold."""

from __future__ import annotations

from typing import Any

import msgspec

from tocsin.channels import PUSH_PLATFORMS, Platform
from tocsin.errors import Problem

KEYS = 100
KEY_BYTES = 120
ACTIONS = 3  # buttons that Android shows
CHANNEL_NEEDED = "Notification channel is required for devices having Android 8.0 or above"
# FCM answers 400 for these in `data`, or reads them itself (its reference: `from`, `message_type`, «google.»,
# «gcm.notification.»; its page of errors: `from`, `gcm`, «google»); APNs reads `aps` itself.
RESERVED_KEYS = {"android": ("from", "message_type", "gcm"), "ios": ("aps",), "windows": ()}
RESERVED_STARTS = {"android": ("google", "gcm.", "notification."), "ios": (), "windows": ()}
# Keys that become a field of the message; every other key reaches the app as it is.
FIELDS: dict[str, frozenset[str]] = {
    "android": frozenset(
        ("background_image", "badge_icon", "default_sound", "deep_link", "large_icon", "wzrk_cid", "wzrk_dl")
    ),
    "ios": frozenset(("mutable-content", "deep_link", "sound_file", "category", "badge_count")),
    "windows": frozenset(("deep_link",)),
}
# Shown by the SDK's service extension, which iOS runs only for mutable content.
MEDIA_KEYS = ("ct_mediaUrl", "mediaUrl")
# Keys that the SDKs read, or that become fields, by what their value must be: a scalar, a whole number.
SCALAR_KEYS = {
    "android": FIELDS["android"] | {"enable_rendermax", "ico", "pr", "wzrk_bp", "wzrk_ck", "wzrk_sound"},
    "ios": FIELDS["ios"] | {"ct_mediaUrl", "ct_mediaType", "mediaUrl", "mediaType", "wzrk_dl"},
    "windows": FIELDS["windows"] | {"wzrk_dl"},
}
WHOLE_NUMBER_KEYS = {
    "android": frozenset(("badge_icon", "badge_id", "wzrk_bc", "wzrk_bi")),
    "ios": frozenset(("badge_count",)),
    "windows": frozenset[str](),
}


class _Action(msgspec.Struct):
    """A button of `wzrk_acts`, as CleverTap's Android SDK reads it. dl: the deep link that it opens."""

    label: str = msgspec.field(name="l")
    dl: str = ""
    ico: str = ""
    id: str = ""
    ac: bool | str = False


def read_block(given: str, block: Any, require_channel: bool) -> tuple[Platform, dict[str, Any]]:
    """Return the platform of a block, and the block as it was given. Raise Problem 400 for an unknown platform or a key
    or value it may not have, and Problem with code 9 for Android without `wzrk_cid`, where `require_channel`."""
    place = f"$.content.platform_specific.{given[:40]}"
    name = next((one for one in PUSH_PLATFORMS if one == given), None)
    if name is None:
        raise Problem(f"unknown platform; known are {', '.join(PUSH_PLATFORMS)} (at {place})")
    if not isinstance(block, dict) or len(block) > KEYS:
        raise Problem(f"must be an object of at most {KEYS} keys (at {place})")
    for key, value in block.items():
        if not 0 < len(key.encode()) <= KEY_BYTES:
            raise Problem(f"a key is empty or longer than {KEY_BYTES} bytes (at {place})")
        if key in RESERVED_KEYS[name] or key.startswith(RESERVED_STARTS[name]):
            raise Problem(f"{key} is a reserved key of the vendor (at {place}.{key})")
        _check_value(name, key, value, f"{place}.{key}")
    if name == "android" and require_channel and not block.get("wzrk_cid"):
        raise Problem(CHANNEL_NEEDED, code=9)
    return name, dict(block)


def _check_value(name: str, key: str, value: Any, place: str) -> None:
    if key in WHOLE_NUMBER_KEYS[name]:
        if name == "android" and value == "":
            return  # as in CleverTap's own messages
        if not str(value).isascii() or not str(value).isdigit():
            raise Problem(f"{key} must be a whole number (at {place})")
        if len(str(value)) > 9:
            raise Problem(f"{key} must be below a thousand million (at {place})")
    elif key in SCALAR_KEYS[name] and not isinstance(value, str | int | float | bool):
        raise Problem(f"{key} must be a text, a number or a boolean (at {place})")
    elif key == "wzrk_acts" and name == "android":
        _check_actions(value, place)


def _check_actions(value: Any, place: str) -> None:
    """Check the buttons: a list, or its JSON as a text, which is what the SDK reads. A text with a template is not
    checked."""
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        return
    try:
        actions = msgspec.convert(msgspec.json.decode(value) if isinstance(value, str) else value, list[_Action])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Problem(f"wzrk_acts must be a list of objects with the texts l and dl: {error} (at {place})") from None
    if len(actions) > ACTIONS:
        raise Problem(f"wzrk_acts has {len(actions)} buttons; Android shows {ACTIONS} (at {place})")
