"""The queue in front of the ledger for `/1/send`: requests that arrive together are one insert and one commit.

What waits is bounded by who calls: each request under way holds a place.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec
import structlog
from sqlalchemy import Connection, func, select

from tocsin import queue
from tocsin.campaign.send_rate import SendRate, pass_together
from tocsin.errors import Problem
from tocsin.idempotency import IdempotencyKey, keep
from tocsin.queue import Chunk, NewRequest
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_account
from tocsin.store.rows import insert_new

log = structlog.get_logger()

REQUESTS_A_COMMIT = 128  # with more, the first would wait long for the last
TAG_GROUPS = 20  # of an account
NOT_TAGGED = "Not Tagged"


class QueuedSend(msgspec.Struct, frozen=True):
    """A request to be queued, and its key. Under the key no answer is stored: there is only one. rate: the account's,
    if it has one; people: whom the request names."""

    request: NewRequest
    key: IdempotencyKey | None = None
    rate: SendRate | None = None
    people: int = 0


class Taker(Protocol):
    """Who delivers in this process, and may lease requests as they are inserted."""

    def offer(self, accounts: Collection[str]) -> Callable[[Connection], list[Chunk]] | None:
        """Return what leases them in the transaction that inserts them; None when that should wait for a turn."""

    async def take(self, chunks: Sequence[Chunk]) -> None:
        """Deliver what was leased so."""


class SendQueue:
    """Collects requests and commits them in batches, one batch at a time. notify: called with each account of whose
    requests some are to be leased by whoever looks."""

    def __init__(self, ledger: Ledger, taker: Taker | None = None, notify: Callable[[str], None] = lambda _: None):
        self._ledger = ledger
        self._taker = taker
        self._notify = notify
        self._waiting: deque[tuple[QueuedSend, asyncio.Future[bool]]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._tags: set[tuple[str, str]] = set()  # (account, group) known to be in the ledger

    async def put(self, entry: QueuedSend) -> bool:
        """Commit a request to the ledger. Return False when its key says that it was queued before. Raise Problem 422
        when its key was used for another request."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return bool(await done)

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), REQUESTS_A_COMMIT))]
            entries, tags = [entry for entry, _ in batch], set[tuple[str, str]]()
            accounts = {entry.request.account_id for entry in entries}
            lease = self._taker.offer(accounts) if self._taker is not None else None
            insert = functools.partial(self._insert, entries=entries, tags=tags, lease=lease)
            results: Sequence[bool | Exception]
            try:
                results, leased = await self._ledger.write(insert)
                self._tags |= tags
            except Exception as error:
                results, leased = [error] * len(batch), []
            if leased and self._taker is not None:
                await self._pass_on(self._taker, leased)
            inserted = Counter(one.request.account_id for one, new in zip(entries, results, strict=True) if new is True)
            for account in inserted - Counter(chunk.account_id for chunk in leased):
                self._notify(account)
            for (_, done), result in zip(batch, results, strict=True):
                if done.done():
                    continue  # its caller was cancelled
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)
        self._writing = None

    async def _pass_on(self, taker: Taker, leased: Sequence[Chunk]) -> None:
        """Have what was leased delivered. The requests are committed, so a failure is none of their callers': whoever
        looks next has them when the lease is over."""
        try:
            await taker.take(leased)
        except Exception:
            log.exception("requests wait for the end of their lease", chunks=len(leased))

    def _insert(
        self,
        connection: Connection,
        entries: Sequence[QueuedSend],
        tags: set[tuple[str, str]],
        lease: Callable[[Connection], list[Chunk]] | None,
    ) -> tuple[list[bool | Exception], list[Chunk]]:
        """Insert the requests that were not queued before, and add their tag groups to `tags`. Return for each whether
        it was inserted, or its Problem; and what was leased."""
        tags.clear()  # an earlier run of this transaction was broken off
        results: list[bool | Exception] = []
        new: list[NewRequest] = []
        early = [] if self._ledger.embedded else _find_early(connection, entries)
        for number, entry in enumerate(entries):
            request = entry.request
            try:
                if early and (problem := early[number]) is not None:
                    raise problem
                if entry.key is not None and keep(connection, entry.key, "", request.now) is not None:
                    results.append(False)
                    continue
            except Problem as refused:
                results.append(refused)
                continue
            tag = request.tag_group
            if tag and (request.account_id, tag) not in self._tags | tags:
                if _add_tag_group(connection, request.account_id, tag, request.now):
                    tags.add((request.account_id, tag))
                else:
                    request = msgspec.structs.replace(request, tag_group="")
            new.append(request)
            results.append(True)
        queue.insert_requests(connection, new)
        return results, lease(connection) if lease is not None and new else []


def _find_early(connection: Connection, entries: Sequence[QueuedSend]) -> Sequence[Problem | None]:
    """Return the Problem of each request that is more than its account may make, None for others."""
    rates = {one.request.account_id: one.rate for one in entries if one.rate is not None and one.rate.is_limited}
    return pass_together(connection, rates, [(one.request.account_id, one.people) for one in entries]) if rates else []


def _add_tag_group(connection: Connection, account_id: str, tag: str, now: float) -> bool:
    """Insert a tag group unless it is there. Return False when the account has TAG_GROUPS others: the request is then
    counted as «Not Tagged»."""
    table = schema.tag_group
    mine = table.c.account_id == account_id
    if connection.scalar(select(func.count()).where(mine, table.c.name == tag)):
        return True
    # Two processes that add a group at the same time must not both take the last place.
    lock_account(connection, account_id)
    if (connection.scalar(select(func.count()).where(mine)) or 0) >= TAG_GROUPS:
        return False
    insert_new(connection, table, {"account_id": account_id, "name": tag, "created_at": now})
    return True
