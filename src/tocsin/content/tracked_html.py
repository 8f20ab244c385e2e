"""A mail's HTML whose links lead through this server, with a picture at its end that says it was opened.

The links of a template are found once, in its source, and marked; when it is filled, each mark gives way to the link
of one mail. Where a template could write tags itself, they are found in what was made. Everything but the addresses
stays as it was written, byte for byte.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence

import msgspec

from tocsin.content.html_links import BLOCK, find_hrefs, read_target
from tocsin.content.lexer import Tag, find_tags

LINKS = 1000  # of a mail that are followed; the others stay as they are
UNSUBSCRIBE = "*|UNSUBSCRIBE|*"  # CleverTap's tag for the recipient's own link

_PIXEL = "p"
_KINDS = {'"': "2", "'": "1", "": "0"}  # a mark's letter, by what the address stands in
_OUTSIDE = {"2": '"', "1": "'", "0": " \t\n\r\f>", _PIXEL: ""}  # what an address cannot hold, by the mark's letter
# Filters and blocks that write tags or read them, and texts with a tag in them.
_WRITES_HTML = re.compile(r"""\bsafe\b|\bcapture\b|["'][^"'<]*+<""")

Marked = tuple[str, str, str]  # the mark's letter, the address, and what comes after it


class MailLinks(msgspec.Struct, frozen=True):
    """What makes one mail's links. link: returns the URL that leads to a target and counts, without the target itself
    and as it stands in an attribute; None where clicks are not counted. pixel: the URL of the picture, as it stands in
    an attribute; "" where views are not. own: what begins the links that are this server's already."""

    link: Callable[[bytes], str] | None = None
    pixel: str = ""
    own: tuple[bytes, ...] = ()


class TrackedHtml:
    """A source with marks in it. Who fills it, fills `source`, and gets a mail's HTML by `track` or `restore`. Raises
    LiquidError for a source that is no template."""

    def __init__(self, source: str):
        token = secrets.token_hex(6)  # no profile can hold one
        self._open, self._close = f"\x02{token}", f"\x03{token}"
        tags = list(find_tags(source)) if "{{" in source or "{%" in source else []
        self._late = any(_WRITES_HTML.search(source, tag.start, tag.end) for tag in tags)
        self.source = source if self._late else self._mark(source, _hide(source, tags))
        self._fixed = None if tags else self._split(self.source)

    def restore(self, filled: str) -> str:
        """Return the HTML without marks: nothing is tracked."""
        if self._late:
            return filled
        first, rest = self._fixed or self._split(filled)
        return "".join([first, *(text for _, address, after in rest for text in (address, after))])

    def track(self, filled: str, tracking: MailLinks) -> str:
        """Return the HTML of one mail."""
        first, rest = self._fixed or self._split(self._mark(filled, filled) if self._late else filled)
        link, own, left, out = tracking.link, tracking.own, LINKS, [first]
        for kind, address, after in rest:
            shown = address
            if kind == _PIXEL:
                shown = f'<img src="{tracking.pixel}" width="1" height="1" alt="">' if tracking.pixel else ""
            elif link is not None and left and UNSUBSCRIBE not in address:
                target = read_target(address)
                if target is not None and not target.url.startswith(own):
                    shown = f"{link(target.url)}?{target.written}"
                    left -= 1
            out += (shown, after)
        return "".join(out)

    def _mark(self, source: str, hidden: str) -> str:
        """Return the source with its addresses between marks. hidden: the same without template."""
        hrefs, end = find_hrefs(hidden)
        places = sorted([*((one.start, one.end, _KINDS[one.quote]) for one in hrefs), (end, end, _PIXEL)])
        out: list[str] = []
        position = 0
        for start, stop, kind in places:
            out += (source[position:start], self._open, kind, source[start:stop], self._close)
            position = stop
        return "".join([*out, source[position:]])

    def _split(self, html: str) -> tuple[str, Sequence[Marked]]:
        """Return what comes before the first mark, and what each mark is of. A mark whose other half went with a block
        of the template is left out."""
        first, *pieces = html.split(self._open)
        marked: list[Marked] = []
        whole = 0
        for piece in pieces:
            kind = piece[0]
            address, closed, after = piece[1:].partition(self._close)
            if closed and not any(sign in address for sign in _OUTSIDE[kind]):
                marked.append((kind, address, after))
                whole += 1
            else:
                marked.append(("", "", piece[1:]))
        if html.count(self._close) > whole:
            first = first.replace(self._close, "")
            marked = [(kind, address, after.replace(self._close, "")) for kind, address, after in marked]
        return first, marked


def _hide(source: str, tags: Sequence[Tag]) -> str:
    """Return the source with other letters in place of its tags and its comments, each as long as it was: what a tag
    makes is a part of the text around it."""
    out: list[str] = []
    position = comments = 0
    for tag in tags:
        between = tag.start - position
        out += (
            "x" * between if comments else source[position : tag.start],
            (BLOCK if tag.name else "x") * (tag.end - tag.start),
        )
        comments = max(0, comments + (tag.name == "comment") - (tag.name == "endcomment"))
        position = tag.end
    return "".join([*out, source[position:]])
