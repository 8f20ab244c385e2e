"""Files that `tocsin import` reads: CSV, JSON lines and Parquet.

A row is a record: `identity`, `objectId`, `FBID`, `GPID` name the person, `ts` the time (epoch seconds), `evtName` the
event; every other column is a property. JSON lines may also hold records as `/1/upload` takes them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tocsin.errors import Misconfigured
from tocsin.ingest.record import IDENTITY_KINDS

BATCH = 1000  # records of one upload: the API's limit
BATCH_BYTES = 2 * 1024 * 1024  # below the default limit of a body; records can be wide
TEXTS = (*IDENTITY_KINDS, "evtName")  # columns whose cells are texts, whatever they look like
Rows = Iterator[tuple[int, dict[str, Any]]]  # (bytes or rows read so far, row)


def read_batches(file: Path, kind: str) -> tuple[int, Iterator[tuple[int, list[dict[str, Any]]]]]:
    """Return the size of a file and its records in batches, each after the size read up to its end.

    Sizes are rows for Parquet, else bytes. Raises Misconfigured for a name with another ending; reading raises it for a
    line that is no JSON object.
    """
    match file.suffix.lower():
        case ".csv":
            return file.stat().st_size, _gather(_read_csv(file), kind)
        case ".jsonl" | ".ndjson" | ".json":
            return file.stat().st_size, _gather(_read_lines(file), kind)
        case ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.ParquetFile(file).metadata.num_rows, _gather(_read_parquet(file), kind)
        case _:
            raise Misconfigured(f"{file.name} must end in .csv, .jsonl, .ndjson or .parquet.")


def _gather(rows: Rows, kind: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    batch: list[dict[str, Any]] = []
    size = read = 0
    for read, row in rows:
        record = _to_record(row, kind)
        length = len(msgspec.json.encode(record))
        if batch and (len(batch) == BATCH or size + length > BATCH_BYTES):
            yield read, batch
            batch, size = [], 0
        batch.append(record)
        size += length
    if batch:
        yield read, batch


def _to_record(row: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a row as a record of `/1/upload`; an empty cell is no property."""
    if row.get("type") in ("event", "profile", "token"):
        return row
    row = {key: value for key, value in row.items() if value is not None and value != ""}
    record: dict[str, Any] = {key: row.pop(key) for key in (*IDENTITY_KINDS, "ts") if key in row}
    record["type"] = kind
    if kind == "profile":
        record["profileData"] = row.get("profileData", row)
    else:
        record["evtName"] = row.pop("evtName", None)
        record["evtData"] = row.get("evtData", row)
    return record


def _read_csv(file: Path) -> Rows:
    read = 0

    def count(lines: Iterator[str]) -> Iterator[str]:
        nonlocal read
        for line in lines:
            read += len(line.encode())
            yield line

    with file.open(encoding="utf-8-sig", newline="") as source:
        for row in csv.DictReader(count(iter(source)), strict=True):
            cells = ((key, value) for key, value in row.items() if key is not None)
            yield read, {key: value if key in TEXTS else _typed(value) for key, value in cells}


def _typed(text: Any) -> Any:
    """Return a cell as the JSON number or boolean that it spells, else as its text."""
    if not isinstance(text, str):
        return None
    try:
        number = msgspec.json.decode(text.encode()) if text[:1] in "-0123456789tf" and text else text
    except msgspec.DecodeError:
        return text
    return number if isinstance(number, bool | int | float) else text


def _read_lines(file: Path) -> Rows:
    read = 0
    with file.open("rb") as source:
        for number, line in enumerate(source, 1):
            read += len(line)
            if not line.strip():
                continue
            try:
                yield read, msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise Misconfigured(f"{file.name}, line {number}: {error}.") from None


def _read_parquet(file: Path) -> Rows:
    import pyarrow.parquet

    read = 0
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=BATCH):
        for row in batch.to_pylist():
            read += 1
            yield read, row
