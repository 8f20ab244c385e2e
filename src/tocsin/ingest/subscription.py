"""Addresses that left: `/1/subscribe`, and «Channel Unsubscribed» events that are uploaded. They hold for every profile
that has the address, now or later, until it subscribes again; each claim asks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, delete, select

from tocsin.channels import ADDRESS_CHANNELS
from tocsin.ingest.profile import to_facts
from tocsin.ingest.record import EventRecord, Record, read_email, read_phone
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.props import encode_props
from tocsin.store.rows import among, upsert_rows

UNSUBSCRIBED = "Channel Unsubscribed"
RECORDS = 1000
Kind = Literal["email", "phone"]
FIELDS = {one.suppression: one.property for one in ADDRESS_CHANNELS if one.suppression}  # of a profile
# What «Campaign Type» of an event says, and whose address left.
CAMPAIGN_TYPES = {one.name: one.suppression for one in ADDRESS_CHANNELS if one.suppression}

table = schema.unsubscribed


class Change(msgspec.Struct, frozen=True):
    """One address that leaves or comes back, in its one spelling."""

    kind: Kind
    address: str
    leaves: bool


def read_changes(raws: Sequence[Any]) -> tuple[list[Change], list[dict[str, Any]]]:
    """The records of a `/1/subscribe`, and those that are wrong, each as {status, code, error, record}."""
    changes: list[Change] = []
    wrong: list[dict[str, Any]] = []
    for number, raw in enumerate(raws, 1):
        found = _read_change(raw)
        if isinstance(found, Change):
            changes.append(found)
        else:
            error = f"{found} Skipped record number : {number}"
            wrong.append({"status": "fail", "code": 400, "error": error, "record": raw})
    return changes, wrong


def _read_change(raw: Any) -> Change | str:
    if not isinstance(raw, dict):
        return "A record must be an object."
    kind, value, status = raw.get("type"), raw.get("value"), raw.get("status")
    if kind == "email":
        address = read_email(value)
    elif kind == "phone":
        address = read_phone(value)
    else:
        return "type must be email or phone."
    if not address:
        return f"value is not a valid {kind}."
    known = {"unsubscribe": True, "resubscribe": False}
    leaves = known.get(status.lower()) if isinstance(status, str) else None
    return "status must be Unsubscribe or Resubscribe." if leaves is None else Change(kind, address, leaves)


def apply_changes_of_address(connection: Connection, account_id: str, changes: Sequence[Change], now: float) -> None:
    """Keeps who left; of two about one address the last counts."""
    last = {(one.kind, one.address): one.leaves for one in changes}
    rows = [
        {"account_id": account_id, "kind": kind, "address": address, "since": now}
        for (kind, address), leaves in last.items()
        if leaves
    ]
    if rows:
        upsert_rows(connection, table, rows, keys=("account_id", "kind", "address"), kept=("since",))
    for kind in FIELDS:
        back = [address for (one, address), leaves in last.items() if one == kind and not leaves]
        if back:
            mine = (table.c.account_id == account_id, table.c.kind == kind)
            connection.execute(delete(table).where(*mine, among(connection, table.c.address, back)))


def find_unsubscribed(connection: Connection, account_id: str, kind: Kind, addresses: Collection[str]) -> set[str]:
    """Those addresses that left."""
    if not addresses:
        return set()
    query = select(table.c.address).where(
        table.c.account_id == account_id, table.c.kind == kind, among(connection, table.c.address, addresses)
    )
    return set(connection.scalars(query))


def changes_of_events(
    connection: Connection, account_id: str, records: Sequence[Record], users: Sequence[int]
) -> list[Change]:
    """What uploaded «Channel Unsubscribed» events mean: the address they name in `Identity`, else the user's own."""
    changes: list[Change] = []
    for record, user in zip(records, users, strict=True):
        if not isinstance(record, EventRecord) or not is_unsubscribed(record):
            continue
        kind = CAMPAIGN_TYPES.get(str(record.props.get("Campaign Type", "")).lower())
        if kind is None:
            continue
        value = record.props.get("Identity") or _read_field(connection, account_id, user, FIELDS[kind])
        address = read_email(value) if kind == "email" else read_phone(value)
        if address:
            changes.append(Change(kind, address, True))
    return changes


def is_unsubscribed(record: Record) -> bool:
    return isinstance(record, EventRecord) and record.name == UNSUBSCRIBED


def _read_field(connection: Connection, account_id: str, user: int, name: str) -> Any:
    people = schema.user
    profile = connection.scalar(select(people.c.profile).where(people.c.account_id == account_id, people.c.id == user))
    return msgspec.json.decode(profile).get(name) if profile else None


async def find_sharers(facts: Facts, account_id: str, changes: Sequence[Change]) -> dict[int, list[Change]]:
    """The users whose profiles have these addresses, as facts know them: a moment late, and for numbers only in the
    spelling they were uploaded in or the international one."""
    found: dict[int, list[Change]] = {}
    for kind, name in FIELDS.items():
        by_text = {encode_props(to_facts({name: one.address})): one for one in changes if one.kind == kind}
        if not by_text:
            continue
        values = {
            str(text[name]): one for text, one in ((msgspec.json.decode(key), one) for key, one in by_text.items())
        }
        rows = await facts.query(
            f"SELECT user, props.`{name}`.:String FROM profile FINAL WHERE account = {{account:String}} "  # noqa: S608
            f"AND has({{values:Array(String)}}, props.`{name}`.:String)",
            {"account": account_id, "values": list(values)},
        )
        for user, text in rows:
            found.setdefault(int(user), []).append(values[text])
    return found
