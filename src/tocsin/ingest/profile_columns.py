"""Profiles of a file, stored as columns: those of people whom nobody knew yet, which is most of a first import.

A row is such when its identity, address and number are in no other row of its block and in no other profile, so that
it means the same in whatever order. All other rows are left to the caller, who uploads them record by record.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from sqlalchemy import Connection

from tocsin.account import Account
from tocsin.channels import ADDRESS_CHANNELS, CHANNELS
from tocsin.ingest.column import Column
from tocsin.ingest.event_columns import NOTHING, Unusual, join_pieces
from tocsin.ingest.event_encoder import PLAIN_NAME, WRONG, Encoder
from tocsin.ingest.identity import IdentityKey, address_keys, find_users
from tocsin.ingest.names import KnownNames, NameLimits
from tocsin.ingest.newcomers import insert_newcomers
from tocsin.ingest.profile import READERS
from tocsin.ingest.profile_copy import make_copies
from tocsin.ingest.record import BACK, LEFT, PROPERTIES, SPELLINGS, ProfileRecord, Rejected
from tocsin.store.facts import Facts, Row
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_account

LARGE = 32 * 1024  # letters of a profile that is stored alone: so many never are too much for one upload
# Properties that the copy of a profile has columns for.
COPIED = {"Latitude", "Longitude", "Tz", *(name for one in CHANNELS.values() for name in one.consent)} | {
    one.property for one in ADDRESS_CHANNELS
}


class ProfileColumns(msgspec.Struct, frozen=True):
    """Profiles, one a place in every column. props: the cells of each property, None or "" where a row has none;
    `read_cell` makes the value of one. wrong: places of rows that are refused already."""

    identities: Column
    props: dict[str, Column]
    read_cell: Callable[[Any], Any]
    wrong: Collection[int]


class _Newcomer(msgspec.Struct, frozen=True):
    """A profile that may be a new person's. names: what may name them. linked: those of them that will."""

    place: int
    names: list[IdentityKey]
    linked: list[IdentityKey]
    text: str
    facts: str
    copied: dict[str, Any]


async def store_newcomers(
    ledger: Ledger, facts: Facts, account: Account, profiles: ProfileColumns, limits: NameLimits, now: float
) -> tuple[list[int], asyncio.Future[Any]]:
    """Store the profiles of people who are new; return the places of all others when the ledger has them, with a future
    that is done when facts has them too. Raises Unusual, with nothing stored, where columns are not worth it."""
    identities = [("identity", one) for one in profiles.identities.values if isinstance(one, str)]
    known = await ledger.read(lambda connection: find_users(connection, account.id, identities))
    if len(known) * 2 > len(identities) or not SPELLINGS.keys().isdisjoint(profiles.props):
        raise Unusual
    people = await asyncio.to_thread(_find_newcomers, profiles, now)
    stored, copies = await ledger.write(lambda connection: _store(connection, account, people, limits, now))
    left = sorted({*range(len(profiles.identities))} - stored)
    return left, asyncio.ensure_future(facts.insert("profile", copies))


def _find_newcomers(profiles: ProfileColumns, now: float) -> list[_Newcomer]:
    """Return the rows that are right and name nobody who is in another row."""
    encoder = Encoder(now, "profile")
    if len(profiles.props) > PROPERTIES or not profiles.props.keys().isdisjoint((LEFT, BACK)):
        raise Unusual
    props = {key: encoder.encode_cells(key, one, profiles.read_cell) for key, one in profiles.props.items()}
    count = len(profiles.identities)
    odd = {*profiles.wrong}
    for column in props.values():
        if any(cell is WRONG for cell in column.values):
            odd.update(place for place, cell in enumerate(column) if cell is WRONG)
    texts, facts = (_join(list(props.values()), place, count) for place in (0, 1))
    copied = [list(column.change(_decode)) for key, column in props.items() if key in COPIED]
    addresses = {key: _read_addresses(profiles, key) for key in READERS if key in profiles.props}
    people = []
    identities = profiles.identities.change_odd(PLAIN_NAME, lambda cell: encoder.read_text("identity", cell))
    for place, name in enumerate(identities):
        if name is None or name is WRONG:
            odd.add(place)
            continue
        linked = [("identity", name), *((kind, column[place]) for kind, column in addresses.items() if column[place])]
        names = list(dict.fromkeys((*linked, *address_keys(name))))
        own = {key: value for column in copied for key, value in column[place].items()}
        people.append(_Newcomer(place, names, linked, texts[place], facts[place], own))
    times = Counter(name for one in people for name in one.names)
    return [
        one
        for one in people
        if one.place not in odd and len(one.text) <= LARGE and all(times[name] == 1 for name in one.names)
    ]


def _join(columns: list[Column], place: int, count: int) -> list[str]:
    """Return a JSON object for each row, of what stands at `place` of the cells."""
    import pyarrow as pa

    pieces = [column.spread([cell[place] or None for cell in column.values], pa.string()) for column in columns]
    texts: list[str] = join_pieces(pieces, count).to_pylist()
    return texts


def _decode(cell: tuple[str, str | None]) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(f"{{{cell[0]}}}")
    return found


def _read_addresses(profiles: ProfileColumns, key: str) -> list[str]:
    read = READERS[key]
    return list(profiles.props[key].change(lambda cell: "" if cell in NOTHING else read(profiles.read_cell(cell))))


def _store(
    connection: Connection, account: Account, people: list[_Newcomer], limits: NameLimits, now: float
) -> tuple[set[int], list[Row]]:
    """Insert those whom nobody knows; return their places and the rows of their copies."""
    lock_account(connection, account.id)
    known = find_users(connection, account.id, [name for one in people for name in one.names])
    new = [one for one in people if known.keys().isdisjoint(one.names)]
    if not new:
        return set(), []
    _admit_names(connection, account, new, limits)
    texts, names = [one.text for one in new], [one.linked for one in new]
    users = insert_newcomers(connection, account.id, texts, names, now)
    profiles = [(user, 1, one.copied) for user, one in zip(users, new, strict=True)]
    encoded = {user: one.facts for user, one in zip(users, new, strict=True)}
    return {one.place for one in new}, make_copies(connection, account.id, profiles, {}, encoded)


def _admit_names(connection: Connection, account: Account, people: list[_Newcomer], limits: NameLimits) -> None:
    """Insert the new names of properties. Raises Unusual when there would be too many of them."""
    present = {key: 0 for one in people for key in msgspec.json.decode(one.text)}
    names = KnownNames(connection, account.id, [ProfileRecord(keys={}, at=0, changes=present)], limits)
    try:
        names.admit(0)
    except Rejected:
        raise Unusual from None
    names.save()
