"""`tocsin app …`: apps with CleverTap's SDK. Needs the ledger alone, so it works while `serve` runs."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured

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


@app.command("check")
@click.argument("name")
@data_option
@account_option
@click.option("--url", help="Where apps report, such as https://t.example.com; without it the server of this folder.")
def check(name: str, data: Path, account_id: str, url: str | None) -> None:
    """Send what an app would, to the running server, and say what came back. One device «tocsin-check» is kept of it.
    Exit code 1: an app would not work.

    Example: tocsin app check shop --url https://t.example.com --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.authenticator.apps import list_apps
    from tocsin.cli.app_check import check_app
    from tocsin.store.data_folder import find_running
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        found = next((one for one in list_apps(ledger, account_id) if one.name == name), None)
    if found is None:
        raise Misconfigured(f"{account_id} has no app {name!r}; `tocsin app list` shows them.")
    if url is None:
        running = find_running(data)
        if running is None:
            raise Misconfigured("No server runs on this folder; start one, or give --url.")
        url = running.url
    seen = check_app(found, url.rstrip("/"), time.time())
    print_json(seen)
    if seen["wrong"]:
        raise click.exceptions.Exit(1)
