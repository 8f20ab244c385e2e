"""Addresses that get nothing: opted out by the link in a mail, a complaint, `/1/subscribe` or an uploaded «Channel
Unsubscribed» event; or bounced.

An opt-out holds for every profile that has the address, now or later, until the address is subscribed again; it is
checked at each claim. One by a link or complaint also ends when the person whose mail it was comes back. Of somebody
who was deleted it is kept as a digest of the address, by a key of the ledger's own.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, delete, exists, select, update

from tocsin.channels import ADDRESS_CHANNELS, Channel
from tocsin.ingest.flaw import to_shown
from tocsin.ingest.profile import READERS, to_facts
from tocsin.ingest.record import EventRecord, Record
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.lock import lock_account
from tocsin.store.props import encode_props
from tocsin.store.rows import among, insert_new, upsert_rows

UNSUBSCRIBED, RESUBSCRIBED = "Channel Unsubscribed", "Channel Resubscribed"
RECORDS = 1000  # of one request, as CleverTap documents
Kind = Literal["email", "phone"]
Reason = Literal["link", "complaint", "API", "event"]
FIELDS = {one.suppression: one.property for one in ADDRESS_CHANNELS if one.suppression}  # of a profile
# «Campaign Type» of an event → the kind of address that opted out.
CAMPAIGN_TYPES = {one.name: one.suppression for one in ADDRESS_CHANNELS if one.suppression}

HIDING = "address"  # the secret that digests of addresses are made with
HIDDEN = "#"  # how a digest begins, and no address does

table, grouped = schema.unsubscribed, schema.group_left

# A column for a query of `device`: whether the device opted out of push.
OPTED_OUT = (
    exists()
    .where(
        schema.device_opt_out.c.account_id == schema.device.c.account_id,
        schema.device_opt_out.c.object_id == schema.device.c.object_id,
    )
    .label("opted_out")
)


class AddressChange(msgspec.Struct, frozen=True):
    """An address, normalized, that opts out or is subscribed again. user: whose mail had the link or was complained
    about; None for any other reason."""

    kind: Kind
    address: str
    opts_out: bool
    reason: Reason = "API"
    user: int | None = None


def read_changes(raws: Sequence[Any]) -> tuple[list[AddressChange], list[dict[str, Any]]]:
    """Return the changes of a `/1/subscribe`, and its wrong records, each as {status, code, error, record}."""
    changes: list[AddressChange] = []
    wrong: list[dict[str, Any]] = []
    for number, raw in enumerate(raws, 1):
        found = _read_change(raw)
        if isinstance(found, AddressChange):
            changes.append(found)
        else:
            error = f"{found} Skipped record number : {number}"
            wrong.append({"status": "fail", "code": 400, "error": error, "record": to_shown(raw)})
    return changes, wrong


def _read_change(raw: Any) -> AddressChange | str:
    """Return the change of one record, or the sentence that says what is wrong with it."""
    if not isinstance(raw, dict):
        return "A record must be an object."
    kind, value, status = str(raw.get("type", "")).lower(), raw.get("value"), raw.get("status")
    if kind not in FIELDS:
        return f"type must be {' or '.join(FIELDS)}."
    address = READERS[FIELDS[kind]](value)
    if not address:
        return f"value is not a valid {kind}."
    known = {"unsubscribe": True, "resubscribe": False}
    opts_out = known.get(status.lower()) if isinstance(status, str) else None
    return "status must be Unsubscribe or Resubscribe." if opts_out is None else AddressChange(kind, address, opts_out)


def apply_address_changes(
    connection: Connection, account_id: str, changes: Sequence[AddressChange], now: float
) -> set[str]:
    """Insert and delete opt-outs; of two changes of one address the last counts. Return the e-mail addresses that had
    left and are back."""
    lock_account(connection, account_id)
    last = {(one.kind, one.address): one for one in changes}
    left = [one for one in last.values() if one.opts_out]
    for owned in (False, True):  # what one person may take back replaces nothing that only the account may
        rows = [_row(account_id, one, now) for one in left if (one.user is not None) == owned]
        if rows:
            kept = ("since", "reason", "user_id") if owned else ("since",)
            upsert_rows(connection, table, rows, keys=("account_id", "kind", "address"), kept=kept)
    returned: set[str] = set()
    for kind in FIELDS:
        back = [address for (_, address), one in last.items() if one.kind == kind and not one.opts_out]
        if back:
            if kind == "email":
                returned = find_unsubscribed(connection, account_id, kind, back)
            mine = (table.c.account_id == account_id, table.c.kind == kind)
            stored = spell_addresses(connection, account_id, back)
            connection.execute(delete(table).where(*mine, among(connection, table.c.address, stored)))
    return returned


def _row(account_id: str, change: AddressChange, now: float) -> dict[str, Any]:
    row = {"account_id": account_id, "kind": change.kind, "address": change.address, "since": now}
    return {**row, "reason": change.reason, "user_id": change.user}


def take_back(connection: Connection, account_id: str, addresses: Mapping[int, str]) -> list[AddressChange]:
    """Let addresses that left by a link or complaint come back, because the person whose mail it was did. addresses: of
    e-mail, by user. Return those that are back."""
    mine = (table.c.account_id == account_id, table.c.kind == "email")
    found: list[AddressChange] = []
    for user, address in sorted(addresses.items()):
        own = (table.c.address == address, table.c.user_id == user)
        if connection.execute(delete(table).where(*mine, *own)).rowcount:
            found.append(AddressChange("email", address, opts_out=False))
    return found


def find_unsubscribed(connection: Connection, account_id: str, kind: Kind, addresses: Collection[str]) -> set[str]:
    """Return those of the addresses that opted out."""
    if not addresses:
        return set()
    stored = spell_addresses(connection, account_id, addresses)
    query = select(table.c.address).where(
        table.c.account_id == account_id, table.c.kind == kind, among(connection, table.c.address, stored)
    )
    return {stored[one] for one in connection.scalars(query)}


def find_groups_left(connection: Connection, account_id: str, addresses: Collection[str]) -> dict[str, list[str]]:
    """Return the subscription groups that mailboxes left, by mailbox; those that left none are not in it."""
    found: dict[str, list[str]] = {}
    if addresses:
        stored = spell_addresses(connection, account_id, addresses)
        query = select(grouped.c.address, grouped.c.name).where(
            grouped.c.account_id == account_id, among(connection, grouped.c.address, stored)
        )
        for address, name in connection.execute(query.order_by(grouped.c.name)):
            found.setdefault(stored[address], []).append(name)
    return found


def hide_addresses(connection: Connection, account_id: str, addresses: Iterable[tuple[str, str]]) -> None:
    """Keep the opt-outs of these (kind, address), of groups too, as digests, and whose mail it was no more."""
    for kind, address in addresses:
        mine = (table.c.account_id == account_id, table.c.kind == kind, table.c.address == address)
        since = connection.scalar(select(table.c.since).where(*mine))
        groups = (grouped.c.account_id == account_id, grouped.c.address == address)
        in_groups = kind == "email" and connection.execute(select(grouped.c.name).where(*groups)).first() is not None
        if since is None and not in_groups:
            continue
        if (key := _find_key(connection)) is None:
            insert_new(connection, schema.secret, {"name": HIDING, "value": secrets.token_bytes(32)})
            key = _find_key(connection)
        assert key is not None
        digest = _digest(key, account_id, address)
        if in_groups:
            names = select(grouped.c.name).where(*groups).scalar_subquery()
            twice = (grouped.c.account_id == account_id, grouped.c.address == digest, grouped.c.name.in_(names))
            connection.execute(delete(grouped).where(*twice))
            connection.execute(update(grouped).where(*groups).values(address=digest, user_id=None))
        if since is not None:
            same = (table.c.account_id == account_id, table.c.kind == kind, table.c.address == digest)
            connection.execute(delete(table).where(*same))  # they left twice, and were deleted twice
            connection.execute(update(table).where(*mine).values(address=digest, user_id=None))


def spell_addresses(connection: Connection, account_id: str, addresses: Iterable[str]) -> dict[str, str]:
    """Return the addresses by what the table may have of them: each itself, and its digest."""
    stored = {one: one for one in addresses}
    if (key := _find_key(connection)) is not None:
        stored |= {_digest(key, account_id, one): one for one in list(stored)}
    return stored


def _find_key(connection: Connection) -> bytes | None:
    """Return the key of digests; None while nobody who had left was deleted."""
    found = connection.scalar(select(schema.secret.c.value).where(schema.secret.c.name == HIDING))
    return None if found is None else bytes(found)


def _digest(key: bytes, account_id: str, address: str) -> str:
    return HIDDEN + hashlib.blake2b(f"{account_id}\0{address}".encode(), key=key, digest_size=16).hexdigest()


def find_bounced(connection: Connection, account_id: str, addresses: Sequence[str]) -> set[str]:
    """Return those of the e-mail addresses that bounced for good. The ledger stores them as rows of `device`."""
    device = schema.device
    query = select(device.c.token).where(
        device.c.account_id == account_id, device.c.kind == "email", among(connection, device.c.token, addresses)
    )
    return set(connection.scalars(query)) if addresses else set()


def find_suppressed(connection: Connection, account_id: str, channel: Channel, addresses: Sequence[str]) -> set[str]:
    """Return those of a channel's addresses that get nothing: opted out, or bounced for good."""
    opted_out = find_unsubscribed(connection, account_id, channel.suppression, addresses) if channel.suppression else ()
    bounced = find_bounced(connection, account_id, addresses) if channel.kind == "email" else ()
    return {*opted_out, *bounced}


def find_event_changes(
    connection: Connection, account_id: str, records: Sequence[Record], users: Sequence[int]
) -> list[AddressChange]:
    """Return the opt-outs of uploaded «Channel Unsubscribed» events: of the address in `Identity`, else the user's."""
    changes: list[AddressChange] = []
    for record, user in zip(records, users, strict=True):
        if not isinstance(record, EventRecord) or not is_unsubscribed(record):
            continue
        kind = CAMPAIGN_TYPES.get(str(record.props.get("Campaign Type", "")).lower())
        if kind is None:
            continue
        value = record.props.get("Identity") or _read_field(connection, account_id, user, FIELDS[kind])
        address = READERS[FIELDS[kind]](value)
        if address:
            changes.append(AddressChange(kind, address, True, "event"))
    return changes


def is_unsubscribed(record: Record) -> bool:
    return isinstance(record, EventRecord) and record.name == UNSUBSCRIBED


class _Addresses(msgspec.Struct, frozen=True):
    """What is read of a profile; the rest of it, which may be large, is skipped."""

    Email: Any = None
    Phone: Any = None


_ADDRESSES = msgspec.json.Decoder(_Addresses)


def _read_field(connection: Connection, account_id: str, user: int, name: str) -> Any:
    people = schema.user
    profile = connection.scalar(select(people.c.profile).where(people.c.account_id == account_id, people.c.id == user))
    return getattr(_ADDRESSES.decode(profile), name) if profile else None


async def find_users_with_addresses(
    facts: Facts, account_id: str, changes: Sequence[AddressChange]
) -> dict[int, list[AddressChange]]:
    """Return the users whose profiles have these addresses, with the changes that concern each. Reads the facts store,
    which may be a moment late; a phone number is only found where the profile has it as E.164."""
    found: dict[int, list[AddressChange]] = {}
    for kind, name in FIELDS.items():
        values = {_as_stored(name, one.address): one for one in changes if one.kind == kind}
        if not values:
            continue
        rows = await facts.query(
            f"SELECT user, props.`{name}`.:String FROM profile FINAL WHERE account = {{account:String}} "  # noqa: S608
            f"AND has({{values:Array(String)}}, props.`{name}`.:String)",
            {"account": account_id, "values": list(values)},
        )
        for user, text in rows:
            found.setdefault(int(user), []).append(values[text])
    return found


def _as_stored(name: str, value: str) -> str:
    """Return a property's value as the facts store holds it."""
    return str(msgspec.json.decode(encode_props(to_facts({name: value})))[name])
