"""A column of a file: each value that differs once, and which of them every row has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec


class Unusual(Exception):  # noqa: N818 - no failure: its records go one by one
    """A block cannot be stored as columns."""


class Cells(Sequence[Any]):
    """An Arrow array as a sequence of what it holds, which is made when it is asked for."""

    def __init__(self, array: Any):
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, place: Any) -> Any:
        found = self.array[place]
        return found.to_pylist() if isinstance(place, slice) else found.as_py()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array.to_pylist())


class Texts(Cells):
    """An Arrow array of texts."""


class NumberCells(Cells):
    """An Arrow array of int64 or float64."""


class Column(msgspec.Struct, frozen=True):
    """Cells of many rows. values: those that differ, in the order of the rows; two may be equal. codes: an Arrow array,
    of each row the place of its cell in `values`."""

    values: Sequence[Any]
    codes: Any

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> Any:
        return self.values[self.codes[row].as_py()]

    def __iter__(self) -> Iterator[Any]:
        return map(list(self.values).__getitem__, self.codes.to_pylist())

    def change(self, function: Callable[[Any], Any]) -> Column:
        """Return the column with each of its values changed."""
        return Column(list(map(function, self.values)), self.codes)

    def change_odd(self, pattern: str, function: Callable[[Any], Any]) -> Column:
        """Return the column with each of its values changed but texts that match a pattern (of RE2), which stay."""
        if not isinstance(self.values, Texts):
            return self.change(function)
        import pyarrow as pa
        import pyarrow.compute as pc

        array = self.values.array
        odd = pc.indices_nonzero(pc.invert(match(array, pattern))).to_pylist()
        if not odd:
            return self
        values = array.to_pylist()
        for place in odd:
            values[place] = function(values[place])
        texts = all(type(values[place]) is str for place in odd)
        return Column(Texts(pa.array(values, pa.string())) if texts else values, self.codes)

    def select(self, rows: Any) -> Column:
        """Return the cells of these rows, an Arrow array of places."""
        codes = self.codes.take(rows).dictionary_encode()
        if isinstance(self.values, Cells):
            return Column(type(self.values)(self.values.array.take(codes.dictionary)), codes.indices)
        return Column([self.values[code] for code in codes.dictionary.to_pylist()], codes.indices)

    def spread(self, values: Sequence[Any], kind: Any) -> Any:
        """Return an Arrow array with, for each row, the one of `values` that stands where its cell does."""
        import pyarrow as pa

        array = values.array if isinstance(values, Cells) else pa.array(values, kind)
        return array.take(self.codes)


def match(array: Any, pattern: str) -> Any:
    """Return for each text of an Arrow array whether it matches a pattern of RE2; null does not."""
    import pyarrow.compute as pc

    return pc.fill_null(pc.match_substring_regex(array, pattern), fill_value=False)


def fold(array: Any) -> tuple[Any, Any]:
    """Return the values of an Arrow array that differ, as an Arrow array, and the codes of its rows."""
    import pyarrow as pa

    try:
        folded = array.dictionary_encode(null_encoding="encode")
    except pa.ArrowNotImplementedError:  # lists and objects
        return array, pa.array(range(len(array)), pa.int32())
    return folded.dictionary, folded.indices


def fill(value: Any, count: int) -> Column:
    """Return a column of one value."""
    import pyarrow as pa

    return Column([value], pa.array([0] * count, pa.int32()))


def put(array: Any, places: Sequence[int], values: Sequence[Any]) -> Any:
    """Return an Arrow array with other values at some places, which ascend."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(places) == len(array):
        return pa.array(values, array.type)
    chosen = bytearray(len(array))
    for place in places:
        chosen[place] = 1
    mask = pa.array(memoryview(chosen), pa.uint8()).cast(pa.bool_())
    if pa.types.is_list(array.type):
        given = dict(zip(places, values, strict=True))
        return pc.if_else(mask, pa.array([given.get(place) for place in range(len(array))], array.type), array)
    return pc.replace_with_mask(array, mask, pa.array(values, array.type))
