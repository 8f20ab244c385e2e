"""One block of judged reports, of any number of devices of one account, in one transaction of the ledger.

Who uses a device is said by profiles, and everything else the device tells is theirs. A device nobody was named on is a
person of its own; when it names somebody who is known, what it told before becomes theirs too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select

from tocsin.account import Account
from tocsin.ingest import event_row
from tocsin.ingest.names import KnownNames, NameLimits
from tocsin.ingest.people import People
from tocsin.ingest.profile import list_groups_left
from tocsin.ingest.profile_copy import bump_versions, copy_profiles
from tocsin.ingest.record import LEFT, RESERVED, EventRecord, ProfileRecord, Rejected, TokenRecord
from tocsin.ingest.sdk.judge import NAMING, JudgedReport
from tocsin.ingest.sdk.tokens import TokenChange, apply_token_changes
from tocsin.ingest.sdk.told import Told, encode_told, read_told
from tocsin.ingest.subscription import AddressChange, apply_address_changes, take_back
from tocsin.ingest.subscription_group import come_back
from tocsin.store import schema
from tocsin.store.facts import Row
from tocsin.store.rows import among, upsert_rows

PEOPLE = 20  # that one device may say it belongs to, one after the other
NAME_SHARE = 0.75  # of an account's names, for what apps make up: a server's new events have the rest


class StoredBlock(msgspec.Struct, frozen=True):
    """What the ledger took of a block. events, copies: rows of facts. merged: (a device's own person, whose it turned
    out to be). changes: of addresses. dropped: by the place among the reports."""

    events: list[Row]
    copies: list[Row]
    merged: list[tuple[int, int]]
    changes: list[AddressChange]
    dropped: list[tuple[int, str]]


def store_block(
    connection: Connection, account: Account, judged: Sequence[JudgedReport], now: float, limits: NameLimits
) -> StoredBlock:
    """Store the reports in their order, and return what is left for facts."""
    return _Block(connection, account, judged, now, limits).store()


class _Block:
    def __init__(
        self,
        connection: Connection,
        account: Account,
        judged: Sequence[JudgedReport],
        now: float,
        limits: NameLimits,
    ) -> None:
        self._connection = connection
        self._account = account
        self._judged = judged
        self._now = now
        records = [one.record for one in judged]
        self._people = People(connection, account.id, now)
        self._people.load(records)
        self._names = KnownNames(connection, account.id, records, limits, NAME_SHARE)
        self._told = self._load_told()
        self._devices = self._load_devices()
        self._named: dict[str, tuple[float, int]] = {}  # devices that named somebody in this block
        self._changed: list[int] = []  # users with another profile or other devices
        self._merged: list[tuple[int, int]] = []
        self._users: dict[int, int] = {}  # by the place of the report
        self._dropped: list[tuple[int, str]] = []

    def store(self) -> StoredBlock:
        tokens: list[TokenChange] = []
        for place, one in enumerate(self._judged):
            try:
                self._users[place] = self._apply(self._admit(place, one))
            except Rejected:
                self._dropped.append((place, "record"))
            except _Late as late:
                self._dropped.append((place, late.reason))
            else:
                if isinstance(one.record, TokenRecord):
                    tokens.append(self._make_token_change(one, self._users[place]))
        self._names.save()
        self._people.save([*self._changed, *self._people.created])
        moved, stale = self._save_tokens(tokens)
        self._save_told()
        self._save_devices()
        changes = take_back(self._connection, self._account.id, self._people.returned)
        apply_address_changes(self._connection, self._account.id, changes, self._now)
        changes += come_back(self._connection, self._account.id, self._people.regrouped)
        touched = sorted({*self._changed, *self._people.created, *self._people.moved, *moved})
        copies = copy_profiles(self._connection, self._account.id, touched)
        self._dropped += [(-1, "stale")] * stale
        return StoredBlock(self._make_events(), copies, self._merged, changes, self._dropped)

    def _admit(self, place: int, one: JudgedReport) -> JudgedReport:
        """Return a report whose names the account may have. A log-in with names too many is one without its properties;
        for anything else Rejected is raised."""
        try:
            self._names.admit(place)
        except Rejected:
            if not one.logs_in or not isinstance(one.record, ProfileRecord):
                raise
            self._dropped.append((place, "property"))
            naming = {key: value for key, value in one.record.changes.items() if key in NAMING}
            return msgspec.structs.replace(one, record=msgspec.structs.replace(one.record, changes=naming))
        return one

    def _apply(self, one: JudgedReport) -> int:
        """Apply one report and return whose it is. Raise Rejected, and _Late for what was overtaken."""
        record = one.record
        if isinstance(record, ProfileRecord):
            return self._log_in(one, record) if one.logs_in else self._tell(one, record)
        device = _device_of(one)
        owner = self._people.owner_of(device)
        if owner is not None:
            return owner
        return self._people.apply(ProfileRecord(keys={"objectId": device}, at=record.at, changes={}))

    def _log_in(self, one: JudgedReport, record: ProfileRecord) -> int:
        """Apply a profile that says who uses its device."""
        device, people = _device_of(one), self._people
        named_at, count = self._named.get(device) or self._devices.get(device, (0.0, 0))
        owner, meant = people.owner_of(device), people.find(record)
        if meant is not None and self._told_of(meant).knows(one.report.id):
            raise _Late("stale")
        if record.at < named_at:  # somebody else uses it by now
            rest = {kind: value for kind, value in record.keys.items() if kind != "objectId"}
            if not rest:
                raise _Late("stale")
            return self._tell(one, msgspec.structs.replace(record, keys=rest))
        if owner is None or owner != meant:
            if count >= PEOPLE:
                raise _Late("people")
            count += 1
        alone = owner is not None and people.is_only_a_device(owner)
        user = self._tell(one, record)
        self._named[device] = (float(record.at), count)
        if alone and owner is not None and owner != user:
            self._merge(owner, user, device)
        return user

    def _tell(self, one: JudgedReport, record: ProfileRecord) -> int:
        """Apply what a report says of a person, where no later word was heard."""
        people = self._people
        user = people.find(record)
        if user is None:
            user = people.apply(msgspec.structs.replace(record, changes={}))
            self._changed.append(user)
        told = self._told_of(user)
        if one.report.id and told.knows(one.report.id):
            raise _Late("stale")
        device = record.keys.get("objectId", "")
        changes = _mark_choice(record.changes, device)
        kept = _unmark_choice(told.take(changes, record.at, one.report.id), device)
        if one.logs_in or kept:
            people.apply(msgspec.structs.replace(record, changes=kept))
            self._changed.append(user)
        return user

    def _merge(self, former: int, user: int, device: str) -> None:
        """Give what a device told as a person of its own to whom it belongs."""
        own, told = self._told_of(former), self._told_of(user)
        known = self._people.read_profile(user)
        changes: dict[str, Any] = {}
        for key, value in self._people.read_profile(former).items():
            at = own.times.get(key)
            changes |= _add_up(key, value, known) if at is None else told.take({key: value}, at)
        self._people.apply(ProfileRecord(keys={"objectId": device}, at=int(self._now), changes=changes))
        told.applied |= own.applied
        self._told[former] = Told()
        self._changed += [former, user]
        self._merged.append((former, user))

    def _make_token_change(self, one: JudgedReport, user: int) -> TokenChange:
        record = one.record
        assert isinstance(record, TokenRecord)
        registers = one.report.kind == "register"
        return TokenChange(user, _device_of(one), record.kind, record.token, record.at, registers)

    def _save_tokens(self, changes: Sequence[TokenChange]) -> tuple[set[int], int]:
        """Apply the changes of tokens, for whoever has their devices at the end of the block."""
        last = [msgspec.structs.replace(one, user=self._people.owner_of(one.object_id) or one.user) for one in changes]
        users, stale = apply_token_changes(self._connection, self._account.id, last) if last else (set(), 0)
        bump_versions(self._connection, self._account.id, sorted(users))
        return users, stale

    def _make_events(self) -> list[Row]:
        rows: list[Row] = []
        for place, user in self._users.items():
            one = self._judged[place]
            if isinstance(one.record, EventRecord):
                owner = self._people.owner_of(_device_of(one)) or user
                record = one.record
                rows.append(event_row(self._account, record.name, owner, record.at, one.report.id, record.props))
        return rows

    def _told_of(self, user: int) -> Told:
        if user not in self._told:
            table = schema.app_profile
            mine = (table.c.account_id == self._account.id, table.c.user_id == user)
            self._told[user] = read_told(self._connection.scalar(select(table.c.state).where(*mine)))
        return self._told[user]

    def _load_told(self) -> dict[int, Told]:
        """Return what was told of those whom the profiles of this block are about."""
        profiles = [one.record for one in self._judged if isinstance(one.record, ProfileRecord)]
        users = {user for record in profiles if (user := self._people.find(record)) is not None}
        users |= {user for record in profiles if (user := self._people.owner_of(record.keys["objectId"])) is not None}
        if not users:
            return {}
        table = schema.app_profile
        mine = (table.c.account_id == self._account.id, among(self._connection, table.c.user_id, sorted(users)))
        rows = self._connection.execute(select(table.c.user_id, table.c.state).where(*mine))
        return {user: Told() for user in users} | {user: read_told(state) for user, state in rows}

    def _load_devices(self) -> dict[str, tuple[float, int]]:
        devices = sorted({_device_of(one) for one in self._judged if one.logs_in})
        if not devices:
            return {}
        table = schema.app_device
        mine = (table.c.account_id == self._account.id, among(self._connection, table.c.object_id, devices))
        rows = self._connection.execute(select(table.c.object_id, table.c.named_at, table.c.people).where(*mine))
        return {device: (named_at, people) for device, named_at, people in rows}

    def _save_told(self) -> None:
        table = schema.app_profile
        rows = [
            {"account_id": self._account.id, "user_id": user, "state": encode_told(told)}
            for user, told in self._told.items()
            if told.times or told.applied
        ]
        if rows:
            upsert_rows(self._connection, table, rows, keys=("account_id", "user_id"))
        for former, _ in self._merged:
            mine = (table.c.account_id == self._account.id, table.c.user_id == former)
            self._connection.execute(delete(table).where(*mine))

    def _save_devices(self) -> None:
        rows = [
            {"account_id": self._account.id, "object_id": device, "named_at": named_at, "people": people}
            for device, (named_at, people) in self._named.items()
        ]
        if rows:
            upsert_rows(self._connection, schema.app_device, rows, keys=("account_id", "object_id"))


class _Late(Exception):  # noqa: N818 - what is dropped, not a failure
    """A report that is not applied. reason: one of report.Dropped."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def _device_of(one: JudgedReport) -> str:
    return one.record.keys["objectId"]


def _add_up(key: str, value: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the change that gives a person what a device counted or collected before it was known to be theirs."""
    if key == LEFT:
        return {key: {"$add": list_groups_left({key: value})}}
    if key not in known:
        return {key: value}
    if isinstance(value, list):
        return {key: {"$add": value}}
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (value, known[key]))
    return {key: {"$incr": value}} if numbers and key not in RESERVED else {}


def _mark_choice(changes: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return changes with a device's choice about push under a name of that device: the others' are not overtaken."""
    return {f"MSG-push {device}" if key == "MSG-push" else key: value for key, value in changes.items()}


def _unmark_choice(changes: Mapping[str, Any], device: str) -> dict[str, Any]:
    return {"MSG-push" if key == f"MSG-push {device}" else key: value for key, value in changes.items()}
