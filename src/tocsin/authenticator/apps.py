"""Apps: the ids and tokens by which CleverTap's SDKs say whose they are.

Both are in the app's package, so they name and do not prove: they open `/a1`, `/a` and `/hello`, and nothing else. All
apps of an account have one id, because a push carries one, and an id belongs to one account.
"""

from __future__ import annotations

import re
import secrets
from typing import Literal, get_args

import msgspec
from sqlalchemy import Connection, delete, select

from tocsin.account import LETTERS, find_account
from tocsin.errors import Misconfigured
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_account

AppPlatform = Literal["android", "ios", "web"]
APP_PLATFORMS: tuple[AppPlatform, ...] = get_args(AppPlatform)
APPS_AN_ACCOUNT = 20
SDK_ID = re.compile(r"[A-Za-z0-9-]{4,16}")
TOKEN = re.compile(r"[A-Za-z0-9-]{4,64}")


class ClientApp(msgspec.Struct, frozen=True):
    """An app. sdk_id, token: what is in its package. platforms: of APP_PLATFORMS, with commas."""

    name: str
    sdk_id: str
    token: str
    platforms: str
    created_at: float


def add_app(
    ledger: Ledger, account_id: str, name: str, now: float, *, sdk_id: str = "", token: str = "", platforms: str = ""
) -> ClientApp:
    """Insert an app and return it. sdk_id: "" for the account's own id, or that of its other apps. token: "" for a new
    one. Raise Misconfigured for an unknown account, a name or token that is taken, and an id of another account."""
    find_account(ledger, account_id)
    if not name.strip() or len(name) > 64:
        raise Misconfigured("An app needs a name of at most 64 letters.")
    for what, value, pattern in (("id", sdk_id, SDK_ID), ("token", token, TOKEN)):
        if value and not pattern.fullmatch(value):
            raise Misconfigured(f"{value!r} cannot be the {what} of an app: letters, digits and - only.")
    table = schema.app

    def insert(connection: Connection) -> ClientApp:
        lock_account(connection, account_id)
        mine = _list_apps(connection, account_id)
        wanted = sdk_id or (mine[0].sdk_id if mine else account_id)
        if mine and mine[0].sdk_id != wanted:
            raise Misconfigured(
                f"The apps of this account have the id {mine[0].sdk_id}: a push carries one id. Make another account."
            )
        others = select(table.c.account_id).where(table.c.sdk_id == wanted, table.c.account_id != account_id)
        accounts = schema.account
        named = select(accounts.c.id).where(accounts.c.id == wanted, accounts.c.id != account_id)
        if connection.execute(others).first() or connection.execute(named).first():
            raise Misconfigured(f"Another account has the id {wanted}.")
        if any(one.name == name or one.token == token for one in mine):
            raise Misconfigured("The account has an app of that name or token; `tocsin app list` shows them.")
        if len(mine) >= APPS_AN_ACCOUNT:
            raise Misconfigured(f"An account has at most {APPS_AN_ACCOUNT} apps; remove one first.")
        made = ClientApp(name, wanted, token or _make_token(), platforms or ",".join(APP_PLATFORMS), now)
        connection.execute(table.insert().values(account_id=account_id, **msgspec.structs.asdict(made)))
        return made

    return ledger.write_now(insert)


def list_apps(ledger: Ledger, account_id: str) -> list[ClientApp]:
    """Return the apps of an account, the oldest first. Raise Misconfigured for an unknown account."""
    find_account(ledger, account_id)
    return ledger.read_now(lambda connection: _list_apps(connection, account_id))


def remove_app(ledger: Ledger, account_id: str, name: str) -> None:
    """Delete an app. Raise Misconfigured when the account has none of that name."""
    table = schema.app
    gone = delete(table).where(table.c.account_id == account_id, table.c.name == name)
    if not ledger.write_now(lambda connection: connection.execute(gone).rowcount):
        raise Misconfigured(f"{account_id} has no app {name!r}; `tocsin app list` shows them.")


def _list_apps(connection: Connection, account_id: str) -> list[ClientApp]:
    table = schema.app
    columns = [table.c[name] for name in ClientApp.__struct_fields__]
    query = select(*columns).where(table.c.account_id == account_id).order_by(table.c.created_at, table.c.name)
    return [ClientApp(*row) for row in connection.execute(query)]


def _make_token() -> str:
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(4))
