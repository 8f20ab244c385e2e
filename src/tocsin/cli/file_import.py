"""`tocsin import`: files of profiles or events, through the same checks as `/1/upload`.

A row is a record: `identity`, `objectId`, `FBID`, `GPID` name the person, `ts` the time (epoch seconds), `evtName` the
event; every other column is a property. JSON lines may also hold records as `/1/upload` takes them.
"""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from tocsin.cli.local_server import ask
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured
from tocsin.ingest.record import IDENTITY_KINDS
from tocsin.store.data_folder import find_running

BATCH = 1000
BATCH_BYTES = 2 * 1024 * 1024  # below the default limit of a body; records can be wide
TEXTS = (*IDENTITY_KINDS, "evtName")  # columns whose cells are texts, whatever they look like
SHOWN = 5
Rows = Iterator[tuple[int, dict[str, Any]]]  # (bytes or rows read so far, row)
Upload = Callable[[list[dict[str, Any]]], dict[str, Any]]


@click.command("import")
@click.argument("what", type=click.Choice(["events", "profiles"]))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@account_option
@data_option
def import_records(what: str, file: Path, account_id: str, data: Path) -> None:
    """Import CSV, JSON lines or Parquet, with a progress bar; events of the past with any name.

    Example: tocsin import events events.csv --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import find_account
    from tocsin.app import open_ledger_only, open_stores
    from tocsin.ingest import upload

    kind = "event" if what == "events" else "profile"
    running = find_running(data)
    if running is not None:
        _import(file, kind, lambda batch: ask(running, "/local/upload", account_id, {"d": batch}))
        return
    with open_ledger_only(data) as ledger:
        account = find_account(ledger, account_id)
    with open_stores(data) as (_, stores):

        def write(batch: list[dict[str, Any]]) -> dict[str, Any]:
            result = asyncio.run(upload(stores.ledger, stores.facts, account, {"d": batch}, time.time(), system=True))
            return msgspec.structs.asdict(result)

        _import(file, kind, write)


def _import(file: Path, kind: str, upload: Upload) -> None:
    total, rows = read_rows(file)
    processed, skipped, shown = 0, 0, 0
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{file.name}", total=total)
        for read, batch in _batches(rows, kind):
            result = upload(batch)
            processed += result["processed"]
            skipped += len(result["unprocessed"])
            for one in result["unprocessed"][: SHOWN - shown]:
                progress.console.print(f"skipped: {one['error']}", markup=False)
                shown += 1
            progress.update(task, completed=read)
    print_json({"processed": processed, "unprocessed": skipped})


def _batches(rows: Rows, kind: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Records in batches, each with how far it goes into the file."""
    batch: list[dict[str, Any]] = []
    size = read = 0
    for read, row in rows:
        record = to_record(row, kind)
        length = len(msgspec.json.encode(record))
        if batch and (len(batch) == BATCH or size + length > BATCH_BYTES):
            yield read, batch
            batch, size = [], 0
        batch.append(record)
        size += length
    if batch:
        yield read, batch


def to_record(row: dict[str, Any], kind: str) -> dict[str, Any]:
    """A row as a record of an upload; empty cells are no properties."""
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


def read_rows(file: Path) -> tuple[int, Rows]:
    """The size of a file and its rows, each with how far it goes: rows for Parquet, else bytes."""
    match file.suffix.lower():
        case ".csv":
            return file.stat().st_size, _read_csv(file)
        case ".jsonl" | ".ndjson" | ".json":
            return file.stat().st_size, _read_lines(file)
        case ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.ParquetFile(file).metadata.num_rows, _read_parquet(file)
        case _:
            raise Misconfigured(f"{file.name} must end in .csv, .jsonl, .ndjson or .parquet.")


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
    """A cell as the number or boolean it reads as, else its text."""
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
