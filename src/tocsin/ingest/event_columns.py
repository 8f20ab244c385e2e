"""Events of a file or of a large upload, stored as columns: what is done record by record elsewhere, once for each
value that differs.

Every value is checked and encoded by the functions of `upload`, so ledger and facts are the same. What cannot be done
by columns (a name too many, an opt-out among the events, a store that reads no blocks) raises Unusual with nothing
stored: the caller uploads those records one by one.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec
from sqlalchemy import Connection

from tocsin.account import Account
from tocsin.idempotency import IdempotencyKey, mark_stored
from tocsin.ingest.column import Column, Unusual
from tocsin.ingest.event_people import FoundUsers, admit_names, copy_people, resolve_users
from tocsin.ingest.names import NameLimits
from tocsin.ingest.property_column import PropertyColumn
from tocsin.ingest.record import PROPERTIES
from tocsin.ingest.subscription import UNSUBSCRIBED
from tocsin.store.facts import COLUMNS, Facts
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_account
from tocsin.store.native_block import encode_block, encode_json, encode_numbers, encode_texts

COPIES = 1000  # rows among which an event that is there twice is two, as in one upload
UNESCAPED = r"\A[ -&(-\[\]-~]*\z"  # in RE2; what `repr` writes as it is
NOTHING = (None, "")  # cells of a row that has no such property
QUARTER = 900  # seconds; the offset of a zone never changes inside of one


class EventColumns(msgspec.Struct, frozen=True):
    """Events, one a place in every column. rows: their numbers in what was read, ascending. keys: the identities by
    kind, None or "" where a row has none. at: an Arrow array of epoch seconds. props: of each property its cells, None
    or "" where a row has none; `read_cell` makes the value of one."""

    rows: Sequence[int]
    keys: dict[str, Column]
    at: Any
    names: Column
    props: dict[str, Column]
    read_cell: Callable[[Any], Any]


class EncodedEvents(msgspec.Struct, frozen=True):
    """Events whose cells were checked and encoded; else as `EventColumns`. raws: an Arrow array of the properties of
    each as JSON, None where they are in the order of the columns."""

    rows: Sequence[int]
    keys: dict[str, Column]
    at: Any
    names: Column
    props: dict[str, PropertyColumn]
    raws: Any = None

    def leave_out(self, places: Collection[int]) -> EncodedEvents:
        """Return the events but those at these places."""
        import pyarrow as pa

        rows = [row for place, row in enumerate(self.rows) if place not in places]
        left = pa.array([place for place in range(len(self.rows)) if place not in places], pa.int64())
        keys = {kind: column.select(left) for kind, column in self.keys.items()}
        props = {key: column.select(left) for key, column in self.props.items()}
        raws = None if self.raws is None else self.raws.take(left)
        return EncodedEvents(rows, keys, self.at.take(left), self.names.select(left), props, raws)


async def store_events(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    events: EncodedEvents,
    limits: NameLimits,
    now: float,
    key: IdempotencyKey | None = None,
) -> asyncio.Future[Any]:
    """Store events that an `Encoder` encoded and did not refuse; return when the ledger has them, with a future that is
    done when facts has them too. key: of the request that they are. Raises Unusual, with nothing stored."""
    if (
        not facts.takes_blocks
        or not len(events.rows)
        or len(events.props) > PROPERTIES
        or UNSUBSCRIBED in events.names.values
    ):
        raise Unusual
    stored = await ledger.write(lambda connection: _store(connection, account, events, limits, now, key))
    return asyncio.ensure_future(_copy(facts, account, events, stored))


async def _copy(facts: Facts, account: Account, events: EncodedEvents, found: FoundUsers) -> None:
    copied = asyncio.ensure_future(copy_people(facts, account, found))
    try:
        await facts.insert_block("event", await asyncio.to_thread(make_block, account, events, found.users))
    finally:
        await copied


def _store(
    connection: Connection,
    account: Account,
    events: EncodedEvents,
    limits: NameLimits,
    now: float,
    key: IdempotencyKey | None,
) -> FoundUsers:
    if key is not None:
        mark_stored(connection, key)  # no event counts again
    lock_account(connection, account.id)  # nobody who is known leaves meanwhile
    admit_names(connection, account.id, events.names.values, list_properties(events), limits)
    return resolve_users(connection, account.id, events.keys, now)


def list_properties(events: EncodedEvents) -> list[str]:
    """Return the properties that any of the events has."""
    return [key for key, column in events.props.items() if column.raw.null_count < len(column.raw)]


def make_block(account: Account, events: EncodedEvents, users: Any) -> bytes:
    """Return the events as a block of facts' `event`, with the ids that `upload` would give them."""
    import pyarrow as pa

    count = len(users)
    raws = events.raws
    if raws is None:
        raws = join_pieces([column.spread() for column in events.props.values()], count)
    names = events.names.spread(events.names.values, pa.string())
    ids = make_ids(events, users, raws)
    paths = {name: path for column in events.props.values() for name, path in column.paths.items()}
    columns = {
        "account": encode_texts(pa.array([account.id] * count, pa.string())),
        "name": encode_texts(names),
        "day": encode_numbers(find_days(account, events.at), "Date"),
        "user": encode_numbers(users, "UInt32"),
        "at": encode_numbers(events.at.cast(pa.uint32()), "DateTime('UTC')"),
        "id": encode_numbers(ids, "UInt64"),
        "props": encode_json(paths),
        "raw": encode_texts(raws),
    }
    return encode_block(COLUMNS["event"], [columns[name] for name in COLUMNS["event"]], count)


def join_pieces(pieces: Sequence[Any], count: int) -> Any:
    """Return a JSON object for each row, of the pieces that are not null; each is an Arrow array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pieces:
        return pa.array(["{}"] * count, pa.string())
    some = functools.reduce(pc.or_, (one.is_valid() for one in pieces))
    # A row of nothing but null would get no text at all.
    first = pc.if_else(some, pieces[0], pa.scalar("", pa.string()))
    inside = pc.binary_join_element_wise(first, *pieces[1:], ",", null_handling="skip")
    return pc.binary_join_element_wise("{", inside, "}", "")


def make_ids(events: EncodedEvents, users: Any, raws: Any) -> Any:
    """Return the ids of events as `hash_id` makes them: of user, name, time, properties, and of how many the same were
    before it in its thousand rows. All are Arrow arrays."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = events.names.spread([repr(name) for name in events.names.values], pa.string())
    numbers = [one.cast(pa.string()) for one in (users, events.at)]
    pieces = ("(", numbers[0], ", ", names, ", ", numbers[1], ", ", _write_all(events, raws), ", ", "")
    whats = pc.binary_join_element_wise(*pieces)
    ids = _hash(pc.binary_join_element_wise(whats, "1)", "").cast(pa.binary()).to_pylist())
    if pc.count_distinct(ids).as_py() < len(ids):
        ids = _hash([one.encode() for one in _number(whats.to_pylist(), events.rows)])
    return ids


def _write_all(events: EncodedEvents, raws: Any) -> Any:
    """Return the `repr` of each text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = (pc.all(pc.match_substring_regex(column.raw, UNESCAPED)) for column in events.props.values())
    if all(one.as_py() is not False for one in plain):
        return pc.binary_join_element_wise("'", raws, "'", "")
    return pa.array([repr(one) for one in raws.to_pylist()], pa.string())


def _hash(texts: Sequence[bytes]) -> Any:
    import pyarrow as pa

    digests, copy = [], blake2b(digest_size=8).copy  # a copy is half the price of a new one
    for text in texts:
        one = copy()
        one.update(text)
        digests.append(one.digest())
    return pa.array(struct.unpack(f">{len(texts)}Q", b"".join(digests)), pa.uint64())


def _number(whats: Sequence[str], rows: Sequence[int]) -> list[str]:
    seen: dict[tuple[int, str], int] = {}
    numbered = []
    for row, what in zip(rows, whats, strict=True):
        key = (row // COPIES, what)
        seen[key] = seen.get(key, 0) + 1
        numbered.append(f"{what}{seen[key]})")
    return numbered


def find_days(account: Account, ats: Any) -> Any:
    """Return the day of each time (an Arrow array) in the account's zone, in days since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    zone, first = account.zone, datetime(1970, 1, 1, tzinfo=UTC).toordinal()
    quarters = pc.divide(ats, QUARTER).dictionary_encode()
    days = [
        datetime.fromtimestamp(one * QUARTER, UTC).astimezone(zone).date().toordinal() - first
        for one in quarters.dictionary.to_pylist()
    ]
    return pa.array(days, pa.uint16()).take(quarters.indices)
