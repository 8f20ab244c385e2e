"""The push services of browsers: what an uploaded token says of one. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

HOST_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]*[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]*[a-z0-9])?")
MOST_BYTES = 2048  # of a subscription as it is stored
LAST_NUMBER = re.compile(r"\.(\d+|0x[0-9a-f]*|localhost)\Z")
# CleverTap and RudderStack call a browser by the last part of its endpoint, as Google's servers hand it out.
CHROME_ENDPOINT = "https://fcm.googleapis.com/fcm/send/"
# What CleverTap's Web SDK calls a browser → where its endpoint began, which the SDK cuts off. Safari it calls nothing.
CUT_OFF = {
    "chrome": CHROME_ENDPOINT,
    "firefox": "https://updates.push.services.mozilla.com/wpush/v2/",
    "": "https://web.push.apple.com/",
}
CHROME_ID = re.compile(r"[\w-]{8,64}:APA91[\w-]{20,512}", re.ASCII)


def find_endpoint(token: str) -> str:
    """Return the endpoint that a browser's token means: itself, unless it is the id that Google gave a Chrome."""
    return f"{CHROME_ENDPOINT}{token}" if CHROME_ID.fullmatch(token) else token


def is_push_service(endpoint: str) -> bool:
    """Return whether a browser's endpoint can be one of a push service (RFC 8030): https, at a host name, on the usual
    port. Whoever uploads it chooses where the operator's own server will POST."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # a port that is no number
        return False
    # A last label of digits, or 0x…, makes an IP address of it to browsers and to libcurl.
    named = HOST_NAME.fullmatch(host) and not LAST_NUMBER.search(host)
    return parts.scheme == "https" and bool(named) and port in (None, 443) and "@" not in parts.netloc


def encode_subscription(endpoint: str, keys: Any) -> str:
    """Return a browser's push subscription as the ledger stores it: its endpoint and its encryption keys (RFC 8291) as
    JSON, or the endpoint alone when there are none; "" for keys that are none."""
    if keys is None or keys == []:
        return endpoint
    if not isinstance(keys, dict) or not all(isinstance(keys.get(name), str) for name in ("p256dh", "auth")):
        return ""
    return msgspec.json.encode({"endpoint": endpoint, "keys": keys}, order="sorted").decode()


def make_token(subscription: Mapping[str, Any], browser: str = "") -> str:
    """Return the device token that is kept of a page's `PushSubscription` as JSON, to be stored with the kind
    «webpush»; "" when it is none. The endpoint may be whole, or its last part as CleverTap's Web SDK sends it with what
    it calls the `browser`; Safari has no name there."""
    endpoint = subscription.get("endpoint")
    if not isinstance(endpoint, str) or not endpoint:
        return ""
    if "://" not in endpoint:
        endpoint = CUT_OFF.get(browser.lower(), "") + endpoint
    if not is_push_service(endpoint) or not isinstance(subscription.get("keys"), dict):
        return ""
    keys = {name: subscription["keys"].get(name) for name in ("p256dh", "auth")}
    token = encode_subscription(endpoint, keys)
    return token if len(token.encode()) <= MOST_BYTES else ""
