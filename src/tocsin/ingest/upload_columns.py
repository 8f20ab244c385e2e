"""Uploads of many plain records, stored by the columns that files are stored by: events, and profiles of new people.

A record is plain that has no other fields than the documented ones, and no value that is a change or an object. What
is not goes record by record, with the same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from tocsin.account import Account
from tocsin.idempotency import IdempotencyKey
from tocsin.ingest.column import Column, NumberCells, Texts, Unusual, fold
from tocsin.ingest.event_columns import EncodedEvents, EventColumns, store_events
from tocsin.ingest.event_encoder import Encoder
from tocsin.ingest.names import NameLimits
from tocsin.ingest.profile import READERS
from tocsin.ingest.profile_columns import ProfileColumns, store_newcomers
from tocsin.ingest.record import IDENTITY_KINDS, PROPERTIES, RESTRICTED_EVENTS, SPELLINGS, Rejected, read_record
from tocsin.ingest.timestamp import FIRST_TS, LATEST_TS, read_timestamp
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.props import EXACT, encode_raw

MANY = 100  # records of an upload; with fewer, columns cost more than records one by one
EVENT_FIELDS = frozenset(("type", *IDENTITY_KINDS, "ts", "evtName", "evtData"))
PROFILE_FIELDS = frozenset(("type", "identity", "ts", "profileData"))
ABSENT = (None,)  # values that are no property; in a file an empty text is none either

Stored = tuple[list[int], dict[int, Rejected], asyncio.Future[Any]]


async def store_columns(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    raws: Sequence[Any],
    now: float,
    *,
    system: bool,
    key: IdempotencyKey | None,
    limits: NameLimits,
) -> Stored:
    """Store those of an upload's records that columns can hold. Return the places of those that are left, which are
    refused and why, and a future that is done when facts has what the ledger has. Raises Unusual, with nothing stored,
    for what has to go record by record."""
    kinds = {raw.get("type") if isinstance(raw, dict) else None for raw in raws}
    if kinds == {"event"}:
        events, refused = await asyncio.to_thread(_encode_events, raws, now, system)
        copied = await store_events(ledger, facts, account, events, limits, now, key)
        return [], refused, copied
    if kinds == {"profile"}:
        profiles = await asyncio.to_thread(_make_profiles, raws, now)
        left, copied = await store_newcomers(ledger, facts, account, profiles, limits, now)
        return left, {}, copied
    raise Unusual


def _encode_events(raws: Sequence[Any], now: float, system: bool) -> tuple[EncodedEvents, dict[int, Rejected]]:
    """Return the events that are right, and why the others are refused."""
    import pyarrow as pa

    if any(raw.keys() - EVENT_FIELDS for raw in raws):
        raise Unusual
    encoder = Encoder(now, nothing=ABSENT)
    data = [_read_data(raw.get("evtData")) for raw in raws]
    props = _make_props(data, mixed=True)
    keys = {kind: [raw.get(kind) for raw in raws] for kind in IDENTITY_KINDS}
    kept = {kind: make_column(values) for kind, values in keys.items() if any(one is not None for one in values)}
    names = make_column([raw.get("evtName") for raw in raws])
    at = _read_times([raw.get("ts") for raw in raws], now)
    if not kept or not all(map(encoder.takes, props)):
        raise Unusual
    events, doubtful = encoder.encode(EventColumns(range(len(raws)), kept, at, names, props, lambda cell: cell))
    if not system and not RESTRICTED_EVENTS.isdisjoint(events.names.values):
        raise Unusual
    refused = {place: _explain(raws[place], now, system, place) for place in doubtful}
    written = [None if place in refused else _write(one) for place, one in enumerate(data)]
    events = EncodedEvents(
        events.rows, events.keys, events.at, events.names, events.props, pa.array(written, pa.string())
    )
    return (events.leave_out(refused) if refused else events), refused


def _read_data(value: Any) -> dict[str, Any]:
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise Unusual
    return value


def _make_props(data: Sequence[Mapping[str, Any]], *, mixed: bool = False) -> dict[str, Column]:
    names = dict.fromkeys(chain.from_iterable(data))
    if len(names) > PROPERTIES:
        raise Unusual
    return {name: make_column([one.get(name) for one in data], mixed=mixed) for name in names}


def make_column(values: list[Any], *, mixed: bool = False) -> Column:
    """Return JSON values as a column. mixed: 3 may become 3.0 where a column has both kinds of number."""
    import pyarrow as pa

    kinds = {*map(type, values)} - {type(None)}
    if mixed and kinds == {int, float} and all(one is None or -EXACT < one < EXACT for one in values):
        kinds = {float}
    for kind, arrow, cells in (
        (str, pa.string(), Texts),
        (int, pa.int64(), NumberCells),
        (float, pa.float64(), NumberCells),
    ):
        if kinds == {kind}:
            try:
                found, codes = fold(pa.array(values, arrow))
            except (OverflowError, UnicodeEncodeError):
                break
            return Column(cells(found), codes)
    if kinds <= {bool}:
        found, codes = fold(pa.array(values, pa.bool_()))
        return Column(found.to_pylist(), codes)
    return Column(values, pa.array(range(len(values)), pa.int32()))


def _read_times(values: list[Any], now: float) -> Any:
    """Return times as an Arrow array of epoch seconds, null for what is none."""
    import pyarrow as pa

    if {*map(type, values)} == {int} and min(values) >= FIRST_TS and max(values) < LATEST_TS:
        return pa.array(values, pa.int64())
    absent = (one is None or (isinstance(one, str) and not one.strip()) for one in values)
    read = [int(now) if none else read_timestamp(one) for none, one in zip(absent, values, strict=True)]
    return pa.array(read, pa.int64())


def _explain(raw: Any, now: float, system: bool, place: int) -> Rejected:
    try:
        read_record(raw, now, system=system, place=f"$.d[{place}]")
    except Rejected as error:
        return error
    raise Unusual


def _write(data: dict[str, Any]) -> str:
    """Return properties as they are stored, in their own order: the ids of events are made of it."""
    return encode_raw({key: one for key, one in data.items() if one is not None} if None in data.values() else data)


def _make_profiles(raws: Sequence[Any], now: float) -> ProfileColumns:
    """Return profiles; the places of those that are no plain values are in `wrong`, with the names they have."""
    data = [_read_data(raw.get("profileData")) for raw in raws]
    odd = {place for place, raw in enumerate(raws) if not _is_plain(raw, data[place])}
    if len(odd) * 2 > len(raws) or any(raw.keys() - PROFILE_FIELDS for raw in raws):
        raise Unusual
    props = _make_props([_keep_addresses(one) if place in odd else one for place, one in enumerate(data)])
    named = not all(map(SPELLINGS.keys().isdisjoint, data))
    if named or not all(map(Encoder(now, "profile").takes, props)):
        raise Unusual
    identities = make_column([raw.get("identity") for raw in raws])
    return ProfileColumns(identities, props, lambda cell: cell, odd, ABSENT)


def _is_plain(raw: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Return whether a profile has values alone, and no time that may be wrong."""
    ts = raw.get("ts")
    nested = any(isinstance(one, dict | list) for one in data.values())
    return not nested and (ts is None or read_timestamp(ts) is not None)


def _keep_addresses(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: data[key] for key in READERS if isinstance(data.get(key), str | int)}
