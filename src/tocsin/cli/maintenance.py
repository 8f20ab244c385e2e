"""`tocsin repair`, `tocsin reconcile`, `tocsin doctor` and `tocsin config`: looking after an installation."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from tocsin.cli.local_server import ask
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured
from tocsin.store.data_folder import RunningServer, find_running

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tocsin.account import Passcode
    from tocsin.store.ledger import Ledger

SOON_DAYS = 14  # before a passcode ends, `doctor` says so


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
@account_option
@data_option
@click.option("--repair", "mend", is_flag=True, help="Make what differs agree again, and look once more.")
def reconcile(account_id: str, data: Path, mend: bool) -> None:
    """Compare the ledger, its kept sums and facts, and tell each number that differs; exit code 1 when one is left.

    Example: tocsin reconcile --account ABC-DEF-GHIJ --data ./data --repair
    """
    from tocsin.account import find_account
    from tocsin.repair.drift import reconcile
    from tocsin.store.stores import open_stores

    running = find_running(data)
    if running is not None:
        found = ask(running, "/local/reconcile", account_id, {"mend": mend})
    else:
        with open_stores(data) as stores:
            account = find_account(stores.ledger, account_id)
            found = asyncio.run(reconcile(stores.ledger, stores.facts, account, time.time(), mend=mend))
    print_json({"status": "success", **found})
    raise SystemExit(1 if found["left" if mend else "drift"] else 0)


@click.command()
@data_option
def doctor(data: Path) -> None:
    """Look at an installation and say what is missing; exit code 1 when something is.

    Example: tocsin doctor --data ./data
    """
    raise SystemExit(0 if examine(data) else 1)


def examine(data: Path) -> bool:
    """Print what an installation has and lacks, a line each. Return whether it lacks nothing."""
    from sqlalchemy import select

    from tocsin.account import list_accounts, list_passcodes
    from tocsin.delivery.hold import list_held
    from tocsin.providers import BY_NAME
    from tocsin.settings import read_settings
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
        if not read_settings(os.environ, data).public_url:
            say(True, "TOCSIN_PUBLIC_URL is not set: mails have no unsubscribe link and report no opens and clicks")
        accounts = list_accounts(ledger)
        say(bool(accounts), f"{len(accounts)} accounts" if accounts else "no account: `tocsin account create`")
        table = schema.provider
        rows = ledger.read_now(lambda connection: connection.execute(select(table.c.account_id, table.c.name)).all())
        say(*ledger.read_now(_judge_keys))
        for account in accounts:
            for sentence in _tell_ends(list_passcodes(ledger, account.id), time.time()):
                say(True, f"{account.id}: {sentence}")
        for account in accounts:
            names = {name for account_id, name in rows if account_id == account.id}
            reached = {BY_NAME[name].platform for name in names if name in BY_NAME}
            missing = sorted(name for name, one in BY_NAME.items() if one.platform not in reached)
            say(
                bool(names),
                f"{account.id}: providers {', '.join(sorted(names)) or 'none'}; not set {', '.join(missing)}",
            )
            if "vapid" in names:
                say(*ledger.read_now(functools.partial(_judge_web_push, account_id=account.id)))
            say(*_compare_numbers(ledger, running, account.id))
        for held in ledger.read_now(list_held):
            what = f"campaign {held.campaign}" if held.campaign else "requests to /1/send"
            say(True, f"{held.account}: {what} held since a restore: `tocsin campaign resume`, or stop it")
    return fine


def _compare_numbers(ledger: Ledger, running: RunningServer | None, account_id: str) -> tuple[bool, str]:
    """Return whether the numbers of an account agree, and the sentence that says so. Without a server only those of the
    ledger are compared."""
    from tocsin.repair.drift import find_sum_drift

    if running is not None:
        count = len(ask(running, "/local/reconcile", account_id, {})["drift"])
    else:
        count = len(asyncio.run(find_sum_drift(ledger, account_id)))
    if count:
        return False, f"{account_id}: {count} numbers differ: `tocsin reconcile --repair`"
    return True, f"{account_id}: the numbers of {'ledger and facts' if running else 'the ledger'} agree"


def _judge_web_push(connection: Connection, account_id: str) -> tuple[bool, str]:
    """Return whether an account can send web pushes, and the sentence that says so: by which key, to how many."""
    from sqlalchemy import func, select

    from tocsin.providers.credential import find_web_push_keys
    from tocsin.store import schema

    keys = find_web_push_keys(connection, account_id)
    device = schema.device
    mine = (device.c.account_id == account_id, device.c.kind == "webpush", device.c.gone_at.is_(None))
    count = connection.scalar(select(func.count()).select_from(device).where(*mine))
    if not keys:
        return False, f"{account_id}: web push has no key: `tocsin provider vapid create`"
    before = ", with the one before it still kept" if keys[1:] else ""
    return True, f"{account_id}: web push by the key {keys[0]}{before}, to {count} browsers"


@click.command("rotate-key")
@data_option
def rotate_key(data: Path) -> None:
    """Sign the ids in messages, links and bounce addresses with a new key, once the server is started again. What the
    key before it signed is still read; what earlier ones signed is not, so a second rotation ends it.

    Example: tocsin rotate-key --data ./data
    """
    from tocsin.store.signing_key import rotate_signing_key
    from tocsin.store.stores import open_ledger_only

    now = time.time()
    with open_ledger_only(data) as ledger:
        keys = ledger.write_now(lambda connection: rotate_signing_key(connection, now))
    print_json({"status": "success", "keys_read": len(keys), "next": "start the server again"})


def _tell_ends(passcodes: Sequence[Passcode], now: float) -> Iterator[str]:
    """Yield a sentence for each passcode that ends within SOON_DAYS: its caller needs another one before."""
    for one in passcodes:
        if one.revoked_at is None and one.expires_at is not None and 0 < one.expires_at - now < SOON_DAYS * 86_400:
            end = datetime.fromtimestamp(one.expires_at, UTC).isoformat(sep=" ", timespec="minutes")
            yield f"its passcode {one.label!r} ends at {end}"


def _judge_keys(connection: Connection) -> tuple[bool, str]:
    """Return whether the stored settings of providers can be read, and the sentence that says how they are stored."""
    from tocsin.providers.encryption import check_stored
    from tocsin.settings import read_settings

    try:
        count = check_stored(connection, read_settings(os.environ, Path()).secret_key)
    except Misconfigured as error:
        return False, str(error)
    if count:
        return True, f"the settings of {count} providers are encrypted"
    return True, "providers' keys are stored in clear text; TOCSIN_SECRET_KEY and `tocsin provider encrypt` change that"


@click.command()
def config() -> None:
    """List every setting: its name in the environment, its value now, and what it is for. Passwords are not shown.

    Example: TOCSIN_WINDOW=500 tocsin config
    """
    from tocsin.settings import Settings, environment_name, read_settings, rename_old, show_value

    environment = rename_old(os.environ)
    read_settings(environment, Path())  # raises for a value that does not fit
    for field in msgspec.structs.fields(Settings):
        name = environment_name(field.name)
        meta = next((one for one in getattr(field.type, "__metadata__", ()) if isinstance(one, msgspec.Meta)), None)
        value = show_value(field.name, environment.get(name, field.default))
        click.echo(f"{name}={value}\n    {meta.description if meta else ''}")
