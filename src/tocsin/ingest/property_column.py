"""A property of many events, encoded for the facts store once for each value that differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tocsin.ingest.column import Column, NumberCells, Texts, match
from tocsin.store.native_block import JsonPath
from tocsin.store.props import SEPARATOR, escape_key

# In RE2. A text that is checked, and that JSON and facts hold as it is (if it is not longer than SHORT); and a number
# that JSON and Python write as it is, up to fifteen digits.
PLAIN = r"\A[A-Za-z][ !#-\[\]-~]*\z"
NUMERAL = r"\A(0|-?([1-9][0-9]*(\.[0-9]*[1-9])?|0\.0{0,2}[1-9]([0-9]*[1-9])?))\z"
BOOLEAN = r"\A(true|false) *\z"  # what `read_cell` takes for one: JSON may have spaces at its end
SHORT = 512
DIGITS = 15  # of a numeral, with its sign and point

Cell = tuple[str, dict[str, Any]]  # what a cell adds to `raw`, and its paths of `props`


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


def encode_property(
    key: str, column: Column, encode: Callable[[Any], Cell | None], name: str | None, *, spelled: bool
) -> PropertyColumn:
    """Return a property encoded. encode: of one cell; None for one that is refused. name: the key as `raw` has it where
    texts and numbers are only checked for their length, None elsewhere. spelled: digits are a number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.values
    if name is not None and isinstance(values, Texts | NumberCells):
        arrays = _encode_plain(values, name, spelled=spelled)
        known = pc.or_(arrays[1].is_valid(), arrays[2].is_valid())
        odd = pc.indices_nonzero(pc.invert(known))
        cells = [encode(cell) for cell in values.array.take(odd).to_pylist()]
        return _finish(key, arrays, column.codes, odd.to_pylist(), cells)
    cells = [encode(cell) for cell in values]
    nothing = pa.nulls(len(cells), pa.string())
    arrays = (nothing, nothing, nothing.cast(pa.float64()))
    return _finish(key, arrays, column.codes, range(len(cells)), cells)


def _encode_plain(cells: Texts | NumberCells, name: str, *, spelled: bool) -> tuple[Any, Any, Any]:
    """Return what plain texts and numerals add to `raw`, their texts and their numbers; null for all others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array, nothing = cells.array.cast(pa.string()), pa.scalar(None, pa.string())
    length = pc.fill_null(pc.binary_length(array), 0)
    plain = numeral = pc.less(length, 0)  # none
    if isinstance(cells, Texts):
        plain = pc.and_(match(array, PLAIN), pc.less_equal(length, SHORT))
    if spelled:
        plain = pc.and_not(plain, match(array, BOOLEAN))
    if spelled or isinstance(cells, NumberCells):
        numeral = pc.and_(match(array, NUMERAL), pc.less_equal(length, DIGITS))
    if pa.types.is_floating(cells.array.type):
        numeral = pc.and_(numeral, pc.match_substring(array, "."))  # 3.0 is no 3
    quoted = pc.binary_join_element_wise(name + '"', array, '"', "")
    raw = pc.if_else(plain, quoted, pc.if_else(numeral, pc.binary_join_element_wise(name, array, ""), nothing))
    inside = pc.binary_join_element_wise(SEPARATOR, pc.ascii_lower(array), SEPARATOR, "")
    texts = pc.if_else(plain, inside, nothing)
    return raw, texts, pc.if_else(numeral, array, nothing).cast(pa.float64())


def _finish(
    key: str, arrays: tuple[Any, Any, Any], codes: Any, places: Sequence[int], cells: Sequence[Cell | None]
) -> PropertyColumn:
    """Return the arrays (raw, texts, numbers) as a column, with the cells put in at their places."""
    import pyarrow as pa

    raw, texts, numbers = arrays
    path, wrong, lists = escape_key(key), None, None
    if cells:
        good = [cell or ("", {}) for cell in cells]
        values = [paths.get(path) for _, paths in good]
        raw = _put(raw, places, [text or None for text, _ in good])
        texts = _put(texts, places, [one if isinstance(one, str) else None for one in values])
        numbers = _put(numbers, places, [one if isinstance(one, float) else None for one in values])
        beside = [paths.get(f"#{path}") for _, paths in good]
        if any(beside):
            nested = dict(zip(places, beside, strict=True))
            lists = pa.array([nested.get(place) for place in range(len(raw))], pa.list_(pa.float64()))
        if None in cells:
            wrong = _put(pa.array([False] * len(raw)), places, [cell is None for cell in cells])
    found = {path: JsonPath(texts, numbers, None, codes)}
    if lists is not None:
        found[f"#{path}"] = JsonPath(None, None, lists, codes)
    return PropertyColumn(raw, found, wrong, codes)


def _put(array: Any, places: Sequence[int], values: Sequence[Any]) -> Any:
    """Return an Arrow array with other values at some places, which ascend."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(places) == len(array):
        return pa.array(values, array.type)
    chosen = bytearray(len(array))
    for place in places:
        chosen[place] = 1
    mask = pa.array(memoryview(chosen), pa.uint8()).cast(pa.bool_())
    return pc.replace_with_mask(array, mask, pa.array(values, array.type))
