"""Profiles of a file or of a large upload, stored as columns: those of people whom nobody knew yet, which is most of a
first import.

A row is such when its identity, address and number are in no other row of its block and in no other profile, so that
it means the same in whatever order. All other rows are left to the caller, who uploads them record by record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection

from tocsin.account import Account
from tocsin.channels import ADDRESS_CHANNELS
from tocsin.ingest.address_column import read_addresses
from tocsin.ingest.column import Column, Texts, Unusual
from tocsin.ingest.event_columns import NOTHING, join_pieces
from tocsin.ingest.event_encoder import PLAIN_NAME, Encoder
from tocsin.ingest.flaw import find_flaw
from tocsin.ingest.identity import find_names
from tocsin.ingest.names import KnownNames, NameLimits
from tocsin.ingest.newcomers import NewCopies, insert_newcomers, make_copies_block
from tocsin.ingest.profile import NEVER, REACHABLE, READERS, UNREACHABLE, find_coordinates, find_zone_name, wants
from tocsin.ingest.property_column import PropertyColumn
from tocsin.ingest.record import BACK, LEFT, PROPERTIES, SPELLINGS, ProfileRecord, Rejected
from tocsin.ingest.subscription import find_groups_left, find_suppressed
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_account

LARGE = 32 * 1024  # bytes of a profile that is stored alone: so many never are too much for one upload
SAMPLE = 500  # identities that say whether most of a block are known


class ProfileColumns(msgspec.Struct, frozen=True):
    """Profiles, one a place in every column. props: the cells of each property, one of `nothing` where a row has none;
    `read_cell` makes the value of one. wrong: places of rows that are not to be stored."""

    identities: Column
    props: dict[str, Column]
    read_cell: Callable[[Any], Any]
    wrong: Collection[int]
    nothing: tuple[Any, ...] = NOTHING


class Newcomers(msgspec.Struct, frozen=True):
    """Profiles that may be new people's, in Arrow arrays. names: by kind the names that they will have, null for none.
    meant: by kind the addresses that their identities are. places: of their rows in the block."""

    places: Any
    names: dict[str, Any]
    meant: dict[str, Any]
    texts: Any
    props: dict[str, PropertyColumn]

    def select(self, chosen: Any) -> Newcomers:
        """Return those for whom an Arrow array says true."""
        import pyarrow.compute as pc

        if pc.all(chosen).as_py():
            return self
        rows = pc.indices_nonzero(chosen)
        names, meant = ({kind: one.take(rows) for kind, one in all.items()} for all in (self.names, self.meant))
        props = {key: column.select(rows) for key, column in self.props.items()}
        return Newcomers(self.places.take(rows), names, meant, self.texts.take(rows), props)


class StoredNewcomers(msgspec.Struct, frozen=True):
    """What the ledger took. suppressed: by platform, the addresses of theirs that get nothing."""

    users: range
    people: Newcomers
    suppressed: dict[str, set[str]]


async def store_newcomers(
    ledger: Ledger, facts: Facts, account: Account, profiles: ProfileColumns, limits: NameLimits, now: float
) -> tuple[list[int], asyncio.Future[Any]]:
    """Store the profiles of people who are new; return the places of all others when the ledger has them, with a future
    that is done when facts has them too. Raises Unusual, with nothing stored, where columns are not worth it."""
    some = [one for one in profiles.identities.values[:SAMPLE] if isinstance(one, str) and not find_flaw(one)]
    known = await ledger.read(lambda connection: find_names(connection, account.id, "identity", some))
    if len(known) * 2 > len(some) or not facts.takes_blocks:
        raise Unusual
    people = await asyncio.to_thread(find_newcomers, profiles, now)
    stored = await ledger.write(lambda connection: _store(connection, account, people, limits, now))
    left = sorted({*range(len(profiles.identities))}.difference(stored.people.places.to_pylist()))
    return left, asyncio.ensure_future(_copy(facts, account, stored))


async def _copy(facts: Facts, account: Account, stored: StoredNewcomers) -> None:
    if stored.users:
        copies = await asyncio.to_thread(_make_copies, stored)
        await facts.insert_block("profile", make_copies_block(account.id, stored.users, copies))


def find_newcomers(profiles: ProfileColumns, now: float) -> Newcomers:
    """Return the rows that are right and name nobody who is in another row. Raises Unusual for names beside the
    identity, and for properties that are more than values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoder = Encoder(now, "profile", profiles.nothing)
    if len(profiles.props) > PROPERTIES or not profiles.props.keys().isdisjoint((LEFT, BACK, *SPELLINGS)):
        raise Unusual
    props, fine = encoder.encode_properties(profiles.props, profiles.read_cell)
    identities = profiles.identities.change_odd(PLAIN_NAME, lambda cell: _read_name(encoder, cell))
    names = {"identity": identities.spread(identities.values, pa.string())}
    for key in READERS.keys() & profiles.props.keys():
        column = profiles.props[key]
        names[key] = column.spread(read_addresses(key, column.values, profiles.read_cell), pa.string())
    meant = {key: _find_meant(key, names["identity"], names.get(key)) for key in READERS}
    places = pa.array(range(len(profiles.identities)), pa.int64())
    texts = join_pieces([column.spread() for column in props.values()], len(places))
    fine = pc.and_(fine, names["identity"].is_valid())
    fine = pc.and_(fine, pc.less_equal(pc.binary_length(texts), LARGE))
    fine = pc.and_not(fine, pc.is_in(places, pa.array(list(profiles.wrong), pa.int64())))
    people = Newcomers(places, names, meant, texts, props)
    return people.select(pc.and_not(fine, _are_named(people, _find_repeated(people))))


def _read_name(encoder: Encoder, cell: Any) -> str | None:
    found = encoder.read_text("identity", cell)
    return found if isinstance(found, str) else None


def _find_meant(key: str, identities: Any, own: Any) -> Any:
    """Return the address that each identity is (see `address_keys`), null for none and for the person's own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nothing = pa.scalar(None, pa.string())
    is_one = pc.match_substring(identities, "@") if key == "Email" else pc.starts_with(identities, "+")
    if not pc.any(is_one).as_py():
        return pa.nulls(len(identities), pa.string())
    found = read_addresses(key, Texts(pc.if_else(is_one, identities, nothing)), lambda cell: cell)
    return found if own is None else pc.if_else(pc.fill_null(pc.equal(found, own), False), nothing, found)


def _find_repeated(people: Newcomers) -> dict[str, Any]:
    """Return by kind the names that are of several rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    repeated = {}
    for kind in people.names.keys() | people.meant.keys():
        given = [some[kind] for some in (people.names, people.meant) if kind in some]
        counted = pc.value_counts(pa.concat_arrays(given).drop_null())
        repeated[kind] = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    return repeated


def _are_named(people: Newcomers, names: Mapping[str, Any]) -> Any:
    """Return for each of them whether one of these names, by kind, is theirs or meant by them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: Any = pa.repeat(pa.scalar(False), len(people.places))
    for kind, values in names.items():
        for some in (people.names, people.meant):
            if kind in some:
                found = pc.or_(found, pc.is_in(some[kind], values))
    return found


def _store(
    connection: Connection, account: Account, people: Newcomers, limits: NameLimits, now: float
) -> StoredNewcomers:
    """Insert those whom nobody knows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lock_account(connection, account.id)
    known: dict[str, list[str]] = {}
    for kind in people.names.keys() | people.meant.keys():
        values = [one for some in (people.names, people.meant) if kind in some for one in _list(some[kind])]
        known[kind] = [*find_names(connection, account.id, kind, values)] if values else []
    emails = _list(people.names["Email"]) if "Email" in people.names else []
    known["Email"] += find_groups_left(connection, account.id, emails)  # their copies are more than their profiles
    new = people.select(pc.invert(_are_named(people, {k: pa.array(v, pa.string()) for k, v in known.items()})))
    if not len(new.places):
        return StoredNewcomers(range(0), new, {})
    _admit_names(connection, account, new, limits)
    names = {kind: one.to_pylist() for kind, one in new.names.items()}
    users = insert_newcomers(connection, account.id, new.texts.to_pylist(), names, now)
    suppressed: dict[str, set[str]] = {
        one.platforms[0]: find_suppressed(connection, account.id, one, [name for name in names[one.property] if name])
        for one in ADDRESS_CHANNELS
        if one.property in names
    }
    return StoredNewcomers(users, new, suppressed)


def _list(array: Any) -> list[str]:
    found: list[str] = array.drop_null().to_pylist()
    return found


def _admit_names(connection: Connection, account: Account, people: Newcomers, limits: NameLimits) -> None:
    """Insert the new names of properties. Raises Unusual when there would be too many of them."""
    present = {key: 0 for key, column in people.props.items() if column.raw.null_count < len(column.raw)}
    names = KnownNames(connection, account.id, [ProfileRecord(keys={}, at=0, changes=present)], limits)
    try:
        names.admit(0)
    except Rejected:
        raise Unusual from None
    names.save()


def _make_copies(stored: StoredNewcomers) -> NewCopies:
    """Return what facts' copies say of new people, as `make_copies` does."""
    import pyarrow as pa
    import pyarrow.compute as pc

    people = stored.people
    reach: dict[str, Any] = {}
    for channel in ADDRESS_CHANNELS:
        if channel.property in people.names:
            addresses, platform = people.names[channel.property], channel.platforms[0]
            refused = pc.is_in(addresses, pa.array(stored.suppressed[platform], pa.string()))
            for key in people.props.keys() & channel.consent:
                said = [one is None or wants({key: one}, channel) for one in people.props[key].read_values(key)]
                refused = pc.or_(refused, pc.invert(pa.array(said, pa.bool_()).take(people.props[key].codes)))
            known = pc.if_else(refused, pa.scalar(UNREACHABLE, pa.uint8()), pa.scalar(REACHABLE, pa.uint8()))
            reach[platform] = pc.if_else(addresses.is_valid(), known, pa.scalar(NEVER, pa.uint8()))
    paths = {name: path for column in people.props.values() for name, path in column.paths.items()}
    return NewCopies(reach, _find_coordinates(people.props), _find_zones(people.props), paths)


def _find_coordinates(props: Mapping[str, PropertyColumn]) -> tuple[Any, Any] | None:
    import pyarrow as pa

    given = [_spread_values(props, key) for key in ("Latitude", "Longitude")]
    if None in given:
        return None
    places = [find_coordinates({"Latitude": one, "Longitude": two}) for one, two in zip(*given, strict=True)]
    return pa.array([one for one, _ in places], pa.float32()), pa.array([two for _, two in places], pa.float32())


def _find_zones(props: Mapping[str, PropertyColumn]) -> Any:
    import pyarrow as pa

    zones = _spread_values(props, "Tz")
    return None if zones is None else pa.array([find_zone_name({"Tz": one}) for one in zones], pa.string())


def _spread_values(props: Mapping[str, PropertyColumn], key: str) -> list[Any] | None:
    """Return a property of each of them; None when nobody has it."""
    if key not in props:
        return None
    values = props[key].read_values(key)
    return [values[code] for code in props[key].codes.to_pylist()]
