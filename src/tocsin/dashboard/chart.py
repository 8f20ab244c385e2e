"""Bars over time, as numbers for an SVG. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

STEPS = (1, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 86_400, 7 * 86_400)  # seconds that one bar stands for
BARS = 48  # at most, unless a week a bar makes more
WIDTH, HEIGHT, GAP = 720.0, 140.0, 0.2
KINDS = ("sent", "unknown", "failed", "suppressed")


class Piece(msgspec.Struct, frozen=True):
    """One rectangle of a bar."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Bar(msgspec.Struct, frozen=True):
    """What happened from a time on, by kind."""

    at: float
    counts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class Chart(msgspec.Struct, frozen=True):
    """Bars from the first time to the last. step: seconds of one. most: what the highest one counts."""

    bars: list[Bar]
    pieces: list[Piece]
    step: int
    most: int
    width: float = WIDTH
    height: float = HEIGHT

    @property
    def shown(self) -> list[Bar]:
        """The bars that count anything."""
        return [bar for bar in self.bars if bar.total]


def choose_step(seconds: int) -> int:
    """Return how many seconds one bar stands for, so that there are at most BARS."""
    return next((step for step in STEPS if seconds // step < BARS - 1), STEPS[-1])


def draw_chart(slots: Mapping[int, Mapping[str, int]], step: int) -> Chart:
    """Return the chart of counts by slot, which is a time divided by the step."""
    first, last = min(slots), max(slots)
    # Of a campaign that runs for years, what is recent.
    first = max(first, last - 10 * BARS)
    bars = [
        Bar(float(slot * step), {kind: slots.get(slot, {}).get(kind, 0) for kind in KINDS})
        for slot in range(first, last + 1)
    ]
    most = max((bar.total for bar in bars), default=0)
    wide = WIDTH / max(len(bars), 12)
    pieces = []
    for index, bar in enumerate(bars):
        bottom = HEIGHT
        for kind, count in bar.counts.items():
            if count:
                height = max(HEIGHT * count / max(most, 1), 1.0)
                bottom -= height
                place = round(index * wide + wide * GAP / 2, 2)
                pieces.append(Piece(kind, place, round(bottom, 2), round(wide * (1 - GAP), 2), round(height, 2)))
    return Chart(bars, pieces, step, most)
