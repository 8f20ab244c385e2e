"""Laws of retries: how long anybody waits, what costs a try, and that every recipient comes to an end."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tocsin.delivery.retry import LONGEST_WAIT, Decision, RetryPolicy, decide, lane_pause, retry_delay
from tocsin.outcome import FINAL, Outcome, State
from tocsin.providers.contract import Receipt, Scope

NOW = 1_800_000_000.0
ROUNDING = 1e-5  # a float of today's epoch seconds has steps of 2.4e-7
ENDED = {
    Outcome.ACCEPTED: State.ACCEPTED,
    Outcome.GONE: State.GONE,
    Outcome.REFUSED: State.REFUSED,
    Outcome.UNKNOWN: State.UNKNOWN,
}
ANSWERS = (*ENDED, Outcome.THROTTLED, Outcome.DENIED, Outcome.UNAVAILABLE)

asked = st.none() | st.integers(0, 100_000).map(float)  # what a vendor wants us to wait
floors = st.floats(0.05, 600)
tries = st.integers(0, 20)
random = st.floats(0, 1, exclude_max=True)
lifetimes = st.floats(-100, 200_000)
policies = st.builds(RetryPolicy, floor=floors, retries=st.integers(0, 20))


def receipts(*outcomes: Outcome, scopes: Iterable[Scope] = Scope) -> st.SearchStrategy[Receipt]:
    scope = st.sampled_from(list(scopes))
    return st.builds(Receipt, outcome=st.sampled_from(outcomes), code=st.just("x"), retry_after=asked, scope=scope)


ALONE = frozenset(Scope) - {Scope.LANE}
held_back = receipts(Outcome.THROTTLED, Outcome.DENIED) | receipts(Outcome.UNAVAILABLE, scopes=[Scope.LANE])
unavailable = receipts(Outcome.UNAVAILABLE, scopes=ALONE)


@given(receipts(*ANSWERS), tries, lifetimes, policies, random)
def test_nobody_waits_past_the_end(
    receipt: Receipt, spent: int, lifetime: float, policy: RetryPolicy, chance: float
) -> None:
    """A recipient that waits does so before the message's end and at most LONGEST_WAIT; otherwise it is final."""
    step = decide(receipt, spent, NOW, NOW + lifetime, policy, chance)
    if step.state is State.WAITING:
        assert step.not_before < NOW + lifetime
        assert step.not_before - NOW <= LONGEST_WAIT + ROUNDING
    else:
        assert step.state in FINAL


@given(receipts(Outcome.THROTTLED, Outcome.DENIED, Outcome.UNAVAILABLE), tries, policies, random)
@example(Receipt(outcome=Outcome.THROTTLED, code="429", retry_after=0.0, scope=Scope.LANE), 0, RetryPolicy(10, 5), 0.0)
def test_nobody_tries_again_at_once(receipt: Receipt, spent: int, policy: RetryPolicy, chance: float) -> None:
    """Whatever a vendor asks for (`Retry-After: 0` too), the next attempt comes later than this one."""
    step = decide(receipt, spent, NOW, NOW + 10 * LONGEST_WAIT, policy, chance)
    assert step.state is State.EXPIRED or step.not_before > NOW


@given(receipts(*ENDED), tries, lifetimes, policies, random)
def test_an_answer_ends_it(receipt: Receipt, spent: int, lifetime: float, policy: RetryPolicy, chance: float) -> None:
    """Accepted, gone, refused and unknown end a recipient whatever the clock says, with one try more."""
    step = decide(receipt, spent, NOW, NOW + lifetime, policy, chance)
    assert step == Decision(ENDED[receipt.outcome], spent + 1)


@given(held_back, tries, lifetimes, policies, random)
def test_being_held_back_spends_no_try(
    receipt: Receipt, spent: int, lifetime: float, policy: RetryPolicy, chance: float
) -> None:
    """Throttled, denied or a lane that is down costs no try, and the wait is at least what was asked for."""
    step = decide(receipt, spent, NOW, NOW + lifetime, policy, chance)
    assert step.tries == spent
    least = min(receipt.retry_after or 0.0, LONGEST_WAIT)
    if step.state is State.WAITING:
        assert step.not_before - NOW >= least - ROUNDING
    else:
        assert step.state is State.EXPIRED
        assert lifetime <= max(least, 60.0) + ROUNDING


@given(unavailable, tries, policies, random)
def test_unavailable_ends_after_its_retries(receipt: Receipt, spent: int, policy: RetryPolicy, chance: float) -> None:
    """With all the time in the world, `retries` decides: one try more each time, then expired."""
    step = decide(receipt, spent, NOW, NOW + 10 * LONGEST_WAIT, policy, chance)
    assert step.tries == spent + 1
    assert step.state is (State.EXPIRED if spent >= policy.retries else State.WAITING)


@given(unavailable, policies, random)
def test_unavailable_waits_its_delay(receipt: Receipt, policy: RetryPolicy, chance: float) -> None:
    """A retry waits for the floor and for what the vendor asked, and a message whose time is over first expires."""
    spent, lasting = 0, RetryPolicy(policy.floor, 1)
    step = decide(receipt, spent, NOW, NOW + 10 * LONGEST_WAIT, lasting, chance)
    wait = step.not_before - NOW
    assert wait >= min(max(policy.floor, receipt.retry_after or 0.0), LONGEST_WAIT) - ROUNDING
    assert decide(receipt, spent, NOW, NOW + wait / 2, lasting, chance) == Decision(State.EXPIRED, spent + 1)


@pytest.mark.parametrize(
    ("wait", "least"), [(None, 150), (10.0, 150), (30.0, 450), (300.0, 3600), (900.0, 2 * 3600), (7200.0, 5 * 3600)]
)
def test_five_tries_last_as_long_as_the_vendor_needs(wait: float | None, least: float) -> None:
    """A relay that is full wants five minutes, and may be full for an hour: the tries do not end before."""
    now, spent, policy = NOW, 0, RetryPolicy(10.0, 5)
    answer = Receipt(outcome=Outcome.UNAVAILABLE, code="452", retry_after=wait)
    while (step := decide(answer, spent, now, NOW + 86_400, policy, 0.5)).state is State.WAITING:
        now, spent = step.not_before, step.tries
    assert (step.state, step.tries) == (State.EXPIRED, 6)
    assert least <= now - NOW <= 6 * LONGEST_WAIT


@given(asked, tries, floors, random, st.floats(0, 200_000))
def test_retry_delay_keeps_its_bounds(
    wanted: float | None, spent: int, floor: float, chance: float, left: float
) -> None:
    """A delay is at least the floor and what was asked for, and at most LONGEST_WAIT."""
    delay = retry_delay(wanted, spent, floor, chance, left)
    assert delay <= LONGEST_WAIT
    assert delay >= min(floor, LONGEST_WAIT)
    assert delay >= min(wanted or 0.0, LONGEST_WAIT)


@given(asked, tries, floors, random)
def test_retry_delay_grows(wanted: float | None, spent: int, floor: float, chance: float) -> None:
    """The same luck waits no shorter after one try more; what it adds to the least doubles while no bound is met."""
    delay, later = (retry_delay(wanted, count, floor, chance) for count in (spent, spent + 1))
    assert later >= delay
    if floor * 2.0 ** (spent + 1) <= LONGEST_WAIT - max(floor, wanted or 0.0):
        least = max(floor, wanted or 0.0)
        assert later - least == pytest.approx(2 * (delay - least), abs=1e-6)


@given(asked, tries, floors)
def test_retry_delay_is_fully_spread(wanted: float | None, spent: int, floor: float) -> None:
    """Luck decides over the whole width, from the least that is allowed to `floor × 2^tries` above it."""
    least = max(floor, wanted or 0.0)
    soonest, middle, latest = (retry_delay(wanted, spent, floor, chance) for chance in (0.0, 0.5, 1.0))
    assert soonest == min(least, LONGEST_WAIT)
    assert latest == pytest.approx(min(least + floor * 2.0**spent, LONGEST_WAIT))
    assert middle == pytest.approx((soonest + latest) / 2)


@given(asked, tries, floors, random, st.floats(0.1, 200_000))
def test_luck_outlives_nobody(wanted: float | None, spent: int, floor: float, chance: float, left: float) -> None:
    """Whoever would live to the soonest retry lives to the one by chance."""
    least = min(max(floor, wanted or 0.0), LONGEST_WAIT)
    delay = retry_delay(wanted, spent, floor, chance, left)
    assert delay <= left if least < left else delay == least


@given(receipts(*ANSWERS))
@example(Receipt(outcome=Outcome.DENIED, code="403", retry_after=100_000.0, scope=Scope.LANE))
def test_lane_pause_keeps_its_bounds(receipt: Receipt) -> None:
    """A lane pauses for a bad credential and for trouble of the whole lane, for nothing else and never for ever."""
    pause = lane_pause(receipt)
    troubles = (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.UNKNOWN)
    held = receipt.outcome in troubles and receipt.scope is Scope.LANE
    if receipt.outcome is not Outcome.DENIED and not held:
        assert pause == 0.0
    else:
        assert pause >= (60.0 if receipt.retry_after is None else min(receipt.retry_after, LONGEST_WAIT))
        assert pause <= LONGEST_WAIT


@given(st.data(), policies, st.floats(1, 600), st.floats(0, 5))
def test_every_life_ends(data: st.DataObject, policy: RetryPolicy, lifetime: float, latency: float) -> None:
    """Whatever the vendor answers, one recipient comes to a final state in time, with no try more than allowed."""
    now, ends, spent, attempts = NOW, NOW + lifetime, 0, 0
    patient = receipts(*ANSWERS).map(lambda one: one if one.retry_after is None or one.retry_after >= 1 else None)
    state = State.WAITING
    while state is State.WAITING:
        receipt = data.draw(patient) or Receipt(outcome=Outcome.THROTTLED, code="x", retry_after=1.0)
        now += latency
        attempts += 1
        step = decide(receipt, spent, now, ends, policy, data.draw(random))
        assert step.tries in (spent, spent + 1)
        spent, state = step.tries, step.state
        if state is State.WAITING:
            assert now < step.not_before < ends
            now = step.not_before
        assert attempts <= lifetime / min(1.0, policy.floor) + policy.retries + 2
    assert state in FINAL
    assert spent <= policy.retries + 1
