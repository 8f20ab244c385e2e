"""`tocsin import`: files of events, profiles or device tokens, through the same checks as `/1/upload`."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import click

from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured
from tocsin.store.data_folder import find_running

OBJECTS = 5_000_000  # made before Python looks for cycles: rows are many and have none, and looking is half of reading
THREADS = 4  # that read files, make blocks and wait for the server


@click.command("import")
@click.argument("what", type=click.Choice(["events", "profiles", "tokens"]))
@click.argument("files", nargs=-1, required=True)
@account_option
@data_option
@click.option(
    "--map", "mapping", multiple=True, metavar="COLUMN=FIELD", help="A column's field; COLUMN= leaves it out."
)
@click.option("--event", help="The name of events whose rows have none.")
@click.option("--zone", help="The time zone of times without one; the account's where it is not given.")
@click.option("--encoding", help="Of CSV, where it is guessed wrong.")
@click.option("--separator", help="Of CSV, where it is guessed wrong; tab for a tab.")
@click.option("--quote", help="Of CSV, where it is guessed wrong.")
@click.option("--dry-run", is_flag=True, help="Show what would become of the first rows, and what looks odd.")
@click.option("--restart", is_flag=True, help="Begin at the first row where an import was broken off.")
def import_records(
    what: str,
    files: Sequence[str],
    account_id: str,
    data: Path,
    mapping: Sequence[str],
    zone: str | None,
    separator: str | None,
    dry_run: bool,
    restart: bool,
    **given: Any,
) -> None:
    """Import CSV, JSON lines or Parquet, also packed (.gz, .zst), of files, folders and patterns.

    Events may have any name and lie in the past. Rows that are refused are written beside their file with line and
    reason, and make the exit code 1. An import that was broken off goes on where it stopped.

    Example: tocsin import events events.csv --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import find_account
    from tocsin.cli.record_file import KINDS, Options
    from tocsin.cli.record_source import find_files
    from tocsin.store.stores import open_ledger_only

    paths = find_files(files)
    with open_ledger_only(data) as ledger:
        account = find_account(ledger, account_id)
    options = Options(
        kind=KINDS[what],
        zone=_read_zone(zone) if zone else account.zone,
        mapping=_read_mapping(mapping),
        separator="\t" if separator in ("tab", "\\t") else separator,
        **given,
    )
    if dry_run:
        from tocsin.cli.import_preview import preview

        sys.exit(max([preview(path, options) for path in paths]))
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS)
    try:
        processed, refused = _import(paths, options, account, data, restart=restart)
    finally:
        gc.set_threshold(*before)
    print_json({"processed": processed, "unprocessed": refused})
    if refused:
        sys.exit(1)


def _read_zone(name: str) -> ZoneInfo:
    if name not in available_timezones():
        raise Misconfigured(f"{name!r} is not a time zone; give one like Europe/Berlin or UTC.")
    return ZoneInfo(name)


def _read_mapping(given: Sequence[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for one in given:
        column, equals, field = one.partition("=")
        if not equals or not column.strip():
            raise click.UsageError(f"--map {one} must be COLUMN=FIELD.")
        mapping[column.strip()] = field.strip()
    return mapping


def _import(paths: Sequence[Path], options: Any, account: Any, data: Path, *, restart: bool) -> tuple[int, int]:
    """Import files one after the other; return how many rows were processed and how many refused."""
    from tocsin.cli.import_run import run_import
    from tocsin.cli.record_store import StoresStore
    from tocsin.cli.server_store import ServerStore, step_back
    from tocsin.ingest.names import read_limits
    from tocsin.settings import read_settings
    from tocsin.store.stores import open_stores

    running = find_running(data)
    if running is not None:
        store = ServerStore(running, account, options)

        async def import_beside() -> tuple[int, int]:
            loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(THREADS, initializer=step_back)
            loop.set_default_executor(threads)
            return await run_import(paths, options, account, data, store, restart=restart)

        return asyncio.run(import_beside())
    limits = read_limits(read_settings(os.environ, data))
    with open_stores(data) as stores:
        direct = StoresStore(stores, account, options, limits)
        return asyncio.run(run_import(paths, options, account, data, direct, restart=restart))
