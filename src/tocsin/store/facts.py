"""The facts store: events, profiles to query, outcomes. chDB in this process, or a ClickHouse server.

The only place that speaks to either. Values always travel as bound parameters, never inside the text of a statement.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tocsin.channels import PLATFORMS
from tocsin.errors import Misconfigured, Problem
from tocsin.store.stopwatch import Stopwatch

CONNECTIONS = 4  # queries side by side; chDB shares its threads among them anyway
QUERY_SECONDS = 30.0
QUERY_MEGABYTES = 2048
ROWS_AN_INSERT = 50_000
# ClickHouse must not merge a condition into the subquery it filters, where it would be computed for every row.
IN_STAGES = {"query_plan_merge_filters": 0, "query_plan_filter_push_down": 0}
STATEMENT_BYTES = 4_000_000  # a question of the most parts and conditions is under 1 MB

# ClickHouse guesses that a text in JSON is a date, and then reads "5" beside it as the fifth of this month; and it
# makes one type of a list, so that true beside 5.0 becomes 1. Every value stays what it was.
AS_WRITTEN = {
    "input_format_try_infer_dates": 0,
    "input_format_try_infer_datetimes": 0,
    "input_format_json_try_infer_numbers_from_strings": 0,
    "input_format_json_read_bools_as_numbers": 0,
    "input_format_json_read_bools_as_strings": 0,
    "input_format_json_read_numbers_as_strings": 0,
}

# A property costs a wide part some files of its own, each open while it is read or merged, and there are as many
# properties as callers think of. So parts are compact, a file or two each, until they are large; and of all accounts'
# properties only so many have columns of their own in a merged part; the others share some.
PARTS = {
    "min_bytes_for_wide_part": 64 * 1024 * 1024,
    "merge_max_dynamic_subcolumns_in_wide_part": 256,
    "merge_max_dynamic_subcolumns_in_compact_part": 256,
}

SCHEMES = ("chdb", "http", "https", "clickhouse", "clickhouses")

COLUMNS = {
    "event": ("account", "name", "day", "user", "at", "id", "props", "raw"),
    "profile": (
        *("account", "user", "version"),
        *PLATFORMS,
        *("latitude", "longitude", "zone", "props"),
    ),
    "outcome": (
        *("account", "campaign", "chunk", "position", "user", "platform"),
        *("channel", "outcome", "code", "tag_group", "variant", "day", "at"),
    ),
}

Row = tuple[Any, ...]
Part = tuple[Sequence[Row], asyncio.Future[None]]  # one caller's rows, and the future it awaits


class Facts:
    """An open facts store. Its coroutines wait in threads of their own, so the event loop stays free."""

    def __init__(self, url: str, query_seconds: float = QUERY_SECONDS, query_megabytes: int = QUERY_MEGABYTES):
        self.url = url
        self.bound(query_seconds, query_megabytes)
        self.embedded = url.startswith("chdb:")
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._made = 0
        self._lock = threading.Lock()
        # Threads of its own: slow questions must not hold up the ledger's.
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="facts")
        self._waiting: dict[str, list[Part]] = defaultdict(list)
        self._inserting: dict[str, asyncio.Task[None]] = {}

    def bound(self, query_seconds: float = QUERY_SECONDS, query_megabytes: int = QUERY_MEGABYTES) -> None:
        """Limit the time and memory of each query from now on."""
        self._seconds, self._megabytes = query_seconds, query_megabytes
        self._budget = {
            "max_execution_time": query_seconds,
            "max_memory_usage": query_megabytes * 1024 * 1024,
            "max_query_size": STATEMENT_BYTES,
            "max_ast_elements": STATEMENT_BYTES,
            **IN_STAGES,
        }

    def query_now(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a query, run in the calling thread.

        Raises Problem 503 when it needs more time or memory than a query may.
        """
        with self._client() as client, self._bounded():
            return list(client.query(sql, parameters=dict(parameters), settings=self._budget).result_rows)

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a query, as `query_now` does."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.query_now, sql, parameters)

    def stream(self, sql: str, parameters: Mapping[str, Any]) -> Iterator[list[Row]]:
        """Yield the rows of a query in blocks, in the calling thread: memory does not grow with the answer.

        The limit of time is for the waits for blocks together; how long the caller takes between them does not matter.
        """
        # The store's own limit goes on while the caller works, so the query has none, and is killed by its name.
        name = secrets.token_hex(16)
        watch = Stopwatch(self._seconds, functools.partial(self._kill, name))
        budget = {**self._budget, "max_execution_time": 0}
        with self._client() as client, self._bounded():
            with watch.running():
                found = client.query_row_block_stream(
                    f"/* {name} */ {sql}", parameters=dict(parameters), settings=budget
                )
            with found as blocks:
                while True:
                    with watch.running():
                        block = next(blocks, None)
                    if block is None:
                        return
                    yield list(block)

    def _kill(self, name: str) -> None:
        """End the query that has this name in it, over a connection of its own: all others may be busy."""
        with closing(connect(self.url)) as client:
            client.command(f"KILL QUERY WHERE position(query, concat('{name[:16]}', '{name[16:]}')) > 0 ASYNC")

    def insert_now(self, table: str, rows: Sequence[Row]) -> None:
        """Store rows of COLUMNS[table], in the calling thread and in blocks of ROWS_AN_INSERT."""
        with self._client() as client:
            for start in range(0, len(rows), ROWS_AN_INSERT):
                client.insert(table, rows[start : start + ROWS_AN_INSERT], column_names=COLUMNS[table])

    def command_now(self, sql: str) -> None:
        """Run a statement that returns no rows, such as one that makes a table, without the limits of a query."""
        with self._client() as client:
            client.command(sql)

    async def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Store rows of COLUMNS[table]; they are stored when this returns.

        Rows that come while an insert is under way go together as the next block: an insert costs the store about the
        same for one row and for a thousand.
        """
        if not rows:
            return
        done = asyncio.get_running_loop().create_future()
        self._waiting[table].append((rows, done))
        if table not in self._inserting:
            self._inserting[table] = asyncio.create_task(self._insert_waiting(table))
        await done

    async def insert_columns(self, table: str, columns: Sequence[Sequence[Any]]) -> None:
        """Store one block of rows given as the columns of COLUMNS[table]; it is stored when this returns."""
        if not columns[0]:
            return

        def write() -> None:
            with self._client() as client:
                client.insert(table, columns, column_names=COLUMNS[table], column_oriented=True)

        await asyncio.get_running_loop().run_in_executor(self._threads, write)

    async def _insert_waiting(self, table: str) -> None:
        try:
            while batch := self._waiting.pop(table, None):
                try:
                    await self._insert_in_thread(table, [row for part, _ in batch for row in part])
                except Exception as error:
                    await self._insert_apart(table, batch, error)
                    continue
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)
        finally:
            del self._inserting[table]

    async def _insert_apart(self, table: str, batch: list[Part], error: Exception) -> None:
        """Insert each caller's rows alone, after their block failed: only the caller of a bad row gets the error."""
        for rows, done in batch:
            failure: Exception | None = error
            if len(batch) > 1:
                try:
                    await self._insert_in_thread(table, rows)
                    failure = None
                except Exception as its_own:
                    failure = its_own
            if done.done():
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

    async def _insert_in_thread(self, table: str, rows: Sequence[Row]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self.insert_now, table, rows)

    def close(self) -> None:
        """Wait for what runs in the threads, then close every connection."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            text = str(error)
            for code, bound in (
                ("TIMEOUT_EXCEEDED", f"{self._seconds:g} seconds (TOCSIN_QUERY_SECONDS)"),
                ("QUERY_WAS_CANCELLED", f"{self._seconds:g} seconds (TOCSIN_QUERY_SECONDS)"),
                ("MEMORY_LIMIT_EXCEEDED", f"{self._megabytes} MB of memory (TOCSIN_QUERY_MEGABYTES)"),
            ):
                if code in text:
                    raise Problem(f"The question needs more than {bound}; ask for less", code=503, status=503) from None
            raise

    @contextmanager
    def _client(self) -> Iterator[Any]:
        client = self._take()
        try:
            yield client
        finally:
            self._idle.put(client)

    def _take(self) -> Any:
        with self._lock:
            make = self._idle.empty() and self._made < CONNECTIONS
            self._made += make
        if not make:
            return self._idle.get(timeout=self._seconds * 2)
        try:
            return connect(self.url)
        except BaseException:
            with self._lock:
                self._made -= 1
            raise


def connect(url: str) -> Any:
    """Return a new connection of clickhouse-connect, in the database of our tables."""
    import clickhouse_connect

    if url.startswith("chdb:"):
        return clickhouse_connect.get_client(dsn=url, settings=AS_WRITTEN)
    database = urlsplit(url).path.strip("/") or "tocsin"
    return clickhouse_connect.get_client(dsn=url, database=database, settings=AS_WRITTEN)


def open_facts(url: str, query_seconds: float = QUERY_SECONDS, query_megabytes: int = QUERY_MEGABYTES) -> Facts:
    """Open the store and make the tables that are missing.

    Raises Misconfigured when it cannot be reached, when the folder of chDB belongs to another process, and when a table
    was made by another version.
    """
    import pyarrow.compute  # noqa: F401 - the client would load it with the first insert, for a tenth of a second

    if urlsplit(url).scheme not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise Misconfigured(
            f"TOCSIN_FACTS_URL must begin with one of {known}, not {urlsplit(url).scheme or 'nothing'}."
        )
    if url.startswith("chdb:"):
        Path(urlsplit(url).path).mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        client = connect(url)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise Misconfigured(
            f"The facts store at {_without_password(url)} cannot be opened ({reason}). A chDB folder belongs "
            "to one process: is `tocsin serve` running on it? For a ClickHouse server check TOCSIN_FACTS_URL."
        ) from None
    for statement in read_script():
        client.command(statement)
    _bound_parts(client)
    _check_layout(client, url)
    facts = Facts(url, query_seconds, query_megabytes)
    facts._made = 1
    facts._idle.put(client)
    return facts


def read_script() -> list[str]:
    """Return the statements that make what is missing of the store, and leave alone what is there."""
    script = (Path(__file__).parent / "facts.sql").read_text()
    lines = (line for line in script.splitlines() if not line.startswith("--"))
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]


def _bound_parts(client: Any) -> None:
    """Set PARTS for the tables with a JSON column, also of a store that is there; the next merges follow. A server that
    does not have one of these settings keeps its own way."""
    known = client.query(
        "SELECT name FROM system.merge_tree_settings WHERE has({names:Array(String)}, name)", {"names": list(PARTS)}
    )
    values = ", ".join(f"{name} = {PARTS[name]}" for (name,) in sorted(known.result_rows))
    for table in ("event", "profile") if values else ():
        client.command(f"ALTER TABLE {table} MODIFY SETTING {values}")


def _check_layout(client: Any, url: str) -> None:
    for table, columns in COLUMNS.items():
        found = {row[0] for row in client.query(f"DESCRIBE TABLE {table}").result_rows}
        if missing := set(columns) - found:
            raise Misconfigured(
                f"The facts store at {_without_password(url)} was made by another version of Tocsin: its table {table} "
                f"lacks {', '.join(sorted(missing))}. Give TOCSIN_FACTS_URL a new place, run `tocsin repair` for "
                "profiles and outcomes, and `tocsin import` for events."
            )


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":…@")
