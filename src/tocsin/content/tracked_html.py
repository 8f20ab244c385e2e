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
from tocsin.providers.contract import Pieces

LINKS = 1000  # of a mail that are followed; the others stay as they are
UNSUBSCRIBE = "*|UNSUBSCRIBE|*"  # CleverTap's tag for the recipient's own link

_PIXEL = "p"
_PIXEL_PLACE, _UNSUBSCRIBE_PLACE = -1, -2
_KINDS = {'"': "2", "'": "1", "": "0"}  # a mark's letter, by what the address stands in
_OUTSIDE = {"2": '"', "1": "'", "0": " \t\n\r\f>", _PIXEL: ""}  # what an address cannot hold, by the mark's letter
# Filters and blocks that write tags or read them, and texts with a tag in them.
_WRITES_HTML = re.compile(r"""\bsafe\b|\bcapture\b|["'][^"'<]*+<""")

Marked = tuple[str, str, str]  # the mark's letter, the address, and what comes after it
Split = tuple[str, Sequence[Marked]]  # what comes before the first mark, and what each is of
Wanted = tuple[bool, bool, tuple[bytes, ...]]  # clicks, opens, what begins the links that stay


class MailLinks(msgspec.Struct, frozen=True):
    """What makes one mail's links. sign: returns, for each of some targets, the URL that leads to it and counts,
    without the target itself and as it stands in an attribute; None where clicks are not counted. pixel: the URL of the
    picture, as it stands in an attribute; "" where views are not. own: what begins the links that are this server's
    already."""

    sign: Callable[[Sequence[bytes]], Sequence[str]] | None = None
    pixel: str = ""
    own: tuple[bytes, ...] = ()


class _Plan(msgspec.Struct, frozen=True):
    """Where a mail's own texts go. frame: what stands around them. order: of each the number of its target, or PIXEL or
    UNSUBSCRIBED."""

    frame: tuple[str, ...]
    order: tuple[int, ...]
    targets: tuple[bytes, ...]


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
        self._plans: dict[Wanted, _Plan] = {}  # an installation wants three at most

    def restore(self, filled: str) -> str:
        """Return the HTML without marks: nothing is tracked."""
        if self._late:
            return filled
        first, rest = self._fixed or self._split(filled)
        return "".join([first, *(text for _, address, after in rest for text in (address, after))])

    def track(self, filled: str, links: MailLinks, unsubscribe: str = UNSUBSCRIBE) -> Pieces:
        """Return the HTML of one mail. unsubscribe: what stands for UNSUBSCRIBE in an address, itself by default."""
        wanted = (links.sign is not None, bool(links.pixel), links.own)
        if self._fixed is None:
            plan = _make_plan(self._split(self._mark(filled, filled) if self._late else filled), wanted)
        else:
            plan = self._plans.get(wanted) or self._plans.setdefault(wanted, _make_plan(self._fixed, wanted))
        signed = links.sign(plan.targets) if links.sign is not None else ()
        others = {_PIXEL_PLACE: links.pixel, _UNSUBSCRIBE_PLACE: unsubscribe}
        fills = tuple([signed[place] if place >= 0 else others[place] for place in plan.order])
        return Pieces(plan.frame, fills, fixed=self._fixed is not None)

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

    def _split(self, html: str) -> Split:
        """Return what comes before the first mark, and what each mark is of. A mark whose other half went with a block
        of the template is left out."""
        first, *pieces = html.split(self._open)
        marked: list[Marked] = []
        whole = 0
        for piece in pieces:
            inside, closed, after = piece.partition(self._close)
            kind, address = inside[0], inside[1:]
            if closed and not _is_torn(kind, address):
                marked.append((kind, address, after))
                whole += 1
            else:
                marked.append(("", "", piece[1:]))
        if html.count(self._close) > whole:
            first = first.replace(self._close, "")
            marked = [(kind, address, after.replace(self._close, "")) for kind, address, after in marked]
        return first, marked


def _is_torn(kind: str, address: str) -> bool:
    """Return whether an address holds what would have ended it where it stands."""
    if kind == "2":  # as most do
        return '"' in address
    return any(sign in address for sign in _OUTSIDE[kind])


def _make_plan(split: Split, wanted: Wanted) -> _Plan:
    before, marked = split
    clicks, opens, own = wanted
    frame: list[str] = []
    order: list[int] = []
    targets: list[bytes] = []
    for kind, address, after in marked:
        if kind == _PIXEL:
            if opens:
                frame.append(f'{before}<img src="')
                order.append(_PIXEL_PLACE)
                before = '" width="1" height="1" alt="">'
        elif UNSUBSCRIBE in address:
            start, *middle, end = address.split(UNSUBSCRIBE)
            frame += [before + start, *middle]
            order += [_UNSUBSCRIBE_PLACE] * (len(middle) + 1)
            before = end
        else:
            target = read_target(address) if clicks and len(targets) < LINKS else None
            if target is None or target.url.startswith(own):
                before += address
            else:
                frame.append(before)
                order.append(len(targets))
                targets.append(target.url)
                before = f"?{target.written}"
        before += after
    return _Plan((*frame, before), tuple(order), tuple(targets))


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
