"""Files of columns: CSV in any dialect, and Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tocsin.cli.cell_time import read_clocks
from tocsin.cli.csv_dialect import Dialect, find_dialect, read_declaration
from tocsin.cli.line_source import Lines
from tocsin.cli.record_file import BAD_ROW, FIELDS, Block, Options, Reading, Wrong, name_columns, rows_of, type_cell
from tocsin.cli.record_source import open_bytes, read_position
from tocsin.errors import Misconfigured
from tocsin.ingest.column import Column, NumberCells, Texts, fill, fold

UNPADDED = r"\A([!-~]|[!-~][ -~]*[!-~])?\z"  # in RE2; a text that `strip` leaves as it is
LINE_BREAK = re.compile(r"\r\n|\r|\n")
CELL_LETTERS = 16 * 1024 * 1024  # a cell that is wider is refused with its record, not with the file


def read_cells(path: Path, options: Options) -> Reading:
    """Return the rows of a CSV file."""
    given = {"encoding": options.encoding, "separator": options.separator, "quote": options.quote}
    dialect = find_dialect(lambda: open_bytes(path), path.name, **given)
    notes = list(dialect.notes)
    return Reading(path.stat().st_size, _read_cells(path, options, dialect, notes), notes)


def _read_cells(path: Path, options: Options, dialect: Dialect, notes: list[str]) -> Iterator[Block]:
    csv.field_size_limit(CELL_LETTERS)
    with open_bytes(path) as source:
        rows = _Rows(Lines(source, dialect.encoding), dialect)
        try:
            header = next((row for row in rows.reader if any(row) and not _declares(row, dialect)), None)
            if header is None:
                return
            rows.end_reading()
            names = name_columns(header, options, path.name, notes)
            padded = any(one != one.strip() for one in header)
            while (block := _read_block(rows, header, names, padded, rows_of(options))) is not None:
                block.position = read_position(source)
                yield block
        except csv.Error as error:
            raise Misconfigured(
                f"{path.name}, line {rows.last}: {error}. The rows before it were imported; mend "
                "the line and run the same command again, or say --quote or --separator."
            ) from None
        except UnicodeDecodeError as error:
            raise Misconfigured(
                f"{path.name}, after line {rows.last}: this is no {dialect.encoding} ({error.reason}). The rows "
                "before it were imported."
            ) from None


def _declares(row: list[str], dialect: Dialect) -> bool:
    return read_declaration(dialect.separator.join(row)) is not None


class _Rows:
    """The rows of a file that come next. line: how many lines were read before those of `reader`."""

    def __init__(self, lines: Lines, dialect: Dialect):
        self.lines = lines
        self.dialect = dialect
        self.line = 0
        self.reader = self._make_reader()

    @property
    def last(self) -> int:
        """The number of the last line that was read."""
        return self.line + int(self.reader.line_num)

    def end_reading(self) -> None:
        """Count what `reader` read, and have a new one for what comes then."""
        self.line = self.last
        self.reader = self._make_reader()

    def _make_reader(self) -> Any:
        separator, quote = self.dialect.separator, self.dialect.quote
        return csv.reader(self.lines, delimiter=separator, quotechar=quote, strict=True)


def _read_block(rows: _Rows, header: list[str], names: list[str], padded: bool, most: int) -> Block | None:
    before, body = rows.line, rows.lines.take(most)
    if not body:
        return None
    columns = split_plain(body, rows.dialect, len(names))
    if columns is not None:
        rows.line += len(columns[0])
        places: Sequence[int] = range(before + 1, rows.line + 1)
        return _make_block(places, columns, {}, header, names, padded)
    rows.lines.give_back(body)
    cells = list(itertools.islice(rows.reader, most))
    rows.end_reading()
    places = range(before + 1, rows.line + 1)
    if len(places) != len(cells):
        places = _count_lines(cells, before + 1)
    if not all(row and row[0] for row in cells):
        kept = [place for place, row in enumerate(cells) if any(row)]
        cells, places = [cells[place] for place in kept], [places[place] for place in kept]
    wrong = _fit(cells, len(names))
    columns = [make_column(column) for column in zip(*cells, strict=True)] if cells else [make_column([])] * len(names)
    return _make_block(places, columns, wrong, header, names, padded)


def _fit(rows: list[list[str]], width: int) -> dict[int, Wrong]:
    """Give every row as many cells as there are columns; return those that had more."""
    wrong: dict[int, Wrong] = {}
    if {*map(len, rows)} - {width}:
        for number, row in enumerate(rows):
            if len(row) > width and any(row[width:]):
                wrong[number] = Wrong(BAD_ROW, f"The row has {len(row)} cells, the header {width}.")
            rows[number] = (row + [""] * (width - len(row)))[:width]
    return wrong


def _make_block(
    lines: Sequence[int],
    columns: list[Column],
    wrong: dict[int, Wrong],
    header: list[str],
    names: list[str],
    padded: bool,
) -> Block:
    trimmed = [padded or name in FIELDS or name in ("Email", "Phone") for name in names]
    return Block(
        lines=lines,
        position=0,
        names=names,
        columns=[
            one.change_odd(UNPADDED, str.strip) if trim else one for one, trim in zip(columns, trimmed, strict=True)
        ],
        wrong=wrong,
        read_cell=type_cell,
        source=lambda row: dict(zip(header, (column[row] for column in columns), strict=True)),
    )


def split_plain(body: bytes, dialect: Dialect, width: int) -> list[Column] | None:
    """Return the columns of lines of UTF-8 whose cells are just what stands between separators, read by Arrow; None
    when that may not be so: with quotes, other line breaks, rows that are longer or shorter, or begin with nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    separator, quote = dialect.separator, dialect.quote.encode()
    odd = quote in body or body.startswith(codecs.BOM_UTF8) or body.count(b"\r") != body.count(b"\r\n")
    if odd or len(separator) != 1 or not separator.isascii():
        return None
    names = [*map(str, range(width))]
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(body),
            pa.csv.ReadOptions(use_threads=False, block_size=len(body) + 1, column_names=names),
            pa.csv.ParseOptions(delimiter=separator, quote_char=False, ignore_empty_lines=False),
            pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), null_values=[]),
        )
    except pa.ArrowInvalid:
        return None
    arrays = [column.combine_chunks() for column in table.columns]
    count = body.count(b"\n") + (not body.endswith(b"\n"))
    if len(table) != count or pc.any(pc.equal(arrays[0], "")).as_py():
        return None
    return [Column(Texts(values), codes) for values, codes in map(fold, arrays)]


def make_column(cells: Sequence[str]) -> Column:
    """Return texts as a column."""
    import pyarrow as pa

    values, codes = fold(pa.array(cells, pa.string()))
    return Column(Texts(values), codes)


def _count_lines(rows: list[list[str]], first: int) -> list[int]:
    """Return the line that each row begins in, where cells have line breaks in them."""
    lengths = (1 + sum(len(LINE_BREAK.findall(cell)) for cell in row) for row in rows[:-1])
    return list(itertools.accumulate(lengths, initial=first))


def read_parquet(path: Path, options: Options) -> Reading:
    """Return the rows of a Parquet file. Times are dates of CleverTap, `$D_…`, but for `ts`; whole numbers that a table
    with gaps kept as floats are whole again."""
    import pyarrow as pa
    import pyarrow.parquet

    source: BinaryIO | Path = path
    if path.suffix.lower() not in (".parquet", ".pq"):
        with open_bytes(path) as packed:
            source = io.BytesIO(packed.read())
    try:
        file = pa.parquet.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise Misconfigured(f"{path.name} is no Parquet file: {' '.join(str(error).split())[:120]}") from None
    notes: list[str] = []
    names = name_columns(file.schema_arrow.names, options, path.name, notes)
    return Reading(file.metadata.num_rows, _read_parquet(file, names, options), notes)


def _read_parquet(file: Any, names: list[str], options: Options) -> Iterator[Block]:
    done = 0
    for batch in file.iter_batches(batch_size=rows_of(options)):
        columns = [
            _make_column(column, name, options) if name else fill(None, batch.num_rows)
            for name, column in zip(names, batch.columns, strict=True)
        ]
        lines = range(done + 1, done + batch.num_rows + 1)
        done += batch.num_rows
        yield Block(
            lines=lines,
            position=done,
            names=names,
            columns=columns,
            source=lambda row, columns=columns: dict(  # type: ignore[misc]
                zip(names, (column[row] for column in columns), strict=True)
            ),
        )


def _make_column(column: Any, name: str, options: Options) -> Column:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values, codes = fold(column)
    return Column(_to_cells(values, name, options), codes)


def _to_cells(column: Any, name: str, options: Options) -> Sequence[Any]:
    """Return an Arrow array as JSON values."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Texts(column.cast(pa.string()))
    if pa.types.is_integer(kind) and name != "evtName" and kind != pa.uint64():
        return NumberCells(column.cast(pa.int64()))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        moment = column.cast(pa.timestamp("s"), safe=False) if pa.types.is_date(kind) or kind.tz is None else column
        plain = moment.type.tz is None
        seconds = moment.cast(pa.timestamp("s", None if plain else "UTC"), safe=False).cast(pa.int64())
        seconds = read_clocks(seconds, options.zone) if plain else seconds
        if name == "ts":
            return list(seconds.to_pylist())
        return [None if one is None else f"$D_{one}" for one in seconds.to_pylist()]
    if pa.types.is_floating(kind):
        return _read_floats(column.cast(pa.float64()), name)
    if pa.types.is_decimal(kind):
        floats = [None if one is None else float(one) for one in column.to_pylist()]
        return _read_floats(pa.array(floats, pa.float64()), name)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if one is None else one.decode("utf-8", "replace") for one in column.to_pylist()]
    if pa.types.is_fixed_size_binary(kind):  # mostly UUIDs
        return [None if one is None else one.hex() for one in column.to_pylist()]
    cells: list[Any] = msgspec.to_builtins(column.to_pylist(), enc_hook=str)  # a time of day or a duration is its text
    return [one if one is None else str(one) for one in cells] if name == "evtName" else cells


def _read_floats(values: Any, name: str) -> Sequence[Any]:
    """Return an Arrow array of floats, as integers where all of them are whole; what is no number is nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pc.add(pc.if_else(pc.is_finite(values), values, None), 0.0)  # -0.0 is 0.0
    whole = pc.and_(pc.equal(pc.floor(known), known), pc.less(pc.abs(known), 2.0**53))
    if name != "ts" and pc.all(whole, min_count=0).as_py():
        return NumberCells(known.cast(pa.int64()))
    return NumberCells(known)
