"""`tocsin export …`: which accounts the running server writes to Parquet files. Needs the ledger alone, so it works
while `serve` runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured


@click.group()
def export() -> None:
    """Files of what is stored, hour after hour, for a warehouse.

    Example: tocsin export list --data ./data
    """


@export.command("start")
@data_option
@account_option
def start(data: Path, account_id: str) -> None:
    """Write an account's outcomes, reports and events to Parquet files from now on, below TOCSIN_EXPORT_FOLDER.

    Example: tocsin export start --account ABC-DEF-GHIJ --data ./data
    """
    import msgspec

    from tocsin.account import find_account
    from tocsin.authenticator.members import CONSOLE
    from tocsin.settings import read_settings
    from tocsin.stats.warehouse import position
    from tocsin.stats.warehouse.destination import open_destination
    from tocsin.store.stores import open_ledger_only

    if open_destination(read_settings(os.environ, data)) is None:
        raise Misconfigured("Set TOCSIN_EXPORT_FOLDER, for this command and for the server, to where files are to go.")
    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)
        made = ledger.write_now(lambda connection: position.start(connection, account_id, CONSOLE, time.time()))
    print_json(msgspec.to_builtins(made))


@export.command("stop")
@data_option
@account_option
def stop(data: Path, account_id: str) -> None:
    """Write no more files of an account; those that are there stay.

    Example: tocsin export stop --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.authenticator.members import CONSOLE
    from tocsin.stats.warehouse import position
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        ledger.write_now(lambda connection: position.stop(connection, account_id, CONSOLE, time.time()))
    print_json({"account_id": account_id, "stopped": True})


@export.command("list")
@data_option
def list_all(data: Path) -> None:
    """List the accounts that are exported, and how far that has come, one JSON object a line.

    Example: tocsin export list --data ./data
    """
    import msgspec

    from tocsin.stats.warehouse import position
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        for one in ledger.read_now(position.list_exports):
            print_json(msgspec.to_builtins(one))
