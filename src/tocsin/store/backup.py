"""Backup of the two stores that lie in a data folder: frozen at one moment each, copied, checked by checksum.

Facts are frozen first and the ledger is copied after, so all that facts knows is in the ledger, and `repair` can write
what the ledger knows more. A backup is a folder that plain tools can read: `manifest.json`, `SHA256SUMS`, `ledger.db`,
and the parts of each table of facts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
from sqlalchemy.engine import make_url

from tocsin.errors import Misconfigured
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

FORMAT = 1
SHADOW = "backup"  # the name of the frozen parts below facts/shadow
MANIFEST, CHECKSUMS, LEDGER, FACTS = "manifest.json", "SHA256SUMS", "ledger.db", "facts"
LOCK = "backup.lock"
BLOCK = 1 << 20  # bytes in memory while a file is copied
STEPS = 100_000  # of SQLite's machine between two looks at how far it is

Tell = Callable[[str, int], None]  # what is being copied, and the bytes so far


class Frozen(msgspec.Struct, frozen=True):
    """Stores of which a backup may be copied. at: when facts was frozen, in epoch seconds. ledger, facts: where they
    are. tables: the folder of the frozen parts of each table. engine: the version of chDB's engine."""

    at: float
    ledger: str
    facts: str
    tables: dict[str, str]
    engine: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup says of itself. migration: of the ledger. checksums: SHA-256 of the file SHA256SUMS."""

    format: int
    date: str
    tocsin: str
    migration: str
    engine: str
    facts_at: float
    ledger_at: float
    tables: tuple[str, ...]
    files: int
    bytes: int
    checksums: str


@contextmanager
def lock_backup(data: Path) -> Iterator[None]:
    """Keep other backups of a folder waiting outside. Raises Misconfigured when one is under way."""
    with (data / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Misconfigured(f"Another backup of {data} is under way.") from None
        yield


def freeze_stores(ledger: Ledger, facts: Facts, now: float) -> Frozen:
    """Freeze the facts store between two inserts; `thaw` ends it. Nothing is copied, so uploads wait for milliseconds.

    Raises Misconfigured when a store does not lie on this machine.
    """
    refuse_elsewhere(ledger.url, facts.url)
    folder = Path(facts.url.partition("://")[2])
    thaw(folder)
    place = Path(make_url(ledger.url).database or "").resolve()
    return Frozen(now, str(place), str(folder), facts.freeze_now(SHADOW), facts.engine)


def refuse_elsewhere(ledger_url: str, facts_url: str) -> None:
    """Raise Misconfigured, with what to do instead, when a store does not lie on this machine."""
    if not ledger_url.startswith("sqlite"):
        raise Misconfigured(
            "The ledger is PostgreSQL, which `tocsin backup` does not copy: use pg_dump, or its continuous archiving. "
            "After putting one back, and before `tocsin serve`, run `tocsin campaign hold`."
        )
    if not facts_url.startswith("chdb:"):
        raise Misconfigured(
            "The facts store is a ClickHouse server, which `tocsin backup` does not copy: use its BACKUP DATABASE "
            "first, and copy the ledger after it."
        )


def thaw(facts: Path) -> None:
    """Let go of frozen parts, those of a backup that was broken off as well."""
    shutil.rmtree(facts / "shadow" / SHADOW, ignore_errors=True)


def copy_ledger(source: Path, target: Path, tell: Tell) -> str:
    """Copy a SQLite ledger that may be in use, as it is at one moment. Return the number of its last migration."""
    with closing(sqlite3.connect(source, timeout=60)) as connection:
        connection.set_progress_handler(lambda: tell(LEDGER, _size(target)), STEPS)
        connection.execute("VACUUM INTO ?", (str(target),))
    with closing(sqlite3.connect(target)) as copy:
        (migration,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(migration)


def copy_parts(frozen: Frozen, target: Path, tell: Tell) -> None:
    """Copy the frozen parts of every table to a folder of the table's name."""
    done = 0
    for table, folder in frozen.tables.items():
        source, copied = Path(frozen.facts) / folder, target / FACTS / table
        copied.mkdir(parents=True)
        for path in sorted(source.rglob("*")) if source.is_dir() else ():
            if path.is_file():
                place = copied / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                done += copy_file(path, place)[1]
                tell(FACTS, done)


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the checksums of all files below a folder, and last the manifest, with the numbers that are known now.
    Return it. All is on the disk then."""
    lines, total = [], 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            lines.append(f"{hash_file(path)}  {path.relative_to(folder).as_posix()}\n")
            total += path.stat().st_size
    _write(folder / CHECKSUMS, "".join(lines).encode())
    checksums = hash_file(folder / CHECKSUMS)
    manifest = msgspec.structs.replace(manifest, files=len(lines), bytes=total, checksums=checksums)
    _write(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    for path in (folder, *(one for one in folder.rglob("*") if one.is_dir())):
        _sync(path)
    return manifest


def read_manifest(folder: Path) -> tuple[Manifest, dict[str, str]]:
    """Return the manifest of a backup and the checksum of each file, by its path. Raises Misconfigured for a folder
    that is no whole backup."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"{folder} is no whole backup: {error}.") from None
    if manifest.format != FORMAT:
        raise Misconfigured(f"{folder} is a backup of format {manifest.format}; this Tocsin reads {FORMAT}.")
    if not (folder / CHECKSUMS).is_file() or hash_file(folder / CHECKSUMS) != manifest.checksums:
        raise Misconfigured(f"{folder / CHECKSUMS} is not the file that the manifest was written with.")
    pairs = (line.split("  ", 1) for line in (folder / CHECKSUMS).read_text().splitlines())
    sums = {name: checksum for checksum, name in pairs}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    found -= {MANIFEST, CHECKSUMS}
    if found != sums.keys():
        odd = sorted(found ^ sums.keys())
        raise Misconfigured(f"{folder} has files too many or too few, such as {odd[0]}.")
    return manifest, sums


def copy_checked(folder: Path, sums: dict[str, str], target: Path, tell: Tell) -> None:
    """Copy a backup's files. Raises Misconfigured for the first whose checksum is another one."""
    done = 0
    for name, checksum in sums.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        found, size = copy_file(folder / name, place)
        if found != checksum:
            raise Misconfigured(f"{folder / name} is damaged: its checksum is not the one in {CHECKSUMS}.")
        tell(name.partition("/")[0], done := done + size)


def attach_parts(facts: Facts, parts: Path) -> None:
    """Put the parts of a backup into the empty tables of a new store on this machine; they are moved there."""
    folders = facts.find_folders()
    for table in sorted(path.name for path in parts.iterdir()):
        if table not in folders:
            raise Misconfigured(f"The backup has a table {table}, which this version of Tocsin does not know.")
        names = sorted((path.name for path in (parts / table).iterdir()), key=_first_block)
        for name in names:
            (parts / table / name).rename(Path(folders[table]) / "detached" / name)
        for name in names:  # of rows with one key the last that was attached counts, as the last that was inserted did
            facts.command_now(f"ALTER TABLE {table} ATTACH PART '{name}'")


def copy_file(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file to the disk, in blocks. Return its SHA-256 and its bytes."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read, target.open("xb") as write:
        while block := read.read(BLOCK):
            digest.update(block)
            size += write.write(block)
        write.flush()
        os.fsync(write.fileno())
    return digest.hexdigest(), size


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_block(name: str) -> int:
    """Return the first block of a part, whose name is `partition_first_last_level`, with a mutation's number or not."""
    return int(name.split("_")[1])


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
