"""The queue in front of the ledger for `/1/send`: requests that arrive together are one insert and one commit.

What waits is bounded by who calls: each request under way holds a place.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Sequence
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


class Offer(Protocol):
    """What may be sent of a batch as soon as it is committed. lease_seconds: of the leases of its chunks."""

    lease_seconds: float

    def claim(self, connection: Connection, requests: Sequence[NewRequest]) -> Sequence[Chunk | None]:
        """Return the chunk of each request that is claimed, to be inserted by `queue.insert_leased`; None for those
        that wait in the queue. Called within the transaction that inserts them, which may be run again."""

    def hand_over(self) -> None:
        """Send what was claimed: the transaction is committed."""

    def give_up(self) -> None:
        """Send nothing: the transaction failed, or nobody knows what became of it."""

    def end(self) -> None:
        """Give back what was kept ready, whatever became of the transaction."""


class Taker(Protocol):
    """Who delivers in this process."""

    def offer(self, entries: Sequence[QueuedSend]) -> Offer | None:
        """Return what claims requests in the transaction that inserts them; None when all of them are to wait."""


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
            results = await self._commit([entry for entry, _ in batch])
            for (_, done), result in zip(batch, results, strict=True):
                if done.done():
                    continue  # its caller was cancelled
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)
        self._writing = None

    async def _commit(self, entries: Sequence[QueuedSend]) -> Sequence[bool | Exception]:
        """Insert requests in one transaction, and have those delivered that were claimed in it. Return for each whether
        it was inserted, or why not."""
        offer, tags = self._find_offer(entries), set[tuple[str, str]]()
        try:
            insert = functools.partial(self._insert, entries=entries, tags=tags, offer=offer)
            results, waiting = await self._ledger.write(insert)
            self._tags |= tags
            if offer is not None:
                _hand_over(offer)
        except Exception as error:
            if offer is not None:
                offer.give_up()
            return [error] * len(entries)
        finally:
            if offer is not None:
                offer.end()
        for account_id in waiting:
            self._notify(account_id)
        return results

    def _find_offer(self, entries: Sequence[QueuedSend]) -> Offer | None:
        try:
            return None if self._taker is None else self._taker.offer(entries)
        except Exception:
            log.exception("requests wait in the queue", requests=len(entries))
            return None

    def _insert(
        self,
        connection: Connection,
        entries: Sequence[QueuedSend],
        tags: set[tuple[str, str]],
        offer: Offer | None,
    ) -> tuple[list[bool | Exception], set[str]]:
        """Insert the requests that were not queued before, and add their tag groups to `tags`. Return for each whether
        it was inserted, or its Problem; and the accounts of which some wait to be leased."""
        tags.clear()  # an earlier run of this transaction was broken off
        results = self._admit(connection, entries)
        new = [entry.request for entry, result in zip(entries, results, strict=True) if result is True]
        claimed: Sequence[Chunk | None] = [None] * len(new)
        if offer is not None and new:
            claimed = offer.claim(connection, new)
        waiting, leased = list[NewRequest](), list[Chunk]()
        for request, chunk in zip(new, claimed, strict=True):
            tag = self._find_tag(connection, request, tags)
            if chunk is not None:
                chunk.tag_group = tag
                leased.append(chunk)
            else:
                waiting.append(msgspec.structs.replace(request, tag_group=tag))
        if offer is not None and leased:  # first: their ids are the next ones
            queue.insert_leased(connection, leased, leased[0].started_at, offer.lease_seconds)
        queue.insert_requests(connection, waiting)
        return results, {request.account_id for request in waiting}

    def _admit(self, connection: Connection, entries: Sequence[QueuedSend]) -> list[bool | Exception]:
        """Return for each request whether it is to be inserted: False when it was queued before; or its Problem."""
        results: list[bool | Exception] = []
        early = [] if self._ledger.embedded else _find_early(connection, entries)
        for number, entry in enumerate(entries):
            try:
                if early and (problem := early[number]) is not None:
                    raise problem
                results.append(entry.key is None or keep(connection, entry.key, "", entry.request.now) is None)
            except Problem as refused:
                results.append(refused)
        return results

    def _find_tag(self, connection: Connection, request: NewRequest, tags: set[tuple[str, str]]) -> str:
        """Return the tag group that a request is counted under, which is inserted and added to `tags` if it is new."""
        tag = request.tag_group
        if not tag or (request.account_id, tag) in self._tags or (request.account_id, tag) in tags:
            return tag
        if not _add_tag_group(connection, request.account_id, tag, request.now):
            return ""
        tags.add((request.account_id, tag))
        return tag


def _hand_over(offer: Offer) -> None:
    """Have what was claimed sent. The requests are committed, so a failure is none of their callers': what becomes of
    them is settled when their lease is over."""
    try:
        offer.hand_over()
    except Exception:
        log.exception("requests wait for the end of their lease")


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
