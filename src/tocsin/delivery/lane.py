"""A lane: one credential of one account. It pauses by itself; other lanes go on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import msgspec
import structlog

from tocsin.delivery.batch import AT_ONCE, Batch, BatchResult, send_batch
from tocsin.delivery.circuit_breaker import NO_RULES, BreakerRules, CircuitBreaker
from tocsin.delivery.retry import lane_pause
from tocsin.delivery.slow_start import LONGEST_TURN, SlowStart
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Message, Provider, Receipt, Scope
from tocsin.providers.credential import Credential
from tocsin.providers.transport import Transport

log = structlog.get_logger()

ACCEPTED = Outcome.ACCEPTED  # looked up once: it is asked 15,000 times a second

PACE = 2500.0  # messages a second aimed at for one batch; four batches are in flight
LEAST_AT_ONCE = 16

# What the operator can do about a stop. Others end by themselves.
ADVICE = {
    "denied": "`tocsin provider set {name} …` with credentials that work",
    "breaker": "`tocsin provider set {name} …` if the settings are wrong; "
    "`tocsin provider trust {name} …` if the addresses really are dead",
    "brake": "`tocsin provider trust {name} …` if the addresses really are dead",
}


class Lane:
    """One provider of one account, with its pause. A provider whose settings do not load is None: its messages wait for
    the operator. Every answer goes through the lane's circuit breaker, which may stop it.

    Settings are proven by one message before the others follow: after a start or a stop they go one at a time until an
    answer shows that the vendor means the addresses, not us.
    """

    def __init__(
        self,
        account_id: str,
        name: str,
        provider: Provider | None,
        clock: Callable[[], float],
        rules: BreakerRules = NO_RULES,
    ):
        self.account_id = account_id
        self.name = name
        self.provider = provider
        self.paused_until = 0.0
        self.slow_start_from = 0.0  # the end of the last pause; epoch seconds
        self._clock = clock
        self._breaker = CircuitBreaker(rules)
        self._slow_start = SlowStart(rules.slow_start_seconds)
        self._proven = False
        self._probe = asyncio.Lock()
        self._at_once = LEAST_AT_ONCE
        self._stops: set[str] = set()  # why it pauses now: each reason is logged once a pause
        self._braking = False
        self._accepted = 0  # since the last batch came back; so do the next two
        self._others: Counter[str] = Counter()
        self._stopped: Counter[str] = Counter()

    async def send(self, message: Message) -> Receipt:
        """Send a message, unless the lane is paused or the message's turn is too far away: then it comes back as
        throttled, which spends no try. May wait LONGEST_TURN for its turn."""
        if not self._proven:
            async with self._probe:
                if not self._proven:
                    return await self._hand_over(message)
        return await self._hand_over(message)

    async def send_batch(self, batch: Batch) -> BatchResult:
        """Render and send a batch; see `batch.send_batch`. The batch may bring a pause that another process met."""
        if batch.slow_start_from > self.slow_start_from:
            self._begin_slow_start(batch.slow_start_from)
        started = time.monotonic()
        answers = await send_batch(batch, self.send, self._at_once)
        self._adapt(len(batch.messages), time.monotonic() - started)
        tally = {"accepted": self._accepted, **self._others}
        result = BatchResult(answers, self.paused_until, self.slow_start_from, tally, dict(self._stopped))
        self._accepted = 0
        self._others.clear()
        self._stopped.clear()
        return result

    def _adapt(self, count: int, seconds: float) -> None:
        """Adapt how many messages of a batch are in flight: enough for PACE at the vendor's latency, and no more: on
        loopback a message costs 57 µs with 32 in flight and 92 µs with 256."""
        if count >= LEAST_AT_ONCE:
            latency = seconds * min(self._at_once, count) / count
            self._at_once = int(min(max(latency * PACE, LEAST_AT_ONCE), AT_ONCE))

    async def _hand_over(self, message: Message) -> Receipt:
        if (held := self._held_by_pause(self._clock())) is not None:
            return held
        if self._slow_start.climbing and (held := await self._wait_turn()) is not None:
            return held
        now = self._clock()
        if self.provider is None:
            receipt = Receipt(outcome=Outcome.DENIED, code="misconfigured", scope=Scope.LANE)
            return self._act_on(receipt, receipt, now)
        try:
            answer = await self.provider.send(message, now)
        except Exception:  # a bug of the provider: nobody knows whether the message went out
            log.exception("provider failed", account=self.account_id, provider=self.name)
            receipt = Receipt(outcome=Outcome.UNKNOWN, code="internal")
            return self._act_on(receipt, receipt, now)
        now = self._clock()
        receipt = self._breaker.judge(answer, now)
        if answer.outcome is not ACCEPTED:
            return self._act_on(answer, receipt, now)
        self._accepted += 1
        self._slow_start.count(now)
        if not self._proven:
            self._proven = not self._breaker.tripped
        return receipt

    def _begin_slow_start(self, since: float) -> None:
        """Begin a slow start after the pause that ends at `since`."""
        self.slow_start_from = max(self.slow_start_from, since)
        self._slow_start.start()

    def _held_by_pause(self, now: float) -> Receipt | None:
        """Return the receipt of a message that meets a pause; None when the lane is open."""
        return _held("lane paused", self.paused_until - now, Scope.LANE) if self.paused_until > now else None

    async def _wait_turn(self) -> Receipt | None:
        """Wait for this message's turn. Return None, or the receipt it gets instead."""
        wait = self._slow_start.delay(self._clock())
        if wait > LONGEST_TURN:
            return _held("lane in slow start", wait, Scope.DEVICE)
        if wait > 0:
            await asyncio.sleep(wait)
        return self._held_by_pause(self._clock())

    def _act_on(self, answer: Receipt, receipt: Receipt, now: float) -> Receipt:
        """Count an answer other than accepted, and pause the lane where the breaker or the answer asks for it."""
        breaker = self._breaker
        self._others[answer.outcome.value] += 1
        doubtful = answer.suspect and not breaker.promising
        self._proven = not (receipt.outcome is Outcome.DENIED or breaker.tripped or breaker.silent or doubtful)
        if receipt.outcome is Outcome.DENIED and answer.outcome is not Outcome.DENIED:
            self._pause("breaker", breaker.stopped_until, receipt, now)
        elif pause := lane_pause(receipt):
            weighed = "silence" if receipt.outcome is Outcome.UNKNOWN else "storm"
            reason = receipt.outcome.value if receipt.scope is answer.scope else weighed
            self._pause(reason, now + pause, receipt, now)
            if receipt.outcome is not Outcome.DENIED:
                self._begin_slow_start(now + pause)
        if breaker.braking and not self._braking:
            self._log_stop("brake", receipt, now)
        self._braking = breaker.braking
        return receipt

    def _pause(self, reason: str, until: float, receipt: Receipt, now: float) -> None:
        if until <= now:  # a probe of the breaker that found nothing new
            return
        if self.paused_until <= now:
            self._stops.clear()
        self.paused_until = max(self.paused_until, until)
        if reason not in self._stops:  # once for all the answers of one window
            self._stops.add(reason)
            self._log_stop(reason, receipt, now)

    def _log_stop(self, reason: str, receipt: Receipt, now: float) -> None:
        self._stopped[reason] += 1
        log.warning(
            "lane brakes" if reason == "brake" else "lane paused",
            account=self.account_id,
            provider=self.name,
            reason=reason,
            seconds=round(max(self.paused_until - now, 0.0), 1),
            code=receipt.code,
            detail=receipt.detail,
            todo=ADVICE.get(reason, "nothing, it goes on by itself").format(name=self.name),
        )


def _held(code: str, wait: float, scope: Scope) -> Receipt:
    return Receipt(outcome=Outcome.THROTTLED, code=code, retry_after=wait, scope=scope)


class Lanes:
    """The lanes of this process: made when first needed, and again after `tocsin provider …` changed their row."""

    def __init__(self, transport: Transport, clock: Callable[[], float], rules: BreakerRules = NO_RULES):
        self._clock = clock
        self._rules = rules
        self._transport = transport
        self._lanes: dict[tuple[str, str], tuple[float, Lane]] = {}

    def get(self, credential: Credential) -> Lane:
        """Return the lane of a credential."""
        key = (credential.account_id, credential.name)
        changed_at, lane = self._lanes.get(key, (0.0, None))
        if lane is None or changed_at != credential.changed_at:
            if lane is not None and lane.provider is not None:
                lane.provider.retire()
            lane = self._make(credential)
            self._lanes[key] = (credential.changed_at, lane)
        return lane

    def _make(self, credential: Credential) -> Lane:
        account_id, name = credential.account_id, credential.name
        rules = msgspec.structs.replace(self._rules, trusted=credential.trusted)
        cls = BY_NAME[name]
        try:
            provider = cls(msgspec.json.decode(credential.settings, type=cls.Settings), self._transport)
        except (Misconfigured, msgspec.ValidationError) as error:
            log.error("provider cannot work", account=account_id, provider=name, reason=str(error))
            return Lane(account_id, name, None, self._clock, rules)
        return Lane(account_id, name, provider, self._clock, rules)
