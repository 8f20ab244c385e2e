"""The files of one window: what an account stored between two times, as Parquet by kind and day.

A window's files have its times for a name and are renamed into place once they are whole, so a window that is written
again after a crash leaves the same files. A record that was stored again has its place in the window of the first time.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tocsin.stats.webhooks.batch import read_names
from tocsin.stats.webhooks.feed import MICRO
from tocsin.store.facts import Facts, Row
from tocsin.store.ledger import Ledger

MOST_ROWS = 1_000_000  # of a window: one that has more is cut
HOUR = 3600 * MICRO
UNFINISHED = ".unfinished"  # with a name that no other process has: one that was stopped while it wrote may go on
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


def write_files(ledger: Ledger, facts: Facts, folder: Path, account_id: str, window: ExportWindow) -> dict[str, int]:
    """Write a window's files below a folder, in the calling thread. Return how many rows each kind has. Memory does not
    grow with the window, but for its ids: a block of rows is held at a time."""
    return {one.name: _write_file(ledger, facts, folder, account_id, window, one) for one in DATASETS}


def forget_unfinished(folder: Path, account_id: str, window: ExportWindow) -> None:
    """Delete what is left of a window by processes that ended while they wrote it, once another one has written it."""
    for path in (folder / account_id).glob(f"*/day={window.day}/.{window.name}.*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _write_file(
    ledger: Ledger, facts: Facts, folder: Path, account_id: str, window: ExportWindow, dataset: Dataset
) -> int:
    import pyarrow.parquet

    place = folder / account_id / dataset.name / f"day={window.day}"
    unfinished, schema, count = place / f".{window.name}.{secrets.token_hex(8)}{UNFINISHED}", _make_schema(dataset), 0
    writer = None
    try:
        for rows in _read_rows(facts, account_id, window, dataset):
            if writer is None:
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
                writer = pyarrow.parquet.ParquetWriter(unfinished, schema, compression="zstd")
            writer.write_batch(_make_batch(ledger, account_id, rows, schema))
            count += len(rows)
    finally:
        if writer is not None:
            writer.close()
    if count:
        _put_in_place(unfinished, place / window.name)
    else:
        (place / window.name).unlink(missing_ok=True)  # of before a crash, about people who were deleted since
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


def _put_in_place(unfinished: Path, place: Path) -> None:
    """Give a file its name once it is on the disk."""
    unfinished.chmod(0o600)
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _spell(stored: int) -> str:
    moment = datetime.fromtimestamp(stored // MICRO, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{stored % MICRO:06d}Z"
