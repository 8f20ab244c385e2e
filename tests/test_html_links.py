"""Links in HTML, however a marketer writes them: each leads through the server to exactly its target, and every other
byte stays."""

from __future__ import annotations

import html
import time
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.content.html_links import TARGET_BYTES, read_from_query, read_target, unescape, write_as_query
from tocsin.content.mail_body import Body
from tocsin.content.template import ProfileValues
from tocsin.content.tracked_html import LINKS, UNSUBSCRIBE, MailLinks
from tocsin.delivery.mail_id import MailId, make_links, read_mail_id
from tocsin.errors import Problem

SECRET = b"k" * 32
MAIL = MailId(2**40 + 7, 999, 1_800_000_000)
PUBLIC = "https://mail.example.com"
NAME = 'Anna "<&>" O\'Neil'
VALUES = {"Profile": ProfileValues({"Name": NAME, "Id": "a b&c=d", "Url": "https://own.example/?q=ü&x=1", "On": True})}

# URLs as browsers take them, in the letters that matter.
PIECES = st.sampled_from(
    [
        *("a", "/", "?x=1", "&y=2", "&copy=3", "utm_source=mail", "%20", "%23", "%2523", "%", "'", "(1)", "[2]", "|"),
        *("é", "ß", "#top", "+", "~", "@", ":", ";", "{", "}", "^", "`", "\\", "=", "*", "!", "$", ",", ".", "-"),
    ]
)
URLS = st.builds(
    lambda scheme, host, rest: f"{scheme}://{host}/{''.join(rest)}",
    st.sampled_from(["https", "http", "HTTPS"]),
    st.sampled_from(["shop.example", "shop.example:8443", "xn--bcher-kva.example"]),
    st.lists(PIECES, max_size=12),
).filter(lambda url: "{{" not in url and "{%" not in url)
# Addresses that are left alone.
LEFT = st.sampled_from(
    [
        *("mailto:a@example.com", "tel:+49", "#top", "", "/relative", "javascript:alert(1)", "//host/a", UNSUBSCRIBE),
        *(f"https://x.example/?u={UNSUBSCRIBE}", f"{PUBLIC}/u/abc", "sms:1", "data:text/html,x", "https:", "ftp://x/y"),
    ]
)
# What stands between links: none of it may change.
NOISE = st.sampled_from(
    [
        *("text ", "&amp;", "<p style='a:url(https://a.example/)'>", "</p>", "<br/>", "<ä>", "<", "< a href=", "\n"),
        *('<!-- <a href="https://no.example"> -->', "<pre><a href='https://no.example'>x</a></pre>"),
        *('<img src="https://i.example/a.png">', "<style>a{b:url('https://s.example')}</style>"),
        *('<link href="https://l.example">', "<base href='https://b.example'>", "<a name=top>"),
        *("<!--[if mso]><table><![endif]-->", "<!--[if !mso]><!-->", "<!--<![endif]-->"),
        *("<script>'<a href=\"https://s\">'</script>", "<TITLE>a<a href=https://t></TITLE>"),
        *('<abbr href="https://n.example">', "<a data-href='https://n.example'>"),
        *("{% raw %}{{ x }}{% endraw %}", "{{ Profile.Name }}", "<a title='{{ Profile.Name }}'>"),
    ]
)
OPENINGS = st.builds(
    str.__add__,
    st.sampled_from(["<a", "<A", "<area", "<v:roundrect", '<a class="b"', "<a\n\ttarget=_blank", "<a title='>'"]),
    st.sampled_from([" href=", " HREF=", " href = ", "\nhref= "]),
)
CLOSINGS = st.sampled_from([">", " >", " id=x>"])
WRAPPERS = st.sampled_from(
    [("", "")] * 3 + [("{% if Profile.On %}", "{% endif %}"), ("{% if Profile.No %}", "{% endif %}")]
)


def write(url: str, quoted: str, spelling: str) -> str:
    """An address as it stands in an attribute."""
    text = url
    if spelling == "escaped":
        text = html.escape(url)
    elif spelling == "numbers":
        text = "".join(f"&#{ord(one)};" for one in url)
    if quoted:
        text = text.replace(quoted, html.escape(quoted))
    return quoted + text + quoted


@st.composite
def documents(draw: st.DrawFn) -> str:
    """The source of a mail with links in many spellings."""
    out: list[str] = []
    for _ in range(draw(st.integers(0, 6))):
        url, quoted = draw(URLS | LEFT), draw(st.sampled_from(['"', "'", ""]))
        if not quoted and (not url or set(url) & set(" \t\n\"'`=<>") or url[0] == "/"):
            quoted = '"'
        begin, end = draw(WRAPPERS)
        address = write(url, quoted, draw(st.sampled_from(["escaped", "bare", "numbers"])))
        out += [draw(NOISE), begin, draw(OPENINGS), address, draw(CLOSINGS), end]
    return "".join([*out, draw(NOISE)])


class Hrefs(HTMLParser):
    """What another parser takes for the addresses of links."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value or "" for name, value in attrs if name == "href"]


def follow(address: str, secret: bytes = SECRET) -> str | None:
    """Where a tracked link leads, as the server reads it; None for a link that is not one."""
    start = f"{PUBLIC}/l/"
    if not address.startswith(start):
        return None
    letters, _, query = address[len(start) :].partition("?")
    url = read_from_query(query)
    assert read_mail_id(secret, letters, "link", url.encode("latin-1")) == MAIL
    return url


def spelled(url: str) -> str:
    """A URL as a browser asks for it, outside of ASCII."""
    return "".join(one if "!" <= one <= "~" else quote(one) for one in url)


def is_left(url: str) -> bool:
    """Whether an address is none that is followed."""
    return not url.lower().startswith(("http://", "https://")) or UNSUBSCRIBE in url or url.startswith(f"{PUBLIC}/u/")


TRACKING = make_links(PUBLIC, SECRET, MAIL, clicks=True, opens=True)
CLICKS = make_links(PUBLIC, SECRET, MAIL, clicks=True, opens=False)


def render(source: str, tracking: MailLinks | None) -> tuple[str, str]:
    if tracking is None:
        return Body(source, tracked=True).render(VALUES)
    pieces, text = Body(source, tracked=True).track(VALUES, tracking)
    assert len(pieces.frame) == len(pieces.fills) + 1
    return pieces.join(), text


@given(documents())
def test_every_link_leads_to_its_target_and_nothing_else_changes(source: str) -> None:
    """With each link's target put back in its place, the mail is the one that was written; none is left out, and one
    costs less than 100 bytes."""
    plain, text = Body(source).render(VALUES)
    assert render(source, None) == (plain, text)
    rest, same = render(source, CLICKS)
    assert same == text, "the plain-text part is not tracked"
    restored, links = "", 0
    while (found := rest.find(f"{PUBLIC}/l/")) >= 0:
        before, address = rest[:found], rest[found:]
        restored += before
        assert plain.startswith(restored), "something else than an address changed"
        written = plain[len(restored) :]
        original, tracked = written[: _end_of(written, before)], address[: _end_of(address, before)]
        target = read_target(original)
        assert target is not None
        assert follow(unescape(tracked)) == target.url.decode()
        assert len(tracked) - len(original) < 100
        restored += original
        rest, links = address[len(tracked) :], links + 1
    assert restored + rest == plain
    assert links >= sum(not is_left(url) for url in _visible(plain))


def _end_of(address: str, before: str) -> int:
    """Where an address ends whose opening ends `before`."""
    quoted = before.rstrip(" ")[-1:]
    ends = quoted if quoted in "\"'" else " \t\n>"
    return next((place for place, sign in enumerate(address) if sign in ends), len(address))


def _visible(source: str) -> list[str]:
    """The addresses of `<a>` that html.parser sees outside of what is closed to us."""
    parser = Hrefs()
    parser.feed(source)
    return parser.found if "<pre" not in source and "<TITLE" not in source and "<!--" not in source else []


@given(URLS)
def test_a_target_comes_back_as_it_was(url: str) -> None:
    """In the query of a link a URL is written so that no browser changes it, and read back letter by letter."""
    written = write_as_query(spelled(url))
    assert read_from_query(written) == spelled(url)
    assert not set(written) & set("#\"'<>`{}|\\^[] ")
    assert written.isascii()


@given(st.text(st.sampled_from("%25#3'7abAB"), max_size=30))
def test_any_text_comes_back_from_a_query(text: str) -> None:
    assert read_from_query(write_as_query(text)) == text


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("https://a.example/?x=1&amp;y=2", "https://a.example/?x=1&y=2"),
        ("https://a.example/?x=1&copy=2&lt=3&para;", "https://a.example/?x=1&copy=2&lt=3%C2%B6"),
        ("  https://a.example/a b\n ", "https://a.example/a%20b"),
        ("https://a.exa\nmple/", "https://a.example/"),
        ("HTTPS://A.example", "HTTPS://A.example"),
        ("https&#58;//a.example/&#x27;", "https://a.example/'"),
        ("https://a.example/" + "a" * TARGET_BYTES, None),
        ("https:///a", None),
        ("https://#a", None),
        ("mailto:https://a.example", None),
        ("javascript:location='https://a.example'", None),
        (" java\nscript:x", None),
        ("", None),
    ],
)
def test_what_an_address_means(written: str, url: str | None) -> None:
    """As a browser reads it; only whole URLs of the web are followed."""
    target = read_target(written)
    assert (None if target is None else target.url.decode()) == url


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('<a href="https://a.example/{{ Profile.Id }}?n={{ Profile.Name | escape }}">', 1),
        ("<a href='{{ Profile.Url }}'>", 1),
        ("<a href={{ Profile.Url }}>", 1),
        ('<a href="{% if Profile.On %}https://a.example{% else %}mailto:x{% endif %}">', 1),
        ("<a {% if Profile.On %}href='https://a.example'{% else %}href='https://b.example'{% endif %}>", 1),
        ('<a href="{% if Profile.On %}https://a.example">A{% else %}https://b.example">B{% endif %}</a>', 1),
        ('<a href="{% if Profile.No %}https://a.example">A{% else %}https://b.example">B{% endif %}</a>', 0),
        ("{% for i in (1..3) %}<a href='https://a.example/{{ i }}'>{{ i }}</a>{% endfor %}", 3),
        ("{{ Profile.No | default: \"<a href='https://a.example'>\" }}", 1),
        ("{% capture x %}<a href='https://a.example'>{% endcapture %}{{ x }}{{ x | size }}", 1),
        ("{% comment %}<!-- <a href='https://c.example'>{% endcomment %}<a href='https://a.example'>", 1),
        ("{% raw %}<a href='https://a.example/{{x}}'>{% endraw %}", 1),
        ("<a href='https://a.example/{{ Profile.No | default: \"'>\" }}'>", 0),
    ],
)
def test_templates_in_and_around_links(source: str, expected: int) -> None:
    """A template in the middle, around or instead of a link; what cannot be told apart stays as it is."""
    plain = Body(source).render(VALUES)
    tracked, text = render(source, CLICKS)
    assert (render(source, None), text) == (plain, plain[1])
    assert tracked.count(f"{PUBLIC}/l/") == expected
    for address in tracked.split(f"{PUBLIC}/l/")[1:]:
        before = tracked[: tracked.index(address) - len(f"{PUBLIC}/l/")]
        whole = f"{PUBLIC}/l/{address}"
        assert follow(unescape(whole[: _end_of(whole, before)])) is not None
    if not expected:
        assert tracked == plain[0]


def test_the_picture_is_at_the_end_of_the_body() -> None:
    """Once, before `</body>`; without one at the end, and nothing else is added."""
    for source in ("<html><body>Hi</body></html>", "Hi", "<p>Hi<!-- </body> -->", "<BODY>Hi</BODY >"):
        opened, _ = render(source, make_links(PUBLIC, SECRET, MAIL, clicks=False, opens=True))
        picture = f'<img src="{TRACKING.pixel}" width="1" height="1" alt="">'
        assert opened.count(picture) == 1
        assert opened.replace(picture, "") == source
        assert opened.partition(picture)[2].lower().startswith(("</body", ""))
        assert "Hi" not in opened.partition(picture)[2]


def test_a_mail_of_many_links_is_bounded() -> None:
    source = "<a href='https://a.example'>" * (LINKS + 5)
    tracked, _ = render(source, CLICKS)
    assert tracked.count(f"{PUBLIC}/l/") == LINKS
    assert tracked.endswith("<a href='https://a.example'>" * 5)


@pytest.mark.parametrize("url", ["https://a.example/?u=1", "https://evil.example/?u=1", "https://a.example/?u=2"])
def test_a_link_leads_nowhere_else(url: str) -> None:
    """The target is signed, and the mail, and what for."""
    assert TRACKING.sign is not None
    letters = TRACKING.sign([b"https://a.example/?u=1"])[0].rpartition("/")[2]
    changed = letters[:-1] + ("A" if letters[-1] != "A" else "B")
    cases: list[tuple[str, Any, str]] = [
        (letters, "link", url),
        (letters, "open", url),
        (changed, "link", url),
        ("", "link", url),
    ]
    for given_letters, purpose, target in cases:
        if (given_letters, purpose, target) == (letters, "link", "https://a.example/?u=1"):
            assert read_mail_id(SECRET, given_letters, purpose, target.encode()) == MAIL
            continue
        with pytest.raises(Problem, match="not one this server gave out"):
            read_mail_id(SECRET, given_letters, purpose, target.encode())


@pytest.mark.parametrize(
    "source",
    [
        *("<a href=" * 30_000, '<a href="' * 30_000, "<a " * 80_000, "<a x='" * 40_000, "<a\n" * 80_000 + ">"),
        *("<!--" * 60_000, "<!--[if " * 30_000, "<pre>" * 50_000, "<style></style" * 20_000, "</" * 100_000),
        "<a href='https://a.example/?" + "&amp;" * 50_000 + "'>",
        "<a href=https://a.example/" + "%25" * 80_000 + ">",
        "<a href=https://a>" * 15_000,
    ],
    ids=lambda source: f"{source[:12]}",
)
def test_time_is_linear(source: str) -> None:
    """A quarter of a megabyte of what has no end is read in a moment."""
    began = time.monotonic()
    assert len(render(source, CLICKS)[0]) >= len(source)
    assert time.monotonic() - began < 20
