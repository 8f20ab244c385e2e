"""Both stores of one process, opened by the settings in the environment: all of them, or the ledger alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from tocsin.errors import Misconfigured
from tocsin.settings import Settings, read_settings
from tocsin.store.data_folder import lock_folder, refuse_half_restored
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import Ledger, open_ledger
from tocsin.store.open_files import raise_open_files


class Stores:
    """The open stores of one process. check: looks at the ledger before the facts store is opened. Raises Misconfigured
    when one of them cannot be opened, and what the check raises."""

    def __init__(self, settings: Settings, check: Callable[[Connection], object] | None = None):
        self.ledger: Ledger = open_ledger(settings.ledger_url)
        try:
            if check is not None:
                self.ledger.read_now(check)
            self.facts: Facts = open_facts(settings.facts_url, settings.query_seconds, settings.query_megabytes)
        except BaseException:
            self.ledger.close()
            raise

    def close(self) -> None:
        self.ledger.close()
        self.facts.close()


@contextmanager
def open_stores(data: Path) -> Iterator[Stores]:
    """Open both stores for a command that works without a server. Raises Misconfigured while one runs on the folder."""
    settings = read_settings(os.environ, data)
    raise_open_files()
    with lock_folder(data) if is_embedded(settings) else contextlib.nullcontext():
        stores = Stores(settings)
        try:
            yield stores
        finally:
            stores.close()


@contextmanager
def open_ledger_only(data: Path, *, new: bool = False) -> Iterator[Ledger]:
    """Open the ledger for a command that works while `serve` runs: many processes may have it open at once.

    Raises Misconfigured for a folder that does not exist, unless it may be `new`: a typo must not make one.
    """
    if not new and not data.is_dir():
        raise Misconfigured(f"There is no folder {data}; `tocsin serve` and `tocsin account create` make one.")
    refuse_half_restored(data)
    ledger = open_ledger(read_settings(os.environ, data).ledger_url)
    try:
        yield ledger
    finally:
        ledger.close()


def is_embedded(settings: Settings) -> bool:
    """Return whether a store lies in the data folder, which then belongs to one process."""
    return settings.ledger_url.startswith("sqlite") or settings.facts_url.startswith("chdb:")
