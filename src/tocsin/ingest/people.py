"""The users that an upload is about: found or created, their changes applied, in one transaction of the ledger.

The identities of a record resolve to one user: by a known `identity`; else by FBID, GPID, objectId; else by the e-mail
address or phone number of the profile, but never across two users who each have an `identity` (a family shares a
phone). An objectId is a device: it belongs to the user named on it last, and its choice about push stays with it.

A profile has at most PROFILE_BYTES. Nobody's is decoded that no record changes, and none that is larger already,
unless to make it smaller: all this happens on the one writer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, case, delete, func, select, update

from tocsin.channels import CHANNELS
from tocsin.ingest.formers import note_formers
from tocsin.ingest.identity import IdentityKey, address_keys, find_users, upsert_identities
from tocsin.ingest.profile import apply_changes, split_push_choice, wants
from tocsin.ingest.record import (
    BACK,
    IDENTITIES,
    LEFT,
    PROFILE_BYTES,
    PROFILES_BYTES,
    EventRecord,
    ProfileRecord,
    Record,
    Rejected,
    TokenRecord,
    read_email,
    read_phone,
)
from tocsin.ingest.returns import note_returns
from tocsin.store import schema
from tocsin.store.props import fold
from tocsin.store.rows import among, insert_rows, split_values, upsert_rows

EMAIL = CHANNELS["email"]
RESOLUTION_ORDER = ("identity", "FBID", "GPID", "objectId")
READ_AHEAD = 16 * 1024  # letters of a profile that is read with the others; a larger one when it is needed
LONGEST_NUMBER = 32  # letters that `$incr` can add to a property, its comma included
DEVICE_ID_BYTES = 256  # a token with a longer objectId is rejected (530), so there is no device with a choice


class People:
    """The users of one account that one upload touches: `load`, then `apply` every record, then `save`."""

    def __init__(self, connection: Connection, account_id: str, now: float):
        self._connection = connection
        self._account = account_id
        self._now = now
        self._users: dict[IdentityKey, int] = {}
        self._kinds: dict[int, set[str]] = defaultdict(set)
        self._names: Counter[int] = Counter()  # identities by user
        self._texts: dict[int, str] = {}  # profiles that were read and are not decoded yet
        self._letters: dict[int, int] = {}  # of the profiles as they are stored
        self.profiles: dict[int, dict[str, Any]] = {}  # those that were decoded, as they are now
        self.sizes: dict[int, int] = {}  # bytes of the profiles in memory as JSON, at most
        self._measured: set[int] = set()  # users whose size is exact
        self._changed: set[int] = set()  # users whose profile is not what it was
        self._weighed: set[int] = set()
        self._room = PROFILES_BYTES
        self.created: set[int] = set()
        self.returned: dict[int, str] = {}  # users who came back to e-mail, with their addresses
        self.regrouped: dict[int, set[str] | None] = {}  # users who come back to groups, folded; None: to all
        self.moved: set[int] = set()  # users who gained or lost a device
        self._formers: dict[int, int] = {}  # by users who were a device alone, those who turned out to have it
        self._linked: dict[IdentityKey, int] = {}
        self._unlinked: set[IdentityKey] = set()
        self._tokens: dict[tuple[str, str], tuple[int, str]] = {}
        self._push_choices: dict[str, bool] = {}  # by objectId: whether it wants push
        self._last_user = 0

    def load(self, records: Sequence[Record]) -> None:
        """Read every user that the records may be about, in a few statements, and lock the account's row."""
        accounts = schema.account
        # One upload of an account at a time: on PostgreSQL another process may be changing the same users.
        locked = select(accounts.c.last_user).where(accounts.c.id == self._account).with_for_update()
        self._last_user = self._connection.scalar(locked) or 0
        keys = {key for record in records for key in _keys_of(record)}
        self._users = find_users(self._connection, self._account, keys)
        ids = sorted(set(self._users.values()))
        self._load_profiles(records)
        names = schema.identity
        named = select(names.c.user_id, names.c.kind, names.c.value).where(
            names.c.account_id == self._account, among(self._connection, names.c.user_id, ids)
        )
        for user, kind, value in self._connection.execute(named) if ids else ():
            self._kinds[user].add(kind)
            self._names[user] += 1
            self._users[kind, value] = user

    def _load_profiles(self, records: Sequence[Record]) -> None:
        """Read how long the profiles are that these records change, and those of them that are short."""
        named = {key for record in records if not isinstance(record, EventRecord) for key in _keys_of(record)}
        table, length = schema.user, func.length(schema.user.c.profile)
        short = case((length <= READ_AHEAD, table.c.profile))
        users = sorted({self._users[key] for key in named if key in self._users})
        where = (table.c.account_id == self._account, among(self._connection, table.c.id, users))
        found = self._connection.execute(select(table.c.id, length, short).where(*where)) if users else ()
        for user, letters, text in found:
            self._letters[user] = letters
            if text is not None:
                self._texts[user] = text

    def owner_of(self, object_id: str) -> int | None:
        """Return the user that a device of the records loaded belongs to; None for a new device."""
        return self._users.get(("objectId", object_id))

    def find(self, record: Record) -> int | None:
        """Return the user that a record is about; None for a new one."""
        return self._resolve(record)

    def is_only_a_device(self, user: int) -> bool:
        """Return whether nothing is known of who a user is, but one device that they have, or had a moment ago."""
        return self._names[user] <= 1 and self._kinds[user] <= {"objectId"}

    def read_profile(self, user: int) -> Mapping[str, Any]:
        """Return the profile of a user as it is now. Raise Rejected for one that is too large."""
        return self._read_profile(user, smaller=False)

    def apply(self, record: Record) -> int:
        """Find or create the user of a record, link its identities, apply its changes in memory; return the user.

        Raise Rejected, with nothing changed, for a record that would make a profile too large.
        """
        user = self._resolve(record)
        if user is not None:
            self._check_identities(user, record)
        after: dict[str, Any] = {}
        if isinstance(record, ProfileRecord):
            after = self._change(user, record)
        elif isinstance(record, TokenRecord) and user is not None:
            self._weigh(user, self._letters.get(user, 0))
        if user is None:
            user = self._create_user()
        for kind, value in record.keys.items():
            self._link((kind, value), user)
        for key in _aliases_of(record):
            if self._find(key) is None:
                self._link(key, user)
        if isinstance(record, ProfileRecord):
            self._note_push_choice(record)
            self._note_groups(user, record)
            before, self.profiles[user] = self.profiles[user], after
            self._move_addresses(before, user)
            if not wants(before, EMAIL) and wants(self.profiles[user], EMAIL):
                self.returned[user] = read_email(self.profiles[user].get("Email"))
        elif isinstance(record, TokenRecord):
            self._tokens.pop((record.kind, record.token), None)  # the last of the dict is the newest
            self._tokens[record.kind, record.token] = (user, record.keys["objectId"])
        return user

    def _change(self, user: int | None, record: ProfileRecord) -> dict[str, Any]:
        """Return the profile of a user, None for a new one, after a record."""
        changes = split_push_choice(record.changes)[0] if "objectId" in record.keys else record.changes
        removes = bool(changes) and all(isinstance(value, dict) and "$delete" in value for value in changes.values())
        before = {} if user is None else self._read_profile(user, smaller=removes)
        after = apply_changes(before, changes)
        grown = self._measure(user, before, after, changes)
        new = self._last_user + 1 if user is None else user
        if user is None:
            self._weigh(new, grown)
        self._changed.add(new)
        self.sizes[new] = grown
        return after

    def _measure(
        self, user: int | None, before: Mapping[str, Any], after: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> int:
        """Return the bytes of a profile after its changes, at most. Raise Rejected when they are too many and more than
        before. Only a profile that may be too large is measured, first all of it, then what changes of it."""
        size = 0 if user is None else self.sizes[user]
        most = size + len(_ENCODER.encode(changes)) + LONGEST_NUMBER * len(changes)
        if most <= PROFILE_BYTES and user not in self._measured:
            return most
        if user is None or user not in self._measured:
            size = len(_ENCODER.encode(before))
            self._measured.add(self._last_user + 1 if user is None else user)
        grown = size + sum(_measure(after, key) - _measure(before, key) for key in changes)
        if grown > max(PROFILE_BYTES, size):
            raise _too_large(grown)
        return grown

    def _check_identities(self, user: int, record: Record) -> None:
        """Raise Rejected when a record would give a user too many names: all of them are read with each upload."""
        new = sum(self._users.get(key) != user for key in record.keys.items())
        new += sum(self._find(key) is None for key in _aliases_of(record))
        if new and self._names[user] + new > IDENTITIES:
            raise Rejected(523, f"This person has {self._names[user]} identities; at most {IDENTITIES} are allowed.")

    def _weigh(self, user: int, size: int) -> None:
        """Count a profile that is read and written. Raise Rejected when one upload is about too many large ones."""
        if user in self._weighed:
            return
        if size > self._room:
            raise Rejected(
                522, f"An upload is about at most {PROFILES_BYTES} bytes of profiles: send this in another one."
            )
        self._weighed.add(user)
        self._room -= size

    def _read_profile(self, user: int, *, smaller: bool) -> dict[str, Any]:
        """Return the profile of a user. smaller: to make it so; else Rejected is raised for one over the limit."""
        if (known := self.profiles.get(user)) is not None:
            return known
        if self._letters.get(user, 0) > PROFILE_BYTES and not smaller:
            raise _too_large(self._letters[user])
        self._weigh(user, self._letters.get(user, 0))
        text = self._texts.pop(user, None)
        if text is None:
            table = schema.user
            mine = (table.c.account_id == self._account, table.c.id == user)
            text = self._connection.scalar(select(table.c.profile).where(*mine)) or "{}"
        self.sizes[user] = len(text) if text.isascii() else len(text.encode())
        found: dict[str, Any] = msgspec.json.decode(text)
        self.profiles[user] = found
        return found

    def _note_push_choice(self, record: ProfileRecord) -> None:
        """Note `MSG-push` beside an objectId, which is a choice of that device and no part of the profile."""
        object_id = record.keys.get("objectId")
        if object_id is None:
            return
        _, wanted = split_push_choice(record.changes)
        if wanted is not None and len(object_id.encode()) <= DEVICE_ID_BYTES:
            self._push_choices[object_id] = wanted

    def _note_groups(self, user: int, record: ProfileRecord) -> None:
        """Note the subscription groups that a record says somebody comes back to."""
        for key in (BACK, LEFT):
            change = record.changes.get(key)
            known = self.regrouped.get(user, set())
            if change is not None and "$delete" in change:
                self.regrouped[user] = None
            elif change is not None and "$remove" in change and known is not None:
                self.regrouped[user] = known | {fold(name) for name in change["$remove"]}

    def _move_addresses(self, before: Mapping[str, Any], user: int) -> None:
        """Link an address to the first user who has it in the profile, and unlink it when they have it no more."""
        after = self.profiles[user]
        for kind, read in (("Email", read_email), ("Phone", read_phone)):
            old, new = (kind, read(before.get(kind))), (kind, read(after.get(kind)))
            if old[1] and old != new and self._users.get(old) == user:
                del self._users[old]
                self._linked.pop(old, None)
                self._unlinked.add(old)
            if new[1] and new not in self._users:
                self._link(new, user)

    def save(self, touched: Sequence[int]) -> None:
        """Write what `apply` changed. Every touched user, and every user whose devices moved, gets a new version, which
        the database counts: `copy_profiles` reads it back in the same transaction."""
        self._find_former_owners()
        self._save_users([*touched, *sorted(self.moved)])
        names = schema.identity
        for kind, value in self._unlinked - set(self._linked):
            self._connection.execute(
                delete(names).where(names.c.account_id == self._account, names.c.kind == kind, names.c.value == value)
            )
        if self._linked:
            upsert_identities(self._connection, self._account, self._linked)
            self._move_devices()
        note_formers(self._connection, self._account, self._formers)
        self._save_tokens()
        self._save_push_choices()
        note_returns(self._connection, self._account, self.returned, self._now)

    def _resolve(self, record: Record) -> int | None:
        """Return the user a record is about, None for a new one."""
        for kind in RESOLUTION_ORDER:
            if kind not in record.keys:
                continue
            known = self._find((kind, record.keys[kind]))
            # A known objectId of a user with another identity is a device that changed hands.
            if known is not None and not (kind != "identity" and self._is_other_user(record, known)):
                return known
        for key in _aliases_of(record):
            known = self._find(key)
            # Whom an identity names is meant, for the record's own is new. Nothing else joins two people.
            named = key[0] == "identity" and key in self._users
            if known is not None and (named or not self._is_other_user(record, known)):
                return known
        if isinstance(record, ProfileRecord):
            for key in (("Email", record.email), ("Phone", record.phone)):
                known = self._users.get(key)
                if known is not None and not self._is_other_user(record, known):
                    return known
        return None

    def _find(self, key: IdentityKey) -> int | None:
        known = self._users.get(key)
        if known is None and key[0] == "identity":  # callers use an address as the identity
            for address in address_keys(key[1]):
                known = known if known is not None else self._users.get(address)
        return known

    def _is_other_user(self, record: Record, user: int) -> bool:
        named = record.keys.get("identity")
        return named is not None and "identity" in self._kinds[user] and self._users.get(("identity", named)) != user

    def _create_user(self) -> int:
        self._last_user += 1
        self.created.add(self._last_user)
        self.profiles.setdefault(self._last_user, {})
        self.sizes.setdefault(self._last_user, 0)
        return self._last_user

    def _link(self, key: IdentityKey, user: int) -> None:
        owner = self._users.get(key)
        if owner != user:
            if key[0] == "objectId" and owner is not None:
                self.moved.update((owner, user))
                if self.is_only_a_device(owner):
                    self._formers[owner] = user
                self._names[owner] -= 1
                for token, (_, object_id) in self._tokens.items():
                    if object_id == key[1]:
                        self._tokens[token] = (user, object_id)
            self._users[key] = user
            self._linked[key] = user
            self._kinds[user].add(key[0])
            self._names[user] += 1

    def _save_users(self, users: Sequence[int]) -> None:
        """Write the profiles that changed; of the other users only the version."""
        written: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for user in dict.fromkeys(users):
            if user in self.created or user in self._changed:
                row = {
                    "account_id": self._account,
                    "id": user,
                    "profile": msgspec.json.encode(self.profiles[user]).decode(),
                    "version": 1,
                    "updated_at": self._now,
                    "created_at": self._now,
                }
                written[user in self.created].append(row)
        table = schema.user
        if created := written[True]:
            insert_rows(self._connection, table, created)
            self._connection.execute(
                update(schema.account).where(schema.account.c.id == self._account).values(last_user=self._last_user)
            )
        if changed := written[False]:
            same = {"keys": ("account_id", "id"), "kept": ("created_at",), "counted": ("version",)}
            upsert_rows(self._connection, table, changed, **same)
        for part in split_values(sorted({*users} - self.created - self._changed)):
            mine = (table.c.account_id == self._account, table.c.id.in_(part))
            bumped = {"version": table.c.version + 1, "updated_at": self._now}
            self._connection.execute(update(table).where(*mine).values(bumped))

    def _move_devices(self) -> None:
        device = schema.device
        for (kind, value), user in self._linked.items():
            if kind == "objectId" and user in self.moved:
                mine = (device.c.account_id == self._account, device.c.object_id == value)
                self._connection.execute(update(device).where(*mine).values(user_id=user))

    def _find_former_owners(self) -> None:
        """Note the users who lose a token to another user: they get a new version too."""
        device = schema.device
        for part in split_values([token for _, token in self._tokens]):
            rows = self._connection.execute(
                select(device.c.kind, device.c.token, device.c.user_id).where(
                    device.c.account_id == self._account, device.c.token.in_(part)
                )
            )
            for row in rows:
                user = self._tokens.get((row.kind, row.token), (row.user_id, ""))[0]
                if row.user_id != user:
                    self.moved.add(row.user_id)

    def _save_tokens(self) -> None:
        device = schema.device
        newest = {(object_id, kind): token for (kind, token), (_, object_id) in self._tokens.items()}
        stale: list[int] = []
        for part in split_values([object_id for object_id, _ in newest]):
            rows = self._connection.execute(
                select(device.c.id, device.c.object_id, device.c.kind, device.c.token).where(
                    device.c.account_id == self._account, device.c.object_id.in_(part)
                )
            )
            # One app on one device has one token: the new one replaces the old.
            stale.extend(row.id for row in rows if newest.get((row.object_id, row.kind), row.token) != row.token)
        for part in split_values(stale):
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

    def _save_push_choices(self) -> None:
        table = schema.device_opt_out
        for part in split_values([object_id for object_id, wanted in self._push_choices.items() if wanted]):
            self._connection.execute(
                delete(table).where(table.c.account_id == self._account, table.c.object_id.in_(part))
            )
        opted_out = [
            {"account_id": self._account, "object_id": object_id, "since": self._now}
            for object_id, wanted in self._push_choices.items()
            if not wanted
        ]
        if opted_out:
            upsert_rows(self._connection, table, opted_out, keys=("account_id", "object_id"), kept=("since",))


def _keys_of(record: Record) -> Iterable[IdentityKey]:
    """Return every identity that may name the record's user."""
    for kind, value in (*record.keys.items(), *_aliases_of(record)):
        yield kind, value
        if kind == "identity":
            yield from address_keys(value)
    if isinstance(record, ProfileRecord):
        if record.email:
            yield ("Email", record.email)
        if record.phone:
            yield ("Phone", record.phone)


def _aliases_of(record: Record) -> Iterable[IdentityKey]:
    """Return the further names that a profile gives its user. One that is another user's stays theirs."""
    return record.aliases.items() if isinstance(record, ProfileRecord) else ()


_ENCODER = msgspec.json.Encoder()


def _measure(profile: Mapping[str, Any], key: str) -> int:
    """Return the bytes of a property in the profile's JSON, its comma included; 0 when it is not there."""
    if key not in profile:
        return 0
    return len(_ENCODER.encode((key, profile[key]))) - 1


def _too_large(size: int) -> Rejected:
    return Rejected(
        522,
        f"Profile data is incorrect. The profile would have {size} bytes; at most {PROFILE_BYTES} are allowed. "
        "$delete properties that are not needed.",
    )
