"""What a vendor takes at most: what is too long is shortened between two letters, or refused before it is sent."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.content import Addressing, Renderer, read_content
from tocsin.errors import Problem
from tocsin.providers.contract import Address, Push
from tocsin.providers.payload import UnsendableError, make_apns_payload, make_fcm_payload, measure_json
from tocsin.providers.toast import clean_text, measure_xml, render
from tocsin.providers.truncate import ELLIPSIS, find_boundary, fit_texts, shorten

NOW = 1_800_000_000.0
TOKEN = "t" * 163
LETTERS = 'aé"\\\n\t&<€😀👍🏽\u200d\u0301\ufe0f🇩🇪\x01\u0915\u094d\u0937ms-resource: '

Shown = tuple[int, str, str]  # counted bytes, title, body


def fcm_sdk(message: Push) -> Shown:
    body = make_fcm_payload(message, NOW, "sdk")
    data = json.loads(body)["message"]["data"]
    return len(body) - len(TOKEN), data["nt"], data["nm"]


def fcm_notification(message: Push) -> Shown:
    body = make_fcm_payload(message, NOW, "notification")
    shown = json.loads(body)["message"]["notification"]
    return len(body) - len(TOKEN), shown["title"], shown["body"]


def apns_alert(message: Push) -> Shown:
    body = make_apns_payload(message)
    alert = json.loads(body)["aps"]["alert"]
    return len(body), alert["title"], alert["body"]


def wns_toast(message: Push) -> Shown:
    body = render(message)
    title, text = (one.text or "" for one in ET.fromstring(body).iter("text"))
    return len(body), title, text


VENDORS: dict[str, tuple[Callable[[Push], Shown], int, Callable[[str], int], Callable[[str], str]]] = {
    "fcm sdk": (fcm_sdk, 4096, measure_json, str),
    "fcm notification": (fcm_notification, 4096, measure_json, str),
    "apns": (apns_alert, 4096, measure_json, str),
    "wns": (wns_toast, 5000, measure_xml, clean_text),
}


def push(title: str, body: str, **data: str) -> Push:
    ours = {"wzrk_id": "7_20270115", "wzrk_pid": "p" * 27}
    return Push(
        id="1b671a64-40d5-491e-99b0-da01ff1f3341",
        collapse="tocsin-7",
        address=Address("fcm", TOKEN),
        title=title,
        body=body,
        data=data | ours,
        expires_at=int(NOW) + 600,
    )


@functools.lru_cache(maxsize=8)
def letters(text: str) -> set[int]:
    """Where a text may be cut, by the plain rule: nowhere before a mark, or beside a joiner, a skin tone or a flag's
    second half."""
    places = {0, len(text)}
    flags = 0
    for at in range(1, len(text)):
        before, after = text[at - 1], text[at]
        is_flag = 0x1F1E6 <= ord(after) <= 0x1F1FF
        flags = flags + 1 if 0x1F1E6 <= ord(before) <= 0x1F1FF else 0
        tied = unicodedata.category(after).startswith("M") or "\u200d" in (before, after)
        tied |= (
            0x1F3FB <= ord(after) <= 0x1F3FF
            or (is_flag and flags % 2 == 1)
            or (before == "\u094d" and unicodedata.category(after) == "Lo")
        )
        if not tied:
            places.add(at)
    return places


def is_beginning(shown: str, wanted: str) -> bool:
    """True for the whole text, or a beginning of it that ends between two letters, with an ellipsis."""
    if shown == wanted:
        return True
    kept = shown.removesuffix(ELLIPSIS)
    return kept != shown and wanted.startswith(kept) and len(kept) in letters(wanted)


texts = st.builds(lambda text, times: text * times, st.text(LETTERS, min_size=1, max_size=40), st.integers(1, 150))


@pytest.mark.parametrize("name", VENDORS)
@given(title=texts, body=texts, own=st.builds(lambda text, times: text * times, st.text(LETTERS), st.integers(0, 60)))
def test_every_message_fits(name: str, title: str, body: str, own: str) -> None:
    """For any texts the payload is within the limit; what is shown is the text or its longest beginning that fits."""
    show, limit, cost, clean = VENDORS[name]
    message = push(title, body, own=own)
    short = push("t", "b", own=own)
    try:
        fixed = show(short)[0] - 2
    except UnsendableError:
        with pytest.raises(UnsendableError):
            show(message)
        return
    title, body = clean(title), clean(body)
    try:
        size, shown_title, shown_body = show(message)
    except UnsendableError:
        least = min(cost(title), cost(ELLIPSIS)) + min(cost(body), cost(ELLIPSIS))
        assert fixed + least > limit
        return
    assert size == fixed + cost(shown_title) + cost(shown_body)
    assert size <= limit
    assert is_beginning(shown_title, title)
    assert is_beginning(shown_body, body)
    if fixed + cost(title) + cost(body) <= limit:
        assert (shown_title, shown_body) == (title, body)
    if shown_title != title:
        assert cost(shown_body) <= cost(ELLIPSIS)
    cut, whole = (shown_body, body) if shown_title == title else (shown_title, title)
    if cut != whole:
        following = min((at for at in letters(whole) if at > len(cut) - 1), default=len(whole))
        assert following == len(whole) or size - cost(cut) + cost(whole[:following]) + cost(ELLIPSIS) > limit


@given(st.text(LETTERS, max_size=40), st.integers(-5, 60))
def test_a_text_is_cut_as_late_as_can_be(text: str, room: int) -> None:
    """`shorten` finds the last place between two letters that leaves room for the ellipsis."""
    shown = shorten(text, room, measure_json)
    if measure_json(text) <= room:
        assert shown == text
    elif room < 3:
        assert shown is None
    else:
        fits = [at for at in letters(text) if at < len(text) and measure_json(text[:at]) + 3 <= room]
        assert shown == text[: max(fits)] + ELLIPSIS


@pytest.mark.parametrize(
    "letter",
    [
        "e\u0301",
        "👍🏽",
        "👩\u200d👩\u200d👧",
        "❤\ufe0f",
        "🇩🇪",
        "\r\n",
        "\u0915\u094d\u0937",
        "각",
        "\u1100\u1161\u11a8",
        "1\ufe0f\u20e3",
    ],
)
def test_a_letter_is_never_cut(letter: str) -> None:
    """What a reader sees as one letter stays whole, wherever the limit falls."""
    text = "a" + letter * 2 + "b"
    for at in range(len(text) + 1):
        cut = text[: find_boundary(text, at)]
        assert cut in ("", "a", "a" + letter, "a" + letter * 2, text)
        assert at - len(cut) < max(len(letter), 1)


def test_the_body_gives_way_before_the_title() -> None:
    """The title stays whole while an ellipsis of the body fits; a body of two letters is not made longer by one."""
    assert fit_texts("title", "a long body", 11, len) == ("title", "a lon" + ELLIPSIS)
    assert fit_texts("title", "a long body", 6, len) == ("title", ELLIPSIS)
    assert fit_texts("title", "a long body", 5, len) == ("tit" + ELLIPSIS, ELLIPSIS)
    assert fit_texts("title", "a long body", 2, len) == (ELLIPSIS, ELLIPSIS)
    assert fit_texts("title", "a long body", 1, len) is None
    assert fit_texts("a long title", "ab", 10, measure_json) == ("a lon" + ELLIPSIS, "ab")


ENVELOPE = Addressing(
    id="1b671a64-40d5-491e-99b0-da01ff1f3341",
    collapse="tocsin-7",
    campaign="7_20270115",
    push_id="p" * 27,
    address=Address("fcm", TOKEN),
    expires_at=int(NOW) + 600,
    account="ABC-DEF-GHIJ",
)


def content(platform: str, block: dict[str, Any], **texts: str) -> dict[str, Any]:
    return {"title": "Hello", "body": "there", "platform_specific": {platform: block}} | texts


@pytest.mark.parametrize(
    ("platform", "vendor", "limit"), [("android", "FCM", 4096), ("ios", "APNs", 4096), ("windows", "WNS", 5000)]
)
def test_keys_that_cannot_fit_are_refused(platform: str, vendor: str, limit: int) -> None:
    """A campaign that nobody could get is refused when it is made: the key, its bytes, the limit and the place."""
    with pytest.raises(Problem) as caught:
        read_content(content(platform, {"small": "x", "Key": "x" * limit}), "push")
    sentence = caught.value.error
    assert sentence.startswith(f"Key is {limit} bytes; with everything beside title and body the message is ")
    assert sentence.endswith(f" bytes, and {vendor} takes {limit} (at $.content.platform_specific.{platform}.Key)")
    read_content(
        content(platform, {"Key": "{{ Profile.Key }}" + "{% comment %}" + "x" * limit + "{% endcomment %}"}), "push"
    )


@pytest.mark.parametrize("platform", ["android", "ios", "windows"])
def test_keys_that_are_taken_can_be_sent(platform: str) -> None:
    """The largest key that is taken leaves room for a text, in either style; one byte more is refused."""

    def is_taken(size: int) -> bool:
        try:
            read_content(content(platform, {"Key": "x" * size}, body="b" * 9000), "push")
        except Problem:
            return False
        return True

    largest = next(size for size in range(5000, 0, -1) if is_taken(size))
    renderer = Renderer(read_content(content(platform, {"Key": "x" * largest}, body="b" * 9000), "push"))
    message = renderer.render(platform, {}, ENVELOPE)
    assert isinstance(message, Push)
    for name in {"android": ("fcm sdk", "fcm notification"), "ios": ("apns",), "windows": ("wns",)}[platform]:
        size, title, body = VENDORS[name][0](message)
        assert title == "Hello"
        assert len(body) >= 240
        assert size <= VENDORS[name][1]
