"""The plan of docs/scale.md: its table is what the simulation prints, and the simulation's queue is a queue."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale import World, fewest, longest_wait, plan, read_figures, shape, show

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_is_the_simulations() -> None:
    """From the figures of docs/benchmarks.md as they stand there."""
    figures = read_figures((DOCS / "benchmarks.md").read_text())
    assert show(plan(figures, World())) in (DOCS / "scale.md").read_text()


@given(st.lists(st.floats(0, 1000), max_size=50), st.floats(1, 1000))
def test_nobody_waits_longer_for_more(arrivals: list[float], rate: float) -> None:
    """Twice the rate makes no wait longer; a rate of all that ever comes makes nobody wait."""
    assert longest_wait(arrivals, 2 * rate) <= longest_wait(arrivals, rate)
    assert longest_wait(arrivals, sum(arrivals) + 1) == 0


@given(st.integers(1, 10_000))
def test_the_fewest_is_enough(wanted: int) -> None:
    """The least number with which it is enough is found, whichever that is."""
    assert fewest(lambda count: count >= wanted) == wanted


@settings(max_examples=10)
@given(st.floats(1, 1e9), st.floats(0.01, 0.5))
def test_a_hill_has_its_top(total: float, peak: float) -> None:
    """The busiest second has the rate of `peak` of the day in an hour, within a thousandth."""
    top = max(shape(total, peak))
    assert 0.999 < top / (total * peak / 3600) <= 1.0
