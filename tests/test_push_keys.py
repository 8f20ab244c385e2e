"""The keys a message carries: those CleverTap's SDKs show and report by, those of the vendors, and the caller's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree as ET

import pytest
from msgspec.structs import replace

from tocsin.content import Addressing, Renderer, read_content
from tocsin.content import block as blocks
from tocsin.errors import Problem
from tocsin.outcome import Outcome
from tocsin.providers.contract import Address, Push
from tocsin.providers.payload import UnsendableError, make_apns_payload, make_fcm_payload
from tocsin.providers.toast import render

NOW = 1_800_000_000.0
ENVELOPE = Addressing(
    id="1b671a64-40d5-491e-99b0-da01ff1f3341",
    collapse="tocsin-7",
    campaign="7_20270115",
    push_id="PID",
    address=Address("fcm", "token"),
    expires_at=int(NOW) + 600,
    account="ABC-DEF-GHIJ",
)
OURS = {"wzrk_id": "7_20270115", "wzrk_pid": "PID", "wzrk_acct_id": "ABC-DEF-GHIJ"}
SDK = {"wzrk_rnv": "true", "wzrk_pivot": "wzrk_default"}


def push(platform: str, block: dict[str, Any], profile: dict[str, Any] | None = None, body: str = "there") -> Push:
    raw = {"title": "Hello", "body": body, "platform_specific": {platform: block}}
    message = Renderer(read_content(raw, "push")).render(platform, profile or {}, ENVELOPE)
    assert isinstance(message, Push)
    return message


def android(**block: Any) -> dict[str, Any]:
    """The `message` of the FCM body in the SDK's style."""
    message: dict[str, Any] = json.loads(make_fcm_payload(push("android", block), NOW))["message"]
    return message


def ios(**block: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(make_apns_payload(push("ios", block)))
    return body


def windows(**block: Any) -> dict[str, list[str]]:
    """What the app gets back in `launch`."""
    return parse_qs(ET.fromstring(render(push("windows", block))).attrib["launch"])


MEDIA = {"ct_mediaUrl": "https://e.example/v", "ct_mediaType": "video"}
LEAST = OURS | SDK | {"wzrk_pn": "true", "nt": "Hello", "nm": "there"}
LEAST |= {"wzrk_ttl": "1800000600", "wzrk_ck": "tocsin-7", "pr": "high", "wzrk_dd": "true"}


@pytest.mark.parametrize(
    ("block", "more"),
    [
        ({}, {}),
        ({"default_sound": True}, {"wzrk_sound": "true"}),
        ({"background_image": "https://e.example/b.png"}, {"wzrk_bp": "https://e.example/b.png"}),
        ({"large_icon": "https://e.example/i.png"}, {"ico": "https://e.example/i.png"}),
        ({"wzrk_cid": "news"}, {"wzrk_cid": "news"}),
        ({"deep_link": "app://x"}, {"wzrk_dl": "app://x"}),
        ({"wzrk_dl": "app://x"}, {"wzrk_dl": "app://x"}),
        ({"badge_icon": 2, "wzrk_bc": "5"}, {"wzrk_bi": "2", "wzrk_bc": "5"}),
        ({"badge_icon": 2, "wzrk_bi": 1, "wzrk_bc": ""}, {"wzrk_bi": "1", "wzrk_bc": ""}),
        ({"badge_id": 3}, {"badge_id": "3"}),
        # The SDK shows no button without an id.
        ({"wzrk_acts": [{"l": "Go", "dl": "app://go"}]}, {"wzrk_acts": '[{"l":"Go","dl":"app://go","id":"1"}]'}),
        ({"wzrk_acts": '[{"l":"Go"}]'}, {"wzrk_acts": '[{"l":"Go","id":"1"}]'}),
        (
            {"wzrk_acts": [{"l": "A", "id": "a"}, {"l": "B", "id": ""}]},
            {"wzrk_acts": '[{"l":"A","id":"a"},{"l":"B","id":"2"}]'},
        ),
        ({"wzrk_acts": '[{"l": "A", "id": "a"}]'}, {"wzrk_acts": '[{"l": "A", "id": "a"}]'}),
        ({"enable_rendermax": True}, {"enable_rendermax": "true"}),
        ({"pr": "max", "wzrk_ck": "mine", "wzrk_pivot": "b"}, {"pr": "max", "wzrk_ck": "mine", "wzrk_pivot": "b"}),
        (
            {"wzrk_gif": "g", "wzrk_nms": "sum", "mine": {"a": 1}},
            {"wzrk_gif": "g", "wzrk_nms": "sum", "mine": '{"a":1}'},
        ),
        ({"nt": "x", "nm": "x", "wzrk_pn": "x", "wzrk_ttl": "x", "wzrk_acct_id": "x", "wzrk_id": "x"}, {}),
    ],
)
def test_android_carries_what_the_sdk_reads(block: dict[str, Any], more: dict[str, str]) -> None:
    """A data message alone: with a notification beside it Android would show it, and the SDK never see it."""
    message = android(**block)
    assert message["data"] == LEAST | more
    assert set(message) == {"token", "android", "data"}
    assert message["android"] == {"collapse_key": "tocsin-7", "priority": "high", "ttl": "600s"}


@pytest.mark.parametrize("style", ["sdk", "notification"])
def test_messages_of_their_own_do_not_collapse(style: Any) -> None:
    """FCM stores four collapse keys for a device that is away: what is no campaign's has none, and is stored beside the
    others. A notification without one would have the app's name. On the screen a second copy replaces the first."""
    alone = replace(push("android", {}), collapsible=False)
    message = json.loads(make_fcm_payload(alone, NOW, style))["message"]
    assert ("collapse_key" in message["android"]) is (style == "notification")
    shown = message["data"]["wzrk_ck"] if style == "sdk" else message["android"]["notification"]["tag"]
    assert shown == "tocsin-7"


def test_android_can_be_shown_without_the_sdk() -> None:
    """In the other style Android shows the message; the data is the app's own and ours."""
    block = {
        "wzrk_cid": "news",
        "default_sound": True,
        "wzrk_bc": 5,
        "background_image": "https://e.example/b",
        "k": "v",
    }
    message = json.loads(make_fcm_payload(push("android", block), NOW, "notification"))["message"]
    assert message["notification"] == {"title": "Hello", "body": "there", "image": "https://e.example/b"}
    shown = {"tag": "tocsin-7", "channel_id": "news", "default_sound": True, "notification_count": 5}
    assert message["android"]["notification"] == shown
    assert message["data"] == OURS | {"k": "v", "wzrk_bc": "5"}


def test_an_empty_body_is_no_silent_ping() -> None:
    """The SDK shows nothing for a message without a text: its recipient is refused. Others show the title."""
    message = push("android", {}, {"Name": ""}, body="{{ Profile.Name }}")
    with pytest.raises(UnsendableError) as caught:
        make_fcm_payload(message, NOW)
    assert (caught.value.receipt.outcome, caught.value.receipt.code) == (Outcome.REFUSED, "empty body")
    assert make_fcm_payload(message, NOW, "notification")
    assert make_apns_payload(message)


@pytest.mark.parametrize(
    ("block", "aps", "peers"),
    [
        ({}, {}, {}),
        ({"sound_file": "a.caf", "category": "c"}, {"sound": "a.caf", "category": "c"}, {}),
        ({"badge_count": "0"}, {"badge": 0}, {}),
        *(({"mutable-content": yes}, {"mutable-content": 1}, {}) for yes in ("true", "True", True, 1)),
        *(({"mutable-content": no}, {}, {}) for no in ("false", "", False, 0)),
        (MEDIA, {"mutable-content": 1}, MEDIA),
        ({"mediaUrl": "u", "mediaType": "image"}, {"mutable-content": 1}, {"mediaUrl": "u", "mediaType": "image"}),
        ({"ct_mediaUrl": ""}, {}, {"ct_mediaUrl": ""}),
        # The service extension shows nothing without a type.
        *(
            ({"ct_mediaUrl": url}, {"mutable-content": 1}, {"ct_mediaUrl": url, "ct_mediaType": kind})
            for url, kind in (
                ("https://e.example/a", "image"),
                ("https://e.example/a.PNG?x=b.mp4", "image"),
                ("https://e.example/a.MP4?x=1", "video"),
                ("https://e.example/a.mp3#t", "audio"),
            )
        ),
        ({"deep_link": "app://x"}, {}, {"wzrk_dl": "app://x"}),
        ({"wzrk_pivot": "b", "wzrk_pid": "x"}, {}, {"wzrk_pivot": "b"}),
        ({"mine": [1]}, {}, {"mine": "[1]"}),
    ],
)
def test_ios_carries_what_the_sdk_reads(block: dict[str, Any], aps: dict[str, Any], peers: dict[str, str]) -> None:
    """Apple's keys in `aps`, everything else beside it; media makes the content mutable, or nothing would show it."""
    alert = {"title": "Hello", "body": "there"}
    assert ios(**block) == OURS | SDK | peers | {"aps": {"alert": alert} | aps}


def test_windows_carries_its_keys_in_launch() -> None:
    """The app gets ids, link and its own keys back when the toast is opened."""
    found = windows(deep_link="app://x?a=1&b=<é>", key="a b+c")
    assert found == {key: [value] for key, value in OURS.items()} | {"wzrk_dl": ["app://x?a=1&b=<é>"], "key": ["a b+c"]}


def test_without_an_account_there_is_no_key_for_it() -> None:
    """An envelope that names no account sends no empty id."""
    bare = Addressing(**{field: getattr(ENVELOPE, field) for field in ENVELOPE.__struct_fields__} | {"account": ""})
    message = Renderer(read_content({"title": "t", "body": "b"}, "push")).render("android", {}, bare)
    assert isinstance(message, Push)
    assert "wzrk_acct_id" not in message.data


@pytest.mark.parametrize(
    ("platform", "block", "sentence"),
    [
        *(
            ("android", {key: value}, f"{key} must be a whole number")
            for key in ("badge_id", "badge_icon", "wzrk_bi", "wzrk_bc")
            for value in (-1, 1.5, "x", True, [1], "{{ Profile.N }}")
        ),
        ("android", {"wzrk_bc": 10**9}, "wzrk_bc must be below a thousand million"),
        ("android", {"enable_rendermax": {}}, "enable_rendermax must be a text, a number or a boolean"),
        ("android", {"wzrk_acts": "x"}, "wzrk_acts must be a list of objects with the texts l and dl"),
        ("android", {"wzrk_acts": {"l": "Go"}}, "wzrk_acts must be a list of objects"),
        ("android", {"wzrk_acts": [{"dl": "app://x"}]}, "wzrk_acts must be a list of objects"),
        ("android", {"wzrk_acts": [{"l": 5}]}, "wzrk_acts must be a list of objects"),
        ("android", {"wzrk_acts": [{"l": "Go"}] * 4}, "wzrk_acts has 4 buttons; Android shows 3"),
        ("ios", {"ct_mediaUrl": ["x"]}, "ct_mediaUrl must be a text, a number or a boolean"),
        ("windows", {"wzrk_dl": ["x"]}, "wzrk_dl must be a text, a number or a boolean"),
    ],
)
def test_known_keys_have_their_types(platform: str, block: dict[str, Any], sentence: str) -> None:
    """A key the SDK reads is refused when it cannot be what the SDK expects, with its place."""
    with pytest.raises(Problem) as caught:
        push(platform, block)
    assert caught.value.error.startswith(sentence)
    assert caught.value.error.endswith(f"(at $.content.platform_specific.{platform}.{next(iter(block))})")


def test_keys_are_documented() -> None:
    """The reference has a row for every key with a meaning, and no other."""
    reference = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()
    table = reference.split("## Keys of a push")[1].split("Added by Tocsin")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    known = set[str]().union(*blocks.SCALAR_KEYS.values(), *blocks.WHOLE_NUMBER_KEYS.values(), {"wzrk_acts"})
    assert set(re.findall(r"`([^`]+)`", " ".join(cells))) == known
