"""Outgoing: the claimed messages of one lane in the process that sends them. Each is rendered, noted as handed over
before its bytes can leave, sent, and noted as answered."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable

import msgspec
import structlog

from tocsin.content import Unrenderable
from tocsin.delivery.batch import Batch, BatchContext, PendingMessage, render
from tocsin.delivery.handover import NoteFile
from tocsin.delivery.in_flight import LEAST_AT_ONCE, InFlight
from tocsin.delivery.retry import lane_pause
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Credential, Provider, Receipt, Scope
from tocsin.providers.transport import Transport

log = structlog.get_logger()

# A message that takes longer than so many times the vendor's latency, and than SLOW_SECONDS, takes nobody's place.
# Until the latency is known (TLS comes first, and APNs opens a connection with one stream) that is a second.
SLOW_FACTOR, SLOW_SECONDS, SLOW_AT_FIRST = 8.0, 0.05, 1.0
SWEEP_SECONDS = 0.02

_ACCEPTED = Outcome.ACCEPTED
_Item = tuple[int, str, BatchContext, PendingMessage]  # slot, platform


class Answers(msgspec.Struct, array_like=True):
    """What came of messages since the last report, by slot. accepted: taken by the vendor. answered: its other answers.
    held: those that it never heard of. at_once: of each lane («account/provider»)."""

    accepted: list[int] = msgspec.field(default_factory=list)
    answered: list[tuple[int, Receipt]] = msgspec.field(default_factory=list)
    held: list[tuple[int, Receipt]] = msgspec.field(default_factory=list)
    at_once: dict[str, int] = msgspec.field(default_factory=dict)


Report = Callable[[], Answers]  # returns the answers that will be reported next


class OutgoingLane:
    """The queue of one lane in one process, and the tasks that send from it. provider: None when its settings do not
    load, which every message gets to hear."""

    def __init__(
        self,
        credential: Credential,
        provider: Provider | None,
        notes: NoteFile,
        report: Report,
        clock: Callable[[], float],
    ) -> None:
        self.credential = credential
        self._provider = provider
        self._notes = notes
        self._report = report
        self._clock = clock
        self._urgent: deque[_Item] = deque()
        self._queue: deque[_Item] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused_until = 0.0
        self._in_flight = InFlight(provider.at_once if provider is not None else LEAST_AT_ONCE)
        self._started: dict[int, float] = {}  # by slot, oldest first; without those that are slow
        self._slow: set[int] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def put(self, batch: Batch) -> None:
        """Queue the messages of a batch."""
        queue = self._urgent if batch.urgent else self._queue
        contexts, platform = batch.contexts, batch.platform
        queue.extend(
            (slot, platform, contexts[place], message)
            for slot, place, message in zip(batch.slots, batch.places, batch.messages, strict=True)
        )
        self._start_tasks()

    def hold(self, until: float) -> None:
        """Hand nothing over before a time in epoch seconds; what is queued is reported as held."""
        self._paused_until = max(self._paused_until, until)

    def retire(self) -> None:
        """Close the provider's connections once its last answer is in."""
        if self._provider is not None:
            self._provider.retire()

    async def aclose(self) -> None:
        """End the tasks; what they have under way stays noted as it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()

    @property
    def busy(self) -> bool:
        """Whether a message is under way."""
        return bool(self._tasks)

    @property
    def _allowed(self) -> int:
        return min(self._in_flight.allowed + len(self._slow), self._in_flight.most)

    def _start_tasks(self) -> None:
        waiting = len(self._urgent) + len(self._queue)
        if waiting and not self._tasks:
            self._in_flight.begin(time.monotonic())
        for _ in range(min(self._allowed - len(self._tasks), waiting)):
            task = asyncio.create_task(self._send_all())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._sweeper is None and self._tasks:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Let others go in place of messages that take long."""
        self._sweeper = None
        latency = self._in_flight.latency
        limit = max(latency * SLOW_FACTOR, SLOW_SECONDS) if latency else SLOW_AT_FIRST
        oldest, before = time.monotonic() - limit, len(self._slow)
        for slot, started in list(self._started.items()):
            if started > oldest:
                break
            del self._started[slot]
            self._slow.add(slot)
        if len(self._slow) != before:
            self._tell()
        self._start_tasks()

    def _tell(self) -> None:
        self._report().at_once[name_lane(self.credential)] = self._allowed

    async def _send_all(self) -> None:
        while (self._urgent or self._queue) and len(self._tasks) <= self._allowed:
            slot, platform, context, pending = (self._urgent or self._queue).popleft()
            now = self._clock()
            if self._paused_until > now:
                self._report().held.append((slot, _paused(self._paused_until - now)))
                continue
            try:
                receipt = await self._send(slot, platform, context, pending, now)
            except (Unrenderable, msgspec.DecodeError) as error:
                refused = Receipt(outcome=Outcome.REFUSED, code=f"template: {error}")
                self._report().held.append((slot, refused))
                continue
            self._notes.answer(slot, receipt)
            if receipt.outcome is _ACCEPTED:
                self._report().accepted.append(slot)
                continue
            self._report().answered.append((slot, receipt))
            if pause := lane_pause(receipt):
                self.hold(self._clock() + pause)

    async def _send(
        self, slot: int, platform: str, context: BatchContext, pending: PendingMessage, now: float
    ) -> Receipt:
        if self._provider is None:
            return Receipt(outcome=Outcome.DENIED, code="misconfigured", scope=Scope.LANE)
        self._notes.render(slot)
        try:
            message = render(context, platform, pending, now)
        finally:
            self._notes.render(0)
        self._started[slot] = started = time.monotonic()
        try:
            receipt = await self._provider.send(message, now, functools.partial(self._notes.hand_over, slot))
        except Exception:  # a bug of the provider: nobody knows whether the message went out
            log.exception("provider failed", account=context.account_id, provider=self.credential.name)
            return Receipt(outcome=Outcome.UNKNOWN, code="internal")
        finally:
            if self._started.pop(slot, None) is None:
                self._slow.discard(slot)
        if self._in_flight.hear(started, time.monotonic(), len(self._started)):
            self._tell()
            self._start_tasks()
        return receipt


class OutgoingLanes:
    """The lanes of one sender process: made when first needed, and again after `tocsin provider …` changed their row.
    make: returns a credential's provider."""

    def __init__(
        self,
        make: Callable[[Credential], Provider | None],
        notes: NoteFile,
        report: Report,
        clock: Callable[[], float],
    ) -> None:
        self._make = make
        self._notes = notes
        self._report = report
        self._clock = clock
        self._lanes: dict[str, OutgoingLane] = {}

    def get(self, credential: Credential) -> OutgoingLane:
        """Return the lane of a credential."""
        name = name_lane(credential)
        lane = self._lanes.get(name)
        if lane is None or lane.credential != credential:
            if lane is not None:
                lane.retire()
            provider = self._make(credential)
            lane = self._lanes[name] = OutgoingLane(credential, provider, self._notes, self._report, self._clock)
        return lane

    @property
    def busy(self) -> bool:
        """Whether a message of any lane is under way."""
        return any(lane.busy for lane in self._lanes.values())

    async def aclose(self) -> None:
        """End every task."""
        for lane in self._lanes.values():
            await lane.aclose()


def name_lane(credential: Credential) -> str:
    """Return the name of a credential's lane among all accounts."""
    return f"{credential.account_id}/{credential.name}"


def make_provider(transport: Transport, credential: Credential) -> Provider | None:
    """Return the provider of a credential; None, and a line in the log, when its settings cannot work."""
    cls = BY_NAME[credential.name]
    try:
        return cls(msgspec.json.decode(credential.settings, type=cls.Settings), transport)
    except (Misconfigured, msgspec.ValidationError) as error:
        log.error("provider cannot work", account=credential.account_id, provider=credential.name, reason=str(error))
        return None


def _paused(seconds: float) -> Receipt:
    return Receipt(outcome=Outcome.THROTTLED, code="lane paused", retry_after=seconds, scope=Scope.LANE)
