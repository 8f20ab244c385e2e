"""Events of a file, stored as columns: what `upload` does record by record, done once for each value that differs.

Every value is checked and encoded by the functions of `upload`, so ledger and facts are the same. What cannot be done
by columns (a name too many, an opt-out among the events) raises Unusual with nothing stored: the caller uploads those
records one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection

from tocsin.account import Account
from tocsin.ingest.names import KnownNames, NameLimits
from tocsin.ingest.people import People
from tocsin.ingest.profile_copy import copy_profiles, make_empty_copies
from tocsin.ingest.record import IDENTITY_KINDS, PROPERTIES, EventRecord, Rejected
from tocsin.ingest.subscription import UNSUBSCRIBED
from tocsin.store.facts import Facts, Row
from tocsin.store.ledger import Ledger

if TYPE_CHECKING:
    from tocsin.ingest.event_encoder import Encoder

COPIES = 1000  # rows among which an event that is there twice is two, as in one upload
NOTHING = frozenset((None, ""))  # cells of a row that has no such property
QUARTER = 900  # seconds; the offset of a zone never changes inside of one


class Unusual(Exception):  # noqa: N818 - no failure: these events go record by record
    """A block cannot be stored as columns."""


class EventColumns(msgspec.Struct, frozen=True):
    """Events, one a place in every column. rows: their numbers in what was read, ascending. keys: the identities by
    kind, None where a row has none. at: epoch seconds. props: the cells of each property, None or "" where a row has
    none; `read_cell` makes the value of one."""

    rows: Sequence[int]
    keys: dict[str, Sequence[Any]]
    at: Sequence[Any]
    names: Sequence[Any]
    props: dict[str, Sequence[Any]]
    read_cell: Callable[[Any], Any]

    def select(self, places: Sequence[int]) -> EventColumns:
        """Return the events at these places."""

        def some(column: Sequence[Any]) -> list[Any]:
            return [column[place] for place in places]

        keys: dict[str, Sequence[Any]] = {kind: some(column) for kind, column in self.keys.items()}
        props: dict[str, Sequence[Any]] = {key: some(column) for key, column in self.props.items()}
        return EventColumns(some(self.rows), keys, some(self.at), some(self.names), props, self.read_cell)


class StoredEvents(msgspec.Struct, frozen=True):
    """What the ledger took: the user of each event, and rows of facts' `profile`."""

    users: list[int]
    copies: list[Row]


async def store_events(
    ledger: Ledger, facts: Facts, account: Account, events: EventColumns, limits: NameLimits, encoder: Encoder
) -> asyncio.Future[Any]:
    """Store events that `find_refused` did not name; return when the ledger has them, with a future that is done when
    facts has them too. Raises Unusual, with nothing stored."""
    found = await asyncio.to_thread(_read_identities, encoder, events)
    stored = await ledger.write(lambda connection: _store(connection, account, events, found, limits, encoder.now))
    rows = await asyncio.to_thread(make_rows, account, events, stored.users, encoder)
    return asyncio.gather(facts.insert_arrow("event", rows), facts.insert("profile", stored.copies))


def _read_identities(encoder: Encoder, events: EventColumns) -> dict[str, list[str | None]]:
    if len(events.props) > PROPERTIES or UNSUBSCRIBED in set(events.names):
        raise Unusual
    return {kind: encoder.read_identities(kind, column) for kind, column in events.keys.items()}


def _store(
    connection: Connection,
    account: Account,
    events: EventColumns,
    found: dict[str, list[str | None]],
    limits: NameLimits,
    now: float,
) -> StoredEvents:
    people = People(connection, account.id, now)
    rows = _combine(found)
    different = rows if len(found) > 1 else list(dict.fromkeys(rows))
    records = [EventRecord(keys=dict(keys), at=0, name="", props={}) for keys in different]
    people.load(records)
    _admit_names(connection, account, events, limits)
    try:
        users = [people.apply(record) for record in records]
    except Rejected:
        raise Unusual from None
    created = sorted(people.created)
    people.save(created)
    copies = [
        *copy_profiles(connection, account.id, sorted(people.moved)),
        *make_empty_copies(account.id, sorted(people.created - people.moved)),
    ]
    if different is not rows:
        by_keys = dict(zip(different, users, strict=True))
        users = [by_keys[keys] for keys in rows]
    return StoredEvents(users, copies)


def _combine(found: dict[str, list[str | None]]) -> list[tuple[tuple[str, str], ...]]:
    """Return the identities of each row, in the order in which a record has them."""
    kinds = [kind for kind in IDENTITY_KINDS if kind in found]
    if len(kinds) == 1:
        kind = kinds[0]
        return [((kind, value),) for value in found[kind] if value is not None]
    columns = [found[kind] for kind in kinds]
    return [
        tuple((kind, value) for kind, value in zip(kinds, values, strict=True) if value is not None)
        for values in zip(*columns, strict=True)
    ]


def _admit_names(connection: Connection, account: Account, events: EventColumns, limits: NameLimits) -> None:
    """Insert the new names of the events. Raises Unusual when there would be too many of them."""
    present = {key: 0 for key, column in events.props.items() if not set(column) <= NOTHING}
    records = [EventRecord(keys={}, at=0, name=name, props=present) for name in dict.fromkeys(events.names)]
    names = KnownNames(connection, account.id, records, limits)
    try:
        for place in range(len(records)):
            names.admit(place)
    except Rejected:
        raise Unusual from None
    names.save()


def make_rows(account: Account, events: EventColumns, users: Sequence[int], encoder: Encoder) -> Any:
    """Return the events as an Arrow table of facts' `event`, with the ids that `upload` would give them."""
    import pyarrow as pa

    count = len(users)
    cells = [
        list(map(encoder.read_cells(key, column, events.read_cell).__getitem__, column))
        for key, column in events.props.items()
    ]
    raws = _join([[one[0] for one in column] for column in cells], count)
    props = _join([[one[1] for one in column] for column in cells], count)
    ids = make_ids(events, users, raws)
    return pa.table(
        {
            "account": pa.array([account.id] * count, pa.string()),
            "name": pa.array(events.names, pa.string()),
            "day": pa.array(find_days(account, events.at), pa.uint16()),
            "user": pa.array(users, pa.uint32()),
            "at": pa.array(events.at, pa.uint32()),
            "id": pa.array(ids, pa.uint64()),
            "props": pa.array(props, pa.string()),
            "raw": pa.array(raws, pa.string()),
        }
    )


def _join(columns: list[list[str]], count: int) -> list[str]:
    """Return a JSON object for each row, of the pieces that are not empty."""
    if not columns:
        return ["{}"] * count
    if all("" not in column for column in columns):
        return [f"{{{','.join(pieces)}}}" for pieces in zip(*columns, strict=True)]
    return [f"{{{','.join(filter(None, pieces))}}}" for pieces in zip(*columns, strict=True)]


def make_ids(events: EventColumns, users: Sequence[int], raws: Sequence[str]) -> list[int]:
    """Return the ids of events as `hash_id` makes them: of user, name, time, properties, and of how many the same were
    before it in its thousand rows."""
    whats = [
        f"({user}, {name!r}, {at}, {raw!r}, "
        for user, name, at, raw in zip(users, events.names, events.at, raws, strict=True)
    ]
    different = len(set(whats)) == len(whats)
    numbered = [f"{what}1)" for what in whats] if different else _number(whats, events.rows)
    return [int.from_bytes(blake2b(one.encode(), digest_size=8).digest(), "big") for one in numbered]


def _number(whats: Sequence[str], rows: Sequence[int]) -> list[str]:
    seen: dict[tuple[int, str], int] = {}
    numbered = []
    for row, what in zip(rows, whats, strict=True):
        key = (row // COPIES, what)
        seen[key] = seen.get(key, 0) + 1
        numbered.append(f"{what}{seen[key]})")
    return numbered


def find_days(account: Account, ats: Collection[int]) -> list[int]:
    """Return the day of each time in the account's zone, in days since 1970."""
    zone, first = account.zone, datetime(1970, 1, 1, tzinfo=UTC).toordinal()
    quarters = [at // QUARTER for at in ats]
    days = {
        one: datetime.fromtimestamp(one * QUARTER, UTC).astimezone(zone).date().toordinal() - first
        for one in set(quarters)
    }
    return [days[one] for one in quarters]
