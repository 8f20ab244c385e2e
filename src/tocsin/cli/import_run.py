"""One run of `tocsin import`: files read and stored side by side, with progress, refused rows, and where it stopped."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import secrets
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tocsin.account import Account
from tocsin.cli.record_file import Block, Options, Reading, read_file, rows_of
from tocsin.cli.record_source import REFUSED, kind_of
from tocsin.cli.record_store import Refused, Run, Store

SHOWN = 5  # sentences about rows that were refused
WAITING = 3  # blocks whose facts are not stored yet
FOLDER = "imports"  # of the data folder


class ImportState(msgspec.Struct):
    """How far the import of a file has come: rows stored, of them refused."""

    run: Run
    rows: int = 0
    refused: int = 0


class _File:
    """One file while it is imported."""

    def __init__(self, path: Path, options: Options, account: Account, data: Path, *, restart: bool):
        self.path = path
        self._place = data / FOLDER / f"{_name_run(path, options, account)}.json"
        self._place.parent.mkdir(mode=0o700, exist_ok=True)
        self.state = ImportState(Run(secrets.token_hex(8), time.time()))
        if not restart and self._place.exists():
            self.state = msgspec.json.decode(self._place.read_bytes(), type=ImportState)
        self.resumed = self.state.rows
        self._save()
        self._refused: Any = None  # a text file, when a row was refused
        self._writer: Any = None

    def note(self, block: Block, refused: Refused) -> None:
        """Write down the rows that were refused, and that the block is stored."""
        for place in sorted(refused):
            self._write(block.lines[place], refused[place].error, block.source(place))
        if self._refused is not None:
            self._refused.flush()
        self.state.rows += len(block)
        self.state.refused += len(refused)
        self._save()

    def _save(self) -> None:
        new = self._place.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(self.state))
        new.replace(self._place)

    def _write(self, line: int, reason: str, row: dict[str, Any]) -> None:
        cells = kind_of(self.path) == "cells"
        if self._refused is None:
            mode = "a" if self.state.refused else "w"
            self._refused = self.refused_path.open(mode, encoding="utf-8", newline="")
            if cells:
                self._writer = csv.writer(self._refused)
                if mode == "w":
                    self._writer.writerow(["refused_line", "refused_because", *row])
        if cells:
            self._writer.writerow([line, reason, *row.values()])
        else:
            inner = row.get("record", row)
            record = inner if isinstance(inner, dict) else {"record": inner}
            whole = {"refused_line": line, "refused_because": reason, **record}
            self._refused.write(msgspec.json.encode(whole, enc_hook=str).decode() + "\n")

    @property
    def refused_path(self) -> Path:
        """Where the refused rows are, beside the file itself."""
        ending = ".csv" if kind_of(self.path) == "cells" else ".jsonl"
        return self.path.with_name(f"{self.path.name}{REFUSED}{ending}")

    def finish(self) -> None:
        """Forget how far it came: all of it is stored."""
        self.close()
        if not self.state.refused and self.refused_path.exists():
            self.refused_path.unlink()  # of an import before this one
        self._place.unlink(missing_ok=True)

    def close(self) -> None:
        if self._refused is not None:
            self._refused.close()


def _name_run(path: Path, options: Options, account: Account) -> str:
    """Return the name under which the state of a file's import is kept: another for a file that changed."""
    now = path.stat()
    chosen = {name: str(getattr(options, name)) for name in options.__struct_fields__}
    what = (account.id, str(path.resolve()), now.st_size, now.st_mtime_ns, sorted(chosen.items()), rows_of(options))
    return hashlib.blake2b(repr(what).encode(), digest_size=16).hexdigest()


async def run_import(
    paths: Sequence[Path], options: Options, account: Account, data: Path, store: Store, *, restart: bool
) -> tuple[int, int]:
    """Import files; return how many rows were processed and how many refused."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"))
    processed = total = 0
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        for path in paths:
            file = _File(path, options, account, data, restart=restart)
            reading = read_file(path, options)
            task = progress.add_task(path.name, total=reading.total, rate="")
            if file.resumed:
                progress.console.print(f"{path.name} goes on after {file.resumed:,} rows", markup=False)
            try:
                await _import_file(file, reading, store, progress, task)
            finally:
                file.close()
            file.finish()
            _tell(file, reading, progress.console)
            processed += file.state.rows - file.state.refused
            total += file.state.refused
    return processed, total


async def _import_file(file: _File, reading: Reading, store: Store, progress: Any, task: Any) -> None:
    waiting: deque[tuple[Block, asyncio.Future[Refused]]] = deque()
    started, row, shown = time.monotonic(), 0, 0

    async def end_first() -> None:
        nonlocal shown
        block, stored = waiting.popleft()
        try:
            refused = await stored
        except BaseException:
            # What is noted is how many rows are stored, from the first on: those behind a gap are taken again.
            later = [one for _, one in waiting]
            waiting.clear()
            for one in later:
                one.cancel()
            await asyncio.gather(*later, return_exceptions=True)
            raise
        file.note(block, refused)
        for place in sorted(refused)[: max(0, SHOWN - shown)]:
            sentence = f"skipped: {file.path.name}, line {block.lines[place]}: {refused[place].error}"
            progress.console.print(sentence, markup=False, soft_wrap=True)
            shown += 1
        rate = (file.state.rows - file.resumed) / (time.monotonic() - started)
        progress.update(task, completed=block.position, rate=f"{rate:,.0f}/s")

    coming = asyncio.ensure_future(asyncio.to_thread(next, reading.blocks, None))
    try:
        while (block := await coming) is not None:
            coming = asyncio.ensure_future(asyncio.to_thread(next, reading.blocks, None))
            if len(block) and row >= file.resumed:
                waiting.append((block, asyncio.ensure_future(await store.take(block, row, file.state.run))))
            row += len(block)
            if len(waiting) > WAITING:
                await end_first()
    finally:
        while waiting:
            await end_first()
        if not coming.done():
            await asyncio.wait([coming])


def _tell(file: _File, reading: Reading, console: Any) -> None:
    """Say what was guessed about a file, and where its refused rows are."""
    for note in reading.notes:
        console.print(f"note: {file.path.name}: {note}", markup=False, soft_wrap=True)
    if file.state.refused:
        count = f"{file.state.refused:,} rows of {file.path.name} were refused"
        console.print(f"{count}: {file.refused_path}", markup=False, soft_wrap=True)
