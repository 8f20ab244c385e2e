"""`tocsin repair`, `tocsin doctor` and `tocsin config`: looking after an installation."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click
import msgspec

from tocsin.cli.local_server import ask
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.store.data_folder import find_running


@click.command()
@account_option
@data_option
def repair(account_id: str, data: Path) -> None:
    """Make the facts store agree with the ledger again: profiles, reachability and outcomes are written anew.

    Example: tocsin repair --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import find_account
    from tocsin.repair import copy_all_profiles, record_again
    from tocsin.store.stores import Stores, open_ledger_only, open_stores

    running = find_running(data)
    if running is not None:
        print_json(ask(running, "/local/repair", account_id, {}))
        return
    with open_ledger_only(data) as ledger:
        account = find_account(ledger, account_id)

    async def mend(stores: Stores) -> dict[str, int]:
        return {
            "profiles": await copy_all_profiles(stores.ledger, stores.facts, account.id),
            "outcomes": await record_again(stores.ledger, stores.facts, account),
        }

    with open_stores(data) as stores:
        print_json({"status": "success", **asyncio.run(mend(stores))})


@click.command()
@data_option
def doctor(data: Path) -> None:
    """Look at an installation and say what is missing; exit code 1 when something is.

    Example: tocsin doctor --data ./data
    """
    from sqlalchemy import select

    from tocsin.account import list_accounts
    from tocsin.providers import BY_NAME
    from tocsin.store import schema
    from tocsin.store.open_files import allowed_files, describe_shortage
    from tocsin.store.stores import open_ledger_only

    fine = True

    def say(good: bool, sentence: str) -> None:
        nonlocal fine
        fine = fine and good
        click.echo(f"{'ok  ' if good else 'MEND'} {sentence}")

    shortage = describe_shortage(allowed_files())
    say(not shortage, shortage or f"{allowed_files()} files or more may be open at once")
    with open_ledger_only(data) as ledger:
        say(True, "the ledger opens and its tables are of this version")
        running = find_running(data)
        say(True, f"a server runs on {running.url}" if running else "no server runs on this folder now")
        accounts = list_accounts(ledger)
        say(bool(accounts), f"{len(accounts)} accounts" if accounts else "no account: `tocsin account create`")
        table = schema.provider
        rows = ledger.read_now(lambda connection: connection.execute(select(table.c.account_id, table.c.name)).all())
        for account in accounts:
            names = {name for account_id, name in rows if account_id == account.id}
            missing = sorted(set(BY_NAME) - names)
            say(
                bool(names),
                f"{account.id}: providers {', '.join(sorted(names)) or 'none'}; not set {', '.join(missing)}",
            )
    raise SystemExit(0 if fine else 1)


@click.command()
def config() -> None:
    """List every setting: its name in the environment, its value now, and what it is for.

    Example: TOCSIN_WINDOW=500 tocsin config
    """
    from tocsin.settings import Settings, environment_name, read_settings, rename_old

    environment = rename_old(os.environ)
    read_settings(environment, Path())  # raises for a value that does not fit
    for field in msgspec.structs.fields(Settings):
        name = environment_name(field.name)
        meta = next((one for one in getattr(field.type, "__metadata__", ()) if isinstance(one, msgspec.Meta)), None)
        click.echo(f"{name}={environment.get(name, field.default)}\n    {meta.description if meta else ''}")
