"""The names of an account's events and properties. Each costs every account memory and files of the facts store, so
their number is bounded: a record with a name too many is refused."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, bindparam, func, insert, select

from tocsin.ingest.record import (
    RESERVED,
    RESTRICTED_EVENTS,
    EventRecord,
    ProfileRecord,
    Record,
    Rejected,
    is_operation,
)
from tocsin.policy import load_policy
from tocsin.settings import Settings
from tocsin.store import schema
from tocsin.store.props import list_names
from tocsin.store.rows import among_named, pack_values

Name = tuple[str, str]  # (kind, name)

# The kinds of names, which are the fields of `NameLimits` → (code, start of the sentence, of what there are too many).
# CleverTap's registry: 522 is «Event properties limit exceeded», 528 «Discarded event».
KINDS = {
    "event_names": (528, "Event Name is incorrect.", "events"),
    "event_properties": (522, "Event data is incorrect.", "properties of events"),
    "profile_properties": (522, "Profile data is incorrect.", "properties of profiles"),
}
SHOWN = 80  # letters of a name in a sentence

table = schema.known_name


class NameLimits(msgspec.Struct, frozen=True):
    """How many names an account may have, where its own policy does not say."""

    event_names: int
    event_properties: int
    profile_properties: int


def read_limits(settings: Settings) -> NameLimits:
    """Return the limits of the settings."""
    return NameLimits(*(getattr(settings, kind) for kind in NameLimits.__struct_fields__))


DEFAULT_LIMITS = read_limits(Settings())


class KnownNames:
    """The names of one account while an upload is stored: those of its records that are known, and the new ones.
    share: the part of the limits that may be used up."""

    def __init__(
        self,
        connection: Connection,
        account_id: str,
        records: Sequence[Record],
        limits: NameLimits,
        share: float = 1.0,
    ):
        self._connection = connection
        self._account = account_id
        self._limits = limits
        self._share = share
        self._counts: Counter[str] | None = None
        self._new: list[Name] = []
        self._names = _list_all(records)
        wanted = {name for names in set(self._names) for _, name in names}
        asked = {"account": account_id, "wanted": pack_values(connection, wanted)}
        rows = connection.execute(_select_known(connection.dialect.name), asked) if wanted else ()
        self._known: set[Name] = {(kind, name) for kind, name in rows}

    def admit(self, place: int) -> None:
        """Note the new names of the record at a place. Raise Rejected when the account would have too many."""
        if self._known.issuperset(self._names[place]):
            return
        new = [one for one in dict.fromkeys(self._names[place]) if one not in self._known]
        counts = self._count()
        for kind, more in Counter(kind for kind, _ in new).items():
            limit = int(getattr(self._limits, kind) * self._share)
            if counts[kind] + more > limit:
                code, start, what = KINDS[kind]
                first = next(name for one, name in new if one == kind)[:SHOWN]
                raise Rejected(
                    code, f"{start} {first} is a new name; {counts[kind]} of {limit} names of {what} are in use."
                )
        counts.update(kind for kind, _ in new)
        self._known.update(new)
        self._new += new

    def save(self) -> None:
        """Insert the new names. The caller has locked the account."""
        if self._new:
            rows = [{"account_id": self._account, "kind": kind, "name": name} for kind, name in self._new]
            self._connection.execute(insert(table), rows)

    def _count(self) -> Counter[str]:
        """Return how many names of each kind there are. The account's own limits are looked up with them."""
        if self._counts is None:
            mine = select(table.c.kind, func.count()).where(table.c.account_id == self._account).group_by(table.c.kind)
            self._counts = Counter(dict(map(tuple, self._connection.execute(mine))))
            own = load_policy(self._connection, self._account).limits
            given = {kind: getattr(own, kind) for kind in KINDS if getattr(own, kind) is not None}
            self._limits = msgspec.structs.replace(self._limits, **given)
        return self._counts


def _list_all(records: Sequence[Record]) -> list[tuple[Name, ...]]:
    """Return the names of each record. Most records of an upload have the same keys, and are looked at once."""
    by_keys: dict[tuple[str, ...], tuple[Name, ...]] = {}
    found: list[tuple[Name, ...]] = []
    for record in records:
        name = ""  # which no event has
        data: Mapping[str, Any] = {}
        if isinstance(record, EventRecord):
            name, data = record.name, record.props
        elif isinstance(record, ProfileRecord):
            data = record.changes
        if not _NESTED.isdisjoint(map(type, data.values())):
            found.append(tuple(names_of(record)))
            continue
        keys = (name, *data)
        names = by_keys.get(keys)
        if names is None:
            names = by_keys[keys] = tuple(names_of(record))
        found.append(names)
    return found


_NESTED = {dict, list}


def names_of(record: Record) -> Iterator[Name]:
    """Yield the names that storing a record needs. Those of the system are always there."""
    if isinstance(record, EventRecord):
        if record.name not in RESTRICTED_EVENTS:
            yield "event_names", record.name
        for name in list_names(record.props):
            yield "event_properties", name
    elif isinstance(record, ProfileRecord):
        for name in list_names(_leave_out_operations(record.changes)):
            if name not in RESERVED:
                yield "profile_properties", name


def _leave_out_operations(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the changes with None for operations, and without those that only take away."""
    if not any(isinstance(value, dict) for value in changes.values()):
        return changes
    return {
        key: None if is_operation(value) else value
        for key, value in changes.items()
        if not (is_operation(value) and ("$delete" in value or "$remove" in value))
    }


@functools.cache
def _select_known(dialect: str) -> Select[Any]:
    mine = table.c.account_id == bindparam("account")
    return select(table.c.kind, table.c.name).where(mine, among_named(dialect, table.c.name, "wanted"))
