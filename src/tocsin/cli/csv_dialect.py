"""How a file of cells is written: its encoding, its separator and its quotes, found by looking at all of it."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from tocsin.errors import Misconfigured

SEPARATORS = ",;\t|"
SAMPLE = 64 * 1024  # bytes that separators and UTF-16 are looked for in
PIECE = 1024 * 1024
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LATIN = "windows-1252"  # Excel's own on most machines; in Latin-1 the same letters


class Dialect(msgspec.Struct, frozen=True):
    """How a file is written. separator: "" where the file has one column. notes: what was guessed, as sentences."""

    encoding: str
    separator: str
    quote: str
    notes: tuple[str, ...] = ()


def find_dialect(
    open_bytes: Callable[[], BinaryIO], name: str, *, encoding: str | None, separator: str | None, quote: str | None
) -> Dialect:
    """Return how a file is written; what the caller gives is taken as it is.

    Raises Misconfigured with the line and what to do when its bytes fit no encoding, before anything is imported.
    """
    notes: tuple[str, ...] = ()
    if encoding is None:
        encoding, notes = find_encoding(open_bytes, name)
    with open_bytes() as source:
        try:
            sample = codecs.getincrementaldecoder(encoding)().decode(source.read(SAMPLE))
        except LookupError:
            raise Misconfigured(f"{encoding} is no encoding that is known; try utf-8 or {LATIN}.") from None
    if separator is None:
        separator = read_declaration(sample) or guess_separator(sample)
    if quote is None:
        first = sample.lstrip("\ufeff \t\r\n")[:1]
        quote = "'" if first == "'" else '"'
    return Dialect(encoding, separator, quote, notes)


def find_encoding(open_bytes: Callable[[], BinaryIO], name: str) -> tuple[str, tuple[str, ...]]:
    """Return the encoding of a file, and what was guessed about it."""
    with open_bytes() as source:
        start = source.read(SAMPLE)
    for mark, found in MARKS:
        if start.startswith(mark):
            return found, ()
    pairs = len(start) // 2
    for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[0::2])):
        if pairs and zeros.count(0) > pairs * 0.6:
            return encoding, ()
    return _prove_utf8(open_bytes, name)


def _prove_utf8(open_bytes: Callable[[], BinaryIO], name: str) -> tuple[str, tuple[str, ...]]:
    """Return UTF-8 when all of a file is, else Windows-1252; but not for a file with letters of both."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines, letters = 1, False
    with open_bytes() as source:
        while True:
            piece = source.read(PIECE)
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                before = error.object[: error.start]
                lines += before.count(b"\n")
                letters = letters or not before.isascii()
                break
            letters = letters or not text.isascii()
            lines += text.count("\n")
            if not piece:
                return "utf-8", ()
    if letters:
        raise Misconfigured(
            f"{name}, line {lines}: this byte is no UTF-8, and letters before it are. Nothing was imported. Save the "
            f"file as UTF-8, or say --encoding {LATIN} (or another) to take all of it as that."
        )
    return LATIN, (f"line {lines} is not UTF-8, so the file is taken as {LATIN}; --encoding says otherwise.",)


def read_declaration(sample: str) -> str | None:
    """Return the separator that Excel's first line `sep=;` declares."""
    line = sample.lstrip("\ufeff").partition("\n")[0].rstrip("\r").strip('"')
    return line[4] if line[:4].lower() == "sep=" and len(line) == 5 else None


def guess_separator(sample: str) -> str:
    """Return the separator that the header has most of, outside of quotes; a comma where it has none."""
    lines = [line for line in sample.lstrip("\ufeff").splitlines() if line.strip()][:1]
    header = lines[0] if lines else ""
    counts = {one: len(next(csv.reader([header], delimiter=one), [])) for one in SEPARATORS}
    return max(SEPARATORS, key=lambda one: (counts[one], -SEPARATORS.index(one)))
