"""`tocsin bench dispatch --latency … --tail …`: a vendor that takes its time, and for a few much more of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.answering import Pace
from benchmarks.delivery import PLAIN, Delivered, deliver, make_people
from benchmarks.push_sink import STREAMS as APNS_STREAMS
from benchmarks.reading import Reading, print_progress
from benchmarks.server import serving
from benchmarks.sink import press_with_h2load
from benchmarks.timed_sink import open_timed_sink
from tocsin.demo import free_port

MOST = 0.95  # of the recipients: the rate is theirs, as a tail of 10 s is over 10 s after the last one was sent


def measure_tails(folder: Path, audience: int, latency: float, tails: Sequence[tuple[float, float]]) -> list[Reading]:
    """Measure a campaign of pushes to a sink that answers each after `latency` seconds; and another, in the same run,
    where a share of the answers takes the seconds of a tail.

    Raises RuntimeError when a recipient did not get the push.
    """
    with open_timed_sink(folder / "sink", Pace(latency, tuple(tails))) as sink:
        print_progress(f"{audience:,} people are made; the sink answers after {latency * 1000:g} ms")
        caller, port = make_people(folder, audience, {sink.provider: sink.settings}, "apns"), free_port(18_300, 1)
        with serving(folder, port) as pid:
            campaign = {"devices": ["ios"], "content": PLAIN}
            deliver(folder, port, pid, caller, {**campaign, "users_limit_overall": 2000})  # warm
            before = sink.ask()
            even = deliver(folder, port, pid, caller, campaign)
            between = sink.ask("tails on")
            uneven = deliver(folder, port, pid, caller, campaign)
            after = sink.ask("tails off")
        alone = press_with_h2load(f"{sink.settings['endpoint']}/3/device/1", folder, 50_000, APNS_STREAMS)
        idle = sink.ask()
    for one in (even, uneven):
        if one.result["sent"] != audience:
            raise RuntimeError(f"of {audience} were sent {one.result}")
    got, late = after.messages - before.messages, after.late - between.late
    return [
        *_compare(even, uneven, audience, late),
        *([Reading("the sink alone, without tails: h2load", alone, "requests/s")] if alone else []),
        *([Reading("CPU of the sink alone", (idle.cpu - after.cpu) / 50_000 * 1e6, "µs a request")] if alone else []),
        Reading("answered late", float(late), f"of {audience}"),
        Reading("requests at the sink", float(got), f"of {2 * audience} in both"),
        Reading("CPU of the sink", (after.cpu - before.cpu) / got * 1e6, "µs a request"),
        Reading("CPU, without tails", even.cpu / audience * 1e6, "µs a notification"),
        Reading("CPU, with tails", uneven.cpu / audience * 1e6, "µs a notification"),
        Reading("peak memory of the server", uneven.server, "MiB"),
        Reading("peak memory of the senders", uneven.senders, "MiB"),
    ]


def _compare(even: Delivered, uneven: Delivered, audience: int, late: int) -> list[Reading]:
    """Return both rates, each until MOST of the recipients have an outcome, and how long the whole took."""
    count = max(audience // 2, min(int(audience * MOST), audience - 2 * late))
    first, second = (count / one.time_of(count) for one in (even, uneven))
    share = f"{count / audience:.1%} settled"
    return [
        Reading(f"without tails, until {share}", first, "notifications/s"),
        Reading(f"with tails, until {share}", second, "notifications/s", "without", second / first),
        Reading("without tails, whole", even.seconds, "s"),
        Reading("with tails, whole", uneven.seconds, "s", "without", uneven.seconds / even.seconds),
    ]
