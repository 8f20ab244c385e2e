"""The ledger: one relational store, SQLite on one machine and PostgreSQL beyond it.

Work on the ledger is a function of a connection. `read` runs it in a thread of its own, `write` queues it for a writer.

On SQLite there is one writer, which commits everything that waits in one transaction: many requests share one fsync
(group commit). Each piece of work has its own savepoint: when one fails, the others of its transaction are committed
all the same.

On PostgreSQL there are WRITERS, side by side, and a transaction for each piece of work, which so holds the locks of
nobody else; the server shares its fsyncs among them. Pieces that are written without waiting for each other are in no
order. Where the database breaks a transaction off because of another one (a deadlock, a serialization failure) the work
is run again: it must leave nothing behind in memory that a second run would trip over. The order in which locks are
taken is in `store/lock.py`.
"""

from __future__ import annotations

import asyncio
import queue
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError

from tocsin.errors import Misconfigured
from tocsin.settings import hide_passwords
from tocsin.store import schema
from tocsin.store.lock import lock_migration
from tocsin.store.writer_line import WriterLine

T = TypeVar("T")
Work = Callable[[Connection], T]
_Write = tuple[Work[Any], Future[Any], bool]  # durable

WRITES_A_COMMIT = 128  # more would make the first of them wait for the last
READERS = 8
WRITERS = 4  # transactions side by side on PostgreSQL; SQLite takes one
LOCK_SECONDS = (
    15  # how long a write waits for another one; on SQLite for another process (`account create` beside `serve`)
)
MIGRATIONS = str(Path(__file__).parent / "migrations")
BROKEN_OFF = ("40P01", "40001")  # PostgreSQL: deadlock_detected, serialization_failure. Nothing of it was committed.
TRIES = 6  # of work that is broken off
RETRY_SECONDS = 0.01  # before the second try, at most; doubled before each further one


class Ledger:
    """An open ledger. Safe to use from any thread; `close` waits for the writes that were accepted."""

    def __init__(self, url: str):
        self.url = url
        self._reader = _engine(url, writing=False)
        self._writer = _engine(url, writing=True)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader")
        self._closed = False
        self._gate = threading.Lock()  # nothing is queued behind the marks that end the writers
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        target, count = (self._write_all, 1) if self.embedded else (self._write_apart, WRITERS)
        self._writers = [threading.Thread(target=target, name="ledger-writer", daemon=True) for _ in range(count)]
        for thread in self._writers:
            thread.start()

    @property
    def embedded(self) -> bool:
        """Whether this is SQLite: one machine, one `serve`."""
        return self._writer.dialect.name == "sqlite"

    def read_now(self, work: Work[T]) -> T:
        """Return what `work` returns, run in the calling thread in a transaction that is not committed."""
        with self._reader.connect() as connection:
            return work(connection)

    async def read(self, work: Work[T]) -> T:
        """Return what `work` returns, as `read_now` does, from one of READERS threads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    def write_now(self, work: Work[T]) -> T:
        """Run `work` on a writer and wait until it is committed and durable. Blocks: not for the event loop.

        Raises what `work` raises, after what it wrote is rolled back, and RuntimeError once the ledger is closed.
        """
        return self._enqueue(work).result()

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Run `work` on a writer, as `write_now` does, without blocking the event loop.

        Not durable: every process sees it at once and no crash of one loses it, but a power cut may. Such a commit
        waits for no disk.
        """
        return await asyncio.wrap_future(self._enqueue(work, durable))

    def empty_log(self) -> None:
        """Cut off SQLite's write-ahead log, in which pages stay as they were before something was deleted. Blocks. One
        that is being read stays for the next time; PostgreSQL recycles its own."""
        if self.embedded:
            connection = self._reader.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.close()

    def close(self) -> None:
        """Commit the writes that were accepted, then close every connection."""
        with self._gate:
            self._closed = True
            for _ in self._writers:
                self._queue.put(None)
        self._readers.shutdown()
        for thread in self._writers:
            thread.join()
        self._reader.dispose()
        self._writer.dispose()

    def _enqueue(self, work: Work[T], durable: bool = True) -> Future[T]:
        done: Future[T] = Future()
        with self._gate:
            if self._closed:
                raise RuntimeError("the ledger is closed")
            self._queue.put((work, done, durable))
        return done

    def _write_all(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            closing = False
            while len(batch) < WRITES_A_COMMIT and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    closing = True
                    break
                batch.append(item)
            self._commit(batch)
            if closing:
                return

    def _commit(self, batch: list[_Write]) -> None:
        results: list[tuple[Future[Any], Any, BaseException | None]] = []
        durable = any(one[2] for one in batch)
        try:
            with self._writer.connect().execution_options(durable=durable) as connection, connection.begin():
                for work, done, _ in batch:
                    if len(batch) == 1:  # its failure is the transaction's: no savepoint, which costs as much again
                        results.append((done, work(connection), None))
                        continue
                    try:
                        with connection.begin_nested():
                            results.append((done, work(connection), None))
                    except Exception as error:
                        results.append((done, None, error))
        except Exception as error:  # the commit itself failed: none of the batch is durable
            results = [(done, None, error) for _, done, _ in batch]
        for result in results:
            _answer(*result)

    def _write_apart(self) -> None:
        while (item := self._queue.get()) is not None:
            work, done, durable = item
            try:
                value = self._run(work, durable)
            except Exception as error:
                _answer(done, None, error)
            else:
                _answer(done, value, None)

    def _run(self, work: Work[T], durable: bool) -> T:
        """Run work in a transaction of its own, again when the database breaks it off."""
        for failures in range(TRIES):
            try:
                with self._writer.connect().execution_options(durable=durable) as connection, connection.begin():
                    return work(connection)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in BROKEN_OFF or failures == TRIES - 1:
                    raise
            # At random: the one that it met waits too, and both would meet again.
            time.sleep(random.uniform(0.0, RETRY_SECONDS * 2**failures))  # noqa: S311 - jitter, no secret
        raise AssertionError("the last try returns or raises")


def _answer(done: Future[Any], value: Any, failure: BaseException | None) -> None:
    if not done.set_running_or_notify_cancel():
        return  # the caller was cancelled; its work is committed all the same
    if failure is None:
        done.set_result(value)
    else:
        done.set_exception(failure)


def open_ledger(url: str) -> Ledger:
    """Open the ledger of an SQLAlchemy URL and bring its tables up to this version.

    Raises Misconfigured for a URL of another kind, and when the ledger cannot be opened.
    """
    try:
        location = make_url(url)
    except ArgumentError:
        raise Misconfigured("TOCSIN_LEDGER_URL is no URL; it begins with sqlite:/// or postgresql://.") from None
    if location.get_backend_name() not in ("sqlite", "postgresql"):
        raise Misconfigured("TOCSIN_LEDGER_URL must begin with sqlite:/// or postgresql://.")
    if location.get_backend_name() == "sqlite" and location.database:
        Path(location.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        migrate(url)
        if location.get_backend_name() == "sqlite" and location.database:
            Path(location.database).chmod(0o600)
        return Ledger(url)
    except OperationalError as error:
        reason = hide_passwords(" ".join(str(error.orig).split()))[:300]
        raise Misconfigured(
            f"The ledger at {hide_passwords(url)} cannot be opened: {reason}. "
            "Check TOCSIN_LEDGER_URL and that the server runs."
        ) from None


def read_secret(ledger: Ledger, name: str, size: int = 32) -> bytes:
    """Return the installation's secret of a name: `size` random bytes, made on first use."""

    def read_or_make(connection: Connection) -> bytes:
        found = connection.scalar(select(schema.secret.c.value).where(schema.secret.c.name == name))
        if found is None:
            found = secrets.token_bytes(size)
            connection.execute(schema.secret.insert().values(name=name, value=found))
        return bytes(found)

    try:
        return ledger.write_now(read_or_make)
    except IntegrityError:  # another process was first
        return ledger.write_now(read_or_make)


def list_migrations() -> list[str]:
    """Return the numbers of the migrations of this version, the last one last."""
    from alembic.script import ScriptDirectory

    return [one.revision for one in ScriptDirectory(MIGRATIONS).walk_revisions()][::-1]


def find_newest_migration() -> str:
    """Return the number of the last migration of this version, by the names of their files: Alembic runs all of them to
    know it, and has to be imported, at each start of each command."""
    return max(path.name for path in Path(MIGRATIONS, "versions").glob("[0-9]*.py")).partition("_")[0]


def read_migration(url: str) -> str | None:
    """Return the number of a ledger's last migration; None for one that is empty or not there."""
    location = make_url(url)
    if location.get_backend_name() == "sqlite" and not Path(location.database or "").exists():
        return None
    engine = _engine(url, writing=False)
    try:
        with engine.connect() as connection:
            return _read_migration(connection)
    finally:
        engine.dispose()


def _read_migration(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def migrate(url: str, revision: str = "head") -> None:
    """Bring the tables up to a revision of `migrations/`, in one transaction; of two processes one waits. Tables that
    are at it already are only read: a command beside a busy server does not wait to write nothing.

    Raises Misconfigured for tables of a newer version.
    """
    if revision == "head" and read_migration(url) == find_newest_migration():
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    engine = _engine(url, writing=True)
    try:
        with engine.begin() as connection:
            lock_migration(connection)
            found = _read_migration(connection)
            if found is not None and found not in list_migrations():
                raise Misconfigured(
                    f"The ledger is of a newer version of Tocsin: its migration {found} is not known here. Install "
                    "that version, or put back the backup from before it."
                )
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def _engine(url: str, *, writing: bool) -> Engine:
    location = make_url(url)
    if location.get_backend_name() != "sqlite":
        if location.drivername == "postgresql":
            location = location.set(drivername="postgresql+psycopg")
        size = WRITERS if writing else READERS
        server = create_engine(location, pool_size=size, pool_pre_ping=True, hide_parameters=True)
        event.listen(server, "handle_error", _hide_details)
        if writing:
            event.listen(server, "connect", _bound_waits)
            event.listen(server, "begin", _wait_for_no_disk)
        return server
    waiting = {"timeout": LOCK_SECONDS, "check_same_thread": False}
    engine = create_engine(location, connect_args=waiting, hide_parameters=True)
    line = WriterLine(Path(location.database), LOCK_SECONDS) if writing and location.database else None

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy's own BEGIN below decides, not the driver
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 6000")
        connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not only forgotten

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        level = "FULL" if _is_durable(connection) else "NORMAL"  # FULL: an acknowledged write survives a power cut
        if writing and connection.info.get("synchronous") != level:
            connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            connection.info["synchronous"] = level
        # IMMEDIATE: a writer that starts as a reader and upgrades would fail with «database is locked» at once.
        with nullcontext() if line is None else line.wait():
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    if line is not None:
        event.listen(engine, "engine_disposed", lambda _: line.close())
    return engine


def _hide_details(context: ExceptionContext) -> None:
    """Leave only the first line of PostgreSQL's error: its details quote the row («Key (token)=(…) already exists»)."""
    error, wrapped = context.original_exception, context.sqlalchemy_exception
    summary = getattr(getattr(error, "diag", None), "message_primary", None)
    if summary is not None:
        error.args = (summary,)
        if wrapped is not None:
            wrapped.args = (f"({type(error).__name__}) {summary}",)


def _is_durable(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("durable", True))


def _wait_for_no_disk(connection: Connection) -> None:
    """Let a transaction that need not be durable commit without the server's disk."""
    if not _is_durable(connection):
        connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")


def _bound_waits(connection: Any, _record: object) -> None:
    """Let no statement wait for another transaction's lock longer than LOCK_SECONDS: a process that is stopped inside a
    transaction keeps what it has locked."""
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.commit()
