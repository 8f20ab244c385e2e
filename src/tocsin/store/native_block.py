"""Rows as a block of ClickHouse's Native format, whose JSON column is one typed column a path.

As text, every row's JSON would be parsed by the store, which costs it more than all else of an insert. The layout is
the «flattened» one that ClickHouse documents for clients; servers read it from version 25.6 on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

FLATTENED = (3).to_bytes(8, "little")  # the version of both serializations, of JSON and of the Dynamic of each path
SHORT = 1 << 14  # texts that are shorter have their length before them by a table
LISTS = "Array(Nullable(Float64))"  # as the store itself calls a list of numbers in JSON


class JsonPath(msgspec.Struct, frozen=True):
    """The values of a path, each that differs once; a place has one of three, or nothing. texts, numbers, lists: Arrow
    arrays of as many places, null where there is none, or None. codes: an Arrow array, of each row its place."""

    texts: Any
    numbers: Any
    lists: Any
    codes: Any

    def has_values(self) -> bool:
        """Return whether any place has a value."""
        given = (one for one in (self.texts, self.numbers, self.lists) if one is not None)
        return any(one.null_count < len(one) for one in given)

    def select(self, places: Any, codes: Any) -> JsonPath:
        """Return a path of the values at these places only."""
        texts, numbers, lists = (
            None if one is None else one.take(places) for one in (self.texts, self.numbers, self.lists)
        )
        return JsonPath(texts, numbers, lists, codes)


def encode_block(names: Sequence[str], columns: Sequence[tuple[str, Iterable[Any]]], rows: int) -> bytes:
    """Return columns, each with its type and the pieces that it is made of, as a block."""
    head = (_varint(len(columns)), _varint(rows))
    parts = [(_text(name), _text(kind), *pieces) for name, (kind, pieces) in zip(names, columns, strict=True)]
    return b"".join([*head, *(piece for part in parts for piece in part)])


def encode_texts(array: Any) -> tuple[str, list[Any]]:
    """Return an Arrow array of texts as a column."""
    return "String", [_join(prefix_texts(array))]


def encode_numbers(array: Any, kind: str) -> tuple[str, list[Any]]:
    """Return an Arrow array of numbers, as wide as the type that is named, as a column."""
    return kind, [_bytes_of(array)]


def encode_json(paths: Mapping[str, JsonPath]) -> tuple[str, list[Any]]:
    """Return paths as a JSON column."""
    paths = {name: path for name, path in paths.items() if path.has_values()}
    dynamics = [_encode_path(path) for path in paths.values()]
    return "JSON", [
        FLATTENED,
        _varint(len(paths)),
        *map(_text, paths),
        *(head for head, _ in dynamics),
        *(piece for _, pieces in dynamics for piece in pieces),
    ]


def _encode_path(path: JsonPath) -> tuple[bytes, list[Any]]:
    """Return the types of a path, and which of them each row has with the values of each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds: list[str] = []
    pieces: list[Any] = []
    which: Any = pa.scalar(None, pa.uint8())
    for kind, values in (("Float64", path.numbers), ("String", path.texts), (LISTS, path.lists)):
        if values is not None and values.null_count < len(values):
            which = pc.if_else(values.is_valid(), pa.scalar(len(kinds), pa.uint8()), which)
            kinds.append(kind)
            pieces += _encode_values(kind, values, path.codes)
    which = pc.fill_null(which, pa.scalar(len(kinds), pa.uint8())).take(path.codes)
    return b"".join([FLATTENED, _varint(len(kinds)), *map(_text, kinds)]), [_bytes_of(which), *pieces]


def _encode_values(kind: str, values: Any, codes: Any) -> list[Any]:
    if kind == "String":
        return [_join(prefix_texts(values).take(codes))]
    values = values.take(codes).drop_null()
    if kind == "Float64":
        return [_bytes_of(values)]
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = values.flatten()
    ends = pc.cumulative_sum(values.value_lengths().cast(pa.uint64()))
    return [_bytes_of(ends), bytes(len(numbers)), _bytes_of(numbers)]


def prefix_texts(array: Any) -> Any:
    """Return an Arrow array of texts with the length of each before it, null where it was null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    binary = array.cast(pa.binary())
    lengths = pc.binary_length(binary)
    if (pc.max(lengths).as_py() or 0) < SHORT:
        return pc.binary_join_element_wise(_lengths().take(lengths), binary, b"")
    return pa.array([None if one is None else _varint(len(one)) + one for one in binary.to_pylist()], pa.binary())


def _join(array: Any) -> Any:
    """Return the texts of an Arrow array one after the other; what is null takes no room."""
    import pyarrow as pa

    if not len(array):
        return b""
    _, offsets, data = array.buffers()
    ends = memoryview(offsets).cast("i")
    first, last = ends[array.offset], ends[array.offset + len(array)]
    return pa.py_buffer(b"") if data is None else data.slice(first, last - first)


def _bytes_of(array: Any) -> Any:
    """Return the memory of an Arrow array of numbers without nulls."""
    width = array.type.bit_width // 8
    data = array.buffers()[1]
    return b"" if data is None else data.slice(array.offset * width, len(array) * width)


@functools.cache
def _lengths() -> Any:
    import pyarrow as pa

    return pa.array(map(_varint, range(SHORT)), pa.binary())


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _varint(len(encoded)) + encoded
