"""`tocsin account …`: needs the ledger alone, so it works while `serve` runs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured


@click.group()
def account() -> None:
    """Accounts and their passcodes.

    Example: tocsin account create Acme --data ./data
    """


@account.command("create")
@click.argument("name")
@data_option
@click.option("--timezone", default="UTC", show_default=True, help="Time zone of its days and schedules.")
def create(name: str, data: Path, timezone: str) -> None:
    """Make an account; its id and passcode are printed as one JSON object, the passcode never again.

    Example: tocsin account create Acme --data ./data --timezone Europe/Berlin
    """
    from tocsin.account import create_account
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data, new=True) as ledger:
        made, passcode = create_account(ledger, name, timezone, time.time())
    print_json({"account_id": made.id, "passcode": passcode})


@account.command("list")
@data_option
def list_all(data: Path) -> None:
    """List the accounts, one JSON object a line.

    Example: tocsin account list --data ./data
    """
    from tocsin.account import list_accounts
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        for one in list_accounts(ledger):
            print_json({"account_id": one.id, "name": one.name, "timezone": one.timezone})


@account.group()
def passcode() -> None:
    """More passcodes for an account, or fewer.

    Example: tocsin account passcode add --account ABC-DEF-GHIJ --label backend --data ./data
    """


@passcode.command("add")
@data_option
@account_option
@click.option("--label", required=True, help="Who will use it; revoke it by this name.")
@click.option(
    "--right",
    "rights",
    type=click.Choice(["send", "upload", "read", "export", "delete", "all"]),
    multiple=True,
    default=["all"],
    show_default=True,
    help="What it may do; give it more than once for several.",
)
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="How long it is good; without it, no end.")
def add(data: Path, account_id: str, label: str, rights: tuple[str, ...], days: float | None) -> None:
    """Add a passcode; it is printed once.

    Example: tocsin account passcode add --account ABC-DEF-GHIJ --label backend --right send --days 90 --data ./data
    """
    from tocsin.account import add_passcode
    from tocsin.store.stores import open_ledger_only

    now = time.time()
    until = None if days is None else now + days * 86_400
    with open_ledger_only(data) as ledger:
        code = add_passcode(ledger, account_id, label, now, rights, until)  # type: ignore[arg-type]  # a Choice
    print_json({"account_id": account_id, "passcode": code})


@passcode.command("list")
@data_option
@account_option
def list_of_account(data: Path, account_id: str) -> None:
    """List the passcodes of an account, one JSON object a line: labels, rights and times, never the passcode.

    Example: tocsin account passcode list --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import list_passcodes
    from tocsin.store.stores import open_ledger_only

    def show(at: float | None) -> str | None:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")

    with open_ledger_only(data) as ledger:
        for one in list_passcodes(ledger, account_id):
            times = {name: show(getattr(one, name)) for name in ("created_at", "expires_at", "revoked_at")}
            print_json({"label": one.label, "rights": one.rights.split(","), **times})


@passcode.command("revoke")
@data_option
@account_option
@click.option("--label", required=True)
def revoke(data: Path, account_id: str, label: str) -> None:
    """End every passcode with that label; a running server follows within a second or two.

    Example: tocsin account passcode revoke --account ABC-DEF-GHIJ --label backend --data ./data
    """
    from tocsin.account import revoke_passcode
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        count = revoke_passcode(ledger, account_id, label, time.time())
    if not count:
        raise Misconfigured(f"{account_id} has no valid passcode with the label {label!r}.")
    print_json({"account_id": account_id, "revoked": count})
