"""Contents as people write them: minified CSS, buttons with names, dates and lists, the unsubscribe tag."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tocsin.content import Addressing, Renderer, Unrenderable, read_content
from tocsin.errors import Problem
from tocsin.providers.contract import Address, Mail, Message, Notice, Push

ENVELOPE = Addressing(
    id="i",
    collapse="c",
    campaign="7_1",
    push_id="p",
    address=Address("fcm", "t"),
    expires_at=99,
    unsubscribe="https://example.com/u/a?b=1&c=2",
)
DAY = "$D_1795000000"  # 18 Nov 2026, 11:06:40 in UTC


def render(raw: dict[str, Any], channel: str, profile: dict[str, Any], platform: str = "") -> Message:
    return Renderer(read_content(raw, channel)).render(platform or channel, profile, ENVELOPE)


def mail(body: str, profile: dict[str, Any], subject: str = "s") -> Mail:
    message = render({"subject": subject, "body": body}, "email", profile)
    assert isinstance(message, Mail)
    return message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<style>@media(max-width:480px){.a{color:red}}</style>", ""),
        ('<script type="application/ld+json">{"a":{"b":{"c":1}}}</script>', ""),
        ("}} %} }}}}", "}}"),
        ("{a:{b:", "}}"),
    ],
)
@pytest.mark.parametrize("tag", ["{{ Profile.Name }}", "{{ Profile.Name | upcase | downcase | capitalize }}"])
def test_braces_outside_of_tags_are_text(before: str, after: str, tag: str) -> None:
    """What closes no tag is a text, on the quick way and on python-liquid's."""
    message = mail(f"{before}<p>Hi {tag}</p>{after}", {"Name": "Ann"})
    assert message.html == f"{before}<p>Hi Ann</p>{after}"
    assert "Hi Ann" in message.text


def test_json_with_a_tag_in_it_is_filled() -> None:
    """A key that holds JSON as a text may hold a tag, and the braces after it are the JSON's."""
    block = {"payload": '{"a":{"b":"{{ Profile.Name }}"}}'}
    push = render(
        {"title": "t", "body": "b", "platform_specific": {"android": block}}, "push", {"Name": "Ann"}, "android"
    )
    assert isinstance(push, Push)
    assert json.loads(push.data["payload"]) == {"a": {"b": "Ann"}}


def test_nested_values_are_templates() -> None:
    """Texts in lists and objects of a push's own keys are filled, and what they are filled with stays in its text."""
    buttons = [{"l": "Hi {{ Profile.Name }}", "dl": "app://u/{{ Profile.Name | url_encode }}"}, {"l": "No", "dl": ""}]
    block = {"wzrk_acts": buttons, "own": {"deep": [{"x": "{{ Profile.Name }}"}, 1, None, "plain"]}, "n": {"a": 1}}
    raw = {"title": "t", "body": "b", "platform_specific": {"android": block}}
    push = render(raw, "push", {"Name": 'A "B'}, "android")
    assert isinstance(push, Push)
    assert json.loads(push.data["wzrk_acts"])[0] == {"l": 'Hi A "B', "dl": "app://u/A+%22B", "id": "1"}
    assert json.loads(push.data["own"]) == {"deep": [{"x": 'A "B'}, 1, None, "plain"]}
    assert push.data["n"] == '{"a":1}'
    raw["platform_specific"] = {"chrome": {"buttons": [{"title": "{{ Profile.Name }}"}]}}
    notice = render(raw, "webpush", {"Name": "Ann"})
    assert isinstance(notice, Notice)
    assert notice.content["platform_specific"] == {"chrome": {"buttons": [{"title": "Ann"}]}}


@pytest.mark.parametrize(
    ("platform", "channel", "block", "place"),
    [
        ("android", "push", {"wzrk_acts": [{"l": "x"}, {"l": "{{ a"}]}, "android.wzrk_acts[1].l"),
        ("ios", "push", {"own": {"a": ["{% b %}"]}}, "ios.own.a[0]"),
        ("chrome", "webpush", {"own": {"a": ["{% b %}"]}}, "chrome.own.a[0]"),
    ],
)
def test_a_nested_mistake_has_its_place(platform: str, channel: str, block: dict[str, Any], place: str) -> None:
    """The Problem says where in the caller's JSON, and where in the text."""
    with pytest.raises(Problem) as caught:
        read_content({"title": "t", "body": "b", "platform_specific": {platform: block}}, channel)
    assert f"(at $.content.platform_specific.{place}, line 1, column " in caught.value.error


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        (
            "<p>line 1</p>\n<p>line 2</p>\n<p>{{ Profile.Name | unknown }}</p>\n",
            "line 3, column 22: unknown filter 'unknown'",
        ),
        ("<p>\r\n{% if a %}{% endif %} {{ a", "line 2, column 23: {{ is not closed"),
        ("a {% nonsense %}", "line 1, column 6: unexpected tag 'nonsense'"),
        ("{% liquid\nassign x = 1\nnonsense y %}", "line 3, column 1: unexpected tag 'nonsense'"),
        ("{% if false %}{{ 'x' | nothing }}{% endif %}", "line 1, column 24: unknown filter 'nothing'"),
    ],
)
def test_a_mistake_has_line_column_and_reason(body: str, rest: str) -> None:
    """The recorded sentence first, then where and what."""
    with pytest.raises(Problem) as caught:
        read_content({"subject": "s", "body": body}, "email")
    sentence, _, found = caught.value.error.partition(" (at $.content.body, ")
    assert sentence.endswith("Read more: https://developer.clevertap.com/docs/create-campaign-api")
    assert found == f"{rest})"


@pytest.mark.parametrize(
    ("template", "profile", "text"),
    [
        ("{{ Profile.D }}", {"D": DAY}, "18 Nov 2026"),
        ("{{ Profile.D | date: '%d %b %Y' }}", {"D": DAY}, "18 Nov 2026"),
        ("{{ Profile.D | date: '%H:%M' }}", {"D": DAY}, "11:06"),
        ("{{ Profile.D | date: '%H:%M' }}", {"D": DAY, "Tz": "Asia/Kolkata"}, "16:36"),
        ("{{ Profile.D | date: '%H:%M' }}", {"D": DAY, "Tz": "+05:30"}, "16:36"),
        ("{{ Profile.D }}", {"D": "$D_641845800", "Tz": "Asia/Kolkata"}, "5 May 1990"),
        ("{{ Profile.D }}", {"D": DAY, "Tz": "../etc/passwd"}, "18 Nov 2026"),
        ("{{ Profile.D | append: '!' }}", {"D": DAY}, "18 Nov 2026!"),
        ("{{ Profile.D | default: 'never' }}", {"D": DAY}, "18 Nov 2026"),
        ("{{ Profile.D }}", {"D": "$D_x"}, "$D_x"),
        ("{{ Profile.D }}", {"D": "$D_999999999999"}, "$D_999999999999"),
        ("{% for d in Profile.D %}{{ d | date: '%Y' }};{% endfor %}", {"D": [DAY, "$D_0"]}, "2026;1970;"),
        ("{{ Profile.O.d }}", {"O": {"d": DAY}}, "18 Nov 2026"),
        ("{{ Profile.D }}", {"D": [DAY, "soon"]}, "18 Nov 2026, soon"),
        ("{{ Profile.Tags }}", {"Tags": ["red", "green", 3, True]}, "red, green, 3, true"),
        ("{{ Profile.Tags | sort }}", {"Tags": ["b", "a"]}, "a, b"),
        ("{% echo Profile.Tags %}", {"Tags": ["b", "a"]}, "b, a"),
        ("{{ Profile.Tags | join: '+' }}", {"Tags": ["b", "a"]}, "b+a"),
        ("{{ Profile.O }}", {"O": {"a": [1, "x"]}}, '{"a":[1,"x"]}'),
        ("[{{ Profile }}]", {"a": "b"}, "[]"),
    ],
)
def test_values_read_as_a_person_would_write_them(template: str, profile: dict[str, Any], text: str) -> None:
    """Dates are dates, on the reader's clock, and lists have commas: in subjects, HTML and the text beside it."""
    message = mail(f"<p>{template}</p>", profile, subject=template)
    assert (message.subject, message.text) == (text, text)
    assert message.html == f"<p>{text}</p>".replace('"', "&#34;")


def test_values_in_a_list_are_escaped() -> None:
    """Each element of a list is escaped in HTML, on both ways."""
    for template in ("{{ Profile.Tags }}", "{{ Profile.Tags | reverse | reverse }}"):
        assert mail(template, {"Tags": ["<b>", "&"]}).html == "&lt;b&gt;, &amp;"


@pytest.mark.parametrize("name", ["", "{{ Profile.Name }}", "{{ Profile.Name | escape }}"])
def test_the_unsubscribe_tag_is_the_recipients_link(name: str) -> None:
    """CleverTap's tag becomes the link, escaped in HTML; a mail that would go without it does not go."""
    body = f'{name}<p><a href="*|UNSUBSCRIBE|*">Unsubscribe</a></p>'
    message = mail(body, {"Name": "Ann"})
    assert '<a href="https://example.com/u/a?b=1&amp;c=2">' in message.html
    assert f"{ENVELOPE.unsubscribe} Unsubscribe" in message.text
    content = read_content({"subject": "s", "body": body}, "email")
    with pytest.raises(Unrenderable, match="TOCSIN_PUBLIC_URL"):
        Renderer(content).render(
            "email",
            {},
            Addressing(
                **{f: getattr(ENVELOPE, f) for f in ("id", "collapse", "campaign", "push_id", "address", "expires_at")}
            ),
        )
    with pytest.raises(Problem, match="TOCSIN_PUBLIC_URL"):
        read_content({"subject": "s", "body": body}, "email", unsubscribe_link=False)
