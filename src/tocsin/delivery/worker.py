"""The worker: leases what is due from the queue and gives it to a dispatcher for each account and channel. Keeps the
leases, and finds out what became of what dead workers had claimed."""

from __future__ import annotations

import asyncio
import functools
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog
from sqlalchemy import Connection, func, select

from tocsin import queue
from tocsin.campaign.send_queue import QueuedSend
from tocsin.channels import CHANNELS
from tocsin.delivery.arrival import Arrival, ClaimedBatch, Destination, OpenDestination
from tocsin.delivery.completer import Completer, DeliveredChunk
from tocsin.delivery.content_breaker import ContentBreaker
from tocsin.delivery.dispatcher import Delivery, Dispatcher
from tocsin.delivery.handover import HandoverFolder
from tocsin.delivery.load_shedding import LoadMeter
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.rescue import release_unsent, rescue_abandoned
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
ARRIVING = 256  # people of requests that are claimed as they are inserted, in one transaction
DESTINATIONS = 8  # accounts' channels of them: each takes some questions of its own
HELD = 4_000  # chunks of one worker, most of them waiting for slow answers only; of one account half of them
REST_FACTOR = 3  # after a request under heavy load: a pause so many times as long as it took
LONGEST_REST = 1.0  # seconds; what it is in proportion to is waited for as long
STEP_SECONDS = 0.005  # between two looks whether that is done
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
        self._backlog = False  # the same of requests
        self._turns: dict[int, dict[str, None]] = {TRANSACTIONAL: {}, CAMPAIGN: {}}
        self._dispatchers: dict[tuple[str, str, bool], Dispatcher] = {}
        self._doubtful: list[Chunk] = []  # claimed as they were inserted; it may be that they were not
        self._tasks: set[asyncio.Future[None]] = set()  # of dispatchers, and of requests that are being inserted
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
            self.ready.clear()
            clean = not self._tasks  # else it was cancelled, and a commit under way may claim more
            for task in (*self._tasks,):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            settled = clean and self._senders.settled
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
                await self._wait_until_claimed()
                await self._give_way(min((self._clock() - started) * REST_FACTOR, LONGEST_REST))
            elif heavy:
                await self._give_way(POLL_SECONDS)
            elif pause:
                await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        """Wait until something may be due, at most so long. Requests of accounts whose dispatcher is at work are leased
        all together when it has ended its round: one at a time they would cost a commit each."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            names = await self._wakeup.wait(left)
            if not names or not names <= self._find_working():
                return
            self._full = True  # so that the end of the round is heard

    async def _give_way(self, seconds: float) -> None:
        """Let those who call the API go first: wait so long, whoever wakes the worker. A stop ends it."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stopping:
            await self._wakeup.wait(left)

    async def _wait_until_claimed(self) -> None:
        """Wait, but not for vendors, until the requests that were leased are looked up and claimed: the work that a
        rest is to be in proportion to."""
        await asyncio.sleep(0)  # what was passed on begins in the loop's next turn
        for _ in range(int(LONGEST_REST / STEP_SECONDS)):
            busy = (urgent and (one.working or one.unclaimed) for (*_, urgent), one in self._dispatchers.items())
            if self._stopping or not any(busy):
                return
            await asyncio.sleep(STEP_SECONDS)

    def _find_working(self) -> set[str]:
        """Return the accounts whose requests are being claimed right now."""
        return {account for (account, _, urgent), one in self._dispatchers.items() if urgent and one.working}

    async def _lease_some(self, now: float, *, heavy: bool) -> int:
        """Lease what there is room for. Return how many chunks that were. Under heavy load requests are taken one at a
        time and with pauses, so that callers of the API get their answers."""
        most = {TRANSACTIONAL: 1 if heavy else REQUESTS, CAMPAIGN: self._settings.chunks_at_once}
        rooms, held = self._find_rooms(most, heavy=heavy)
        self._full = True
        if held >= HELD or self._completer.behind:
            self._backlog = True
            return 0
        # Losing a lease in a power cut loses nothing: the chunk is leased again.
        lease = functools.partial(self._lease, now=now, most=most, rooms=rooms)
        found = await self._ledger.write(lease, durable=False)
        none_left = all(len(found[priority]) < limit for priority, limit in most.items())
        self._full = not none_left or any(room <= 0 for one in rooms.values() for room in one.values())
        left = len(found[TRANSACTIONAL]) == most[TRANSACTIONAL]
        self._backlog = left or any(room <= 0 for room in rooms[TRANSACTIONAL].values())
        chunks = [chunk for some in found.values() for chunk in some]
        self._pass_on(chunks)
        return len(chunks)

    def _lease(
        self, connection: Connection, now: float, most: Mapping[int, int], rooms: Mapping[int, dict[str, int]]
    ) -> dict[int, list[Chunk]]:
        """Lease at most so many chunks of each priority, and return them."""
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

    def offer(self, entries: Sequence[QueuedSend]) -> Arrival | None:
        """Return what claims these requests as they are inserted, where a lane is open and nothing waits before them.
        None when all of them are to be leased in a turn, as when there is much to do."""
        now = self._clock()
        people = Counter[Destination]()
        for one in entries:
            people[one.request.account_id, one.request.channel] += max(one.people, 1)
        behind = self._backlog or self._completer.behind or self._load.is_heavy(now)
        if self._stopping or not self.ready.is_set() or behind:
            return None
        held = sum(dispatcher.count for dispatcher in self._dispatchers.values())
        if people.total() > min(ARRIVING, self._settings.window) or len(people) > DESTINATIONS or held >= HELD:
            return None
        found = {one: self._find_open(*one, count, now) for one, count in people.items()}
        if not (opened := {one: lanes for one, lanes in found.items() if lanes is not None}):
            return None
        arrival = Arrival(
            *(opened, self._senders, self._settings, self._delivery.secret, self.owner, self._clock),
            *(self._deliver, self._release),
        )
        self._tasks.add(arrival.ended)
        arrival.ended.add_done_callback(self._tasks.discard)
        return arrival

    def _find_open(self, account_id: str, channel: str, count: int, now: float) -> OpenDestination | None:
        dispatcher = self._dispatchers.get((account_id, channel, True))
        if dispatcher is not None and (dispatcher.blocked or dispatcher.count >= HELD // 2):
            return None
        lanes = self._senders.list_lanes(account_id, CHANNELS[channel].platforms)
        opened = [lane for lane in lanes if lane.steady and lane.look(now, urgent=True).room >= count]
        if lanes and not opened:
            return None  # where no lane was made yet, the look-up tells whether there is none
        return OpenDestination(opened, count, dispatcher.account if dispatcher is not None else None)

    def _deliver(self, batch: ClaimedBatch) -> None:
        """Take what was claimed as it was inserted: its messages go, and what has none is recorded."""
        going = [one for one in batch.requests if one.window]
        for one in batch.requests:
            if not one.window:
                self._completer.put(DeliveredChunk(batch.account, one.chunk))
        if going:
            dispatcher = self._find_dispatcher((*batch.destination, True))
            dispatcher.adopt(going, batch.account, batch.lanes, batch.at)

    def _release(self, chunks: Sequence[Chunk]) -> None:
        """Take what was claimed as it was inserted, and may not be in the ledger: if it is, it waits again."""
        self._doubtful += chunks
        task = asyncio.create_task(self._release_unsent(chunks))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release_unsent(self, chunks: Sequence[Chunk]) -> None:
        while True:
            try:
                release = functools.partial(release_unsent, chunks=chunks, rules=self._rules, now=self._clock())
                await self._ledger.write(release)
                break
            except Exception:
                log.exception("requests wait for the ledger", chunks=len(chunks))
                await asyncio.sleep(TROUBLE_SECONDS)
        self._doubtful = [one for one in self._doubtful if all(one is not chunk for chunk in chunks)]
        self._note_release()

    def _find_rooms(self, most: Mapping[int, int], *, heavy: bool) -> tuple[dict[int, dict[str, int]], int]:
        """Return how many more chunks there is room for, by priority and account, for the accounts that have some; and
        how many are held. most: chunks of one account that are not claimed yet, by priority; under heavy load, where
        that is one, those do not count that somebody of is claimed."""
        rooms: dict[int, dict[str, int]] = {TRANSACTIONAL: {}, CAMPAIGN: {}}
        held = Counter[str]()
        for (account_id, _, urgent), dispatcher in self._dispatchers.items():
            chunks, unclaimed = dispatcher.load
            priority = TRANSACTIONAL if urgent else CAMPAIGN
            if heavy and urgent:
                unclaimed = dispatcher.unclaimed
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
            self._find_dispatcher(key).put(group)

    def _find_dispatcher(self, key: tuple[str, str, bool]) -> Dispatcher:
        """Return the dispatcher of an account's channel; one that is new begins in the loop's next turn, with what it
        was given by then."""
        if (found := self._dispatchers.get(key)) is not None:
            return found
        account_id, channel, urgent = key
        dispatcher = self._dispatchers[key] = Dispatcher(self._delivery, account_id, channel, urgent=urgent)
        if self._stopping:
            dispatcher.stop()
        task = asyncio.create_task(self._run_dispatcher(key, dispatcher))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return dispatcher

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
            chunks += [*self._completer.list_chunks(), *self._doubtful]
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
