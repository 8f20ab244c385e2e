"""A web push before it is encrypted: whose browser it goes to, and the JSON that its service worker shows.

The JSON is what CleverTap's service worker and ours read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from tocsin.providers.aes128gcm import AUTH_BYTES, POINT_BYTES, ROOM
from tocsin.providers.contract import Notice
from tocsin.providers.payload import UnsendableError, fit_or_refuse, measure_json
from tocsin.providers.vapid_key import decode_base64url, encode_base64url

FOUR_WEEKS = 2_419_200  # seconds: the longest that Google's push service keeps a message
URGENCIES = ("very-low", "low", "normal", "high")  # RFC 8030 5.3
DEFAULT_URGENCY = "high"  # as `priority` of FCM and APNs: a phone on battery shows it at once
BUTTONS = 2  # browsers show no more
# Where browsers are told to fetch their messages from. Whoever uploads a subscription chooses where this server posts.
PUSH_HOSTS = (
    "fcm.googleapis.com",
    "jmt17.google.com",  # of Chromium that is not Google's Chrome, as Linux distributions build it
    "updates.push.services.mozilla.com",
    "*.push.services.mozilla.com",
    "web.push.apple.com",
    "*.push.apple.com",
    "*.notify.windows.com",
)
Browser = Literal["chrome", "firefox", "safari"]

# Matched against the raw text, so that no two readers of URLs can disagree about where the host ends.
_ENDPOINT = re.compile(r"https://([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::443)?(/[!-~]*)", re.IGNORECASE)
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")  # RFC 8030 5.4
_OWN_KEYS = frozenset(
    (
        *("icon", "image", "badge", "deep_link", "require_interaction", "ttl", "urgency"),
        *(f"cta_{what}{number}" for number in range(1, BUTTONS + 1) for what in ("title", "link", "iconlink")),
    )
)
_encode = msgspec.json.Encoder().encode


class Subscription(msgspec.Struct, frozen=True):
    """A browser's push subscription. host: of the endpoint, in small letters. point, auth: its keys."""

    endpoint: str
    host: str
    point: bytes
    auth: bytes

    @property
    def origin(self) -> str:
        return f"https://{self.host}"


class _StoredSubscription(msgspec.Struct):
    endpoint: str
    keys: dict[str, Any] = {}


def read_subscription(value: str, hosts: tuple[str, ...]) -> Subscription:
    """Return the subscription that a device's token is. hosts: where it may be, see `is_at_host`. Raises
    UnsendableError."""
    stored = (
        msgspec.json.decode(value, type=_StoredSubscription) if value.startswith("{") else _StoredSubscription(value)
    )
    found = _ENDPOINT.fullmatch(stored.endpoint)
    host = found[1].lower() if found else ""
    if not is_at_host(host, hosts):
        raise UnsendableError("endpoint not allowed", "the subscription is not at a push service that is known")
    point, auth = (decode_base64url(str(stored.keys.get(name, ""))) for name in ("p256dh", "auth"))
    if len(point) != POINT_BYTES or len(auth) != AUTH_BYTES:
        raise UnsendableError("no keys", "the subscription was uploaded without its keys, or with wrong ones")
    return Subscription(stored.endpoint, host, point, auth)


def is_at_host(host: str, hosts: tuple[str, ...]) -> bool:
    """Return whether a host is one of those named; `*.name` is every host below it."""
    return any(host.endswith(one[1:]) if one.startswith("*.") else host == one for one in hosts)


def find_browser(host: str) -> Browser:
    """Return whose block of `platform_specific` a message is made of: Edge's and unknown hosts' is Chrome's."""
    if host.endswith(".mozilla.com"):
        return "firefox"
    return "safari" if host.endswith(".apple.com") else "chrome"


def make_topic(collapse: str) -> str:
    """Return the `Topic` under which a second copy replaces the first: the collapse key, or what stands for it."""
    if _TOPIC.fullmatch(collapse):
        return collapse
    return encode_base64url(blake2b(collapse.encode(), digest_size=24).digest())


def pick_block(message: Notice, browser: Browser) -> Mapping[str, Any]:
    """Return the block of a browser; without one of its own it has Chrome's."""
    blocks: Mapping[str, Mapping[str, Any]] = message.content.get("platform_specific") or {}
    return blocks.get(browser, blocks.get("chrome", {}))


def read_ttl(block: Mapping[str, Any], message: Notice, now: float) -> int:
    """Return for how many seconds a push service may keep the message: `ttl`, and never longer than the message
    lives."""
    left = min(max(int(message.expires_at - now), 0), FOUR_WEEKS)
    wished = str(block.get("ttl", ""))
    return min(left, int(wished)) if wished.isascii() and wished.isdigit() and len(wished) < 10 else left


def make_payload(message: Notice, block: Mapping[str, Any]) -> bytes:
    """Return the JSON, at most ROOM bytes: the body is shortened first, then the title. Raises UnsendableError when
    what stands beside them is too large."""
    payload, options = _build(message, block)
    whole = _encode(payload)
    if len(whole) <= ROOM:
        return whole
    fixed = len(whole) - measure_json(payload["title"]) - measure_json(options["body"])
    payload["title"], options["body"] = fit_or_refuse(payload["title"], options["body"], ROOM - fixed, measure_json)
    return _encode(payload)


def measure_payload(message: Notice, block: Mapping[str, Any]) -> int:
    """Return the bytes of the JSON that `make_payload` shortens."""
    return len(_encode(_build(message, block)[0]))


def _build(message: Notice, block: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the payload, and the object in it that holds the body."""
    own = {key: value for key, value in block.items() if key not in _OWN_KEYS}
    options: dict[str, Any] = {"body": message.content.get("body", "")}
    options |= {key: block[key] for key in ("icon", "image", "badge") if block.get(key)}
    if str(block.get("require_interaction", "")).lower() in ("true", "1"):
        options["requireInteraction"] = True
    if actions := [_make_button(block, number) for number in range(1, BUTTONS + 1) if block.get(f"cta_title{number}")]:
        options["actions"] = actions
    options["tag"] = message.collapse
    options["data"] = {**own, "wzrk_id": message.campaign, "wzrk_pid": message.push_id}
    payload: dict[str, Any] = {"title": message.content.get("title", ""), "notificationOptions": options}
    if block.get("deep_link"):
        payload["deepLink"] = block["deep_link"]
    if message.track_url:
        name = quote(message.push_id)
        payload["redirectPath"] = f"{message.track_url}/clicked?id={name}"
        payload["raiseNotificationViewedPath"] = f"{message.track_url}/viewed?id={name}"
    return payload, options


def _make_button(block: Mapping[str, Any], number: int) -> dict[str, Any]:
    button = {"action": f"action{number}", "title": block[f"cta_title{number}"]}
    if block.get(f"cta_iconlink{number}"):
        button["icon"] = block[f"cta_iconlink{number}"]
    if block.get(f"cta_link{number}"):
        button["deepLink"] = block[f"cta_link{number}"]
    return button
