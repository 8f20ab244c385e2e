"""Who a claimed recipient is right now: devices, consent and profile, one query each for a whole window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select, update

from tocsin.account import Account
from tocsin.campaign.addressees import DEVICE_CHANNELS
from tocsin.campaign.local_time import read_zone
from tocsin.ingest.people import OPTED_OUT, find_bounced
from tocsin.ingest.profile import PLATFORM_OF_KIND, wants_email, wants_push, wants_sms
from tocsin.ingest.record import read_email, read_phone
from tocsin.ingest.subscription import find_unsubscribed
from tocsin.outcome import State
from tocsin.providers.contract import Address
from tocsin.store import schema
from tocsin.store.rows import among, upsert_rows

# Dead addresses of users: {user: [(device id, address, vendor's code)]}.
DeadAddresses = Mapping[int, Sequence[tuple[int, Address, str]]]


class Person(msgspec.Struct):
    """What a message to a user needs. profile: as JSON. devices: live ones that want push, by platform, newest first,
    with their ledger ids. opted_out: platforms with a live device that does not. email: in its one spelling, "" when
    there is none or it bounced for good. wants_push, wants_email: the user's own choice."""

    profile: str
    devices: dict[str, list[tuple[int, Address]]]
    email: str = ""
    phone: str = ""
    wants_push: bool = True
    wants_email: bool = True
    wants_sms: bool = True
    opted_out: set[str] = msgspec.field(default_factory=set)


def load_people(connection: Connection, account_id: str, users: Sequence[int], channel: str = "") -> dict[int, Person]:
    """The people of one window, with what `channel` asks about: their devices for "push" and "webpush", their address
    or number for the others, all for ""."""
    table = schema.user
    rows = connection.execute(
        select(table.c.id, table.c.profile).where(
            table.c.account_id == account_id, among(connection, table.c.id, users)
        )
    )
    people = {user: _read_person(profile, addresses=channel not in DEVICE_CHANNELS) for user, profile in rows}
    if channel in ("", "email"):
        _check_mailboxes(connection, account_id, people.values())
    if channel in ("", "sms"):
        phones = {person.phone for person in people.values() if person.phone}
        left = find_unsubscribed(connection, account_id, "phone", phones)
        for person in people.values():
            person.wants_sms = person.wants_sms and person.phone not in left
    if channel in ("", *DEVICE_CHANNELS):
        _add_devices(connection, account_id, people)
    return people


def _check_mailboxes(connection: Connection, account_id: str, people: Iterable[Person]) -> None:
    """Takes away addresses that bounced for good, and the wish of who has one that left."""
    having = [person for person in people if person.email]
    addresses = [person.email for person in having]
    bounced = find_bounced(connection, account_id, addresses)
    left = find_unsubscribed(connection, account_id, "email", addresses)
    for person in having:
        person.wants_email = person.wants_email and person.email not in left
        if person.email in bounced:
            person.email = ""


def find_zones(connection: Connection, account: Account, users: Sequence[int]) -> dict[int, tzinfo]:
    """The time zones of users: their `Tz`, or the account's."""
    table = schema.user
    rows = connection.execute(
        select(table.c.id, table.c.profile).where(
            table.c.account_id == account.id, among(connection, table.c.id, users)
        )
    )
    return {user: read_zone(_ZONES.decode(profile).Tz, account.zone) for user, profile in rows}


class _Zoned(msgspec.Struct):
    Tz: Any = None


_ZONES = msgspec.json.Decoder(_Zoned)


def _add_devices(connection: Connection, account_id: str, people: Mapping[int, Person]) -> None:
    device = schema.device
    columns = (device.c.id, device.c.user_id, device.c.kind, device.c.token, device.c.registered_at, OPTED_OUT)
    found = connection.execute(
        select(*columns)
        .where(device.c.account_id == account_id, among(connection, device.c.user_id, people), device.c.kind != "email")
        .where(device.c.gone_at.is_(None))
        .order_by(device.c.registered_at.desc(), device.c.id.desc())
    )
    for device_id, user, kind, token, registered_at, opted_out in found:
        person, platform = people[user], PLATFORM_OF_KIND[kind]
        if opted_out:
            person.opted_out.add(platform)
        else:
            person.devices.setdefault(platform, []).append((device_id, Address(kind, token, registered_at)))


def _read_person(text: str, *, addresses: bool) -> Person:
    if "MSG-" not in text and not addresses:
        return Person(text, {})
    profile = msgspec.json.decode(text)
    email = read_email(profile.get("Email")) if addresses else ""
    phone = read_phone(profile.get("Phone")) if addresses else ""
    return Person(text, {}, email, phone, wants_push(profile), wants_email(profile), wants_sms(profile))


def find_addresses(person: Person | None, platform: str, *, every_device: bool) -> list[tuple[int, Address]] | State:
    """Where to send: the newest device of the platform that wants push (all of them if asked), or why not."""
    if person is None:
        return State.NO_DEVICE
    if platform == "email":
        if not person.email:
            return State.NO_DEVICE
        return [(0, Address(kind="email", value=person.email))] if person.wants_email else State.UNSUBSCRIBED
    if platform == "sms":
        if not person.phone:
            return State.NO_DEVICE
        return [(0, Address(kind="sms", value=person.phone))] if person.wants_sms else State.UNSUBSCRIBED
    devices = person.devices.get(platform, [])
    if not devices:
        return State.UNSUBSCRIBED if platform in person.opted_out else State.NO_DEVICE
    if not person.wants_push:
        return State.UNSUBSCRIBED
    return devices if every_device else devices[:1]


def mark_gone(
    connection: Connection, account_id: str, gone: DeadAddresses, now: float, campaign_id: int = 0
) -> list[Row[Any]]:
    """Forgets dead addresses that a message of this campaign found (0: a `/1/send` request). Answers the rows of the
    devices that went by it: one that was registered again since we sent to it is left alone, and one that is gone
    already does not go twice."""
    device = schema.device
    went: list[Row[Any]] = []
    for user, addresses in gone.items():
        for device_id, address, code in addresses:
            if address.kind == "email":
                row = {"account_id": account_id, "user_id": user, "object_id": "", "kind": "email"}
                row |= {"token": address.value, "registered_at": now, "gone_at": now, "gone_code": code[:128]}
                upsert_rows(connection, device, [row], keys=("account_id", "kind", "token"))
                continue
            same = (device.c.id == device_id, device.c.registered_at == address.registered_at)
            going = update(device).where(*same, device.c.gone_at.is_(None)).returning(device)
            values = {"gone_at": now, "gone_code": code[:128], "gone_user": device.c.user_id}
            went.extend(connection.execute(going.values(values | {"gone_campaign": campaign_id})))
    return went
