"""`tocsin user …`: who may use the dashboard. Needs the ledger alone, so it works while `serve` runs."""

from __future__ import annotations

import secrets
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured

stdin_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from stdin; without it one is made and printed once."
)


@click.group()
def user() -> None:
    """People who log in to the dashboard by e-mail and password, and their roles.

    Example: tocsin user create ana@example.com --account ABC-DEF-GHIJ --role admin --data ./data
    """


@user.command("create")
@click.argument("email")
@account_option
@data_option
@click.option(
    "--role",
    type=click.Choice(["viewer", "marketer", "admin"]),
    default="admin",
    show_default=True,
    help="viewer: reads; marketer: also sends and sees people; admin: also settings and the audit log.",
)
@stdin_option
def create(email: str, account_id: str, data: Path, role: str, password_stdin: bool) -> None:
    """Give somebody a role in an account; who is new gets a password. Again for another account or role.

    Example: tocsin user create ana@example.com --account ABC-DEF-GHIJ --role admin --data ./data
    """
    from tocsin.account import find_account
    from tocsin.authenticator.members import add_member, find_password, read_email
    from tocsin.authenticator.password import hash_password
    from tocsin.store.stores import open_ledger_only

    address = read_email(email)
    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)
        known = ledger.read_now(lambda connection: find_password(connection, address)) is not None
        if known and password_stdin:
            raise Misconfigured(f"{address} has a password already; `tocsin user set-password` gives another.")
        password = None if known else _read_password(password_stdin)
        hashed = None if password is None else hash_password(password)
        now = time.time()
        ledger.write_now(
            lambda connection: add_member(connection, address, hashed, account_id, role, now)  # type: ignore[arg-type]  # a Choice
        )
    shown = {} if password is None or password_stdin else {"password": password}
    print_json({"email": address, "account_id": account_id, "role": role, **shown})


@user.command("list")
@data_option
@click.option("--account", "account_id", help="Of this account only.")
def list_all(data: Path, account_id: str | None) -> None:
    """List who may use the dashboard, one JSON object a line: each person once for each account.

    Example: tocsin user list --data ./data
    """
    from tocsin.authenticator.members import list_members
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        for one in ledger.read_now(lambda connection: list_members(connection, account_id)):
            since = datetime.fromtimestamp(one.created_at, UTC).isoformat(timespec="seconds")
            print_json({"email": one.email, "account_id": one.account_id, "role": one.role, "since": since})


@user.command("remove")
@click.argument("email")
@data_option
@click.option("--account", "account_id", help="Out of this account only; without it, out of all.")
def remove(email: str, data: Path, account_id: str | None) -> None:
    """Take somebody out of an account or of all; their sessions end at once.

    Example: tocsin user remove ana@example.com --data ./data
    """
    from tocsin.authenticator.members import read_email, remove_member
    from tocsin.store.stores import open_ledger_only

    address, now = read_email(email), time.time()
    with open_ledger_only(data) as ledger:
        count = ledger.write_now(lambda connection: remove_member(connection, address, account_id, now))
    if not count:
        raise Misconfigured(f"{address} is in no such account; `tocsin user list` shows who is.")
    print_json({"email": address, "removed_from": count})


@user.command("set-password")
@click.argument("email")
@data_option
@stdin_option
def set_password(email: str, data: Path, password_stdin: bool) -> None:
    """Give somebody another password; their sessions end at once.

    Example: tocsin user set-password ana@example.com --data ./data
    """
    from tocsin.authenticator import members
    from tocsin.authenticator.password import hash_password
    from tocsin.store.stores import open_ledger_only

    address, password, now = members.read_email(email), _read_password(password_stdin), time.time()
    hashed = hash_password(password)
    with open_ledger_only(data) as ledger:
        if not ledger.write_now(lambda connection: members.set_password(connection, address, hashed, now)):
            raise Misconfigured(f"There is no user {address}; `tocsin user list` shows them.")
    print_json({"email": address, **({} if password_stdin else {"password": password})})


def _read_password(from_stdin: bool) -> str:
    """Return the password of stdin, without the end of its line, or one that is made."""
    return sys.stdin.readline().rstrip("\r\n") if from_stdin else secrets.token_urlsafe(15)
