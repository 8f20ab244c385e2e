"""The channels, platforms and kinds of device, each in one row: names, codes, consent, addresses, labels."""

from __future__ import annotations

from typing import Literal

import msgspec

Platform = Literal["android", "ios", "windows", "email", "sms", "webpush"]
AddressKind = Literal["fcm", "apns", "wns", "email", "sms", "webpush"]


class Channel(msgspec.Struct, frozen=True):
    """What a campaign or a `/1/send` request is sent on.

    consent: profile properties; a «no» in any of them opts the user out (CleverTap's «GDPR» guide).
    property: the profile property that holds the address; "" when messages go to devices.
    suppression: what `/1/subscribe` calls an address that left; "" when messages go to devices.
    kind: of the addresses; None when messages go to devices, which have kinds of their own.
    estimate: the key of the count in an estimate's answer; "" when each platform is counted under its own name.
    """

    name: str
    platforms: tuple[Platform, ...]
    consent: tuple[str, ...]
    property: Literal["", "Email", "Phone"] = ""
    suppression: Literal["", "email", "phone"] = ""
    kind: AddressKind | None = None
    estimate: str = ""


class DeviceKind(msgspec.Struct, frozen=True):
    """One kind of device token. types: what a token record may call it. label: how CleverTap's events spell the
    platform."""

    kind: AddressKind
    types: tuple[str, ...]
    platform: Platform
    label: str


_PUSH_CONSENT = ("MSG-push", "MSG-push-all")
CHANNELS = {
    one.name: one
    for one in (
        Channel("push", ("android", "ios", "windows"), _PUSH_CONSENT),
        Channel("email", ("email",), ("MSG-email",), "Email", "email", "email", "web"),
        Channel("sms", ("sms",), ("MSG-sms",), "Phone", "phone", "sms", "web"),
        Channel("webpush", ("webpush",), _PUSH_CONSENT, estimate="chrome"),
    )
}
DEVICE_KINDS: dict[str, DeviceKind] = {
    one.kind: one
    for one in (
        DeviceKind("fcm", ("fcm", "gcm"), "android", "Android"),
        DeviceKind("apns", ("apns",), "ios", "iOS"),
        DeviceKind("wns", ("wns",), "windows", "Windows"),
        DeviceKind("webpush", ("chrome", "firefox", "safari"), "webpush", "Web"),
    )
}

# The order is stored: a chunk keeps a platform as its place here plus one (0: nobody can be reached), a profile keeps
# `reach` as the bit of its place. A new platform goes to the end, and into facts.sql.
PLATFORMS: tuple[Platform, ...] = tuple(platform for one in CHANNELS.values() for platform in one.platforms)
PLATFORM_CODES: tuple[str, ...] = ("", *PLATFORMS)
PUSH_PLATFORMS = CHANNELS["push"].platforms
ADDRESS_CHANNELS = tuple(one for one in CHANNELS.values() if one.property)
