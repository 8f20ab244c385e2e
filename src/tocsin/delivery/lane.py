"""A lane: one credential of one account. It pauses by itself; other lanes go on.

The lane lives in the worker, and its messages are sent by one or many senders: what one of them hears from the vendor
holds for all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec
import structlog

from tocsin import metrics
from tocsin.delivery.batch import BatchContext, PendingMessage
from tocsin.delivery.circuit_breaker import NO_RULES, BreakerRules, CircuitBreaker
from tocsin.delivery.claim import OpenLane
from tocsin.delivery.handover import NoteFile
from tocsin.delivery.retry import lane_pause
from tocsin.delivery.slow_start import SlowStart
from tocsin.outcome import Outcome
from tocsin.providers.contract import NO_TLS, Credential, Receipt

log = structlog.get_logger()

NO_SENDER = Receipt(outcome=Outcome.THROTTLED, code="no sender", retry_after=1.0)

# What the operator can do about a stop. Others end by themselves.
ADVICE = {  # by the receipt's code, else by the reason
    NO_TLS: "it does not mend itself: `tocsin provider set {name} …` with --ca FILE where the relay's certificate is "
    "signed by an authority of your own, --host NAME as in the certificate, and --tls and --port as the relay has them",
    "denied": "`tocsin provider set {name} …` with credentials that work",
    "breaker": "`tocsin provider set {name} …` if the settings are wrong; "
    "`tocsin provider trust {name} …` if the addresses really are dead",
    "brake": "`tocsin provider trust {name} …` if the addresses really are dead",
}


class Collector(Protocol):
    """Who waits for the receipts of messages. None: accepted."""

    def collect(self, message: Outgoing, receipt: Receipt | None) -> None: ...


class Outgoing(msgspec.Struct, eq=False):
    """A claimed message on its way, in the worker's memory. slot, notes: where its hand-over is noted."""

    lane: Lane
    platform: str
    context: BatchContext
    message: PendingMessage
    collector: Collector
    slot: int = 0
    notes: NoteFile | None = None


class Sender(Protocol):
    """What sends: a process, or a task of this one. It answers by `Lane.receive`. up: whether it can be used."""

    @property
    def up(self) -> bool: ...

    def room(self, credential: Credential, *, urgent: bool) -> int:
        """Return how many more messages of a lane it can take now; 0 until it is up. urgent: those of requests."""
        ...

    @property
    def slots(self) -> int:
        """How many hand-over notes it has room for."""
        ...

    def claim(self, messages: Sequence[Outgoing]) -> None:
        """Take a slot for the hand-over note of each message."""
        ...

    def send(self, credential: Credential, messages: Sequence[Outgoing], *, urgent: bool) -> None:
        """Send messages whose slots are taken."""
        ...

    def hold(self, credential: Credential, until: float) -> None:
        """Hand nothing of a lane over before a time in epoch seconds."""
        ...


class Lane:
    """One provider of one account, with its pause. Every answer goes through the lane's circuit breaker, which may stop
    it.

    Settings are proven by one message before the others follow: after a start or a stop they go one at a time until an
    answer shows that the vendor means the addresses, not us.
    """

    def __init__(
        self,
        credential: Credential,
        senders: Sequence[Sender],
        clock: Callable[[], float],
        rules: BreakerRules = NO_RULES,
    ):
        self.credential = credential
        self.paused_until = 0.0
        self.in_flight = 0
        self.reserved = 0  # room for messages that are being claimed
        self.waiters: set[asyncio.Event] = set()  # of those who wait for room
        self._senders = senders
        self._clock = clock
        self._breaker = CircuitBreaker(msgspec.structs.replace(rules, trusted=credential.trusted))
        self._slow_start = SlowStart(rules.slow_start_seconds)
        self._proven = False
        self._stops: set[str] = set()  # why it pauses now: each reason is logged once a pause
        self._braking = False

    def look(self, now: float, *, urgent: bool = False) -> OpenLane:
        """Return what a claim has to know. urgent: it is one of requests."""
        if self.paused_until > now:
            return OpenLane(self.paused_until, 0)
        room = sum(sender.room(self.credential, urgent=urgent) for sender in self._senders)
        if not self._proven:
            room = min(room, 1 - self.in_flight)
        elif self._slow_start.climbing:
            room = min(room, self._slow_start.room(now))
        return OpenLane(0.0, max(room - self.reserved, 0))

    @property
    def steady(self) -> bool:
        """Whether it takes many messages at once: its settings are proven, and it does not climb after a pause."""
        return self._proven and not self._slow_start.climbing

    def next_turn(self) -> float | None:
        """Return when a lane that climbs after a pause has room again; None when only answers make room."""
        return self._slow_start.next_turn() if self._proven and self._slow_start.climbing else None

    def divide(
        self, messages: Sequence[Outgoing], *, urgent: bool = False
    ) -> list[tuple[Sender | None, Sequence[Outgoing]]]:
        """Choose a sender for each claimed message, the one with the most room first, and take the slots of their
        notes. None: for messages whose sender has just died, or whose recipients have more devices than there are
        slots."""
        rooms = [(one.room(self.credential, urgent=urgent), one) for one in self._senders if one.up]
        if not rooms:
            return [(None, messages)]
        rooms.sort(key=lambda one: -one[0])
        parts: list[tuple[Sender | None, Sequence[Outgoing]]] = []
        start = 0
        for room, sender in rooms:
            stop = len(messages) if sender is rooms[-1][1] else min(start + room, len(messages))
            if stop > start + sender.slots:
                stop = _find_end(messages, start, start + sender.slots)
            if part := messages[start:stop]:
                sender.claim(part)
                parts.append((sender, part))
            start = stop
        return [*parts, (None, messages[start:])] if start < len(messages) else parts

    def send(self, parts: Iterable[tuple[Sender | None, Sequence[Outgoing]]], *, urgent: bool) -> None:
        """Hand divided messages to their senders."""
        for sender, part in parts:
            self.in_flight += len(part)
            if self._slow_start.climbing:
                self._slow_start.take(len(part))
            if sender is None:
                self.receive((), (), [(one, NO_SENDER) for one in part])
            else:
                sender.send(self.credential, part, urgent=urgent)

    def receive(
        self,
        accepted: Sequence[Outgoing],
        answered: Sequence[tuple[Outgoing, Receipt]],
        held: Sequence[tuple[Outgoing, Receipt]],
    ) -> None:
        """Take what a sender reports. answered: the vendor's other answers. held: messages without one, for a
        reason of ours."""
        now = self._clock()
        self.in_flight -= len(accepted) + len(answered) + len(held)
        if accepted:
            self._breaker.accept(len(accepted), now)
            self._slow_start.count(now, len(accepted))
            self._proven = self._proven or not self._breaker.tripped
            for message in accepted:
                message.collector.collect(message, None)
        for message, answer in answered:
            message.collector.collect(message, self._judge(answer, now))
        for message, receipt in held:
            message.collector.collect(message, receipt)
        self._count(len(accepted), answered)
        for waiter in self.waiters:
            waiter.set()
        self.waiters.clear()

    def _judge(self, answer: Receipt, now: float) -> Receipt:
        """Weigh an answer other than accepted, and pause the lane where the breaker or the answer asks for it."""
        breaker = self._breaker
        receipt = breaker.judge(answer, now)
        doubtful = answer.suspect and not breaker.promising
        self._proven = not (receipt.outcome is Outcome.DENIED or breaker.tripped or breaker.silent or doubtful)
        if receipt.outcome is Outcome.DENIED and answer.outcome is not Outcome.DENIED:
            self._pause("breaker", breaker.stopped_until, receipt, now)
        elif pause := lane_pause(receipt):
            weighed = "silence" if receipt.outcome is Outcome.UNKNOWN else "storm"
            reason = receipt.outcome.value if receipt.scope is answer.scope else weighed
            self._pause(reason, now + pause, receipt, now)
            if receipt.outcome is not Outcome.DENIED:
                self._slow_start.start()
        if breaker.braking and not self._braking:
            self._log_stop("brake", receipt, now)
        self._braking = breaker.braking
        return receipt

    def _pause(self, reason: str, until: float, receipt: Receipt, now: float) -> None:
        if until <= now:  # a probe of the breaker that found nothing new
            return
        if self.paused_until <= now:
            self._stops.clear()
        if until > self.paused_until:
            self.paused_until = until
            for sender in self._senders:
                sender.hold(self.credential, until)
        if reason not in self._stops:  # once for all the answers of one moment
            self._stops.add(reason)
            self._log_stop(reason, receipt, now)

    def _count(self, accepted: int, answered: Sequence[tuple[Outgoing, Receipt]]) -> None:
        outcomes = Counter(receipt.outcome.value for _, receipt in answered)
        for outcome, count in ({"accepted": accepted} | outcomes).items():
            if count:
                metrics.RECEIPTS.labels(provider=self.credential.name, outcome=outcome).inc(count)

    def _log_stop(self, reason: str, receipt: Receipt, now: float) -> None:
        name = self.credential.name
        metrics.LANE_STOPS.labels(provider=name, reason=reason).inc()
        log.warning(
            "lane brakes" if reason == "brake" else "lane paused",
            account=self.credential.account_id,
            provider=name,
            reason=reason,
            seconds=round(max(self.paused_until - now, 0.0), 1),
            code=receipt.code,
            detail=receipt.detail,
            todo=ADVICE.get(receipt.code, ADVICE.get(reason, "nothing, it goes on by itself")).format(name=name),
        )


def _find_end(messages: Sequence[Outgoing], start: int, stop: int) -> int:
    """Return where the last recipient ends of whom all messages are before `stop`; `stop` where even the first has
    more."""
    end = stop
    while end > start and _name_recipient(messages[end - 1]) == _name_recipient(messages[end]):
        end -= 1
    return end if end > start else stop


def _name_recipient(message: Outgoing) -> tuple[int, int]:
    return message.context.chunk_id, message.message.position
