"""Endpoints of an account: where its events are posted, with what secrets, and how far that has come.

The ledger has a row for each endpoint and none for an event: those are read from the facts store, behind the place that
the row names.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Connection, Row, delete, func, or_, select, update

from tocsin.authenticator.audit import note
from tocsin.errors import Misconfigured, Problem
from tocsin.providers.answer_table import check_endpoint
from tocsin.providers.encryption import decrypt, encrypt, read_keys
from tocsin.providers.public_address import is_allowed, read_networks
from tocsin.providers.webhook import make_secret, read_secret
from tocsin.stats.webhooks.feed import KEPT_DAYS, FeedWindow, Place
from tocsin.store import schema
from tocsin.store.clock import ledger_now
from tocsin.store.lock import lock_account

EventType = Literal[
    "outcome.sent",
    "outcome.failed",
    "outcome.unknown",
    "outcome.suppressed",
    "interaction.viewed",
    "interaction.clicked",
    "conversion.converted",
    "consent.unsubscribed",
    "consent.resubscribed",
    "consent.bounced",
]
CONVERTED = "conversion.converted"
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
ENDPOINTS_AN_ACCOUNT = 10
URL_LETTERS = 2048
ROTATION_SECONDS = 86_400.0  # the secret before signs as well for so long
LEASE_SECONDS = 60.0
DAY = 86_400.0

table = schema.webhook


class WebhookSecrets(msgspec.Struct, frozen=True):
    """WebhookSecrets as `whsec_…`. before: the one that `secret` replaced, which signs as well until `until`, in epoch
    seconds."""

    secret: str
    before: str = ""
    until: float = 0.0

    def list_keys(self, now: float) -> list[bytes]:
        """Return the keys to sign with, the newest first."""
        return [read_secret(one) for one in (self.secret, self.before if now < self.until else "") if one]


class WebhookEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint. live: what is left to post; None while nothing is kept for it yet. replay: what is posted again.
    failing_since: when the first of the failures in a row was. next_at: when it is tried again; 0 for at once. answer:
    the last one."""

    account_id: str
    id: str
    url: str
    events: tuple[str, ...]
    settings: str
    created_at: float
    live: FeedWindow | None
    replay: FeedWindow | None
    failing_since: float | None
    failures: int
    next_at: float
    answer: str
    answered_at: float | None
    disabled_at: float | None

    def read_secrets(self, secret_key: str) -> WebhookSecrets:
        """Return its secrets. Raises InvalidToken when the key does not fit."""
        return msgspec.json.decode(
            decrypt(read_keys(secret_key), self.account_id, self.id, self.settings), type=WebhookSecrets
        )

    def describe(self) -> dict[str, Any]:
        """Return what is shown of it: no secret."""
        shown = (
            "id",
            "url",
            "events",
            "created_at",
            "failing_since",
            "failures",
            "answer",
            "answered_at",
            "disabled_at",
        )
        return {**{name: getattr(self, name) for name in shown}, "replaying": self.replay is not None}


def check_url(url: str, networks: str) -> str:
    """Return the URL of an endpoint. Raises Problem unless it is https, or http on this machine, and for an address
    that is not posted to. What a name leads to is looked at when it is connected to."""
    try:
        check_endpoint("url", url)
        host = urlsplit(url).hostname or ""
        if len(url) > URL_LETTERS or not url.isascii() or any(letter <= " " for letter in url):
            raise Misconfigured(f"url has to be an https URL of at most {URL_LETTERS} ASCII letters.")
        if not is_allowed("127.0.0.1" if host == "localhost" else host, read_networks(networks)):
            raise Misconfigured(f"{host} is a private address; TOCSIN_WEBHOOK_NETWORKS says which may be posted to.")
    except Misconfigured as error:
        raise Problem(f"{error} (at $.url)") from None
    except ValueError:  # a name, or a port that is no number
        if not urlsplit(url).hostname:
            raise Problem("url has to be an https URL (at $.url)") from None
    return url


def name_host(url: str) -> str:
    """Return whom a URL leads to, for those who may read the audit log: what is behind the host is often a secret."""
    parts = urlsplit(url)
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{parts.hostname}{port}"


def create(
    connection: Connection, account_id: str, url: str, events: Sequence[str], secret_key: str, who: str, now: float
) -> tuple[WebhookEndpoint, str]:
    """Insert an endpoint and return it with its secret. Raise Problem when the account has ENDPOINTS_AN_ACCOUNT."""
    lock_account(connection, account_id)
    count = connection.scalar(select(func.count()).select_from(table).where(table.c.account_id == account_id))
    if (count or 0) >= ENDPOINTS_AN_ACCOUNT:
        raise Problem(f"An account has at most {ENDPOINTS_AN_ACCOUNT} webhooks; remove one first")
    webhook_id, made = f"wh_{secrets.token_hex(6)}", WebhookSecrets(make_secret())
    chosen = [one for one in EVENT_TYPES if one in events]
    row = {"account_id": account_id, "id": webhook_id, "url": url, "events": ",".join(chosen), "created_at": now}
    stored = _seal(secret_key, account_id, webhook_id, made)
    connection.execute(table.insert().values(**row, settings=stored))
    note(connection, account_id, who, "webhook created", f"{webhook_id} {name_host(url)}", now)
    return find(connection, account_id, webhook_id), made.secret


def rotate(connection: Connection, account_id: str, webhook_id: str, secret_key: str, who: str, now: float) -> str:
    """Give an endpoint a new secret and return it; the one before signs as well for ROTATION_SECONDS."""
    lock_account(connection, account_id)
    before = find(connection, account_id, webhook_id).read_secrets(secret_key)
    made = WebhookSecrets(make_secret(), before.secret, now + ROTATION_SECONDS)
    _set(connection, account_id, webhook_id, settings=_seal(secret_key, account_id, webhook_id, made))
    note(connection, account_id, who, "webhook secret rotated", webhook_id, now)
    return made.secret


def remove(connection: Connection, account_id: str, webhook_id: str, who: str, now: float) -> None:
    """Delete an endpoint. Raise Problem 404 when there is none."""
    find(connection, account_id, webhook_id)
    connection.execute(delete(table).where(table.c.account_id == account_id, table.c.id == webhook_id))
    note(connection, account_id, who, "webhook removed", webhook_id, now)


def enable(connection: Connection, account_id: str, webhook_id: str, who: str, now: float) -> None:
    """Let a disabled endpoint go on where it was, as far as events are still kept."""
    find(connection, account_id, webhook_id)
    none: dict[str, Any] = {"disabled_at": None, "failing_since": None, "failures": 0, "next_at": None}
    _set(connection, account_id, webhook_id, **none)
    note(connection, account_id, who, "webhook enabled", webhook_id, now)


def replay(connection: Connection, account_id: str, webhook_id: str, since: float, until: float, now: float) -> None:
    """Have everything posted again that was stored between two times; another replay under way ends. Raise Problem for
    times that are none, or longer ago than events are kept."""
    until = min(until, now)
    if since >= until:
        raise Problem("from must be before to, and in the past (at $.from)")
    if since < now - KEPT_DAYS * DAY:
        raise Problem(f"Events are kept for {KEPT_DAYS} days; from is longer ago (at $.from)")
    find(connection, account_id, webhook_id)
    window = FeedWindow(Place.at(since), Place.at(until))
    _set(connection, account_id, webhook_id, replay=msgspec.json.encode(window).decode())


def disable_all(connection: Connection, now: float) -> None:
    """Disable every endpoint: those of a restored ledger may belong to a server that is still there."""
    connection.execute(update(table).where(table.c.disabled_at.is_(None)).values(disabled_at=now))


def find(connection: Connection, account_id: str, webhook_id: str) -> WebhookEndpoint:
    """Return an endpoint. Raise Problem 404 when the account has none of this id."""
    mine = (table.c.account_id == account_id, table.c.id == webhook_id)
    row = connection.execute(select(table).where(*mine)).first()
    if row is None:
        raise Problem(f"There is no webhook {webhook_id[:40]!r}", code=404, status=404)
    return _read(row)


def list_endpoints(connection: Connection, account_id: str | None = None) -> list[WebhookEndpoint]:
    """Return the endpoints of an account, or of all, the oldest first."""
    mine = () if account_id is None else (table.c.account_id == account_id,)
    query = select(table).where(*mine).order_by(table.c.created_at, table.c.account_id, table.c.id)
    return [_read(row) for row in connection.execute(query)]


def lease(connection: Connection, endpoint: WebhookEndpoint, owner: str, now: float) -> WebhookEndpoint | None:
    """Take an endpoint for LEASE_SECONDS and return it as it is now; None when another process has it, or it is not to
    be posted to."""
    at = ledger_now(connection, now)
    free = or_(table.c.lease_until.is_(None), table.c.lease_until < at, table.c.lease_owner == owner)
    mine = (table.c.account_id == endpoint.account_id, table.c.id == endpoint.id)
    wanted = (table.c.disabled_at.is_(None), table.c.live.is_not(None), free)
    taken = update(table).where(*mine, *wanted).values(lease_owner=owner, lease_until=at + LEASE_SECONDS)
    if not connection.execute(taken).rowcount:
        return None
    return find(connection, endpoint.account_id, endpoint.id)


def save(connection: Connection, endpoint: WebhookEndpoint, owner: str, now: float, **values: Any) -> bool:
    """Write how far an endpoint is, and hold it for LEASE_SECONDS more. Return whether it was held until now, and its
    replay is still the same one."""
    mine = [table.c.account_id == endpoint.account_id, table.c.id == endpoint.id, table.c.lease_owner == owner]
    if "replay" in values and endpoint.replay is not None:
        mine.append(table.c.replay == _write(endpoint.replay))
    until = ledger_now(connection, now) + LEASE_SECONDS
    written = {name: _write(one) if isinstance(one, FeedWindow) else one for name, one in values.items()}
    held = update(table).where(*mine).values({"lease_until": until, **written})
    return connection.execute(held).rowcount > 0


def begin(connection: Connection, endpoint: WebhookEndpoint, live: FeedWindow) -> None:
    """Let a new endpoint begin, unless another process did."""
    mine = (table.c.account_id == endpoint.account_id, table.c.id == endpoint.id, table.c.live.is_(None))
    connection.execute(update(table).where(*mine).values(live=_write(live)))


def _read(row: Row[Any]) -> WebhookEndpoint:
    values = dict(row._mapping)
    names = WebhookEndpoint.__struct_fields__
    windows = {name: values[name] and msgspec.json.decode(values[name], type=FeedWindow) for name in ("live", "replay")}
    events, next_at = tuple(values["events"].split(",")), values["next_at"] or 0.0
    return WebhookEndpoint(
        **{**{name: values[name] for name in names}, **windows, "events": events, "next_at": next_at}
    )


def _set(connection: Connection, account_id: str, webhook_id: str, **values: Any) -> None:
    mine = (table.c.account_id == account_id, table.c.id == webhook_id)
    connection.execute(update(table).where(*mine).values(values))


def _write(window: FeedWindow) -> str:
    return msgspec.json.encode(window).decode()


def _seal(secret_key: str, account_id: str, webhook_id: str, made: WebhookSecrets) -> str:
    return encrypt(read_keys(secret_key), account_id, webhook_id, msgspec.json.encode(made).decode())
