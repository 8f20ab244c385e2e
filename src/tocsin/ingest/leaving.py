"""People who are taken out of the ledger, and names and numbers that are taken from them.

What the ledger has of a person goes in one transaction: from then on nobody of that name is there, no message goes to
them, and an upload of the name makes somebody new. Their number, which is never used again, is written down as a
leaver's, until the facts store and closed chunks have nothing under it (`delivery/leavers.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, select, update

from tocsin.authenticator.audit import find_named_lines, hide_names
from tocsin.ingest.formers import find_formers
from tocsin.ingest.identity import IdentityKey, address_keys, find_users
from tocsin.ingest.profile import READERS
from tocsin.ingest.subscription import FIELDS, hide_addresses
from tocsin.store import schema
from tocsin.store.ledger import Ledger
from tocsin.store.lock import lock_account
from tocsin.store.rows import among, upsert_rows

PHONE = "Phone"

leaver = schema.leaver


def find_named(connection: Connection, account_id: str, keys: Collection[IdentityKey]) -> dict[IdentityKey, int]:
    """Return whom each of these identities means; an address as an identity means whoever has the address, as in an
    upload."""
    also = {key: [key, *(address_keys(key[1]) if key[0] == "identity" else ())] for key in keys}
    found = find_users(connection, account_id, [one for several in also.values() for one in several])
    named = {key: next((found[one] for one in several if one in found), None) for key, several in also.items()}
    return {key: user for key, user in named.items() if user is not None}


async def hide_from_log(ledger: Ledger, account_id: str, keys: Collection[IdentityKey]) -> int:
    """Take the names of whom these identities mean out of the audit log, in short pieces: it may be long. Return the
    last line that was looked at; newer ones are left to `remove_people`."""

    def list_names(connection: Connection) -> set[str]:
        users = sorted(set(find_named(connection, account_id, keys).values()))
        addresses = {address for _, address in _read_addresses(connection, account_id, users)}
        return _find_names(connection, account_id, users) | addresses

    names, last = await ledger.read(list_names), 0
    while names:
        lines, seen = await ledger.read(lambda one, after=last: find_named_lines(one, account_id, names, after))  # type: ignore[misc]
        if not seen:
            break
        last = seen
        if lines:
            await ledger.write(lambda one, lines=lines: hide_names(one, lines))  # type: ignore[misc]
    return last


def remove_people(
    connection: Connection, account_id: str, keys: Collection[IdentityKey], now: float, hidden: int = 0
) -> int:
    """Delete everybody whom these identities mean, with the anonymous people they had been. Return how many people are
    meant. hidden: the line of the audit log up to which `hide_from_log` took them out."""
    lock_account(connection, account_id)
    named = set(find_named(connection, account_id, keys).values())
    if not named:
        return 0
    users = sorted(named | find_formers(connection, account_id, named))
    addresses = _read_addresses(connection, account_id, users)
    hide_addresses(connection, account_id, addresses)
    devices = _find_devices(connection, account_id, users)
    names, seen = _find_names(connection, account_id, users) | {one for _, one in addresses}, hidden
    while True:
        lines, seen = find_named_lines(connection, account_id, names, seen)
        hide_names(connection, lines)
        if not seen:
            break
    for table in (schema.device_opt_out, schema.app_device):
        mine = (table.c.account_id == account_id, among(connection, table.c.object_id, devices))
        connection.execute(delete(table).where(*mine))
    for table in (schema.identity, schema.device, schema.app_profile, schema.returned):
        mine = (table.c.account_id == account_id, among(connection, table.c.user_id, users))
        connection.execute(delete(table).where(*mine))
    formers, people = schema.former_user, schema.user
    mine = (formers.c.account_id == account_id, among(connection, formers.c.user_id, users))
    connection.execute(delete(formers).where(*mine))
    connection.execute(delete(people).where(people.c.account_id == account_id, among(connection, people.c.id, users)))
    rows = [{"account_id": account_id, "user_id": one, "asked_at": now, "erased_at": None} for one in users]
    upsert_rows(connection, leaver, rows, keys=("account_id", "user_id"))
    return len(named)


def _read_addresses(connection: Connection, account_id: str, users: Sequence[int]) -> set[tuple[str, str]]:
    """Return the (kind, address) of users, as an opt-out names them."""
    people = schema.user
    query = select(people.c.profile).where(people.c.account_id == account_id, among(connection, people.c.id, users))
    found: set[tuple[str, str]] = set()
    for text in connection.scalars(query):
        profile = msgspec.json.decode(text)
        found |= {(kind, READERS[name](profile.get(name))) for kind, name in FIELDS.items()}
    return {one for one in found if one[1]}


def _find_names(connection: Connection, account_id: str, users: Sequence[int]) -> set[str]:
    """Return what users are known by."""
    names = schema.identity
    mine = (names.c.account_id == account_id, among(connection, names.c.user_id, users))
    return set(connection.scalars(select(names.c.value).where(*mine)))


def _find_devices(connection: Connection, account_id: str, users: Sequence[int]) -> set[str]:
    """Return the objectIds of users."""
    names, device = schema.identity, schema.device
    named = (names.c.account_id == account_id, names.c.kind == "objectId", among(connection, names.c.user_id, users))
    with_token = (device.c.account_id == account_id, among(connection, device.c.user_id, users))
    found = {*connection.scalars(select(names.c.value).where(*named))}
    return {one for one in (*found, *connection.scalars(select(device.c.object_id).where(*with_token))) if one}


def count_leavers(connection: Connection, account_id: str) -> tuple[int, int]:
    """Return how many deleted people still count in answers, and how many are erased a second time later."""
    waiting = func.count().filter(leaver.c.erased_at.is_(None))
    query = select(waiting, func.count()).where(leaver.c.account_id == account_id)
    first, every = connection.execute(query).one()
    return int(first), int(every) - int(first)


def separate_names(connection: Connection, account_id: str, names: Sequence[str]) -> set[str]:
    """Take each of these identities from a person who has others as well: the next upload of the name makes somebody
    new. What was stored stays with the others. Return those that were taken."""
    lock_account(connection, account_id)
    table, taken = schema.identity, set[str]()
    users = find_users(connection, account_id, [("identity", name) for name in names])
    for (_, name), user in users.items():
        mine = (table.c.account_id == account_id, table.c.kind == "identity")
        theirs = select(func.count()).where(*mine, table.c.user_id == user)
        if (connection.scalar(theirs) or 0) > 1:
            connection.execute(delete(table).where(*mine, table.c.value == name))
            taken.add(name)
    return taken


def take_phones(connection: Connection, account_id: str, users: Mapping[int, Collection[str]], now: float) -> set[str]:
    """Take their number from these users, where it is one of those given. Return the numbers that were taken; the
    copies of the users are for the caller to refresh."""
    lock_account(connection, account_id)
    people, names, taken = schema.user, schema.identity, set[str]()
    mine = (people.c.account_id == account_id, among(connection, people.c.id, list(users)))
    for user, text in connection.execute(select(people.c.id, people.c.profile).where(*mine)).all():
        profile: dict[str, Any] = msgspec.json.decode(text)
        number = READERS[PHONE](profile.get(PHONE))
        if number not in users[user]:
            continue
        del profile[PHONE]
        written = {"profile": msgspec.json.encode(profile).decode(), "updated_at": now}
        same = (people.c.account_id == account_id, people.c.id == user)
        connection.execute(update(people).where(*same).values(written))
        taken.add(number)
    known = (names.c.account_id == account_id, names.c.kind == PHONE, among(connection, names.c.value, taken))
    connection.execute(delete(names).where(*known))
    return taken
