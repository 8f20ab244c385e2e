"""`tocsin person …`: somebody who wants to know what is stored about them, or to be forgotten."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import click

from tocsin.cli.local_server import ask
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.store.data_folder import find_running

identity_argument = click.argument("identity")
kind_option = click.option(
    "--by",
    "kind",
    type=click.Choice(["identity", "email", "objectId", "FBID", "GPID"]),
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
        key = ("Email", read_email(identity)) if kind == "email" else (kind, identity)
        people = asyncio.run(delete_named(ledger, account, [key], CONSOLE, time.time()))
    if not people:
        raise Misconfigured(f"Nobody has the {kind} {identity[:80]!r}.")
    print_json({"status": "success", "deleted": people})


@person.command("export")
@identity_argument
@kind_option
@account_option
@data_option
def export(identity: str, kind: str, account_id: str, data: Path) -> None:
    """Print everything about a person, as pages of JSON, a line each.

    Example: tocsin person export jane --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import find_account
    from tocsin.api.exports import export_person
    from tocsin.store.stores import open_stores

    asked: dict[str, Any] = {kind: identity}
    running = find_running(data)
    if running is not None:
        while asked:
            asked = _print_page(asked, ask(running, "/local/person", account_id, asked))
        return
    with open_stores(data) as stores:
        account = find_account(stores.ledger, account_id)
        while asked:
            found = asyncio.run(export_person(stores.ledger, stores.facts, account, asked))
            asked = _print_page(asked, found)


def _print_page(asked: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Print a page. Return what asks for the next one; nothing behind the last."""
    print_json(found)
    return {**asked, "page": str(found["next_page"])} if "next_page" in found else {}
