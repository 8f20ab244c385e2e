"""The ledger: one relational store, SQLite on one machine and PostgreSQL beyond it.

Work on the ledger is a function of a connection. `read` runs it in a thread of its own; `write` queues it for the one
writer, which commits everything that waits in one transaction: many requests share one fsync (group commit). Each
piece of work has its own savepoint: when one fails, the others of its transaction are committed all the same.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError

from tocsin.errors import Misconfigured
from tocsin.store import schema

T = TypeVar("T")
Work = Callable[[Connection], T]
_Write = tuple[Work[Any], Future[Any], bool]  # durable

WRITES_A_COMMIT = 128  # more would make the first of them wait for the last
READERS = 8
LOCK_SECONDS = 15  # how long SQLite waits for another process (`account create` beside `serve`)


class Ledger:
    """An open ledger. Safe to use from any thread; `close` waits for the writes that were accepted."""

    def __init__(self, url: str):
        self.url = url
        self._reader = _engine(url, writing=False)
        self._writer = _engine(url, writing=True)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader")
        self._closed = False
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="ledger-writer", daemon=True)
        self._thread.start()

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
        """Run `work` on the writer and wait until it is committed and durable. Blocks: not for the event loop.

        Raises what `work` raises, after its savepoint is rolled back, and RuntimeError once the ledger is closed.
        """
        return self._enqueue(work).result()

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Run `work` on the writer, as `write_now` does, without blocking the event loop.

        Not durable: every process sees it at once and no crash of one loses it, but a power cut may. Such a commit
        waits for no disk.
        """
        return await asyncio.wrap_future(self._enqueue(work, durable))

    def close(self) -> None:
        """Commit the writes that were accepted, then close every connection."""
        self._closed = True
        self._queue.put(None)
        self._readers.shutdown()
        self._thread.join()
        self._reader.dispose()
        self._writer.dispose()

    def _enqueue(self, work: Work[T], durable: bool = True) -> Future[T]:
        if self._closed:
            raise RuntimeError("the ledger is closed")
        done: Future[T] = Future()
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
                    try:
                        with connection.begin_nested():
                            results.append((done, work(connection), None))
                    except Exception as error:
                        results.append((done, None, error))
        except Exception as error:  # the commit itself failed: none of the batch is durable
            results = [(done, None, error) for _, done, _ in batch]
        for done, value, failure in results:
            if not done.set_running_or_notify_cancel():
                continue  # the caller was cancelled; its work is committed all the same
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
        reason = " ".join(str(error.orig).split())[:300]
        raise Misconfigured(
            f"The ledger at {location.render_as_string(hide_password=True)} cannot be opened: {reason}. "
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


def migrate(url: str, revision: str = "head") -> None:
    """Bring the tables up to a revision of `migrations/`, in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    engine = _engine(url, writing=True)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def _engine(url: str, *, writing: bool) -> Engine:
    location = make_url(url)
    if location.get_backend_name() != "sqlite":
        if location.drivername == "postgresql":
            location = location.set(drivername="postgresql+psycopg")
        engine = create_engine(location, pool_size=1 if writing else 8, pool_pre_ping=True)

        @event.listens_for(engine, "begin")
        def begin_on_server(connection: Connection) -> None:
            if not connection.get_execution_options().get("durable", True):
                connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")

        return engine
    engine = create_engine(location, connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy's own BEGIN below decides, not the driver
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 6000")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if writing:  # FULL: an acknowledged write survives a power cut
            durable = connection.get_execution_options().get("durable", True)
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        # IMMEDIATE: a writer that starts as a reader and upgrades would fail with «database is locked» at once.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine
