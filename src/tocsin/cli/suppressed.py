"""`tocsin suppressed`: the addresses of an account that get nothing, and why."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import msgspec

from tocsin.cli.options import account_option, data_option

PAGE = 1000


@click.command()
@account_option
@data_option
def suppressed(account_id: str, data: Path) -> None:
    """List the addresses that get nothing, a line of JSON each: those that left and by what, those that bounced and
    with which code. `tocsin bounce --forget` lifts a bounce.

    Example: tocsin suppressed --account ABC-DEF-GHIJ --data ./data
    """
    from tocsin.account import find_account
    from tocsin.feedback.suppression import list_suppressed
    from tocsin.store.stores import open_ledger_only

    with open_ledger_only(data) as ledger:
        account, offset = find_account(ledger, account_id), 0
        while True:
            read = partial(list_suppressed, account_id=account.id, offset=offset, limit=PAGE)
            found, total = ledger.read_now(read)
            for one in found:
                click.echo(msgspec.json.encode(one).decode())
            offset += PAGE
            if offset >= total:
                return
