"""Pages of an export: no record twice, and none left out that was there when the export began.

Records have an order that does not change: people that of their numbers, events that of their key. A page goes on
behind the last record of the one before. Who comes later has a higher number than `last_user`, and is no part of it;
an event that comes later is part of it when the export has not passed its place yet, else not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import func, select

from tocsin.account import Account
from tocsin.audience.compile import Writer, select_people
from tocsin.audience.events import compile_events
from tocsin.audience.node import AllOf, Everybody
from tocsin.stats.export.cursor import Cursor
from tocsin.stats.export.person import ExportedPerson, read_people
from tocsin.store import schema
from tocsin.store.facts import Facts, Row
from tocsin.store.ledger import Ledger

PAGE_BYTES = 8 * 1024 * 1024  # of the records of one page, whatever `size` says; one record may be larger
TOGETHER = 100  # people looked up at once: each may have half a megabyte

Page = tuple[list[msgspec.Raw], Cursor | None]  # the records, and where the next page begins


class _Filling:
    """A page while it fills."""

    def __init__(self) -> None:
        self.records: list[msgspec.Raw] = []
        self._bytes = 0

    def add(self, record: Mapping[str, Any]) -> bool:
        """Add a record; return False, and do not, when the page is full."""
        raw = msgspec.json.encode(record)
        if self.records and self._bytes + len(raw) > PAGE_BYTES:
            return False
        self._bytes += len(raw)
        self.records.append(msgspec.Raw(raw))
        return True


async def find_last_user(ledger: Ledger, account_id: str) -> int:
    """Return the highest number a user of the account has; 0 where there is none."""
    table = schema.user
    last = select(func.max(table.c.id)).where(table.c.account_id == account_id)
    return await ledger.read(lambda connection: connection.scalar(last)) or 0


async def read_profiles(ledger: Ledger, facts: Facts, account: Account, cursor: Cursor) -> Page:
    """Return a page of people, and the cursor of the next one; None behind the last."""
    users = await _find_users(facts, account, cursor)
    page, done = _Filling(), 0
    for some in _split(users[: cursor.size]):
        people = await _look_up(ledger, account, some)
        events = await _sum_events(facts, account, some) if cursor.events else {}
        for user in some:
            if user in people and not page.add(show_profile(people[user], cursor, events.get(user, {}))):
                return page.records, msgspec.structs.replace(cursor, after=(done,))
            done = user
    more = len(users) > cursor.size
    return page.records, msgspec.structs.replace(cursor, after=(done,)) if more else None


def show_profile(person: ExportedPerson, cursor: Cursor, events: Mapping[str, Any]) -> dict[str, Any]:
    """Return a person as a record of `profiles.json`."""
    record: dict[str, Any] = {**person.names}
    if cursor.profile:
        record["profileData"] = msgspec.Raw(person.profile.encode())
    if cursor.events:
        record["events"] = events
    if cursor.app:
        record["platformInfo"] = person.platforms
    return record


async def read_profile(ledger: Ledger, facts: Facts, account: Account, user: int) -> dict[str, Any]:
    """Return a person as `profile.json` shows them."""
    person = (await _look_up(ledger, account, [user]))[user]
    events = await _sum_events(facts, account, [user])
    data = msgspec.Raw(person.profile.encode())
    found = {"profileData": data, "events": events.get(user, {}), "platformInfo": person.platforms}
    return {**person.names, **found}


async def read_events(ledger: Ledger, facts: Facts, account: Account, cursor: Cursor) -> Page:
    """Return a page of events, and the cursor of the next one; None behind the last."""
    rows = await _find_events(facts, account, cursor)
    page, people = _Filling(), dict[int, ExportedPerson]()
    for number, row in enumerate(rows[: cursor.size]):
        user = int(row[1])
        if user not in people:
            ahead = dict.fromkeys(int(one[1]) for one in rows[number : number + TOGETHER])
            people = await _look_up(ledger, account, list(ahead))
        if not page.add(_show_event(account, people.get(user), row, cursor)):
            break
    done = len(page.records)
    more = done > 0 and int(rows[0][5]) > done
    return page.records, msgspec.structs.replace(cursor, after=_key_of(rows[done - 1])) if more else None


def _show_event(account: Account, person: ExportedPerson | None, row: Row, cursor: Cursor) -> dict[str, Any]:
    """Return an event as a record of `events.json`; its time is that of the account's clock."""
    profile: dict[str, Any] = {"id": int(row[1])}
    if person is not None:
        device = person.platforms[0] if cursor.app and person.platforms else {}
        profile |= {**person.names, **{name: text for name, text in device.items() if name != "push_token"}}
        profile |= {"profileData": msgspec.Raw(person.profile.encode())} if cursor.profile else {}
    local = _moment_of(row).astimezone(account.zone)
    return {
        "profile": profile,
        "ts": int(local.strftime("%Y%m%d%H%M%S")),
        "event_props": msgspec.Raw(str(row[4]).encode() or b"{}"),
        "session_props": {},
    }


def _moment_of(row: Row) -> datetime:
    moment: datetime = row[2]
    return moment.replace(tzinfo=UTC)


def _key_of(row: Row) -> tuple[str | int, ...]:
    return row[0].isoformat(), int(row[1]), int(_moment_of(row).timestamp()), int(row[3])


async def _find_users(facts: Facts, account: Account, cursor: Cursor) -> list[int]:
    """Return the numbers of the people of a page, and one more where there is another page."""
    writer = Writer(account, cursor.began)
    meets = writer.write(AllOf(cursor.rest) if cursor.rest else Everybody())
    between = "user > {after:UInt32} AND user <= {last:UInt32}"
    values = {"after": cursor.after[0] if cursor.after else 0, "last": cursor.last_user, "limit": cursor.size + 1}
    text = f"{select_people(('reach',), f'{between} AND {meets}')} ORDER BY user LIMIT {{limit:UInt32}}"
    return [int(row[0]) for row in await facts.query(text, writer.parameters | values)]


async def _find_events(facts: Facts, account: Account, cursor: Cursor) -> Sequence[Row]:
    """Return (day, user, at, id, raw, found) of the events of a page: as many as come to PAGE_BYTES. found: how many
    there are, one more than a page has where there is another page."""
    assert cursor.base is not None  # an export of events has one
    meets = compile_events(cursor.base, cursor.rest, account, cursor.began)
    values: dict[str, Any] = {"limit": cursor.size + 1, "last": cursor.last_user, "bytes": PAGE_BYTES}
    text = f"{meets.text} AND user <= {{last:UInt32}}"
    if cursor.after:
        # Said three times: by the first two the store finds the place without reading what is before it.
        text += (
            " AND day >= {day:Date} AND (day > {day:Date} OR user >= {user:UInt32})"
            " AND (day, user, at, id) > ({day:Date}, {user:UInt32}, toDateTime({at:UInt32}, 'UTC'), {id:UInt64})"
        )
        values |= dict(zip(("day", "user", "at", "id"), cursor.after, strict=True))
    page = f"SELECT day, user, at, id, raw FROM event FINAL WHERE {text} {_IN_ORDER} LIMIT {{limit:UInt32}}"
    sums = f"sum(length(raw)) OVER ({_IN_ORDER}) - length(raw) AS before, count() OVER () AS found"
    whole = f"SELECT day, user, at, id, raw, {sums} FROM ({page})"
    sql = f"SELECT day, user, at, id, raw, found FROM ({whole}) WHERE before <= {{bytes:UInt64}} {_IN_ORDER}"
    return await facts.query(sql, {**meets.parameters, **values})


_IN_ORDER = "ORDER BY day, user, at, id"


async def _sum_events(facts: Facts, account: Account, users: Sequence[int]) -> dict[int, dict[str, dict[str, int]]]:
    """Return {count, first_seen, last_seen} of the events of users, by user and name."""
    rows = await facts.query(
        "SELECT user, name, uniqExact(at, id), toUnixTimestamp(min(at)), toUnixTimestamp(max(at)) FROM event "
        "WHERE account = {account:String} AND user IN {users:Array(UInt32)} GROUP BY user, name ORDER BY name",
        {"account": account.id, "users": list(users)},
    )
    found: dict[int, dict[str, dict[str, int]]] = {}
    for user, name, count, first, last in rows:
        of_user = found.setdefault(int(user), {})
        of_user[str(name)] = {"count": int(count), "first_seen": int(first), "last_seen": int(last)}
    return found


async def _look_up(ledger: Ledger, account: Account, users: Sequence[int]) -> dict[int, ExportedPerson]:
    return await ledger.read(lambda connection: read_people(connection, account.id, users))


def _split(users: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(users), TOGETHER):
        yield users[start : start + TOGETHER]
