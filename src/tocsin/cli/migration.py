"""`tocsin migrate`: both stores brought up to this version by a command of its own, before the servers start."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from tocsin.cli.options import data_option, print_json


@click.command()
@data_option
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 when there is something to do.")
def migrate(data: Path, check: bool) -> None:
    """Bring both stores up to this version; prints the migration before and after. `tocsin serve` does the same when it
    starts, so this is for roles apart and for large ledgers, where an operator wants to see it done.

    Example: tocsin migrate --data ./data
    """
    from tocsin.settings import read_settings
    from tocsin.store.data_folder import lock_folder, refuse_half_restored
    from tocsin.store.ledger import list_migrations, read_migration
    from tocsin.store.stores import Stores, is_embedded

    settings = read_settings(os.environ, data)
    refuse_half_restored(data)
    before, newest = read_migration(settings.ledger_url), list_migrations()[-1]
    if check:
        print_json({"status": "success", "ledger": before, "newest": newest})
        raise SystemExit(0 if before == newest else 1)
    with lock_folder(data) if is_embedded(settings) else contextlib.nullcontext():
        stores = Stores(settings)
        answer = {"ledger": read_migration(settings.ledger_url), "before": before, "facts": stores.facts.engine}
        stores.close()
    print_json({"status": "success", **answer})
