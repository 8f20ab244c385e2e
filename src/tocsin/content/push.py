"""A push: what may be asked for on each platform, and what one device is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from liquid.template import BoundTemplate

from tocsin.content.parts import Content, Envelope, read_text
from tocsin.content.template import compile_template, fill
from tocsin.errors import Problem
from tocsin.providers.contract import Push

PUSH_BYTES = 3600  # of the vendors' 4,096; the rest is for the keys we add
KEYS = 100
KEY_BYTES = 120
PLATFORMS = ("android", "ios", "windows")
CHANNEL_NEEDED = "Notification channel is required for devices having Android 8.0 or above"
# FCM answers 400 for these in `data`; `aps` belongs to Apple.
RESERVED_KEYS = {"android": ("from", "message_type", "gcm", "google."), "ios": ("aps",), "windows": ()}
KNOWN_KEYS = {
    "android": ("background_image", "default_sound", "deep_link", "large_icon", "wzrk_cid", "wzrk_dl"),
    "ios": ("mutable-content", "deep_link", "sound_file", "category", "badge_count"),
    "windows": ("deep_link",),
}


def read_push(raw: Mapping[str, Any], require_channel: bool) -> Content:
    """The `content` of a push. Raises Problem."""
    title, body = read_text(raw, "title"), read_text(raw, "body")
    blocks = raw.get("platform_specific", {})
    if not isinstance(blocks, dict):
        raise Problem("platform_specific must be an object (at $.content.platform_specific)")
    platforms = {name: _read_block(name, block, require_channel) for name, block in blocks.items()}
    content = Content(title=title, body=body, platforms=platforms)
    for field, text in (("title", title), ("body", body)):
        if len(text.encode()) > PUSH_BYTES:
            size = len(text.encode())
            raise Problem(f"{field} is {size} bytes; at most {PUSH_BYTES} fit in a push (at $.content.{field})")
    for name in PLATFORMS:
        size = len(title.encode()) + len(body.encode()) + len(msgspec.json.encode(platforms.get(name, {})))
        if size > PUSH_BYTES:
            raise Problem(f"content is {size} bytes for {name}; at most {PUSH_BYTES} fit in a push (at $.content)")
    return content


def _read_block(name: str, block: Any, require_channel: bool) -> dict[str, Any]:
    place = f"$.content.platform_specific.{name[:40]}"
    if name not in PLATFORMS:
        raise Problem(f"unknown platform; known are {', '.join(PLATFORMS)} (at {place})")
    if not isinstance(block, dict) or len(block) > KEYS:
        raise Problem(f"must be an object of at most {KEYS} keys (at {place})")
    for key, value in block.items():
        if not 0 < len(key.encode()) <= KEY_BYTES:
            raise Problem(f"a key is empty or longer than {KEY_BYTES} bytes (at {place})")
        if any(key == word or (word.endswith(".") and key.startswith(word)) for word in RESERVED_KEYS[name]):
            raise Problem(f"{key} is a reserved key (at {place}.{key})")
        if key in KNOWN_KEYS[name] and not isinstance(value, str | int | float | bool):
            raise Problem(f"{key} must be a text, a number or a boolean (at {place}.{key})")
    badge = block.get("badge_count", 0) if name == "ios" else 0
    if not str(badge).isascii() or not str(badge).isdigit():
        raise Problem(f"badge_count must be a whole number (at {place}.badge_count)")
    if name == "android" and require_channel and not block.get("wzrk_cid"):
        raise Problem(CHANNEL_NEEDED, code=9)
    return dict(block)


class PushForm:
    """A push, compiled. Raises Problem for a template that is wrong."""

    def __init__(self, content: Content):
        self._title = compile_template("title", content.title)
        self._body = compile_template("body", content.body)
        self._blocks = {
            platform: {
                key: compile_template(key, value) if isinstance(value, str) else value for key, value in block.items()
            }
            for platform, block in content.platforms.items()
        }

    def render(self, platform: str, values: Mapping[str, Any], envelope: Envelope) -> Push:
        """One push for one device."""
        block = {
            key: fill(value, values) if isinstance(value, str | BoundTemplate) else value
            for key, value in self._blocks.get(platform, {}).items()
        }
        link = str(block.get("deep_link") or block.get("wzrk_dl") or "")
        data = {key: _as_text(value) for key, value in block.items() if key not in KNOWN_KEYS[platform]}
        data |= {"wzrk_id": envelope.campaign, "wzrk_pid": envelope.push_id}
        if link:
            data["wzrk_dl"] = link
        badge = block.get("badge_count")
        return Push(
            id=envelope.id,
            collapse=envelope.collapse,
            address=envelope.address,
            title=fill(self._title, values),
            body=fill(self._body, values),
            deep_link=link,
            image=str(block.get("background_image", "")),
            large_icon=str(block.get("large_icon", "")),
            sound=str(block.get("sound_file", "")) or ("default" if _is_yes(block.get("default_sound")) else ""),
            category=str(block.get("category", "")),
            badge=None if badge is None else int(badge),
            mutable_content=_is_yes(block.get("mutable-content")),
            channel=str(block.get("wzrk_cid", "")),
            data=data,
            expires_at=envelope.expires_at,
        )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _is_yes(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true") or value == 1
