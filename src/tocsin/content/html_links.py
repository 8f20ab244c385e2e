"""The links in a mail's HTML: where their addresses are written, and which target an address means.

Only what a mail program shows as a link counts: `href` of `<a>` and `<area>`, and of Outlook's VML. What Outlook alone
reads («<!--[if mso]>») counts too; other comments, scripts, styles and `<pre>` do not. Time is linear in the HTML.
"""

from __future__ import annotations

import functools
import html as entities
import re
from collections.abc import Sequence
from html.entities import html5
from typing import NamedTuple
from urllib.parse import quote

TARGET_BYTES = 4000  # of a link that is followed; proxies end a request's first line at 8 kB
KEPT_LETTERS = 500  # of an address whose target is kept; 2,048 are

LINKED = frozenset(("a", "area"))
VML = "v:"  # Outlook's buttons: `<v:roundrect href=…>`
BLOCK = "\x04"  # stands for a template's block, which makes no letter of a name
# Elements whose content is a text, and `<pre>`, which shows a link as it was written.
CLOSED = ("style", "script", "title", "textarea", "xmp", "iframe", "noembed", "noframes", "pre")

# No pattern has anything to try twice.
_MARKUP = re.compile(r"<[a-zA-Z/!?]")
_TAG = re.compile(r"<(/?)([a-zA-Z][^ \t\n\r\f/>]*+)")
_CONDITIONAL = re.compile(r"<!--\[if[^\]<>]{0,200}+\]>", re.IGNORECASE)
# The end of a tag; or a name, and after «=» its value: in double quotes, in single ones, in quotes that do not end, in
# none.
_ATTRIBUTE = re.compile(
    r"""[ \t\n\r\f/]*+(?:(>)|(=?[^ \t\n\r\f/>=]*+)[ \t\n\r\f]*+"""
    r"""(?:=[ \t\n\r\f]*+(?:"([^"]*+)"|'([^']*+)'|(["'])|([^ \t\n\r\f>]*+)))?)"""
)
_CLOSED_END = {name: re.compile(rf"</{name}(?=[ \t\n\r\f/>])", re.IGNORECASE) for name in CLOSED}

_REFERENCE = re.compile(r"&(?:(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});?|([a-zA-Z][a-zA-Z0-9]{0,31}+)(;|(?!=)))")
_EDGES = "".join(map(chr, range(33)))  # what a browser leaves out around an address (WHATWG URL, 4.4)
_WITHIN = str.maketrans("", "", "\t\n\r")  # … and inside of it
_WEB = re.compile(r"https?://[^/?#\\]", re.IGNORECASE)
_OUTSIDE_ASCII = re.compile(r"[^\x21-\x7e]+")
# Signs that a mail program may write in another way in a query, or that end it; and what they are written as instead.
# Of the latter what was there before gets one «25» more, so that every target comes back as it was.
_HEX = "22|23|27|3[CcEe]|5[B-Eb-e]|60|7[B-Db-d]"
_UNSAFE = re.compile(rf"""["#'<>\[\\\]^`{{|}}]|%(?:25)*+(?:{_HEX})""")
_ESCAPED = re.compile(rf"%(25)?+((?:25)*+(?:{_HEX}))")
# Most addresses, which mean what they are; and many of them, a line each. IGNORECASE would take twice as long.
_USUAL = rf"[hH][tT][tT][pP][sS]?://[A-Za-z0-9](?:[A-Za-z0-9._~:/?@!$()*+,;=-]++|&amp;|%(?!(?:25)*(?:{_HEX})))*+"
_ALL_USUAL = re.compile(rf"(?:{_USUAL}\n)*+{_USUAL}")


class Href(NamedTuple):
    """An address in some HTML. quote: what it stands in, "" for nothing."""

    start: int
    end: int
    quote: str


class Target(NamedTuple):
    """What an address means. url: what is asked for when somebody follows it. written: the same as the query of another
    URL, in an attribute."""

    url: bytes
    written: str


def find_hrefs(html: str) -> tuple[list[Href], int]:
    """Return the addresses of all links, from left to right, and where the body ends. As in browsers, a tag or comment
    that does not end takes the rest with it."""
    found: list[Href] = []
    position, body_end, html_end = 0, -1, -1
    while opened := _MARKUP.search(html, position):
        start = opened.start()
        tag = _TAG.match(html, start)
        if tag is None:
            position = _pass_over(html, start)
            continue
        closing, name = tag[1], tag[2].lower()
        linked = not closing and (name in LINKED or name.startswith(VML))
        position = _read_attributes(html, tag.end(), found if linked else None)
        if closing and name == "body":
            body_end = start
        elif closing and name == "html":
            html_end = start
        elif not closing and (end := _CLOSED_END.get(name)) is not None:
            last = end.search(html, position)
            position = last.start() if last else len(html)
    return found, next((end for end in (body_end, html_end) if end >= 0), len(html))


def read_target(text: str) -> Target | None:
    """Return what an address means that is written so in an attribute. None for anything but a whole URL of the web,
    and for a very long one."""
    return read_targets([text])[0]


def read_targets(texts: Sequence[str]) -> Sequence[Target | None]:
    """Return what each of some addresses means, as `read_target` does. Usual ones are looked at all at once."""
    lines = "\n".join(texts)
    short = len(lines) <= TARGET_BYTES or max(map(len, texts)) <= TARGET_BYTES
    if short and lines.count("\n") == len(texts) - 1 and _ALL_USUAL.fullmatch(lines):
        return [*map(Target, lines.replace("&amp;", "&").encode().split(b"\n"), texts)]
    return [_read_target(text) if len(text) <= KEPT_LETTERS else _read_target.__wrapped__(text) for text in texts]


@functools.lru_cache(maxsize=2048)
def _read_target(text: str) -> Target | None:
    plain = text.strip(_EDGES)
    shown = unescape(plain)
    url = shown.strip(_EDGES).translate(_WITHIN)
    if not _WEB.match(url):
        return None
    if not url.isascii() or not url.isprintable() or " " in url:
        url = _OUTSIDE_ASCII.sub(lambda found: quote(found[0].encode("utf-8", "replace"), safe=""), url)
    if len(url) > TARGET_BYTES:
        return None
    written = write_as_query(url)
    return Target(url.encode(), plain if written == shown else entities.escape(written))


def write_as_query(url: str) -> str:
    """Return a URL as the query of another one: itself, as far as no program on the way would change it."""
    return _UNSAFE.sub(lambda found: f"%25{found[0][1:]}" if len(found[0]) > 1 else f"%{ord(found[0]):02X}", url)


def read_from_query(query: str) -> str:
    """Return the URL that `write_as_query` wrote."""
    return _ESCAPED.sub(lambda found: f"%{found[2]}" if found[1] else chr(int(found[2], 16)), query)


def is_web(url: str) -> bool:
    """Return whether a URL is one of the web: http or https, with a host."""
    return _WEB.match(url) is not None


def unescape(text: str) -> str:
    """Return the value of an attribute without references. Unlike in a text, «&copy=1» stays what it is there."""
    return _REFERENCE.sub(_read_reference, text) if "&" in text else text


def _read_reference(found: re.Match[str]) -> str:
    number, name, end = found.groups()
    if number is None and name + end not in html5:
        return found[0]
    return entities.unescape(f"&{number or name};")


def _pass_over(html: str, start: int) -> int:
    """Return where a comment, a declaration or an instruction ends; of a comment for Outlook, where its content
    begins."""
    if not html.startswith("<!--", start):
        return _skip(html, ">", start + 2)
    conditional = _CONDITIONAL.match(html, start)
    return conditional.end() if conditional else _skip(html, "-->", start + 2)  # `<!-->` is a whole comment


def _skip(html: str, end: str, start: int) -> int:
    found = html.find(end, start)
    return len(html) if found < 0 else found + len(end)


def _read_attributes(html: str, position: int, hrefs: list[Href] | None) -> int:
    """Return where a tag ends whose name ends at `position`; the end of the HTML when it does not. hrefs: where its
    address is put; of several the first counts, as in browsers, unless they are of different blocks."""
    mine: list[Href] = []
    while found := _ATTRIBUTE.match(html, position):
        if found[1]:
            if hrefs is not None:
                hrefs += mine
            return found.end()
        if found.end() == position or found[5]:
            break
        position = found.end()
        group = found.lastindex or 0
        if hrefs is None or group < 3 or found[2].strip(BLOCK).lower() != "href":
            continue
        if not mine or BLOCK in html[mine[-1].end : found.end(2)]:
            mine.append(Href(*found.span(group), {3: '"', 4: "'"}.get(group, "")))
    return len(html)
