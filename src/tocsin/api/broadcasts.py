"""Broadcasts: what somebody watches is read again and again, once for all who watch it, until nobody does; what many
ask for at about the same time is read once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from tocsin.api.places import Places
from tocsin.store.deadline import begin_deadline

log = structlog.get_logger()

SHARE = 4  # times as long as a reading took, nothing is read again
WATCHING, WATCHING_EACH = 512, 32  # streams of one process, and of one account in it
HEARTBEAT_SECONDS = 15.0  # proxies close what says nothing for longer

T = TypeVar("T")
Read = Callable[[], Awaitable[tuple[Any, float]]]  # the value, and the seconds until it may be another one
_OVER = object()


class Broadcasts:
    """The values that are watched in this process. stop: ends them all. places: for whoever keeps a stream open."""

    def __init__(self, stop: asyncio.Event, query_seconds: float):
        self.places = Places(WATCHING, WATCHING_EACH)
        self._stop = stop
        self._query_seconds = query_seconds
        self._latest: dict[Any, Any] = {}
        self._watching: dict[Any, set[asyncio.Queue[Any]]] = {}
        self._tasks: dict[Any, asyncio.Task[None]] = {}
        self._shared: dict[Any, tuple[float, asyncio.Task[Any]]] = {}

    async def share(self, key: Any, read: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
        """Return what was read for a key at most so many seconds ago, or is being read; else read it. Raises what
        reading raises, to all who wait for it."""
        now = time.monotonic()
        self._shared = {one: kept for one, kept in self._shared.items() if now < kept[0] or not kept[1].done()}
        if key not in self._shared:
            self._shared[key] = (now + seconds, asyncio.create_task(read()))
        found: T = await asyncio.shield(self._shared[key][1])
        return found

    async def watch(self, key: Any, read: Read) -> AsyncGenerator[Any, None]:
        """Yield the value of a key each time it was read, None when HEARTBEAT_SECONDS passed without one. Whoever is
        slow misses values, never the newest. Ends with the server, and when a reading fails."""
        mine: asyncio.Queue[Any] = asyncio.Queue(1)
        watching = self._watching.setdefault(key, set())
        watching.add(mine)
        if key in self._latest:
            mine.put_nowait(self._latest[key])
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._read_again(key, read))
        try:
            while not self._stop.is_set():
                try:
                    value = await asyncio.wait_for(mine.get(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    value = None
                if value is _OVER:
                    return
                yield value
        finally:
            watching.discard(mine)
            if not watching and self._watching.get(key) is watching:
                self._forget(key)

    async def _read_again(self, key: Any, read: Read) -> None:
        """Read a value until this task is cancelled, which happens when nobody watches any more."""
        try:
            while not self._stop.is_set():
                begin_deadline(self._query_seconds)
                began = time.monotonic()
                value, pause = await read()
                self._latest[key] = value
                self._publish(key, value)
                took = time.monotonic() - began
                try:
                    await asyncio.wait_for(self._stop.wait(), max(pause, SHARE * took))
                except TimeoutError:
                    continue
        except Exception:
            log.exception("what is watched could not be read")
        finally:
            if self._tasks.get(key) is asyncio.current_task():  # else nobody watched, or somebody does again
                self._publish(key, _OVER)
                self._forget(key)

    def _publish(self, key: Any, value: Any) -> None:
        for queue in self._watching.get(key, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(value)

    def _forget(self, key: Any) -> None:
        self._watching.pop(key, None)
        self._latest.pop(key, None)
        if (task := self._tasks.pop(key, None)) is not None and task is not asyncio.current_task():
            task.cancel()
