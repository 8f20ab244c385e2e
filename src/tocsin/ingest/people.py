"""Who a record is about, and what the ledger then knows of them. Runs inside one transaction of the ledger.

Identities resolve to one user. A known `identity` decides; then FBID, GPID, objectId; then the e-mail address or phone
number of the profile, but never across two people who each have an `identity` of their own (a family shares a phone).
An objectId is a device: it follows whoever was named on it last, and its choice about push goes with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, exists, insert, select, update

from tocsin.ingest.profile import apply_changes, find_place, find_reach, split_choice, to_facts
from tocsin.ingest.record import ProfileRecord, Record, TokenRecord, read_email, read_phone
from tocsin.ingest.subscription import find_unsubscribed
from tocsin.store import schema
from tocsin.store.facts import Row
from tocsin.store.props import encode_props
from tocsin.store.rows import among, upsert_rows

IdentityKey = tuple[str, str]  # (kind, value); kinds are those of uploads, and Email, Phone

ASK_AT_ONCE = 400  # SQLite binds at most 32,766 values to a statement, PostgreSQL 65,535
DECIDING = ("identity", "FBID", "GPID", "objectId")
DEVICE_ID_BYTES = 256  # a longer objectId gets no token (530), so there is no device that could choose

# Of a row of `device`: whether it opted out of push.
OPTED_OUT = (
    exists()
    .where(
        schema.device_opt_out.c.account_id == schema.device.c.account_id,
        schema.device_opt_out.c.object_id == schema.device.c.object_id,
    )
    .label("opted_out")
)


class People:
    """The people of one account that one upload touches. `place` every record, then `save`."""

    def __init__(self, connection: Connection, account_id: str, now: float):
        self._connection = connection
        self._account = account_id
        self._now = now
        self._users: dict[IdentityKey, int] = {}
        self._kinds: dict[int, set[str]] = defaultdict(set)
        self._profiles: dict[int, dict[str, Any]] = {}
        self._versions: dict[int, int] = {}
        self.made: set[int] = set()
        self.moved: set[int] = set()  # users who gained or lost a device without being named
        self._linked: dict[IdentityKey, int] = {}
        self._unlinked: set[IdentityKey] = set()
        self._tokens: dict[tuple[str, str], tuple[int, str]] = {}
        self._choices: dict[str, bool] = {}  # by objectId: whether it wants push
        self._last_user = 0

    def load(self, records: Iterable[Record]) -> None:
        """Reads everybody the records may be about, in a few statements."""
        accounts = schema.account
        # Uploads of one account take turns: on PostgreSQL another process may be at the same people.
        mine = select(accounts.c.last_user).where(accounts.c.id == self._account).with_for_update()
        self._last_user = self._connection.scalar(mine) or 0
        keys = {key for record in records for key in _keys_of(record)}
        self._users = find_users(self._connection, self._account, keys)
        ids = sorted(set(self._users.values()))
        self._load_profiles(ids)
        names = schema.identity
        for part in _parts(ids):
            named = select(names.c.user_id, names.c.kind, names.c.value).where(
                names.c.account_id == self._account, names.c.user_id.in_(part)
            )
            for row in self._connection.execute(named):
                self._kinds[row.user_id].add(row.kind)
                self._users[row.kind, row.value] = row.user_id

    def _load_profiles(self, ids: Sequence[int]) -> None:
        table = schema.user
        for part in _parts(ids):
            where = (table.c.account_id == self._account, table.c.id.in_(part))
            for row in self._connection.execute(select(table.c.id, table.c.profile, table.c.version).where(*where)):
                self._profiles[row.id] = msgspec.json.decode(row.profile)
                self._versions[row.id] = row.version

    def place(self, record: Record) -> int:
        """The user of a record, after it: made or joined, its identities linked, its changes applied."""
        user = self._resolve(record)
        for kind, value in record.keys.items():
            self._link((kind, value), user)
        if isinstance(record, ProfileRecord):
            before = self._profiles[user]
            self._profiles[user] = apply_changes(before, self._take_choice(record))
            self._move_addresses(before, user)
        elif isinstance(record, TokenRecord):
            self._tokens.pop((record.kind, record.token), None)  # said again it is the newest, the last of the dict
            self._tokens[record.kind, record.token] = (user, record.keys["objectId"])
        return user

    def _take_choice(self, record: ProfileRecord) -> Mapping[str, Any]:
        """The changes that are the profile's: `MSG-push` of a record with an objectId is that device's alone."""
        object_id = record.keys.get("objectId")
        if object_id is None:
            return record.changes
        changes, wanted = split_choice(record.changes)
        if wanted is not None and len(object_id.encode()) <= DEVICE_ID_BYTES:
            self._choices[object_id] = wanted
        return changes

    def _move_addresses(self, before: Mapping[str, Any], user: int) -> None:
        """An address belongs to the first user who has it in the profile, for as long as they have it."""
        after = self._profiles[user]
        for kind, read in (("Email", read_email), ("Phone", read_phone)):
            old, new = (kind, read(before.get(kind))), (kind, read(after.get(kind)))
            if old[1] and old != new and self._users.get(old) == user:
                del self._users[old]
                self._linked.pop(old, None)
                self._unlinked.add(old)
            if new[1] and new not in self._users:
                self._link(new, user)

    def save(self, touched: Sequence[int]) -> None:
        """Writes what `place` changed; every touched user, and everybody whose devices moved, gets a new version."""
        self._find_former_owners()
        self._save_users([*touched, *sorted(self.moved)])
        names = schema.identity
        for kind, value in self._unlinked - set(self._linked):
            self._connection.execute(
                delete(names).where(names.c.account_id == self._account, names.c.kind == kind, names.c.value == value)
            )
        if self._linked:
            _upsert_identities(self._connection, self._account, self._linked)
            self._move_devices()
        self._save_tokens()
        self._save_choices()

    def _resolve(self, record: Record) -> int:
        for kind in DECIDING:
            if kind not in record.keys:
                continue
            known = self._find((kind, record.keys[kind]))
            # An objectId known for somebody with another identity is a device that changed hands.
            if known is not None and not (kind != "identity" and self._is_somebody_else(record, known)):
                return known
        if isinstance(record, ProfileRecord):
            for key in (("Email", record.email), ("Phone", record.phone)):
                known = self._users.get(key)
                if known is not None and not self._is_somebody_else(record, known):
                    return known
        return self._make_user()

    def _find(self, key: IdentityKey) -> int | None:
        known = self._users.get(key)
        if known is None and key[0] == "identity":  # callers use an address as the identity
            for address in _address_keys(key[1]):
                known = known if known is not None else self._users.get(address)
        return known

    def _is_somebody_else(self, record: Record, user: int) -> bool:
        named = record.keys.get("identity")
        return named is not None and "identity" in self._kinds[user] and self._users.get(("identity", named)) != user

    def _make_user(self) -> int:
        self._last_user += 1
        self.made.add(self._last_user)
        self._profiles[self._last_user] = {}
        self._versions[self._last_user] = 0
        return self._last_user

    def _link(self, key: IdentityKey, user: int) -> None:
        owner = self._users.get(key)
        if owner != user:
            if key[0] == "objectId" and owner is not None:
                self.moved.update((owner, user))
                for token, (_, object_id) in self._tokens.items():
                    if object_id == key[1]:
                        self._tokens[token] = (user, object_id)
            self._users[key] = user
            self._linked[key] = user
            self._kinds[user].add(key[0])

    def _save_users(self, touched: Sequence[int]) -> None:
        rows: list[dict[str, Any]] = []
        for user in dict.fromkeys(touched):
            self._versions[user] += 1
            rows.append(
                {
                    "account_id": self._account,
                    "id": user,
                    "profile": msgspec.json.encode(self._profiles[user]).decode(),
                    "version": self._versions[user],
                    "updated_at": self._now,
                    "created_at": self._now,
                }
            )
        table = schema.user
        if made := [row for row in rows if row["id"] in self.made]:
            self._connection.execute(insert(table), made)
            self._connection.execute(
                update(schema.account).where(schema.account.c.id == self._account).values(last_user=self._last_user)
            )
        if changed := [row for row in rows if row["id"] not in self.made]:
            upsert_rows(self._connection, table, changed, keys=("account_id", "id"), kept=("created_at",))

    def _move_devices(self) -> None:
        device = schema.device
        for (kind, value), user in self._linked.items():
            if kind == "objectId" and user in self.moved:
                mine = (device.c.account_id == self._account, device.c.object_id == value)
                self._connection.execute(update(device).where(*mine).values(user_id=user))

    def _find_former_owners(self) -> None:
        device = schema.device
        for part in _parts([token for _, token in self._tokens]):
            rows = self._connection.execute(
                select(device.c.kind, device.c.token, device.c.user_id).where(
                    device.c.account_id == self._account, device.c.token.in_(part)
                )
            )
            for row in rows:
                user = self._tokens.get((row.kind, row.token), (row.user_id, ""))[0]
                if row.user_id != user:
                    self.moved.add(row.user_id)
        self._load_profiles([user for user in sorted(self.moved) if user not in self._profiles])

    def _save_tokens(self) -> None:
        device = schema.device
        newest = {(object_id, kind): token for (kind, token), (_, object_id) in self._tokens.items()}
        stale: list[int] = []
        for part in _parts([object_id for object_id, _ in newest]):
            rows = self._connection.execute(
                select(device.c.id, device.c.object_id, device.c.kind, device.c.token).where(
                    device.c.account_id == self._account, device.c.object_id.in_(part)
                )
            )
            # One app on one device has one token: a new one replaces the old.
            stale.extend(row.id for row in rows if newest.get((row.object_id, row.kind), row.token) != row.token)
        for part in _parts(stale):
            self._connection.execute(delete(device).where(device.c.id.in_(part)))
        kept = [
            {
                "account_id": self._account,
                "user_id": user,
                "object_id": object_id,
                "kind": kind,
                "token": token,
                "registered_at": self._now,
                "gone_at": None,
                "gone_code": None,
                "gone_user": None,
                "gone_campaign": None,
            }
            for (kind, token), (user, object_id) in self._tokens.items()
            if newest[object_id, kind] == token
        ]
        if kept:
            upsert_rows(self._connection, device, kept, keys=("account_id", "kind", "token"))

    def _save_choices(self) -> None:
        table = schema.device_opt_out
        for part in _parts([object_id for object_id, wanted in self._choices.items() if wanted]):
            self._connection.execute(
                delete(table).where(table.c.account_id == self._account, table.c.object_id.in_(part))
            )
        leaving = [
            {"account_id": self._account, "object_id": object_id, "since": self._now}
            for object_id, wanted in self._choices.items()
            if not wanted
        ]
        if leaving:
            upsert_rows(self._connection, table, leaving, keys=("account_id", "object_id"), kept=("since",))


def find_users(connection: Connection, account_id: str, keys: Iterable[IdentityKey]) -> dict[IdentityKey, int]:
    """The users of those identities that are known."""
    values: dict[str, list[str]] = defaultdict(list)
    for kind, value in keys:
        values[kind].append(value)
    table, found = schema.identity, {}
    for kind, wanted in values.items():
        rows = connection.execute(
            select(table.c.value, table.c.user_id).where(
                table.c.account_id == account_id, table.c.kind == kind, among(connection, table.c.value, wanted)
            )
        )
        found.update({(kind, value): user for value, user in rows})
    return found


def find_bounced(connection: Connection, account_id: str, addresses: Sequence[str]) -> set[str]:
    """Those e-mail addresses that bounced for good: the ledger keeps them as devices that are gone."""
    device = schema.device
    query = select(device.c.token).where(
        device.c.account_id == account_id, device.c.kind == "email", among(connection, device.c.token, addresses)
    )
    return set(connection.scalars(query)) if addresses else set()


def copy_profiles(connection: Connection, account_id: str, users: Sequence[int]) -> list[Row]:
    """The rows of the facts store's `profile` for these users, as the ledger knows them now."""
    table, device = schema.user, schema.device
    rows: list[Row] = []
    for part in _parts(users):
        devices: dict[int, list[tuple[str, bool]]] = defaultdict(list)
        found = select(device.c.user_id, device.c.kind, device.c.gone_at, OPTED_OUT).where(
            device.c.account_id == account_id, device.c.user_id.in_(part), device.c.kind != "email"
        )
        for one in connection.execute(found):
            devices[one.user_id].append((one.kind, one.gone_at is None and not one.opted_out))
        query = select(table.c.id, table.c.version, table.c.profile).where(
            table.c.account_id == account_id, table.c.id.in_(part)
        )
        people = [(user.id, user.version, msgspec.json.decode(user.profile)) for user in connection.execute(query)]
        addresses = [email for *_, profile in people if (email := read_email(profile.get("Email")))]
        phones = [phone for *_, profile in people if (phone := read_phone(profile.get("Phone")))]
        dead = find_bounced(connection, account_id, addresses)
        dead |= find_unsubscribed(connection, account_id, "email", addresses)
        dead |= find_unsubscribed(connection, account_id, "phone", phones)
        for user, version, profile in people:
            reach = find_reach(profile, devices[user], dead)
            encoded = encode_props(to_facts(profile))
            rows.append((account_id, user, version, *reach.values(), *find_place(profile), encoded))
    return rows


def bump_versions(connection: Connection, account_id: str, users: Sequence[int]) -> None:
    """So that the next copy of these users counts: their devices changed."""
    table = schema.user
    for part in _parts(users):
        connection.execute(
            update(table)
            .where(table.c.account_id == account_id, table.c.id.in_(part))
            .values(version=table.c.version + 1)
        )


def _upsert_identities(connection: Connection, account_id: str, linked: dict[IdentityKey, int]) -> None:
    rows = [
        {"account_id": account_id, "kind": kind, "value": value, "user_id": user}
        for (kind, value), user in linked.items()
    ]
    upsert_rows(connection, schema.identity, rows, keys=("account_id", "kind", "value"))


def _keys_of(record: Record) -> Iterable[IdentityKey]:
    yield from record.keys.items()
    if "identity" in record.keys:
        yield from _address_keys(record.keys["identity"])
    if isinstance(record, ProfileRecord):
        if record.email:
            yield ("Email", record.email)
        if record.phone:
            yield ("Phone", record.phone)


def _address_keys(value: str) -> Iterable[IdentityKey]:
    if "@" in value and (email := read_email(value)):
        yield ("Email", email)
    if value.startswith("+") and (phone := read_phone(value)):
        yield ("Phone", phone)


def _parts(items: Sequence[Any]) -> Iterable[list[Any]]:
    for start in range(0, len(items), ASK_AT_ONCE):
        yield list(items[start : start + ASK_AT_ONCE])
