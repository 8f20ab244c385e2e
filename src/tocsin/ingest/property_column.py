"""A property of many events, encoded for the facts store once for each value that differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tocsin.ingest.address_column import find_plain
from tocsin.ingest.column import Column, NumberCells, Texts, match, put
from tocsin.store.native_block import JsonPath
from tocsin.store.props import SEPARATOR, escape_key

# In RE2. A text that is checked, and that JSON and facts hold as it is (if it is not longer than SHORT); and a number
# that JSON and Python write as it is, up to fifteen digits.
PLAIN = r"\A[A-Za-z][ !#-\[\]-~]*\z"
NUMERAL = r"\A(0|-?([1-9][0-9]*(\.[0-9]*[1-9])?|0\.0{0,2}[1-9]([0-9]*[1-9])?|(0|[1-9][0-9]*)\.0))\z"
WHOLE = r"\A-?[0-9]+\z"
BOOLEAN = r"\A(true|false) *\z"  # what `read_cell` takes for one: JSON may have spaces at its end
SHORT = 512
DIGITS = 15  # of a numeral, with its sign and point

Cell = tuple[str, dict[str, Any]]  # what a cell adds to `raw`, and its paths of `props`
# Arrow arrays of what each value adds to `raw`, of its texts, its numbers, and the numbers beside its texts (or None).
Arrays = tuple[Any, Any, Any, Any]


class PropertyColumn(msgspec.Struct, frozen=True):
    """The cells of a property. raw: an Arrow array of what each that differs adds to `raw`, null for nothing. paths: of
    `props`. wrong: an Arrow array of booleans, those that are refused; None for no one. codes: of each row its cell."""

    raw: Any
    paths: dict[str, JsonPath]
    wrong: Any
    codes: Any

    def select(self, rows: Any) -> PropertyColumn:
        """Return the cells of these rows, an Arrow array of places."""
        codes = self.codes.take(rows).dictionary_encode()
        kept, codes = codes.dictionary, codes.indices
        paths = {name: path.select(kept, codes) for name, path in self.paths.items()}
        wrong = None if self.wrong is None else self.wrong.take(kept)
        return PropertyColumn(self.raw.take(kept), paths, wrong, codes)

    def spread(self) -> Any:
        """Return what each row adds to `raw`."""
        return self.raw.take(self.codes)

    def read_values(self, key: str) -> list[Any]:
        """Return the values that differ, None for nothing. key: of the property."""
        return [None if one is None else msgspec.json.decode(f"{{{one}}}")[key] for one in self.raw.to_pylist()]


def encode_property(
    key: str,
    column: Column,
    encode: Callable[[Any], Cell | None],
    name: str | None,
    *,
    spelled: bool,
    address: bool = False,
) -> PropertyColumn:
    """Return a property encoded. encode: of one cell; None for one that is refused. name: the key as `raw` has it where
    texts and numbers are only checked for their length, None elsewhere. spelled: digits are a number. address: of a
    person, see `address_column`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.values
    if name is not None and isinstance(values, Texts if address else Texts | NumberCells):
        arrays = _encode_addresses(key, values, name) if address else _encode_plain(values, name, spelled=spelled)
        known = pc.or_(arrays[1].is_valid(), arrays[2].is_valid())
        odd = pc.indices_nonzero(pc.invert(known))
        cells = [encode(cell) for cell in values.array.take(odd).to_pylist()]
        return _finish(key, arrays, column.codes, odd.to_pylist(), cells)
    cells = [encode(cell) for cell in values]
    nothing = pa.nulls(len(cells), pa.string())
    arrays = (nothing, nothing, nothing.cast(pa.float64()), None)
    return _finish(key, arrays, column.codes, range(len(cells)), cells)


def _encode_addresses(key: str, cells: Texts, name: str) -> Arrays:
    """Return what plain addresses add, as `_encode_plain` does; a phone number reads as a number too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array, nothing = cells.array, pa.scalar(None, pa.string())
    plain = find_plain(key, array)
    raw, texts = (pc.if_else(plain, one, nothing) for one in _quote(array, name))
    numbers = pa.nulls(len(array), pa.float64())
    if key != "Phone":
        return raw, texts, numbers, None
    ends = pc.cumulative_sum(plain.cast(pa.int32()))
    starts = pc.if_else(plain, pc.subtract(ends, pa.scalar(1, pa.int32())), pa.scalar(None, pa.int32()))
    last = pa.array([ends[-1].as_py() if len(ends) else 0], pa.int32())
    digits = pc.utf8_slice_codeunits(array.filter(plain), 1).cast(pa.float64())
    return raw, texts, numbers, pa.ListArray.from_arrays(pa.concat_arrays([starts, last]), digits)


def _quote(array: Any, name: str) -> tuple[Any, Any]:
    """Return what texts that JSON holds as they are add to `raw`, and their texts in `props`."""
    import pyarrow.compute as pc

    quoted = pc.binary_join_element_wise(name + '"', array, '"', "")
    return quoted, pc.binary_join_element_wise(SEPARATOR, pc.ascii_lower(array), SEPARATOR, "")


def _encode_plain(cells: Texts | NumberCells, name: str, *, spelled: bool) -> Arrays:
    """Return what plain texts and numerals add to `raw`, their texts and their numbers; null for all others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array, nothing = cells.array.cast(pa.string()), pa.scalar(None, pa.string())
    if pa.types.is_floating(cells.array.type):  # Arrow writes 3.0 as 3
        array = pc.if_else(match(array, WHOLE), pc.binary_join_element_wise(array, ".0", ""), array)
    length = pc.fill_null(pc.binary_length(array), 0)
    plain = numeral = pc.less(length, 0)  # none
    if isinstance(cells, Texts):
        plain = pc.and_(match(array, PLAIN), pc.less_equal(length, SHORT))
    if spelled:
        plain = pc.and_not(plain, match(array, BOOLEAN))
    if spelled or isinstance(cells, NumberCells):
        numeral = pc.and_(match(array, NUMERAL), pc.less_equal(length, DIGITS))
    quoted, inside = _quote(array, name)
    raw = pc.if_else(plain, quoted, pc.if_else(numeral, pc.binary_join_element_wise(name, array, ""), nothing))
    texts = pc.if_else(plain, inside, nothing)
    return raw, texts, pc.if_else(numeral, array, nothing).cast(pa.float64()), None


def _finish(
    key: str, arrays: Arrays, codes: Any, places: Sequence[int], cells: Sequence[Cell | None]
) -> PropertyColumn:
    """Return the arrays as a column, with the cells put in at their places."""
    import pyarrow as pa

    raw, texts, numbers, lists = arrays
    path, wrong = escape_key(key), None
    if cells:
        good = [cell or ("", {}) for cell in cells]
        values = [paths.get(path) for _, paths in good]
        raw = put(raw, places, [text or None for text, _ in good])
        texts = put(texts, places, [one if isinstance(one, str) else None for one in values])
        numbers = put(numbers, places, [one if isinstance(one, float) else None for one in values])
        beside = [paths.get(f"#{path}") for _, paths in good]
        if any(beside):
            lists = pa.nulls(len(raw), pa.list_(pa.float64())) if lists is None else lists
            lists = put(lists, places, beside)
        if None in cells:
            wrong = put(pa.array([False] * len(raw)), places, [cell is None for cell in cells])
    found = {path: JsonPath(texts, numbers, None, codes)}
    if lists is not None:
        found[f"#{path}"] = JsonPath(None, None, lists, codes)
    return PropertyColumn(raw, found, wrong, codes)
