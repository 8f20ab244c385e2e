"""HTML as text: the plain-text part of a mail, and Liquid's `strip_html`.

Time is linear in the HTML, whatever it holds. html.parser is not (CVE-2025-6069, cpython issue 135462: 240 kB of
«<!--» took it half a minute), and which patch release runs here is not ours to choose.
"""

from __future__ import annotations

import html as entities
import re
from collections.abc import Iterator

BLOCKS = frozenset(("p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "table", "ul", "ol", "hr"))
CELLS = frozenset(("td", "th"))
HIDDEN = frozenset(("style", "script", "head", "title"))  # elements whose text is not shown
TEXT_LETTERS = 100_000  # of the HTML or text that one recipient's plain-text part is made of

# No pattern has anything to try twice. Groups are not possessive: Python 3.11.4 and older go wrong or die over some.
_MARKUP = re.compile(r"<[a-zA-Z/!?]")
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_SIGN = re.compile("[>=]")
_SPACE = re.compile(r"\s*")
_ATTRIBUTE = re.compile(r"""([^\s/>=]++)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>]*+)))?""")
_RAW_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("style", "script")}
# html.unescape by itself raises ValueError for a number of 4,300 digits.
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7};?|#[xX][0-9a-fA-F]{1,6};?|[a-zA-Z][a-zA-Z0-9]{1,31};?)")

# A piece of HTML: «text» and the text as it is written; or «start», «end» or «both» (`<br/>`), the tag's name in lower
# case, and its attributes.
Piece = tuple[str, str, str]


def read_html(html: str) -> Iterator[Piece]:
    """Return the texts and tags of some HTML, without comments. As in browsers, «<» without a letter after it is a
    text, and a tag or comment that does not end takes the rest with it."""
    position = 0
    while opened := _MARKUP.search(html, position):
        start = opened.start()
        if start > position:
            yield "text", html[position:start], ""
        found = _TAG.match(html, start)
        if found is not None:
            end = _find_end(html, found.end())
            if end < 0:
                return
            name, attributes, position = found[2].lower(), html[found.end() : end], end + 1
            kind = "end" if found[1] else "both" if attributes.endswith("/") else "start"
            yield kind, name, attributes
            if kind == "start" and name in _RAW_END:
                last = _RAW_END[name].search(html, position)
                position = last.start() if last else len(html)
                yield "text", html[end + 1 : position], ""
        elif html.startswith("<!--", start):
            position = _skip(html, "-->", start + 2)  # `<!-->` is a whole comment
        else:
            position = _skip(html, ">", start + 2)
    if position < len(html):
        yield "text", html[position:], ""


def to_text(html: str) -> str:
    """Return the plain-text part of a mail, made from its HTML: one line for each block, blanks between the cells of a
    table, links before their text, and what images are called."""
    words: list[str] = []
    hidden = 0  # open elements whose text is not shown
    for kind, text, attributes in read_html(html):
        if kind == "text":
            if not hidden:
                words.append(_unescape(text))
            continue
        if text in HIDDEN and kind != "both":
            hidden = max(0, hidden + (1 if kind == "start" else -1))
        elif text == "body":  # it ends a head that was not closed
            hidden = 0
        if text in BLOCKS:
            words.append("\n")
        elif text in CELLS:
            words.append(" ")
        elif text == "img" and kind != "end" and not hidden:
            words.append(_find_attribute(attributes, "alt"))
        if text == "a" and kind != "end" and (link := _find_attribute(attributes, "href")):
            words.append(f"{link} ")
    return tidy("".join(words))


def strip_tags(html: str) -> str:
    """Return the texts of some HTML, entities as they are, without those of scripts and styles."""
    if "<" not in html or ">" not in html:
        return html
    texts: list[str] = []
    raw = ""  # the open script or style
    for kind, text, _ in read_html(html):
        if kind == "text":
            if not raw:
                texts.append(text)
        elif text in _RAW_END:
            raw = text if kind == "start" else ""
    return "".join(texts)


def tidy(text: str) -> str:
    """Return `text` without empty lines, and with one blank between words."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _find_end(html: str, position: int) -> int:
    """Return where the «>» of a tag stands, -1 for none. A quote begins a value only after «=», and only if it ends."""
    while found := _SIGN.search(html, position):
        if found[0] == ">":
            return found.start()
        position = found.end()
        start = _SPACE.match(html, position).end()  # type: ignore[union-attr]  # it matches everywhere
        if html[start : start + 1] in {'"', "'"}:
            position = html.find(html[start], start + 1) + 1 or position
    return -1


def _skip(html: str, end: str, start: int) -> int:
    found = html.find(end, start)
    return len(html) if found < 0 else found + len(end)


def _find_attribute(attributes: str, name: str) -> str:
    for found in _ATTRIBUTE.finditer(attributes):
        if found[1].lower() == name:
            return _unescape(found[2] or found[3] or found[4] or "")
    return ""


def _unescape(text: str) -> str:
    return _REFERENCE.sub(lambda found: entities.unescape(found[0]), text) if "&" in text else text
