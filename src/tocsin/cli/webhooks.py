"""`tocsin webhook …`: where an account's outcomes, reports and opt-outs are posted. Needs the ledger alone, so it works
while `serve` runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from tocsin.cli.options import account_option, data_option, print_json
from tocsin.errors import Misconfigured

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")
id_argument = click.argument("webhook_id", metavar="ID")


@click.group()
def webhook() -> None:
    """Endpoints that are told what became of messages, who saw and clicked them, and who left.

    Example: tocsin webhook list --account ABC-DEF-GHIJ --data ./data
    """


@webhook.command("create")
@click.argument("url")
@data_option
@account_option
@click.option("--events", default="", help="Which ones, with commas, such as outcome.failed; without it, all.")
def create(url: str, data: Path, account_id: str, events: str) -> None:
    """Have an account's events posted to a URL, and show the secret that signs them, this once.

    \b
    events   outcome.sent outcome.failed outcome.unknown outcome.suppressed
             interaction.viewed interaction.clicked conversion.converted
             consent.unsubscribed consent.resubscribed consent.bounced

    Example: tocsin webhook create https://example.com/hook --events outcome.failed --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.authenticator.members import CONSOLE
    from tocsin.settings import read_settings
    from tocsin.stats.webhooks import endpoint

    wanted = [one.strip() for one in events.split(",") if one.strip()] or list(endpoint.EVENT_TYPES)
    if unknown := sorted(set(wanted) - set(endpoint.EVENT_TYPES)):
        raise Misconfigured(f"There are no events {', '.join(unknown)}; known are {', '.join(endpoint.EVENT_TYPES)}.")
    settings = read_settings(os.environ, data)
    endpoint.check_url(url, settings.webhook_networks)
    given = (account_id, url, wanted, settings.secret_key, CONSOLE, time.time())
    made, secret = _write(data, account_id, lambda connection: endpoint.create(connection, *given))
    print_json({"account_id": account_id, **made.describe(), "secret": secret})


@webhook.command("list")
@data_option
@account_option
def list_all(data: Path, account_id: str) -> None:
    """List the endpoints of an account, one JSON object a line.

    Example: tocsin webhook list --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.stats.webhooks import endpoint

    for one in _write(data, account_id, lambda connection: endpoint.list_endpoints(connection, account_id)):
        print_json({"account_id": account_id, **one.describe()})


@webhook.command("remove")
@id_argument
@data_option
@account_option
def remove(webhook_id: str, data: Path, account_id: str) -> None:
    """Post nothing more to an endpoint.

    Example: tocsin webhook remove wh_0a1b2c3d4e5f --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.authenticator.members import CONSOLE
    from tocsin.stats.webhooks import endpoint

    _write(
        data, account_id, lambda connection: endpoint.remove(connection, account_id, webhook_id, CONSOLE, time.time())
    )
    print_json({"account_id": account_id, "removed": webhook_id})


@webhook.command("enable")
@id_argument
@data_option
@account_option
def enable(webhook_id: str, data: Path, account_id: str) -> None:
    """Let an endpoint that was disabled go on where it was.

    Example: tocsin webhook enable wh_0a1b2c3d4e5f --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.authenticator.members import CONSOLE
    from tocsin.stats.webhooks import endpoint

    _write(
        data, account_id, lambda connection: endpoint.enable(connection, account_id, webhook_id, CONSOLE, time.time())
    )
    print_json({"account_id": account_id, "enabled": webhook_id})


@webhook.command("rotate")
@id_argument
@data_option
@account_option
def rotate(webhook_id: str, data: Path, account_id: str) -> None:
    """Give an endpoint a new secret, and show it this once. The one before signs as well for a day.

    Example: tocsin webhook rotate wh_0a1b2c3d4e5f --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.authenticator.members import CONSOLE
    from tocsin.settings import read_settings
    from tocsin.stats.webhooks import endpoint

    given = (account_id, webhook_id, read_settings(os.environ, data).secret_key, CONSOLE, time.time())
    secret = _write(data, account_id, lambda connection: endpoint.rotate(connection, *given))
    print_json({"account_id": account_id, "id": webhook_id, "secret": secret})


@webhook.command("test")
@id_argument
@data_option
@account_option
def test(webhook_id: str, data: Path, account_id: str) -> None:
    """Post to an endpoint from here, and say what came back. Exit code 1: it was not taken.

    Example: tocsin webhook test wh_0a1b2c3d4e5f --account ABC-DEF-GHIJ --data ./data
    """
    import asyncio

    from tocsin.settings import read_settings
    from tocsin.stats.webhooks import endpoint
    from tocsin.stats.webhooks.poster import post_test

    found = _write(data, account_id, lambda connection: endpoint.find(connection, account_id, webhook_id))
    said = asyncio.run(post_test(found, read_settings(os.environ, data), time.time()))
    print_json({"account_id": account_id, "id": webhook_id, **said})
    if not said["arrived"]:
        raise click.exceptions.Exit(1)


@webhook.command("replay")
@id_argument
@data_option
@account_option
@click.option("--from", "since", required=True, help="The first moment, such as 2026-11-26T08:00:00Z.")
@click.option("--to", "until", required=True, help="The moment behind the last.")
def replay(webhook_id: str, data: Path, account_id: str, since: str, until: str) -> None:
    """Have everything posted again that was stored between two times, beside what is new.

    Example: tocsin webhook replay wh_0a1b2c3d4e5f --from 2026-11-26T08:00:00Z --to 2026-11-26T09:00:00Z
    --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.stats.webhooks import endpoint

    given = (account_id, webhook_id, _read_time(since), _read_time(until), time.time())
    _write(data, account_id, lambda connection: endpoint.replay(connection, *given))
    print_json({"account_id": account_id, "id": webhook_id, "from": since, "to": until})


def _write(data: Path, account_id: str, work: Callable[[Connection], T]) -> T:
    """Return what `work` returns, for an account that is there."""
    from tocsin.account import find_account
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)
        return ledger.write_now(work)


def _read_time(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise Misconfigured(f"{text!r} is no time with its zone; give one such as 2026-11-26T08:00:00Z.")
    return at.timestamp()
