"""Stage 4 of 7, dispatch: chunks are claimed, handed over, settled and closed.

The plan of the commits is the promise. A window is committed as claimed before any of it is handed to a vendor; what
came of it is committed together with the next claim. So after a crash what is claimed may have been sent, and is
reported as unknown; everything else was either settled or never handed over.
"""

from __future__ import annotations

import asyncio
import functools
import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Any, Protocol

import msgspec
import structlog
from sqlalchemy import Connection, Row

from tocsin import metrics, queue
from tocsin.account import Account
from tocsin.campaign.addressees import find_recipients, read_to
from tocsin.campaign.quiet_hours import Quiet, quiet_until
from tocsin.campaign.send import StoredRequest
from tocsin.delivery.batch import Batch, BatchResult, PendingMessage
from tocsin.delivery.completer import Completer, DeliveredChunk
from tocsin.delivery.concurrency import Slot, WorkerPool
from tocsin.delivery.frequency_cap import CapRule, Claim, LockNotAvailable
from tocsin.delivery.load_shedding import LoadMeter
from tocsin.delivery.plan import DeliveryPlan, cap_window, find_unsent, make_messages, read_plan
from tocsin.delivery.recipients import DeadAddresses, find_zones, load_people, mark_gone
from tocsin.delivery.recorder import record_uninstalled
from tocsin.delivery.retry import Decision, RetryPolicy, decide
from tocsin.delivery.wakeup import Wakeup
from tocsin.ingest import refresh_profiles
from tocsin.outcome import FINAL, Outcome, State
from tocsin.providers.contract import Address, Receipt, Scope
from tocsin.queue import Chunk, Note
from tocsin.settings import Settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

POLL_SECONDS = 0.5
REFUSALS_IN_A_ROW = 20  # so many recipients refused for what the content is, and none accepted: the rest is not tried
BUSY_SECONDS = 0.02  # before a claim that met another process at the caps is tried again
CONTENTS = 1000  # contents watched for that
REST_FACTOR = 3  # times as long as a request's chunk took, while the door is busy
LONGEST_REST = 1.0
# Which chunks a task looks for, one after the other, by its slot and whether the door is busy.
CHOICES: Mapping[tuple[Slot, bool], tuple[int | None, ...]] = {
    (Slot.STEADY, False): (queue.CAMPAIGN, None),
    (Slot.ANY, False): (None,),
    (Slot.URGENT, False): (queue.TRANSACTIONAL,),
    (Slot.STEADY, True): (queue.CAMPAIGN,),
    (Slot.ANY, True): (),
    (Slot.URGENT, True): (queue.TRANSACTIONAL,),
}
Clock = Callable[[], float]

# Of the receipts of one recipient's devices, the first of these is the recipient's.
PRECEDENCE = (
    *(Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.THROTTLED, Outcome.DENIED, Outcome.UNAVAILABLE),
    *(Outcome.REFUSED, Outcome.GONE),
)


class Sender(Protocol):
    """The way to one vendor for one account, whoever does the sending: `Lane` in this process, `Route` in another."""

    name: str
    paused_until: float

    async def send_batch(self, batch: Batch) -> BatchResult: ...


class Senders(Protocol):
    """The senders of an account by platform. A platform without one has no provider set."""

    async def for_account(self, account_id: str) -> Mapping[str, Sender]: ...


class DeadDevices(msgspec.Struct):
    """What a chunk's messages found dead. users: whose reach is less than it was. devices: rows of the ledger, as they
    were when they went."""

    users: set[int] = msgspec.field(default_factory=set)
    devices: list[Row[Any]] = msgspec.field(default_factory=list)


class Worker:
    """Delivers chunks, several side by side, until it is told to stop; then it finishes what is with the vendors."""

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
        self._wrong: dict[tuple[str, str], int] = {}
        self.owner = uuid.uuid4().hex

    def stop(self) -> None:
        """No new claims; what is with a vendor is waited for and settled."""
        self._stopping = True
        self._pool.stop()
        self._wakeup.notify()

    async def run(self) -> None:
        if self._ledger.embedded:  # one process has this ledger to itself: other owners are dead
            await self._ledger.write(lambda connection: queue.release_dead(connection, self.owner))
        async with asyncio.TaskGroup() as group:
            completer = group.create_task(self._completer.run())
            await self._pool.run()
            self._completer.end()
            await completer

    async def _work(self, slot: Slot) -> None:
        """Takes the next chunk that this slot may take and delivers it; or waits for one. While many arrive at the
        door, requests are taken one at a time and with pauses, for the door has the right of way."""
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
        """Takes a leased chunk as far as it goes now, records what is final, and closes or releases it."""
        if done := await self._deliver_leased(chunk):
            await self._completer.close([done])

    async def _deliver_leased(self, chunk: Chunk) -> DeliveredChunk | None:
        """None: the lease is lost. Else its renewal goes on until it is let go of."""
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
        """Renews the lease while vendors and stores think. When it is lost, the next commit finds out."""
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            until = self._clock() + self._settings.lease_seconds
            try:
                ours = await self._ledger.write(functools.partial(queue.renew, chunk=chunk, until=until))
            except Exception:
                log.exception("lease not renewed", chunk=chunk.id)
                continue
            if not ours:
                return

    async def _deliver(self, chunk: Chunk) -> Account | None:
        """Sends what is due. Answers the chunk's account; None: the lease is lost."""
        account = await self._ledger.read(lambda connection: Account.load(connection, chunk.account_id))
        if chunk.request is not None and not chunk.users and not await self._freeze_request(chunk):
            return None
        plan, losses = await read_plan(self._ledger, chunk, self._settings, self._secret), DeadDevices()
        try:
            ours = await self._send_windows(chunk, plan, losses)
        finally:  # what was committed as gone is gone, however the rest went
            await self._record_losses(account, losses)
        return account if ours else None

    async def _send_windows(self, chunk: Chunk, plan: DeliveryPlan, losses: DeadDevices) -> bool:
        """Sends one window after the other until nothing is due, and adds to `losses`. False: the lease is lost."""
        gone: DeadAddresses = {}
        unsent: Sequence[Claim] = ()
        while True:
            senders = await self._senders.for_account(chunk.account_id)
            window = await self._plan(chunk, plan, senders)
            claimed_at = self._clock()
            claimed, went = await self._commit(chunk, plan.rule, window, gone, unsent, claimed_at)
            losses.users.update(gone, (device.gone_user for device in went))
            losses.devices.extend(went)
            if claimed is None:
                log.warning("lease lost", chunk=chunk.id)
                return False
            if claimed:
                async with self._pool.lending_slot():
                    sent = await asyncio.gather(
                        *(
                            senders[name].send_batch(Batch(plan.context, name, messages))
                            for name, messages in claimed.items()
                        )
                    )
                gone = self._apply(chunk, plan, list(zip(claimed, claimed.values(), sent, strict=True)), senders)
                unsent = find_unsent(chunk, claimed, claimed_at) if plan.rule is not None else ()
            elif self._stopping or not chunk.waiting(self._clock()):
                return True
            else:
                gone, unsent = {}, ()

    async def _record_losses(self, account: Account, losses: DeadDevices) -> None:
        """Raises `App Uninstalled`, and copies people whose devices died. The ledger has it already, and claims ask the
        ledger: a failure here makes an estimate a little too high and the event late, nothing else."""
        try:
            await record_uninstalled(self._facts, account, losses.devices)
            await refresh_profiles(self._ledger, self._facts, account.id, sorted(losses.users))
        except Exception:
            log.exception("dead devices not recorded; `tocsin repair` makes up for it", account=account.id)

    async def _freeze_request(self, chunk: Chunk) -> bool:
        request = msgspec.json.decode(chunk.request or "", type=StoredRequest)

        def find(connection: Connection) -> list[tuple[int, str]]:
            return find_recipients(connection, chunk.account_id, read_to(request.to), chunk.channel)

        pairs = await self._ledger.read(find)  # not in the writer, which others wait for
        return await self._ledger.write(lambda connection: queue.freeze_request(connection, chunk, pairs))

    async def _plan(
        self, chunk: Chunk, plan: DeliveryPlan, senders: Mapping[str, Sender]
    ) -> dict[str, list[PendingMessage]]:
        """The next window: messages by platform for those who can be reached, a final state for those who cannot."""
        now = self._clock()
        if now >= chunk.expires_at:
            for position in chunk.waiting(float("inf")):
                self._end(chunk, position, State.EXPIRED, "too late", now)
            return {}
        if chunk.cut_off is not None and now >= chunk.cut_off:
            chunk.move_all(chunk.waiting(float("inf")), State.CUT_OFF)
        if self._stopping:
            return {}
        window = self._pick(chunk, plan, senders, now)
        if plan.quiet is not None:
            window = await self._leave_in_peace(chunk, plan.quiet, window, now)
        users = sorted({chunk.users[position] for position in window})
        people = await self._ledger.read(
            lambda connection: load_people(connection, chunk.account_id, users, chunk.channel)
        )
        messages: dict[str, list[PendingMessage]] = {}
        for position in window:
            platform = queue.PLATFORM_CODES[chunk.platforms[position]]
            person = people.get(chunk.users[position])
            packed = make_messages(plan, position, platform, person)
            if isinstance(packed, State):
                chunk.move(position, packed)
            else:
                messages.setdefault(platform, []).extend(packed)
        return messages

    async def _leave_in_peace(self, chunk: Chunk, quiet: Quiet, window: list[int], now: float) -> list[int]:
        """Those of a window for whom it is not quiet. The others wait until it no longer is, or get nothing."""
        account = await self._ledger.read(lambda connection: Account.load(connection, chunk.account_id))
        users = sorted({chunk.users[position] for position in window})
        zones: Mapping[int, tzinfo] = {}
        if quiet.zone == "user":
            zones = await self._ledger.read(lambda connection: find_zones(connection, account, users))
        ends: dict[tzinfo, float | None] = {}
        rest: list[int] = []
        for position in window:
            zone = zones.get(chunk.users[position], account.zone)
            if zone not in ends:
                ends[zone] = quiet_until(quiet, now, zone)
            end = ends[zone]
            if end is None:
                rest.append(position)
            elif quiet.state == "discard":
                chunk.move(position, State.QUIET_HOURS)
            else:
                chunk.notes.setdefault(position, Note()).not_before = min(end, chunk.expires_at)
        return rest

    def _pick(self, chunk: Chunk, plan: DeliveryPlan, senders: Mapping[str, Sender], now: float) -> list[int]:
        """The positions to claim next: those whose sender is open."""
        waiting = chunk.waiting(now)
        present = {platform: queue.PLATFORM_CODES[platform] for platform in set(chunk.platforms)}
        shut = {number for number, name in present.items() if not self._is_open(plan, name, senders.get(name), now)}
        if not shut:
            return waiting[: plan.window]
        window: list[int] = []
        for position in waiting:
            number = chunk.platforms[position]
            if number not in shut:
                window.append(position)
                if len(window) == plan.window:
                    break
                continue
            sender = senders.get(present[number])
            if sender is None:
                chunk.move(position, State.NO_PROVIDER)
            elif self._is_refused(plan, present[number]):
                self._end(chunk, position, State.REFUSED, "not tried: the content is refused", now)
            else:
                chunk.notes.setdefault(position, Note()).not_before = sender.paused_until
        return window

    def _is_open(self, plan: DeliveryPlan, platform: str, sender: Sender | None, now: float) -> bool:
        return sender is not None and sender.paused_until <= now and not self._is_refused(plan, platform)

    def _is_refused(self, plan: DeliveryPlan, platform: str) -> bool:
        return self._wrong.get((plan.label, platform), 0) >= REFUSALS_IN_A_ROW

    async def _commit(
        self,
        chunk: Chunk,
        rule: CapRule | None,
        window: dict[str, list[PendingMessage]],
        gone: DeadAddresses,
        unsent: Sequence[Claim],
        at: float,
    ) -> tuple[dict[str, list[PendingMessage]] | None, Sequence[Row[Any]]]:
        """Commits what is settled, forgets dead addresses, gives back what the caps hold for those who got nothing, and
        claims the window's recipients as far as the caps allow. None: the lease is lost, send nothing. Beside it the
        devices that went."""

        def commit(connection: Connection) -> tuple[dict[str, list[PendingMessage]] | None, Sequence[Row[Any]]]:
            claimed = window if rule is None else cap_window(connection, chunk, rule, window, unsent, at)
            if queue.is_stopped(connection, chunk.run_id):
                for position in chunk.waiting(float("inf")):
                    chunk.move(position, State.STOPPED)
                claimed = {}
            chunk.move_all({message.position for messages in claimed.values() for message in messages}, State.CLAIMED)
            now = self._clock()
            went = mark_gone(connection, chunk.account_id, gone, now, chunk.campaign_id)
            ours = queue.settle(connection, chunk, now, self._settings.lease_seconds)
            return (claimed if ours else None), went

        while True:
            try:
                return await self._ledger.write(commit)
            except LockNotAvailable:
                await asyncio.sleep(BUSY_SECONDS)

    def _apply(
        self,
        chunk: Chunk,
        plan: DeliveryPlan,
        sent: Iterable[tuple[str, list[PendingMessage], BatchResult]],
        senders: Mapping[str, Sender],
    ) -> DeadAddresses:
        """Turns what came of a window into states; answers the addresses that turned out dead."""
        now = self._clock()
        gone: dict[int, list[tuple[int, Address, str]]] = {}
        for platform, messages, done in sent:
            _count(senders[platform].name, done)
            odd: dict[int, list[Receipt | None]] = {}
            if plan.every_device:
                for place, message in enumerate(messages):
                    odd.setdefault(message.position, []).append(done.answers.get(place))
            else:
                odd = {messages[place].position: [receipt] for place, receipt in done.answers.items()}
                plain = [message.position for message in messages if message.position not in odd]
                odd |= {position: [None] for position in plain if position in chunk.notes}
                chunk.move_all((position for position in plain if position not in odd), State.ACCEPTED)
            for place, receipt in done.answers.items():
                if receipt.outcome is Outcome.GONE:
                    message = messages[place]
                    dead = (message.device_id, message.address, receipt.code)
                    gone.setdefault(chunk.users[message.position], []).append(dead)
            for position, answers in odd.items():
                self._judge(chunk, position, [answer or ACCEPTED for answer in answers], now)
            self._watch(plan.label, platform, len(messages) - len(done.answers), done.answers.values())
        return gone

    def _watch(self, label: str, platform: str, accepted: int, answers: Iterable[Receipt]) -> None:
        """A content that a vendor refuses for what it is would be refused for everybody."""
        key = (label, platform)
        if accepted:
            self._wrong[key] = -(10**9)
        wrong = sum(answer.scope is Scope.CAMPAIGN for answer in answers)
        if wrong:
            self._wrong[key] = before = self._wrong.get(key, 0) + wrong
            if REFUSALS_IN_A_ROW <= before < REFUSALS_IN_A_ROW + wrong:
                log.error("content refused by the vendor: nobody else is tried", content=label, platform=platform)
        while len(self._wrong) > CONTENTS:
            del self._wrong[next(iter(self._wrong))]

    def _judge(self, chunk: Chunk, position: int, answers: Sequence[Receipt], now: float) -> None:
        """One recipient's state from the receipts of their devices."""
        best = min(answers, key=lambda answer: PRECEDENCE.index(answer.outcome))
        tries = chunk.notes[position].tries if position in chunk.notes else 0
        chance = self._random.random()
        step = decide(best, tries, now, chunk.expires_at, self._policy, chance, resend=chunk.resend)
        self._step(chunk, position, step, best.code, now)

    def _step(self, chunk: Chunk, position: int, step: Decision, code: str, now: float) -> None:
        if step.state is State.WAITING:
            chunk.move(position, State.WAITING)
            chunk.notes[position] = Note(tries=step.tries, code=code, not_before=step.not_before)
        elif step.state is State.ACCEPTED and position not in chunk.notes:
            chunk.move(position, State.ACCEPTED)
        else:
            self._end(chunk, position, step.state, code, now, step.tries)

    def _end(self, chunk: Chunk, position: int, state: State, code: str, now: float, tries: int = 0) -> None:
        """A final state that needs a word, or came later than the chunk's first try."""
        assert state in FINAL
        chunk.move(position, state)
        at = now if position in chunk.notes or tries == 0 else 0.0
        chunk.notes[position] = Note(tries=tries, code="" if state is State.ACCEPTED else code, at=at)


ACCEPTED = Receipt(outcome=Outcome.ACCEPTED)


def _count(provider: str, done: BatchResult) -> None:
    for outcome, count in done.tally.items():
        metrics.RECEIPTS.labels(provider=provider, outcome=outcome).inc(count)
    for reason, count in done.stops.items():
        metrics.LANE_STOPS.labels(provider=provider, reason=reason).inc(count)
