"""The lines of a file: thousands at once as bytes of UTF-8, or one by one as texts."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import BinaryIO

PIECE = 1024 * 1024  # bytes that are read at once
TEXTS = 1000  # lines that are decoded at once


class Lines(Iterator[str]):
    """The lines of a file that come next. One ends with \\n, \\r or \\r\\n, which is part of it; `take` counts those
    with \\n, or with \\r in a file whose start has no other."""

    def __init__(self, source: BinaryIO, encoding: str):
        name = codecs.lookup(encoding).name
        self._source = source
        self._decoder = None if name in ("utf-8", "utf-8-sig") else codecs.getincrementaldecoder(encoding)()
        self._pieces: list[bytes] = []  # that were read, and are not taken yet
        self._texts = io.StringIO()
        self._ended = False
        while sum(map(len, self._pieces)) < len(codecs.BOM_UTF8) and self._fill():
            pass
        start = b"".join(self._pieces)
        self._break = b"\r" if b"\r" in start and b"\n" not in start else b"\n"
        self._pieces = [start.removeprefix(codecs.BOM_UTF8) if name == "utf-8-sig" else start]

    def __next__(self) -> str:
        line = self._texts.readline()
        if not line:
            self._texts = io.StringIO(self.take(TEXTS).decode(), newline="")
            line = self._texts.readline()
        if not line:
            raise StopIteration
        return line

    def take(self, most: int) -> bytes:
        """Return so many lines, or as many as there are, as UTF-8."""
        if rest := self._texts.read():
            self.give_back(rest.encode())
        taken: list[bytes] = []
        while self._pieces or self._fill():
            piece = self._pieces.pop(0)
            count = piece.count(self._break)
            if count >= most:
                end = _find_break(piece, self._break, most)
                self.give_back(piece[end:])
                taken.append(piece[:end])
                break
            most -= count
            taken.append(piece)
        return b"".join(taken)

    def give_back(self, piece: bytes) -> None:
        """Have bytes come again before all others."""
        if piece:
            self._pieces.insert(0, piece)

    def _fill(self) -> bool:
        """Read a piece; return whether there was one."""
        while not self._ended:
            piece = self._source.read(PIECE)
            self._ended = not piece
            if self._decoder is not None:
                piece = self._decoder.decode(piece, final=self._ended).encode("utf-8", "surrogatepass")
            if piece:
                self._pieces.append(piece)
                return True
        return False


def _find_break(piece: bytes, end: bytes, number: int) -> int:
    """Return where the line break of this number, from 1, ends."""
    first, last, before = 0, len(piece), 0  # the break is in [first, last), and so many are before `first`
    while last - first > 1:
        middle = (first + last) // 2
        count = piece.count(end, first, middle)
        if before + count >= number:
            last = middle
        else:
            first, before = middle, before + count
    return last
