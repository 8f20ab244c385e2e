"""Who a `/1/send` request names, and which users these identities mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from tocsin.channels import CHANNELS, DEVICE_KINDS
from tocsin.errors import Problem
from tocsin.ingest.people import IdentityKey, find_users
from tocsin.ingest.record import read_email, read_phone
from tocsin.store import schema
from tocsin.store.rows import among

TO_KINDS = {"fbid": "FBID", "gpid": "GPID", "email": "Email", "identity": "identity", "objectid": "objectId"}


TO_LIMIT = 1000


def read_to(to: Any) -> list[IdentityKey]:
    """The `to` of a `/1/send` request as identities, without repeats. Raises Problem 21 or 84."""
    if to is None:
        raise Problem("to is a mandatory field", code=21)
    if not isinstance(to, dict):
        raise Problem("Invalid recipients: to must be an object of lists (at $.to)", code=84)
    keys: dict[IdentityKey, None] = {}
    count = 0
    for name, values in to.items():
        kind = TO_KINDS.get(name.lower())
        if kind is None:
            known = "FBID, GPID, Email, Identity, objectId"
            raise Problem(f"Invalid recipients: {name[:80]!r} is no identifier; known are {known} (at $.to)", code=84)
        if not isinstance(values, list):
            raise Problem(f"Invalid recipients: must be a list (at $.to.{name})", code=84)
        count += len(values)
        if count > TO_LIMIT:
            raise Problem(f"Invalid recipients: at most {TO_LIMIT} in one request (at $.to)", code=84)
        for index, value in enumerate(values):
            text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
            if not isinstance(text, str) or not 0 < len(text.encode()) <= 1024:
                raise Problem(f"Invalid recipients: must be a text (at $.to.{name}[{index}])", code=84)
            keys[kind, text.strip().lower() if kind == "Email" else text] = None
    if not keys:
        raise Problem("Invalid recipients: nobody is named (at $.to)", code=84)
    return list(keys)


def find_recipients(
    connection: Connection, account_id: str, keys: Sequence[IdentityKey], channel: str
) -> list[tuple[int, str]]:
    """Who these identities mean: a recipient a user and platform they have or had a device on. (0, "") stands for an
    identity nobody has, (user, "") for a user who cannot be reached on the channel at all."""
    wanted = {key for one in keys for key in (one, *_also(one))}
    found = find_users(connection, account_id, wanted)
    pairs: dict[tuple[int, str], None] = {}
    nobody = 0
    users: dict[int, None] = {}
    for key in keys:
        user = next((found[one] for one in (key, *_also(key)) if one in found), None)
        if user is None:
            nobody += 1
        else:
            users[user] = None
    platforms = _platforms_of(connection, account_id, list(users), channel)
    for user in users:
        for platform in platforms.get(user) or ("",):
            pairs[user, platform] = None
    return [*pairs, *[(0, "")] * nobody]


def _platforms_of(connection: Connection, account_id: str, users: Sequence[int], channel: str) -> dict[int, list[str]]:
    platforms: dict[int, list[str]] = defaultdict(list)
    row = CHANNELS[channel]
    if row.property:
        table = schema.user
        found = select(table.c.id, table.c.profile).where(
            table.c.account_id == account_id, among(connection, table.c.id, users)
        )
        for user, profile in connection.execute(found):
            if msgspec.json.decode(profile).get(row.property):
                platforms[user].extend(row.platforms)
        return platforms
    device = schema.device
    rows = connection.execute(
        select(device.c.user_id, device.c.kind)
        .where(device.c.account_id == account_id, among(connection, device.c.user_id, users), device.c.kind != "email")
        .distinct()
        .order_by(device.c.user_id, device.c.kind)
    )
    for user, kind in rows:
        if (platform := DEVICE_KINDS[kind].platform) in row.platforms:
            platforms[user].append(platform)
    return platforms


def _also(key: IdentityKey) -> tuple[IdentityKey, ...]:
    """What else an identity may be known by: callers use addresses as identities, and upload them that way."""
    kind, value = key
    if kind == "Email":
        return (("identity", value),)
    if kind != "identity":
        return ()
    if "@" in value and (email := read_email(value)):
        return (("Email", email),)
    if value.startswith("+") and (phone := read_phone(value)):
        return (("Phone", phone),)
    return ()
