"""People whom nobody knew, many at once: no name of theirs is anybody's, so that nothing has to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select, update

from tocsin.channels import PLATFORMS
from tocsin.ingest.profile import NEVER
from tocsin.store import schema
from tocsin.store.facts import COLUMNS
from tocsin.store.native_block import JsonPath, encode_block, encode_json, encode_numbers, encode_texts
from tocsin.store.rows import insert_numbered


class NewCopies(msgspec.Struct, frozen=True):
    """What is copied of new people's profiles, in Arrow arrays; a platform that is not in `reach` has nobody, and
    nobody has a place, or zone, that is None. paths: of `props`."""

    reach: Mapping[str, Any] = {}
    coordinates: tuple[Any, Any] | None = None
    zones: Any = None
    paths: Mapping[str, JsonPath] = {}


EMPTY = NewCopies()


def insert_newcomers(
    connection: Connection,
    account_id: str,
    profiles: Sequence[str],
    names: Mapping[str, Sequence[str | None]],
    now: float,
) -> range:
    """Insert users with their profiles, as JSON, and their names by kind, None where somebody has none; return their
    numbers. The caller has locked the account's row and found none of the names."""
    table = schema.account
    last = connection.scalar(select(table.c.last_user).where(table.c.id == account_id)) or 0
    users = range(last + 1, last + 1 + len(profiles))
    common = {"account_id": account_id, "version": 1, "updated_at": now, "created_at": now}
    insert_numbered(connection, schema.user, common, ("profile", profiles), ("id", users[0]))
    for kind, values in names.items():
        mine = {"account_id": account_id, "kind": kind}
        insert_numbered(connection, schema.identity, mine, ("value", values), ("user_id", users[0]))
    connection.execute(update(table).where(table.c.id == account_id).values(last_user=users[-1]))
    return users


def make_copies_block(account_id: str, users: Sequence[int], copies: NewCopies = EMPTY) -> bytes:
    """Return the copies of new users as a block of facts' `profile`."""
    import pyarrow as pa

    count = len(users)

    def same(value: Any, kind: Any) -> Any:
        return pa.repeat(pa.scalar(value, kind), count)

    nowhere = same(float("nan"), pa.float32())
    latitude, longitude = copies.coordinates or (nowhere, nowhere)
    columns = {
        "account": encode_texts(same(account_id, pa.string())),
        "user": encode_numbers(pa.array(users, pa.uint32()), "UInt32"),
        "version": encode_numbers(same(1, pa.uint32()), "UInt32"),
        "latitude": encode_numbers(latitude, "Float32"),
        "longitude": encode_numbers(longitude, "Float32"),
        "zone": encode_texts(same("", pa.string()) if copies.zones is None else copies.zones),
        "props": encode_json(copies.paths),
    }
    nobody = same(NEVER, pa.uint8())
    for platform in PLATFORMS:
        columns[platform] = encode_numbers(copies.reach.get(platform, nobody), "UInt8")
    return encode_block(COLUMNS["profile"], [columns[name] for name in COLUMNS["profile"]], count)
