"""`tocsin backup` and `tocsin restore`: everything in a data folder, copied while the server runs, and put back."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tocsin.cli.options import data_option, print_json
from tocsin.errors import Misconfigured
from tocsin.store.data_folder import RESTORING, find_running, refuse_half_restored

if TYPE_CHECKING:
    from tocsin.settings import Settings
    from tocsin.store.backup import Frozen, Manifest

TOLD_SECONDS = 1.0  # between two lines of progress
UNFINISHED = ".unfinished"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@data_option
def backup(folder: Path, data: Path) -> None:
    """Copy both stores of a data folder into a new FOLDER, while the server runs or without one.

    What was acknowledged before the command began is in it. It holds all that the ledger holds, keys too, unless they
    are encrypted.

    Example: tocsin backup /backups/tocsin-2026-11-26 --data ./data
    """
    from tocsin.store.backup import lock_backup

    if not data.is_dir():
        raise Misconfigured(f"There is no folder {data}.")
    with _private(), lock_backup(data), _unfinished(folder) as target:
        manifest = _copy_frozen(data, target)
    print_json({"status": "success", "folder": str(folder), "files": manifest.files, "bytes": manifest.bytes})


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@data_option
def restore(folder: Path, data: Path) -> None:
    """Fill an empty data folder from a backup: checksums first, then both stores, then what `tocsin repair` does.

    Nothing that waits in it is sent until `tocsin campaign resume`: it may have been sent after the backup was made.

    Example: tocsin restore /backups/tocsin-2026-11-26 --data ./data
    """
    from tocsin.cli.maintenance import examine
    from tocsin.settings import read_settings
    from tocsin.store.backup import read_manifest, refuse_elsewhere

    refuse_half_restored(data)
    if data.exists() and any(data.iterdir()):
        raise Misconfigured(f"{data} is not empty. A backup is restored into an empty folder only.")
    settings = read_settings(os.environ, data)
    refuse_elsewhere(settings.ledger_url, settings.facts_url)
    manifest, sums = read_manifest(folder)
    _refuse_newer(manifest)
    with _private(), _restoring(data):
        _fill(folder, sums, data, settings, manifest)
    click.echo(f"restored as of {manifest.date}: what came after it, unsubscribes too, has to come again", err=True)
    examine(data)


@contextmanager
def _private() -> Iterator[None]:
    """Make files that their owner alone can read."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _restoring(data: Path) -> Iterator[None]:
    """Keep everybody off a folder while it is filled; empty it again when that fails."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    (data / RESTORING).touch()
    try:
        yield
    except BaseException:
        for one in data.iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        raise
    (data / RESTORING).unlink()


def _copy_frozen(data: Path, target: Path) -> Manifest:
    from importlib.metadata import version

    from tocsin.store.backup import FORMAT, LEDGER, Manifest, copy_ledger, copy_parts, seal, thaw

    tell = _Teller()
    with _frozen(data) as frozen:
        try:
            ledger_at = time.time()
            migration = copy_ledger(Path(frozen.ledger), target / LEDGER, tell)
            copy_parts(frozen, target, tell)
        finally:
            thaw(Path(frozen.facts))
    told = Manifest(
        format=FORMAT,
        date=datetime.fromtimestamp(frozen.at, UTC).isoformat(timespec="seconds"),
        tocsin=version("tocsin"),
        migration=migration,
        engine=frozen.engine,
        facts_at=frozen.at,
        ledger_at=ledger_at,
        tables=tuple(frozen.tables),
        files=0,
        bytes=0,
        checksums="",
    )
    return seal(target, told)


@contextmanager
def _frozen(data: Path) -> Iterator[Frozen]:
    """Freeze the stores, by the running server or without one."""
    import msgspec

    from tocsin.cli.local_server import ask
    from tocsin.store.backup import Frozen, freeze_stores
    from tocsin.store.stores import open_stores

    running = find_running(data)
    if running is not None:
        yield msgspec.convert(ask(running, "/local/freeze", "", {}), Frozen)
        return
    with open_stores(data) as stores:
        yield freeze_stores(stores.ledger, stores.facts, time.time())


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Yield a new folder that gets its name when all is in it; whoever breaks off leaves nothing of that name."""
    if folder.exists():
        raise Misconfigured(f"{folder} exists already; a backup makes a new folder.")
    target = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    yield target
    target.rename(folder)


def _fill(folder: Path, sums: dict[str, str], data: Path, settings: Settings, manifest: Manifest) -> None:
    import asyncio

    from tocsin.account import list_accounts
    from tocsin.delivery.hold import hold_all
    from tocsin.idempotency import reopen_uploads
    from tocsin.repair import copy_all_profiles, record_again
    from tocsin.stats.warehouse.position import stop_all
    from tocsin.stats.webhooks.endpoint import disable_all
    from tocsin.store.backup import FACTS, LEDGER, attach_parts, copy_checked
    from tocsin.store.data_folder import hold_folder
    from tocsin.store.stores import Stores

    parts = data / "parts"
    copy_checked(folder, sums, parts, _Teller())
    (parts / LEDGER).rename(data / LEDGER)

    async def mend(stores: Stores) -> None:
        for account in list_accounts(stores.ledger):
            profiles = await copy_all_profiles(stores.ledger, stores.facts, account.id)
            outcomes = await record_again(stores.ledger, stores.facts, account)
            click.echo(f"repaired {account.id}: {profiles} profiles, {outcomes} outcomes", err=True)

    with hold_folder(data):
        stores = Stores(settings)
        try:
            attach_parts(stores.facts, parts / FACTS)
            shutil.rmtree(parts)
            hold_all(stores.ledger, settings, time.time())
            stores.ledger.write_now(lambda connection: disable_all(connection, time.time()))
            stores.ledger.write_now(stop_all)
            stores.ledger.write_now(lambda connection: reopen_uploads(connection, manifest.facts_at))
            asyncio.run(mend(stores))
        finally:
            stores.close()


def _refuse_newer(manifest: Manifest) -> None:
    from tocsin.store.ledger import list_migrations

    if manifest.migration not in list_migrations():
        raise Misconfigured(
            f"The backup is of Tocsin {manifest.tocsin}, whose migration {manifest.migration} this version does not "
            "have: install that version or a newer one."
        )


class _Teller:
    """Says on stderr how far a copy is, now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + TOLD_SECONDS

    def __call__(self, what: str, done: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + TOLD_SECONDS
            click.echo(f"{what}: {done / 1e6:,.0f} MB", err=True)
