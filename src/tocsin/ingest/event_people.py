"""Whose the events of a file are: the users whom its columns of identities name, found or created by blocks."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from tocsin.account import Account
from tocsin.ingest.column import Column, Unusual
from tocsin.ingest.identity import address_keys, find_users
from tocsin.ingest.names import KnownNames, NameLimits
from tocsin.ingest.newcomers import insert_newcomers, make_copies_block
from tocsin.ingest.people import People
from tocsin.ingest.profile_copy import copy_profiles
from tocsin.ingest.record import IDENTITY_KINDS, EventRecord, IdentityKind, Rejected
from tocsin.ingest.subscription import UNSUBSCRIBED
from tocsin.store.facts import Facts, Row
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_account
from tocsin.store.rows import pack_values

FIND = {
    "sqlite": text(
        "SELECT json_group_array(user_id) FROM (SELECT i.user_id FROM json_each(:wanted) AS j LEFT JOIN identity AS i "
        "ON i.account_id = :account AND i.kind = :kind AND i.value = j.value ORDER BY j.key)"
    ),
    "postgresql": text(
        "SELECT array_agg(i.user_id ORDER BY j.place) FROM unnest(CAST(:wanted AS text[])) WITH ORDINALITY "
        "AS j(value, place) LEFT JOIN identity AS i "
        "ON i.account_id = :account AND i.kind = :kind AND i.value = j.value"
    ),
}

PEOPLE = 500  # new ones of one transaction, when somebody waits for another

Keys = tuple[tuple[str, str], ...]  # a record's identities with their kinds


class FoundUsers(msgspec.Struct, frozen=True):
    """The user of each row, an Arrow array; those who are new, with nothing in their profiles and without devices that
    moved; and the rows of facts' `profile` of those whose devices did."""

    users: Any
    new: Sequence[int] = ()
    moved: Sequence[Row] = ()


class EventPeople(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose some events are, and how they are called. values: their names of one kind. names, properties: of events, as
    far as they may be new."""

    kind: IdentityKind
    values: list[str]
    names: list[str] = []
    properties: list[str] = []


async def admit_people(
    ledger: Ledger, facts: Facts, account: Account, asked: EventPeople, limits: NameLimits, now: float
) -> list[int]:
    """Find or create those whose events somebody else stores, as a block of `make_block`; return their numbers in the
    order of `values`. New people are created a few at a time: others wait for the ledger. Raises Unusual; people may
    have been created then, who are found when their events come in another way."""
    if not facts.takes_blocks or UNSUBSCRIBED in asked.names:
        raise Unusual
    if asked.names:
        await ledger.write(lambda one: _admit(one, account.id, asked, limits))
    users = await ledger.read(lambda one: _find_in_order(one, account.id, asked.kind, asked.values))
    unknown = [place for place, user in enumerate(users) if user is None]
    copies: list[asyncio.Task[None]] = []
    try:
        for start in range(0, len(unknown), PEOPLE):
            places = unknown[start : start + PEOPLE]
            found = await ledger.write(functools.partial(_create, account, asked, places, now))
            copies.append(asyncio.create_task(copy_people(facts, account, found)))
            for place, user in zip(places, found.users.to_pylist(), strict=True):
                users[place] = user
    finally:
        await asyncio.gather(*copies)
    return [user for user in users if user is not None]


def _admit(connection: Connection, account_id: str, asked: EventPeople, limits: NameLimits) -> None:
    lock_account(connection, account_id)
    admit_names(connection, account_id, asked.names, asked.properties, limits)


def _create(
    account: Account, asked: EventPeople, places: Sequence[int], now: float, connection: Connection
) -> FoundUsers:
    import pyarrow as pa

    column = Column([asked.values[place] for place in places], pa.array(range(len(places)), pa.int32()))
    lock_account(connection, account.id)
    return resolve_users(connection, account.id, {asked.kind: column}, now)


def admit_names(
    connection: Connection, account_id: str, called: Sequence[str], properties: Sequence[str], limits: NameLimits
) -> None:
    """Insert the new names of events. Raises Unusual when there would be too many of them. The caller has locked
    the account."""
    present = dict.fromkeys(properties, 0)
    records = [EventRecord(keys={}, at=0, name=name, props=present) for name in dict.fromkeys(called)]
    names = KnownNames(connection, account_id, records, limits)
    try:
        for place in range(len(records)):
            names.admit(place)
    except Rejected:
        raise Unusual from None
    names.save()


async def copy_people(facts: Facts, account: Account, found: FoundUsers) -> None:
    """Copy those who are new, and those whose devices moved, to the facts store."""
    if found.new:
        await facts.insert_block("profile", make_copies_block(account.id, found.new))
    await facts.insert("profile", found.moved)


def resolve_users(connection: Connection, account_id: str, keys: Mapping[str, Column], now: float) -> FoundUsers:
    """Find or create the user of each row. The caller has locked the account. Raises Unusual for what cannot be."""
    try:
        return _resolve(connection, account_id, keys, now)
    except Rejected:
        raise Unusual from None


def _resolve(connection: Connection, account_id: str, keys: Mapping[str, Column], now: float) -> FoundUsers:
    import pyarrow as pa

    if len(keys) > 1:
        return _resolve_several(connection, account_id, keys, now)
    [(kind, column)] = keys.items()
    names = list(column.values)
    found = _find_in_order(connection, account_id, kind, names)
    unknown = list(dict.fromkeys([name for name, user in zip(names, found, strict=True) if user is None]))
    if not unknown:
        return FoundUsers(column.spread(found, pa.uint32()))
    known, moved = _find_by_address(connection, account_id, unknown, now) if kind == "identity" else ({}, [])
    others = [name for name in unknown if name not in known]
    new = insert_newcomers(connection, account_id, ["{}"] * len(others), {kind: others}, now) if others else ()
    known |= dict(zip(others, new, strict=True))
    numbers = [known[name] if user is None else user for name, user in zip(names, found, strict=True)]
    return FoundUsers(column.spread(numbers, pa.uint32()), new, moved)


def _find_by_address(
    connection: Connection, account_id: str, names: Sequence[str], now: float
) -> tuple[dict[str, int], Sequence[Row]]:
    """Link those identities that are an address of somebody to that person; return whose they are, with the rows of
    facts' `profile` of those whose devices moved."""
    addresses = {name: list(address_keys(name)) for name in names if "@" in name or name[0] == "+"}
    known = find_users(connection, account_id, {key for keys in addresses.values() for key in keys})
    meant = [name for name, keys in addresses.items() if not known.keys().isdisjoint(keys)]
    if not meant:
        return {}, []
    records = [EventRecord(keys={"identity": name}, at=0, name="", props={}) for name in meant]
    users, _, moved = _apply(connection, account_id, records, now)
    return dict(zip(meant, users, strict=True)), moved


def _find_in_order(connection: Connection, account_id: str, kind: str, names: Sequence[str]) -> list[int | None]:
    """Return the user of each name, None for one that nobody has; as one value, for a row each costs Python more than
    the look-up costs the ledger."""
    asked = {"account": account_id, "kind": kind, "wanted": pack_values(connection, names)}
    found: str | list[int | None] = connection.scalar(FIND[connection.dialect.name], asked) or []
    return msgspec.json.decode(found) if isinstance(found, str) else found


def _resolve_several(connection: Connection, account_id: str, keys: Mapping[str, Column], now: float) -> FoundUsers:
    """Resolve rows with several identities: where anybody is new a row may give a device to somebody else, so all of
    them are applied in their order."""
    import pyarrow as pa

    kinds = [kind for kind in IDENTITY_KINDS if kind in keys]
    rows: list[Keys] = [
        tuple((kind, value) for kind, value in zip(kinds, values, strict=True) if value is not None)
        for values in zip(*(keys[kind] for kind in kinds), strict=True)
    ]
    known = _find_known(connection, account_id, rows)
    if len(known) == len({*rows}):
        return FoundUsers(pa.array([known[row] for row in rows], pa.uint32()))
    records = [EventRecord(keys=dict(row), at=0, name="", props={}) for row in rows]
    users, new, moved = _apply(connection, account_id, records, now)
    return FoundUsers(pa.array(users, pa.uint32()), new, moved)


def _find_known(connection: Connection, account_id: str, rows: Collection[Keys]) -> dict[Keys, int]:
    """Return those whose every name is one known user's already, so that nothing about them changes."""
    found = find_users(connection, account_id, {key for keys in rows for key in keys})
    return {
        keys: user
        for keys in rows
        if (user := found.get(keys[0])) is not None and all(found.get(key) == user for key in keys)
    }


def _apply(
    connection: Connection, account_id: str, records: Sequence[EventRecord], now: float
) -> tuple[list[int], list[int], list[Row]]:
    """Apply records; return their users, those who are new and have no device that moved, and the rows of facts'
    `profile` of those whose devices did."""
    people = People(connection, account_id, now)
    people.load(records)
    users = [people.apply(record) for record in records]
    people.save(sorted(people.created))
    copies = copy_profiles(connection, account_id, sorted(people.moved))
    return users, sorted(people.created - people.moved), copies
