"""Intervals: what the textbooks print, what simulated experiments cover, and what holds for any numbers."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.stats.comparison import Difference, describe_difference, judge
from tocsin.stats.intervals import (
    Amounts,
    Interval,
    compare_means,
    compare_rates,
    estimate_rate,
    find_detectable,
    find_t,
    find_z,
)

EXPERIMENTS = 2000
COVERED = 0.93  # of 95 %: of so many experiments, four standard deviations below

counts = st.integers(1, 5000).flatmap(lambda people: st.tuples(st.integers(0, people), st.just(people)))


@pytest.mark.parametrize(
    ("converted", "people", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_printed(converted: int, people: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17, 857: table I, method 3."""
    found = estimate_rate(converted, people, 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe_as_printed(one: tuple[int, int], other: tuple[int, int], low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17, 873: table II, method 10."""
    found = compare_rates(one, other, 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("confidence", "freedom", "t"),
    [
        (0.95, 5, 2.5706),
        (0.95, 10, 2.2281),
        (0.95, 30, 2.0423),
        (0.95, 120, 1.9799),
        (0.99, 10, 3.1693),
        (0.99, 60, 2.6603),
        (0.90, 20, 1.7247),
    ],
)
def test_t_as_printed(confidence: float, freedom: float, t: float) -> None:
    assert find_t(confidence, freedom) == pytest.approx(t, abs=1e-3)
    assert find_t(confidence, 1e9) == pytest.approx(find_z(confidence), abs=1e-6)


def test_welch_as_by_hand() -> None:
    """Two groups of eight, equal spreads of 5.25: 2 ± 2.145 · √(0.75 / 8 · 2)."""
    group = [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]
    one = Amounts(8, sum(group) + 16, sum((value + 2) ** 2 for value in group))
    other = Amounts(8, sum(group), sum(value**2 for value in group))
    found = compare_means(one, other, 0.95)
    spread = sum((value - sum(group) / 8) ** 2 for value in group)
    half = 2.1448 * (spread / 7 / 8 * 2) ** 0.5
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1000, 0.05), (1000, 0.05)),
        ((1000, 0.01), (1000, 0.02)),
        ((9000, 0.1), (1000, 0.08)),
        ((100, 0.05), (100, 0.10)),
        ((20_000, 0.001), (2000, 0.001)),
        ((15, 0.5), (12, 0.3)),
    ],
    ids=str,
)
def test_rates_are_covered(one: tuple[int, float], other: tuple[int, float]) -> None:
    """Of 2,000 experiments the 95 % interval holds the true difference in at least 93 %; and «better» is not said where
    there is no difference, but in one of forty."""
    dice = numpy.random.default_rng(7)
    pairs = zip(dice.binomial(*one, EXPERIMENTS).tolist(), dice.binomial(*other, EXPERIMENTS).tolist(), strict=True)
    found = [compare_rates((first, one[0]), (second, other[0]), 0.95) for first, second in pairs]
    covered = sum(each.low <= one[1] - other[1] <= each.high for each in found)
    assert covered >= COVERED * EXPERIMENTS
    if one[1] == other[1]:
        assert sum(judge(each) == "better" for each in found) <= 0.04 * EXPERIMENTS


@pytest.mark.parametrize(
    ("one", "other", "spread"),
    [
        ((1000, 0.05), (1000, 0.05), 1.0),
        ((400, 0.08), (400, 0.05), 1.0),
        ((2000, 0.05), (200, 0.08), 1.0),
        ((2000, 0.08), (200, 0.08), 1.4),
    ],
    ids=str,
)
def test_revenue_is_covered(one: tuple[int, float], other: tuple[int, float], spread: float) -> None:
    """The same of revenue per person, most of whom buy nothing and some very much (log-normal amounts); also where a
    control group is a tenth and has a dozen buyers."""
    dice = numpy.random.default_rng(11)
    mean = float(numpy.exp(3 + spread**2 / 2))
    covered = 0
    for _ in range(EXPERIMENTS):
        amounts = [dice.lognormal(3, spread, dice.binomial(people, rate)) for people, rate in (one, other)]
        first, second = (
            Amounts(people, float(of.sum()), float((of**2).sum()))
            for (people, _), of in zip((one, other), amounts, strict=True)
        )
        found = compare_means(first, second, 0.95)
        covered += found.low <= (one[1] - other[1]) * mean <= found.high
    assert covered >= COVERED * EXPERIMENTS


def test_what_is_detectable_is_detected() -> None:
    """A difference as large as «detectable» is found in about four of five experiments."""
    dice, people = numpy.random.default_rng(3), 4000
    difference = find_detectable((200, people), (200, people), 0.95)
    ones, others = (dice.binomial(people, 0.05 + side * difference / 2, EXPERIMENTS) for side in (1, -1))
    pairs = zip(ones.tolist(), others.tolist(), strict=True)
    found = sum(judge(compare_rates((one, people), (other, people), 0.95)) == "better" for one, other in pairs)
    assert 0.75 < found / EXPERIMENTS < 0.85


@given(counts, counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_of_any_rates(one: tuple[int, int], other: tuple[int, int], confidence: float) -> None:
    """An interval holds its value and no impossible one; turned round it is turned round; more confidence is wider."""
    found, back = compare_rates(one, other, confidence), compare_rates(other, one, confidence)
    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=1e-12)
    wider = compare_rates(one, other, 0.999)
    assert wider.low <= found.low
    assert wider.high >= found.high
    rate = estimate_rate(*one, confidence)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert 0 < find_detectable(one, other, confidence) <= 1


def test_sentences() -> None:
    """Every verdict has its words, and a difference that may be none is not called one."""

    def say(low: float, high: float) -> str:
        rate = Interval((low + high) / 2, low, high)
        return describe_difference(Difference(group="B", than="A", rate=rate, verdict=judge(rate), detectable=0.0144))

    assert say(0.0024, 0.0226) == "B converts 0.24 to 2.3 points more than A."
    assert say(-0.0226, -0.0024) == "B converts 0.24 to 2.3 points less than A."
    undecided = "Not enough people yet to tell B from A: so many would show a difference of 1.4 points."
    assert say(-0.01, 0.02) == say(0.0, 0.02) == say(-0.02, 0.0) == undecided
