"""Blocks of rows of the files that `tocsin import` reads, and the records that they are.

A row is a record: `identity`, `objectId`, `FBID`, `GPID` name the person, `ts` the time, `evtName` the event; every
other column is a property. JSON lines may also hold records as `/1/upload` takes them, or as CleverTap exports them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Any

import msgspec

from tocsin.cli.cell_time import UnreadTime, read_time
from tocsin.errors import Misconfigured
from tocsin.ingest.column import Column
from tocsin.ingest.record import IDENTITY_KINDS, INTEGERS, RESERVED, TOKEN_TYPES

ROWS = 50_000  # of a block of events; always thousands, see `event_columns.COPIES`
PEOPLE_ROWS = 20_000  # of a block of profiles that lie in columns
NAMED_ROWS = 5000  # of a block of others: so many uploads whose copies go into facts together
TEXTS = (*IDENTITY_KINDS, "evtName")  # columns whose cells are texts, whatever they look like
FIELDS = (*TEXTS, "ts")
TOKEN_FIELDS = {"token": "id", "id": "id", "push_token": "id", "type": "type", "keys": "keys", "objectId": "objectId"}
KINDS = {"events": "event", "profiles": "profile", "tokens": "token"}
REFUSED_COLUMNS = ("refused_line", "refused_because")  # what a file of refused rows adds; not read again
BAD_TIME = 525  # CleverTap's code of a wrong `ts`
BAD_ROW = 524

Cell = Callable[[Any], Any]


class Wrong(msgspec.Struct, frozen=True):
    """Why a row is refused before its record is looked at, with the code the record would get."""

    code: int
    error: str


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How files are read. mapping: the field of a column, "" for a column that is left out. event: the name of events
    in rows that have none. The last three are None where they are to be found out."""

    kind: str
    zone: tzinfo
    mapping: dict[str, str] = {}
    event: str | None = None
    encoding: str | None = None
    separator: str | None = None
    quote: str | None = None


class Block(msgspec.Struct, kw_only=True):
    """Rows of a file, in one of two forms: columns of cells, or records. lines: where each row begins, from 1.
    position: bytes or rows read up to its end. wrong: by the row's place. source: the cells of a row as they were."""

    lines: Sequence[int]
    position: int
    names: list[str] = []
    columns: list[Column] = []
    records: list[Any] = []
    wrong: dict[int, Wrong] = {}
    read_cell: Cell = lambda cell: cell
    source: Callable[[int], dict[str, Any]] = lambda row: {}

    def __len__(self) -> int:
        return len(self.lines)


class Reading(msgspec.Struct):
    """A file that is read: its size in bytes or rows, its blocks, and what was guessed about it."""

    total: int
    blocks: Iterator[Block]
    notes: list[str]


def read_file(path: Path, options: Options) -> Reading:
    """Return the blocks of a file. Raises Misconfigured, as reading does, for a file that cannot be understood."""
    from tocsin.cli.cell_file import read_cells, read_parquet
    from tocsin.cli.json_file import read_json
    from tocsin.cli.record_source import kind_of

    match kind_of(path):
        case "cells":
            return read_cells(path, options)
        case "parquet":
            return read_parquet(path, options)
        case _:
            return read_json(path, options)


def rows_of(options: Options) -> int:
    return {"event": ROWS, "profile": PEOPLE_ROWS}.get(options.kind, NAMED_ROWS)


def name_columns(header: Sequence[str], options: Options, file: str, notes: list[str]) -> list[str]:
    """Return the field of each column, "" for one that is left out: by `--map`, else its name without spaces around it,
    and CleverTap's own names in their own capitals. Raises Misconfigured for two columns of one field."""
    plain = [one.strip().strip("\ufeff") for one in header]
    if unknown := [one for one in options.mapping if one not in plain]:
        raise Misconfigured(f"{file} has no column {unknown[0]}; its columns are {', '.join(plain)[:300]}.")
    own = (*FIELDS, *RESERVED) if options.kind == "profile" else FIELDS
    known = {one.lower(): one for one in own} if options.kind != "token" else {x.lower(): x for x in TOKEN_FIELDS}
    names: list[str] = []
    for one in plain:
        name = options.mapping.get(one, "" if one in REFUSED_COLUMNS else one)
        better = known.get(name.lower(), name)
        if one not in options.mapping and better != name and better not in plain:
            notes.append(f"column {one} is taken as {better}; --map {one}={one} keeps it as it is.")
            name = better
        names.append(name)
    if "" in plain:
        notes.append("a column without a name is left out.")
    twice = [one for one in names if one and names.count(one) > 1]
    if twice:
        raise Misconfigured(f"{file} has two columns {twice[0]}; say which one with --map COLUMN= (leaves it out).")
    if options.kind == "event" and options.event is None and "evtName" not in names:
        raise Misconfigured(
            f"{file} has no column evtName; say --event NAME, or --map COLUMN=evtName. Its columns are "
            f"{', '.join(plain)[:300]}."
        )
    wanted = ("objectId",) if options.kind == "token" else IDENTITY_KINDS
    if not any(one in names for one in wanted):
        raise Misconfigured(
            f"{file} has no column that names a person ({', '.join(wanted)}); say --map COLUMN={wanted[0]}. Its "
            f"columns are {', '.join(plain)[:300]}."
        )
    return names


def type_cell(text: Any) -> Any:
    """Return a cell as the JSON number or boolean that it spells, else as its text: so is a number of more digits than
    the stores hold, which is a card's or an account's."""
    if not isinstance(text, str):
        return text
    if text[:1] not in "-0123456789tf" or not text:
        return text
    try:
        value = msgspec.json.decode(text.encode("utf-8", "surrogatepass"))
    except msgspec.DecodeError:
        return text
    if isinstance(value, float) and len(text.partition(".")[0]) > 16:
        return text
    if isinstance(value, int) and not isinstance(value, bool) and not -INTEGERS <= value < INTEGERS:
        return text
    return value if isinstance(value, bool | int | float) else text


def to_records(block: Block, options: Options) -> list[Any]:
    """Return the records of a block as `/1/upload` takes them; a row that is wrong has one too, or None. What is found
    wrong with a time is noted in the block."""
    if block.records or not block.columns:
        return block.records
    records: list[Any] = []
    reads = [None if name in FIELDS or options.kind == "token" else block.read_cell for name in block.names]
    for number, cells in enumerate(zip(*block.columns, strict=True)):
        row = {
            name: cell if read is None else read(cell)
            for name, cell, read in zip(block.names, cells, reads, strict=True)
            if name and cell is not None and cell != ""
        }
        records.append(to_record(row, options, block.wrong, number))
    return records


def to_record(row: dict[str, Any], options: Options, wrong: dict[int, Wrong], number: int) -> dict[str, Any]:
    """Return a row as a record of `/1/upload`; an empty cell is no property."""
    if row.get("type") in ("event", "profile", "token") and not (options.kind == "token" and "tokenData" not in row):
        record = dict(row)
    elif options.kind == "token":
        record = {"type": "token", **{key: row[key] for key in ("objectId", "ts") if key in row}}
        record["tokenData"] = {field: row[name] for name, field in TOKEN_FIELDS.items() if name in row}
        record["tokenData"].pop("objectId", None)
    else:
        row = {key: value for key, value in row.items() if value is not None and value != ""}
        record = {key: row.pop(key) for key in (*IDENTITY_KINDS, "ts") if key in row}
        record["type"] = options.kind
        if options.kind == "profile":
            record["profileData"] = row.get("profileData", row)
        else:
            record["evtName"] = row.pop("evtName", options.event)
            record["evtData"] = row.get("evtData", row)
    if record.get("ts") is not None:
        try:
            record["ts"] = read_time(record["ts"], options.zone)
        except UnreadTime as error:
            wrong[number] = bad_time(error)
    return record


def bad_time(error: UnreadTime) -> Wrong:
    return Wrong(BAD_TIME, f"Timestamp is not understood: {error}.")


__all__ = ["KINDS", "TOKEN_TYPES", "Block", "Options", "Reading", "Wrong", "read_file", "to_record", "to_records"]
