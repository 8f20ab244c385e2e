"""Connections to the facts store: a line of them for each kind of work, with threads that wait for the answers."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tocsin.store.facts_error import hide_values

ANSWER_SECONDS = 300  # at most, for a question: its own limit is shorter

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

# An insert is stored on its shards when it is acknowledged, and an IN asks all shards. Alone, a server ignores both.
# Blocks are ours, and stored when they are acknowledged: an asynchronous insert is in no list of what runs, by which
# the feed knows how far it is complete. A block that is told again is stored again: rows have keys. Where a server
# skips one that it has, an older one skips its views too, which may have missed the first.
ON_A_SERVER = {
    "distributed_foreground_insert": 1,
    "distributed_product_mode": "global",
    "async_insert": 0,
    "insert_deduplicate": 0,
}
SINCE_26 = {"deduplicate_insert": "disable"}  # then `insert_deduplicate` counts for nothing


class FactsLine:
    """Up to `size` connections for one kind of work, and as many threads. They are made when they are first needed."""

    def __init__(self, url: str, name: str, size: int, answer_seconds: int = ANSWER_SECONDS):
        self._url, self._answer_seconds = url, answer_seconds
        self._size = size
        self._made = 0
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=f"facts-{name}")

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `work` returns, run in a thread of the line."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def add(self, client: Any) -> None:
        """Take over a connection that is open already."""
        self._made += 1
        self._idle.put(client)

    @contextmanager
    def client(self, patience: float) -> Iterator[Any]:
        """Yield a connection. patience: seconds to wait for one."""
        client = self._take(patience)
        try:
            with hide_values():
                yield client
        finally:
            self._idle.put(client)

    def close(self) -> None:
        """Wait for what runs, then close every connection."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    def _take(self, patience: float) -> Any:
        with self._lock:
            make = self._idle.empty() and self._made < self._size
            self._made += make
        if not make:
            return self._idle.get(timeout=patience)
        try:
            return connect(self._url, self._answer_seconds)
        except BaseException:
            with self._lock:
                self._made -= 1
            raise


def connect(url: str, answer_seconds: int = ANSWER_SECONDS) -> Any:
    """Return a new connection of clickhouse-connect, in the database of our tables."""
    import clickhouse_connect
    from clickhouse_connect.driver import options

    # As where pandas is not installed: the first insert would load it, for half a second, to see that it gets no frame.
    options.pd = options.pd_time_test = None
    if url.startswith("chdb:"):
        return clickhouse_connect.get_client(dsn=url, settings=AS_WRITTEN)
    client = clickhouse_connect.get_client(
        dsn=url,
        database=urlsplit(url).path.strip("/") or "tocsin",
        settings=AS_WRITTEN | ON_A_SERVER,
        send_receive_timeout=answer_seconds,
    )
    for name in SINCE_26.keys() & client.server_settings.keys():
        client.set_client_setting(name, SINCE_26[name])
    return client
