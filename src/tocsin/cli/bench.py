"""`tocsin bench …`: the benchmarks in `benchmarks/`, which lie beside the source and not in the installed package."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tocsin.errors import Misconfigured

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line of stdout.")


@click.group()
def bench() -> None:
    """Measure, beside something else in the same run.

    Example: tocsin bench accept --seconds 5
    """


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
@json_option
def dispatch(audience: int, email: bool, as_json: bool) -> None:
    """A campaign from frozen to closed, beside h2load and a bare loop of the same client on the same sink.

    The sink is nghttpd where it is installed, and smtp-sink for mails (Debian: nghttp2, postfix), else the sandbox.

    Example: tocsin bench dispatch --audience 200000 --json
    """
    find_benchmarks()
    from benchmarks.delivery import measure_dispatch, measure_mail
    from benchmarks.reading import report
    from benchmarks.server import new_folder

    with new_folder() as data:
        readings = (measure_mail if email else measure_dispatch)(data, audience)
        report("dispatch", {"audience": audience, "email": email}, readings, as_json=as_json)


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
    """Events through /1/upload, beside a bare insert of as many rows.

    Example: tocsin bench ingest --records 50000 --json
    """
    find_benchmarks()
    from benchmarks.ingest import measure_ingest
    from benchmarks.reading import report

    report("ingest", {"records": records}, measure_ingest(records), as_json=as_json)


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
