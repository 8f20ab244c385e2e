"""Stage 1 of 7, ingest: profiles, events and device tokens are checked and stored, in the ledger and in facts."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.errors import Problem, forget_frames
from tocsin.idempotency import IdempotencyKey, mark_stored
from tocsin.ingest.column import Unusual
from tocsin.ingest.flaw import to_shown
from tocsin.ingest.names import DEFAULT_LIMITS, KnownNames, NameLimits
from tocsin.ingest.people import People
from tocsin.ingest.profile import to_facts
from tocsin.ingest.profile_copy import bump_versions, copy_profiles
from tocsin.ingest.record import EventRecord, ProfileRecord, Record, Rejected, TokenRecord, drop_increments, read_record
from tocsin.ingest.subscription import (
    AddressChange,
    apply_address_changes,
    find_event_changes,
    find_users_with_addresses,
    is_unsubscribed,
    take_back,
)
from tocsin.ingest.subscription_group import come_back
from tocsin.ingest.upload_columns import MANY, store_columns
from tocsin.providers.wns import is_allowed
from tocsin.store import schema
from tocsin.store.facts import Facts, Row
from tocsin.store.ledger import Ledger
from tocsin.store.props import encode_props, encode_raw

RECORDS = 1000  # of one upload, as CleverTap documents


class UploadResult(msgspec.Struct, frozen=True):
    """The documented answer of an upload. status: success, partial or fail. Each of `unprocessed` is {status, code,
    error, record}; `numbers` says which of `d` they are, from 0."""

    status: str
    processed: int
    unprocessed: list[dict[str, Any]]
    numbers: list[int]


class _StoredUpload(msgspec.Struct, frozen=True):
    """What the ledger took of an upload. records: those that were not refused, with their `users`. copies: rows of
    facts' `profile`. refused: by the place among the records given. changes: of addresses, which others may have."""

    records: list[Record]
    users: list[int]
    copies: list[Row]
    refused: dict[int, Rejected]
    changes: list[AddressChange]


async def upload(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    body: Any,
    now: float,
    *,
    dry_run: bool = False,
    system: bool = False,
    key: IdempotencyKey | None = None,
    limits: NameLimits = DEFAULT_LIMITS,
) -> UploadResult:
    """Store the records of `{"d": [...]}` and return how many were processed and which were not.

    Returns when both stores have the records. A repeat after a failure completes what is missing; only `$incr`/`$decr`
    and events without `ts` would count twice, and under a `key` those do not either. `dry_run` only checks. `system`
    permits the restricted events. limits: of names, where the account's policy does not say.

    Raise Problem 400 when the body is not an object with a list `d` of at most RECORDS. A wrong record is reported in
    `unprocessed`; the others are stored.
    """
    given = {"dry_run": dry_run, "system": system, "key": key, "limits": limits}
    result, copied = await start_upload(ledger, facts, account, body, now, **given)  # type: ignore[arg-type]
    await copied
    return result


async def start_upload(
    ledger: Ledger,
    facts: Facts,
    account: Account,
    body: Any,
    now: float,
    *,
    dry_run: bool = False,
    system: bool = False,
    key: IdempotencyKey | None = None,
    limits: NameLimits = DEFAULT_LIMITS,
) -> tuple[UploadResult, asyncio.Future[Any]]:
    """Do what `upload` does, but return when the ledger has the records, with a future that is done when facts has them
    too: a caller with more of them goes on meanwhile."""
    raws = _read_list(body)
    left: Sequence[int] = range(len(raws))
    skipped, copied = dict[int, Rejected](), list[asyncio.Future[Any]]()
    if len(raws) >= MANY and not dry_run:
        given = (ledger, facts, account, raws, now)
        with suppress(Unusual):
            left, skipped, stored = await store_columns(*given, system=system, key=key, limits=limits)
            copied.append(stored)
    if left:
        numbered = {number: raws[number] for number in left}
        records, refused = await asyncio.to_thread(_read_records, ledger, account, numbered, now, system)
        if records and not dry_run:
            good = list(records.values())
            taken = await ledger.write(lambda connection: _store(connection, account, good, now, key, limits))
            numbers = list(records)
            refused |= {numbers[place]: error for place, error in taken.refused.items()}
            copied.append(asyncio.ensure_future(_copy(ledger, facts, account, taken)))
        skipped |= refused
    unprocessed = [_describe(raws[number], number, skipped[number]) for number in sorted(skipped)]
    processed = len(raws) - len(skipped)
    status = "success" if not skipped else "partial" if processed else "fail"
    return UploadResult(status, processed, unprocessed, sorted(skipped)), asyncio.gather(*copied)


async def _copy(ledger: Ledger, facts: Facts, account: Account, stored: _StoredUpload) -> None:
    events = await asyncio.to_thread(_event_rows, account, stored.records, stored.users)
    await asyncio.gather(facts.insert("event", events), facts.insert("profile", stored.copies))
    await refresh_sharers(ledger, facts, account.id, stored.changes)


async def refresh_profiles(ledger: Ledger, facts: Facts, account_id: str, users: Sequence[int]) -> None:
    """Copy these users to the facts store again, under a new version, after their devices or consent changed."""

    def copy(connection: Connection) -> list[Row]:
        bump_versions(connection, account_id, users)
        return copy_profiles(connection, account_id, users)

    if users:
        await facts.insert("profile", await ledger.write(copy))


async def refresh_sharers(
    ledger: Ledger, facts: Facts, account_id: str, changes: Sequence[AddressChange]
) -> dict[int, list[AddressChange]]:
    """Copy everybody who has one of these addresses to the facts store again, so that an estimate knows what a claim
    does. Return them, with what concerns each."""
    sharers = await find_users_with_addresses(facts, account_id, changes) if changes else {}
    await refresh_profiles(ledger, facts, account_id, sorted(sharers))
    return sharers


def _read_list(body: Any) -> list[Any]:
    if not isinstance(body, dict) or not isinstance(body.get("d"), list):
        raise Problem("Malformed request: the body must be an object with a list d (at $.d)")
    raws: list[Any] = body["d"]
    if len(raws) > RECORDS:
        raise Problem(f"d has {len(raws)} records; at most {RECORDS} are allowed (at $.d)")
    return raws


def _read_records(
    ledger: Ledger, account: Account, raws: Mapping[int, Any], now: float, system: bool
) -> tuple[dict[int, Record], dict[int, Rejected]]:
    """Return the records that are right, and what is wrong with the others. All are by their number from 0."""
    records: dict[int, Record] = {}
    skipped: dict[int, Rejected] = {}
    origin: str | None = None
    for number, raw in raws.items():
        try:
            record = read_record(raw, now, system=system, place=f"$.d[{number}]")
            if isinstance(record, TokenRecord) and record.kind == "wns":
                origin = _wns_origin(ledger, account) if origin is None else origin
                if not is_allowed(record.token, origin):
                    raise Rejected(535, "Token data is incorrect. id is not a channel of notify.windows.com.")
            records[number] = record
        except Rejected as error:
            skipped[number] = forget_frames(error)
    return records, skipped


def _describe(raw: Any, number: int, error: Rejected) -> dict[str, Any]:
    """Return a record that was skipped, as the answer shows it."""
    # CleverTap's recorded answers have no space here after a profile's sentence, and one after any other.
    space = "" if error.error.startswith("Profile data is incorrect.") else " "
    text = f"{error.error}{space}Skipped record number : {number + 1}"
    return {"status": "fail", "code": error.code, "error": text, "record": to_shown(raw)}


def _wns_origin(ledger: Ledger, account: Account) -> str:
    """Return where the account's WNS provider sends to; "" for Microsoft's own hosts."""
    table = schema.provider

    def read(connection: Connection) -> str | None:
        return connection.scalar(
            select(table.c.settings).where(table.c.account_id == account.id, table.c.name == "wns")
        )

    found = ledger.read_now(read)
    return str(msgspec.json.decode(found).get("endpoint", "")).rstrip("/") if found else ""


def _store(
    connection: Connection,
    account: Account,
    records: Sequence[Record],
    now: float,
    key: IdempotencyKey | None,
    limits: NameLimits,
) -> _StoredUpload:
    if key is not None and mark_stored(connection, key):
        records = [drop_increments(record) for record in records]
    people = People(connection, account.id, now)
    people.load(records)
    names = KnownNames(connection, account.id, records, limits)
    taken: list[Record] = []
    users: list[int] = []
    refused: dict[int, Rejected] = {}
    for place, record in enumerate(records):
        try:
            names.admit(place)
            users.append(people.apply(record))
            taken.append(record)
        except Rejected as error:
            refused[place] = forget_frames(error)
    names.save()
    changed = [
        user
        for user, record in zip(users, taken, strict=True)
        if not isinstance(record, EventRecord) or user in people.created
    ]
    opted_out = [user for user, record in zip(users, taken, strict=True) if is_unsubscribed(record)]
    people.save([*changed, *opted_out])
    changes = take_back(connection, account.id, people.returned)
    changes += find_event_changes(connection, account.id, taken, users)
    apply_address_changes(connection, account.id, changes, now)
    changes += come_back(connection, account.id, people.regrouped)
    copied = sorted({*changed, *people.moved, *opted_out})
    copies = copy_profiles(connection, account.id, copied, people.profiles)
    return _StoredUpload(taken, users, copies, refused, changes)


def event_row(
    account: Account, name: str, user: int, at: float, event_id: int, props: Mapping[str, Any], raw: str | None = None
) -> Row:
    """Return a row of the facts store's `event`. at: epoch seconds; the day is that of the account's time zone. raw:
    `props` as JSON text, where the caller has it already."""
    moment = datetime.fromtimestamp(int(at), UTC)
    day = moment.astimezone(account.zone).date()
    encoded = encode_props(to_facts(props))
    return (account.id, name, day, user, moment, event_id, encoded, encode_raw(props) if raw is None else raw)


def hash_id(*what: Any) -> int:
    """Return a 64-bit id made from what an event says, so that the same event written again has the same id."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big")


def _event_rows(account: Account, records: Sequence[Record], users: Sequence[int]) -> list[Row]:
    """Return the rows of the events in an upload. An id is the hash of user, name, time and properties: a repeat of the
    request writes the same rows (if it gives `ts`), while the same event twice in one request is two."""
    rows: list[Row] = []
    copies: Counter[tuple[Any, ...]] = Counter()
    for record, user in zip(records, users, strict=True):
        if not isinstance(record, EventRecord):
            continue
        raw = encode_raw(record.props)
        what = (user, record.name, record.at, raw)
        copies[what] += 1
        rows.append(event_row(account, record.name, user, record.at, hash_id(*what, copies[what]), record.props, raw))
    return rows


__all__ = [
    "RECORDS",
    "ProfileRecord",
    "UploadResult",
    "event_row",
    "hash_id",
    "refresh_profiles",
    "refresh_sharers",
    "start_upload",
    "upload",
]
