"""Arrival: requests to `/1/send` that are claimed in the transaction that inserts them.

What comes for an open lane, and has nothing waiting before it, is spared the queue: one commit accepts and claims it,
where the lease, the look-up and the claim would be three turns of their own. The promise is the same. Nothing is handed
over before the commit, and what a crash leaves claimed without a hand-over note was never handed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tocsin import queue
from tocsin.account import Account
from tocsin.delivery.claim import OpenLane, Window, drop_late, find_window, select_window
from tocsin.delivery.claim_commit import claim_windows
from tocsin.delivery.lane import Lane
from tocsin.delivery.plan import DeliveryPlan, LookUp, Planner
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.sender_pool import SenderPool
from tocsin.outcome import State
from tocsin.queue import Chunk, NewRequest
from tocsin.settings import Settings

log = structlog.get_logger()

Destination = tuple[str, str]  # account and channel


class OpenDestination(msgspec.Struct, frozen=True, eq=False):
    """An account's channel that takes messages at once. lanes: of it, those with room for `count` messages, which is
    kept for them. account: None when it has not been read yet."""

    lanes: Sequence[Lane]
    count: int
    account: Account | None = None


class ClaimedRequest(msgspec.Struct, frozen=True):
    """A request whose people are known. window: its messages, all of them claimed; empty when there is none."""

    chunk: Chunk
    plan: DeliveryPlan
    window: Window


class ClaimedBatch(msgspec.Struct, frozen=True):
    """What was claimed of one account's channel. lanes: by platform."""

    destination: Destination
    account: Account
    lanes: Mapping[str, Lane]
    requests: Sequence[ClaimedRequest]
    at: float


class Arrival:
    """One batch of requests, from before its transaction to after it. owner: in whose name they are leased. deliver:
    takes what was claimed and committed; release: what may have been. ended: set at the end; cancelled when the worker
    is gone by then."""

    def __init__(
        self,
        destinations: Mapping[Destination, OpenDestination],
        senders: SenderPool,
        settings: Settings,
        secret: Secrets,
        owner: str,
        clock: Callable[[], float],
        deliver: Callable[[ClaimedBatch], None],
        release: Callable[[Sequence[Chunk]], None],
    ) -> None:
        self.lease_seconds = settings.lease_seconds
        self.ended = asyncio.get_running_loop().create_future()
        self._destinations = destinations
        self._senders = senders
        self._settings = settings
        self._secret = secret
        self._owner = owner
        self._clock = clock
        self._deliver = deliver
        self._release = release
        self._claimed: list[ClaimedBatch] = []
        self._keep_room(1)

    def claim(self, connection: Connection, requests: Sequence[NewRequest]) -> Sequence[Chunk | None]:
        """Return the chunk of each request all of whose messages may go now, which are claimed; None for others."""
        self._claimed = []  # an earlier run of this transaction was broken off
        known = [place for place, one in enumerate(requests) if (one.account_id, one.channel) in self._destinations]
        # At once: until they are inserted, SQLite would give the same ids again.
        opened = queue.open_requests(connection, [requests[place] for place in known], self._owner, self._clock())
        claimed = set[int]()
        for destination in sorted(self._destinations):  # in one order: each may lock its account's caps
            made = [one for one in opened if (one.account_id, one.channel) == destination]
            try:
                claimed |= self._claim_some(connection, destination, made) if made else set()
            except DBAPIError:
                raise
            except Exception:  # a bug; whoever leases them meets it again, and the callers need not know
                log.exception("requests wait in the queue", account=destination[0], requests=len(made))
        chunks: list[Chunk | None] = [None] * len(requests)
        for place, chunk in zip(known, opened, strict=True):
            chunks[place] = chunk if chunk.id in claimed else None
        return chunks

    def hand_over(self) -> None:
        """Deliver what was claimed. Nothing when the worker is gone: whoever comes next finds no note of it."""
        if not self.ended.done():
            for batch in self._claimed:
                self._deliver(batch)

    def give_up(self) -> None:
        """Hand nothing over: the transaction failed, or was committed and the answer got lost."""
        chunks = [one.chunk for batch in self._claimed for one in batch.requests]
        if chunks and not self.ended.done():
            self._release(chunks)

    def end(self) -> None:
        """Give the kept room back, and let the worker go."""
        self._keep_room(-1)
        if not self.ended.done():
            self.ended.set_result(None)

    def _keep_room(self, sign: int) -> None:
        for opened in self._destinations.values():
            for lane in opened.lanes:
                lane.reserved += sign * opened.count

    def _claim_some(self, connection: Connection, destination: Destination, made: Sequence[Chunk]) -> set[int]:
        """Look up the people of an account's requests and claim what may go. Return the ids of these chunks."""
        (account_id, channel), opened = destination, self._destinations[destination]
        now = made[0].started_at
        found = Planner(connection, account_id, self._settings, self._secret).look_up(made, channel, opened.account)
        if (lanes := self._senders.find_current(found.credentials)) is None:
            return set()
        views = {
            platform: OpenLane(room=opened.count if lane in opened.lanes else 0) for platform, lane in lanes.items()
        }
        selected = [
            (one, one.window) for one in (self._select(found, *planned, views, now) for planned in found.plans) if one
        ]
        windows = claim_windows(connection, selected, now)
        requests = [ClaimedRequest(one.chunk, one.plan, window) for one, window in windows]
        self._claimed.append(ClaimedBatch(destination, found.account, lanes, requests, now))
        for one in requests:
            one.chunk.new = one.chunk.changed = False  # they are inserted as they are now
        return {one.chunk.id for one in requests}

    def _select(
        self, found: LookUp, chunk: Chunk, plan: DeliveryPlan, views: Mapping[str, OpenLane], now: float
    ) -> ClaimedRequest | None:
        """Return a request with the messages that may go; None when somebody would have to wait."""
        found.name(chunk, now)
        drop_late(chunk, now)
        size = min(plan.window, self._settings.window)
        positions = select_window(chunk, views, lambda _: False, size, now)
        window = find_window(chunk, positions, plan, found.people, found.account, now)
        going = {message.position for messages in window.values() for message in messages}
        return ClaimedRequest(chunk, plan, window) if chunk.states.count(State.WAITING) == len(going) else None
