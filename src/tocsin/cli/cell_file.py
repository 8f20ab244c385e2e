"""Files of columns: CSV in any dialect, and Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tocsin.cli.csv_dialect import Dialect, find_dialect, read_declaration
from tocsin.cli.record_file import BAD_ROW, FIELDS, Block, Options, Reading, Wrong, name_columns, rows_of, type_cell
from tocsin.cli.record_source import open_bytes, read_position
from tocsin.errors import Misconfigured

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
        text = io.TextIOWrapper(source, dialect.encoding, newline="")
        reader = csv.reader(text, delimiter=dialect.separator, quotechar=dialect.quote, strict=True)
        try:
            header = next((row for row in reader if any(row) and not _declares(row, dialect)), None)
            if header is None:
                return
            names = name_columns(header, options, path.name, notes)
            padded = any(one != one.strip() for one in header)
            while (block := _read_block(reader, header, names, padded, rows_of(options))) is not None:
                block.position = read_position(source)
                yield block
        except csv.Error as error:
            raise Misconfigured(
                f"{path.name}, line {reader.line_num}: {error}. The rows before it were imported; mend the line and "
                "run the same command again, or say --quote or --separator."
            ) from None
        except UnicodeDecodeError as error:
            raise Misconfigured(
                f"{path.name}, after line {reader.line_num}: this is no {dialect.encoding} ({error.reason}). The rows "
                "before it were imported."
            ) from None


def _declares(row: list[str], dialect: Dialect) -> bool:
    return read_declaration(dialect.separator.join(row)) is not None


def _read_block(reader: Any, header: list[str], names: list[str], padded: bool, most: int) -> Block | None:
    before = reader.line_num
    rows: list[list[str]] = list(itertools.islice(reader, most))
    if not rows:
        return None
    lines: Sequence[int] = range(before + 1, reader.line_num + 1)
    if len(lines) != len(rows):
        lines = _count_lines(rows, before + 1)
    if not all(row and row[0] for row in rows):
        kept = [place for place, row in enumerate(rows) if any(row)]
        rows, lines = [rows[place] for place in kept], [lines[place] for place in kept]
    width = len(names)
    wrong: dict[int, Wrong] = {}
    if {*map(len, rows)} - {width}:
        for number, row in enumerate(rows):
            if len(row) > width and any(row[width:]):
                wrong[number] = Wrong(BAD_ROW, f"The row has {len(row)} cells, the header {width}.")
            rows[number] = (row + [""] * (width - len(row)))[:width]
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * width
    for place, name in enumerate(names):
        if padded or name in FIELDS or name in ("Email", "Phone"):
            columns[place] = _strip(columns[place])
    return Block(
        lines=lines,
        position=0,
        names=names,
        columns=columns,
        wrong=wrong,
        read_cell=type_cell,
        source=lambda row: dict(zip(header, rows[row], strict=True)),
    )


def _count_lines(rows: list[list[str]], first: int) -> list[int]:
    """Return the line that each row begins in, where cells have line breaks in them."""
    lengths = (1 + sum(len(LINE_BREAK.findall(cell)) for cell in row) for row in rows[:-1])
    return list(itertools.accumulate(lengths, initial=first))


def _strip(column: Sequence[str]) -> Sequence[str]:
    """Return cells without spaces around them."""
    stripped = {cell: cell.strip() for cell in set(column)}
    if all(len(cell) == len(text) for cell, text in stripped.items()):
        return column
    return [stripped[cell] for cell in column]


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
        columns: list[Sequence[Any]] = [
            _to_cells(column, name, options) if name else [None] * batch.num_rows
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


def _to_cells(column: Any, name: str, options: Options) -> list[Any]:
    """Return a column as JSON values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        moment = column.cast(pa.timestamp("s"), safe=False) if pa.types.is_date(kind) or kind.tz is None else column
        if moment.type.tz is None:
            zone = str(options.zone)
            moment = pc.assume_timezone(moment, zone, ambiguous="earliest", nonexistent="earliest")
        seconds = moment.cast(pa.timestamp("s", "UTC"), safe=False).cast(pa.int64())
        if name == "ts":
            return list(seconds.to_pylist())
        return [None if one is None else f"$D_{one}" for one in seconds.to_pylist()]
    if pa.types.is_floating(kind):
        return _read_floats(column.cast(pa.float64()).to_pylist(), name)
    if pa.types.is_decimal(kind):
        return _read_floats([None if one is None else float(one) for one in column.to_pylist()], name)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if one is None else one.decode("utf-8", "replace") for one in column.to_pylist()]
    cells: list[Any] = column.to_pylist()
    return [one if one is None else str(one) for one in cells] if name == "evtName" else cells


def _read_floats(values: list[float | None], name: str) -> list[Any]:
    """Return floats, as integers where all of them are whole; what is no number is nothing."""
    known = [None if one is None or not math.isfinite(one) else one + 0.0 for one in values]  # -0.0 is 0.0
    if name == "ts":
        return known
    if all(one is None or (one.is_integer() and abs(one) < 2**53) for one in known):
        return [None if one is None else int(one) for one in known]
    return known
