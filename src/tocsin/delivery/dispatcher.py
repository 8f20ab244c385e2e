"""A dispatcher: delivers what is leased of one account and channel, from one chunk or from three hundred. Claims as
much as the lanes take, hands it over, and settles what is answered.

There is no barrier: places that answers leave are filled while slow answers are waited for. The order of the commits is
the promise. A message is committed as claimed before it is handed to a sender, and its place is free for another
attempt only after its result is committed.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, Row
from sqlalchemy.exc import OperationalError

from tocsin import metrics
from tocsin.account import Account
from tocsin.channels import CHANNELS, PLATFORM_CODES
from tocsin.delivery import traces
from tocsin.delivery.arrival import ClaimedRequest
from tocsin.delivery.chunk_trace import follow
from tocsin.delivery.claim import (
    OpenLane,
    Window,
    drop_late,
    find_claims,
    find_window,
    select_window,
)
from tocsin.delivery.claim_commit import ClaimCommit, Claimed, is_durable
from tocsin.delivery.completer import Completer, DeliveredChunk
from tocsin.delivery.content_breaker import ContentBreaker
from tocsin.delivery.held_chunk import Answer, HeldChunk, Settlement, free_slots
from tocsin.delivery.lane import Lane, Outgoing
from tocsin.delivery.plan import DeliveryPlan, LookUp, Planner
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.recipients import Person, load_people
from tocsin.delivery.recorder import record_uninstalled
from tocsin.delivery.retry import RetryPolicy
from tocsin.delivery.sender_pool import SenderPool
from tocsin.delivery.settle import SettleRules, find_unsent, settle_messages
from tocsin.ingest import refresh_profiles, refresh_sharers
from tocsin.ingest.subscription import AddressChange
from tocsin.outcome import State
from tocsin.providers.contract import Receipt
from tocsin.queue import Chunk
from tocsin.settings import Settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

SETTLE_SECONDS = 0.1  # answers of this time are settled together; nobody waits for that
LOOK_UP_BYTES = 64 * 1024  # of requests whose people are found at once; the others of the machine go between
PARKED_SECONDS = 1.0  # without room for a chunk, before others of the queue are taken in its place
TROUBLE_SECONDS = 0.5  # before what failed is tried again
LONGEST_WAIT_SECONDS, MIN_WAIT_SECONDS = 5.0, 0.005


class Delivery(msgspec.Struct, frozen=True):
    """What every dispatcher of a worker shares. on_progress: called when one may take more chunks."""

    ledger: Ledger
    facts: Facts
    senders: SenderPool
    settings: Settings
    secret: Secrets
    clock: Callable[[], float]
    completer: Completer
    content_breaker: ContentBreaker
    on_progress: Callable[[], None]


class Dispatcher:
    """Delivers the chunks it is given; `run` returns when none is left. urgent: requests, which go before campaigns."""

    def __init__(self, delivery: Delivery, account_id: str, channel: str, *, urgent: bool) -> None:
        self._d = delivery
        self._account_id = account_id
        self._channel = channel
        self._urgent = urgent
        self._account: Account | None = None
        self._new: list[Chunk] = []
        self._held: dict[int, HeldChunk] = {}
        self._answered: dict[int, HeldChunk] = {}
        self._first_answer = 0.0  # since when an answer waits to be settled, by the loop's clock
        self._answers = 0
        self._blocked: list[tuple[Lane, int]] = []  # lanes without room, and how many wait for it
        self._due = float("inf")  # when somebody of a held chunk is due next
        self._changed = asyncio.Event()
        self._stopping = False
        self.working = False  # within a round; at its end it says so
        self._settlement = Settlement()
        self._recording: set[asyncio.Task[None]] = set()
        self._policy = RetryPolicy(delivery.settings.retry_floor, delivery.settings.retries)
        self._random = random.Random()  # noqa: S311 - jitter, no secret

    @property
    def load(self) -> tuple[int, int]:
        """How many chunks it holds, and how many of them can be sent from now: what waits for a full lane and what only
        waits for answers keeps nobody from leasing more."""
        ready = sum(held.waiting and not held.parked_since for held in self._held.values())
        return self.count, ready + len(self._new)

    @property
    def unclaimed(self) -> int:
        """How many chunks it has not looked at yet."""
        return len(self._new)

    @property
    def count(self) -> int:
        """How many chunks it holds."""
        return len(self._held) + len(self._new)

    @property
    def blocked(self) -> bool:
        """Whether somebody waits for room in a lane."""
        return bool(self._blocked)

    @property
    def account(self) -> Account | None:
        """The account, once it was read."""
        return self._account

    def list_chunks(self) -> list[Chunk]:
        """Return the chunks that it holds."""
        return [*self._new, *(held.chunk for held in self._held.values())]

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Take leased chunks."""
        self._new.extend(chunks)
        self._changed.set()

    def adopt(self, claimed: Sequence[ClaimedRequest], account: Account, lanes: Mapping[str, Lane], at: float) -> None:
        """Take requests that were claimed as they were inserted, and hand them over."""
        self._account = self._account or account
        self._hand_over([(self._hold(one.chunk, one.plan), one.window) for one in claimed], lanes, at)

    def stop(self) -> None:
        """Claim nothing more; what is with a vendor is waited for and settled."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Deliver until nothing is held."""
        while self._held or self._new or self._recording:
            if not self._held and not self._new:
                await asyncio.wait(self._recording)
                continue
            self.working = True
            try:
                await self._deliver_some()
            except OperationalError:  # the ledger is away: what is in memory is as it was
                log.exception("delivery waits for the ledger", account=self._account_id)
                await asyncio.sleep(TROUBLE_SECONDS)
            except Exception:  # a bug
                log.exception("delivery interrupted", account=self._account_id, chunks=len(self._held))
                self._abandon()
            self.working = False
            self._d.on_progress()
            if self._held and not self._new:
                await self._wait()

    def _abandon(self) -> None:
        """Drop everything: the leases run out, and the chunks are taken again. For so long the notes of what was sent
        are kept."""
        keep = 2 * self._d.settings.lease_seconds
        sent = self._settlement.settled
        for held in self._held.values():
            held.lost, held.keep_seconds = True, keep
            sent += [message for message, _ in (*held.answered, *held.partial)]
        asyncio.get_running_loop().call_later(keep, free_slots, sent)
        self._settlement, self._answers = Settlement(), 0
        for one in (self._held, self._new, self._answered):
            one.clear()

    async def _deliver_some(self) -> None:
        """Settle what is answered, claim what there is room for, and hand it over."""
        self._settle()
        lanes: Mapping[str, Lane] = {}
        windows: list[tuple[HeldChunk, Window]] = []
        if self._new or any(held.waiting for held in self._held.values()):
            lanes, people = await self._look_up()
            windows = [] if self._stopping else await self._find_windows(lanes, people)
        else:  # nobody waits, for room or for a time
            self._blocked, self._due = [], float("inf")
        reserved = _count_messages(windows, lanes)
        for lane, count in reserved:
            lane.reserved += count
        try:
            claimed = await self._commit(windows)
        finally:
            for lane, count in reserved:
                lane.reserved -= count
        self._follow(claimed, lanes)
        self._part_with_chunks()

    async def _look_up(self) -> tuple[Mapping[str, Lane], dict[int, Person]]:
        """Read the credentials; plan new chunks, find who their requests name, and read about these people."""
        new, self._new = _take_some(self._new)

        def read(connection: Connection) -> LookUp:
            planner = Planner(connection, self._account_id, self._d.settings, self._d.secret)
            return planner.look_up(new, self._channel, self._account)

        try:
            found = await self._d.ledger.read(read)
        except OperationalError:
            self._new = new + self._new
            raise
        self._account = found.account
        for chunk, plan in found.plans:
            found.name(chunk, self._d.clock())
            self._hold(chunk, plan)
        return self._d.senders.lanes_of(found.credentials), found.people

    def _hold(self, chunk: Chunk, plan: DeliveryPlan) -> HeldChunk:
        trace = None if traces.active is None else follow(chunk)
        if trace is not None:
            trace.note_look(chunk, self._d.clock())
        held = self._held[chunk.id] = HeldChunk(chunk, plan, self._note_answer, trace)
        return held

    def _note_answer(self, held: HeldChunk) -> None:
        if not self._answers:
            self._first_answer = asyncio.get_running_loop().time()
        self._answers += 1
        self._answered[held.chunk.id] = held
        self._changed.set()

    def _settle(self) -> None:
        """Settle in memory what is answered."""
        answered, self._answered, self._answers = self._answered, {}, 0
        now, result = self._d.clock(), self._settlement
        for held in answered.values():
            if not (answers := held.take_answers()):
                continue
            result.touched[held.chunk.id] = held
            result.settled.extend(message for message, _ in answers)
            messages = [message.message for message, _ in answers]
            receipts = {place: receipt for place, (_, receipt) in enumerate(answers) if receipt is not None}
            rules = SettleRules(self._policy, held.plan.every_device, self._random.random)
            if dead := settle_messages(held.chunk, messages, receipts, rules, now):
                result.gone.append((held, dead))
            self._count_content(held, answers)
            if held.chunk.request is not None:
                seconds = metrics.SEND_SECONDS.labels(channel=self._channel)
                for _ in answers:
                    seconds.observe(max(now - held.chunk.created_at, 0.0))
            if held.plan.rule is not None:
                claims = [held.claims.pop(position) for position in dict.fromkeys(one.position for one in messages)]
                result.unsent.append((held.plan.rule, find_unsent(held.chunk, claims)))

    def _count_content(self, held: HeldChunk, answers: Sequence[Answer]) -> None:
        by_platform: dict[str, list[Receipt | None]] = defaultdict(list)
        for message, receipt in answers:
            by_platform[message.platform].append(receipt)
        for platform, receipts in by_platform.items():
            refusals = [receipt for receipt in receipts if receipt is not None]
            self._d.content_breaker.count(held.plan.label, platform, len(receipts) - len(refusals), refusals)

    async def _find_windows(
        self, lanes: Mapping[str, Lane], people: dict[int, Person]
    ) -> list[tuple[HeldChunk, Window]]:
        """Return the messages that may go now, by chunk; recipients who get nothing become final."""
        now = self._d.clock()
        selected = self._select(lanes, now)
        users = sorted({held.chunk.users[position] for held, positions in selected for position in positions})
        missing = [user for user in users if user not in people]
        if missing:
            account_id, channels = self._account_id, [CHANNELS[self._channel]]
            people = people | await self._d.ledger.read(lambda one: load_people(one, account_id, missing, channels))
        assert self._account is not None
        windows: list[tuple[HeldChunk, Window]] = []
        for held, positions in selected:
            if window := find_window(held.chunk, positions, held.plan, people, self._account, now):
                windows.append((held, window))
        return windows

    def _select(self, lanes: Mapping[str, Lane], now: float) -> list[tuple[HeldChunk, list[int]]]:
        """Return the positions that are due and have room, by chunk. Note who waits for room, and who for a time."""
        views = {platform: lane.look(now, urgent=self._urgent) for platform, lane in lanes.items()}
        left, blocked = self._d.settings.window, Counter[str]()
        self._due = float("inf")
        selected: list[tuple[HeldChunk, list[int]]] = []
        for held in self._held.values():
            chunk = held.chunk
            drop_late(chunk, now)
            if not held.waiting:
                held.parked_since = 0.0
                continue
            is_refused = functools.partial(self._d.content_breaker.is_open, held.plan.label)
            size = min(left, max(held.plan.window - held.in_flight, 0))
            positions = select_window(chunk, views, is_refused, size, now)
            left -= len(positions)
            for code, count in _count_platforms(chunk, positions).items():
                platform = PLATFORM_CODES[code]
                views[platform] = OpenLane(0.0, views[platform].room - count)
            if positions:
                selected.append((held, positions))
            self._note_rest(held, positions, now, blocked)
        self._blocked = [(lanes[platform], count) for platform, count in blocked.items() if platform in lanes]
        return selected

    def _note_rest(self, held: HeldChunk, positions: Sequence[int], now: float, blocked: Counter[str]) -> None:
        """Note who of a chunk is due and has no room, and when others are due."""
        chunk = held.chunk
        if chunk.notes or chunk.platform is None:
            chosen = set(positions)
            rest = _count_platforms(chunk, [position for position in chunk.waiting(now) if position not in chosen])
        else:
            left = chunk.states.count(State.WAITING) - len(positions)
            rest = {chunk.platform: left} if left else {}
        if held.in_flight + len(positions) < held.plan.window:  # else its own answers make room
            for code, count in rest.items():
                blocked[PLATFORM_CODES[code]] += count
        if not rest or positions:
            held.parked_since = 0.0
        elif not held.parked_since:
            held.parked_since = asyncio.get_running_loop().time()
        later = (
            note.not_before
            for position, note in chunk.notes.items()
            if note.not_before > now and chunk.states[position] == State.WAITING
        )
        self._due = min((self._due, *later))

    async def _commit(self, windows: Sequence[tuple[HeldChunk, Window]]) -> Claimed:
        """In one transaction settle what is answered and claim windows as far as caps allow."""
        now, seconds = self._d.clock(), self._d.settings.lease_seconds
        touched = self._settlement.touched | {held.chunk.id: held for held, _ in windows}
        touched |= {held.chunk.id: held for held in self._held.values() if held.chunk.changed or held.chunk.new}
        if not touched:
            return Claimed([], [], set(), now)
        commit = ClaimCommit(self._account_id, list(touched.values()), self._settlement, windows, now, seconds)
        settles, embedded = bool(self._settlement.settled), self._d.ledger.embedded
        durable = is_durable(claims=bool(windows), settles=settles, embedded=embedded)
        try:
            claimed = await self._d.ledger.write(commit.run, durable=durable)
        except BaseException:
            commit.restore()
            raise
        for held in touched.values():
            held.chunk.new = held.chunk.changed = False
        return claimed

    def _follow(self, claimed: Claimed, lanes: Mapping[str, Lane]) -> None:
        """Free the slots of what is settled, and hand over what is claimed."""
        settlement, self._settlement = self._settlement, Settlement()
        free_slots(settlement.settled)
        if traces.active is not None:
            for one in settlement.touched.values():
                if one.trace is not None:
                    one.trace.note_settlement(self._d.clock())
        for chunk_id in claimed.lost:
            log.warning("lease lost", chunk=chunk_id)
            if (held := self._held.pop(chunk_id, None)) is not None:
                held.lost = True
        users = {user for _, gone in settlement.gone for user in gone}
        if users or claimed.removed:
            users |= {device.gone_user for device in claimed.removed}
            dead = [one for _, gone in settlement.gone for found in gone.values() for _, one, _ in found]
            mailboxes = [AddressChange("email", one.value, opts_out=True) for one in dead if one.kind == "email"]
            task = asyncio.create_task(self._record_dead(claimed.removed, users, mailboxes))
            self._recording.add(task)
            task.add_done_callback(self._recording.discard)
        self._hand_over([one for one in claimed.windows if one[0].chunk.id not in claimed.lost], lanes, claimed.at)

    def _hand_over(self, windows: Sequence[tuple[HeldChunk, Window]], lanes: Mapping[str, Lane], at: float) -> None:
        by_lane: dict[str, list[Outgoing]] = defaultdict(list)
        for held, window in windows:
            if held.plan.rule is not None:
                held.claims |= {claim.position: claim for claim in find_claims(held.chunk, window, at)}
            for platform, messages in window.items():
                context, lane = held.plan.context, lanes[platform]
                by_lane[platform] += [Outgoing(lane, platform, context, message, held) for message in messages]
                held.in_flight += len(messages)
                if held.trace is not None:
                    held.trace.note_claim(by_lane[platform][-len(messages) :], self._d.clock())
                if held.plan.every_device:
                    several = Counter(message.position for message in messages)
                    held.missing |= {position: count for position, count in several.items() if count > 1}
        # Every note is there before the first message goes: nobody's devices may be known by half.
        divided = [
            (lanes[platform], lanes[platform].divide(messages, urgent=self._urgent))
            for platform, messages in by_lane.items()
        ]
        for lane, parts in divided:
            lane.send(parts, urgent=self._urgent)

    async def _record_dead(
        self, removed: Sequence[Row[Any]], users: set[int], mailboxes: Sequence[AddressChange]
    ) -> None:
        """Record `App Uninstalled`, and copy the people whose devices or mailboxes died to facts. The ledger has it
        already, and claims ask the ledger: a failure here makes an estimate a little too high and the event late,
        nothing else."""
        try:
            assert self._account is not None
            await record_uninstalled(self._d.facts, self._account, removed)
            await refresh_profiles(self._d.ledger, self._d.facts, self._account_id, sorted(users))
            await refresh_sharers(self._d.ledger, self._d.facts, self._account_id, mailboxes)
        except Exception:
            log.exception("dead devices not recorded; `tocsin repair` makes up for it", account=self._account_id)

    def _part_with_chunks(self) -> None:
        """Pass chunks of which nothing more is due now to the completer, and those that have been parked for long back
        to the queue."""
        now, time = self._d.clock(), asyncio.get_running_loop().time()
        assert self._account is not None
        for held in list(self._held.values()):
            if held.in_flight or held.answered or held.partial:
                continue
            due, again = held.chunk.next_due(), 0.0
            if due is not None and due <= now and not self._stopping:
                if not held.parked_since or time < held.parked_since + PARKED_SECONDS:
                    continue
                again = now + PARKED_SECONDS
            del self._held[held.chunk.id]
            self._d.completer.put(DeliveredChunk(self._account, held.chunk, again))

    async def _wait(self) -> None:
        """Wait until there is something to do: room in a lane, answers, a time."""
        loop = asyncio.get_running_loop()
        while (seconds := self._find_pause(loop.time())) > 0:
            self._changed.clear()
            for lane, _ in self._blocked:
                lane.waiters.add(self._changed)
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _find_pause(self, time: float) -> float:
        """Return the seconds until there is something to do if nothing happens; 0 for now. time: the loop's."""
        window, now = self._d.settings.window, self._d.clock()
        if self._new or self._answers >= window or (self._stopping and (self._answers or not self._is_out())):
            return 0.0
        pauses = [LONGEST_WAIT_SECONDS, self._due - now]
        if self._answers:
            pauses.append(self._first_answer + SETTLE_SECONDS - time)
        for lane, count in self._blocked:
            room = lane.look(now, urgent=self._urgent).room
            if not self._stopping and room >= min(count, max(window // 2, 1) if lane.steady else 1):
                return 0.0
            if (turn := lane.next_turn()) is not None:
                pauses.append(max(turn - now, MIN_WAIT_SECONDS))
        parked = [held.parked_since for held in self._held.values() if held.parked_since and not held.in_flight]
        if parked:
            pauses.append(min(parked) + PARKED_SECONDS - time)
        return max(min(pauses), 0.0)

    def _is_out(self) -> bool:
        return any(held.in_flight for held in self._held.values())


def _take_some(chunks: list[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
    """Divide new chunks into those that are looked up now and the rest: by the size of their requests, at least one."""
    size = 0
    for place, chunk in enumerate(chunks):
        size += len(chunk.request or "")
        if size > LOOK_UP_BYTES and place:
            return chunks[:place], chunks[place:]
    return chunks, []


def _count_platforms(chunk: Chunk, positions: Sequence[int]) -> Mapping[int, int]:
    """Return how many of some recipients are of each platform code."""
    if chunk.platform is not None:
        return {chunk.platform: len(positions)} if positions else {}
    return Counter(chunk.platforms[position] for position in positions)


def _count_messages(windows: Sequence[tuple[HeldChunk, Window]], lanes: Mapping[str, Lane]) -> list[tuple[Lane, int]]:
    counts = Counter[str]()
    for _, window in windows:
        counts.update({platform: len(messages) for platform, messages in window.items()})
    return [(lanes[platform], count) for platform, count in counts.items()]
