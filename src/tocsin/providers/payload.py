"""A push as the JSON of FCM and of APNs, within their limits: title and body are shortened to fit."""

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

# What CleverTap's SDKs expect: report views, and the name of the only variant of a campaign without variants.
SDK_DEFAULTS = {"wzrk_rnv": "true", "wzrk_pivot": "wzrk_default"}

_Built = tuple[dict[str, Any], dict[str, Any], tuple[str, str]]  # payload; the object in it with the texts; their keys
_encode = msgspec.json.Encoder().encode


class UnsendableError(Exception):
    """This message cannot be sent; `receipt` says why."""

    def __init__(self, code: str, detail: str):
        super().__init__(detail)
        self.receipt: Receipt = REFUSED.receipt(code, detail)


def make_fcm_payload(message: Push, now: float, style: Style = "sdk") -> bytes:
    """Return the JSON body; fields without a value are left out, because FCM refuses null. Style «sdk» is a data
    message with the keys that CleverTap's SDK shows and reports; «notification» is what Android shows by itself.

    Everything but the address counts against the limit: more than the «keys and values» that FCM counts. Raises
    UnsendableError when shortening title and body is not enough."""
    if style == "sdk" and not message.body:
        # The SDK takes a message without text for a silent ping: counted as sent, seen by nobody.
        raise UnsendableError("empty body", "the body is empty for this profile; CleverTap's SDK would show nothing")
    return _fit(_build_fcm(message, now, style), FCM_BYTES + len(message.address.value))


def make_apns_payload(message: Push) -> bytes:
    """Return the JSON body; the app's own keys stand beside `aps` (Apple: custom keys are peers of `aps`). Raises
    UnsendableError when shortening title and body is not enough."""
    return _fit(_build_apns(message), APNS_BYTES)


def measure_payload(platform: Platform, message: Push) -> int:
    """Return the bytes that count against the limit: FCM's in its larger style («android»), or APNs' («ios»)."""
    if platform == "ios":
        return len(_encode(_build_apns(message)[0]))
    styles: tuple[Style, ...] = ("sdk", "notification")
    return max(len(_encode(_build_fcm(message, 0.0, style)[0])) for style in styles) - len(message.address.value)


def _build_fcm(message: Push, now: float, style: Style) -> _Built:
    ttl = min(max(int(message.expires_at - now), 0), FOUR_WEEKS)
    android: dict[str, Any] = {"priority": "high", "ttl": f"{ttl}s"}
    if message.collapsible or style == "notification":
        # FCM keeps four keys for a device that is away, and drops the others: a code or a chat must have none. Without
        # one a notification has the app's name, which is one for all.
        android["collapse_key"] = message.collapse
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
    """Return the keys that the SDK reads. The caller's data may replace `wzrk_ck`, `pr` or `ico`, but not `wzrk_pn`,
    `wzrk_ttl`, `nt` and `nm`."""
    # Without wzrk_dd the SDK drops a second view of a campaign within 2 s, for it looks at wzrk_id instead of wzrk_pid.
    data: dict[str, Any] = {**SDK_DEFAULTS, "wzrk_dd": "true", "wzrk_ck": message.collapse, "pr": "high"}
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
    """Return the payload as JSON of at most `limit` bytes; one that fits is encoded once."""
    payload, texts, (title, body) = built
    whole = _encode(payload)
    if len(whole) <= limit:
        return whole
    fixed = len(whole) - measure_json(texts[title]) - measure_json(texts[body])
    texts[title], texts[body] = fit_or_refuse(texts[title], texts[body], limit - fixed, measure_json)
    return _encode(payload)


def fit_or_refuse(title: str, body: str, room: int, cost: Cost) -> tuple[str, str]:
    """Return title and body in `room` bytes, as `fit_texts`. Raises UnsendableError when there is no room for them."""
    fitted = fit_texts(title, body, room, cost)
    if fitted is None:
        fault = f"leaves them {room} bytes" if room >= 0 else f"is {-room} bytes over the limit"
        raise UnsendableError("payload too large", f"what stands beside title and body {fault}")
    return fitted


def measure_json(text: str) -> int:
    """Return the bytes of a text between the quotes of JSON: a quote is two, a control character six."""
    return len(_encode(text)) - 2
