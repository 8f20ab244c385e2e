"""`tocsin campaign …`: what a restored ledger holds back, and letting it go. Works while `serve` runs."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import click
import msgspec

from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured


@click.group()
def campaign() -> None:
    """Campaigns and requests that are held after a restore.

    Example: tocsin campaign held --data ./data
    """


@campaign.command("held")
@data_option
def held(data: Path) -> None:
    """List what is held, a line of JSON each; campaign 0 stands for an account's requests to /1/send.

    Example: tocsin campaign held --data ./data
    """
    from tocsin.delivery.hold import list_held
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        for one in ledger.read_now(list_held):
            click.echo(msgspec.json.encode(one).decode())


@campaign.command("resume")
@click.argument("campaign_id", type=click.IntRange(min=0))
@account_option
@data_option
def resume_one(campaign_id: int, account_id: str, data: Path) -> None:
    """Let a held campaign go on: whoever waits in it gets its message, also those who got it after the backup. 0: the
    requests to /1/send.

    Example: tocsin campaign resume 1790000000 --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.delivery.hold import resume
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        work = functools.partial(resume, account_id=account_id, campaign_id=campaign_id)
        if not ledger.write_now(work):
            raise Misconfigured(f"Nothing is held of campaign {campaign_id} of account {account_id}.")
    print_json({"status": "success", "campaign": campaign_id})


@campaign.command("drop")
@account_option
@data_option
def drop(account_id: str, data: Path) -> None:
    """End the held requests to /1/send of an account: who waits in them counts as expired. A campaign is ended by
    /1/targets/stop.json.

    Example: tocsin campaign drop --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.delivery.hold import drop_requests
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        work = functools.partial(drop_requests, account_id=account_id, now=time.time())
        count = ledger.write_now(work)
    print_json({"status": "success", "requests": count})


@campaign.command("hold")
@data_option
def hold(data: Path) -> None:
    """Hold everything that waits, as `tocsin restore` does: for a PostgreSQL ledger that was put back. No server may
    run on it.

    Example: tocsin campaign hold --data ./data
    """
    import os

    from tocsin.delivery.hold import hold_all, list_held
    from tocsin.settings import read_settings
    from tocsin.stats.warehouse.position import stop_all
    from tocsin.stats.webhooks.endpoint import disable_all
    from tocsin.store.data_folder import find_running
    from tocsin.store.stores import open_ledger_only

    if data.is_dir() and find_running(data) is not None:
        raise Misconfigured("A server runs on this folder. Stop it first.")
    with open_ledger_only(data) as ledger:
        hold_all(ledger, read_settings(os.environ, data), time.time())
        ledger.write_now(lambda connection: disable_all(connection, time.time()))
        ledger.write_now(stop_all)
        print_json({"status": "success", "held": len(ledger.read_now(list_held))})
