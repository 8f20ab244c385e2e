"""The providers' settings and the webhooks' secrets at rest: encrypted by a key from the environment, or in clear text
without one.

`TOCSIN_SECRET_KEY` is one key or several: the first encrypts, all of them decrypt, so that a key can be replaced. What
is encrypted names its row, and is good in no other one: who can write to the ledger cannot give one account the
credentials of another. Beside it only what is no secret is stored in clear text: the endpoint, as uploads ask for the
one of WNS, and the public keys of VAPID, which pages of a site ask for.
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Collection, Iterator, Sequence

import msgspec
import structlog
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Column, Connection, Table, select, update

from tocsin.errors import Misconfigured
from tocsin.store import schema

log = structlog.get_logger()

NO_SETTINGS = '""'  # JSON that no provider takes for its settings
KEY_BYTES = 32
HOW = "`openssl rand -base64 32` makes a key"
NOT_OURS = (
    "The settings of {count} providers are encrypted, and TOCSIN_SECRET_KEY {state}. Set it to the key they were "
    "encrypted with, several with commas between; or set these providers again: {names}."
)

# What is encrypted: the rows of a table, and what tells those of an account apart.
provider, webhook = schema.provider, schema.webhook
NAMES = ((provider, provider.c.name), (webhook, webhook.c.id))


class _Encrypted(msgspec.Struct, frozen=True):
    """What is stored in place of a provider's settings."""

    encrypted: str
    endpoint: str = ""
    public_key: str = ""


def read_keys(secret_key: str) -> MultiFernet | None:
    """Return what encrypts and decrypts; None without a key. Raises Misconfigured for a key of another form."""
    names = [one.strip() for one in secret_key.split(",") if one.strip()]
    return MultiFernet([_read_key(one) for one in names]) if names else None


def encrypt(keys: MultiFernet | None, account_id: str, name: str, settings: str) -> str:
    """Return a provider's settings, which are JSON, as they are stored."""
    if keys is None:
        return settings
    token = keys.encrypt(_bind(account_id, name, settings)).decode()
    plain = msgspec.json.decode(settings)
    clear = (str(plain.get(name, "")) for name in ("endpoint", "public_key"))
    return msgspec.json.encode(_Encrypted(token, *clear)).decode()


def decrypt(keys: MultiFernet | None, account_id: str, name: str, stored: str) -> str:
    """Return a provider's settings as they were before `encrypt`. Raises InvalidToken when no key fits, and when they
    were stored for another provider or account."""
    found = _read_stored(stored)
    if found is None:
        return stored
    text = b"" if keys is None else keys.decrypt(found.encrypted)
    start = _bind(account_id, name, "")
    if not text.startswith(start):
        raise InvalidToken
    return text[len(start) :].decode()


@functools.lru_cache(maxsize=4096)  # they are asked for again and again: 60 µs each
def open_settings(secret_key: str, account_id: str, name: str, stored: str) -> str:
    """Return a provider's settings; NO_SETTINGS when they cannot be decrypted, with a line in the log. Their lane then
    pauses and its messages wait, as with credentials that a vendor refuses."""
    try:
        return decrypt(read_keys(secret_key), account_id, name, stored)
    except InvalidToken:
        log.error(
            "provider cannot be decrypted",
            account=account_id,
            provider=name,
            mend="TOCSIN_SECRET_KEY has no key for it",
        )
        return NO_SETTINGS


def check_stored(connection: Connection, secret_key: str, besides: Collection[tuple[str, str]] = ()) -> int:
    """Return how many providers' settings are encrypted. besides: (account, name) of those that are set anew. Raises
    Misconfigured when the keys do not decrypt all of the others."""
    keys, lost, count = read_keys(secret_key), [], 0
    for _, _, account_id, name, stored in _read_rows(connection):
        if (account_id, name) in besides:
            continue
        count += _read_stored(stored) is not None
        try:
            decrypt(keys, account_id, name, stored)
        except InvalidToken:
            lost.append(f"{name} of {account_id}")
    if lost:
        state = "is not set" if keys is None else "has another key"
        raise Misconfigured(NOT_OURS.format(count=len(lost), state=state, names=_shorten(lost)))
    return count


def encrypt_again(connection: Connection, secret_key: str, *, clear: bool = False) -> int:
    """Encrypt all settings with the first key, or store them in clear text; return how many were changed. Raises
    Misconfigured when there is no key, or none for what is stored."""
    keys = read_keys(secret_key)
    if keys is None:
        raise Misconfigured(f"TOCSIN_SECRET_KEY is not set; {HOW}.")
    check_stored(connection, secret_key)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")  # what was there before is overwritten
    changed = 0
    for table, of, account_id, name, stored in _read_rows(connection):
        plain = decrypt(keys, account_id, name, stored)
        again = encrypt(None if clear else keys, account_id, name, plain)
        # Unless somebody has set it meanwhile. `changed_at` stays: to a running server the settings are the same.
        mine = (table.c.account_id == account_id, of == name, table.c.settings == stored)
        if again != stored:
            changed += connection.execute(update(table).where(*mine).values(settings=again)).rowcount
    return changed


def _read_stored(stored: str) -> _Encrypted | None:
    """Return what is encrypted; None for settings in clear text."""
    try:
        return msgspec.json.decode(stored, type=_Encrypted)
    except msgspec.ValidationError:
        return None


def _read_rows(connection: Connection) -> Iterator[tuple[Table, Column[str], str, str, str]]:
    """Yield every row's table, the column of its name, its account, its name and its settings."""
    for table, name in NAMES:
        columns = (table.c.account_id, name, table.c.settings)
        for row in connection.execute(select(*columns).order_by(*columns[:2])).all():
            yield table, name, row[0], row[1], row[2]


def _read_key(text: str) -> Fernet:
    try:
        raw = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise Misconfigured(f"TOCSIN_SECRET_KEY must be keys of {KEY_BYTES} bytes in base64, with commas; {HOW}.")
    return Fernet(base64.urlsafe_b64encode(raw))


def _bind(account_id: str, name: str, settings: str) -> bytes:
    return msgspec.json.encode([account_id, name]) + b"\n" + settings.encode()


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
