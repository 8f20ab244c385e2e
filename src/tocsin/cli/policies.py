"""`tocsin policy …`: the settings of one account. Needs the ledger alone, so it works while `serve` runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from tocsin.cli.options import account_option, data_option, print_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

NAMES = ("caps", "dnd", "limits", "control", "conversion", "retention", "apps", "tracking", "provider_names")
name_argument = click.argument("name", type=click.Choice(NAMES))


@click.group()
def policy() -> None:
    """Frequency caps, limits of endpoints, the control group, the retention and the mail tracking of an account.

    Example: tocsin policy show --account ABC-DEF-GHIJ --data ./data
    """


@policy.command("set")
@name_argument
@click.argument("value")
@data_option
@account_option
def set_one(name: str, value: str, data: Path, account_id: str) -> None:
    """Set one, as JSON. It holds for what is claimed from then on; a running server follows at once.

    \b
    caps     {"push": {"most": 3, "days": 1, "dwell_minutes": 15, "throttle": 10000}}
    dnd      {"message_state": "delay", "dnd_timezone": "user", "dnd_info": {"1": [{"from": "22:00", "to": "08:00"}]}}
    limits   {"create_per_second": 3, "create_at_once": 3, "uploads_at_once": 15, "event_names": 512,
              "event_properties": 2048, "profile_properties": 1024, "app_requests_per_second": 5000,
              "send_requests_per_second": 50, "send_people_per_second": 5000}
    control  {"percent": 5}
    conversion  {"event_name": "Charged", "conversion_time": "1D", "revenue_property": "Amount"}
    retention  {"days": 30, "events": {"Page Viewed": 90, "*": 400}}
    apps     {"identities": "trust"}
    tracking  {"opens": true, "clicks": true}
    provider_names  {"SendGrid main": "smtp"}

    Example: tocsin policy set caps '{"push": {"most": 3, "days": 1}}' --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import find_account
    from tocsin.errors import Misconfigured
    from tocsin.policy import load_policy, set_policy
    from tocsin.providers import BY_NAME
    from tocsin.store.stores import open_ledger_only

    def write(connection: Connection) -> None:
        set_policy(connection, account_id, name, value, time.time())
        meant = load_policy(connection, account_id).provider_names.values()
        if unknown := sorted(set(meant) - set(BY_NAME)):
            raise Misconfigured(f"{unknown[0]!r} is no provider; there are {', '.join(BY_NAME)}.")

    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)
        ledger.write_now(write)
    print_json({"account_id": account_id, name: msgspec.json.decode(value)})


@policy.command()
@data_option
@account_option
def show(data: Path, account_id: str) -> None:
    """Show all of an account, as one JSON object.

    Example: tocsin policy show --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import find_account
    from tocsin.policy import load_policy
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)
        found = ledger.read_now(lambda connection: load_policy(connection, account_id))
    print_json({"account_id": account_id, **msgspec.to_builtins(found)})


@policy.command()
@name_argument
@data_option
@account_option
def clear(name: str, data: Path, account_id: str) -> None:
    """Take one back.

    Example: tocsin policy clear caps --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import find_account
    from tocsin.policy import clear_policy
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        find_account(ledger, account_id)
        ledger.write_now(lambda connection: clear_policy(connection, account_id, name))
    print_json({"account_id": account_id, "cleared": name})
