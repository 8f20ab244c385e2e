"""Which files an import is about, and their bytes: packed ones are read as they unfold."""

from __future__ import annotations

import glob
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from tocsin.errors import Misconfigured

PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
CELLS = (".csv", ".tsv", ".txt")
LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
REFUSED = ".refused"  # in the names of the files that an import writes


def find_files(names: Sequence[str]) -> list[Path]:
    """Return the files of these names: of a folder all that can be read, of a pattern all that match.

    Raises UsageError for a name without files, and Misconfigured for a file whose name has another ending.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = [one for one in sorted(path.rglob("*")) if one.is_file() and kind_of(one) and not _is_ours(one)]
        elif path.exists():
            inside = [path]
        else:
            matching = sorted(Path(one) for one in glob.glob(name, recursive=True))  # noqa: PTH207 - absolute too
            inside = [one for one in matching if one.is_file() and not _is_ours(one)]
        if not inside:
            raise click.UsageError(f"{name} does not exist, or there is no file in it that can be imported.")
        for one in inside:
            if not kind_of(one):
                raise Misconfigured(
                    f"{one.name} must end in .csv, .tsv, .txt, .jsonl, .ndjson, .json or .parquet, with .gz or .zst "
                    "after it where it is packed."
                )
            found[one] = None
    return list(found)


def _is_ours(path: Path) -> bool:
    return REFUSED in path.suffixes


def kind_of(path: Path) -> str:
    """Return "cells", "lines" or "parquet" by a file's name; "" for another."""
    suffix = _unpacked(path).suffix.lower()
    for kind, endings in (("cells", CELLS), ("lines", LINES), ("parquet", PARQUET)):
        if suffix in endings:
            return kind
    return ""


def _unpacked(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def open_bytes(path: Path) -> BinaryIO:
    """Return a file opened to read its bytes, unpacked."""
    match PACKED.get(path.suffix.lower()):
        case "gzip":
            return cast("BinaryIO", gzip.open(path, "rb"))
        case "zstd":
            return io.BufferedReader(_Zstandard(path))
        case _:
            return path.open("rb")


class _Zstandard(io.RawIOBase):
    """The unpacked bytes of a file of zstd. fileobj: the file itself."""

    def __init__(self, path: Path):
        import pyarrow

        self.fileobj = pyarrow.OSFile(str(path))
        self._stream = pyarrow.CompressedInputStream(self.fileobj, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._stream.close()
        self.fileobj.close()
        super().close()


def read_position(source: BinaryIO) -> int:
    """Return how many bytes of the file itself were read: of a packed one those that were unpacked."""
    inner = getattr(getattr(source, "raw", source), "fileobj", source)
    return int(inner.tell())
