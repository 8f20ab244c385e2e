"""The files of one window: what an account stored between two times, as Parquet by kind and day.

A window's files have its times for a name and are there once they are whole, so a window that is written again after a
crash leaves the same files. A record that was stored again has its place in the window of the first time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from tocsin.stats.warehouse.destination import Destination
from tocsin.stats.webhooks.batch import read_names
from tocsin.stats.webhooks.feed import MICRO
from tocsin.store.facts import Facts, Row
from tocsin.store.ledger import Ledger

MOST_ROWS = 1_000_000  # of a window: one that has more is cut
HOUR = 3600 * MICRO
NAMES = ("identity", "objectId")  # of a person, as columns
PERSON = {"user": "uint32", "identity": "string", "object_id": "string"}

_MESSAGE = "concat(toString(bitShiftRight(id, 16)), '-', toString(bitAnd(id, 65535)))"


class ExportWindow(msgspec.Struct, frozen=True):
    """What was stored from `start` on and before `end`, in microseconds of the store's clock."""

    start: int
    end: int

    @property
    def day(self) -> str:
        return f"{datetime.fromtimestamp(self.start / MICRO, UTC):%Y-%m-%d}"

    @property
    def name(self) -> str:
        return f"{_spell(self.start)}-{_spell(self.end)}.parquet"


class Dataset(msgspec.Struct, frozen=True):
    """A folder of files. types: SQL, true for its rows of the feed. columns: (name, SQL, kind of Arrow)."""

    name: str
    types: str
    columns: tuple[tuple[str, str, str], ...]


def _text(name: str) -> str:
    return f"JSONExtractString(detail, '{name}')"


_OF_MESSAGE = (
    ("message", _MESSAGE, "string"),
    ("campaign", "accurateCastOrDefault(JSONExtractUInt(detail, 'Campaign id'), 'UInt32')", "uint32"),
    ("variant", _text("Variant"), "string"),
    ("channel", _text("Channel"), "string"),
    ("platform", _text("Platform"), "string"),
    ("tag_group", _text("Tag group"), "string"),
)
_MACHINE = "type IN ('event.Notification Viewed by Machine', 'event.Notification Clicked by Machine')"
_EVENT_NAME = """transform(toString(type), ['consent.unsubscribed', 'consent.resubscribed', 'consent.bounced'],
    ['Channel Unsubscribed', 'Channel Resubscribed', 'Mail Bounced'], substring(type, length('event.') + 1))"""
DATASETS = (
    Dataset(
        "outcomes",
        "startsWith(type, 'outcome.')",
        (*_OF_MESSAGE, ("outcome", _text("Outcome"), "string"), ("code", _text("Code"), "string")),
    ),
    Dataset(
        "reports",
        f"(startsWith(type, 'interaction.') OR startsWith(type, 'conversion.') OR {_MACHINE})",
        (
            *_OF_MESSAGE,
            ("kind", "extract(lower(toString(type)), 'viewed|clicked|converted')", "string"),
            ("machine", f"toBool({_MACHINE})", "bool_"),
            ("props", "detail", "string"),
        ),
    ),
    Dataset(
        "events",
        f"(startsWith(type, 'consent.') OR (startsWith(type, 'event.') AND NOT {_MACHINE}))",
        (("name", _EVENT_NAME, "string"), ("id", "id", "uint64"), ("props", "detail", "string")),
    ),
)


async def find_window(facts: Facts, account_id: str, done: int, horizon: int, seconds: float) -> ExportWindow | int:
    """Return the next window that has rows and whose time is over; else when to look again, in microseconds."""
    [(count, first)] = await facts.query(
        "SELECT count(), min(stored) FROM feed WHERE account = {account:String} "
        "AND stored >= {done:UInt64} AND stored < {horizon:UInt64}",
        {"account": account_id, "done": done, "horizon": horizon},
    )
    if not count:
        return horizon
    start = max(done, int(first) - int(first) % HOUR)
    end = find_end(int(first), seconds)
    if end > horizon:
        return end
    within = "account = {account:String} AND stored >= {start:UInt64} AND stored < {end:UInt64}"
    further = await facts.query(
        f"SELECT stored FROM feed WHERE {within} ORDER BY stored LIMIT 1 OFFSET {{most:UInt64}}",  # noqa: S608
        {"account": account_id, "start": start, "end": end, "most": MOST_ROWS},
    )
    return ExportWindow(start, int(further[0][0]) + 1 if further else end)


def find_end(stored: int, seconds: float) -> int:
    """Return when the window ends in which this time lies: windows follow the clock, and begin anew with each hour."""
    hour, length = stored - stored % HOUR, max(1, int(seconds * MICRO))
    return min(hour + HOUR, hour + (stored - hour) // length * length + length)


def write_files(
    ledger: Ledger, facts: Facts, destination: Destination, account_id: str, window: ExportWindow
) -> dict[str, int]:
    """Write a window's files, in the calling thread. Return how many rows each kind has. Memory does not grow with the
    window, but for its ids: a block of rows is held at a time."""
    return {one.name: _write_file(ledger, facts, destination, account_id, window, one) for one in DATASETS}


def forget_unfinished(destination: Destination, account_id: str, window: ExportWindow) -> None:
    """Delete what is left of a window by processes that ended while they wrote it, once another one has written it."""
    destination.forget_unfinished(_name_file(account_id, "*", window))


def _name_file(account_id: str, dataset: str, window: ExportWindow) -> str:
    return f"{account_id}/{dataset}/day={window.day}/{window.name}"


def _write_file(
    ledger: Ledger, facts: Facts, destination: Destination, account_id: str, window: ExportWindow, dataset: Dataset
) -> int:
    import pyarrow.parquet

    name, schema, count = _name_file(account_id, dataset.name, window), _make_schema(dataset), 0
    blocks = _read_rows(facts, account_id, window, dataset)
    first = next(blocks, None)
    if first is None:
        destination.remove(name)  # of before a crash, about people who were deleted since
        return 0
    with destination.write(name) as file, pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in itertools.chain([first], blocks):
            writer.write_batch(_make_batch(ledger, account_id, rows, schema))
            count += len(rows)
    return count


def _read_rows(facts: Facts, account_id: str, window: ExportWindow, dataset: Dataset) -> Iterator[Sequence[Row]]:
    """Yield (columns of its own, user, at, stored) of the records that were first stored in a window."""
    shown = ", ".join(f"{sql} AS shown_{name}" for name, sql, _ in dataset.columns)
    mine = "account = {account:String}"
    within = f"{mine} AND stored >= {{start:UInt64}} AND stored < {{end:UInt64}} AND {dataset.types}"
    before = (
        f"SELECT id, type, user FROM feed WHERE {mine} AND stored < {{start:UInt64}} "  # noqa: S608 - our own words
        f"AND id IN (SELECT id FROM feed WHERE {within})"
    )
    blocks = facts.stream(
        f"SELECT {shown}, user AS shown_user, toUnixTimestamp(at) AS shown_at, stored AS shown_stored FROM feed "  # noqa: S608
        f"WHERE {within} AND (id, type, user) NOT IN ({before}) LIMIT 1 BY id, type, user",
        {"account": account_id, "start": window.start, "end": window.end},
    )
    return (block for block in blocks if block)


def _make_schema(dataset: Dataset) -> Any:
    import pyarrow

    kinds = {name: getattr(pyarrow, kind)() for name, _, kind in dataset.columns}
    kinds |= {name: getattr(pyarrow, kind)() for name, kind in PERSON.items()}
    times = {"at": pyarrow.timestamp("s", "UTC"), "stored_at": pyarrow.timestamp("us", "UTC")}
    return pyarrow.schema(list((kinds | times).items()))


def _make_batch(ledger: Ledger, account_id: str, rows: Sequence[Row], schema: Any) -> Any:
    """Return a block of rows for Arrow, each with the names of its person as they are now."""
    import pyarrow

    *own, users, at, stored = zip(*rows, strict=True)
    names = ledger.read_now(lambda connection: read_names(connection, account_id, [int(user) for user in users]))
    of_person = [[_name(names, user, kind) for user in users] for kind in NAMES]
    columns = [*own, users, *of_person, at, stored]
    return pyarrow.record_batch(
        [pyarrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )


def _name(names: Mapping[int, Mapping[str, str]], user: int, kind: str) -> str | None:
    return names.get(user, {}).get(kind)


def _spell(stored: int) -> str:
    moment = datetime.fromtimestamp(stored // MICRO, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{stored % MICRO:06d}Z"
