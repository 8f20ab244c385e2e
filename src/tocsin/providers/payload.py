"""A push as the JSON of FCM and of APNs, within their limits: a text too long for what a vendor takes is shortened."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tocsin.channels import Platform
from tocsin.providers.answer_table import REFUSED
from tocsin.providers.contract import Push, Receipt
from tocsin.providers.truncate import Cost, fit_texts

FOUR_WEEKS = 2_419_200  # seconds, FCM's longest `ttl`
FCM_BYTES = 4096  # FCM, ErrorCode INVALID_ARGUMENT: the payload, «keys and values»
APNS_BYTES = 4096  # Apple, «Generating a remote notification»: the JSON
Style = Literal["sdk", "notification"]

# What CleverTap's SDKs take for granted: a view is reported, and the one variant a campaign without variants has.
SDK_DEFAULTS = {"wzrk_rnv": "true", "wzrk_pivot": "wzrk_default"}

_Built = tuple[dict[str, Any], dict[str, Any], tuple[str, str]]  # payload; the object in it with the texts; their keys
_encode = msgspec.json.Encoder().encode


class UnsendableError(Exception):
    """This message is for no vendor: `receipt` says why, and nothing is sent."""

    def __init__(self, code: str, detail: str):
        super().__init__(detail)
        self.receipt: Receipt = REFUSED.receipt(code, detail)


def make_fcm_payload(message: Push, now: float, style: Style = "sdk") -> bytes:
    """The JSON body; a field without a value is left out, because FCM refuses null. In the style «sdk» it is a data
    message with the keys CleverTap's SDK shows and reports by; «notification» is what Android shows by itself.

    Counted against the limit is everything but the address: more than the keys and values that FCM counts, so that
    nothing depends on how it counts them. Raises UnsendableError when shortening title and body is not enough."""
    if style == "sdk" and not message.body:
        # The SDK takes a message without text for a silent ping: counted as sent, seen by nobody.
        raise UnsendableError("empty body", "the body is empty for this profile; CleverTap's SDK would show nothing")
    return _fit(_build_fcm(message, now, style), FCM_BYTES + len(message.address.value))


def make_apns_payload(message: Push) -> bytes:
    """The JSON body: the app's own keys stand beside `aps`, as Apple wants custom keys to. Raises UnsendableError when
    shortening title and body is not enough."""
    return _fit(_build_apns(message), APNS_BYTES)


def measure_payload(platform: Platform, message: Push) -> int:
    """Bytes that count against the limit of FCM, in its larger style, or of APNs."""
    if platform == "ios":
        return len(_encode(_build_apns(message)[0]))
    styles: tuple[Style, ...] = ("sdk", "notification")
    return max(len(_encode(_build_fcm(message, 0.0, style)[0])) for style in styles) - len(message.address.value)


def _build_fcm(message: Push, now: float, style: Style) -> _Built:
    ttl = min(max(int(message.expires_at - now), 0), FOUR_WEEKS)
    android: dict[str, Any] = {"collapse_key": message.collapse, "priority": "high", "ttl": f"{ttl}s"}
    body: dict[str, Any] = {"token": message.address.value, "android": android}
    if style == "sdk":
        body["data"] = data = _make_sdk_data(message)
        return {"message": body}, data, ("nt", "nm")
    body["notification"] = shown = _make_notification(message)
    android["notification"] = _make_android_notification(message)
    if message.data:
        body["data"] = message.data
    return {"message": body}, shown, ("title", "body")


def _build_apns(message: Push) -> _Built:
    alert: dict[str, Any] = {"title": message.title, "body": message.body}
    aps: dict[str, Any] = {"alert": alert}
    if message.badge is not None:
        aps["badge"] = message.badge
    if message.sound:
        aps["sound"] = message.sound
    if message.category:
        aps["category"] = message.category
    if message.mutable_content:
        aps["mutable-content"] = 1
    return {**SDK_DEFAULTS, **message.data, "aps": aps}, alert, ("title", "body")


def _make_sdk_data(message: Push) -> dict[str, Any]:
    """What the SDK reads. A caller's own `wzrk_ck`, `pr` or `ico` goes before ours; what makes the message ours does
    not give way."""
    data: dict[str, Any] = {**SDK_DEFAULTS, "wzrk_ck": message.collapse, "pr": "high"}
    if message.channel:
        data["wzrk_cid"] = message.channel
    if message.image:
        data["wzrk_bp"] = message.image
    if message.large_icon:
        data["ico"] = message.large_icon
    if message.sound:
        data["wzrk_sound"] = "true" if message.sound == "default" else message.sound
    data.update(message.data)
    data["wzrk_pn"] = "true"  # without it the SDK takes the message for somebody else's
    data["wzrk_ttl"] = str(int(message.expires_at))
    data["nt"] = message.title
    data["nm"] = message.body
    return data


def _make_notification(message: Push) -> dict[str, Any]:
    shown: dict[str, Any] = {"title": message.title, "body": message.body}
    if message.image:
        shown["image"] = message.image
    return shown


def _make_android_notification(message: Push) -> dict[str, Any]:
    android: dict[str, Any] = {"tag": message.collapse}
    if message.sound == "default":
        android["default_sound"] = True
    elif message.sound:
        android["sound"] = message.sound
    if message.channel:
        android["channel_id"] = message.channel
    if message.badge is not None:
        android["notification_count"] = message.badge
    return android


def _fit(built: _Built, limit: int) -> bytes:
    """The payload as JSON of at most `limit` bytes; what fits is encoded once."""
    payload, texts, (title, body) = built
    whole = _encode(payload)
    if len(whole) <= limit:
        return whole
    fixed = len(whole) - measure_json(texts[title]) - measure_json(texts[body])
    texts[title], texts[body] = fit_or_refuse(texts[title], texts[body], limit - fixed, measure_json)
    return _encode(payload)


def fit_or_refuse(title: str, body: str, room: int, cost: Cost) -> tuple[str, str]:
    """`fit_texts`. Raises UnsendableError where even shortened texts have no room."""
    fitted = fit_texts(title, body, room, cost)
    if fitted is None:
        told = f"leaves them {room} bytes" if room >= 0 else f"is {-room} bytes over the limit"
        raise UnsendableError("payload too large", f"what stands beside title and body {told}")
    return fitted


def measure_json(text: str) -> int:
    """Bytes of a text between the quotes of JSON: a quote is two, a control character six."""
    return len(_encode(text)) - 2
