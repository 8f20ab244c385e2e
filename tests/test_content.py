"""What a message says: templates filled from profiles, and everything that is refused before anybody gets it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tocsin.content import Addressing, Renderer, Unrenderable, read_content
from tocsin.content.plain_text import to_text
from tocsin.content.push import CHANNEL_NEEDED, SOURCE_BYTES
from tocsin.errors import Problem
from tocsin.providers.contract import Address, Mail, Push

ADDRESS = Address(kind="fcm", value="token", registered_at=5.0)
ENVELOPE = Addressing(
    id="1b671a64-40d5-491e-99b0-da01ff1f3341",
    collapse="tocsin-7",
    campaign="7_20270115",
    push_id="PID",
    address=ADDRESS,
    expires_at=99,
)
# The example of the mission document, `/1/targets/create.json`.
PLATFORM_SPECIFIC = {
    "windows": {"deep_link": "example.com", "Key": "Value_windows"},
    "ios": {
        "mutable-content": "true",
        "deep_link": "example.com",
        "sound_file": "example.caf",
        "category": "application category//Books",
        "badge_count": 1,
        "Key": "Value_ios",
    },
    "android": {
        "background_image": "http://example.jpg",
        "default_sound": True,
        "deep_link": "example.com",
        "large_icon": "http://example.png",
        "Key": "Value_android",
    },
}


def push(
    profile: dict[str, Any], platform: str = "android", *, body: str = "b", title: str = "t", **block: Any
) -> Push:
    content = read_content({"title": title, "body": body, "platform_specific": {platform: block}}, "push")
    message = Renderer(content).render(platform, profile, ENVELOPE)
    assert isinstance(message, Push)
    return message


def mail(profile: dict[str, Any], **fields: str) -> Mail:
    content = read_content({"subject": "s", "body": "b"} | fields, "email")
    message = Renderer(content).render("email", profile, ENVELOPE)
    assert isinstance(message, Mail)
    return message


def refuse(raw: Any, channel: str = "push", **options: bool) -> str:
    with pytest.raises(Problem) as caught:
        read_content(raw, channel, **options)
    return caught.value.error


def refuse_block(platform: str, **block: Any) -> str:
    return refuse({"title": "t", "body": "b", "platform_specific": {platform: block}})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain % text } {", "plain % text } {"),
        ("Hi {{ Profile.Name }}!", "Hi Ann!"),
        ("{{Profile.name}} {{ Profile.NAME }} {{ Profile['name'] }}", "Ann Ann Ann"),
        ("{{ Profile['Customer Type'] }} {{ Profile['customer type'] }}", "Platinum Platinum"),
        ('{{ Profile.Nick | default: "you" }} {{ Profile.Empty | default: "none" }}', "you none"),
        ("[{{ Profile.Nick }}{{ Nobody.Name }}]", "[]"),
        ("{{ Profile.Score }} {{ Profile.Paid }} {{ Profile.Half }}", "3 true 0.5"),
        ("{% if Profile.Score > 2 %}much{% else %}little{% endif %}", "much"),
        ("{% for tag in Profile.Tags %}{{ tag | upcase }},{% endfor %}", "A,B,"),
        ("{{ Profile.Name | upcase | append: '!' }}", "ANN!"),
        ("{% raw %}{{ Profile.Name }}{% endraw %}", "{{ Profile.Name }}"),
        ("{{ Profile.Code }}", "{{ Profile.Name }}"),
    ],
)
def test_templates_are_filled(template: str, text: str) -> None:
    """Liquid fills title and body from the profile, whose keys are found without regard to case."""
    profile = {"Name": "Ann", "Customer Type": "Platinum", "Empty": "", "Score": 3, "Paid": True, "Half": 0.5}
    message = push(profile | {"Tags": ["a", "b"], "Code": "{{ Profile.Name }}"}, title=template, body=template + "|")
    assert (message.title, message.body) == (text, text + "|")


def test_exact_letters_go_before_others() -> None:
    """Of two keys that differ in case the one spelled as in the template is taken."""
    assert (
        push({"NAME": "upper", "Name": "mixed"}, title="{{ Profile.Name }} {{ Profile.NAME }}").title == "mixed upper"
    )


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")))  # CR comes out as LF
def test_values_of_a_push_come_as_they_are(value: str) -> None:
    """A profile's text is put into a push as it is: no escaping, no second template."""
    assert push({"V": value}, title="<{{ Profile.V }}>").title == f"<{value}>"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_values_of_a_mail_are_escaped(value: str) -> None:
    """No value of a profile is ever markup in a mail, while the template's own markup stays."""
    message = mail({"V": value}, body='<p title="{{ Profile.V }}">{{ Profile.V }}</p>')
    html = message.html
    assert html.startswith('<p title="')
    assert html.endswith("</p>")
    inner = html.removeprefix('<p title="').removesuffix("</p>")
    assert not set(inner.replace('">', "", 1)) & set("<>\"'")


def test_escaping_can_be_read_again() -> None:
    """Escaped text is the same text for whoever reads the mail, in HTML and in plain text; subjects are not escaped."""
    value = '<b>R&D\'s "x"</b>'
    message = mail({"V": value}, body="<p>{{ Profile.V }}</p>", subject="{{ Profile.V }}")
    assert message.html == "<p>&lt;b&gt;R&amp;D&#39;s &#34;x&#34;&lt;/b&gt;</p>"
    assert (message.text, message.subject) == (value, value)


@given(st.text(st.sampled_from("aé \r\n\t\v\f\x1c\x85\u2028\u2029:"), max_size=20))
def test_subject_is_one_line(value: str) -> None:
    """Line breaks of a profile's value never reach a header, and its words do."""
    subject = mail({"V": value}, subject="Hi {{ Profile.V }}!").subject
    assert len(subject.splitlines()) == 1
    assert not set(subject) & set("\r\n\v\f\x1c\x85\u2028\u2029")
    assert subject.split() == f"Hi {value}!".split()


def test_mail_carries_its_envelope() -> None:
    """A mail has its id, campaign and address, and the sender's fields of its content."""
    message = mail({}, body="<p>Hello</p>", subject="Hey", sender_name="Shop", reply_to="shop@example.com")
    assert message == Mail(
        id=ENVELOPE.id,
        campaign="7_20270115",
        address=ADDRESS,
        subject="Hey",
        html="<p>Hello</p>",
        text="Hello",
        sender_name="Shop",
        reply_to="shop@example.com",
        bounce="PID",
    )


@pytest.mark.parametrize("template", ["{{ Profile.Name", "{% if x %}", "{% nonsense %}", "{{ 'a' | }} {{", "{% for %}"])
def test_wrong_templates_are_refused(template: str) -> None:
    """A template that does not parse is refused when the campaign is made, by the name of its field."""
    for field in ("title", "body"):
        raw = {"title": "t", "body": "b"} | {field: template}
        assert refuse(raw).startswith(f"Invalid syntax for {field} field. Rectify and try again.")
    for field in ("subject", "body"):
        raw = {"subject": "s", "body": "b"} | {field: template}
        assert refuse(raw, "email").startswith(f"Invalid syntax for {field} field.")
    assert refuse_block("android", Key=template).startswith("Invalid syntax for Key field.")


def test_unknown_filters_are_refused() -> None:
    """A filter that does not exist is refused when the campaign is made, not found out once for each recipient."""
    assert refuse({"title": "{{ Profile.Name | upcasee }}", "body": "b"}).startswith("Invalid syntax for title field")


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in (1..100000000) %}x{% endfor %}",
        "{% for i in (1..900) %}{% for j in (1..900) %}x{% endfor %}{% endfor %}",
        "{% assign a = 'xxxxxxxxxx' %}{% for i in (1..900) %}{% assign a = a | append: a %}{% endfor %}",
        "{% for i in (1..900) %}{{ Profile.Long }}{% endfor %}",
    ],
)
def test_runaway_templates_are_stopped(template: str) -> None:
    """A template that would take for ever, or grow without end, is refused or ends as this recipient's result."""
    with pytest.raises((Problem, Unrenderable)):
        push({"Long": "x" * 10_000}, body=template)


@pytest.mark.parametrize(
    "template",
    [
        "{{" * 1700,
        "{% " * 1000,
        "{{ x }}" * 201,
        "{{ (1..99999999) | join: ',' | size }}",
        "{% assign r = (1..99999999) %}{{ r | size }}",
        "{{ 'a'" + " | replace: 'a','aaaaaaaaaa'" * 11 + " | size }}",
    ],
    ids=["open output", "open tags", "many tags", "range", "assigned range", "many filters"],
)
def test_costly_templates_are_refused(template: str) -> None:
    """What would keep the process busy, or fill its memory, is refused before it is tried."""
    with pytest.raises(Problem, match="Invalid syntax for body field"):
        push({}, body=template)


def test_a_growing_replace_ends() -> None:
    """Each `replace` may make its text ten times as long, until the limit."""
    with pytest.raises(Unrenderable, match="replace"):
        push({"Name": "a"}, body="{{ Profile.Name" + " | replace: 'a','aaaaaaaaaa'" * 8 + " | size }}")


@pytest.mark.parametrize("expression", ["sum", "uniq", "date: '%Y'", "base64_decode", "round", "times: 'x'"])
def test_an_odd_value_is_one_recipients_result(expression: str) -> None:
    """A filter that fails on a profile's value refuses this message, whatever the library raises."""
    for value in ([1, "x"], {"a": 1}, "\u00ff", 10**40, True):
        try:
            push({"V": value}, body="{{ Profile.V | " + expression + " }}")
        except Unrenderable:
            continue


def why_not(profile: dict[str, Any], body: str) -> str:
    try:
        push(profile, body=body)
    except Unrenderable as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["compact", "uniq", "map", "where", "sum", "slice", "truncate", "find"])
def test_why_a_template_failed_holds_no_value(name: str) -> None:
    """It becomes the outcome's code, which outlasts the person."""
    for value in ("secret", 'it\'s "secret"', "'\nsecret"):
        for one in (value, [value, 1]):
            said = why_not({"V": one, "W": value}, "x{{ Profile.V | " + name + ": Profile.W }}")
            assert "secret" not in said


def test_deep_templates_are_refused() -> None:
    """A template nested beyond all reason is no crash: it is refused, or nobody gets it."""
    with pytest.raises((Problem, Unrenderable)):
        push({}, body="{% if true %}" * 100 + "x" + "{% endif %}" * 100)


def test_keys_of_the_document_land() -> None:
    """Every key of the document's `platform_specific` is where the providers look for it."""
    raw = {"title": "Hi!", "body": "How are you doing today?", "platform_specific": PLATFORM_SPECIFIC}
    renderer = Renderer(read_content(raw, "push"))
    common = Push(
        id=ENVELOPE.id,
        collapse="tocsin-7",
        address=ADDRESS,
        expires_at=99,
        title="Hi!",
        body="How are you doing today?",
        deep_link="example.com",
    )
    ours = {"wzrk_id": "7_20270115", "wzrk_pid": "PID", "wzrk_dl": "example.com"}
    assert renderer.render("windows", {}, ENVELOPE) == replace(common, data={"Key": "Value_windows"} | ours)
    assert renderer.render("ios", {}, ENVELOPE) == replace(
        common,
        sound="example.caf",
        category="application category//Books",
        badge=1,
        mutable_content=True,
        data={"Key": "Value_ios"} | ours,
    )
    assert renderer.render("android", {}, ENVELOPE) == replace(
        common,
        image="http://example.jpg",
        large_icon="http://example.png",
        sound="default",
        data={"Key": "Value_android"} | ours,
    )


def test_defaults_are_empty() -> None:
    """A platform without a block gets the text and our own keys, and nothing else."""
    renderer = Renderer(read_content({"title": "t", "body": "b"}, "push"))
    for platform in ("android", "ios", "windows"):
        assert renderer.render(platform, {}, ENVELOPE) == Push(
            id=ENVELOPE.id,
            collapse="tocsin-7",
            address=ADDRESS,
            expires_at=99,
            title="t",
            body="b",
            data={"wzrk_id": "7_20270115", "wzrk_pid": "PID"},
        )


def test_keys_are_templates_too() -> None:
    """Links, images and own keys are filled from the profile; the channel and its link have other names too."""
    message = push(
        {"N": "Ann"},
        wzrk_cid="chan",
        wzrk_dl="app://{{ Profile.N }}",
        large_icon="i/{{ Profile.N }}",
        k="{{ Profile.N }}",
    )
    assert (message.channel, message.deep_link, message.large_icon) == ("chan", "app://Ann", "i/Ann")
    assert message.data == {"k": "Ann", "wzrk_dl": "app://Ann", "wzrk_id": "7_20270115", "wzrk_pid": "PID"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text('aé"\\ ', max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
        max_leaves=6,
    )
)
def test_own_values_become_texts(value: Any) -> None:
    """A value of an own key that is no text becomes its JSON, since vendors carry texts only."""
    text = push({}, Key=value).data["Key"]
    assert text == value if isinstance(value, str) else json.loads(text) == value


def test_our_keys_cannot_be_forged() -> None:
    """A caller's `wzrk_id` or `wzrk_pid` does not replace the ones that count."""
    assert push({}, wzrk_id="x", wzrk_pid="y").data == {"wzrk_id": "7_20270115", "wzrk_pid": "PID"}


def test_reserved_keys_are_refused() -> None:
    """Keys that belong to a vendor are refused on its platform, and are the caller's own on another."""
    reserved = ("from", "message_type", "gcm", "gcm.notification.title", "google.", "googled", "notification.title")
    for key in reserved:
        sentence = refuse_block("android", **{key: "x"})
        assert f"{key} is a reserved key" in sentence
        assert sentence.endswith(f"(at $.content.platform_specific.android.{key})")
        assert push({}, "ios", **{key: "x"}).data[key] == "x"
    assert "aps is a reserved key" in refuse_block("ios", aps={"alert": "x"})
    assert push({}, "android", aps="x", gcms="x").data["gcms"] == "x"


def test_wrong_blocks_are_refused() -> None:
    """A platform, a key or a value that cannot be meant is refused with its place."""
    assert "unknown platform" in refuse_block("web", x="y")
    assert "must be an object" in refuse({"title": "t", "body": "b", "platform_specific": {"ios": []}})
    assert "must be an object" in refuse({"title": "t", "body": "b", "platform_specific": []})
    assert "at most 100 keys" in refuse_block("ios", **{f"k{n}": "" for n in range(101)})
    assert "a key is empty" in refuse_block("ios", **{"": "x"})
    assert "longer than 120 bytes" in refuse_block("ios", **{"é" * 61: "x"})
    assert "must be a text, a number or a boolean" in refuse_block("ios", deep_link=["x"])
    for badge in ("x", -1, 1.5, True, "", "{{ Profile.N }}", "²"):
        assert "badge_count must be a whole number" in refuse_block("ios", badge_count=badge)
    for badge in (0, 7, "7"):
        assert push({}, "ios", badge_count=badge).badge == int(badge)


def test_android_channel_can_be_required() -> None:
    """Where the operator asks for a notification channel, an android block without one gets the documented answer."""
    raw = {"title": "t", "body": "b", "platform_specific": {"android": {"x": "y"}}}
    with pytest.raises(Problem) as caught:
        read_content(raw, "push", require_channel=True)
    assert (caught.value.error, caught.value.code) == (CHANNEL_NEEDED, 9)
    assert read_content(raw, "push") == read_content(raw, "push", require_channel=False)


def test_missing_and_wrong_texts_are_refused() -> None:
    """Title and body, or subject and body, are needed, as texts."""
    for raw, channel, field in (
        ({"body": "b"}, "push", "title"),
        ({"title": "t", "body": ""}, "push", "body"),
        (None, "push", "title"),
        ({"body": "b"}, "email", "subject"),
        ({"subject": "s"}, "email", "body"),
    ):
        assert refuse(raw, channel) == f"Field {field} is empty (inside content)"
    assert "title must be a text" in refuse({"title": 5, "body": "b"})
    assert "content must be an object" in refuse([])
    assert "cc is not supported" in refuse({"subject": "s", "body": "b", "cc": ["x@example.com"]}, "email")
    for field in ("subject", "sender_name", "reply_to"):
        for end in "\r", "\n":
            assert f"{field} must be one line" in refuse({"subject": "s", "body": "b"} | {field: f"a{end}b"}, "email")


def test_sizes_are_refused() -> None:
    """What is far beyond what any vendor carries is refused on arrival, and one byte less is taken."""
    fits = SOURCE_BYTES - len("t") - len("{}")
    assert push({}, body="x" * fits).body == "x" * fits
    assert refuse({"title": "t", "body": "x" * (fits + 1)}).startswith("content is 16385 bytes for android")
    assert refuse({"title": "é" * 8193, "body": "b"}).startswith("title is 16386 bytes; at most 16384 are taken")
    assert "subject is longer than 900 bytes" in refuse({"subject": "é" * 451, "body": "b"}, "email")
    assert mail({}, body="x" * 1024 * 1024).html
    assert "body is longer" in refuse({"subject": "s", "body": "x" * (1024 * 1024 + 1)}, "email")


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain", "plain"),
        ("<p>One</p><p>Two <b>bold</b></p>", "One\nTwo bold"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<ul><li>x</li><li>y</li></ul>", "x\ny"),
        ('<a href="https://example.com/?a=1&amp;b=2">here</a>', "https://example.com/?a=1&b=2 here"),
        ("<style>p { color: red }</style><p>R&amp;D &lt;3</p><script>x()</script>", "R&D <3"),
        ("<head><title>No</title></head><body>  many   \n\n spaces </body>", "many\nspaces"),
        (
            "<table><tr><th>Delivery</th><td>2 days</td></tr><tr><td>A</td><td>B</td></tr></table>",
            "Delivery 2 days\nA B",
        ),
        (
            '<a href="https://example.com/"><img src="x.png" alt="Our &amp; logo"></a>',
            "https://example.com/ Our & logo",
        ),
        ('<img src="x.png"><img alt=""><style><img alt="no"></style>', ""),
        ("", ""),
    ],
)
def test_plain_text_of_html(html: str, text: str) -> None:
    """The plain part of a mail has the words and links, a line a block, and no style or script."""
    assert to_text(html) == text


@pytest.mark.parametrize("platform", ["android", "ios", "windows", "sms", "webpush"])
@pytest.mark.parametrize(("name", "sent"), [("Ann", True), ("", False), (" \n", False), (None, False)])
def test_what_says_nothing_is_not_sent(platform: str, name: str | None, sent: bool) -> None:
    """Vendors take a message without a letter, and count it; whoever it is for would see nothing."""
    channel = platform if platform in ("sms", "webpush") else "push"
    raw = {"body": "{{ Profile.Name }}"} | ({} if channel == "sms" else {"title": "{{ Profile.Name }}"})
    renderer = Renderer(read_content(raw, channel))
    kind: Any = {"android": "fcm", "ios": "apns", "windows": "wns"}.get(platform, platform)
    envelope = Addressing(
        id="i", collapse="c", campaign="1", push_id="p", address=Address(kind, "x"), expires_at=2_000_000_000
    )
    profile = {} if name is None else {"Name": name}
    if sent:
        renderer.render(platform, profile, envelope)
    else:
        with pytest.raises(Unrenderable, match="empty for this profile"):
            renderer.render(platform, profile, envelope)
