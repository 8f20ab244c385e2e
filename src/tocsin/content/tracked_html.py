"""A mail's HTML whose links lead through this server, with a picture at its end that says it was opened.

The links of a template are found once, in its source, and marked; when it is filled, each mark gives way to the link
of one mail. Where a template could write tags itself, they are found in what was made. Everything but the addresses
stays as it was written, byte for byte.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tocsin.content.html_links import BLOCK, Target, find_hrefs, read_target, read_targets
from tocsin.content.lexer import Tag, find_tags
from tocsin.providers.contract import Pieces

LINKS = 1000  # of a mail that are followed; the others stay as they are
FEW = 2  # links and the picture of a mail that is filled: so few are not worth cutting it into pieces
UNSUBSCRIBE = "*|UNSUBSCRIBE|*"  # CleverTap's tag for the recipient's own link

_PIXEL = "p"
_PIXEL_PLACE, _UNSUBSCRIBE_PLACE = -1, -2
_KINDS = {'"': "2", "'": "1", "": "0"}  # a mark's letter, by what the address stands in
_OUTSIDE = {"2": '"', "1": "'", "0": " \t\n\r\f>", _PIXEL: ""}  # what an address cannot hold, by the mark's letter
_READ = frozenset(_KINDS.values())
_FIXED = 0x100  # the first of the letters that stand for an address without template
_CHANGING = re.compile(r"\{\{|\{%|" + re.escape(UNSUBSCRIBE))  # in an address: it is not the same in all mails
# Filters and blocks that write tags or read them, and texts with a tag in them.
_WRITES_HTML = re.compile(r"""\bsafe\b|\bcapture\b|["'][^"'<]*+<""")

Marked = tuple[str, str, str]  # the mark's letter, the address, and what comes after it
Split = tuple[str, Sequence[Marked]]  # what comes before the first mark, and what each is of
Wanted = tuple[str, bool, tuple[bytes, ...]]  # what begins a link, "" for none; opens; what begins the links that stay


class MailLinks(msgspec.Struct, frozen=True):
    """What makes one mail's links. start: what begins each URL that leads to a target and counts, as it stands in an
    attribute. sign: returns, for each of some targets, what comes next; the target itself is the query. None where
    clicks are not counted. pixel: the URL of the picture, as it stands in an attribute; "" where views are not. own:
    what begins the links that are this server's already."""

    start: str = ""
    sign: Callable[[Sequence[bytes]], Sequence[str]] | None = None
    pixel: str = ""
    own: tuple[bytes, ...] = ()


class _Plan(msgspec.Struct, frozen=True):
    """Where a mail's own texts go. frame: what stands around them. order: of each the number of its target, or PIXEL or
    UNSUBSCRIBED. recurs: most of the frame is that of other mails too, so that its bytes are kept."""

    frame: tuple[str, ...]
    order: tuple[int, ...]
    targets: tuple[bytes, ...]
    recurs: bool


class TrackedHtml:
    """A source with marks in it. Who fills it, fills `source`, and gets a mail's HTML by `track` or `restore`. Raises
    LiquidError for a source that is no template."""

    def __init__(self, source: str):
        token = secrets.token_hex(6)  # no profile can hold one
        self._open, self._close = f"\x02{token}", f"\x03{token}"
        tags = list(find_tags(source)) if "{{" in source or "{%" in source else []
        self._late = any(_WRITES_HTML.search(source, tag.start, tag.end) for tag in tags)
        self._addresses: dict[str, str] = {}  # those without template, by their marks' letters
        self.source = source if self._late else self._mark(source, _hide(source, tags), self._addresses)
        self._fixed = None if tags else self._split(self.source)
        self._plans: dict[Wanted, _Plan] = {}  # an installation wants three at most
        self._targets: dict[Wanted, Mapping[str, Target]] = {}  # of `_addresses`

    def restore(self, filled: str) -> str:
        """Return the HTML without marks: nothing is tracked."""
        if self._late:
            return filled
        first, rest = self._fixed or self._split(filled)
        return "".join([first, *(text for _, address, after in rest for text in (address, after))])

    def track(self, filled: str, links: MailLinks, unsubscribe: str = UNSUBSCRIBE) -> Pieces:
        """Return the HTML of one mail. unsubscribe: what stands for UNSUBSCRIBE in an address, itself by default."""
        wanted = (links.start if links.sign is not None else "", bool(links.pixel), links.own)
        if self._fixed is None:
            plan = self._plan(self._split(self._mark(filled, filled, {}) if self._late else filled), wanted)
        else:
            plan = self._plans.get(wanted) or self._plans.setdefault(wanted, self._plan(self._fixed, wanted))
        signed = links.sign(plan.targets) if links.sign is not None else ()
        others = {_PIXEL_PLACE: links.pixel, _UNSUBSCRIBE_PLACE: unsubscribe}
        fills = tuple([signed[place] if place >= 0 else others[place] for place in plan.order])
        pieces = Pieces(plan.frame, fills, fixed=self._fixed is not None)
        return pieces if pieces.fixed or plan.recurs else Pieces((pieces.join(),), ())

    def _plan(self, split: Split, wanted: Wanted) -> _Plan:
        if (known := self._targets.get(wanted)) is None:
            known = self._targets[wanted] = _read_fixed(self._addresses, wanted)
        return _make_plan(split, wanted, known)

    def _mark(self, source: str, hidden: str, addresses: dict[str, str]) -> str:
        """Return the source with its addresses between marks. One without template gives way to its mark, by whose
        letter it is in `addresses`. hidden: the same without template."""
        hrefs, end = find_hrefs(hidden)
        places = sorted([*((one.start, one.end, _KINDS[one.quote]) for one in hrefs), (end, end, _PIXEL)])
        out: list[str] = []
        position = 0
        for start, stop, kind in places:
            address = source[start:stop]
            out += (source[position:start], self._open)
            if kind == _PIXEL or self._late or len(addresses) == LINKS or _CHANGING.search(address):
                out += (kind, address, self._close)
            else:
                letter = chr(_FIXED + len(addresses))
                addresses[letter] = address
                out.append(letter)
            position = stop
        return "".join([*out, source[position:]])

    def _split(self, html: str) -> Split:
        """Return what comes before the first mark, and what each mark is of. A mark whose other half went with a block
        of the template is left out."""
        first, *pieces = html.split(self._open)
        marked: list[Marked] = []
        whole = 0
        for piece in pieces:
            if (fixed := self._addresses.get(piece[0])) is not None:
                marked.append((piece[0], fixed, piece[1:]))
                continue
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


def _read_fixed(addresses: Mapping[str, str], wanted: Wanted) -> dict[str, Target]:
    """Return the targets of those addresses that are followed."""
    start, _, own = wanted
    found = {letter: read_target(address) for letter, address in addresses.items()} if start else {}
    return {letter: one for letter, one in found.items() if one is not None and not one.url.startswith(own)}


def _make_plan(split: Split, wanted: Wanted, known: Mapping[str, Target]) -> _Plan:
    """known: targets of addresses without template, by their marks' letters."""
    before, marked = split
    start, opens, own = wanted
    frame: list[str] = []
    order: list[int] = []
    targets: list[bytes] = []
    changing = [address for kind, address, _ in marked if kind in _READ and UNSUBSCRIBE not in address]
    found = iter(read_targets(changing)) if start else itertools.repeat(None)
    for kind, address, after in marked:
        target = known.get(kind)
        if kind == _PIXEL:
            if opens:
                frame.append(f'{before}<img src="')
                order.append(_PIXEL_PLACE)
                before = '" width="1" height="1" alt="">'
        elif target is None and UNSUBSCRIBE in address:
            first, *middle, last = address.split(UNSUBSCRIBE)
            frame += [before + first, *middle]
            order += [_UNSUBSCRIBE_PLACE] * (len(middle) + 1)
            before = last
        else:
            if kind in _READ and (target := next(found)) is not None and target.url.startswith(own):
                target = None
            if target is None or len(targets) == LINKS:
                before += address
            else:
                frame.append(before + start)
                order.append(len(targets))
                targets.append(target.url)
                before = f"?{target.written}"
        before += after
    recurs = len(order) > 2 * len(changing) + FEW
    return _Plan((*frame, before), tuple(order), tuple(targets), recurs)


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
