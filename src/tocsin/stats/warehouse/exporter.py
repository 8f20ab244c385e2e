"""The exporter: writes what is new of each exported account as files, one window after the other."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from tocsin import metrics
from tocsin.providers.answer_table import clip
from tocsin.settings import Settings
from tocsin.stats.warehouse import position
from tocsin.stats.warehouse.destination import Destination, open_destination
from tocsin.stats.warehouse.files import ExportWindow, find_window, forget_unfinished, write_files
from tocsin.stats.warehouse.position import ExportPosition
from tocsin.stats.webhooks.feed import MICRO, find_fed, find_horizon
from tocsin.stats.webhooks.poster import REWIND_SECONDS
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.patience import rest

log = structlog.get_logger()
T = TypeVar("T")

LOOK_SECONDS = 2.0
TROUBLE_SECONDS = 60.0  # before what failed is tried again


class Exporter:
    """Writes the windows of all exported accounts, in turns, until it is stopped."""

    def __init__(self, ledger: Ledger, facts: Facts, settings: Settings, clock: Callable[[], float]):
        self._ledger, self._facts, self._settings, self._clock = ledger, facts, settings, clock
        self._destination = open_destination(settings)
        # SQLite has one process: after a crash it goes on at once.
        self._owner = "" if ledger.embedded else secrets.token_hex(16)
        self._rests: dict[str, int] = {}  # by account, when there may be something to write, by the store's clock
        self._troubled: dict[str, float] = {}  # by account, when it is tried again

    async def run(self, stop: asyncio.Event) -> None:
        """Write what is new until `stop` is set; a failure is logged, and tried again."""
        while not stop.is_set():
            wrote, pause = False, LOOK_SECONDS
            try:
                wrote = await self.look()
            except Exception:
                log.exception("exports interrupted")
                pause = TROUBLE_SECONDS
            await rest(stop, 0.01 if wrote else pause)

    async def look(self) -> bool:
        """Write the next window of each account, where its time is over. Return whether there was one."""
        if self._destination is None:
            return False
        found = await self._ledger.read(position.list_exports)
        if not found:
            return False
        horizon = await find_horizon(self._facts)
        fed = await find_fed(self._facts)
        wrote = False
        for one in found:
            if one.account_id not in fed or self._troubled.get(one.account_id, 0.0) > self._clock():
                continue
            # Who is beyond the horizon is looked at in any case: the store's clock was set back.
            if self._rests.get(one.account_id, 0) > horizon >= (one.done_until or 0):
                continue
            try:
                wrote |= await self._write_next(self._destination, one.account_id, horizon)
            except Exception as error:
                await self._note_trouble(one.account_id, error)
        return wrote

    async def _write_next(self, destination: Destination, account_id: str, horizon: int) -> bool:
        """Write an account's next window. Return whether there was one."""
        one = await self._write(position.lease, account_id)
        if one is None:
            return False
        if one.done_until is None:
            await self._save(account_id, done_until=horizon, lease_until=None)
            return True
        window = await self._find_window(one, one.done_until, horizon)
        if window is None:
            await self._save(account_id, lease_until=None)
            return False
        # Written first: whoever goes on after a crash writes the same files.
        if not await self._save(account_id, done_until=window.start, writing_until=window.end):
            return False
        counts = await asyncio.to_thread(write_files, self._ledger, self._facts, destination, account_id, window)
        for name, count in counts.items():
            metrics.EXPORT_ROWS.labels(dataset=name).inc(count)
        done = {"done_until": window.end, "writing_until": None, "rows": one.rows + sum(counts.values())}
        # Whose lease was over meanwhile leaves alone what the next one writes.
        if await self._save(account_id, **done, written_at=self._clock(), trouble="", lease_until=None):
            await asyncio.to_thread(forget_unfinished, destination, account_id, window)
        return True

    async def _find_window(self, one: ExportPosition, done: int, horizon: int) -> ExportWindow | None:
        if one.writing_until is not None:
            return ExportWindow(done, one.writing_until)
        ((now,),) = await self._facts.query("SELECT toUnixTimestamp64Micro(now64(6))", {})
        if int(now) < done:  # the store's clock was set back, for `done` was past: rather twice than never
            done = max(0, horizon - int(REWIND_SECONDS * MICRO))
            await self._save(one.account_id, done_until=done)  # the window may be over much later
        found = await find_window(self._facts, one.account_id, done, horizon, self._settings.export_seconds)
        if isinstance(found, ExportWindow):
            return found
        self._rests[one.account_id] = found
        return None

    async def _note_trouble(self, account_id: str, error: Exception) -> None:
        """Say what keeps an account's files from being written; they are tried again."""
        log.error("export failed", account=account_id, reason=f"{type(error).__name__}: {error}")
        metrics.EXPORT_FAILURES.inc()
        self._troubled[account_id] = self._clock() + TROUBLE_SECONDS
        await self._save(account_id, trouble=clip(f"{type(error).__name__}: {error}"), lease_until=None)

    async def _save(self, account_id: str, **values: Any) -> bool:
        return await self._write(position.save, account_id, **values)

    async def _write(self, work: Callable[..., T], account_id: str, **values: Any) -> T:
        bound = functools.partial(work, account_id=account_id, owner=self._owner, now=self._clock(), **values)
        return await self._ledger.write(bound)
