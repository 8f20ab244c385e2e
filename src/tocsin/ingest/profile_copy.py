"""The facts store's copy of a profile, made from what the ledger knows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select, update

from tocsin.channels import ADDRESS_CHANNELS, CHANNELS
from tocsin.ingest.profile import (
    find_coordinates,
    find_reach,
    find_zone_name,
    list_groups_left,
    read_address,
    to_facts,
)
from tocsin.ingest.record import LEFT
from tocsin.ingest.subscription import OPTED_OUT, find_groups_left, find_suppressed
from tocsin.store import schema
from tocsin.store.facts import Row
from tocsin.store.lock import lock_account
from tocsin.store.props import encode_props, fold
from tocsin.store.rows import among, split_values

EMAIL = CHANNELS["email"]
PEOPLE = 1000  # whose profiles are in memory at a time
NOT_COPIED = "?"  # facts.sql: the zone in a copy that was made before there were zones in copies


def copy_profiles(
    connection: Connection, account_id: str, users: Sequence[int], known: Mapping[int, dict[str, Any]] | None = None
) -> list[Row]:
    """Return the rows of the facts store's `profile` for these users, as the ledger knows them now. known: profiles
    that this transaction has written, which need not be read again."""
    known = known or {}
    table, device = schema.user, schema.device
    rows: list[Row] = []
    for part in split_values(users, PEOPLE):
        devices: dict[int, list[tuple[str, bool]]] = defaultdict(list)
        found = select(device.c.user_id, device.c.kind, device.c.gone_at, OPTED_OUT).where(
            device.c.account_id == account_id, among(connection, device.c.user_id, part), device.c.kind != "email"
        )
        for one in connection.execute(found):
            devices[one.user_id].append((one.kind, one.gone_at is None and not one.opted_out))
        people: list[tuple[int, int, dict[str, Any]]] = []
        mine = table.c.account_id == account_id
        if here := [user for user in part if user in known]:
            versions = select(table.c.id, table.c.version).where(mine, among(connection, table.c.id, here))
            people = [(user, version, known[user]) for user, version in connection.execute(versions)]
        if rest := [user for user in part if user not in known]:
            query = select(table.c.id, table.c.version, table.c.profile).where(
                mine, among(connection, table.c.id, rest)
            )
            people += [(user, version, msgspec.json.decode(text)) for user, version, text in connection.execute(query)]
        rows += _make_copies(connection, account_id, people, devices)
    return rows


def _make_copies(
    connection: Connection,
    account_id: str,
    people: Sequence[tuple[int, int, Mapping[str, Any]]],
    devices: Mapping[int, list[tuple[str, bool]]],
) -> list[Row]:
    """Return the rows of these people: (user, version, profile). devices: as `find_reach` takes them, by user."""
    suppressed: set[str] = set()
    groups = find_groups_left(connection, account_id, {read_address(profile, EMAIL) for *_, profile in people} - {""})
    for channel in ADDRESS_CHANNELS:
        addresses = [address for *_, profile in people if (address := read_address(profile, channel))]
        suppressed |= find_suppressed(connection, account_id, channel, addresses)
    rows: list[Row] = []
    for user, version, profile in people:
        reach = find_reach(profile, devices.get(user, ()), suppressed)
        props = encode_props(to_facts(profile))
        if groups and (left := groups.get(read_address(profile, EMAIL))):
            props = _add_groups(props, [*list_groups_left(profile), *left])
        place = (*find_coordinates(profile), find_zone_name(profile))
        rows.append((account_id, user, version, *reach.values(), *place, props))
    return rows


def _add_groups(props: str, groups: Sequence[str]) -> str:
    """Return encoded properties with the groups that somebody left, and the mailbox of theirs."""
    left = encode_props({LEFT: {"email": list({fold(one): one for one in groups}.values())}})
    return msgspec.json.encode(msgspec.json.decode(props) | msgspec.json.decode(left)).decode()


def bump_versions(connection: Connection, account_id: str, users: Sequence[int]) -> None:
    """Increment the versions of users whose devices changed, so that their next copy replaces the last one. The copy
    is made in the same transaction: until then nobody else changes these users."""
    table = schema.user
    lock_account(connection, account_id)
    for part in split_values(users):
        connection.execute(
            update(table)
            .where(table.c.account_id == account_id, table.c.id.in_(part))
            .values(version=table.c.version + 1)
        )
