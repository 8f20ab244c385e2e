"""`tocsin person …`: somebody who wants to be forgotten."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from tocsin.cli.options import account_option, data_option, print_json

identity_argument = click.argument("identity")
kind_option = click.option(
    "--by",
    "kind",
    type=click.Choice(["identity", "objectId", "FBID", "GPID", "Email"]),
    default="identity",
    show_default=True,
    help="What IDENTITY is.",
)


@click.group()
def person() -> None:
    """Everything about one person.

    Example: tocsin person delete jane --account ABC-DEF-GHIJ --data ./data
    """


@person.command("delete")
@identity_argument
@kind_option
@account_option
@data_option
def delete(identity: str, kind: str, account_id: str, data: Path) -> None:
    """Delete a person. The facts store follows within a minute while a server runs, else once one does.

    Example: tocsin person delete jane --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import find_account
    from tocsin.api.people import delete_named
    from tocsin.authenticator.members import CONSOLE
    from tocsin.errors import Misconfigured
    from tocsin.ingest.record import read_email
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        account = find_account(ledger, account_id)
        name = read_email(identity) if kind == "Email" else identity
        people = asyncio.run(delete_named(ledger, account, [(kind, name)], CONSOLE, time.time()))
    if not people:
        raise Misconfigured(f"Nobody has the {kind} {identity[:80]!r}.")
    print_json({"status": "success", "deleted": people})
