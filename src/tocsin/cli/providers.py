"""The commands of `tocsin provider`: credentials of the vendors, from files or from a running sandbox."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import click
import msgspec
from msgspec import Meta
from sqlalchemy import Connection, delete, select, update

from tocsin.account import find_account
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Provider
from tocsin.providers.credential import list_providers
from tocsin.providers.encryption import check_stored, encrypt, encrypt_again, read_keys
from tocsin.providers.transport import Transport
from tocsin.providers.vapid import VapidSettings, complete
from tocsin.settings import read_settings
from tocsin.store import schema
from tocsin.store.rows import upsert_rows
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
    url = f"http://127.0.0.1:{port}/credentials"
    try:
        with urlopen(url, timeout=10) as reply:
            given = msgspec.json.decode(reply.read())
    except OSError:
        raise Misconfigured(f"No sandbox answers on port {port}; start one with `tocsin sandbox`.") from None
    settings = sandbox_settings(given)
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


def sandbox_settings(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of a provider for each platform, by its name, from a sandbox's answer to
    `GET /credentials`."""
    ca = given["ca"]
    fcm, apns, wns, smtp, hook, vapid = (given[name] for name in ("fcm", "apns", "wns", "smtp", "webhook", "vapid"))
    return {
        "fcm": {
            "service_account": msgspec.json.encode(fcm["service_account"]).decode(),
            "endpoint": fcm["endpoint"],
            "ca": ca,
        },
        "apns": {**{key: apns[key] for key in ("endpoint", "key", "key_id", "team_id", "topic")}, "ca": ca},
        "wns": {**{key: wns[key] for key in ("endpoint", "token_endpoint", "client_id", "client_secret")}, "ca": ca},
        "smtp": {
            **{key: smtp[key] for key in ("host", "port", "username", "password")},
            "sender": "news@tocsin.example.com",
            "ca": ca,
        },
        "sms": {"url": hook["sms"], "secret": hook["secret"], "ca": ca},
        "vapid": {**{key: vapid[key] for key in ("endpoint", "key", "subject")}, "ca": ca},
    }


def store_providers(data: Path, account_id: str, settings: dict[str, dict[str, Any]]) -> list[str]:
    """Write the settings of providers, by their names, in place of earlier ones. A platform has one provider: return
    the names of those that were forgotten because another of theirs was set.

    Raises Misconfigured for an account that does not exist, and when a provider refuses its settings.
    """
    secret_key = read_settings(os.environ, data).secret_key
    keys = read_keys(secret_key)
    rows = [
        {
            "account_id": account_id,
            "name": name,
            "settings": encrypt(keys, account_id, name, _checked(name, one)),
            "trusted": 0,
            "changed_at": time.time(),
        }
        for name, one in settings.items()  # `provider trust` was for the earlier settings
    ]
    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)

        def write(connection: Connection) -> list[str]:
            check_stored(connection, secret_key, [(account_id, name) for name in settings])
            upsert_rows(connection, schema.provider, rows, keys=("account_id", "name"))
            return _forget_others(connection, account_id, settings)

        return ledger.write_now(write)


def _forget_others(connection: Connection, account_id: str, names: Collection[str]) -> list[str]:
    """Delete the providers of an account that reach a platform of these, under another name. Return their names."""
    others = [other for name in names for other in list_providers(BY_NAME[name].platform) if other not in names]
    table = schema.provider
    mine = (table.c.account_id == account_id, table.c.name.in_(others))
    found = list(connection.scalars(select(table.c.name).where(*mine)))
    connection.execute(delete(table).where(*mine))
    return found


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


def _checked(name: str, settings: dict[str, Any]) -> str:
    cls = BY_NAME[name]
    try:
        typed = msgspec.convert(settings, cls.Settings, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{name}: {error}.") from None
    cls(typed, Transport())
    return msgspec.json.encode(complete(typed) if isinstance(typed, VapidSettings) else typed).decode()


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
    meta = _meta(field)
    kind: Any = click.Path(exists=True, dir_okay=False) if "file" in _extra(field) else str
    help_text = meta.description or ""
    if not field.required and field.default != "":
        help_text += f" [default: {field.default}]"
    return click.option(
        f"--{field.name.replace('_', '-')}", field.name, type=kind, required=field.required, help=help_text
    )


def _meta(field: msgspec.structs.FieldInfo) -> Meta:
    return next((one for one in getattr(field.type, "__metadata__", ()) if isinstance(one, Meta)), Meta())


def _extra(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    return _meta(field).extra or {}


for _name, _cls in BY_NAME.items():
    set_group.add_command(_command_for(_name, _cls))
