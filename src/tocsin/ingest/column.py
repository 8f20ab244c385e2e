"""A column of a file: each value that differs once, and which of them every row has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec


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
        return map(self.values.__getitem__, self.codes.to_pylist())

    def change(self, function: Callable[[Any], Any]) -> Column:
        """Return the column with each of its values changed."""
        return Column(list(map(function, self.values)), self.codes)

    def select(self, rows: Any) -> Column:
        """Return the cells of these rows, an Arrow array of places."""
        codes = self.codes.take(rows).dictionary_encode()
        return Column([self.values[code] for code in codes.dictionary.to_pylist()], codes.indices)

    def spread(self, values: Sequence[Any], kind: Any) -> Any:
        """Return an Arrow array with, for each row, the one of `values` that stands where its cell does."""
        import pyarrow as pa

        return pa.array(values, kind).take(self.codes)


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
