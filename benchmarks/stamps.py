"""When a sink saw each numbered message: a file that the sink's process appends to and the benchmark reads.

A message carries its number in its title or subject, between two marks: «#12#». Times are of the machine's monotonic
clock, which all its processes share.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import msgspec

FLUSH_SECONDS = 0.1
_MARK = re.compile(rb"#(\d{1,12})#")
_RECORD = struct.Struct("<qdd")


class Stamp(msgspec.Struct, frozen=True):
    """One message at the sink. arrived: its last byte was read. answered: the answer was written. Both in seconds."""

    number: int
    arrived: float
    answered: float


def mark(number: int | str) -> str:
    """Return the text by which a sink finds a message's number."""
    return f"#{number}#"


def find_number(text: bytes, start: int, stop: int) -> int | None:
    """Return the first number that is marked in a part of the bytes."""
    found = _MARK.search(text, start, stop)
    return int(found[1]) if found else None


class StampFile:
    """The writer's side: stamps are gathered, and written every FLUSH_SECONDS by `tick`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._gathered = bytearray()
        self._written_at = 0.0

    def add(self, number: int, arrived: float, answered: float) -> None:
        """Note one message."""
        self._gathered += _RECORD.pack(number, arrived, answered)

    def tick(self, now: float) -> None:
        """Write what was gathered when it is time; to be called several times a second."""
        if self._gathered and now - self._written_at >= FLUSH_SECONDS:
            self._written_at = now
            self._file.write(self._gathered)
            self._file.flush()
            self._gathered.clear()

    def close(self) -> None:
        """Write what is left."""
        self._file.write(self._gathered)
        self._file.close()


def read_stamps(path: Path) -> list[Stamp]:
    """Return the stamps written so far, in the order of the answers."""
    content = path.read_bytes() if path.exists() else b""
    whole = len(content) - len(content) % _RECORD.size
    return [Stamp(*row) for row in _RECORD.iter_unpack(content[:whole])]
