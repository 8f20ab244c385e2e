"""The worker: leases chunks from the queue; claims, hands over and settles one window of each after the other.

The order of the commits is the promise. A window is committed as claimed before any of it is handed to a vendor; its
receipts are committed together with the next claim. So after a crash what is claimed may have been sent, and is
reported as unknown; everything else was either settled or never handed over.
"""

from __future__ import annotations

import asyncio
import functools
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog
from sqlalchemy import Connection, Row

from tocsin import metrics, queue
from tocsin.account import Account
from tocsin.campaign.addressees import find_recipients, list_keys
from tocsin.campaign.send import StoredRequest
from tocsin.channels import CHANNELS
from tocsin.delivery.batch import Batch, BatchResult
from tocsin.delivery.claim import (
    Window,
    address_window,
    apply_caps,
    drop_late,
    find_claims,
    hold_in_quiet_hours,
    select_window,
)
from tocsin.delivery.completer import Completer, DeliveredChunk
from tocsin.delivery.concurrency import Slot, WorkerPool
from tocsin.delivery.content_breaker import ContentBreaker
from tocsin.delivery.frequency_cap import CapRule, Claim, give_back, reserve
from tocsin.delivery.load_shedding import LoadMeter
from tocsin.delivery.plan import DeliveryPlan, read_plan
from tocsin.delivery.recipients import DeadAddresses, find_zones, load_people, mark_gone
from tocsin.delivery.recorder import record_uninstalled
from tocsin.delivery.retry import RetryPolicy
from tocsin.delivery.settle import SettleRules, find_unsent, settle_batch
from tocsin.delivery.wakeup import Wakeup
from tocsin.ingest import refresh_profiles
from tocsin.outcome import State
from tocsin.queue import Chunk
from tocsin.settings import Settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

POLL_SECONDS = 0.5
REST_FACTOR = 3  # after a request's chunk under heavy load: a pause so many times as long as it took
LONGEST_REST = 1.0
# Which chunks a task looks for, in this order, by its slot and whether the API is under heavy load.
CHOICES: Mapping[tuple[Slot, bool], tuple[int | None, ...]] = {
    (Slot.STEADY, False): (queue.CAMPAIGN, None),
    (Slot.ANY, False): (None,),
    (Slot.URGENT, False): (queue.TRANSACTIONAL,),
    (Slot.STEADY, True): (queue.CAMPAIGN,),
    (Slot.ANY, True): (),
    (Slot.URGENT, True): (queue.TRANSACTIONAL,),
}
Clock = Callable[[], float]


class Sender(Protocol):
    """One vendor for one account: `Lane` sends in this process, `RemoteSender` in another. paused_until: epoch
    seconds; until then it sends nothing."""

    name: str
    paused_until: float

    async def send_batch(self, batch: Batch) -> BatchResult: ...


class Senders(Protocol):
    """The senders of an account by platform. A platform without one has no provider set."""

    async def for_account(self, account_id: str) -> Mapping[str, Sender]: ...


class DeadDevices(msgspec.Struct):
    """What a chunk's messages found dead. users: whose reach is smaller now. devices: their rows in the ledger."""

    users: set[int] = msgspec.field(default_factory=set)
    devices: list[Row[Any]] = msgspec.field(default_factory=list)


class Worker:
    """Delivers chunks, several side by side, until `stop`; then it waits for the vendors' answers and settles them."""

    def __init__(
        self,
        ledger: Ledger,
        facts: Facts,
        senders: Senders,
        settings: Settings,
        secret: bytes,
        clock: Clock,
        wakeup: Wakeup,
        load: LoadMeter | None = None,
    ):
        self._ledger = ledger
        self._facts = facts
        self._senders = senders
        self._settings = settings
        self._secret = secret
        self._clock = clock
        self._wakeup = wakeup
        self._load = load or LoadMeter()
        self._stopping = False
        self._policy = RetryPolicy(settings.retry_floor, settings.retries)
        self._random = random.Random()  # noqa: S311 - jitter, no secret
        self._pool = WorkerPool(settings.chunks_at_once, self._work)
        self._delivering = 0
        self._completer = Completer(ledger, facts, clock, lambda: self._delivering > 0)
        self._content_breaker = ContentBreaker()
        self.owner = uuid.uuid4().hex

    def stop(self) -> None:
        """Claim nothing more; what is with a vendor is waited for and settled."""
        self._stopping = True
        self._pool.stop()
        self._wakeup.notify()

    async def run(self) -> None:
        """Deliver until `stop`."""
        if self._ledger.embedded:  # one process has this ledger to itself: other owners are dead
            await self._ledger.write(lambda connection: queue.release_dead(connection, self.owner))
        async with asyncio.TaskGroup() as group:
            completer = group.create_task(self._completer.run())
            await self._pool.run()
            self._completer.end()
            await completer

    async def _work(self, slot: Slot) -> None:
        """Deliver the next chunk that this slot may take, or wait for one. Under heavy load requests are taken one at a
        time and with pauses, so that callers of the API get their answers."""
        started = self._clock()
        heavy, seconds = self._load.is_heavy(started), self._settings.lease_seconds

        def lease(connection: Connection) -> Chunk | None:
            for priority in CHOICES[slot, heavy]:
                if chunk := queue.lease_next(connection, self.owner, started, seconds, priority=priority):
                    return chunk
            return None

        try:
            chunk = await self._ledger.write(lease)
            if chunk is None:
                await (asyncio.sleep(POLL_SECONDS) if heavy else self._wakeup.wait(POLL_SECONDS))
            elif done := await self._deliver_leased(chunk):
                await self._completer.put(done)
            if heavy and slot is Slot.URGENT:
                await asyncio.sleep(min((self._clock() - started) * REST_FACTOR, LONGEST_REST))
        except Exception:
            # A bug or a store that is away. The lease runs out and the chunk is taken again: nothing is lost.
            log.exception("delivery interrupted")
            await self._wakeup.wait(POLL_SECONDS)

    async def deliver(self, chunk: Chunk) -> None:
        """Deliver what is due of a leased chunk, record what is final, and close or release it."""
        if done := await self._deliver_leased(chunk):
            await self._completer.close([done])

    async def _deliver_leased(self, chunk: Chunk) -> DeliveredChunk | None:
        """Deliver what is due of a chunk. Its heartbeat goes on until it is released. None: the lease is lost."""
        heartbeat = asyncio.create_task(self._keep_lease(chunk))
        self._delivering += 1
        try:
            account = await self._deliver(chunk)
        except BaseException:
            heartbeat.cancel()
            raise
        finally:
            self._delivering -= 1
            self._completer.notify_idle()
        if account is None:
            heartbeat.cancel()
            return None
        return DeliveredChunk(account, chunk, heartbeat)

    async def _keep_lease(self, chunk: Chunk) -> None:
        """Renew the lease while vendors and stores are waited for. When it is lost, the next commit finds out."""
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            now, seconds = self._clock(), self._settings.lease_seconds
            try:
                ours = await self._ledger.write(
                    functools.partial(queue.renew, chunk=chunk, now=now, lease_seconds=seconds)
                )
            except Exception:
                log.exception("lease not renewed", chunk=chunk.id)
                continue
            if not ours:
                return

    async def _deliver(self, chunk: Chunk) -> Account | None:
        """Send what is due. Return the chunk's account; None when the lease is lost."""
        account = await self._ledger.read(lambda connection: Account.load(connection, chunk.account_id))
        if chunk.request is not None and not chunk.users and not await self._resolve_request(chunk):
            return None
        plan, dead = await read_plan(self._ledger, chunk, self._settings, self._secret), DeadDevices()
        try:
            ours = await self._send_windows(chunk, account, plan, dead)
        finally:  # what was committed as gone is gone, whether the rest failed or not
            await self._record_dead(account, dead)
        return account if ours else None

    async def _send_windows(self, chunk: Chunk, account: Account, plan: DeliveryPlan, dead: DeadDevices) -> bool:
        """Send window after window until nothing is due, and add to `dead`. False: the lease is lost."""
        gone: DeadAddresses = {}
        unsent: Sequence[Claim] = ()
        while True:
            senders = await self._senders.for_account(chunk.account_id)
            window = await self._find_window(chunk, account, plan, senders)
            claimed_at = self._clock()
            claimed, removed = await self._commit(chunk, plan.rule, window, gone, unsent, claimed_at)
            dead.users.update(gone, (device.gone_user for device in removed))
            dead.devices.extend(removed)
            if claimed is None:
                log.warning("lease lost", chunk=chunk.id)
                return False
            if claimed:
                gone = await self._send_window(chunk, plan, claimed, senders)
                unsent = find_unsent(chunk, claimed, claimed_at) if plan.rule is not None else ()
            elif self._stopping or not chunk.waiting(self._clock()):
                return True
            else:
                gone, unsent = {}, ()

    async def _find_window(
        self, chunk: Chunk, account: Account, plan: DeliveryPlan, senders: Mapping[str, Sender]
    ) -> Window:
        """Return the next window; recipients who get nothing become final."""
        now = self._clock()
        drop_late(chunk, now)
        if self._stopping:
            return {}
        paused = {platform: sender.paused_until for platform, sender in senders.items()}
        is_refused = functools.partial(self._content_breaker.is_open, plan.label)
        window = select_window(chunk, plan.window, paused, is_refused, now)
        users = sorted({chunk.users[position] for position in window})
        if plan.quiet is not None:
            own = plan.quiet.zone == "user"
            zones = await self._ledger.read(lambda connection: find_zones(connection, account, users)) if own else {}
            window = hold_in_quiet_hours(chunk, window, plan.quiet, zones, account.zone, now)
        if not window:
            return {}
        channels = [CHANNELS[chunk.channel]]
        people = await self._ledger.read(lambda connection: load_people(connection, account.id, users, channels))
        return address_window(chunk, window, plan, people)

    async def _commit(
        self,
        chunk: Chunk,
        rule: CapRule | None,
        window: Window,
        gone: DeadAddresses,
        unsent: Sequence[Claim],
        at: float,
    ) -> tuple[Window | None, Sequence[Row[Any]]]:
        """In one transaction settle the last window and claim the next one as far as caps allow.

        gone, unsent: of the last window. Return what is claimed (None: the lease is lost, send nothing), and the rows
        of the devices that are dead by this commit.
        """

        before = bytes(chunk.states), dict(chunk.notes)

        def commit(connection: Connection) -> tuple[Window | None, Sequence[Row[Any]]]:
            # As if for the first time: the ledger may have broken an earlier run off.
            chunk.states[:], chunk.notes = before[0], dict(before[1])
            claimed = window
            if rule is not None:
                give_back(connection, rule, unsent)
                if claims := find_claims(chunk, window, at):
                    claimed = apply_caps(chunk, window, reserve(connection, rule, claims, at))
            if queue.is_stopped(connection, chunk.run_id):
                for position in chunk.waiting(float("inf")):
                    chunk.move(position, State.STOPPED)
                claimed = {}
            chunk.move_all({message.position for messages in claimed.values() for message in messages}, State.CLAIMED)
            now = self._clock()
            removed = mark_gone(connection, chunk.account_id, gone, now, chunk.campaign_id)
            ours = queue.settle(connection, chunk, now, self._settings.lease_seconds)
            return (claimed if ours else None), removed

        return await self._ledger.write(commit)

    async def _send_window(
        self, chunk: Chunk, plan: DeliveryPlan, window: Window, senders: Mapping[str, Sender]
    ) -> DeadAddresses:
        """Hand a claimed window over and settle its receipts in memory. Return the addresses that are dead."""
        async with self._pool.lending_slot():
            results = await asyncio.gather(
                *(senders[name].send_batch(Batch(plan.context, name, messages)) for name, messages in window.items())
            )
        now = self._clock()
        rules = SettleRules(self._policy, plan.every_device, self._random.random)
        gone: dict[int, Sequence[Any]] = {}
        for (platform, messages), result in zip(window.items(), results, strict=True):
            _count(senders[platform].name, result)
            for user, dead in settle_batch(chunk, messages, result, rules, now).items():
                gone[user] = [*gone.get(user, ()), *dead]
            accepted = len(messages) - len(result.answers)
            self._content_breaker.count(plan.label, platform, accepted, result.answers.values())
        return gone

    async def _record_dead(self, account: Account, dead: DeadDevices) -> None:
        """Record `App Uninstalled`, and copy the people whose devices died to facts. The ledger has it already, and
        claims ask the ledger: a failure here makes an estimate a little too high and the event late, nothing else."""
        try:
            await record_uninstalled(self._facts, account, dead.devices)
            await refresh_profiles(self._ledger, self._facts, account.id, sorted(dead.users))
        except Exception:
            log.exception("dead devices not recorded; `tocsin repair` makes up for it", account=account.id)

    async def _resolve_request(self, chunk: Chunk) -> bool:
        """Write into a `/1/send` chunk who its identities are. False: the lease is lost."""
        request = msgspec.json.decode(chunk.request or "", type=StoredRequest)

        def find(connection: Connection) -> list[tuple[int, str]]:
            return find_recipients(connection, chunk.account_id, list_keys(request.to), chunk.channel)

        pairs = await self._ledger.read(find)  # not in the writer, which others wait for
        return await self._ledger.write(lambda connection: queue.freeze_request(connection, chunk, pairs))


def _count(provider: str, result: BatchResult) -> None:
    for outcome, count in result.tally.items():
        metrics.RECEIPTS.labels(provider=provider, outcome=outcome).inc(count)
    for reason, count in result.stops.items():
        metrics.LANE_STOPS.labels(provider=provider, reason=reason).inc(count)
