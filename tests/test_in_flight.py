"""How many messages a sender has in flight: as many as the rate and the vendor's latency need."""

from __future__ import annotations

import heapq

import pytest

from tocsin.delivery.in_flight import LEAST_AT_ONCE, InFlight

MOST = 1000


def measure_rate(latency: float, ours: float, seconds: float, *, after: float = 0.0) -> tuple[float, int]:
    """Return the answers a second between `after` and `seconds`, and how many are allowed in the end: of a vendor that
    answers each after `latency`, and a sender that can hand over `ours` a second."""
    lane, now, free_at = InFlight(MOST), 0.0, 0.0
    flying: list[tuple[float, float]] = []
    heard = 0
    lane.begin(now)
    while now < seconds:
        while len(flying) < lane.allowed:
            free_at = max(free_at, now) + 1 / ours  # one after the other
            heapq.heappush(flying, (free_at + latency, now))
        now, started = heapq.heappop(flying)
        heard += now >= after
        lane.hear(started, now, len(flying))
    return heard / (seconds - after), lane.allowed


@pytest.mark.parametrize("latency", [0.02, 0.1, 0.3])
def test_the_vendor_does_not_limit_the_rate(latency: float) -> None:
    """Within a second and a few latencies it is ours, or what 1,000 in flight can be."""
    possible = min(4_000.0, MOST / latency)
    rate, _ = measure_rate(latency, 4_000, 9.0, after=1.0 + 8 * latency)
    assert rate > 0.9 * possible


def test_it_stays_after_the_latency_is_measured_again() -> None:
    """Which needs few in flight for a moment, every ten seconds."""
    rate, _ = measure_rate(0.1, 4_000, 62.0, after=2.0)
    assert rate > 0.85 * 4_000


@pytest.mark.parametrize("latency", [0.0005, 0.002])
def test_a_quick_vendor_gets_few(latency: float) -> None:
    """More would only wait for us."""
    _, allowed = measure_rate(latency, 4_000, 5.0)
    assert LEAST_AT_ONCE <= allowed <= 3 * LEAST_AT_ONCE
