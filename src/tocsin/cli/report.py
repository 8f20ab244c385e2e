"""`tocsin report`: the numbers of campaigns and sends by any columns, as JSON, CSV or Parquet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from tocsin.cli.local_server import fetch
from tocsin.cli.options import account_option, data_option
from tocsin.store.data_folder import find_running

FORMATS = ("json", "csv", "parquet")


@click.command()
@account_option
@data_option
@click.option("--by", default="", help="Columns with commas, such as campaign,day; without any, one row of all.")
@click.option("--from", "first", help="The first day, YYYYMMDD, in the account's time zone.")
@click.option("--to", "last", help="The last day, YYYYMMDD.")
@click.option("--campaign", "campaigns", type=int, multiple=True, help="Of this campaign only; 0: sends by identity.")
@click.option("--label", "labels", multiple=True, help="Of campaigns with this label only.")
@click.option("--earlier", type=int, help="The campaign that the one campaign is compared with.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="csv", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; without it, stdout.")
def report(
    account_id: str,
    data: Path,
    by: str,
    first: str | None,
    last: str | None,
    campaigns: tuple[int, ...],
    labels: tuple[str, ...],
    earlier: int | None,
    form: str,
    out: Path | None,
) -> None:
    """Write the numbers of campaigns and sends by any columns: audience, sent, viewed, converted, every reason.

    Example: tocsin report --account ABC-DEF-GHIJ --data ./data --by campaign,day --from 20261101 --out november.csv
    """
    from tocsin.account import find_account
    from tocsin.api.reports import make_report
    from tocsin.store.stores import open_stores

    body: dict[str, Any] = {"by": [one.strip() for one in by.split(",") if one.strip()], "format": form}
    body |= {"from": first, "to": last, "campaigns": list(campaigns) or None, "labels": list(labels)}
    body |= {"earlier": earlier}
    running = find_running(data)
    if running is not None:
        written = fetch(running, "/local/report", account_id, body)
    else:
        with open_stores(data) as stores:
            account = find_account(stores.ledger, account_id)
            written, _ = asyncio.run(make_report(stores.ledger, stores.facts, account, body))
    if out is None:
        click.echo(written, nl=False)
    else:
        out.write_bytes(written)
