"""`python benchmarks/scale.py`: what a day of 100 million people needs, simulated second by second with the figures of
docs/benchmarks.md, and printed as the table of docs/scale.md.

Uploads, campaigns and single messages fill three queues as a day fills them. Each is emptied at the rate that was
measured for one machine of two cores, times their number; the least number is looked for with which nobody waits too
long. Nothing here measures: it says what follows if the measured figures add up, and that they do beyond one machine is
not shown (docs/scale.md says what is not).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

DOCS = Path(__file__).parent.parent / "docs"
HOUR = 3_600
MEASURED_PEOPLE, MEASURED_EVENTS = 2e6, 50e6
QUESTIONS = ("did A and not B", "three times in 90 days")


class Figures(msgspec.Struct, frozen=True):
    """What one machine of two cores did. Rates are a second; disk and questions are of MEASURED_PEOPLE."""

    notifications: float
    records: float
    requests: float
    singles: float
    disk_mb: float
    questions: Mapping[str, tuple[float, float]]  # ms with 5 and with 50 million events


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What is assumed. peak: the busiest hour's share of a day's events. fcm: messages a second that Google's default
    quota leaves one project, 600,000 a minute."""

    people: int = 100_000_000
    events_a_day: int = 10  # of each
    peak: float = 0.10
    kept_days: int = 365
    campaign_people: float = 0.5  # of all, in one campaign at nine o'clock
    campaign_hours: float = 2.0
    singles_a_day: float = 0.2  # of each
    singles_seconds: float = 5.0  # that one may wait in the busiest hour
    question_seconds: float = 2.0
    busy: float = 0.6  # of a machine's measured rate is asked of it
    fcm: float = 10_000.0
    copies: int = 2  # of every shard


def read_figures(text: str) -> Figures:
    """Return the figures of docs/benchmarks.md, by the sentences they stand in."""

    def find(pattern: str) -> float:
        found = re.search(pattern, text)
        if found is None:
            raise ValueError(f"docs/benchmarks.md says no more: {pattern}")
        return float(found[1].replace(",", ""))

    return Figures(
        notifications=find(r"\| ([\d,]+) notifications/s, \d+ µs CPU each"),
        records=find(r"\| ([\d,]+) records/s"),
        requests=find(r"durable \| ([\d,]+) requests/s"),
        singles=find(r"as fast as accepted [\d,]+/s in, ([\d,]+)/s delivered"),
        disk_mb=find(r"on disk ([\d,]+) MB"),
        questions={
            name: (
                find(rf"\| {name} \| ([\d.]+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|\n"),
                find(rf"\| {name} \| [\d.]+ \| ([\d.]+) \| [\d.]+ \| [\d.]+ \|\n"),
            )
            for name in QUESTIONS
        },
    )


def longest_wait(arrivals: Iterable[float], rate: float) -> float:
    """Return how long the last of a queue waited in the worst second, in seconds."""
    waiting = worst = 0.0
    for arrived in arrivals:
        waiting = max(waiting + arrived - rate, 0.0)
        worst = max(worst, waiting)
    return worst / rate


def fewest(enough: Callable[[int], bool]) -> int:
    """Return the least number with which it is enough."""
    most = 1
    while not enough(most):
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


def shape(total: float, peak: float) -> list[float]:
    """Return a day's arrivals by the second of its busiest six hours: a hill, whose top has `peak` of a day an hour."""
    top = total * peak / HOUR
    return [top * math.sin(math.pi * (second + 0.5) / (6 * HOUR)) for second in range(6 * HOUR)]


def ask_ms(figures: Figures, world: World, question: str) -> float:
    """Return how long a question takes on one machine that has everybody: in proportion to the people, and with each
    tenfold of events a person by the factor that was measured for the last one."""
    before, now = figures.questions[question]
    a_person = world.events_a_day * world.kept_days / (MEASURED_EVENTS / MEASURED_PEOPLE)
    return now * float((now / before) ** math.log10(a_person)) * world.people / MEASURED_PEOPLE


def plan(figures: Figures, world: World) -> list[tuple[str, str, str]]:
    """Return the rows of the plan: what, how many, and from which figure it follows."""
    return [*_plan_requests(figures, world), *_plan_delivery(figures, world), *_plan_facts(figures, world)]


def _plan_requests(figures: Figures, world: World) -> Iterator[tuple[str, str, str]]:
    events = world.people * world.events_a_day
    uploads, rate = shape(events, world.peak), figures.records * world.busy
    count = fewest(lambda count: longest_wait(uploads, count * rate) <= 1.0)
    yield "events in the busiest second", f"{max(uploads):,.0f}", f"{events / 1e6:,.0f} million a day"
    yield "`api`", f"{count}", f"{rate:,.0f} records/s each; nobody waits longer than a second"


def _plan_delivery(figures: Figures, world: World) -> Iterator[tuple[str, str, str]]:
    audience, seconds = world.people * world.campaign_people, world.campaign_hours * HOUR
    pushes, rate = audience / seconds, figures.notifications * world.busy
    count = fewest(lambda count: pushes <= count * rate)
    asked = f"{audience / 1e6:,.0f} million in {world.campaign_hours:g} h, {pushes:,.0f}/s; {rate:,.0f}/s each"
    yield "`worker`, for campaigns", f"{count}", asked
    quota = f"{world.fcm:,.0f}/s each, the default quota; or a larger one"
    yield "projects at FCM", f"{math.ceil(pushes / world.fcm)}", quota
    singles, rate = shape(world.people * world.singles_a_day, world.peak), figures.singles * world.busy
    count = fewest(lambda count: longest_wait(singles, count * rate) <= world.singles_seconds)
    asked = f"{max(singles):,.0f}/s at the top, {rate:,.0f}/s each; {world.singles_seconds:g} s at most"
    yield "`worker`, for single messages", f"{count}", asked
    yield "`scheduler`", "2", "whichever is first begins a run; the other finds it begun"
    commits = pushes / 512 + 2 * max(singles)
    yield "commits of the ledger a second", f"{commits:,.0f}", "a window of 512 is one, a single message two"


def _plan_facts(figures: Figures, world: World) -> Iterator[tuple[str, str, str]]:
    for question in QUESTIONS:
        whole = ask_ms(figures, world, question) / 1000
        count = fewest(lambda count: whole / count <= world.question_seconds)  # noqa: B023 - called at once
        asked = f"«{question}» takes {whole:,.0f} s on one; {world.question_seconds:g} s are wanted"
        yield "shards", f"{count}", asked
    disk = world.people * world.events_a_day * world.kept_days * figures.disk_mb / MEASURED_EVENTS / 1e6
    copies = f"{figures.disk_mb:,.0f} MB for {MEASURED_EVENTS / 1e6:,.0f} million events"
    yield f"disk of facts, {world.kept_days} days, {world.copies} copies", f"{disk * world.copies:,.0f} TB", copies


def show(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| what | how many | because |", "|---|--:|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(show(plan(read_figures((DOCS / "benchmarks.md").read_text()), World())))
