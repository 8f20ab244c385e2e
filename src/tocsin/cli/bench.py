"""`tocsin bench …`: the benchmarks in `benchmarks/`, which lie beside the source and not in the installed package."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from tocsin.errors import Misconfigured

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line of stdout.")


class Tail(click.ParamType[tuple[float, float]]):
    """SHARE:SECONDS, a share of the answers from 0 to 0.2 and the seconds they take, at most 25."""

    name = "SHARE:SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        try:
            share, seconds = map(float, str(value).split(":"))
        except ValueError:
            share, seconds = -1.0, 0.0
        if not (0 < share <= 0.2 and 0 < seconds <= 25):  # our client waits 30 s for APNs
            self.fail("must be like 0.01:2, a share of at most 0.2 and at most 25 seconds", param, ctx)
        return share, seconds


@click.group()
def bench() -> None:
    """Measure, beside something else in the same run.

    Example: tocsin bench accept --seconds 5
    """
    # An exit stops servers and sinks, which no signal reaches; 143 is what a shell makes of SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@bench.command()
@click.option("--recipients", type=click.IntRange(1, 1000), default=1000, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5, 300), default=10, show_default=True)
@json_option
def accept(recipients: int, seconds: float, as_json: bool) -> None:
    """Requests to /1/send/push.json accepted and durable: alone, at 1,000 a second while a campaign is delivered, and
    through a kill -9; beside a bare app that only reads the body. Every accepted recipient is counted in the ledger.

    Example: tocsin bench accept --recipients 1000 --seconds 20 --json
    """
    find_benchmarks()
    from benchmarks.acceptance import measure_accept
    from benchmarks.reading import report

    readings = measure_accept(recipients, seconds)
    report("accept", {"recipients": recipients, "seconds": seconds}, readings, as_json=as_json)


@bench.command()
@click.option("--audience", type=click.IntRange(100, 2_000_000), default=20_000, show_default=True)
@click.option("--email", is_flag=True, help="Mails signed with DKIM instead of pushes.")
@click.option("--webpush", is_flag=True, help="Web pushes, encrypted for each browser, instead of pushes.")
@click.option("--latency", type=click.FloatRange(0, 20), help="Seconds after which the sink answers.")
@click.option("--tail", "tails", type=Tail(), multiple=True, help="A share of the answers that takes so many seconds.")
@json_option
def dispatch(
    audience: int,
    email: bool,
    webpush: bool,
    latency: float | None,
    tails: tuple[tuple[float, float], ...],
    as_json: bool,
) -> None:
    """A campaign from frozen to closed, beside h2load and a bare loop of the same client on the same sink.

    The sink is nghttpd where it is installed, and smtp-sink for mails (Debian: nghttp2, postfix), else the sandbox.
    With --latency or --tail it is one of ours, and the campaign is delivered twice: without the tails and with them.

    Example: tocsin bench dispatch --audience 200000 --latency 0.1 --tail 0.01:2 --tail 0.001:10 --json
    """
    if (email or webpush) and (latency is not None or tails or email == webpush):
        raise click.UsageError("--latency and --tail are for pushes, and --email and --webpush not for each other.")
    find_benchmarks()
    from benchmarks.delivery import measure_dispatch, measure_mail, measure_webpush
    from benchmarks.reading import report
    from benchmarks.server import new_folder
    from benchmarks.tails import measure_tails

    with new_folder() as data:
        if latency is not None or tails:
            given = {"audience": audience, "latency": latency or 0.0, "tails": tails}
            report("dispatch", given, measure_tails(data, audience, latency or 0.0, tails), as_json=as_json)
            return
        measure = measure_mail if email else measure_webpush if webpush else measure_dispatch
        given = {"audience": audience, "email": email, "webpush": webpush}
        report("dispatch", given, measure(data, audience), as_json=as_json)


@bench.command()
@click.option(
    "--rate", "rates", type=click.FloatRange(1, 5000), multiple=True, default=(50, 300, 1000), show_default=True
)
@click.option("--seconds", type=click.FloatRange(0.5, 600), default=60, show_default=True)
@click.option("--email", is_flag=True, help="Mails instead of pushes.")
@click.option("--beside", type=click.IntRange(0, 2_000_000), default=0, help="Also 300/s beside so large a campaign.")
@json_option
def transactional(rates: tuple[float, ...], seconds: float, email: bool, beside: int, as_json: bool) -> None:
    """Requests of one recipient each, from the moment each was due to the vendor's answer; how many are accepted,
    delivered and recorded; and as many as can be, beside a bare loop that stores nothing.

    Example: tocsin bench transactional --rate 50 --rate 300 --seconds 60 --json
    """
    find_benchmarks()
    from benchmarks.reading import report
    from benchmarks.transactional import measure_transactional

    readings = measure_transactional(rates, seconds, email=email, beside=beside)
    given = {"rates": rates, "seconds": seconds, "email": email, "beside": beside}
    report("transactional", given, readings, as_json=as_json)


@bench.command()
@click.option("--users", type=click.IntRange(1000, 5_000_000), default=200_000, show_default=True)
@click.option("--events", type=click.IntRange(1000, 200_000_000), default=5_000_000, show_default=True)
@json_option
def audience(users: int, events: int, as_json: bool) -> None:
    """Eight questions over a year of events, warm, beside DuckDB on the same rows and PostgreSQL on a tenth of them.

    Both rivals come with the development packages (`make setup`); without them Tocsin is measured alone. The rows
    lie in the temporary folder: about 6 GB for 50 million events.

    Example: tocsin bench audience --users 2000000 --events 50000000 --json
    """
    find_benchmarks()
    from benchmarks.audience import measure_audience
    from benchmarks.reading import report

    report("audience", {"users": users, "events": events}, measure_audience(users, events), as_json=as_json)


@bench.command()
@click.option("--records", type=click.IntRange(100, 1_000_000), default=50_000, show_default=True)
@json_option
def ingest(records: int, as_json: bool) -> None:
    """Events through /1/upload, beside a bare insert of as many rows; and events of a CSV and of a Parquet file, and
    profiles of a CSV file, by `tocsin import` without a server, beside DuckDB and chDB that read the same file into a
    table.

    Example: tocsin bench ingest --records 50000 --json
    """
    find_benchmarks()
    from benchmarks.ingest import measure_ingest
    from benchmarks.reading import report

    report("ingest", {"records": records}, measure_ingest(records), as_json=as_json)


@bench.command()
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=5, show_default=True)
@click.option(
    "--mixtures", type=click.IntRange(0, 500), default=5, show_default=True, help="Random ones, of 2 to 4 acts."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the mixtures.")
@json_option
def neighbours(seconds: float, mixtures: int, seed: int, as_json: bool) -> None:
    """Four calls of one account, alone and beside each thing that another account or a stranger may do to the server.

    Example: tocsin bench neighbours --seconds 5 --mixtures 20 --json
    """
    find_benchmarks()
    from benchmarks.neighbours import measure_neighbours
    from benchmarks.reading import report

    readings = measure_neighbours(seconds, mixtures, seed)
    report("neighbours", {"seconds": seconds, "mixtures": mixtures, "seed": seed}, readings, as_json=as_json)


@bench.command()
@click.option("--users", type=click.IntRange(1000, 5_000_000), default=100_000, show_default=True)
@click.option("--events", type=click.IntRange(1000, 200_000_000), default=2_500_000, show_default=True)
@click.option("--campaigns", type=click.IntRange(2, 10_000), default=1000, show_default=True)
@click.option("--requests", type=click.IntRange(10, 20_000_000), default=500_000, show_default=True)
@json_option
def pages(users: int, events: int, campaigns: int, requests: int, as_json: bool) -> None:
    """Each page of the dashboard, as somebody who is logged in gets it, with so much behind it: the median of 15.

    Example: tocsin bench pages --users 2000000 --events 50000000 --requests 10000000 --json
    """
    find_benchmarks()
    from benchmarks.pages import measure_pages
    from benchmarks.reading import report
    from benchmarks.server import new_folder

    given = {"users": users, "events": events, "campaigns": campaigns, "requests": requests}
    with new_folder() as data:
        report("pages", given, measure_pages(data, users, events, campaigns, requests), as_json=as_json)


@bench.command()
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=5, show_default=True)
@json_option
def feedback(seconds: float, as_json: bool) -> None:
    """Reports by the way they come (`/track`, links and pictures of mails, an SDK's views and events through `/a1`),
    each alone and then all of them beside `/1/upload` and `/1/send`. Every report that is answered is counted.

    Example: tocsin bench feedback --seconds 5 --json
    """
    find_benchmarks()
    from benchmarks.feedback import measure_feedback
    from benchmarks.reading import report

    report("feedback", {"seconds": seconds}, measure_feedback(seconds), as_json=as_json)


@bench.command()
@click.option("--recipients", type=click.IntRange(2000, 5_000_000), default=1_000_000, show_default=True)
@click.option("--campaigns", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@click.option("--events", type=click.IntRange(10_000, 100_000_000), default=10_000_000, show_default=True)
@click.option("--exported", type=click.IntRange(1000, 100_000_000), default=10_000_000, show_default=True)
@json_option
def reports(recipients: int, campaigns: int, events: int, exported: int, as_json: bool) -> None:
    """Reports of a campaign in the middle of its delivery, the overview beside so many campaigns and messages, and
    events read back page by page, beside DuckDB that writes as many.

    Example: tocsin bench reports --recipients 200000 --events 1000000 --json
    """
    find_benchmarks()
    from benchmarks.reading import report
    from benchmarks.reports import measure_reports

    given = {"recipients": recipients, "campaigns": campaigns, "events": events, "exported": exported}
    report("reports", given, measure_reports(**given), as_json=as_json)


@bench.command()
@click.option("--seconds", type=click.FloatRange(0.2, 300), default=20, show_default=True, help="Of each campaign.")
@click.option("--at-once", type=click.IntRange(1, 200), default=20, show_default=True, help="Mails of one worker.")
@click.option(
    "--backlog",
    "backlogs",
    type=click.IntRange(10, 5_000_000),
    multiple=True,
    default=(1000, 1_000_000),
    show_default=True,
    help="Chunks that wait.",
)
@click.option("--workers", type=click.IntRange(1, 16), multiple=True, default=(1, 2, 4), show_default=True)
@json_option
def scale(seconds: float, at_once: int, backlogs: tuple[int, ...], workers: tuple[int, ...], as_json: bool) -> None:
    """One, two and four workers on one PostgreSQL, with a relay that answers after 100 ms and takes so many mails of
    each at once: what each delivers, and what is lost at each doubling. And how long a claim takes, by the queue's
    length.

    Example: tocsin bench scale --seconds 20 --json
    """
    find_benchmarks()
    from benchmarks.reading import report
    from benchmarks.side_by_side import measure_scale

    given = {"seconds": seconds, "at_once": at_once, "workers": workers, "backlogs": backlogs}
    report("scale", given, measure_scale(seconds, at_once, workers, backlogs), as_json=as_json)


def find_benchmarks() -> None:
    """Make `benchmarks` importable. Raises Misconfigured outside a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "benchmarks" / "__init__.py").exists():
        raise Misconfigured(
            "The benchmarks are part of the source tree, not of the installed package: in a checkout of Tocsin run "
            "`make setup`, then `.venv/bin/tocsin bench`."
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
