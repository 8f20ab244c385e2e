"""An account's credentials as they are given: read, checked by their provider, and kept, one for each platform."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any
from urllib.request import urlopen

import msgspec
from cryptography.fernet import MultiFernet
from msgspec import Meta
from sqlalchemy import Connection, delete, select

from tocsin.errors import Misconfigured
from tocsin.providers import BY_NAME
from tocsin.providers.credential import list_providers
from tocsin.providers.encryption import encrypt
from tocsin.providers.transport import Transport
from tocsin.providers.vapid import VapidSettings, complete
from tocsin.store import schema
from tocsin.store.rows import upsert_rows

SANDBOX_SECONDS = 5.0
_APPLE_ID = re.compile(r"[A-Z0-9]{10}")

table = schema.provider


def read_given(name: str, given: dict[str, Any]) -> str:
    """Return a provider's settings as JSON. given: its fields, as texts or typed. Raises Misconfigured with a sentence
    that names the field."""
    cls = BY_NAME[name]
    try:
        typed = msgspec.convert(given, cls.Settings, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{name}: {error}.") from None
    for field in ("key_id", "team_id") if name == "apns" else ():
        if not _APPLE_ID.fullmatch(getattr(typed, field)):
            raise Misconfigured(f"{field} has to be 10 capital letters and digits, as Apple shows it.")
    cls(typed, Transport())
    return msgspec.json.encode(complete(typed) if isinstance(typed, VapidSettings) else typed).decode()


def keep_providers(
    connection: Connection, keys: MultiFernet | None, account_id: str, settings: dict[str, str], now: float
) -> list[str]:
    """Store what `read_given` returned, by the providers' names, in place of earlier settings. A platform has one
    provider: return the names of those that were forgotten because another of theirs was set."""
    rows = [
        {
            "account_id": account_id,
            "name": name,
            "settings": encrypt(keys, account_id, name, one),
            "trusted": 0,
            "changed_at": now,
        }
        for name, one in settings.items()  # `provider trust` was for the earlier settings
    ]
    upsert_rows(connection, table, rows, keys=("account_id", "name"))
    return _forget_others(connection, account_id, settings)


def find_meta(field: msgspec.structs.FieldInfo) -> Meta:
    """Return what is said about a field of a provider's settings."""
    return next((one for one in getattr(field.type, "__metadata__", ()) if isinstance(one, Meta)), Meta())


def ask_sandbox(port: int) -> dict[str, dict[str, Any]]:
    """Return the settings of a provider for each platform, by its name, from the sandbox whose control is at a port of
    this machine. Raises Misconfigured when none answers there."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/credentials", timeout=SANDBOX_SECONDS) as reply:
            return sandbox_settings(msgspec.json.decode(reply.read()))
    except (OSError, ValueError, KeyError, TypeError):  # something else may listen there
        raise Misconfigured(f"No sandbox answers on port {port}; start one with `tocsin sandbox`.") from None


def sandbox_settings(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of a provider for each platform, by its name, from a sandbox's answer to
    `GET /credentials`."""
    ca = given["ca"]
    fcm, apns, wns, smtp, hook, vapid = (given[name] for name in ("fcm", "apns", "wns", "smtp", "webhook", "vapid"))
    return {
        "fcm": {
            "service_account": msgspec.json.encode(fcm["service_account"]).decode(),
            "endpoint": fcm["endpoint"],
            "ca": ca,
        },
        "apns": {**{key: apns[key] for key in ("endpoint", "key", "key_id", "team_id", "topic")}, "ca": ca},
        "wns": {**{key: wns[key] for key in ("endpoint", "token_endpoint", "client_id", "client_secret")}, "ca": ca},
        "smtp": {
            **{key: smtp[key] for key in ("host", "port", "username", "password")},
            "sender": "news@tocsin.example.com",
            "ca": ca,
        },
        "sms": {"url": hook["sms"], "secret": hook["secret"], "ca": ca},
        "vapid": {**{key: vapid[key] for key in ("endpoint", "key", "subject")}, "ca": ca},
    }


def _forget_others(connection: Connection, account_id: str, names: Collection[str]) -> list[str]:
    """Delete the providers of an account that reach a platform of these, under another name. Return their names."""
    others = [other for name in names for other in list_providers(BY_NAME[name].platform) if other not in names]
    mine = (table.c.account_id == account_id, table.c.name.in_(others))
    found = list(connection.scalars(select(table.c.name).where(*mine)))
    connection.execute(delete(table).where(*mine))
    return found
