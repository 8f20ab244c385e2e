"""`tocsin import`: files of profiles or events, through the same checks as `/1/upload`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from tocsin.cli.local_server import ask
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.store.data_folder import find_running

SHOWN = 5  # sentences about rows that were refused
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
    from tocsin.ingest import upload
    from tocsin.ingest.names import read_limits
    from tocsin.settings import read_settings
    from tocsin.store.stores import open_ledger_only, open_stores

    kind = "event" if what == "events" else "profile"
    running = find_running(data)
    if running is not None:
        _import(file, kind, lambda batch: ask(running, "/local/upload", account_id, {"d": batch}))
        return
    with open_ledger_only(data) as ledger:
        account = find_account(ledger, account_id)
    limits = read_limits(read_settings(os.environ, data))
    with open_stores(data) as stores:

        def write(batch: list[dict[str, Any]]) -> dict[str, Any]:
            given = (stores.ledger, stores.facts, account, {"d": batch}, time.time())
            result = asyncio.run(upload(*given, system=True, limits=limits))
            return msgspec.structs.asdict(result)

        _import(file, kind, write)


def _import(file: Path, kind: str, upload: Upload) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from tocsin.cli.record_file import read_batches

    total, batches = read_batches(file, kind)
    processed, skipped, shown = 0, 0, 0
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{file.name}", total=total)
        for read, batch in batches:
            result = upload(batch)
            processed += result["processed"]
            skipped += len(result["unprocessed"])
            for one in result["unprocessed"][: SHOWN - shown]:
                progress.console.print(f"skipped: {one['error']}", markup=False)
                shown += 1
            progress.update(task, completed=read)
    print_json({"processed": processed, "unprocessed": skipped})
