"""The credentials that `tocsin provider set` stored for an account."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
from sqlalchemy import Connection, bindparam, select

from tocsin.errors import Problem
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Credential
from tocsin.providers.encryption import open_settings
from tocsin.store import schema


def require_provider(connection: Connection, account_id: str, channel: str) -> None:
    """Raise Problem when the channel has a provider of its own name (sms, webpush) and none that carries it is set for
    the account."""
    if channel not in BY_NAME:
        return
    table, names = schema.provider, list_providers(channel)
    mine = (table.c.account_id == account_id, table.c.name.in_(names))
    if connection.scalar(select(table.c.name).where(*mine).limit(1)) is None:
        how = " or ".join(f"`tocsin provider set {name}`" for name in names)
        raise Problem(f"No {channel} provider is set for this account; {how} sets one")


def find_named(connection: Connection, account_id: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return what the account's providers are called in requests, and the platform that each of them reaches; one whose
    credentials are not set is left out. names: the policy of that name."""
    table = schema.provider
    stored = set(connection.scalars(select(table.c.name).where(table.c.account_id == account_id))) if names else set()
    return {called: BY_NAME[name].platform for called, name in names.items() if name in stored}


def require_named(asked: object, named: Mapping[str, str], platforms: Collection[str]) -> None:
    """Raise Problem for a `provider_nick_name` that is none of `find_named`, or of one that reaches other platforms."""
    if asked and not (isinstance(asked, str) and named.get(asked) in platforms):
        raise Problem("InCorrect provider_nick_name! (at $.provider_nick_name; the policy provider_names has them)")


def list_providers(platform: str) -> list[str]:
    """Return the names of the providers that reach a platform. An account has one of them, see `store_providers`."""
    return [name for name, one in BY_NAME.items() if one.platform == platform]


class _Keys(msgspec.Struct):
    public_key: str = ""


def find_web_push_keys(connection: Connection, account_id: str) -> list[str]:
    """Return the VAPID public keys of an account, the newest first: the `applicationServerKey` of its pages, and the
    one before it. They are no secret and need no key of the ledger."""
    table = schema.provider
    mine = (table.c.account_id == account_id, table.c.name == "vapid")
    stored = connection.scalar(select(table.c.settings).where(*mine))
    return msgspec.json.decode(stored, type=_Keys).public_key.split() if stored else []


_OF_ACCOUNT = select(
    *(schema.provider.c.name, schema.provider.c.settings, schema.provider.c.changed_at, schema.provider.c.trusted)
).where(schema.provider.c.account_id == bindparam("account"))


def read_credentials(connection: Connection, account_id: str, secret_key: str = "") -> list[Credential]:
    """Return all credentials of an account. secret_key: of the settings; what it does not decrypt works for nobody."""
    rows = connection.execute(_OF_ACCOUNT, {"account": account_id})
    return [open_credential(account_id, *row, secret_key) for row in rows]


def open_credential(
    account_id: str, name: str, settings: str, changed_at: float, trusted: int, secret_key: str
) -> Credential:
    """Return one credential as it is stored, its settings decrypted."""
    return Credential(
        account_id, name, open_settings(secret_key, account_id, name, settings), changed_at, bool(trusted)
    )


def find_settings(connection: Connection, account_id: str, name: str, secret_key: str) -> str | None:
    """Return one provider's settings as JSON, which is NO_SETTINGS where the key does not decrypt them; None when it is
    not set."""
    found = read_credentials(connection, account_id, secret_key)
    return next((one.settings for one in found if one.name == name), None)
