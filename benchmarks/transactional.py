"""`tocsin bench transactional`: requests of one recipient each, from the moment each was due to the vendor's answer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import msgspec

from benchmarks.acceptance import measure_alone
from benchmarks.answering import Pace
from benchmarks.delivery import PLAIN, PLAIN_MAIL, create_campaign, deliver, make_people, wait_for_end
from benchmarks.pacer import NUMBER, PERSON, Order, run_pacer
from benchmarks.reading import Reading, print_progress
from benchmarks.server import OFTEN, cpu_seconds, family, new_folder, serving
from benchmarks.stamps import mark
from benchmarks.timed_sink import ROOT, TimedSink, open_timed_sink
from benchmarks.trial import Trial, judge
from tocsin.demo import free_port
from tocsin.store.ledger import open_ledger

PEOPLE = 10_000
MIXED_RATE = 300.0  # requests a second beside a campaign
FIRST, LOAD = 1, 100  # numbers of the first message after a start, and of the first of the load
CONNECTIONS, MANY = 64, 128  # of a closed loop, of an open one
BURST = 1_000_000  # requests of a closed loop at most, and the first of their numbers
BURST_SECONDS = 10.0  # of the closed loops at most
STALL_SECONDS = 15.0  # without one more message delivered or recorded: the rest never is
DRAIN_SECONDS = 120.0  # after the load, at most
TAG = "bench"
PUSH = {"title": f"Order {mark('@NUMBER@')}", "body": "Your code is @NUMBER@. It is valid for ten minutes."}
MAIL = {"subject": f"Order {mark('@NUMBER@')}", "body": "<p>Your code is @NUMBER@. It is valid for ten minutes.</p>"}


class Stage(msgspec.Struct, frozen=True):
    """A server with people and a sink, and its callers' headers."""

    folder: Path
    port: int
    pid: int
    headers: dict[str, str]
    sink: TimedSink
    email: bool
    people: int

    def order(self, count: int, seconds: float, *, rate: float, first: int = LOAD) -> Order:
        """Return an order for `count` requests of different contents to people in turn."""
        path = "/1/send/email.json" if self.email else "/1/send/push.json"
        return Order(
            port=self.port,
            path=path,
            headers=self.headers,
            body=make_body(email=self.email),
            people=self.people,
            rate=rate,
            count=count,
            seconds=seconds,
            connections=min(count, MANY if rate else CONNECTIONS),
            first=first,
        )


def make_body(*, email: bool) -> str:
    """Return the body of a request, in which the pacer puts its number and its person."""
    body = {"to": {"Identity": [f"user-{PERSON.decode()}"]}, "content": MAIL if email else PUSH, "tag_group": TAG}
    text = msgspec.json.encode(body).decode()
    assert NUMBER.decode() in text
    return text


def measure_transactional(rates: Sequence[float], seconds: float, *, email: bool, beside: int) -> list[Reading]:
    """Measure each rate after a start of its own; then as many as are accepted, beside a bare loop; then, with
    `beside` people, 300 a second while a campaign to all of them is delivered."""
    readings = []
    for rate in rates:
        with _staged(min(PEOPLE, max(100, int(rate * seconds))), email=email) as stage:
            readings += _measure_rate(stage, rate, seconds)
    readings += _measure_burst(min(seconds, BURST_SECONDS), email=email)
    if beside:
        with _staged(beside, email=email) as stage:
            readings += _measure_mixed(stage, seconds)
    return readings


@contextmanager
def _staged(people: int, *, email: bool) -> Iterator[Stage]:
    with new_folder() as folder, open_timed_sink(folder / "sink", Pace(), email=email) as sink:
        headers = make_people(folder, people, {sink.provider: sink.settings}, "apns")
        port = free_port(18_600, 1)
        with serving(folder, port, OFTEN) as pid:
            yield Stage(folder, port, pid, headers, sink, email, people)


def _measure_rate(stage: Stage, rate: float, seconds: float) -> list[Reading]:
    """Measure the first message after the start, and then so many requests a second."""
    first = run_pacer(stage.order(1, 0.0, rate=1.0, first=FIRST))
    _wait_for_delivery(stage, 1)
    initial = judge(first, stage.sink.stamps(), time.monotonic())
    before = _cpu(stage)
    paced = run_pacer(stage.order(max(1, int(rate * seconds)), seconds, rate=rate))
    _wait_for_delivery(stage, 1 + len(paced.accepted))
    cpu = _cpu(stage) - before
    trial = judge(paced, stage.sink.stamps(), time.monotonic())
    recorded = _wait_for_record(stage, 1 + len(paced.accepted)) - 1
    print_progress(f"{rate:g}/s: p50 {trial.percentile(0.5):,.1f} ms, p99 {trial.percentile(0.99):,.1f} ms")
    name = f"{rate:g}/s"
    return [
        Reading(f"{name}, first after a start", initial.latencies[0] * 1000, "ms"),
        *_list_latencies(name, trial),
        Reading(f"{name}, accepted", float(trial.accepted), f"of {trial.offered}"),
        Reading(f"{name}, delivered", float(trial.delivered), f"of {trial.accepted}"),
        Reading(f"{name}, recorded as sent", float(recorded), f"of {trial.accepted}"),
        Reading(f"{name}, delivered twice", float(trial.twice), "messages"),
        Reading(f"{name}, backlog half-way", float(trial.backlog_half), "messages"),
        Reading(f"{name}, backlog at the end", float(trial.backlog_end), "messages"),
        Reading(f"{name}, CPU", cpu / max(1, trial.delivered) * 1e6, "µs a message"),
        Reading(f"{name}, answer to the caller, p99", trial.answer_p99 * 1000, "ms"),
        Reading(f"{name}, sent late by, p99", trial.late_p99 * 1000, "ms"),
    ]


def _list_latencies(name: str, trial: Trial) -> list[Reading]:
    shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    return [Reading(f"{name}, {label}", trial.percentile(share), "ms") for label, share in shares]


def _measure_burst(seconds: float, *, email: bool) -> list[Reading]:
    """Measure requests as fast as they are accepted, beside a bare loop and beside names that nobody has."""
    nobody = msgspec.json.encode(msgspec.json.decode(make_body(email=False).replace(PERSON.decode(), "0")))
    unknown, _ = measure_alone(nobody, seconds)
    with _staged(min(PEOPLE, int(1000 * seconds)), email=email) as stage:
        bare = _measure_bare(stage, seconds)
        order = stage.order(BURST, seconds, rate=0.0, first=BURST)
        paced = run_pacer(order)
        _wait_for_delivery(stage, len(paced.accepted), first=order.first)
        trial = judge(paced, [one for one in stage.sink.stamps() if one.number >= order.first], time.monotonic())
    print_progress(f"as fast as accepted: {trial.delivered_rate:,.0f}/s delivered, the bare loop {bare:,.0f}/s")
    return [
        Reading("single requests accepted, to nobody", unknown.rate, "requests/s"),
        Reading("single requests accepted, while delivered", trial.accepted_rate, "requests/s"),
        Reading(
            "delivered, from the first to the last",
            trial.delivered_rate,
            "messages/s",
            "bare loop",
            trial.delivered_rate / bare,
        ),
        Reading("of the burst delivered", float(trial.delivered), f"of {trial.accepted}"),
        Reading("of the burst delivered twice", float(trial.twice), "messages"),
        Reading("bare loop: Granian in, our client out", bare, "messages/s"),
    ]


def _measure_bare(stage: Stage, seconds: float) -> float:
    """Return the requests a second that the bare loop hands to the same sink, while Tocsin rests."""
    port = free_port(18_700, 1)
    command = [sys.executable, "-m", "benchmarks.relay", str(port), stage.sink.provider]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:  # noqa: S603
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(msgspec.json.encode(stage.sink.settings))
            process.stdin.close()
            process.stdout.readline()
            order = stage.order(BURST, seconds, rate=0.0)
            paced = run_pacer(msgspec.structs.replace(order, port=port, headers={}))
        finally:
            process.kill()
    trial = judge(paced, stage.sink.stamps(), time.monotonic())
    if trial.accepted != trial.offered:
        raise RuntimeError(f"of {trial.offered} requests the bare loop answered {trial.accepted}")
    return trial.accepted_rate


def _measure_mixed(stage: Stage, seconds: float) -> list[Reading]:
    """Measure MIXED_RATE while a campaign to everybody is delivered; what was due after its end does not count."""
    mail = {"target_mode": "email", "content": PLAIN_MAIL}
    campaign = mail if stage.email else {"devices": ["ios"], "content": PLAIN}
    deliver(stage.folder, stage.port, stage.pid, stage.headers, {**campaign, "users_limit_overall": 1000})  # warm
    create_campaign(stage.port, stage.headers, campaign)
    paced = run_pacer(stage.order(max(1, int(MIXED_RATE * seconds)), seconds, rate=MIXED_RATE))
    with closing(open_ledger(f"sqlite:///{stage.folder / 'ledger.db'}")) as ledger:
        run, _ = wait_for_end(ledger)
    _wait_for_delivery(stage, len(paced.accepted))
    over = run["ended_at"] - time.time() + time.monotonic()
    trial = judge(paced, stage.sink.stamps(), time.monotonic(), until=over)
    name, rate = f"{MIXED_RATE:g}/s beside a campaign", run["sent"] / (run["ended_at"] - run["frozen_at"])
    print_progress(f"{name}: p99 {trial.percentile(0.99):,.1f} ms of {trial.offered:,}, the campaign {rate:,.0f}/s")
    return [
        *_list_latencies(name, trial),
        Reading(f"{name}, accepted", float(trial.accepted), f"of {trial.offered} while it lasted"),
        Reading(f"{name}, delivered", float(trial.delivered), f"of {trial.accepted}"),
        Reading(f"{name}, delivered twice", float(trial.twice), "messages"),
        Reading(f"{name}, sent late by, p99", trial.late_p99 * 1000, "ms"),
        Reading("the campaign meanwhile", rate, "notifications/s"),
        Reading("sent of the campaign", float(run["sent"]), f"of {stage.people}"),
    ]


def _wait_for_delivery(stage: Stage, count: int, first: int = 0) -> None:
    """Wait until the sink has seen so many different numbers from `first` on."""
    _wait(lambda: len({one.number for one in stage.sink.stamps() if one.number >= first}), count)


def _wait_for_record(stage: Stage, count: int) -> int:
    """Wait until the tag group has so many sent; return how many it has."""
    headers = {name: value for name, value in stage.headers.items() if name != "Content-Type"}
    url = f"http://127.0.0.1:{stage.port}/1/tag_groups.json"

    def read() -> int:
        with urlopen(Request(url, headers=headers), timeout=60) as reply:
            groups: dict[str, dict[str, int]] = msgspec.json.decode(reply.read())["tag_groups"]
        return groups.get(TAG, {}).get("sent", 0)

    return _wait(read, count)


def _wait(read: Callable[[], int], wanted: int) -> int:
    """Return what is read once it is `wanted`, or when it stands still for STALL_SECONDS, or after DRAIN_SECONDS."""
    started = moved = time.monotonic()
    last = read()
    while last < wanted:
        now = time.monotonic()
        if now - moved > STALL_SECONDS or now - started > DRAIN_SECONDS:
            print_progress(f"waited for {wanted:,}, there are {last:,}")
            break
        time.sleep(0.2)
        came = read()
        moved = time.monotonic() if came > last else moved
        last = came
    return last


def _cpu(stage: Stage) -> float:
    return sum(cpu_seconds(one) for one in family(stage.pid))
