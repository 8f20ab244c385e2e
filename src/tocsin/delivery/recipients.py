"""Recipients at the moment of their claim: devices, consent and profile, one query each for a whole window."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, bindparam, select, update

from tocsin.account import Account
from tocsin.campaign.local_time import read_zone
from tocsin.channels import CHANNELS, DEVICE_KINDS, Channel
from tocsin.ingest.profile import list_groups_left, read_address, wants
from tocsin.ingest.record import LEFT
from tocsin.ingest.subscription import OPTED_OUT, find_bounced, find_groups_left, find_unsubscribed
from tocsin.outcome import State
from tocsin.providers.contract import Address
from tocsin.store import schema
from tocsin.store.lock import lock_account
from tocsin.store.props import fold
from tocsin.store.rows import among, among_named, pack_values, upsert_rows

ALL_CHANNELS = tuple(CHANNELS.values())

# Dead addresses of users: {user: [(device id, address, vendor's code)]}.
DeadAddresses = Mapping[int, Sequence[tuple[int, Address, str]]]


class Person(msgspec.Struct):
    """What a message to a user needs. profile: JSON. addresses: where a message may go now, by platform: live devices
    that want push, newest first, with their ids in the ledger; the mailbox or number, with 0. opted_out: platforms on
    which there is an address, and the user or the address does not want messages. groups_left: subscription groups of
    e-mail that they or their mailbox left, as they are written, by how they are compared."""

    profile: str
    addresses: dict[str, list[tuple[int, Address]]] = msgspec.field(default_factory=dict)
    opted_out: set[str] = msgspec.field(default_factory=set)
    groups_left: dict[str, str] = msgspec.field(default_factory=dict)


def load_people(
    connection: Connection, account_id: str, users: Sequence[int], channels: Collection[Channel] = ALL_CHANNELS
) -> dict[int, Person]:
    """Return the people of one window by user id, with their addresses on these channels."""
    asked = {"account": account_id, "users": pack_values(connection, users)}
    people = {
        user: Person(profile) for user, profile in connection.execute(_select_users(connection.dialect.name), asked)
    }
    for channel in channels:
        if channel.property:
            _add_address(connection, account_id, people.values(), channel)
    if any(not channel.property for channel in channels):
        _add_devices(connection, account_id, people)
    return people


def _add_address(connection: Connection, account_id: str, people: Iterable[Person], channel: Channel) -> None:
    """Add each person's mailbox or number, unless it bounced for good or left, or its owner opted out."""
    assert channel.kind is not None
    [platform] = channel.platforms
    found: list[tuple[Person, str, bool]] = []
    for person in people:
        profile = msgspec.json.decode(person.profile)
        if address := read_address(profile, channel):
            found.append((person, address, wants(profile, channel)))
    values = [address for _, address, _ in found]
    bounced = find_bounced(connection, account_id, values) if channel.kind == "email" else ()
    left = find_unsubscribed(connection, account_id, channel.suppression, values) if channel.suppression else ()
    groups = find_groups_left(connection, account_id, values) if channel.kind == "email" else {}
    for person, address, wanted in found:
        if channel.kind == "email" and (address in groups or LEFT in person.profile):
            own = list_groups_left(msgspec.json.decode(person.profile))
            person.groups_left = {fold(name): name for name in (*own, *groups.get(address, ()))}
        if address in bounced:
            continue
        if wanted and address not in left:
            person.addresses[platform] = [(0, Address(kind=channel.kind, value=address))]
        else:
            person.opted_out.add(platform)


def find_zones(connection: Connection, account: Account, users: Sequence[int]) -> dict[int, tzinfo]:
    """Return the time zones of users: the profile's `Tz`, or the account's."""
    table = schema.user
    rows = connection.execute(
        select(table.c.id, table.c.profile).where(
            table.c.account_id == account.id, among(connection, table.c.id, users)
        )
    )
    return {user: read_zone(_ZONES.decode(profile).Tz, account.zone) for user, profile in rows}


def read_zones(people: Mapping[int, Person], account: Account, users: Iterable[int]) -> dict[int, tzinfo]:
    """Return the time zones of users whose profiles have been read."""
    return {
        user: read_zone(_ZONES.decode(person.profile).Tz, account.zone)
        for user in users
        if (person := people.get(user)) is not None
    }


class _Zoned(msgspec.Struct):
    Tz: Any = None


_ZONES = msgspec.json.Decoder(_Zoned)


def _add_devices(connection: Connection, account_id: str, people: Mapping[int, Person]) -> None:
    asked = {"account": account_id, "users": pack_values(connection, people)}
    found = connection.execute(_select_devices(connection.dialect.name), asked)
    declined = {
        user
        for user, person in people.items()
        if "MSG-" in person.profile and not wants(msgspec.json.decode(person.profile), CHANNELS["push"])
    }
    for device_id, user, kind, token, registered_at, opted_out in found:
        person, platform = people[user], DEVICE_KINDS[kind].platform
        if opted_out or user in declined:
            person.opted_out.add(platform)
        else:
            person.addresses.setdefault(platform, []).append((device_id, Address(kind, token, registered_at)))


@functools.cache
def _select_users(dialect: str) -> Select[Any]:
    table = schema.user
    mine = table.c.account_id == bindparam("account")
    return select(table.c.id, table.c.profile).where(mine, among_named(dialect, table.c.id, "users"))


@functools.cache
def _select_devices(dialect: str) -> Select[Any]:
    device = schema.device
    columns = (device.c.id, device.c.user_id, device.c.kind, device.c.token, device.c.registered_at, OPTED_OUT)
    mine = (device.c.account_id == bindparam("account"), among_named(dialect, device.c.user_id, "users"))
    live = (device.c.kind != "email", device.c.gone_at.is_(None))
    return select(*columns).where(*mine, *live).order_by(device.c.registered_at.desc(), device.c.id.desc())


def find_addresses(person: Person | None, platform: str, *, every_device: bool) -> list[tuple[int, Address]] | State:
    """Return where to send: the newest address on the platform (all of them if asked); or why there is none."""
    if person is None:
        return State.NO_DEVICE
    if addresses := person.addresses.get(platform):
        return addresses if every_device else addresses[:1]
    return State.UNSUBSCRIBED if platform in person.opted_out else State.NO_DEVICE


def mark_gone(
    connection: Connection, account_id: str, gone: DeadAddresses, now: float, campaign_id: int = 0
) -> list[Row[Any]]:
    """Mark addresses as dead that a message of a campaign found dead (campaign 0: a `/1/send` request).

    Return the rows of the devices marked. A device that was registered again since the message was sent stays alive;
    one that is dead already is not marked twice.
    """
    device = schema.device
    removed: list[Row[Any]] = []
    if gone:
        lock_account(connection, account_id)  # an upload may be moving the same devices, in another order
    for user, addresses in gone.items():
        for device_id, address, code in addresses:
            if address.kind == "email":
                row = {"account_id": account_id, "user_id": user, "object_id": "", "kind": "email"}
                row |= {"token": address.value, "registered_at": now, "gone_at": now, "gone_code": code[:128]}
                upsert_rows(connection, device, [row], keys=("account_id", "kind", "token"))
                continue
            same = (device.c.id == device_id, device.c.registered_at == address.registered_at)
            mark = update(device).where(*same, device.c.gone_at.is_(None)).returning(device)
            values = {"gone_at": now, "gone_code": code[:128], "gone_user": device.c.user_id}
            removed.extend(connection.execute(mark.values(values | {"gone_campaign": campaign_id})))
    return removed
