"""Texts shortened to a number of bytes, never within what a reader sees as one letter."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable

ELLIPSIS = "…"
Cost = Callable[[str], int]  # bytes of a text as it is written in the payload; a sum over its characters

_JOINER = "\u200d"
_VIRAMA = 9  # canonical combining class: in many scripts of India it ties two consonants into one letter
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)
_FLAG_TAGS = range(0xE0020, 0xE0080)
_HANGUL_PARTS = range(0x1160, 0x1200)  # vowels and finals, which stand inside a syllable
_OTHER_EXTENDERS = "\u200c\uff9e\uff9f"


def fit_texts(title: str, body: str, room: int, cost: Cost) -> tuple[str, str] | None:
    """Return title and body in `room` bytes together: the body is shortened first, then the title. None when not even
    an ellipsis for each fits."""
    spare = room - cost(title)
    shown = shorten(body, spare, cost) if spare >= 0 else None
    if shown is not None:
        return title, shown
    shown = body if cost(body) <= cost(ELLIPSIS) else ELLIPSIS
    head = shorten(title, room - cost(shown), cost)
    return None if head is None else (head, shown)


def shorten(text: str, room: int, cost: Cost) -> str | None:
    """Return the text when it costs at most `room` bytes, else the longest beginning that does with an ellipsis after
    it. None when the ellipsis alone costs more. Every character has to cost a byte or more."""
    if len(text) > room:
        text = text[: max(room, 0) + 1]  # of megabytes, no more than is needed to find the boundary
    return _shorten(text, room, cost)


@functools.lru_cache(maxsize=64)  # a body without templates is the same for all recipients
def _shorten(text: str, room: int, cost: Cost) -> str | None:
    if cost(text) <= room:
        return text
    room -= cost(ELLIPSIS)
    if room < 0:
        return None
    low, high = 0, min(len(text) - 1, room)
    while low < high:
        middle = (low + high + 1) // 2
        if cost(text[:middle]) <= room:
            low = middle
        else:
            high = middle - 1
    return text[: find_boundary(text, low)] + ELLIPSIS


def find_boundary(text: str, at: int) -> int:
    """Return the last index up to `at` that is between two letters as a reader sees them (Unicode Standard Annex 29, as
    far as `unicodedata` knows its classes; what it does not know is kept together)."""
    while 0 < at < len(text) and _is_inside(text, at):
        at -= 1
    return at


def _is_inside(text: str, at: int) -> bool:
    """Return whether the characters before and after `at` belong to one letter."""
    before, after = text[at - 1], text[at]
    if after < "\u0300" and before < "\u0300":
        return before == "\r" and after == "\n"
    code = ord(after)
    if (
        _JOINER in (before, after)
        or unicodedata.category(after)[0] == "M"  # accents, vowel signs, variation selectors
        or code in _SKIN_TONES
        or code in _FLAG_TAGS
        or code in _HANGUL_PARTS
        or after in _OTHER_EXTENDERS
    ):
        return True
    if unicodedata.combining(before) == _VIRAMA:
        return unicodedata.category(after) == "Lo"
    if code in _FLAG_LETTERS and ord(before) in _FLAG_LETTERS:  # a flag is two of them
        return _count_flag_letters(text, at) % 2 == 1
    return _is_surrogate_pair(before, after)


def _count_flag_letters(text: str, end: int) -> int:
    start = end
    while start > 0 and ord(text[start - 1]) in _FLAG_LETTERS:
        start -= 1
    return end - start


def _is_surrogate_pair(before: str, after: str) -> bool:
    return "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff"
