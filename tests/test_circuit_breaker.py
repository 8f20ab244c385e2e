"""Laws of the circuit breaker: no address list is lost to a wrong setting, and no working lane is stopped for long."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.delivery.circuit_breaker import LONGEST_STOP, PROBES, BreakerRules, CircuitBreaker
from tocsin.delivery.retry import RetryPolicy, decide
from tocsin.delivery.slow_start import SlowStart
from tocsin.outcome import Outcome, State
from tocsin.providers.contract import Receipt, Scope

NOW = 1_800_000_000.0
POLICY = RetryPolicy(floor=10.0, retries=5)
ACCEPTED = Receipt(outcome=Outcome.ACCEPTED)
SUSPECT = Receipt(outcome=Outcome.GONE, code="400 BadDeviceToken", suspect=True)
POLICED = Receipt(outcome=Outcome.REFUSED, code="550 5.7.1", suspect=True)
GONE = Receipt(outcome=Outcome.GONE, code="410 Unregistered")
REFUSED = Receipt(outcome=Outcome.REFUSED, code="413 PayloadTooLarge")
BROKEN = Receipt(outcome=Outcome.UNAVAILABLE, code="503")
BROKEN_ASKING = Receipt(outcome=Outcome.UNAVAILABLE, code="500", retry_after=900.0)
DOWN = Receipt(outcome=Outcome.UNAVAILABLE, code="unsent", scope=Scope.LANE)
SLOW = Receipt(outcome=Outcome.THROTTLED, code="429", scope=Scope.LANE, retry_after=30.0)
DENIED = Receipt(outcome=Outcome.DENIED, code="403", scope=Scope.LANE)
UNKNOWN = Receipt(outcome=Outcome.UNKNOWN, code="unknown")
EVERY = (ACCEPTED, SUSPECT, POLICED, GONE, REFUSED, BROKEN, BROKEN_ASKING, DOWN, SLOW, DENIED, UNKNOWN)


class Oracle:
    """The rules as one would tell them, over lists that are counted anew for every answer."""

    def __init__(self, trusted: bool):
        self.trusted = trusted
        self.sample: list[Receipt] = []  # of the breaker, since it began
        self.about_messages: list[Receipt] = []
        self.weather: list[Receipt] = []  # of the storm, since it began
        self.heard: list[Receipt] = []  # of the silence, since it began
        self.silent = False
        self.tripped = False
        self.stopped_until = 0.0
        self.storm_until = 0.0
        self.stops = self.probes = 0

    def judge(self, receipt: Receipt, now: float) -> tuple[Outcome, Scope, float | None]:
        """What it has to become: outcome, scope, how long to wait."""
        self.weather.append(receipt)
        self.heard.append(receipt)
        same = (receipt.outcome, receipt.scope, receipt.retry_after)
        if receipt.outcome in (Outcome.ACCEPTED, Outcome.GONE, Outcome.REFUSED):
            self.sample.append(receipt)
            self.about_messages.append(receipt)
        if receipt is UNKNOWN:
            return self._silence(receipt) or same
        self.silent = False
        if receipt is ACCEPTED:
            if self.tripped and now >= self.stopped_until:
                self.tripped, self.sample = False, [receipt]
            return same
        if receipt.suspect and not (self.trusted and receipt.outcome is Outcome.GONE):
            return self._suspect(receipt, now) or same
        if receipt.outcome is Outcome.GONE and not self.trusted:
            last = self.about_messages[-500:]
            dead = sum(one.outcome is Outcome.GONE and not one.suspect for one in last)
            return (Outcome.REFUSED, *same[1:]) if dead >= 100 and dead > len(last) / 2 else same
        if receipt in (BROKEN, BROKEN_ASKING):
            return self._storm(receipt, now) or same
        return same

    def _silence(self, receipt: Receipt) -> tuple[Outcome, Scope, float | None] | None:
        last = self.heard[-100:]
        lost = last.count(UNKNOWN)
        if not self.silent and (lost < 20 or lost <= len(last) / 2):
            return None
        self.heard, self.silent = [], True
        return receipt.outcome, Scope.LANE, 60.0

    def _suspect(self, receipt: Receipt, now: float) -> tuple[Outcome, Scope, float | None] | None:
        last = self.sample[-200:]
        count = sum(self._counts(one) for one in last)
        if self.tripped:
            if now >= self.stopped_until:
                self.probes += 1
            if self.probes == 10:
                self._stop(now)
        elif count >= 10 and count / len(last) > 0.05:
            self.tripped = True
            if len(self.sample) >= 200:
                self.stops = 0
            self._stop(now)
        elif receipt.outcome is Outcome.GONE and ACCEPTED not in last:
            return Outcome.REFUSED, receipt.scope, receipt.retry_after
        if self.tripped:
            return Outcome.DENIED, Scope.LANE, max(self.stopped_until - now, 0) + 60
        return None

    def _counts(self, receipt: Receipt) -> bool:
        return receipt.suspect and not (self.trusted and receipt.outcome is Outcome.GONE)

    def _stop(self, now: float) -> None:
        self.stopped_until = now + min(60 * 2**self.stops, 3540)
        self.stops += 1
        self.probes = 0

    def _storm(self, receipt: Receipt, now: float) -> tuple[Outcome, Scope, float | None] | None:
        wait = receipt.retry_after or 10
        if now < self.storm_until:
            self.weather[-1] = UNKNOWN  # counted in the pause already
            return receipt.outcome, Scope.LANE, max(wait, self.storm_until - now)
        last = self.weather[-100:]
        count = sum(one in (BROKEN, BROKEN_ASKING) for one in last)
        if count < 20 or count / len(last) <= 0.2:
            return None
        self.weather, self.storm_until = [], now + wait
        return receipt.outcome, Scope.LANE, wait


class Stretch(msgspec.Struct, frozen=True):
    """A time with its own mixture of answers and its own pace, `rest` seconds after the one before."""

    mixture: dict[str, int]
    count: int
    pace: float
    rest: float
    seed: int


NAMES = {f"{receipt.code or 'accepted'} {receipt.outcome.value}": receipt for receipt in EVERY}


def stories(*kinds: Receipt) -> st.SearchStrategy[list[Stretch]]:
    """A few stretches of these kinds of answers."""
    names = [name for name, receipt in NAMES.items() if receipt in (kinds or EVERY)]
    stretch = st.builds(
        Stretch,
        mixture=st.dictionaries(st.sampled_from(names), st.sampled_from([1, 3, 19, 60]), min_size=1, max_size=3),
        count=st.integers(1, 300),
        pace=st.sampled_from([0.0, 0.01, 1.0, 20.0]),
        rest=st.sampled_from([0.0, 30.0, 60.0, 4000.0]),
        seed=st.integers(0, 2**16),
    )
    return st.lists(stretch, min_size=1, max_size=6)


def tell(story: list[Stretch]) -> Iterator[tuple[float, Receipt]]:
    """(when, what): the answers one by one."""
    now = NOW
    for part in story:
        now += part.rest
        for name in random.Random(part.seed).choices([*part.mixture], [*part.mixture.values()], k=part.count):
            now += part.pace
            yield now, NAMES[name]


def judge(breaker: CircuitBreaker, told: Iterable[Receipt], now: float = NOW) -> list[Receipt]:
    return [breaker.judge(receipt, now) for receipt in told]


def outcomes(told: Iterable[Receipt]) -> list[Outcome]:
    return [receipt.outcome for receipt in told]


def trip(breaker: CircuitBreaker) -> None:
    """A lane that worked, and then every answer is about our settings."""
    judge(breaker, [ACCEPTED] * 50 + [SUSPECT] * 10)
    assert breaker.tripped


@given(stories(), st.booleans())
def test_the_breaker_follows_its_rules(story: list[Stretch], trusted: bool) -> None:
    """Over any sequence of answers the breaker decides as the plain rules do; the vendor's code is never touched."""
    breaker, oracle = CircuitBreaker(BreakerRules(trusted=trusted)), Oracle(trusted)
    for now, receipt in tell(story):
        judged = breaker.judge(receipt, now)
        outcome, scope, wait = oracle.judge(receipt, now)
        assert (judged.outcome, judged.scope) == (outcome, scope)
        assert judged.retry_after == (wait if wait is None else pytest.approx(wait))
        assert (judged.code, judged.vendor_id) == (receipt.code, receipt.vendor_id)
        assert (breaker.tripped, breaker.stopped_until) == (oracle.tripped, oracle.stopped_until)
        assert breaker.silent == oracle.silent


@given(stories(SUSPECT, POLICED, REFUSED, BROKEN, SLOW, DENIED, UNKNOWN))
def test_a_wrong_environment_forgets_nobody(story: list[Stretch]) -> None:
    """Where nothing was ever accepted no doubtful answer costs an address, whatever comes between and however long."""
    breaker = CircuitBreaker()
    assert Outcome.GONE not in outcomes(breaker.judge(receipt, now) for now, receipt in tell(story))


@given(st.integers(0, 2000))
def test_a_wrong_environment_stops_at_ten(count: int) -> None:
    """The first nine are refused with their addresses kept; from the tenth on everybody waits."""
    judged = judge(CircuitBreaker(), [SUSPECT] * count)
    assert outcomes(judged) == ([Outcome.REFUSED] * 9 + [Outcome.DENIED] * max(0, count - 9))[:count]
    for receipt in judged[9:]:
        assert "10 of the last 10 answers say 400 BadDeviceToken" in receipt.detail
        assert receipt.detail.endswith("Nothing was forgotten")


@given(st.integers(20, 60), st.integers(1, 3000))
def test_a_few_dead_among_many_are_forgotten(every: int, count: int) -> None:
    """With at most one in twenty dead, evenly, all of them are believed and the lane never stops."""
    told = [SUSPECT if number % every == every - 1 else ACCEPTED for number in range(count)]
    breaker = CircuitBreaker()
    assert judge(breaker, told) == told
    assert not breaker.tripped


def test_a_lane_that_breaks_loses_at_most_ten() -> None:
    """When a lane that worked starts to doubt everybody, it stops before the eleventh address is forgotten."""
    breaker = CircuitBreaker()
    judge(breaker, [ACCEPTED] * 5000)
    judged = judge(breaker, [SUSPECT] * 500)
    assert outcomes(judged) == [Outcome.GONE] * 10 + [Outcome.DENIED] * 490
    assert "10 were believed before, none from now on" in judged[-1].detail


@given(stories(), st.floats(0, 100_000))
def test_one_accepted_closes(story: list[Stretch], later: float) -> None:
    """Whatever was before, one accepted after the stop closes the breaker, and the next doubtful answer is believed."""
    breaker = CircuitBreaker()
    now = NOW
    for now, receipt in tell(story):
        breaker.judge(receipt, now)
    after = max(now, breaker.stopped_until) + later
    was_tripped = breaker.tripped
    breaker.judge(ACCEPTED, after)
    assert not breaker.tripped
    if was_tripped:
        assert judge(breaker, [SUSPECT], after) == [SUSPECT]


def test_accepted_before_the_stop_proves_nothing() -> None:
    """What was on its way when the breaker tripped and comes back accepted does not close it."""
    breaker = CircuitBreaker()
    trip(breaker)
    judged = judge(breaker, [ACCEPTED] * 100 + [SUSPECT] * 20, NOW + 59)
    assert outcomes(judged[100:]) == [Outcome.DENIED] * 20


@given(stories(ACCEPTED, SUSPECT, POLICED, GONE), st.integers(0, 4))
def test_a_stop_spends_no_try(story: list[Stretch], tries: int) -> None:
    """Whoever meets a stopped lane waits with the tries they had, longer than the lane itself: others probe it."""
    breaker = CircuitBreaker()
    for now, receipt in tell(story):
        judged = breaker.judge(receipt, now)
        if judged.outcome is Outcome.DENIED:
            step = decide(judged, tries, now, now + 10_000, POLICY, 0.5)
            assert (step.state, step.tries) == (State.WAITING, tries)
            assert step.not_before >= breaker.stopped_until + 60 - 1e-5


def test_stops_grow() -> None:
    """Ten probes in doubt are the next stop, twice as long, to an hour less a minute; then a lane works and begins at
    a minute again."""
    breaker, now, stops = CircuitBreaker(), NOW, []
    judge(breaker, [SUSPECT] * 10, now)
    for _ in range(9):
        stops.append(breaker.stopped_until - now)
        now = breaker.stopped_until
        judge(breaker, [SUSPECT] * (PROBES - 1), now)
        assert breaker.stopped_until <= now
        judge(breaker, [SUSPECT], now)
    assert stops == [60, 120, 240, 480, 960, 1920, LONGEST_STOP, LONGEST_STOP, LONGEST_STOP]
    now = breaker.stopped_until
    judge(breaker, [ACCEPTED] * 5 + [SUSPECT] * 10, now)
    assert breaker.stopped_until - now == LONGEST_STOP
    now = breaker.stopped_until
    judge(breaker, [ACCEPTED] * 300 + [SUSPECT] * 20, now)
    assert breaker.stopped_until - now == 60


@given(st.integers(100, 2000), st.integers(0, 100))
def test_the_brake(count: int, alive: int) -> None:
    """When most are dead, a hundred addresses go and no more; the answers keep their code and say why."""
    told = [ACCEPTED] * alive + [GONE] * count
    judged = judge(breaker := CircuitBreaker(), told)[alive:]
    forgotten = outcomes(judged).count(Outcome.GONE)
    assert 99 <= forgotten <= 100
    assert breaker.braking == (count > forgotten)
    kept = judged[forgotten:]
    assert all((one.outcome, one.code) == (Outcome.REFUSED, GONE.code) and "brake" in one.detail for one in kept)


def test_the_brake_is_off_again() -> None:
    """Once the list is sound again dead addresses are forgotten again."""
    breaker = CircuitBreaker()
    judge(breaker, [GONE] * 200)
    assert breaker.braking
    assert judge(breaker, [ACCEPTED] * 400 + [GONE])[-1] == GONE
    assert not breaker.braking


@given(stories())
def test_trust_believes_everybody(story: list[Stretch]) -> None:
    """Where the operator says that the dead are dead, no word of it is doubted."""
    breaker = CircuitBreaker(BreakerRules(trusted=True))
    for now, receipt in tell(story):
        judged = breaker.judge(receipt, now)
        assert (judged.outcome is Outcome.GONE) == (receipt.outcome is Outcome.GONE)


@given(st.integers(1, 400), st.integers(0, 300), st.sampled_from([BROKEN, BROKEN_ASKING]))
def test_a_storm_spends_few_tries(count: int, accepted: int, broken: Receipt) -> None:
    """When a vendor breaks down, at most a score of messages spends a try; the others wait for the whole lane."""
    judged = judge(CircuitBreaker(), [ACCEPTED] * accepted + [broken] * count)[accepted:]
    spent = [receipt for receipt in judged if receipt.scope is Scope.MESSAGE]
    assert len(spent) == min(count, 19 if accepted < 80 else 20)
    for receipt in judged[len(spent) :]:
        step = decide(receipt, 3, NOW, NOW + 10_000, POLICY, 0.5)
        assert (receipt.outcome, step.tries) == (Outcome.UNAVAILABLE, 3)
        assert step.not_before == NOW + (broken.retry_after or 10)


def test_now_and_then_a_5xx_is_no_storm() -> None:
    """One in five is a vendor that works: each of those messages is tried again by itself."""
    told = ([ACCEPTED] * 4 + [BROKEN]) * 400
    assert judge(CircuitBreaker(), told) == told


# --- the ramp ---

peaks = st.sampled_from([1, 20, 300, 5000])
climbs = st.sampled_from([1.0, 60.0, 600.0])


def ramp_after(peak: int, seconds: float) -> SlowStart:
    """A ramp whose lane paused after a second with `peak` messages accepted."""
    ramp = SlowStart(seconds)
    for _ in range(peak):
        ramp.count(NOW - 100)
    ramp.start()
    return ramp


def allowed(peak: float, seconds: float, elapsed: float) -> float:
    """The area under a line from a twentieth of the peak to the peak."""
    first, last = peak / 20, peak / 20 + peak * 19 / 20 * elapsed / seconds
    return (first + last) / 2 * elapsed


@given(peaks, climbs, st.lists(st.floats(0, 3), max_size=300), st.integers(1, 50))
def test_a_climb_stays_below_its_line(peak: int, seconds: float, gaps: list[float], crowd: int) -> None:
    """In the first t seconds of a climb no more messages go than the area under the line, and one second of its start:
    whoever asks, in crowds or one by one."""
    ramp, now, began, gone = ramp_after(peak, seconds), NOW, None, 0
    high = max(peak, 20)
    for gap in gaps:
        now += gap * seconds / 60
        room = ramp.room(now)
        began = now if began is None else began
        if not ramp.climbing:
            assert now - began >= seconds
            break
        going = min(room, crowd)
        ramp.take(going)
        gone += going
        assert gone <= allowed(high, seconds, now - began) + max(high / 20, 1) + 0.01


@given(peaks, climbs)
def test_a_climb_ends(peak: int, seconds: float) -> None:
    """After its time the ramp is out of the way."""
    ramp = ramp_after(peak, seconds)
    assert ramp.climbing
    assert ramp.room(NOW) >= 1
    assert ramp.room(NOW + seconds) > 10_000
    assert not ramp.climbing


def test_the_line_is_used() -> None:
    """Who comes at the next turn finds room then and not before; in a whole climb almost all of the line is used."""
    ramp, now, gone = ramp_after(200, 60.0), NOW, 0
    while now < NOW + 60 - 1e-3:
        room = ramp.room(now)
        ramp.take(room)
        gone += room
        turn = ramp.next_turn()
        assert turn > now
        assert ramp.room(max(now, turn - 1e-3)) == 0
        now = turn + 1e-6
    assert allowed(200, 60, 60) * 0.95 <= gone <= allowed(200, 60, 60) + 11


def test_the_peak_is_of_the_last_stretch() -> None:
    """The line leads to the most of one second; a stop in the middle of a climb begins it anew towards the same peak,
    and what was a minute before counts no more."""

    def climb(ramp: SlowStart, at: float) -> int:
        """Messages that may go in the last second but one of a climb, as many as ask."""
        ramp.room(at)
        return ramp.room(at + 59)

    ramp = SlowStart(60.0)
    for _ in range(400):
        ramp.count(NOW)
    for _ in range(100):
        ramp.count(NOW + 1)
    ramp.start()
    assert climb(ramp, NOW + 10) == 20
    ramp.start()
    assert climb(ramp, NOW + 80) == 20
    assert ramp.room(NOW + 80 + 60) > 10_000
    for second in (0, 100):
        for _ in range(1000 if second == 0 else 60):
            ramp.count(NOW + 200 + second)
    ramp.start()
    assert climb(ramp, NOW + 400) == 3


def test_no_ramp() -> None:
    """With 0 seconds a lane is at its full rate at once."""
    ramp = SlowStart(0.0)
    ramp.start()
    assert not ramp.climbing


def test_receipts_are_not_changed_in_place() -> None:
    """What the vendor answered stays what it was; only a copy is acted on."""
    before = msgspec.json.encode(SUSPECT)
    trip(CircuitBreaker())
    assert msgspec.json.encode(SUSPECT) == before
