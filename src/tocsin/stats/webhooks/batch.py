"""A batch: some rows of the feed as one signed POST, after the Standard Webhooks specification.

An event's id is made of its record, so it is the same whenever and wherever it is posted. A batch's id is made of its
first and last record: the same on every attempt, and another one when it is replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from tocsin.providers.transport import HttpPost
from tocsin.providers.webhook import sign
from tocsin.stats.webhooks.endpoint import WebhookEndpoint
from tocsin.stats.webhooks.feed import FeedRow, FeedWindow, Place
from tocsin.store import schema
from tocsin.store.rows import among

MOST_EVENTS = 500
MOST_BYTES = 256 * 1024  # of a body; one event may be larger
TIMEOUT = 15.0
SHOWN = ("identity", "Email", "objectId")  # of a person's names
ID_BYTES = 12


class WebhookBatch(msgspec.Struct, frozen=True):
    """What is posted at once. events: how many there are in it. rest: the window behind it."""

    id: str
    body: bytes
    events: int
    rest: FeedWindow


def read_names(connection: Connection, account_id: str, users: Sequence[int]) -> dict[int, dict[str, str]]:
    """Return the names of people, one of each kind in SHOWN."""
    identity = schema.identity
    mine = (identity.c.account_id == account_id, among(connection, identity.c.user_id, sorted(set(users))))
    found: dict[int, dict[str, str]] = {}
    query = select(identity.c.user_id, identity.c.kind, identity.c.value).where(*mine, identity.c.kind.in_(SHOWN))
    for user, kind, value in sorted(map(tuple, connection.execute(query))):
        found.setdefault(user, {}).setdefault(kind, value)
    return found


def make_batch(
    endpoint: WebhookEndpoint,
    rows: Sequence[FeedRow],
    window: FeedWindow,
    names: Mapping[int, Mapping[str, str]],
    limit: int = MOST_EVENTS,
) -> WebhookBatch:
    """Return the batch of the first rows of a window, as many as fit. rows: all of the window when they are fewer than
    `limit`. A batch of no events says only what the window's rest is."""
    events: list[bytes] = []
    size, last = 0, window.after
    for row in rows:
        event = _encode_event(endpoint.account_id, row, names.get(row.place.user, {})) if row.first else b""
        if events and size + len(event) > MOST_BYTES:
            break
        if event:
            events.append(event)
            size += len(event)
        last = row.place
    else:
        last = window.end if len(rows) < limit else last
    happened = max((row.at for row in rows), default=0)
    key = msgspec.json.encode([endpoint.account_id, endpoint.id, window.after, last])
    batch_id = f"msg_{blake2b(key, digest_size=ID_BYTES).hexdigest()}"
    body = b'{"type":"events","timestamp":"%b","data":{"account":"%b","events":[%b]}}' % (
        _iso(happened).encode(),
        endpoint.account_id.encode(),
        b",".join(events),
    )
    return WebhookBatch(batch_id, body, len(events), FeedWindow(last, window.end))


def make_test(endpoint: WebhookEndpoint, now: float) -> WebhookBatch:
    """Return a batch that says nothing, to see whether it arrives."""
    data = {"account": endpoint.account_id, "webhook": endpoint.id}
    body = msgspec.json.encode({"type": "webhook.test", "timestamp": _iso(int(now)), "data": data})
    digest = blake2b(body, digest_size=ID_BYTES).hexdigest()
    return WebhookBatch(f"msg_{digest}", body, 0, FeedWindow(Place(0), Place(0)))


def make_post(url: str, batch: WebhookBatch, keys: Sequence[bytes], now: float) -> HttpPost:
    """Return a batch as a request that each of these keys has signed."""
    timestamp = int(now)
    headers = (
        "Content-Type: application/json",
        f"webhook-id: {batch.id}",
        f"webhook-timestamp: {timestamp}",
        f"webhook-signature: {' '.join(sign(key, batch.id, timestamp, batch.body) for key in keys)}",
    )
    return HttpPost(url=url, headers=headers, body=batch.body, version="1.1", timeout=TIMEOUT)


def _encode_event(account_id: str, row: FeedRow, names: Mapping[str, str]) -> bytes:
    place = row.place
    key = msgspec.json.encode([account_id, place.id, place.type, place.user])
    event: dict[str, Any] = {
        "id": f"evt_{blake2b(key, digest_size=ID_BYTES).hexdigest()}",
        "type": place.type,
        "timestamp": _iso(row.at),
    }
    if place.type.startswith(("outcome.", "interaction.", "conversion.")):
        event["message"] = f"{place.id >> 16}-{place.id & 0xFFFF}"  # the same for all that is said of one message
    event |= {"profile": names, "data": msgspec.Raw(row.detail.encode())}
    return msgspec.json.encode(event)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
