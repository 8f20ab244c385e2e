"""`tocsin bench dispatch --latency … --tail …`: a vendor that takes its time, and for a few much more of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

from benchmarks.answering import Pace
from benchmarks.delivery import PLAIN, Delivered, deliver, make_people
from benchmarks.push_sink import STREAMS as APNS_STREAMS
from benchmarks.reading import Reading, print_progress
from benchmarks.server import OFTEN, serving
from benchmarks.sink import press_with_h2load
from benchmarks.timed_sink import TimedSink, open_timed_sink
from tocsin.demo import free_port

MOST = 0.95  # of the recipients: the rate is theirs, as a tail of 10 s is over 10 s after the last one was sent
ORDER = (False, True, True, False)  # tails: a machine that gets slower or quicker meanwhile favours neither
ALONE = 50_000  # requests of h2load to the sink


def measure_tails(folder: Path, audience: int, latency: float, tails: Sequence[tuple[float, float]]) -> list[Reading]:
    """Measure a campaign of pushes to a sink that answers each after `latency` seconds; and again, in the same run,
    with a share of the answers after the seconds of a tail. Each is done twice, in the order of ORDER.

    Raises RuntimeError when a recipient did not get the push.
    """
    with open_timed_sink(folder / "sink", Pace(latency, tuple(tails))) as sink:
        print_progress(f"{audience:,} people are made; the sink answers after {latency * 1000:g} ms")
        caller, port = make_people(folder, audience, {sink.provider: sink.settings}, "apns"), free_port(18_300, 1)
        with serving(folder, port, OFTEN) as pid:
            campaign = {"devices": ["ios"], "content": PLAIN}
            deliver(folder, port, pid, caller, {**campaign, "users_limit_overall": 2000})  # warm
            before = sink.ask()
            runs = [_run(sink, tails_on, partial(deliver, folder, port, pid, caller, campaign)) for tails_on in ORDER]
            after = sink.ask("tails off")
        alone = press_with_h2load(f"{sink.settings['endpoint']}/3/device/1", folder, ALONE, APNS_STREAMS)
        idle = sink.ask()
    even, uneven = ([run for run, on in zip(runs, ORDER, strict=True) if on is tails_on] for tails_on in (False, True))
    for one in runs:
        if one.result["sent"] != audience:
            raise RuntimeError(f"of {audience} were sent {one.result}")
    got, late = after.messages - before.messages, after.late - before.late
    return [
        *_compare(even, uneven, audience, late),
        *([Reading("the sink alone, without tails: h2load", alone, "requests/s")] if alone else []),
        *([Reading("CPU of the sink alone", (idle.cpu - after.cpu) / ALONE * 1e6, "µs a request")] if alone else []),
        Reading("answered late", float(late), f"of {len(uneven) * audience}"),
        Reading("requests at the sink", float(got), f"of {len(runs) * audience}"),
        Reading("CPU of the sink", (after.cpu - before.cpu) / got * 1e6, "µs a request"),
        Reading("CPU, without tails", mean(one.cpu for one in even) / audience * 1e6, "µs a notification"),
        Reading("CPU, with tails", mean(one.cpu for one in uneven) / audience * 1e6, "µs a notification"),
        Reading("peak memory of the server", runs[-1].server, "MiB"),
        Reading("peak memory of the senders", runs[-1].senders, "MiB"),
    ]


def _run(sink: TimedSink, tails_on: bool, run: Callable[[], Delivered]) -> Delivered:
    sink.ask("tails on" if tails_on else "tails off")
    return run()


def _compare(even: Sequence[Delivered], uneven: Sequence[Delivered], audience: int, late: int) -> list[Reading]:
    """Return both rates, each until MOST of the recipients have an outcome, and how long the whole took."""
    count = max(audience // 2, min(int(audience * MOST), audience - 2 * late // len(uneven)))
    first, second = (count / mean(one.time_of(count) for one in runs) for runs in (even, uneven))
    whole, longer = (mean(one.seconds for one in runs) for runs in (even, uneven))
    share = f"{count / audience:.1%} settled"
    return [
        Reading(f"without tails, until {share}", first, "notifications/s"),
        Reading(f"with tails, until {share}", second, "notifications/s", "without", second / first),
        Reading("without tails, whole", whole, "s"),
        Reading("with tails, whole", longer, "s", "without", longer / whole),
    ]
