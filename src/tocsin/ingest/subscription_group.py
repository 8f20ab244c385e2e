"""Subscription groups of e-mail that a mailbox left by the link of a mail that was sent to them. Like an opt-out they
hold for every profile that has the mailbox, until the person whose mail it was comes back to them; what somebody's own
profile says of groups is beside them (`ingest/profile.py`). Groups are told apart without case."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
from sqlalchemy import Connection, delete, or_, select, update

from tocsin.channels import CHANNELS
from tocsin.ingest.profile import apply_changes, read_address
from tocsin.ingest.profile_copy import copy_profiles
from tocsin.ingest.record import LEFT, Rejected
from tocsin.ingest.subscription import AddressChange, spell_addresses
from tocsin.store import schema
from tocsin.store.facts import Row
from tocsin.store.lock import lock_account
from tocsin.store.props import fold
from tocsin.store.rows import among, upsert_rows

table = schema.group_left
EMAIL = CHANNELS["email"]


def leave_groups(
    connection: Connection, account_id: str, user: int, groups: Sequence[str], now: float
) -> tuple[Sequence[Row], str]:
    """Let a user's mailbox leave these groups, and the profile, as an upload of `category-unsubscribe` would, unless it
    has no room for more of them. Return the user's row for the facts store's `profile`, and the mailbox, "" when there
    is none."""
    people = schema.user
    lock_account(connection, account_id)
    mine = (people.c.account_id == account_id, people.c.id == user)
    found = connection.scalar(select(people.c.profile).where(*mine))
    if found is None:
        return [], ""
    profile = msgspec.json.decode(found)
    try:
        text = msgspec.json.encode(apply_changes(profile, {LEFT: {"$add": list(groups)}})).decode()
    except Rejected:  # no room for more of them, which must keep nobody from leaving: the mailbox does
        text = found
    if text != found:
        changed = {"profile": text, "version": people.c.version + 1, "updated_at": now}
        connection.execute(update(people).where(*mine).values(**changed))
    if address := read_address(profile, EMAIL):
        row = {"account_id": account_id, "address": address, "since": now, "user_id": user}
        rows = [{**row, "name": name} for name in groups]
        upsert_rows(connection, table, rows, keys=("account_id", "address", "name"), kept=("since",))
    return copy_profiles(connection, account_id, [user]), address


def come_back(
    connection: Connection, account_id: str, users: Mapping[int, Collection[str] | None]
) -> list[AddressChange]:
    """Let mailboxes come back to groups, folded, None for all, that they left by a link of these users, or of somebody
    who was deleted and had the same mailbox. Return the mailboxes that are back, whose copies are to be refreshed."""
    people, found = schema.user, list[AddressChange]()
    for user, groups in sorted(users.items()):
        profile = connection.scalar(
            select(people.c.profile).where(people.c.account_id == account_id, people.c.id == user)
        )
        address = read_address(msgspec.json.decode(profile or "{}"), EMAIL)
        if not address:
            continue
        stored = among(connection, table.c.address, spell_addresses(connection, account_id, [address]))
        owned = or_(table.c.user_id == user, table.c.user_id.is_(None))
        mine = (table.c.account_id == account_id, stored, owned)
        names = [
            name
            for name in connection.scalars(select(table.c.name).where(*mine))
            if groups is None or fold(name) in groups
        ]
        if names:
            connection.execute(delete(table).where(*mine, among(connection, table.c.name, names)))
            found.append(AddressChange("email", address, opts_out=False))
    return found
