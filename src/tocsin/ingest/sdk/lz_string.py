"""LZ-String's `compressToBase64`, unfolded up to a limit: what the Web SDK packs its payload with. Pure.

A stream of codes, each as wide as the dictionary needs, most significant bit of a byte first and least significant bit
of a code first. Codes 0 and 1 announce a new letter of 8 and of 16 bits, a UTF-16 unit; 2 is the end.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

LETTERS = 128 * 1024  # that one payload may unfold to
BASE64_LETTERS = 32 * 1024  # proxies take URLs of 8 KB, unless they are told otherwise
END = 2


class BadPacking(Exception):  # noqa: N818 - an answer, not a failure of ours
    """A text that LZ-String did not write, or one that unfolds to more than LETTERS."""


def unpack(packed: str) -> str:
    """Return the text that was packed. Raise BadPacking."""
    if len(packed) > BASE64_LETTERS:
        raise BadPacking
    try:
        raw = base64.b64decode(packed.replace(" ", "+"), validate=True)
        units = b"".join(unit.encode("utf-16-le", "surrogatepass") for unit in _read_phrases(raw))
        return units.decode("utf-16-le")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise BadPacking from None


def _read_phrases(raw: bytes) -> Iterator[str]:
    """Yield the phrases of a stream in their order. Raise BadPacking."""
    bits = _Bits(raw)
    letter = _read_letter(bits, bits.take(2))
    if letter is None:
        return
    phrases: list[str] = ["", "", "", letter]
    yield letter
    previous, size, width, room = letter, 1, 3, 4
    while True:
        code = bits.take(width)
        if code == END:
            return
        if code < END:
            new = _read_letter(bits, code)
            assert new is not None
            code = len(phrases)
            phrases.append(new)
            room -= 1
            if not room:
                room, width = 1 << width, width + 1
        if code < len(phrases):
            phrase = phrases[code]
        elif code == len(phrases):
            phrase = previous + previous[0]
        else:
            raise BadPacking
        size += len(phrase)
        if size > LETTERS:
            raise BadPacking
        yield phrase
        phrases.append(previous + phrase[0])
        room -= 1
        if not room:
            room, width = 1 << width, width + 1
        previous = phrase


def _read_letter(bits: _Bits, code: int) -> str | None:
    """Return the new letter that a code announces; None for the end."""
    if code == END:
        return None
    if code > END:
        raise BadPacking
    return chr(bits.take(16 if code else 8))


class _Bits:
    """The bits of a stream, from the most significant one of its first byte."""

    def __init__(self, raw: bytes):
        self._text = format(int.from_bytes(b"\1" + raw), "b")[1:]  # a leading one keeps leading zeros
        self._place = 0

    def take(self, count: int) -> int:
        """Return the next code of so many bits, whose first bit is its least significant one. Raise BadPacking."""
        end = self._place + count
        if end > len(self._text):
            raise BadPacking
        found = int(self._text[self._place : end][::-1], 2)
        self._place = end
        return found
