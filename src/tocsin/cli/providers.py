"""The commands of `tocsin provider`: credentials of the vendors, from files or from a running sandbox."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from sqlalchemy import Connection, update

from tocsin.account import find_account
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Provider
from tocsin.providers.credential import find_settings
from tocsin.providers.credential_check import check_credential
from tocsin.providers.encryption import check_stored, encrypt_again, read_keys
from tocsin.providers.keyring import ask_sandbox, find_meta, keep_providers, read_given
from tocsin.settings import read_settings
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.stores import open_ledger_only


@click.group("set")
def set_group() -> None:
    """Set a provider's credentials, from files. A running server takes them up with its next chunk.

    Example: tocsin provider set smtp --account ABC-DEF-GHIJ --data ./data --host mail.example.com
    --sender news@example.com
    """


@click.command("sandbox")
@account_option
@data_option
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8200, show_default=True, help="The sandbox's control port."
)
def use_sandbox(account_id: str, data: Path, port: int) -> None:
    """Point all providers of an account at a running sandbox, with credentials made for it.

    Example: tocsin provider sandbox --account ABC-DEF-GHIJ --data ./data --port 8200
    """
    settings = ask_sandbox(port)
    store_providers(data, account_id, settings)
    print_json({"account_id": account_id, "providers": sorted(settings)})


@click.command("trust")
@click.argument("name", type=click.Choice(sorted(BY_NAME)))
@account_option
@data_option
@click.option("--undo", is_flag=True, help="Weigh its answers again.")
def trust(name: str, account_id: str, data: Path, undo: bool) -> None:
    """Say that the addresses this provider calls dead really are, however many: it is believed, and they are forgotten.
    `tocsin provider set` of the same provider ends it.

    Example: tocsin provider trust apns --account ABC-DEF-GHIJ --data ./data
    """
    table = schema.provider
    said = (
        update(table)
        .where(table.c.account_id == account_id, table.c.name == name)
        .values(trusted=int(not undo), changed_at=time.time())  # a new time makes a running server open a new lane
    )
    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)
        if not ledger.write_now(lambda connection: connection.execute(said).rowcount):
            raise Misconfigured(f"{account_id} has no provider {name}; `tocsin provider set {name}` first.")
    print_json({"account_id": account_id, "provider": name, "trusted": not undo})


def store_providers(data: Path, account_id: str, settings: dict[str, dict[str, Any]]) -> list[str]:
    """Write the settings of providers, by their names, in place of earlier ones. A platform has one provider: return
    the names of those that were forgotten because another of theirs was set.

    Raises Misconfigured for an account that does not exist, and when a provider refuses its settings.
    """
    with open_ledger_only(data) as ledger:
        return store_providers_in(ledger, read_settings(os.environ, data).secret_key, account_id, settings)


def store_providers_in(
    ledger: Ledger, secret_key: str, account_id: str, settings: dict[str, dict[str, Any]]
) -> list[str]:
    """The same in an open ledger, under a key of the installation or in clear."""
    keys = read_keys(secret_key)
    read = {name: read_given(name, one) for name, one in settings.items()}
    find_account(ledger, account_id)

    def write(connection: Connection) -> list[str]:
        check_stored(connection, secret_key, [(account_id, name) for name in settings])
        return keep_providers(connection, keys, account_id, read, time.time())

    return ledger.write_now(write)


@click.command("check")
@account_option
@click.argument("name", type=click.Choice(sorted(BY_NAME)))
@data_option
def check(name: str, account_id: str, data: Path) -> None:
    """Ask the vendor whether it takes the stored credential; nobody gets a message. Exit code 1: it is refused, or
    nothing was said of it.

    Example: tocsin provider check fcm --account ABC-DEF-GHIJ --data ./data
    """
    secret_key = read_settings(os.environ, data).secret_key
    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)
        stored = ledger.read_now(lambda connection: find_settings(connection, account_id, name, secret_key))
    if stored is None:
        raise Misconfigured(f"{account_id} has no provider {name}; `tocsin provider set {name}` first.")
    found = asyncio.run(check_credential(name, stored, time.time()))
    print_json({"account_id": account_id, "provider": name, **msgspec.to_builtins(found)})
    if found.verdict != "accepted":
        sys.exit(1)


@click.command("encrypt")
@data_option
@click.option("--clear", is_flag=True, help="Store them in clear text again.")
def encrypt_all(data: Path, clear: bool) -> None:
    """Encrypt what is stored of all providers with the first key of TOCSIN_SECRET_KEY. To replace a key put the new one
    before the old, restart, run this, and leave the old one out.

    Example: TOCSIN_SECRET_KEY=NEW,OLD tocsin provider encrypt --data ./data
    """
    secret_key = read_settings(os.environ, data).secret_key
    with open_ledger_only(data) as ledger:
        changed = ledger.write_now(lambda connection: encrypt_again(connection, secret_key, clear=clear))
    print_json({"providers": changed, "stored": "in clear text" if clear else "encrypted"})


def _command_for(name: str, cls: type[Provider]) -> click.Command:
    """Return `tocsin provider set NAME`; its options are the fields of the provider's `Settings`.

    A field whose `Meta` has `file` in `extra` is given as a file that holds the value; one with `made` is no option.
    """
    fields = [one for one in msgspec.structs.fields(cls.Settings) if "made" not in _extra(one)]

    def run(account_id: str, data: Path, **options: Any) -> None:
        given = {key: value for key, value in options.items() if value is not None}
        for field in fields:
            if "file" in _extra(field) and field.name in given:
                given[field.name] = Path(given[field.name]).read_text().strip()  # editors end files with a newline
        replaced = store_providers(data, account_id, {name: given})
        print_json({"account_id": account_id, "provider": name, **({"replaced": replaced} if replaced else {})})

    example = f"Example: tocsin provider set {name} --account ABC-DEF-GHIJ --data ./data " + " ".join(
        f"--{field.name.replace('_', '-')} {'FILE' if 'file' in _extra(field) else 'VALUE'}"
        for field in fields
        if field.required
    )
    parameters = [_option(field) for field in fields]
    command: Callable[..., None] = run
    for decorate in reversed((account_option, data_option, *parameters)):  # the last decorator is shown first
        command = decorate(command)
    return click.command(name, help=f"Set the credentials of {name}.\n\n{example}")(command)


def _option(field: msgspec.structs.FieldInfo) -> Callable[..., Any]:
    meta = find_meta(field)
    kind: Any = click.Path(exists=True, dir_okay=False) if "file" in _extra(field) else str
    help_text = meta.description or ""
    if not field.required and field.default != "":
        help_text += f" [default: {field.default}]"
    return click.option(
        f"--{field.name.replace('_', '-')}", field.name, type=kind, required=field.required, help=help_text
    )


def _extra(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    return find_meta(field).extra or {}


for _name, _cls in BY_NAME.items():
    set_group.add_command(_command_for(_name, _cls))
