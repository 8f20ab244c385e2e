"""The worker: leases what is due from the queue and gives it to a dispatcher for each account and channel. Keeps the
leases, and finds out what became of what dead workers had claimed."""

from __future__ import annotations

import asyncio
import functools
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import structlog
from sqlalchemy import Connection, func, select

from tocsin import queue
from tocsin.delivery.completer import Completer
from tocsin.delivery.content_breaker import ContentBreaker
from tocsin.delivery.dispatcher import Delivery, Dispatcher
from tocsin.delivery.handover import HandoverFolder
from tocsin.delivery.load_shedding import LoadMeter
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.rescue import rescue_abandoned
from tocsin.delivery.retry import RetryPolicy
from tocsin.delivery.sender_pool import SenderPool
from tocsin.delivery.settle import SettleRules
from tocsin.delivery.wakeup import Wakeup
from tocsin.queue import CAMPAIGN, TRANSACTIONAL, Chunk
from tocsin.settings import Settings
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

POLL_SECONDS = 0.5  # what another process put into the queue is found after so long
LONGEST_POLL_SECONDS = 5.0  # where no other process does
TROUBLE_SECONDS = 0.5
REQUESTS = 256  # leased at once, and of one account not yet claimed
HELD = 4_000  # chunks of one worker, most of them waiting for slow answers only; of one account half of them
REST_FACTOR = 3  # after a request under heavy load: a pause so many times as long as it took
LONGEST_REST = 1.0
_NEAREST = select(func.min(schema.chunk.c.not_before)).where(schema.chunk_is_open, schema.chunk.c.lease_owner.is_(None))
Clock = Callable[[], float]


class Worker:
    """Delivers chunks until `stop`; then it waits for the vendors' answers and settles them. folder: where hand-over
    notes are, of this worker and of those before it."""

    def __init__(
        self,
        ledger: Ledger,
        facts: Facts,
        senders: SenderPool,
        settings: Settings,
        secret: Secrets,
        clock: Clock,
        wakeup: Wakeup,
        folder: Path,
        load: LoadMeter | None = None,
    ):
        self.owner = ""  # names one `run`
        self._ledger = ledger
        self._senders = senders
        self._settings = settings
        self._clock = clock
        self._wakeup = wakeup
        self._root = folder
        self._load = load or LoadMeter()
        self.ready = asyncio.Event()
        self._stopping = False
        self._released, self._next_due = True, 0.0
        self._full = False  # something may be due that there was no room for
        self._turns: dict[int, dict[str, None]] = {TRANSACTIONAL: {}, CAMPAIGN: {}}
        self._dispatchers: dict[tuple[str, str, bool], Dispatcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._completer = Completer(ledger, facts, clock, lambda: bool(self._dispatchers), self._note_release)
        self._delivery = Delivery(
            ledger,
            facts,
            senders,
            settings,
            secret,
            clock,
            self._completer,
            ContentBreaker(),
            self._note_progress,
        )
        policy = RetryPolicy(settings.retry_floor, settings.retries)
        self._rules = SettleRules(policy, every_device=True, random=random.Random().random)  # noqa: S311 - jitter

    @property
    def busy(self) -> bool:
        """Whether chunks are being delivered."""
        return bool(self._dispatchers)

    def stop(self) -> None:
        """Claim nothing more; what is with a vendor is waited for and settled."""
        self._stopping = True
        for dispatcher in self._dispatchers.values():
            dispatcher.stop()
        self._wakeup.notify()

    async def run(self) -> None:
        """Deliver until `stop`. Nothing is leased before the senders are up."""
        self.owner, self._stopping = uuid.uuid4().hex, False
        notes = HandoverFolder(self._root, self.owner)
        try:
            await self._rescue()
            await self._senders.start(notes, self._wakeup.notify)
            self.ready.set()
            async with asyncio.TaskGroup() as group:
                completer = group.create_task(self._completer.run())
                keeper = group.create_task(self._keep_leases())
                await self._lease_all()
                while self._tasks:
                    await asyncio.wait(self._tasks)
                self._completer.end()
                await completer
                keeper.cancel()
        finally:
            for task in (*self._tasks,):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            settled = self._senders.settled  # else it was cancelled
            await self._senders.stop()  # nothing may be handed over once the notes are let go
            notes.close(settled=settled)

    async def _lease_all(self) -> None:
        """Lease what is due and pass it on, until `stop`."""
        while not self._stopping:
            started = self._clock()
            heavy = self._load.is_heavy(started)
            try:
                count = await self._lease_some(started, heavy=heavy)
                pause = 0.0 if self._full and count else await self._find_pause(started)
            except Exception:
                log.exception("nothing can be leased")
                count, pause = 0, TROUBLE_SECONDS
            if heavy and count:
                await asyncio.sleep(min((self._clock() - started) * REST_FACTOR, LONGEST_REST))
            elif pause:
                await self._wait(POLL_SECONDS if heavy else pause)

    async def _wait(self, seconds: float) -> None:
        """Wait until something may be due, at most so long. Requests of accounts whose dispatcher is at work are leased
        all together when it has ended its round: one at a time they would cost a commit each."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            names = await self._wakeup.wait(left)
            if not names or not names <= self._find_working():
                return
            self._full = True  # so that the end of the round is heard

    def _find_working(self) -> set[str]:
        """Return the accounts whose requests are being claimed right now."""
        return {account for (account, _, urgent), one in self._dispatchers.items() if urgent and one.working}

    async def _lease_some(self, now: float, *, heavy: bool) -> int:
        """Lease what there is room for. Return how many chunks that were. Under heavy load requests are taken one at a
        time and with pauses, so that callers of the API get their answers."""
        most = {TRANSACTIONAL: 1 if heavy else REQUESTS, CAMPAIGN: self._settings.chunks_at_once}
        rooms, held = self._find_rooms(most)
        self._full = True
        if held >= HELD or self._completer.behind:
            return 0
        # Losing a lease in a power cut loses nothing: the chunk is leased again.
        found = await self._ledger.write(self._make_lease(now, most, rooms), durable=False)
        none_left = all(len(found[priority]) < limit for priority, limit in most.items())
        self._full = not none_left or any(room <= 0 for one in rooms.values() for room in one.values())
        chunks = [chunk for some in found.values() for chunk in some]
        self._pass_on(chunks)
        return len(chunks)

    def _make_lease(
        self, now: float, most: Mapping[int, int], rooms: Mapping[int, dict[str, int]]
    ) -> Callable[[Connection], dict[int, list[Chunk]]]:
        """Return what leases in a transaction, at most so many of each priority."""

        def lease(connection: Connection) -> dict[int, list[Chunk]]:
            seconds, found = self._settings.lease_seconds, dict[int, list[Chunk]]()
            for priority, limit in most.items():
                found[priority] = queue.lease_in_turns(
                    connection,
                    self.owner,
                    now,
                    seconds,
                    priority=priority,
                    limit=limit,
                    rooms=rooms[priority],
                    turns=self._turns[priority],
                )
            return found

        return lease

    def offer(self, accounts: Collection[str]) -> Callable[[Connection], list[Chunk]] | None:
        """Return what leases new requests of these accounts in the transaction that inserts them: what waits alone is
        spared a second one. None when they are to be leased in a turn, as when there is much to do."""
        now = self._clock()
        most = {TRANSACTIONAL: REQUESTS}
        rooms, held = self._find_rooms(most | {CAMPAIGN: 1})
        working = self._find_working()
        full = self._full or held >= HELD or self._completer.behind or self._load.is_heavy(now)
        if self._stopping or not self.ready.is_set() or full:
            return None
        if any(account in working or rooms[TRANSACTIONAL].get(account, 1) <= 0 for account in accounts):
            return None
        lease = self._make_lease(now, most, rooms)
        return lambda connection: lease(connection)[TRANSACTIONAL]

    async def take(self, chunks: Sequence[Chunk]) -> None:
        """Deliver what was leased by an offer."""
        if self._stopping:
            await self._ledger.write(functools.partial(queue.set_free, chunks=chunks), durable=False)
            return
        self._pass_on(chunks)
        if len(chunks) == REQUESTS:
            self._wakeup.notify()  # more may be due

    def _find_rooms(self, most: Mapping[int, int]) -> tuple[dict[int, dict[str, int]], int]:
        """Return how many more chunks there is room for, by priority and account, for the accounts that have some; and
        how many are held. most: chunks of one account that are not claimed yet, by priority."""
        rooms: dict[int, dict[str, int]] = {TRANSACTIONAL: {}, CAMPAIGN: {}}
        held = Counter[str]()
        for (account_id, _, urgent), dispatcher in self._dispatchers.items():
            chunks, unclaimed = dispatcher.load
            priority = TRANSACTIONAL if urgent else CAMPAIGN
            left = rooms[priority].get(account_id, most[priority])
            rooms[priority][account_id] = left - unclaimed
            held[account_id] += chunks
        for account_id, chunks in held.items():
            if chunks >= HELD // 2:
                rooms[TRANSACTIONAL][account_id] = rooms[CAMPAIGN][account_id] = 0
        return rooms, held.total()

    def _note_progress(self) -> None:
        """Lease more, if it was for want of room that nothing more was leased."""
        if self._full:
            self._wakeup.notify()

    def _pass_on(self, chunks: Sequence[Chunk]) -> None:
        """Give leased chunks to their dispatchers."""
        groups: dict[tuple[str, str, bool], list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            groups[chunk.account_id, chunk.channel, chunk.request is not None].append(chunk)
        for key, group in groups.items():
            if (dispatcher := self._dispatchers.get(key)) is not None:
                dispatcher.put(group)
                continue
            account_id, channel, urgent = key
            dispatcher = self._dispatchers[key] = Dispatcher(self._delivery, account_id, channel, urgent=urgent)
            dispatcher.put(group)
            task = asyncio.create_task(self._run_dispatcher(key, dispatcher))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_dispatcher(self, key: tuple[str, str, bool], dispatcher: Dispatcher) -> None:
        await dispatcher.run()
        del self._dispatchers[key]
        self._completer.notify_idle()
        self._note_progress()

    async def _find_pause(self, now: float) -> float:
        """Return the seconds until something may be due, if nobody says so before."""
        if not self._ledger.embedded:
            return POLL_SECONDS
        if self._released or now >= self._next_due:
            self._released = False
            due = await self._ledger.read(lambda connection: connection.scalar(_NEAREST))
            self._next_due = float("inf") if due is None else due
        return min(max(self._next_due - now, POLL_SECONDS / 10), LONGEST_POLL_SECONDS)

    def _note_release(self) -> None:
        """Chunks were put back: some may be due again before those that wait already."""
        self._released = True
        self._wakeup.notify()

    async def _keep_leases(self) -> None:
        """Renew the leases while vendors and stores are waited for, and take over from workers that fell silent. When
        a lease is lost, the next commit finds out."""
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            chunks = [chunk for one in self._dispatchers.values() for chunk in one.list_chunks()]
            chunks += self._completer.list_chunks()
            try:
                renew = functools.partial(
                    queue.renew, chunks=chunks, now=self._clock(), lease_seconds=self._settings.lease_seconds
                )
                await self._ledger.write(renew, durable=False)
                await self._rescue()
            except Exception:
                log.exception("leases not renewed", chunks=len(chunks))

    async def _rescue(self) -> None:
        """Take over from dead workers."""
        await asyncio.to_thread(rescue_abandoned, self._ledger, self._root, self.owner, self._rules, self._clock)
