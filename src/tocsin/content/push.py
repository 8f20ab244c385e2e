"""The content of a push: read and measured against each vendor's limit, then rendered for one device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tocsin.channels import PUSH_PLATFORMS, Platform
from tocsin.content.block import CHANNEL_NEEDED, FIELDS, MEDIA_KEYS, read_block
from tocsin.content.content import Addressing, Content, read_text, require_words
from tocsin.content.template import (
    CompiledTemplate,
    CompiledValue,
    compile_template,
    compile_value,
    fill_value,
    find_templates,
    is_template,
)
from tocsin.errors import Problem
from tocsin.providers.contract import Address, Push
from tocsin.providers.payload import APNS_BYTES, FCM_BYTES, measure_json, measure_payload
from tocsin.providers.toast import TOAST_BYTES, measure_toast

__all__ = ["CHANNEL_NEEDED", "SOURCE_BYTES", "PushForm", "check_room", "read_push"]

# Title, body and one platform's block of a request, at most: four times a vendor's message, since a template may hold a
# text for each language. What a device gets is shortened to what its vendor takes.
SOURCE_BYTES = 16_384
MEDIA_ENDINGS = {"video": ("mp4", "m4v", "mov", "mpg", "mpeg", "avi"), "audio": ("mp3", "m4a", "wav", "aiff", "aif")}
TEXT_BYTES = 256  # of a message that the keys of a block must leave to title and body
LIMITS: dict[Platform, tuple[str, int]] = {
    "android": ("FCM", FCM_BYTES),
    "ios": ("APNs", APNS_BYTES),
    "windows": ("WNS", TOAST_BYTES),
}


def read_push(raw: Mapping[str, Any], require_channel: bool) -> Content:
    """Return the `content` of a push. Raise Problem 400 for a wrong field or one that is too large; Problem with code 9
    for an Android block without a channel, where `require_channel`."""
    title, body = read_text(raw, "title"), read_text(raw, "body")
    blocks = raw.get("platform_specific", {})
    if not isinstance(blocks, dict):
        raise Problem("platform_specific must be an object (at $.content.platform_specific)")
    platforms = dict(read_block(name, block, require_channel) for name, block in blocks.items())
    texts = len(title.encode()) + len(body.encode())
    for field, text in (("title", title), ("body", body)):
        if len(text.encode()) > SOURCE_BYTES:
            size = len(text.encode())
            raise Problem(f"{field} is {size} bytes; at most {SOURCE_BYTES} are taken (at $.content.{field})")
    for name in PUSH_PLATFORMS:
        size = texts + len(msgspec.json.encode(platforms.get(name, {})))
        if size > SOURCE_BYTES:
            raise Problem(f"content is {size} bytes for {name}; at most {SOURCE_BYTES} are taken (at $.content)")
    return Content(title=title, body=body, platforms=dict(platforms))


def check_room(content: Content, form: PushForm) -> None:
    """Raise Problem 400 for a push that no device of a platform could get."""
    needed = min(len(content.title.encode()) + len(content.body.encode()), TEXT_BYTES)
    for name in PUSH_PLATFORMS:
        if name in content.platforms:
            _check_block(name, content.platforms[name], form, needed)


def _check_block(name: Platform, block: Mapping[str, Any], form: PushForm, needed: int) -> None:
    """Raise Problem 400 for a block that leaves title and body fewer than `needed` bytes of what the vendor takes, even
    with its templates empty: no device could get it."""
    vendor, limit = LIMITS[name]
    size = form.measure(name)
    if size + needed <= limit:
        return
    key = max((one for one in block if not is_template(block[one])), key=lambda one: measure_json(as_text(block[one])))
    raise Problem(
        f"{key} is {len(as_text(block[key]).encode())} bytes; with everything beside title and body the message is "
        f"{size} bytes, and {vendor} takes {limit} (at $.content.platform_specific.{name}.{key})"
    )


class _BlockFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a `Push` that come from its platform's block, rendered."""

    deep_link: str
    image: str
    large_icon: str
    sound: str
    category: str
    badge: int | None
    mutable_content: bool
    channel: str
    data: dict[str, str]


class _CompiledBlock:
    """The block of one platform, its templates compiled. Without a template its fields are made once, here."""

    def __init__(self, platform: str, block: Mapping[str, Any]):
        self._platform = platform
        self._fixed: dict[str, Any] = {}
        self._compiled: dict[str, CompiledValue] = {}
        self.templates: list[CompiledTemplate] = []
        for key, value in block.items():
            compiled = compile_value(key, value, f"$.content.platform_specific.{platform}.{key}")
            if found := list(find_templates(compiled)):
                self.templates += found
                self._compiled[key] = compiled
            else:
                self._fixed[key] = value
        self._keys = list(block)
        self._empty = self._make(None)

    def fill(self, values: Mapping[str, Any]) -> _BlockFields:
        """Return the fields for one profile."""
        return self._make(values) if self.templates else self._empty

    def fill_empty(self) -> _BlockFields:
        """Return the fields with "" in the place of each template."""
        return self._empty

    def _make(self, values: Mapping[str, Any] | None) -> _BlockFields:
        filled = self._fixed | {key: fill_value(value, values) for key, value in self._compiled.items()}
        return _make_fields(self._platform, {key: filled[key] for key in self._keys})


class PushForm:
    """The content of a push, its templates compiled. Raises Problem for a wrong template."""

    def __init__(self, content: Content):
        self._title = compile_template("title", content.title)
        self._body = compile_template("body", content.body)
        self._blocks: dict[str, _CompiledBlock] = {
            name: _CompiledBlock(name, block) if (block := content.platforms.get(name)) else _EMPTY[name]
            for name in PUSH_PLATFORMS
        }

    def templates(self) -> Iterator[CompiledTemplate]:
        """Return the templates of all platforms."""
        yield self._title
        yield self._body
        for block in self._blocks.values():
            yield from block.templates

    def render(self, platform: str, values: Mapping[str, Any], envelope: Addressing) -> Push:
        """Return the push for one device. Raise Unrenderable when it would say nothing."""
        fields = self._blocks[platform].fill(values)
        title, body = self._title.fill(values), self._body.fill(values)
        require_words(title, body)
        return _make_push(fields, title, body, envelope)

    def measure(self, platform: Platform) -> int:
        """Return the bytes of the message without title and body, and with the block's templates empty."""
        message = _make_push(self._blocks[platform].fill_empty(), "", "", _LONGEST)
        return measure_toast(message) if platform == "windows" else measure_payload(platform, message)


# An addressing whose fields are as long as they ever are.
_LONGEST = Addressing(
    id="",
    collapse="tocsin-2147483647",
    campaign="2147483647_20261231",
    push_id="p" * 27,
    address=Address("fcm", ""),
    expires_at=4_000_000_000,
    account="A" * 16,
    reports=True,
)


def _make_push(fields: _BlockFields, title: str, body: str, envelope: Addressing) -> Push:
    data = {**fields.data, "wzrk_id": envelope.campaign, "wzrk_pid": envelope.push_id}
    if envelope.account:
        data["wzrk_acct_id"] = envelope.account
    return Push(
        id=envelope.id,
        collapse=envelope.collapse,
        collapsible=envelope.collapsible,
        address=envelope.address,
        title=title,
        body=body,
        deep_link=fields.deep_link,
        image=fields.image,
        large_icon=fields.large_icon,
        sound=fields.sound,
        category=fields.category,
        badge=fields.badge,
        # An iPhone tells of a view where the app's notification service extension may look at the message.
        mutable_content=fields.mutable_content or envelope.reports,
        channel=fields.channel,
        data=data,
        expires_at=envelope.expires_at,
    )


def _make_fields(platform: str, block: Mapping[str, Any]) -> _BlockFields:
    link = str(block.get("deep_link") or block.get("wzrk_dl") or "")
    data = {key: as_text(value) for key, value in block.items() if key not in FIELDS[platform]}
    if link:
        data["wzrk_dl"] = link
    if platform == "android" and "badge_icon" in block:
        data.setdefault("wzrk_bi", as_text(block["badge_icon"]))
    if platform == "android" and data.get("wzrk_acts"):
        data["wzrk_acts"] = _name_buttons(data["wzrk_acts"])
    if platform == "ios" and (media := data.get("ct_mediaUrl")):
        data["ct_mediaType"] = data.get("ct_mediaType") or find_media_type(media)
    badge = block.get("wzrk_bc" if platform == "android" else "badge_count")
    rich = platform == "ios" and any(block.get(key) for key in MEDIA_KEYS)
    return _BlockFields(
        deep_link=link,
        image=str(block.get("background_image", "")),
        large_icon=str(block.get("large_icon", "")),
        sound=str(block.get("sound_file", "")) or ("default" if _is_true(block.get("default_sound")) else ""),
        category=str(block.get("category", "")),
        badge=None if badge in (None, "") else int(badge),
        mutable_content=rich or _is_true(block.get("mutable-content")),
        channel=str(block.get("wzrk_cid", "")),
        data=data,
    )


def _name_buttons(actions: str) -> str:
    """Return the JSON of `wzrk_acts` with an id for each button that has none, the number of its place: CleverTap's SDK
    shows no button without one."""
    try:
        buttons = msgspec.json.decode(actions, type=list[dict[str, Any]])
    except (msgspec.DecodeError, msgspec.ValidationError):  # a template made something else of it
        return actions
    if all(button.get("id") for button in buttons):
        return actions
    named = [button | {"id": button.get("id") or str(number)} for number, button in enumerate(buttons, 1)]
    return msgspec.json.encode(named).decode()


def find_media_type(url: str) -> str:
    """Return the `ct_mediaType` of a URL, by its ending: without one CleverTap's service extension shows nothing."""
    ending = url.partition("?")[0].partition("#")[0].rpartition(".")[2].lower()
    return next((kind for kind, endings in MEDIA_ENDINGS.items() if ending in endings), "image")


def as_text(value: Any) -> str:
    """Return a value of `data` as vendors carry it: the text itself, or the value's JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _is_true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true") or value == 1


# Most pushes have no block, and a request of its own has a content of its own: its form is made to be used once.
_EMPTY = {name: _CompiledBlock(name, {}) for name in PUSH_PLATFORMS}
