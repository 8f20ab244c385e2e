"""The durable queue: chunks, leases, settlement. A chunk is one row of the ledger for at most 1,000 recipients of a
run, or for one `/1/send` request.

Every function runs inside the caller's transaction. A worker holds a chunk by a lease; each of its writes names the
lease's value, so a worker that was silent too long finds out that the chunk is no longer its own.
"""

from __future__ import annotations

import array
import functools
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Float,
    Integer,
    Select,
    and_,
    bindparam,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.sql.compiler import SQLCompiler

from tocsin.channels import PLATFORM_CODES
from tocsin.outcome import STATES, State, count_numbers
from tocsin.store import schema
from tocsin.store.clock import ledger_now
from tocsin.store.lock import lock_runs
from tocsin.store.notification import notify
from tocsin.store.rows import among, among_named, pack_values
from tocsin.store.sums import add_closed

SIZE = 1000
TRANSACTIONAL, CAMPAIGN = 0, 1
ACCOUNTS = 1000  # whose turn is looked for at a time
HOLD_SECONDS = 1e12  # seconds: the time of what is held is so much later (`delivery/hold.py`), in the year 33658
ON_TIME = 60.0  # seconds after a chunk's `started_at` in which it is the time of what happened to a recipient

table = schema.chunk

# The states a recipient may be in before, by the state it moves to.
SOURCES = {to: frozenset(int(source) for source, targets in STATES.items() if to in targets) for to in State}


class Note(msgspec.Struct, omit_defaults=True):
    """What a recipient's state byte cannot hold. code: the vendor's. not_before: epoch seconds, while it waits. at:
    when it became final; 0 when that was on the first try, which happened at the chunk's `started_at`. doubt: an
    earlier try may have reached them, so their place under the caps stays taken."""

    tries: int = 0
    code: str = ""
    not_before: float = 0.0
    at: float = 0.0
    doubt: bool = False


# Made at import: msgspec lets a second thread use a type that a first one has half prepared.
_NOTES = msgspec.json.Decoder(dict[int, Note], strict=False)


class Chunk(msgspec.Struct):
    """A leased chunk in its worker's memory. Changes of `states` and `notes` hold when the worker commits them.

    users, platforms, states: one entry a recipient; platforms are `channels.PLATFORM_CODES`, states `outcome.State`.
    request: the body of a `/1/send` request. resend: unknown recipients are sent again.
    lease: names this hold of the chunk, and no other hold of the same process. new: its recipients are not in the
    ledger yet. changed: somebody moved, or waits for another time, since the last commit.
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
    created_at: float = 0.0
    cut_off: float | None = None
    variant: str = ""
    resend: bool = False
    lease: str = ""
    new: bool = False
    changed: bool = False

    def move(self, position: int, to: State) -> None:
        """Move one recipient along `outcome.STATES`."""
        source = State(self.states[position])
        if to not in STATES[source]:
            raise ValueError(f"recipient {position} of chunk {self.id} cannot go from {source.name} to {to.name}")
        self.states[position] = to
        self.changed = True

    def move_all(self, positions: Iterable[int], to: State) -> None:
        """Move many recipients to one state."""
        states, allowed = self.states, SOURCES[to]
        self.changed = True
        for position in positions:
            if states[position] not in allowed:
                self.move(position, to)  # raises
            states[position] = to

    def finish(self, position: int, to: State, now: float, code: str = "", tries: int = 0) -> None:
        """Move one recipient to a final state, and note what the state does not say: the vendor's code, the tries, and
        when it was unless that was on the first try at `started_at`."""
        before = self.notes.get(position)
        self.move(position, to)
        at = now if before is not None or now - self.started_at > ON_TIME else 0.0
        if code or tries or at:
            doubt = before is not None and before.doubt
            self.notes[position] = Note(tries=tries, code=code, at=at, doubt=doubt)

    def finish_all(self, positions: Iterable[int], to: State, now: float) -> None:
        """Move many recipients to one final state that has no code."""
        if now - self.started_at > ON_TIME:
            for position in positions:
                self.finish(position, to, now)
        elif not self.notes:
            self.move_all(positions, to)
        else:
            for position in positions:
                if position in self.notes:
                    self.finish(position, to, now)
                else:
                    self.move(position, to)

    def put_off(self, position: int, until: float) -> None:
        """Let one recipient wait until a time in epoch seconds, no longer than their message lives."""
        note = self.notes.get(position) or Note()
        self.notes[position] = msgspec.structs.replace(note, not_before=min(until, self.expires_at))
        self.changed = True

    def waiting(self, now: float, limit: int = SIZE) -> list[int]:
        """Return the first positions that may be claimed now, at most `limit`."""
        if not self.notes:
            if (start := self.states.find(State.WAITING)) < 0:
                return []
            part = self.states[start : start + limit]
            if not any(part):  # the usual case, in a tenth of the time
                return list(range(start, start + len(part)))
            return [position for position, state in enumerate(self.states) if not state][:limit]
        return [
            position
            for position, state in enumerate(self.states)
            if state == State.WAITING and (position not in self.notes or self.notes[position].not_before <= now)
        ][:limit]

    def next_due(self) -> float | None:
        """Return when the next waiting recipient may be claimed; None when none waits."""
        waiting = self.states.count(State.WAITING)
        times = [note.not_before for position, note in self.notes.items() if self.states[position] == State.WAITING]
        if len(times) < waiting:
            return 0.0
        return min(times) if times else None

    @property
    def platform(self) -> int | None:
        """The platform code of all recipients; None when they have several."""
        codes = self.platforms
        return codes[0] if codes and codes.count(codes[0]) == len(codes) else None

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
            "users": pack_users(users),
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


def open_requests(connection: Connection, requests: Sequence[NewRequest], owner: str, now: float) -> list[Chunk]:
    """Return the chunks that requests become when `owner` leases them as they are inserted, by `insert_leased`; their
    ids are theirs alone."""
    lease = _name_lease(owner)
    return [
        Chunk(
            id=number,
            account_id=one.account_id,
            run_id=None,
            campaign_id=0,
            channel=one.channel,
            tag_group=one.tag_group,
            expires_at=one.expires_at,
            started_at=now,
            request=one.request,
            users=array.array("I"),
            platforms=b"",
            states=bytearray(),
            notes={},
            created_at=one.now,
            resend=one.resend,
            lease=lease,
        )
        for number, one in zip(_reserve_ids(connection, len(requests)), requests, strict=True)
    ]


def _reserve_ids(connection: Connection, count: int) -> Iterable[int]:
    if connection.dialect.name == "postgresql":
        asked = "SELECT nextval(pg_get_serial_sequence('chunk', 'id')) FROM generate_series(1, :count)"
        return connection.scalars(text(asked), {"count": count}).all()
    last = connection.exec_driver_sql("SELECT max(id) FROM chunk").scalar() or 0  # the only writer is this one
    return range(last + 1, last + 1 + count)


def insert_leased(connection: Connection, chunks: Sequence[Chunk], now: float, lease_seconds: float) -> None:
    """Insert the chunks of `open_requests`, with the recipients they have by now, and the states of these."""
    if not chunks:
        return
    until = _lease_value(connection, now, lease_seconds)
    rows = []
    for chunk in chunks:
        row = _new_row(chunk.account_id, chunk.channel, chunk.tag_group, chunk.expires_at, chunk.created_at)
        row |= {"id": chunk.id, "priority": TRANSACTIONAL, "request": chunk.request, "resend": int(chunk.resend)}
        row |= {"users": pack_users(chunk.users[:]), "platforms": chunk.platforms, "size": len(chunk.platforms)}
        row |= dict(zip(_STATE_COLUMNS, _values(chunk), strict=True))
        row |= {"started_at": chunk.started_at, "lease_owner": chunk.lease, "lease_until": until}
        rows.append(row)
    names = list(rows[0])
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    marks = ", ".join(_lease_until(connection).format(mark) if name == "lease_until" else mark for name in names)
    sql = f"INSERT INTO chunk ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our own columns
    connection.exec_driver_sql(sql, [tuple(row.values()) for row in rows])


def lease_due(
    connection: Connection, owner: str, now: float, lease_seconds: float, *, priority: int | None = None, limit: int = 1
) -> list[Chunk]:
    """Lease the most urgent open chunks that are due and that nobody holds, at most `limit`.

    priority: TRANSACTIONAL or CAMPAIGN chunks only. now: when chunks are due; leases go by `ledger_now`.
    """
    chunks: list[Chunk] = []
    for one in (TRANSACTIONAL, CAMPAIGN) if priority is None else (priority,):
        chunks += _find_free(connection, one, now, limit - len(chunks))
        if len(chunks) >= limit:
            break
    _lease(connection, chunks, owner, now, lease_seconds)
    return chunks


def lease_in_turns(
    connection: Connection,
    owner: str,
    now: float,
    lease_seconds: float,
    *,
    priority: int,
    limit: int,
    rooms: Mapping[str, int],
    turns: dict[str, None],
) -> list[Chunk]:
    """Lease due chunks that nobody holds, at most `limit`, as `lease_due` does while that is all there are; of a
    backlog every account gets its share, the one that was served longest ago first.

    rooms: how many more of an account may be leased; those who are not in it have room for `limit`. turns: the accounts
    that were served, the last one last; kept by the caller from call to call.
    """
    if all(room > 0 for room in rooms.values()):
        found = _find_free(connection, priority, now, limit)
        if len(found) < limit:
            _lease(connection, found, owner, now, lease_seconds)
            return found
    waiting = connection.scalars(_WAITING_ACCOUNTS, {"priority": priority}).all()
    order = {account_id: place for place, account_id in enumerate(turns, start=1)}
    some = sorted((one for one in waiting if rooms.get(one, 1) > 0), key=lambda one: order.get(one, 0))
    share, chunks = max(limit // max(len(some), 1), 1), list[Chunk]()
    for account_id in some:
        most = min(share, limit - len(chunks), rooms.get(account_id, limit))
        if most <= 0:
            break
        own = {"account": account_id, "priority": priority, "now": now, "most": most}
        found = [_unpack(row) for row in connection.execute(_FREE_OF_ACCOUNT, own)]
        if found:
            turns.pop(account_id, None)
            turns[account_id] = None
        chunks += found
    _lease(connection, chunks, owner, now, lease_seconds)
    return chunks


def _find_free(connection: Connection, priority: int, now: float, limit: int) -> list[Chunk]:
    """Return due chunks that nobody holds, by a statement of the driver: see `_update`."""
    compiled = _compile_free(connection.dialect)
    values = {**compiled.params, "priority": priority, "now": now, "most": limit}
    asked: Any = tuple(values[name] for name in compiled.positiontup or ()) if compiled.positional else values
    return [_unpack(row) for row in connection.exec_driver_sql(str(compiled), asked)]


def _lease(connection: Connection, chunks: Sequence[Chunk], owner: str, now: float, lease_seconds: float) -> None:
    if not chunks:
        return
    lease = _name_lease(owner)
    for chunk in chunks:
        chunk.started_at = chunk.started_at or now
        chunk.lease = lease
    until = _lease_until(connection)
    _update(
        connection,
        f"lease_owner = {{}}, lease_until = {until}, started_at = {{}} WHERE id = {{}}",
        [(lease, _lease_value(connection, now, lease_seconds), chunk.started_at, chunk.id) for chunk in chunks],
    )


def _name_lease(owner: str) -> str:
    return f"{owner}.{secrets.token_hex(8)}"


# The due chunks of a priority that nobody holds: one range of the index `chunk_due`, in its order.
_FREE = (
    select(table)
    .where(schema.chunk_is_open, table.c.lease_owner.is_(None))
    .where(table.c.priority == bindparam("priority"), table.c.not_before <= bindparam("now", type_=Float))
    .order_by(table.c.not_before, table.c.id)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)
_FREE_OF_ACCOUNT = _FREE.where(table.c.account_id == bindparam("account"))  # a range of `chunk_due_of_account`


@functools.lru_cache(maxsize=4)
def _compile_free(dialect: Dialect) -> SQLCompiler:
    compiled = _FREE.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    return compiled


# Each account once: from one to the next by the index, past its backlog.
_WAITING_ACCOUNTS = text(
    f"""WITH RECURSIVE waiting(account_id) AS (
        SELECT min(account_id) FROM chunk WHERE {schema.FREE_CHUNK} AND priority = :priority
        UNION ALL
        SELECT (SELECT min(account_id) FROM chunk
                WHERE {schema.FREE_CHUNK} AND priority = :priority AND account_id > waiting.account_id)
        FROM waiting WHERE waiting.account_id IS NOT NULL)
    SELECT account_id FROM waiting WHERE account_id IS NOT NULL LIMIT {ACCOUNTS}"""  # noqa: S608 - our own texts
)


def find_abandoned(connection: Connection, owner: str, now: float, *, alone: bool) -> dict[str, list[Chunk]]:
    """Return the chunks whose holder fell silent, by the holder, and lock them. alone: one process has this ledger to
    itself (SQLite), so all other holders are dead."""
    found = connection.execute(_select_silent(connection, owner, now, alone=alone).with_for_update(skip_locked=True))
    abandoned: dict[str, list[Chunk]] = {}
    for row in found:
        abandoned.setdefault(row.lease_owner.partition(".")[0], []).append(_unpack(row))
    return abandoned


def _select_silent(connection: Connection, owner: str, now: float, *, alone: bool) -> Select[Any]:
    """Select the open chunks whose holder fell silent, among those that are held: the index `chunk_held`."""
    silent: ColumnElement[bool] = table.c.lease_until < ledger_now(connection, now)
    if alone:
        silent = or_(silent, ~table.c.lease_owner.startswith(owner))
    held = (schema.chunk_is_open, table.c.lease_owner.is_not(None))
    return select(table).where(*held, silent).order_by(table.c.id)


def is_holding(connection: Connection, owner: str) -> bool:
    """Return whether a worker, dead or alive, holds chunks."""
    held = (table.c.lease_owner.is_not(None), table.c.lease_owner.startswith(owner))
    return connection.scalar(select(table.c.id).where(*held).limit(1)) is not None


def find_held(connection: Connection, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return these chunks as the ledger has them, without those that are not there or are held no longer, and lock
    them."""
    held = or_(*(and_(table.c.id == chunk.id, table.c.lease_owner == chunk.lease) for chunk in chunks))
    found = connection.execute(select(table).where(held).order_by(table.c.id).with_for_update())
    return [_unpack(row) for row in found]


def set_free(connection: Connection, chunks: Sequence[Chunk]) -> None:
    """Write what became of abandoned chunks, and let them be leased at once."""
    _update(
        connection,
        f"{_STATES}, not_before = {{}}, lease_owner = NULL, lease_until = NULL WHERE id = {{}}",
        [(*_values(chunk), 0.0, chunk.id) for chunk in chunks],
    )


def hold(connection: Connection, chunk_ids: Sequence[int]) -> None:
    """End the leases of chunks, and move their time by HOLD_SECONDS; those that are held already stay as they are."""
    connection.execute(
        update(table)
        .where(among(connection, table.c.id, chunk_ids), table.c.not_before < HOLD_SECONDS)
        .values(not_before=table.c.not_before + HOLD_SECONDS, lease_owner=None, lease_until=None)
    )


def name_recipients(chunk: Chunk, pairs: Sequence[tuple[int, str]], now: float) -> None:
    """Give a `/1/send` chunk its recipients: (user, platform), user 0 for an unknown identity. Those without a user or
    platform are final at once. The next `settle` writes them."""
    recipients = Recipients(pairs)
    columns = recipients.columns()
    chunk.users, chunk.platforms = recipients.users, columns["platforms"]
    chunk.states = bytearray(columns["states"])
    chunk.new = True
    for position, (user, platform) in enumerate(pairs):
        if not user:
            chunk.finish(position, State.NOT_FOUND, now)
        elif not platform:
            chunk.finish(position, State.NO_DEVICE, now)


def settle(connection: Connection, chunks: Sequence[Chunk], now: float, lease_seconds: float) -> set[int]:
    """Write the states and notes of chunks, and renew their leases. Return the ids of those whose lease is lost:
    nothing of them may be sent."""
    held = f"lease_until = {_lease_until(connection)} WHERE id = {{}} AND lease_owner = {{}}"
    until = _lease_value(connection, now, lease_seconds)
    chunks = sorted(chunks, key=lambda chunk: chunk.id)
    new = [chunk for chunk in chunks if chunk.new]
    written = _update(
        connection,
        f"request = {{}}, users = {{}}, platforms = {{}}, size = {{}}, {_STATES}, {held}",
        [
            (
                *(chunk.request, pack_users(chunk.users[:]), chunk.platforms, len(chunk.platforms)),
                *(*_values(chunk), until, chunk.id, chunk.lease),
            )
            for chunk in new
        ],
    )
    written += _update(
        connection,
        f"{_STATES}, {held}",
        [(*_values(chunk), until, chunk.id, chunk.lease) for chunk in chunks if not chunk.new],
    )
    return set() if written == len(chunks) else _find_lost(connection, chunks)


def renew(connection: Connection, chunks: Sequence[Chunk], now: float, lease_seconds: float) -> set[int]:
    """Renew leases. Return the ids of those that are lost."""
    until = _lease_value(connection, now, lease_seconds)
    written = _update(
        connection,
        f"lease_until = {_lease_until(connection)} WHERE id = {{}} AND lease_owner = {{}}",
        [(until, chunk.id, chunk.lease) for chunk in sorted(chunks, key=lambda chunk: chunk.id)],
    )
    return set() if written == len(chunks) else _find_lost(connection, chunks)


def _lease_until(connection: Connection) -> str:
    """Return the expression for the end of a lease, with `{}` for `_lease_value`: by the database's clock where several
    hosts share it, see `store/clock.py`."""
    return "extract(epoch FROM clock_timestamp()) + {}" if connection.dialect.name == "postgresql" else "{}"


def _lease_value(connection: Connection, now: float, lease_seconds: float) -> float:
    return lease_seconds if connection.dialect.name == "postgresql" else now + lease_seconds


def count_in_flight(connection: Connection, campaign_id: int) -> int:
    """Return how many recipients of a campaign are claimed: with a vendor now, or about to be."""
    runs = select(schema.run.c.id).where(schema.run.c.campaign_id == campaign_id)
    held = select(table.c.states).where(
        table.c.run_id.in_(runs), schema.chunk_is_open, table.c.lease_owner.is_not(None)
    )
    return sum(bytes(states).count(State.CLAIMED) for states in connection.scalars(held))


def find_stopped(connection: Connection, run_ids: Iterable[int | None]) -> set[int | None]:
    """Return which of these runs were stopped. Asked in the transaction that claims: a stop takes effect at the next
    claim."""
    asked = {run_id for run_id in run_ids if run_id is not None}
    if not asked:
        return set()
    run = schema.run
    return set(connection.scalars(select(run.c.id).where(run.c.id.in_(asked), run.c.state == "stopped")))


def release(connection: Connection, chunks: Sequence[tuple[Chunk, float | None]], now: float) -> list[int]:
    """End leases. chunks: each with the time from which it may be leased again, None to close it. Return the campaigns
    whose run ended with the last of them."""
    closed = [chunk for chunk, not_before in chunks if not_before is None]
    for chunk in closed:
        if not chunk.settled:
            raise ValueError(f"chunk {chunk.id} has recipients under way and cannot be closed")
    lock_runs(connection, {chunk.run_id for chunk, _ in chunks if chunk.run_id is not None})
    chunks = sorted(chunks, key=lambda one: one[0].id)
    lost = _find_lost(connection, closed)  # before: afterwards nobody holds them
    _update(
        connection,
        "open = {}, not_before = {}, lease_owner = NULL, lease_until = NULL WHERE id = {} AND lease_owner = {}",
        [(int(not_before is not None), not_before or now, chunk.id, chunk.lease) for chunk, not_before in chunks],
    )
    add_closed(connection, [chunk for chunk in closed if chunk.id not in lost])
    runs = {chunk.run_id: chunk.campaign_id for chunk in closed if chunk.run_id is not None}
    return [campaign for run_id, campaign in sorted(runs.items()) if end_run(connection, run_id, now)]


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


_STATE_COLUMNS = ("states", "notes", "sent", "unknown", "failed", "suppressed")
_STATES = ", ".join(f"{name} = {{}}" for name in _STATE_COLUMNS)


def _values(chunk: Chunk) -> tuple[Any, ...]:
    """Return the values of `_STATES`."""
    states = bytes(chunk.states)
    notes = msgspec.json.encode(chunk.notes).decode() if chunk.notes else "{}"
    return (states, notes, *count_numbers(states).values())


def _update(connection: Connection, assignments: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """Update many chunks with one statement of the driver: SQLAlchemy's work on each value would take as long as all
    the rest. assignments: everything after SET, with `{}` for each value. Return how many rows there were."""
    if not rows:
        return 0
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    sql = "UPDATE chunk SET " + assignments.format(*[mark] * assignments.count("{}"))  # noqa: S608 - our own words
    return connection.exec_driver_sql(sql, list(rows)).rowcount


def _find_lost(connection: Connection, chunks: Sequence[Chunk]) -> set[int]:
    asked = {"ids": pack_values(connection, [chunk.id for chunk in chunks])}
    leases = dict(map(tuple, connection.execute(_select_leases(connection.dialect.name), asked)))
    return {chunk.id for chunk in chunks if leases.get(chunk.id) != chunk.lease}


@functools.cache
def _select_leases(dialect: str) -> Select[Any]:
    some = among_named(dialect, table.c.id, "ids")
    return select(table.c.id, table.c.lease_owner).where(some).order_by(table.c.id).with_for_update()


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
        users=unpack_users(bytes(row.users)),
        platforms=bytes(row.platforms),
        states=bytearray(row.states),
        cut_off=row.cut_off,
        variant=row.variant,
        resend=bool(row.resend),
        notes=_NOTES.decode(row.notes),
        created_at=row.created_at,
    )


def unpack_users(raw: bytes) -> array.array[int]:
    """Return the recipients of a chunk, from how the ledger has them."""
    users = array.array("I")
    users.frombytes(raw)
    return _little_endian(users)


def pack_users(users: array.array[int]) -> bytes:
    """Return recipients as the ledger has them. Changes the array on some machines."""
    return _little_endian(users).tobytes()


def _little_endian(users: array.array[int]) -> array.array[int]:
    """Little-endian in the ledger, whatever the machine."""
    if sys.byteorder == "big":
        users.byteswap()
    return users
