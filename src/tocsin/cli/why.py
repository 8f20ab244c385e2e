"""`tocsin why`: why somebody got a campaign or not, whom a campaign reached, what happened to somebody."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import click

from tocsin.cli.local_server import ask
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.store.data_folder import find_running


@click.command()
@account_option
@data_option
@click.option("--campaign", type=click.IntRange(min=1), help="The campaign's id; without it the person's time line.")
@click.option("--tag-group", help="Of sends by identity; «Not Tagged» are those without one. Needs --identity.")
@click.option("--identity", help="The person; without it some people of each outcome, and a forecast of the next run.")
@click.option("--cursor", help="Of the next page of a time line, as the page before says.")
def why(
    account_id: str,
    data: Path,
    campaign: int | None,
    tag_group: str | None,
    identity: str | None,
    cursor: str | None,
) -> None:
    """Tell why a person got a campaign or a send or not, with what they were shown and what came back; of a campaign
    alone, whom it reached and what would become of its next run.

    Example: tocsin why --account ABC-DEF-GHIJ --data ./data --campaign 1790000000 --identity jane
    """
    from tocsin.account import find_account
    from tocsin.api.why import tell
    from tocsin.campaign.compile_pool import CompilePool
    from tocsin.settings import read_settings
    from tocsin.store.stores import open_stores

    if tag_group is not None and (identity is None or campaign is not None):
        raise click.UsageError("Of a tag group one person can be asked about: give --identity, and no --campaign.")
    given = {"id": campaign, "tag_group": tag_group, "identity": identity, "cursor": cursor}
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise click.UsageError("Name a campaign, a person (--identity) or both.")
    running = find_running(data)
    if running is not None:
        print_json(ask(running, "/local/why", account_id, body))
        return
    with open_stores(data) as stores:
        account, settings = find_account(stores.ledger, account_id), read_settings(os.environ, data)
        asked = (account, body, time.time(), settings, CompilePool())
        found = asyncio.run(tell(stores.ledger, stores.facts, *asked))
        print_json({"status": "success", **found})
