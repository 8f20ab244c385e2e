"""`tocsin explain`: why a person is in an audience or not, and what the query of an audience costs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from tocsin.cli.local_server import ask
from tocsin.cli.options import account_option, data_option, print_json
from tocsin.store.data_folder import find_running


@click.command()
@account_option
@data_option
@click.option("--where", required=True, help="The question as JSON, or @FILE that holds it.")
@click.option("--identity", help="The person; without it the SQL, the rows it reads and its time are told.")
def explain(account_id: str, data: Path, where: str, identity: str | None) -> None:
    """Tell whether a person is meant by a question and which part decided, or what the question costs.

    Example: tocsin explain --account ABC-DEF-GHIJ --data ./data --where '{"segment": "regulars"}' --identity u1
    """
    from tocsin.account import find_account
    from tocsin.api.segments import explain_where
    from tocsin.store.stores import open_stores

    body: dict[str, Any] = {"where": _read_json(where)}
    if identity is not None:
        body["identity"] = identity
    running = find_running(data)
    if running is not None:
        print_json(ask(running, "/local/explain", account_id, body))
        return
    with open_stores(data) as stores:
        account = find_account(stores.ledger, account_id)
        found = asyncio.run(explain_where(stores.ledger, stores.facts, account, body, time.time()))
        print_json({"status": "success", **found})


def _read_json(where: str) -> Any:
    try:
        return msgspec.json.decode(Path(where[1:]).read_bytes() if where.startswith("@") else where)
    except msgspec.DecodeError as error:
        raise click.UsageError(f"--where is no JSON: {error}") from None
