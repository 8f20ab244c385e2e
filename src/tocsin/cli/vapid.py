"""The commands of `tocsin provider vapid`: the key that web pushes are signed with, made and replaced here."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from tocsin.account import find_account
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.cli.providers import store_providers
from tocsin.errors import Misconfigured
from tocsin.providers.credential import find_settings
from tocsin.providers.encryption import NO_SETTINGS
from tocsin.providers.vapid import VapidSettings, complete
from tocsin.providers.vapid_key import make_key
from tocsin.settings import read_settings
from tocsin.store.stores import open_ledger_only


@click.command("create")
@account_option
@data_option
@click.option(
    "--subject", required=True, help="Where push services reach you: mailto:ops@example.com, or an https URL."
)
def create(account_id: str, data: Path, subject: str) -> None:
    """Make a VAPID key for an account and print its public half, which pages subscribe with. From then on web pushes
    go straight to the browsers' push services.

    Example: tocsin provider vapid create --account ABC-DEF-GHIJ --data ./data --subject mailto:ops@example.com
    """
    if _find(data, account_id) is not None:
        raise Misconfigured(f"{account_id} has a VAPID key; `tocsin provider vapid rotate` replaces it.")
    replaced = store_providers(data, account_id, {"vapid": {"key": make_key(), "subject": subject}})
    made = _require(data, account_id)
    print_json(
        {"account_id": account_id, "public_key": made.public_key, **({"replaced": replaced} if replaced else {})}
    )


@click.command("show")
@account_option
@data_option
def show(account_id: str, data: Path) -> None:
    """Print the public key that pages of an account subscribe with (`applicationServerKey`), and the one before it.

    Example: tocsin provider vapid show --account ABC-DEF-GHIJ --data ./data
    """
    found = _require(data, account_id)
    keys = complete(found).public_key.split()
    shown: dict[str, Any] = {"account_id": account_id, "public_key": keys[0], "subject": found.subject}
    shown |= {"previous_public_key": keys[1], "rotated_at": int(found.rotated_at)} if keys[1:] else {}
    print_json({**shown, "hosts": found.hosts.split(",")})


@click.command("rotate")
@account_option
@data_option
@click.option("--force", is_flag=True, help="Also when the key before this one is still kept: it is forgotten.")
def rotate(account_id: str, data: Path, force: bool) -> None:
    """Replace the VAPID key. A subscription belongs to the key it was made with, so the old key goes on signing for
    browsers that have it, until they come back to a page of yours and subscribe anew. One old key is kept.

    Example: tocsin provider vapid rotate --account ABC-DEF-GHIJ --data ./data
    """
    found = _require(data, account_id)
    if found.previous and not force:
        raise Misconfigured(
            "The key before this one is still kept, and browsers that have it would never hear from you again; "
            "--force forgets it."
        )
    changed = msgspec.structs.replace(found, key=make_key(), previous=found.key, rotated_at=time.time())
    store_providers(data, account_id, {"vapid": msgspec.to_builtins(changed)})
    print_json({"account_id": account_id, "public_key": complete(changed).public_key.split()[0]})


def _find(data: Path, account_id: str) -> VapidSettings | None:
    """Return the VAPID settings of an account. Raises Misconfigured when they cannot be decrypted."""
    secret_key = read_settings(os.environ, data).secret_key
    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)
        settings = ledger.read_now(lambda connection: find_settings(connection, account_id, "vapid", secret_key))
    if settings is None:
        return None
    if settings == NO_SETTINGS:
        raise Misconfigured("The VAPID key is encrypted, and TOCSIN_SECRET_KEY has no key for it.")
    return msgspec.json.decode(settings, type=VapidSettings)


def _require(data: Path, account_id: str) -> VapidSettings:
    found = _find(data, account_id)
    if found is None:
        raise Misconfigured(f"{account_id} has no VAPID key; `tocsin provider vapid create` makes one.")
    return found
