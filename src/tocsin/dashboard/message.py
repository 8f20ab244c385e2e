"""The messages of a form, one or a variant each, as contents of the API, and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tocsin.campaign.spec import DEVICES, VARIANTS, Spec
from tocsin.content import Content
from tocsin.dashboard.question import read_number

# The fields that each variant has of its own, as variant-N-NAME; the first has those of a campaign without variants.
OWN = ("subject", "title", "body", "deep_link", "image", "button_1", "link_1", "button_2", "link_2")
FIRST = "A"
# What the fields of a web push are called in its block. One block is enough: browsers without their own get Chrome's.
WEB_BLOCK = "chrome"
WEB_KEYS = {
    "deep_link": "deep_link",
    "image": "image",
    "icon": "icon",
    "button_1": "cta_title1",
    "link_1": "cta_link1",
    "button_2": "cta_title2",
    "link_2": "cta_link2",
    "urgency": "urgency",
}
# The fields that a channel's message has, those it cannot do without first.
NEEDED = {"push": ("title", "body"), "email": ("subject", "body"), "sms": ("body",), "webpush": ("title", "body")}
FIELDS = {
    "push": (*NEEDED["push"], "deep_link", "image", "channel_id"),
    "email": (*NEEDED["email"], "sender_name", "reply_to"),
    "sms": NEEDED["sms"],
    "webpush": (*NEEDED["webpush"], *WEB_KEYS, "stay"),
}
# The end of a place in a content → the field it was made of. The first that fits counts.
CONTENT_PLACES = (
    (".title", "title"),
    (".subject", "subject"),
    (".sender_name", "sender_name"),
    (".reply_to", "reply_to"),
    (".platform_specific.android.wzrk_cid", "channel_id"),
    (".platform_specific.android.background_image", "image"),
    (".platform_specific.ios.ct_mediaUrl", "image"),
    *((f".platform_specific.{WEB_BLOCK}.{key}", field) for field, key in WEB_KEYS.items()),
    (".platform_specific", "deep_link"),
    ("", "body"),
)

Form = Mapping[str, Sequence[str]]


def count_variants(form: Form) -> int:
    """Return how many variants a form has; 1 for one without any."""
    count = 1
    while f"variant-{count}-name" in form:
        count += 1
    return count


def list_hidden(form: Form, channel: str) -> list[tuple[str, str]]:
    """Return what was typed for other channels, by field, so that it is there again when the channel is."""
    hidden = {name for names in FIELDS.values() for name in names} - {*FIELDS.get(channel, NEEDED["push"])}
    own = [f"variant-{number}-{name}" for number in range(1, count_variants(form)) for name in OWN if name in hidden]
    return [(name, form[name][-1]) for name in (*sorted(hidden), *own) if form.get(name)]


def add_variant(form: dict[str, list[str]]) -> None:
    """Put one more variant into a form, with the words of the first, and give all the same share."""
    number = count_variants(form)
    if number >= VARIANTS:
        return
    form.setdefault("variant-0-name", [FIRST])
    form[f"variant-{number}-name"] = [chr(ord(FIRST) + number)]
    for name in OWN:
        form[f"variant-{number}-{name}"] = [*form.get(name, [""])]
    _share_evenly(form)


def drop_variant(form: dict[str, list[str]], number: int) -> None:
    """Take a variant out of a form, but for the first."""
    last = count_variants(form) - 1
    if not 0 < number <= last:
        return
    for at in range(number, last):
        for name in (*OWN, "name"):
            form[f"variant-{at}-{name}"] = form.get(f"variant-{at + 1}-{name}", [""])
    for name in (*OWN, "name", "share"):
        form.pop(f"variant-{last}-{name}", None)
    _share_evenly(form)


def make_variants(form: Form, channel: str) -> list[dict[str, Any]]:
    """Return the variants of a form as the API takes them; none for a form without any."""
    count, get = count_variants(form), getter(form)
    return [
        {
            "name": get(f"variant-{number}-name"),
            "percentage": read_number(get(f"variant-{number}-share")),
            "content": make_content(channel, getter(form, number)),
        }
        for number in range(count)
        if count > 1
    ]


def find_places(form: Form) -> dict[str, str]:
    """Return the places of variants in the request, each with the field of the form it was made of."""
    places: dict[str, str] = {}
    count = count_variants(form)
    for number in range(count if count > 1 else 0):
        start = f"$.variants[{number}]"
        places |= {f"{start}.name": f"variant-{number}-name", f"{start}.percentage": f"variant-{number}-share"}
        for end, field in reversed(CONTENT_PLACES):
            own = f"variant-{number}-{field}" if number and field in OWN else field
            places[f"{start}.content{end}"] = own
    return places | ({"$.variants": "variant-0-share"} if places else {})


def write_variants(spec: Spec) -> dict[str, str] | None:
    """Return the fields of a form for a campaign's variants; None where the form cannot say them."""
    fields: dict[str, str] = {}
    for number, one in enumerate(spec.variants):
        own = write_message(one.content)
        fields |= {f"variant-{number}-name": one.name, f"variant-{number}-share": f"{one.percentage:g}"}
        fields |= {f"variant-{number}-{name}": own.get(name, "") for name in OWN if number} if number else own
    drawn = make_variants({name: [value] for name, value in fields.items()}, spec.channel)
    return (
        fields if [one["content"] for one in drawn] == [write_content(one.content) for one in spec.variants] else None
    )


def write_message(content: Content) -> dict[str, str]:
    """Return the fields of a form for one content."""
    fields = {name: getattr(content, name) for name in ("title", "body", "subject", "sender_name", "reply_to")}
    return fields | read_blocks(content)


def make_content(channel: str, get: Any) -> dict[str, Any]:
    """Return the content of a message; get: returns a field."""
    match channel:
        case "email":
            content = {"subject": get("subject"), "body": get("body")}
            return content | {key: get(key) for key in ("sender_name", "reply_to") if get(key)}
        case "sms":
            return {"body": get("body")}
        case "webpush":
            blocks = {WEB_BLOCK: _make_web_block(get)}
        case "push":
            blocks = _make_app_blocks(get)
        case _:
            blocks = {}
    kept = {name: block for name, block in blocks.items() if block}
    return {"title": get("title"), "body": get("body")} | ({"platform_specific": kept} if kept else {})


def _make_app_blocks(get: Any) -> dict[str, dict[str, Any]]:
    blocks: dict[str, dict[str, Any]] = {one: {} for one in DEVICES}
    for block in blocks.values():
        if get("deep_link"):
            block["deep_link"] = get("deep_link")
    if get("image"):
        blocks["android"]["background_image"] = get("image")
        blocks["ios"]["ct_mediaUrl"] = get("image")
    if get("channel_id"):
        blocks["android"]["wzrk_cid"] = get("channel_id")
    return blocks


def _make_web_block(get: Any) -> dict[str, Any]:
    block: dict[str, Any] = {key: get(field) for field, key in WEB_KEYS.items() if get(field)}
    return block | ({"require_interaction": True} if get("stay") else {})


def read_blocks(content: Content) -> dict[str, str]:
    """Return the fields of the blocks of a push or web push; none where they say more than the form has fields for."""
    if content.channel == "webpush":
        block = content.platforms.get(WEB_BLOCK, {})
        fields = {field: str(block[key]) for field, key in WEB_KEYS.items() if block.get(key)}
        fields |= {"stay": "1"} if block.get("require_interaction") is True else {}
    else:
        android, ios = content.platforms.get("android", {}), content.platforms.get("ios", {})
        links = [block["deep_link"] for block in content.platforms.values() if block.get("deep_link")]
        found = {
            "deep_link": links[0] if links else "",
            "image": android.get("background_image") or ios.get("ct_mediaUrl") or "",
            "channel_id": android.get("wzrk_cid") or "",
        }
        fields = {name: str(value) for name, value in found.items()}
    drawn = make_content(content.channel or "push", getter({name: [value] for name, value in fields.items()}))
    return fields if content.platforms == drawn.get("platform_specific", {}) else {}


def write_content(content: Content) -> dict[str, Any]:
    """Return a content as the API takes it, without what is empty."""
    names = {"platforms": "platform_specific"}
    given = msgspec.to_builtins(content)
    return {names.get(name, name): value for name, value in given.items() if value and name != "channel"}


def getter(form: Form, variant: int = 0) -> Any:
    """Return what returns a field of a form, without spaces around it; of a variant its own."""

    def get(name: str) -> str:
        values = form.get(f"variant-{variant}-{name}" if variant and name in OWN else name)
        return values[-1].strip() if values else ""

    return get


def _share_evenly(form: dict[str, list[str]]) -> None:
    count = count_variants(form)
    if count == 1:
        form.pop("variant-0-name", None)
        form.pop("variant-0-share", None)
        return
    even = 100 // count
    for number in range(count):
        form[f"variant-{number}-share"] = [str(even if number else 100 - even * (count - 1))]
