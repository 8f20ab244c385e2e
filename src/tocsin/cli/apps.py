"""`tocsin app …`: apps with CleverTap's SDK. Needs the ledger alone, so it works while `serve` runs."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from tocsin.cli.options import account_option, data_option, print_json

APP_PLATFORM = click.Choice(["android", "ios", "web"])


@click.group()
def app() -> None:
    """Apps that report by CleverTap's SDK: the id and token that are in them.

    Example: tocsin app create shop --account ABC-DEF-GHIJ --data ./data
    """


@app.command("create")
@click.argument("name")
@data_option
@account_option
@click.option("--id", "sdk_id", default="", help="The account id in the app; without it, the account's own.")
@click.option("--token", default="", help="The account token in the app; without it, a new one.")
@click.option(
    "--platform",
    "platforms",
    type=APP_PLATFORM,
    multiple=True,
    default=["android", "ios", "web"],
    show_default=True,
    help="Where it runs; give it more than once for several.",
)
def create(name: str, data: Path, account_id: str, sdk_id: str, token: str, platforms: tuple[str, ...]) -> None:
    """Let an app report to an account. Its id and token are no secret: they are in every copy of it.

    Example: tocsin app create shop --id TEST-000-000Z --token TEST-aaa-bbb --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.authenticator.apps import add_app
    from tocsin.policy import load_policy
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        where = ",".join(dict.fromkeys(platforms))
        made = add_app(ledger, account_id, name, time.time(), sdk_id=sdk_id, token=token, platforms=where)
        policy = ledger.read_now(lambda connection: load_policy(connection, account_id))
    print_json({"account_id": account_id, **msgspec.structs.asdict(made), "identities": policy.apps.identities})


@app.command("list")
@data_option
@account_option
def list_all(data: Path, account_id: str) -> None:
    """List the apps of an account, one JSON object a line.

    Example: tocsin app list --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.authenticator.apps import list_apps
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        for one in list_apps(ledger, account_id):
            print_json({"account_id": account_id, **msgspec.structs.asdict(one)})


@app.command("remove")
@click.argument("name")
@data_option
@account_option
def remove(name: str, data: Path, account_id: str) -> None:
    """Take an app's word no longer; a running server follows within a second or two. What it told stays.

    Example: tocsin app remove shop --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.authenticator.apps import remove_app
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        remove_app(ledger, account_id, name)
    print_json({"account_id": account_id, "removed": name})
