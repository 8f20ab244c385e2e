"""A user's time line: what they did, what they were sent and what came of it, their devices and their choices, the
newest first and page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.channels import CHANNELS
from tocsin.ingest.profile import read_address
from tocsin.stats.export.cursor import Cursor
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.rows import among

DAYS, MOST_DAYS = 90, 3650  # that are looked back
SIZE, MOST = 50, 1000  # moments of a page
LEDGER, OUTCOME, EVENT = range(3)  # where a moment comes from: the order of those of one second
TOKEN_LETTERS = 8  # of a device's token that are shown
LATEST = 2**32 - 1


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One moment. kind: event, message, device, consent, user. key: its place among all of a user's."""

    at: int
    kind: str
    what: str
    details: dict[str, Any] = {}
    key: tuple[int, int, str, int]


def begin_timeline(account: Account, user: int, now: float, size: int = SIZE, days: int = DAYS) -> Cursor:
    """Return the cursor of the first page."""
    since = max(int(now) - days * 86_400, 0)
    after = (since, LATEST, EVENT + 1, "", 0)
    return Cursor(
        kind="timeline", account=account.id, began=now, size=size, base=None, rest=(), last_user=user, after=after
    )


async def read_timeline(
    ledger: Ledger, facts: Facts, account: Account, cursor: Cursor
) -> tuple[list[Moment], Cursor | None]:
    """Return a page of moments, the newest first, and the cursor of the next one; None behind the last."""
    since, *key = cursor.after
    place: Any = tuple(key)
    found = await ledger.read(lambda connection: _list_choices(connection, account.id, cursor.last_user))
    found = [one for one in found if one.at >= int(since) and one.key < place]
    asked = {
        **{"account": account.id, "user": cursor.last_user, "since": since, "limit": cursor.size + 1},
        **dict(zip(("at", "rank", "name", "id"), place, strict=True)),
    }
    for listed in await asyncio.gather(_list_outcomes(facts, asked), _list_events(facts, asked)):
        found += listed
    found.sort(key=lambda one: one.key, reverse=True)
    page = found[: cursor.size]
    if len(found) <= cursor.size:
        return page, None
    return page, msgspec.structs.replace(cursor, after=(since, *page[-1].key))


_MINE = (
    "account = {account:String} AND user = {user:UInt32} AND day >= toDate(toDateTime({since:UInt32})) - 1 "
    "AND toUnixTimestamp(at) >= {since:UInt32}"
)
_BEFORE = "< ({at:UInt32}, {rank:UInt8}, {name:String}, {id:UInt64})"
_NEWEST = "ORDER BY toUnixTimestamp(at) DESC, {} DESC LIMIT {{limit:UInt16}}"


async def _list_events(facts: Facts, asked: dict[str, Any]) -> list[Moment]:
    """Return events; that a message was sent is among the outcomes."""
    rows = await facts.query(
        "SELECT toUnixTimestamp(at), toString(name) AS called, id, raw FROM event FINAL "
        f"WHERE {_MINE} AND name != 'Notification Sent' "
        f"AND (toUnixTimestamp(at), toUInt8({EVENT}), toString(name), id) {_BEFORE} "
        f"{_NEWEST.format('called DESC, id')}",
        asked,
    )
    return [
        Moment(
            at=int(at),
            kind="event",
            what=str(name),
            details=msgspec.json.decode(str(raw) or "{}"),
            key=(int(at), EVENT, str(name), int(event)),
        )
        for at, name, event, raw in rows
    ]


async def _list_outcomes(facts: Facts, asked: dict[str, Any]) -> list[Moment]:
    rows = await facts.query(
        "SELECT toUnixTimestamp(at), chunk * 65536 + position AS id, campaign, channel, platform, outcome, code "
        f"FROM outcome FINAL WHERE {_MINE} AND (toUnixTimestamp(at), toUInt8({OUTCOME}), '', chunk * 65536 + position) "
        f"{_BEFORE} {_NEWEST.format('id')}",
        asked,
    )
    moments: list[Moment] = []
    for at, message, campaign, channel, platform, outcome, code in rows:
        details = {"campaign": int(campaign), "channel": str(channel), "platform": str(platform), "code": str(code)}
        kept = {name: value for name, value in details.items() if value}
        key = (int(at), OUTCOME, "", int(message))
        moments.append(Moment(at=int(at), kind="message", what=str(outcome), details=kept, key=key))
    return moments


def _list_choices(connection: Connection, account_id: str, user: int) -> list[Moment]:
    """Return what the ledger knows of a user by time: they and their devices are few."""
    found: list[Moment] = []

    def add(at: float | None, kind: str, what: str, number: int = 0, **details: Any) -> None:
        if at is not None:
            shown = {name: value for name, value in details.items() if value}
            found.append(Moment(at=int(at), kind=kind, what=what, details=shown, key=(int(at), LEDGER, what, number)))

    table, returned = schema.user, schema.returned
    row = connection.execute(select(table).where(table.c.account_id == account_id, table.c.id == user)).first()
    if row is None:
        return []
    add(row.created_at, "user", "first seen")
    add(row.updated_at, "user", "profile changed")
    back = select(returned.c.since).where(returned.c.account_id == account_id, returned.c.user_id == user)
    add(connection.scalar(back), "consent", "came back")
    devices = _read_devices(connection, account_id, user)
    for device in devices:
        shown = {"device": device.kind, "ends": device.token[-TOKEN_LETTERS:]}
        if device.kind == "email":
            shown = {"address": device.token}
        else:
            add(device.registered_at, "device", "registered", device.id, **shown)
        add(
            device.gone_at,
            "device",
            "bounced" if device.kind == "email" else "gone",
            device.id,
            **shown,
            code=device.gone_code,
        )
    objects = sorted({device.object_id for device in devices if device.object_id})
    for table_of, column, kind, what in (
        (schema.device_opt_out, "since", "consent", "device opted out"),
        (schema.app_device, "named_at", "user", "logged in, an app said"),
    ):
        mine = (table_of.c.account_id == account_id, among(connection, table_of.c.object_id, objects))
        for number, one in enumerate(connection.execute(select(table_of.c.object_id, table_of.c[column]).where(*mine))):
            add(one[1], kind, what, number, device=one[0])
    left = schema.unsubscribed
    for number, (kind, address) in enumerate(_list_addresses(msgspec.json.decode(row.profile))):
        asked = select(left.c.since, left.c.reason).where(
            left.c.account_id == account_id, left.c.kind == kind, left.c.address == address
        )
        for one in connection.execute(asked):
            add(one.since, "consent", "unsubscribed", number, address=address, reason=one.reason)
    return found


def _read_devices(connection: Connection, account_id: str, user: int) -> Sequence[Any]:
    device = schema.device
    mine = (device.c.account_id == account_id, device.c.user_id == user)
    return connection.execute(select(device).where(*mine).order_by(device.c.id)).all()


def _list_addresses(profile: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the addresses of a profile, as they are kept when they leave."""
    those = ((one.suppression, read_address(profile, one)) for one in CHANNELS.values() if one.suppression)
    return [(kind, address) for kind, address in those if address]
