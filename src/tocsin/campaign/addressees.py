"""The `to` of a `/1/send` request, and which users its identities mean."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, Select, bindparam, select

from tocsin.channels import CHANNELS, DEVICE_KINDS
from tocsin.errors import Problem, read_struct
from tocsin.ingest.identity import IdentityKey, address_keys, find_users
from tocsin.store import schema
from tocsin.store.rows import among, among_named, pack_values

TO_KINDS = {"fbid": "FBID", "gpid": "GPID", "email": "Email", "identity": "identity", "objectid": "objectId"}
TO_LIMIT = 1000
TO_BYTES = 1024  # of one identity
INVALID = "Invalid recipients: "
Identities: Any = list[Annotated[str, Meta(min_length=1, extra={"is": "a text"})] | int]


def check_to(to: Any) -> None:
    """Check the `to` of a `/1/send` request. Raise Problem 21 when it is missing, 84 when it names nobody, too many, or
    what is no identity."""
    if to is None:
        raise Problem("to is a mandatory field", code=21)
    if not isinstance(to, dict):
        raise Problem(f"{INVALID}to must be an object of lists (at $.to)", code=84)
    count = 0
    for name, values in to.items():
        if name.lower() not in TO_KINDS:
            known = "FBID, GPID, Email, Identity, objectId"
            raise Problem(f"{INVALID}{name[:80]!r} is no identifier; known are {known} (at $.to)", code=84)
        texts = read_struct(values, Identities, f"$.to.{name}", start=INVALID, code=84)
        count += len(texts)
        if count > TO_LIMIT:
            raise Problem(f"{INVALID}at most {TO_LIMIT} in one request (at $.to)", code=84)
        for index, text in enumerate(texts):
            if len(str(text)) > 256 and len(str(text).encode()) > TO_BYTES:
                raise Problem(f"{INVALID}must be at most {TO_BYTES} bytes (at $.to.{name}[{index}])", code=84)
    if not count:
        raise Problem(f"{INVALID}nobody is named (at $.to)", code=84)


def list_keys(to: Mapping[str, Sequence[str | int]]) -> list[IdentityKey]:
    """Return the identities of a `to` that has been checked, without repeats. Addresses are lowered and stripped."""
    keys: dict[IdentityKey, None] = {}
    for name, values in to.items():
        kind = TO_KINDS[name.lower()]
        for text in map(str, values):
            keys[kind, text.strip().lower() if kind == "Email" else text] = None
    return list(keys)


def find_recipients(
    connection: Connection, account_id: str, asked: Sequence[Sequence[IdentityKey]], channel: str
) -> list[list[tuple[int, str]]]:
    """Return, for each list of identities, (user, platform) for the users they mean and each platform these have or had
    a device on. (0, "") stands for an identity nobody has, (user, "") for a user who cannot be reached on the channel
    at all."""
    wanted = {key for keys in asked for one in keys for key in (one, *_also(one))}
    found = find_users(connection, account_id, wanted)
    platforms = _platforms_of(connection, account_id, sorted(set(found.values())), channel)
    return [_pair(keys, found, platforms) for keys in asked]


def _pair(
    keys: Sequence[IdentityKey], found: Mapping[IdentityKey, int], platforms: Mapping[int, Sequence[str]]
) -> list[tuple[int, str]]:
    nobody = 0
    users: dict[int, None] = {}
    for key in keys:
        user = next((found[one] for one in (key, *_also(key)) if one in found), None)
        if user is None:
            nobody += 1
        else:
            users[user] = None
    return [(user, platform) for user in users for platform in platforms.get(user) or ("",)] + [(0, "")] * nobody


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
    asked = {"account": account_id, "users": pack_values(connection, users)}
    rows = connection.execute(_select_kinds(connection.dialect.name), asked)
    for user, kind in rows:
        if (platform := DEVICE_KINDS[kind].platform) in row.platforms:
            platforms[user].append(platform)
    return platforms


@functools.cache
def _select_kinds(dialect: str) -> Select[Any]:
    device = schema.device
    mine = (device.c.account_id == bindparam("account"), among_named(dialect, device.c.user_id, "users"))
    query = select(device.c.user_id, device.c.kind).where(*mine, device.c.kind != "email").distinct()
    return query.order_by(device.c.user_id, device.c.kind)


def _also(key: IdentityKey) -> tuple[IdentityKey, ...]:
    """Return what else an identity may be known by: callers use addresses as identities, and upload them that way."""
    kind, value = key
    if kind == "Email":
        return (("identity", value),)
    return tuple(address_keys(value)) if kind == "identity" else ()
