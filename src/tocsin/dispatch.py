"""Stage 4 of 7, dispatch: chunks are claimed, handed over, settled and closed.

The order of the commits is the promise. A window is committed as claimed before any of it is handed to a vendor; what
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

from tocsin import chunk as chunks
from tocsin import metrics
from tocsin.account import Account
from tocsin.batch import Batch, Parcel, Sent
from tocsin.bell import Bell
from tocsin.caps import Busy, Claim, Rule
from tocsin.chunk import Chunk, Note
from tocsin.closing import Closing, Done
from tocsin.crew import Crew, Slot
from tocsin.ingest import refresh_profiles
from tocsin.order import Order, Request, cap_window, find_unsent, pack, read_order
from tocsin.outcome import FINAL, Outcome, State
from tocsin.pacing import Policy, Step, next_step
from tocsin.providers.contract import Address, Receipt, Scope
from tocsin.quiet import Quiet, quiet_until
from tocsin.recorder import record_uninstalled
from tocsin.roster import Gone, find_recipients, find_zones, look_up, mark_gone, read_to
from tocsin.settings import Settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.traffic import Traffic

log = structlog.get_logger()

POLL_SECONDS = 0.5
WRONG = 20  # so many recipients refused for what the content is, and none accepted: the rest is not tried
BUSY_SECONDS = 0.02  # before a claim that met another process at the caps is tried again
CONTENTS = 1000  # contents watched for that
RESTS = 3  # times as long as a request's chunk took, while the door is busy
LONGEST_REST = 1.0
# Which chunks a task looks for, one after the other, by its slot and whether the door is busy.
CHOICES: Mapping[tuple[Slot, bool], tuple[int | None, ...]] = {
    (Slot.STEADY, False): (chunks.CAMPAIGN, None),
    (Slot.ANY, False): (None,),
    (Slot.URGENT, False): (chunks.TRANSACTIONAL,),
    (Slot.STEADY, True): (chunks.CAMPAIGN,),
    (Slot.ANY, True): (),
    (Slot.URGENT, True): (chunks.TRANSACTIONAL,),
}
Clock = Callable[[], float]

# Of the receipts of one recipient's devices, the first of these is the recipient's.
PRECEDENCE = (
    *(Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.THROTTLED, Outcome.DENIED, Outcome.UNAVAILABLE),
    *(Outcome.REFUSED, Outcome.GONE),
)


class Road(Protocol):
    """The way to one vendor for one account, whoever does the sending: `Lane` in this process, `Route` in another."""

    name: str
    paused_until: float

    async def carry(self, batch: Batch) -> Sent: ...


class Roads(Protocol):
    """The roads of an account by platform. A platform without one has no provider set."""

    async def of(self, account_id: str) -> Mapping[str, Road]: ...


class Losses(msgspec.Struct):
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
        roads: Roads,
        settings: Settings,
        secret: bytes,
        clock: Clock,
        bell: Bell,
        traffic: Traffic | None = None,
    ):
        self._ledger = ledger
        self._facts = facts
        self._roads = roads
        self._settings = settings
        self._secret = secret
        self._clock = clock
        self._bell = bell
        self._traffic = traffic or Traffic()
        self._stopping = False
        self._policy = Policy(settings.retry_floor, settings.retries)
        self._dice = random.Random()  # noqa: S311 - jitter, no secret
        self._crew = Crew(settings.chunks_at_once, self._work)
        self._delivering = 0
        self._closing = Closing(ledger, facts, clock, lambda: self._delivering > 0)
        self._wrong: dict[tuple[str, str], int] = {}
        self.owner = uuid.uuid4().hex

    def stop(self) -> None:
        """No new claims; what is with a vendor is waited for and settled."""
        self._stopping = True
        self._crew.stop()
        self._bell.ring()

    async def run(self) -> None:
        if self._ledger.embedded:  # one process has this ledger to itself: other owners are dead
            await self._ledger.write(lambda connection: chunks.release_dead(connection, self.owner))
        async with asyncio.TaskGroup() as group:
            closing = group.create_task(self._closing.run())
            await self._crew.run()
            self._closing.end()
            await closing

    async def _work(self, slot: Slot) -> None:
        """Takes the next chunk that this slot may take and delivers it; or waits for one. While many arrive at the
        door, requests are taken one at a time and with pauses, for the door has the right of way."""
        started = self._clock()
        heavy, seconds = self._traffic.is_heavy(started), self._settings.lease_seconds

        def lease(connection: Connection) -> Chunk | None:
            for priority in CHOICES[slot, heavy]:
                if chunk := chunks.lease_next(connection, self.owner, started, seconds, priority=priority):
                    return chunk
            return None

        try:
            chunk = await self._ledger.write(lease)
            if chunk is None:
                await (asyncio.sleep(POLL_SECONDS) if heavy else self._bell.wait(POLL_SECONDS))
            elif done := await self._deliver_leased(chunk):
                await self._closing.put(done)
            if heavy and slot is Slot.URGENT:
                await asyncio.sleep(min((self._clock() - started) * RESTS, LONGEST_REST))
        except Exception:
            # A bug or a store that is away. The lease runs out and the chunk is taken again: nothing is lost.
            log.exception("delivery interrupted")
            await self._bell.wait(POLL_SECONDS)

    async def deliver(self, chunk: Chunk) -> None:
        """Takes a leased chunk as far as it goes now, records what is final, and closes or releases it."""
        if done := await self._deliver_leased(chunk):
            await self._closing.close([done])

    async def _deliver_leased(self, chunk: Chunk) -> Done | None:
        """None: the lease is lost. Else its renewal goes on until it is let go of."""
        beating = asyncio.create_task(self._keep_lease(chunk))
        self._delivering += 1
        try:
            account = await self._deliver(chunk)
        except BaseException:
            beating.cancel()
            raise
        finally:
            self._delivering -= 1
            self._closing.look_up()
        if account is None:
            beating.cancel()
            return None
        return Done(account, chunk, beating)

    async def _keep_lease(self, chunk: Chunk) -> None:
        """Renews the lease while vendors and stores think. When it is lost, the next commit finds out."""
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            until = self._clock() + self._settings.lease_seconds
            try:
                ours = await self._ledger.write(functools.partial(chunks.renew, chunk=chunk, until=until))
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
        order, losses = await read_order(self._ledger, chunk, self._settings, self._secret), Losses()
        try:
            ours = await self._send_windows(chunk, order, losses)
        finally:  # what was committed as gone is gone, however the rest went
            await self._record_losses(account, losses)
        return account if ours else None

    async def _send_windows(self, chunk: Chunk, order: Order, losses: Losses) -> bool:
        """Sends one window after the other until nothing is due, and adds to `losses`. False: the lease is lost."""
        gone: Gone = {}
        unsent: Sequence[Claim] = ()
        while True:
            roads = await self._roads.of(chunk.account_id)
            window = await self._plan(chunk, order, roads)
            claimed_at = self._clock()
            claimed, went = await self._commit(chunk, order.rule, window, gone, unsent, claimed_at)
            losses.users.update(gone, (device.gone_user for device in went))
            losses.devices.extend(went)
            if claimed is None:
                log.warning("lease lost", chunk=chunk.id)
                return False
            if claimed:
                async with self._crew.lending():
                    sent = await asyncio.gather(
                        *(roads[name].carry(Batch(order.job, name, parcels)) for name, parcels in claimed.items())
                    )
                gone = self._apply(chunk, order, list(zip(claimed, claimed.values(), sent, strict=True)), roads)
                unsent = find_unsent(chunk, claimed, claimed_at) if order.rule is not None else ()
            elif self._stopping or not chunk.waiting(self._clock()):
                return True
            else:
                gone, unsent = {}, ()

    async def _record_losses(self, account: Account, losses: Losses) -> None:
        """Raises `App Uninstalled`, and copies people whose devices died. The ledger has it already, and claims ask the
        ledger: a failure here makes an estimate a little too high and the event late, nothing else."""
        try:
            await record_uninstalled(self._facts, account, losses.devices)
            await refresh_profiles(self._ledger, self._facts, account.id, sorted(losses.users))
        except Exception:
            log.exception("dead devices not recorded; `tocsin repair` makes up for it", account=account.id)

    async def _freeze_request(self, chunk: Chunk) -> bool:
        request = msgspec.json.decode(chunk.request or "", type=Request)

        def find(connection: Connection) -> list[tuple[int, str]]:
            return find_recipients(connection, chunk.account_id, read_to(request.to), chunk.channel)

        pairs = await self._ledger.read(find)  # not in the writer, which others wait for
        return await self._ledger.write(lambda connection: chunks.freeze_request(connection, chunk, pairs))

    async def _plan(self, chunk: Chunk, order: Order, roads: Mapping[str, Road]) -> dict[str, list[Parcel]]:
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
        window = self._pick(chunk, order, roads, now)
        if order.quiet is not None:
            window = await self._leave_in_peace(chunk, order.quiet, window, now)
        users = sorted({chunk.users[position] for position in window})
        people = await self._ledger.read(lambda connection: look_up(connection, chunk.account_id, users, chunk.channel))
        parcels: dict[str, list[Parcel]] = {}
        for position in window:
            platform = chunks.PLATFORM_CODES[chunk.platforms[position]]
            person = people.get(chunk.users[position])
            packed = pack(order, position, platform, person)
            if isinstance(packed, State):
                chunk.move(position, packed)
            else:
                parcels.setdefault(platform, []).extend(packed)
        return parcels

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

    def _pick(self, chunk: Chunk, order: Order, roads: Mapping[str, Road], now: float) -> list[int]:
        """The positions to claim next: those whose road is open."""
        waiting = chunk.waiting(now)
        present = {platform: chunks.PLATFORM_CODES[platform] for platform in set(chunk.platforms)}
        shut = {number for number, name in present.items() if not self._is_open(order, name, roads.get(name), now)}
        if not shut:
            return waiting[: order.window]
        window: list[int] = []
        for position in waiting:
            number = chunk.platforms[position]
            if number not in shut:
                window.append(position)
                if len(window) == order.window:
                    break
                continue
            road = roads.get(present[number])
            if road is None:
                chunk.move(position, State.NO_PROVIDER)
            elif self._is_refused(order, present[number]):
                self._end(chunk, position, State.REFUSED, "not tried: the content is refused", now)
            else:
                chunk.notes.setdefault(position, Note()).not_before = road.paused_until
        return window

    def _is_open(self, order: Order, platform: str, road: Road | None, now: float) -> bool:
        return road is not None and road.paused_until <= now and not self._is_refused(order, platform)

    def _is_refused(self, order: Order, platform: str) -> bool:
        return self._wrong.get((order.label, platform), 0) >= WRONG

    async def _commit(
        self,
        chunk: Chunk,
        rule: Rule | None,
        window: dict[str, list[Parcel]],
        gone: Gone,
        unsent: Sequence[Claim],
        at: float,
    ) -> tuple[dict[str, list[Parcel]] | None, Sequence[Row[Any]]]:
        """Commits what is settled, forgets dead addresses, gives back what the caps hold for those who got nothing, and
        claims the window's recipients as far as the caps allow. None: the lease is lost, send nothing. Beside it the
        devices that went."""

        def commit(connection: Connection) -> tuple[dict[str, list[Parcel]] | None, Sequence[Row[Any]]]:
            claimed = window if rule is None else cap_window(connection, chunk, rule, window, unsent, at)
            if chunks.is_stopped(connection, chunk.run_id):
                for position in chunk.waiting(float("inf")):
                    chunk.move(position, State.STOPPED)
                claimed = {}
            chunk.move_all({parcel.position for parcels in claimed.values() for parcel in parcels}, State.CLAIMED)
            now = self._clock()
            went = mark_gone(connection, chunk.account_id, gone, now, chunk.campaign_id)
            ours = chunks.settle(connection, chunk, now, self._settings.lease_seconds)
            return (claimed if ours else None), went

        while True:
            try:
                return await self._ledger.write(commit)
            except Busy:
                await asyncio.sleep(BUSY_SECONDS)

    def _apply(
        self, chunk: Chunk, order: Order, sent: Iterable[tuple[str, list[Parcel], Sent]], roads: Mapping[str, Road]
    ) -> Gone:
        """Turns what came of a window into states; answers the addresses that turned out dead."""
        now = self._clock()
        gone: dict[int, list[tuple[int, Address, str]]] = {}
        for platform, parcels, done in sent:
            _count(roads[platform].name, done)
            odd: dict[int, list[Receipt | None]] = {}
            if order.every_device:
                for place, parcel in enumerate(parcels):
                    odd.setdefault(parcel.position, []).append(done.answers.get(place))
            else:
                odd = {parcels[place].position: [receipt] for place, receipt in done.answers.items()}
                plain = [parcel.position for parcel in parcels if parcel.position not in odd]
                odd |= {position: [None] for position in plain if position in chunk.notes}
                chunk.move_all((position for position in plain if position not in odd), State.ACCEPTED)
            for place, receipt in done.answers.items():
                if receipt.outcome is Outcome.GONE:
                    parcel = parcels[place]
                    dead = (parcel.device_id, parcel.address, receipt.code)
                    gone.setdefault(chunk.users[parcel.position], []).append(dead)
            for position, answers in odd.items():
                self._judge(chunk, position, [answer or ACCEPTED for answer in answers], now)
            self._watch(order.label, platform, len(parcels) - len(done.answers), done.answers.values())
        return gone

    def _watch(self, label: str, platform: str, accepted: int, answers: Iterable[Receipt]) -> None:
        """A content that a vendor refuses for what it is would be refused for everybody."""
        key = (label, platform)
        if accepted:
            self._wrong[key] = -(10**9)
        wrong = sum(answer.scope is Scope.CAMPAIGN for answer in answers)
        if wrong:
            self._wrong[key] = before = self._wrong.get(key, 0) + wrong
            if WRONG <= before < WRONG + wrong:
                log.error("content refused by the vendor: nobody else is tried", content=label, platform=platform)
        while len(self._wrong) > CONTENTS:
            del self._wrong[next(iter(self._wrong))]

    def _judge(self, chunk: Chunk, position: int, answers: Sequence[Receipt], now: float) -> None:
        """One recipient's state from the receipts of their devices."""
        best = min(answers, key=lambda answer: PRECEDENCE.index(answer.outcome))
        tries = chunk.notes[position].tries if position in chunk.notes else 0
        chance = self._dice.random()
        step = next_step(best, tries, now, chunk.expires_at, self._policy, chance, resend=chunk.resend)
        self._step(chunk, position, step, best.code, now)

    def _step(self, chunk: Chunk, position: int, step: Step, code: str, now: float) -> None:
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


def _count(provider: str, done: Sent) -> None:
    for outcome, count in done.tally.items():
        metrics.RECEIPTS.labels(provider=provider, outcome=outcome).inc(count)
    for reason, count in done.stops.items():
        metrics.LANE_STOPS.labels(provider=provider, reason=reason).inc(count)
