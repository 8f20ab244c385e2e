"""The queue of `/1/send`: requests that arrive at the same moment are one insert and one commit of the ledger.

What waits is bounded in number and in bytes; beyond that a caller is told to come again, before anything is read.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
from sqlalchemy import Connection, func, select

from tocsin import queue
from tocsin.errors import Problem
from tocsin.idempotency import IdempotencyKey, keep
from tocsin.queue import NewRequest
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.rows import insert_new

AT_ONCE = 1024  # requests under way; a connection has one
BYTES = 256 * 1024 * 1024  # of their bodies
A_COMMIT = 128  # more would make the first of them wait for the last
TAG_GROUPS = 20
NOT_TAGGED = "Not Tagged"


class QueuedSend(msgspec.Struct, frozen=True):
    """A request to be queued. key, answer: what its Idempotency-Key will stand for."""

    request: NewRequest
    key: IdempotencyKey | None = None
    answer: str = ""


class SendQueue:
    """The requests that wait for their commit."""

    def __init__(self, ledger: Ledger, at_once: int = AT_ONCE, most_bytes: int = BYTES):
        self._ledger = ledger
        self._at_once = at_once
        self._most_bytes = most_bytes
        self._busy = 0
        self._bytes = 0
        self._waiting: deque[tuple[QueuedSend, asyncio.Future[bool]]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._tags: set[tuple[str, str]] = set()  # (account, group) that are in the ledger for certain

    @contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Holds a place for a request of so many bytes, as it says itself. Raises Problem 429."""
        if self._busy >= self._at_once or self._bytes + size > self._most_bytes:
            raise Problem("Too many requests are waiting; try again", code=429, status=429, retry_after=1)
        self._busy += 1
        self._bytes += size
        try:
            yield
        finally:
            self._busy -= 1
            self._bytes -= size

    async def put(self, entry: QueuedSend) -> bool:
        """Queues a request; it is durable when this returns. False: its key says it was queued before. Raises Problem
        422 for a key that stands for another request."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return bool(await done)

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), A_COMMIT))]
            entries, tags = [entry for entry, _ in batch], set[tuple[str, str]]()
            results: Sequence[bool | Exception]
            try:
                results = await self._ledger.write(functools.partial(self._insert, entries=entries, tags=tags))
                self._tags |= tags
            except Exception as error:
                results = [error] * len(batch)
            for (_, done), result in zip(batch, results, strict=True):
                if done.done():
                    continue  # the caller has gone
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)
        self._writing = None

    def _insert(
        self, connection: Connection, entries: Sequence[QueuedSend], tags: set[tuple[str, str]]
    ) -> list[bool | Exception]:
        """Writes those that were not queued before, and adds the groups they are in to `tags`."""
        results: list[bool | Exception] = []
        new: list[NewRequest] = []
        for entry in entries:
            request = entry.request
            try:
                if entry.key is not None and keep(connection, entry.key, entry.answer, request.now) is not None:
                    results.append(False)
                    continue
            except Problem as problem:
                results.append(problem)
                continue
            tag = request.tag_group
            if tag and (request.account_id, tag) not in self._tags | tags:
                if _make_tag(connection, request.account_id, tag, request.now):
                    tags.add((request.account_id, tag))
                else:
                    request = msgspec.structs.replace(request, tag_group="")
            new.append(request)
            results.append(True)
        queue.insert_requests(connection, new)
        return results


def _make_tag(connection: Connection, account_id: str, tag: str, now: float) -> bool:
    """Whether this is one of the account's first TAG_GROUPS; the others are shown as «Not Tagged»."""
    table = schema.tag_group
    mine = table.c.account_id == account_id
    if connection.scalar(select(func.count()).where(mine, table.c.name == tag)):
        return True
    # Two new groups at once, in two processes, take turns at the last place.
    connection.execute(select(schema.account.c.id).where(schema.account.c.id == account_id).with_for_update())
    if (connection.scalar(select(func.count()).where(mine)) or 0) >= TAG_GROUPS:
        return False
    insert_new(connection, table, {"account_id": account_id, "name": tag, "created_at": now})
    return True
