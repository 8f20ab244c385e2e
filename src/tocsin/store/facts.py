"""The facts store: events, profiles to query, outcomes. chDB in this process, or a ClickHouse server.

With `facts_line.py` the only place that speaks to either. Values always travel as bound parameters, never inside the
text of a statement.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import re
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from tocsin.channels import PLATFORMS
from tocsin.errors import Misconfigured, Problem
from tocsin.settings import hide_passwords
from tocsin.store.deadline import time_left
from tocsin.store.facts_error import find_trouble
from tocsin.store.facts_line import FactsLine, connect
from tocsin.store.insert_pace import ROWS_AN_INSERT, TRIES, InsertPace
from tocsin.store.stopwatch import Stopwatch
from tocsin.store.turns import Turns

# Questions, inserts, audiences and health have lines of their own: none waits for another kind. chDB shares its threads
# among them anyway.
QUESTIONS, INSERTS, STREAMS, CHECKS = 4, 2, 4, 1
EACH, WAITING = 2, 1024  # questions of one account at a time, and more of them that may wait
CHECK_SECONDS = 2.0
THREADS = max((os.cpu_count() or 2) - 1, 1)  # of one question: a core is left for the others
QUERY_SECONDS = 30.0
QUERY_MEGABYTES = 2048
INSERT_SECONDS = 60  # for the answer to one block
BLOCKS_BYTES = 32 * 1024 * 1024  # of blocks that are inserted together
# ClickHouse must not merge a condition into the subquery it filters, where it would be computed for every row.
IN_STAGES = {"query_plan_merge_filters": 0, "query_plan_filter_push_down": 0}
STATEMENT_BYTES = 4_000_000  # a question of the most parts and conditions is under 1 MB

# A setting of the engines that also read what `native_block` writes.
READS_BLOCKS = "output_format_native_use_flattened_dynamic_and_json_serialization"

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
    "listener": ("account", "changed", "active"),
}

# Each view on a table costs every insert there: two of these 7 ms of one row. So they are made with the first listener.
FEED_VIEW = re.compile(r"\s*CREATE MATERIALIZED VIEW IF NOT EXISTS \w+ TO feed\b")
OTHER_EVENTS = "other_event_to_feed"  # the one for those who need every event

Row = tuple[Any, ...]
Part = tuple[Sequence[Row] | bytes, asyncio.Future[None]]  # one caller's rows, and the future it awaits
Line = tuple[str, Literal["rows", "block"]]  # a table, and how rows of it come


class Facts:
    """An open facts store. Its coroutines wait in threads of their own, so the event loop stays free."""

    def __init__(
        self,
        url: str,
        query_seconds: float = QUERY_SECONDS,
        query_megabytes: int = QUERY_MEGABYTES,
        insert_seconds: int = INSERT_SECONDS,
        insert_tries: int = TRIES,
    ):
        self.url = url
        self.bound(query_seconds, query_megabytes)
        self.embedded = url.startswith("chdb:")
        self.engine = ""  # the version of the store's engine, once it was opened
        self.distributed = False  # the tables stand before those of a cluster
        self.takes_blocks = False  # the engine reads what `native_block` writes
        self._questions = FactsLine(url, "question", QUESTIONS)
        self._inserts = FactsLine(url, "insert", INSERTS, insert_seconds)
        self._streams = FactsLine(url, "stream", STREAMS)
        self._checks = FactsLine(url, "check", CHECKS)
        self._turns = Turns(QUESTIONS, EACH, WAITING)
        self._types: dict[str, Sequence[Any]] = {}  # of COLUMNS, once they were asked for
        self._waiting: dict[Line, list[Part]] = defaultdict(list)
        self._inserting: dict[Line, asyncio.Task[None]] = {}
        self._paces: dict[str, InsertPace] = defaultdict(lambda: InsertPace(insert_tries))

    def bound(self, query_seconds: float = QUERY_SECONDS, query_megabytes: int = QUERY_MEGABYTES) -> None:
        """Limit the time and memory of each query from now on."""
        self._seconds, self._megabytes = query_seconds, query_megabytes
        self._budget = {
            "max_execution_time": query_seconds,
            "max_memory_usage": query_megabytes * 1024 * 1024,
            "max_query_size": STATEMENT_BYTES,
            "max_threads": THREADS,
            "max_ast_elements": STATEMENT_BYTES,
            **IN_STAGES,
        }

    def query_now(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a query, run in the calling thread.

        Raises Problem 503 when it needs more time or memory than a query may.
        """
        return self._ask(self._questions, sql, parameters, time_left(self._seconds))

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a query, as `query_now` does, when it is its account's turn. Raises Problem 429 when too
        many of the account wait, and 503 at the request's deadline."""
        try:
            async with asyncio.timeout(time_left(self._seconds)) as waiting:
                async with self._turns.take(str(parameters.get("account", ""))):
                    waiting.reschedule(None)
                    seconds = time_left(self._seconds)
                    line = self._questions
                    found: list[Row] = await line.run(self._ask, line, sql, parameters, seconds)
                    return found
        except TimeoutError:
            raise self._too_long() from None

    async def check(self) -> None:
        """Raise what keeps the store from answering. Takes CHECK_SECONDS at most, and waits for no question."""
        async with asyncio.timeout(CHECK_SECONDS):
            await self._checks.run(self._ask, self._checks, "SELECT 1", {}, CHECK_SECONDS)

    def _ask(self, line: FactsLine, sql: str, parameters: Mapping[str, Any], seconds: float) -> list[Row]:
        if not seconds:
            raise self._too_long()
        budget = {**self._budget, "max_execution_time": seconds}
        with line.client(2 * self._seconds) as client, self._bounded():
            return list(client.query(sql, parameters=dict(parameters), settings=budget).result_rows)

    def _too_long(self) -> Problem:
        bound = f"{self._seconds:g} seconds (TOCSIN_QUERY_SECONDS)"
        return Problem(f"The question needs more than {bound}; ask for less", code=503, status=503)

    def stream(self, sql: str, parameters: Mapping[str, Any]) -> Iterator[list[Row]]:
        """Yield the rows of a query in blocks, in the calling thread: memory does not grow with the answer.

        The limit of time is for the waits for blocks together; how long the caller takes between them does not matter.
        """
        # The store's own limit goes on while the caller works, so the query has none, and is killed by its name.
        name = secrets.token_hex(16)
        watch = Stopwatch(self._seconds, functools.partial(self._kill, name))
        budget = {**self._budget, "max_execution_time": 0}
        with self._streams.client(2 * self._seconds) as client, self._bounded():
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
        """Store rows of COLUMNS[table], in the calling thread and in blocks of ROWS_AN_INSERT, each tried once."""
        with self._inserts.client(2 * self._seconds) as client:
            for start in range(0, len(rows), ROWS_AN_INSERT):
                self._write(client, table, rows[start : start + ROWS_AN_INSERT])

    def command_now(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that returns no rows, such as one that makes a table, without the limits of a query."""
        with self._questions.client(2 * self._seconds) as client:
            client.command(sql, parameters=dict(parameters or {}))

    async def make_feed(self, *, every_event: bool = False) -> None:
        """Have `feed` filled from now on, by views; a cluster has them since its schema was made."""

        def make() -> None:
            for statement in filter(FEED_VIEW.match, read_script()):
                if every_event or OTHER_EVENTS not in statement:
                    self.command_now(statement)

        if not self.distributed:
            await self._questions.run(make)

    def freeze_now(self, name: str) -> dict[str, str]:
        """Keep the parts of every table as they are between two inserts, as hard links below `shadow/NAME`. Return the
        folder of each table, seen from the store's own. For chDB."""
        with ExitStack() as held:
            client, *_ = [held.enter_context(self._inserts.client(2 * self._seconds)) for _ in range(INSERTS)]
            tables = self.find_folders()
            for table in tables:
                client.command(f"ALTER TABLE {table} FREEZE WITH NAME '{name}'")
        root = Path(urlsplit(self.url).path)
        return {table: f"shadow/{name}/{Path(one).relative_to(root)}" for table, one in tables.items()}

    def find_folders(self) -> dict[str, str]:
        """Return where the parts of each table are. For chDB."""
        found = self.query_now(
            "SELECT name, data_paths[1] FROM system.tables "
            "WHERE database = currentDatabase() AND endsWith(engine, 'MergeTree')",
            {},
        )
        return {str(name): str(folder) for name, folder in found}

    async def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Store rows of COLUMNS[table]; they are stored when this returns.

        Rows that come while an insert is under way go together as the next block: an insert costs the store about the
        same for one row and for a thousand.
        """
        if rows:
            await self._wait_for((table, "rows"), rows)

    async def insert_columns(self, table: str, columns: Sequence[Sequence[Any]]) -> None:
        """Store rows given as the columns of COLUMNS[table]; they are stored when this returns."""

        def write(client: Any, start: int, stop: int) -> None:
            self._write(client, table, [column[start:stop] for column in columns], by_columns=True)

        await self._store(table, len(columns[0]), write)

    async def copy_events(self, account_id: str, pairs: Sequence[tuple[int, int]]) -> None:
        """Store the events of some users under others as well: (whose they are, for whom). They keep their ids, so
        that what is stored again of them is once."""
        sql = (
            "INSERT INTO event SELECT account, name, day, transform(user, {users:Array(UInt32)}, "
            "{others:Array(UInt32)}, user), at, id, props, raw FROM event FINAL "
            "WHERE account = {account:String} AND user IN {users:Array(UInt32)}"
        )
        asked = {"account": account_id, "users": [old for old, _ in pairs], "others": [new for _, new in pairs]}

        await self._store("event", 1, lambda client, _start, _stop: client.command(sql, parameters=asked))

    async def insert_block(self, table: str, block: bytes) -> None:
        """Store a block of `native_block` with the columns of COLUMNS[table]; it is stored when this returns. Blocks
        that come while an insert is under way go together, as rows do."""
        await self._wait_for((table, "block"), block)

    async def _wait_for(self, line: Line, part: Sequence[Row] | bytes) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting[line].append((part, done))
        if line not in self._inserting:
            self._inserting[line] = asyncio.create_task(self._insert_waiting(line))
        await done

    async def _insert_waiting(self, line: Line) -> None:
        try:
            while waiting := self._waiting.pop(line, None):
                count = len(waiting) if line[1] == "rows" else _count_together([len(block) for block, _ in waiting])
                batch, later = waiting[:count], waiting[count:]
                if later:
                    self._waiting[line] = later
                try:
                    await self._insert_parts(line, [part for part, _ in batch])
                except Exception as error:
                    await self._insert_apart(line, batch, error)
                    continue
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)
        finally:
            del self._inserting[line]

    async def _insert_apart(self, line: Line, batch: list[Part], error: Exception) -> None:
        """Insert each caller's rows alone, after they failed together: only the caller of a bad row gets the error.
        When it is the store that fails, all do."""
        apart = len(batch) > 1 and find_trouble(error) is None
        for part, done in batch:
            failure: Exception | None = error
            if apart:
                try:
                    await self._insert_parts(line, [part])
                    failure = None
                except Exception as its_own:
                    failure = its_own
            if done.done():
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

    async def _insert_parts(self, line: Line, parts: Sequence[Any]) -> None:
        table, kind = line
        rows = [row for part in parts for row in part] if kind == "rows" else []
        blocks = b"".join(parts) if kind == "block" else b""

        def write(client: Any, start: int, stop: int) -> None:
            if rows:
                self._write(client, table, rows[start:stop])
            else:
                client.raw_insert(table, COLUMNS[table], blocks, fmt="Native")

        await self._store(table, len(rows) or 1, write)

    def _write(self, client: Any, table: str, data: Sequence[Any], *, by_columns: bool = False) -> None:
        """Insert one block. The client would ask for the types of its columns each time."""
        names = COLUMNS[table]
        if table not in self._types:
            self._types[table] = client.create_insert_context(table, names).column_types
        client.insert(table, data, names, column_types=self._types[table], column_oriented=by_columns)

    async def _store(self, table: str, count: int, write: Callable[[Any, int, int], Any]) -> None:
        """Have rows written in blocks, `write(client, start, stop)` each in a thread, at the table's pace."""

        def write_block(start: int, stop: int) -> None:
            with self._inserts.client(2 * self._seconds) as client:
                write(client, start, stop)

        await self._paces[table].store(table, count, lambda *block: self._inserts.run(write_block, *block))

    def close(self) -> None:
        """Wait for what runs in the threads, then close every connection."""
        for line in (self._questions, self._inserts, self._streams, self._checks):
            line.close()

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            text = str(error)
            for code, bound in (
                ("TIMEOUT_EXCEEDED", ""),
                ("QUERY_WAS_CANCELLED", ""),
                ("MEMORY_LIMIT_EXCEEDED", f"{self._megabytes} MB of memory (TOCSIN_QUERY_MEGABYTES)"),
            ):
                if code in text:
                    if not bound:
                        raise self._too_long() from None
                    raise Problem(f"The question needs more than {bound}; ask for less", code=503, status=503) from None
            raise


def _count_together(sizes: Sequence[int]) -> int:
    """Return how many of these blocks, from the first on, are inserted together."""
    return max(1, sum(total <= BLOCKS_BYTES for total in itertools.accumulate(sizes)))


def open_facts(
    url: str,
    query_seconds: float = QUERY_SECONDS,
    query_megabytes: int = QUERY_MEGABYTES,
    insert_seconds: int = INSERT_SECONDS,
    insert_tries: int = TRIES,
) -> Facts:
    """Open the store and make the tables that are missing.

    Raises Misconfigured when it cannot be reached, when the folder of chDB belongs to another process, and when a table
    was made by another version.
    """
    import pyarrow.compute  # noqa: F401 - the client would load it with the first insert, for a tenth of a second

    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise Misconfigured(f"TOCSIN_FACTS_URL must begin with one of {', '.join(SCHEMES)}, not {scheme or 'nothing'}.")
    try:
        urlsplit(url)
    except ValueError as error:
        raise Misconfigured(f"TOCSIN_FACTS_URL is no URL that can be read: {error}.") from None
    if url.startswith("chdb:"):
        Path(urlsplit(url).path).mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        client = connect(url)
    except Exception as error:
        reason = hide_passwords(" ".join(str(error).split()))[:200]
        raise Misconfigured(
            f"The facts store at {hide_passwords(url)} cannot be opened ({reason}). A chDB folder belongs "
            "to one process: is `tocsin serve` running on it? For a ClickHouse server check TOCSIN_FACTS_URL."
        ) from None
    distributed = _is_distributed(client)
    if not distributed:
        for statement in read_script():
            if not FEED_VIEW.match(statement):
                client.command(statement)
        _bound_parts(client)
    _check_layout(client, url)
    facts = Facts(url, query_seconds, query_megabytes, insert_seconds, insert_tries)
    facts._questions.add(client)
    facts.engine = str(client.server_version)
    facts.distributed = distributed
    facts.takes_blocks = _knows_flattened(client)
    return facts


def read_script() -> list[str]:
    """Return the statements that make what is missing of the store, and leave alone what is there."""
    script = (Path(__file__).parent / "facts.sql").read_text()
    lines = (line for line in script.splitlines() if not line.startswith("--"))
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]


def _is_distributed(client: Any) -> bool:
    """Return whether the tables stand before those of a cluster: `tocsin facts schema` makes them, and no start."""
    asked = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND engine = 'Distributed'"
    return bool(client.query(asked).result_rows[0][0])


def _knows_flattened(client: Any) -> bool:
    """Return whether the engine reads a JSON column as a typed column a path: ClickHouse from 25.6 on."""
    asked = "SELECT count() FROM system.settings WHERE name = {name:String}"
    return bool(client.query(asked, parameters={"name": READS_BLOCKS}).result_rows[0][0])


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
                f"The facts store at {hide_passwords(url)} was made by another version of Tocsin: its table {table} "
                f"lacks {', '.join(sorted(missing))}. Give TOCSIN_FACTS_URL a new place, run `tocsin repair` for "
                "profiles and outcomes, and `tocsin import` for events."
            )
