"""The durable queue: chunks, leases, settlement. A chunk is one row of the ledger for at most 1,000 recipients of a
run, or for one `/1/send` request.

Every function runs inside the caller's transaction. A worker holds a chunk by a lease; each of its writes names the
lease's value, so a worker that was silent too long finds out that the chunk is no longer its own.
"""

from __future__ import annotations

import array
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, insert, select, update

from tocsin.channels import PLATFORM_CODES
from tocsin.outcome import STATES, State, count_numbers
from tocsin.store import schema
from tocsin.store.clock import ledger_now
from tocsin.store.lock import lock_runs
from tocsin.store.notification import notify

SIZE = 1000
TRANSACTIONAL, CAMPAIGN = 0, 1
RESENDS = 5  # of one recipient: so many workers may be lost with it

table = schema.chunk

# The states a recipient may be in before, by the state it moves to.
SOURCES = {to: frozenset(int(source) for source, targets in STATES.items() if to in targets) for to in State}


class Note(msgspec.Struct, omit_defaults=True):
    """What a recipient's state byte cannot hold. code: the vendor's. not_before: epoch seconds, while it waits. at:
    when it became final; 0 when that was on the first try, which happened at the chunk's `started_at`."""

    tries: int = 0
    code: str = ""
    not_before: float = 0.0
    at: float = 0.0


# Made at import: msgspec lets a second thread use a type that a first one has half prepared.
_NOTES = msgspec.json.Decoder(dict[int, Note], strict=False)


class Chunk(msgspec.Struct):
    """A leased chunk in its worker's memory. Changes of `states` and `notes` hold when the worker commits them.

    users, platforms, states: one entry a recipient; platforms are `channels.PLATFORM_CODES`, states `outcome.State`.
    request: the body of a `/1/send` request. resend: unknown recipients are sent again.
    lease: names this hold of the chunk, and no other hold of the same process.
    """

    id: int
    account_id: str
    run_id: int | None
    campaign_id: int
    channel: str
    tag_group: str
    expires_at: float
    started_at: float
    request: str | None
    users: array.array[int]
    platforms: bytes
    states: bytearray
    notes: dict[int, Note]
    cut_off: float | None = None
    variant: str = ""
    resend: bool = False
    lease: str = ""

    def move(self, position: int, to: State) -> None:
        """Move one recipient along `outcome.STATES`."""
        source = State(self.states[position])
        if to not in STATES[source]:
            raise ValueError(f"recipient {position} of chunk {self.id} cannot go from {source.name} to {to.name}")
        self.states[position] = to

    def move_all(self, positions: Iterable[int], to: State) -> None:
        """Move many recipients to one state."""
        states, allowed = self.states, SOURCES[to]
        for position in positions:
            if states[position] not in allowed:
                self.move(position, to)  # raises
            states[position] = to

    def waiting(self, now: float) -> list[int]:
        """Return the positions that may be claimed now."""
        if not self.notes:
            return [position for position, state in enumerate(self.states) if not state]
        return [
            position
            for position, state in enumerate(self.states)
            if state == State.WAITING and (position not in self.notes or self.notes[position].not_before <= now)
        ]

    def next_due(self) -> float | None:
        """Return when the next waiting recipient may be claimed; None when none waits."""
        times = [
            self.notes[position].not_before if position in self.notes else 0.0
            for position, state in enumerate(self.states)
            if state == State.WAITING
        ]
        return min(times) if times else None

    @property
    def settled(self) -> bool:
        """Whether every recipient is final."""
        return not (self.states.count(State.WAITING) or self.states.count(State.CLAIMED))


class Recipients:
    """Users and the platform of each: five bytes a recipient, 50 MB for ten million."""

    def __init__(self, pairs: Iterable[tuple[int, str]] = ()):
        self.users = array.array("I")
        self.platforms = bytearray()
        self.extend(pairs)

    def __len__(self) -> int:
        return len(self.platforms)

    def extend(self, pairs: Iterable[tuple[int, str]]) -> None:
        """Append (user, platform)."""
        for user, platform in pairs:
            self.users.append(user)
            self.platforms.append(PLATFORM_CODES.index(platform))

    def by_platform(self) -> list[Recipients]:
        """Return the same recipients, split by platform."""
        present = sorted(set(self.platforms))
        if len(present) <= 1:
            return [self] if present else []
        parts = {platform: Recipients() for platform in present}
        for user, platform in zip(self.users, self.platforms, strict=True):
            part = parts[platform]
            part.users.append(user)
            part.platforms.append(platform)
        return list(parts.values())

    def columns(self, start: int = 0, stop: int | None = None, state: State = State.WAITING) -> dict[str, Any]:
        """Return the columns of `chunk` for a part of them, all in one state."""
        users, platforms = self.users[start:stop], bytes(self.platforms[start:stop])
        return {
            "users": _little_endian(users).tobytes(),
            "platforms": platforms,
            "states": bytes([state]) * len(platforms),
            "size": len(platforms),
        }


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What recipients of a run have in common. not_before: epoch seconds. state: WAITING, or why they get nothing."""

    not_before: float = 0.0  # at once, also on a clock that was set back
    expires_at: float
    cut_off: float | None = None
    variant: str = ""
    state: State = State.WAITING


def insert_run_chunks(
    connection: Connection,
    *,
    account_id: str,
    run_id: int,
    campaign_id: int,
    channel: str,
    shares: Mapping[Share, Recipients],
    now: float,
    resend: bool = False,
) -> None:
    """Insert the chunks of a run, each of one share and one platform: a vendor that is down holds up no other.
    Shares and platforms are interleaved, by their sizes."""
    fixed = {"run_id": run_id, "campaign_id": campaign_id, "priority": CAMPAIGN, "resend": int(resend)}
    rows: list[tuple[float, dict[str, Any]]] = []
    for share, recipients in shares.items():
        new = _new_row(account_id, channel, "", share.expires_at, now) | fixed
        new |= {"not_before": share.not_before, "cut_off": share.cut_off, "variant": share.variant}
        for part in recipients.by_platform():
            for start in range(0, len(part), SIZE):
                columns = part.columns(start, start + SIZE, share.state)
                rows.append(((start + SIZE / 2) / len(part), new | columns | count_numbers(columns["states"])))
    rows.sort(key=lambda row: row[0])
    if rows:
        connection.execute(insert(table), [row for _, row in rows])
        notify(connection)


class NewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One `/1/send` request to queue; its recipients are not looked up yet. request: `campaign.send.StoredRequest` as
    JSON."""

    account_id: str
    channel: str
    tag_group: str
    request: str
    expires_at: float
    now: float
    resend: bool = False


def insert_requests(connection: Connection, requests: Sequence[NewRequest]) -> None:
    """Insert `/1/send` requests with one statement of the driver: SQLAlchemy's work on each value would take as long as
    all the rest."""
    if not requests:
        return
    same = {**Recipients().columns(), "priority": TRANSACTIONAL}
    rows = [
        _new_row(one.account_id, one.channel, one.tag_group, one.expires_at, one.now)
        | same
        | {"request": one.request, "resend": int(one.resend)}
        for one in requests
    ]
    names = list(rows[0])
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    marks = ", ".join([mark] * len(names))
    sql = f"INSERT INTO chunk ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our own columns
    connection.exec_driver_sql(sql, [tuple(row.values()) for row in rows])
    notify(connection)


def lease_next(
    connection: Connection, owner: str, now: float, lease_seconds: float, *, priority: int | None = None
) -> Chunk | None:
    """Lease the most urgent open chunk that is due and that nobody holds. Return None when there is none.

    priority: TRANSACTIONAL or CAMPAIGN chunks only. When the last holder fell silent, what it had claimed may have been
    sent: it becomes unknown and is never sent again, unless the chunk says `resend`. now: when chunks are due; leases
    go by `ledger_now`.
    """
    for query in _list_leasable(connection, (TRANSACTIONAL, CAMPAIGN) if priority is None else (priority,), now):
        if (found := connection.execute(query.limit(1).with_for_update(skip_locked=True)).first()) is not None:
            break
    else:
        return None
    chunk = _unpack(found)
    chunk.started_at = chunk.started_at or now
    chunk.lease = f"{owner}.{secrets.token_hex(8)}"
    for position, state in enumerate(chunk.states):
        if state == State.CLAIMED:
            tries = _tries(chunk, position) + 1
            chunk.move(position, State.WAITING if chunk.resend and tries <= RESENDS else State.UNKNOWN)
            chunk.notes[position] = Note(code="worker lost", tries=tries)
    connection.execute(
        update(table)
        .where(table.c.id == chunk.id)
        .values(
            lease_owner=chunk.lease,
            lease_until=ledger_now(connection, now) + lease_seconds,
            started_at=chunk.started_at,
            **_columns(chunk),
        )
    )
    return chunk


def _list_leasable(connection: Connection, priorities: Iterable[int], now: float) -> Iterator[Select[Any]]:
    """Yield the questions for chunks that may be leased, the most urgent first."""
    for priority in priorities:
        yield _select_silent(connection, now).where(table.c.priority == priority)
        yield _select_free(priority, now)


def _select_free(priority: int, now: float) -> Select[Any]:
    """Select the due chunks of a priority that nobody holds: one range of the index `chunk_due`, in its order."""
    free = (schema.chunk_is_open, table.c.lease_owner.is_(None))
    due = (table.c.priority == priority, table.c.not_before <= now)
    return select(table).where(*free, *due).order_by(table.c.not_before, table.c.id)


def _select_silent(connection: Connection, now: float) -> Select[Any]:
    """Select the due chunks whose holder fell silent, among those that are held: the index `chunk_held`."""
    silent = (table.c.lease_owner.is_not(None), table.c.lease_until < ledger_now(connection, now))
    return select(table).where(schema.chunk_is_open, *silent, table.c.not_before <= now).order_by(table.c.id)


def freeze_request(connection: Connection, chunk: Chunk, pairs: Sequence[tuple[int, str]]) -> bool:
    """Write the recipients of a `/1/send` request: (user, platform), user 0 for an unknown identity. Those without a
    user or platform are final at once. Return False when the lease is lost."""
    recipients = Recipients(pairs)
    columns = recipients.columns()
    chunk.users, chunk.platforms = recipients.users, columns["platforms"]
    chunk.states = bytearray(columns["states"])
    for position, (user, platform) in enumerate(pairs):
        if not user:
            chunk.move(position, State.NOT_FOUND)
        elif not platform:
            chunk.move(position, State.NO_DEVICE)
    done = connection.execute(
        update(table)
        .where(table.c.id == chunk.id, table.c.lease_owner == chunk.lease)
        .values(columns | dict(_columns(chunk)))
    )
    return done.rowcount == 1


def settle(connection: Connection, chunk: Chunk, now: float, lease_seconds: float) -> bool:
    """Write a chunk's states and notes, and renew the lease. Return False when the lease is lost: nothing may be
    sent."""
    done = connection.execute(
        update(table)
        .where(table.c.id == chunk.id, table.c.lease_owner == chunk.lease)
        .values(lease_until=ledger_now(connection, now) + lease_seconds, **_columns(chunk))
    )
    return done.rowcount == 1


def renew(connection: Connection, chunk: Chunk, now: float, lease_seconds: float) -> bool:
    """Renew a lease. Return False when it is lost."""
    done = connection.execute(
        update(table)
        .where(table.c.id == chunk.id, table.c.lease_owner == chunk.lease)
        .values(lease_until=ledger_now(connection, now) + lease_seconds)
    )
    return done.rowcount == 1


def count_in_flight(connection: Connection, campaign_id: int) -> int:
    """Return how many recipients of a campaign are claimed: with a vendor now, or about to be."""
    runs = select(schema.run.c.id).where(schema.run.c.campaign_id == campaign_id)
    held = select(table.c.states).where(
        table.c.run_id.in_(runs), schema.chunk_is_open, table.c.lease_owner.is_not(None)
    )
    return sum(bytes(states).count(State.CLAIMED) for states in connection.scalars(held))


def is_stopped(connection: Connection, run_id: int | None) -> bool:
    """Return whether a run was stopped. Asked in the transaction that claims: a stop takes effect at the next claim."""
    if run_id is None:
        return False
    return connection.scalar(select(schema.run.c.state).where(schema.run.c.id == run_id)) == "stopped"


def release(connection: Connection, chunk: Chunk, now: float, not_before: float | None) -> bool:
    """End a lease. The chunk is closed when `not_before` is None, else it may be leased from then on. Return whether
    this was the last open chunk of its run, and ended it."""
    closed = not_before is None
    if closed and not chunk.settled:
        raise ValueError(f"chunk {chunk.id} has recipients under way and cannot be closed")
    if closed and chunk.run_id is not None:
        lock_runs(connection, [chunk.run_id])
    done = connection.execute(
        update(table)
        .where(table.c.id == chunk.id, table.c.lease_owner == chunk.lease)
        .values(open=0 if closed else 1, not_before=not_before or now, lease_owner=None, lease_until=None)
    )
    if done.rowcount != 1 or not closed or chunk.run_id is None:
        return False
    return end_run(connection, chunk.run_id, now)


def end_run(connection: Connection, run_id: int, now: float) -> bool:
    """End a run that has no open chunk; a stopped one stays «stopped». Return whether it ended now."""
    run = schema.run
    # Two workers that close the last two chunks at once must not each see the other's still open.
    lock_runs(connection, [run_id])
    if connection.scalar(select(table.c.id).where(table.c.run_id == run_id, schema.chunk_is_open).limit(1)) is not None:
        return False
    connection.execute(update(run).where(run.c.id == run_id, run.c.state == "running").values(state="completed"))
    return (
        connection.execute(
            update(run).where(run.c.id == run_id, run.c.ended_at.is_(None)).values(ended_at=now)
        ).rowcount
        == 1
    )


def release_dead(connection: Connection, owner: str) -> int:
    """Expire the leases of all other owners. Only for a ledger that one process has to itself (SQLite). Return how
    many."""
    return connection.execute(
        update(table)
        .where(schema.chunk_is_open, table.c.lease_owner.is_not(None), ~table.c.lease_owner.startswith(owner))
        .values(lease_until=0.0)
    ).rowcount


def load(connection: Connection, chunk_id: int) -> Chunk | None:
    """Return a chunk without a lease; None when there is no such chunk."""
    found = connection.execute(select(table).where(table.c.id == chunk_id)).first()
    return None if found is None else _unpack(found)


def _new_row(account_id: str, channel: str, tag_group: str, expires_at: float, now: float) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "run_id": None,
        "campaign_id": 0,
        "channel": channel,
        "tag_group": tag_group,
        "open": 1,
        "not_before": 0.0,  # at once, also on a clock that was set back
        "expires_at": expires_at,
        "request": None,
        "notes": "{}",
        "sent": 0,
        "unknown": 0,
        "failed": 0,
        "suppressed": 0,
        "created_at": now,
    }


def _columns(chunk: Chunk) -> Mapping[str, Any]:
    states = bytes(chunk.states)
    return {
        "states": states,
        "notes": msgspec.json.encode(chunk.notes).decode(),
        **count_numbers(states),
    }


def _unpack(row: Any) -> Chunk:
    return Chunk(
        id=row.id,
        account_id=row.account_id,
        run_id=row.run_id,
        campaign_id=row.campaign_id,
        channel=row.channel,
        tag_group=row.tag_group,
        expires_at=row.expires_at,
        started_at=row.started_at or 0.0,
        request=row.request,
        users=_users(bytes(row.users)),
        platforms=bytes(row.platforms),
        states=bytearray(row.states),
        cut_off=row.cut_off,
        variant=row.variant,
        resend=bool(row.resend),
        notes=_NOTES.decode(row.notes),
    )


def _users(raw: bytes) -> array.array[int]:
    users = array.array("I")
    users.frombytes(raw)
    return _little_endian(users)


def _little_endian(users: array.array[int]) -> array.array[int]:
    """Little-endian in the ledger, whatever the machine."""
    if sys.byteorder == "big":
        users.byteswap()
    return users


def _tries(chunk: Chunk, position: int) -> int:
    return chunk.notes[position].tries if position in chunk.notes else 0
