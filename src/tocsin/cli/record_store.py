"""Where `tocsin import` brings the rows it read where no server runs: the stores, opened by this process. And what a
block of rows is as columns and as uploads, wherever it goes (`server_store`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

import msgspec

from tocsin import idempotency
from tocsin.account import Account
from tocsin.cli.cell_time import UnreadTime, read_time
from tocsin.cli.record_file import Block, Options, Wrong, bad_time, to_records
from tocsin.idempotency import IdempotencyKey
from tocsin.ingest import RECORDS, start_upload
from tocsin.ingest.column import Cells, Column, NumberCells, Texts, Unusual, fill, match
from tocsin.ingest.event_columns import EncodedEvents, EventColumns, store_events
from tocsin.ingest.event_encoder import Encoder
from tocsin.ingest.names import NameLimits
from tocsin.ingest.profile_columns import ProfileColumns, store_newcomers
from tocsin.ingest.record import IDENTITY_KINDS
from tocsin.store.stores import Stores

BODY_BYTES = 2 * 1024 * 1024  # of one request: below the default limit of a body
SECONDS = r"\A[1-3][0-9]{9}\z"  # in RE2; since 2001, which are no date and no other unit
PLACE = re.compile(r" \(at \$[^()]*\)(?=\.?$)")
Refused = dict[int, Wrong]  # by the row's place in its block


class Run(msgspec.Struct, frozen=True):
    """One import of one file. name: part of the keys that make its rows count once. now: of rows without a time."""

    name: str
    now: float


class Store(Protocol):
    """Takes blocks in order."""

    async def take(self, block: Block, first: int, run: Run) -> Awaitable[Refused]:
        """Store a block, whose first row is the file's `first` (from 0); return when the next one may come, with what
        ends when all of the block is stored."""
        ...


class UploadBatch(msgspec.Struct, frozen=True):
    """Records of one upload, the places of their rows in the block, and the key where they may not count twice."""

    places: list[int]
    records: list[Any]
    key: str | None


def make_batches(block: Block, first: int, run: Run, options: Options) -> tuple[list[UploadBatch], Refused]:
    """Return the uploads that a block is, each of a thousand rows or fewer, and the rows that are wrong already."""
    records = to_records(block, options)
    batches: list[UploadBatch] = []
    for start in range(0, len(records), RECORDS):
        places = [one for one in range(start, min(start + RECORDS, len(records))) if one not in block.wrong]
        chosen = [records[place] for place in places]
        for one in chosen:
            if isinstance(one, dict) and one.get("ts") is None and one.get("type") == "event":
                one["ts"] = int(run.now)
        key = f"import-{run.name}-{first + start}" if any(map(counts_again, chosen)) else None
        batches += _split(places, chosen, key)
    return batches, dict(block.wrong)


def counts_again(record: Any) -> bool:
    """Return whether a record would count twice when it is taken again."""
    data = record.get("profileData") if isinstance(record, dict) else None
    if not isinstance(data, dict):
        return False
    return any(isinstance(value, dict) and ("$incr" in value or "$decr" in value) for value in data.values())


def forget_place(sentence: str) -> str:
    """Return a sentence without the place in a request that it ends with: who has a file knows the line."""
    return PLACE.sub("", sentence.strip())


def _split(places: list[int], records: list[Any], key: str | None) -> list[UploadBatch]:
    """Return batches whose bodies are not too long."""
    total = len(msgspec.json.encode(records))
    if total <= BODY_BYTES or len(records) < 2:
        return [UploadBatch(places, records, key)] if records else []
    middle = len(records) // 2
    return [
        *_split(places[:middle], records[:middle], key and f"{key}-0"),
        *_split(places[middle:], records[middle:], key and f"{key}-1"),
    ]


class StoresStore:
    """The two stores, opened by this process."""

    def __init__(self, stores: Stores, account: Account, options: Options, limits: NameLimits):
        self._stores = stores
        self._account = account
        self._options = options
        self._limits = limits

    async def take(self, block: Block, first: int, run: Run) -> Awaitable[Refused]:
        """See `Store`. What lies in columns is stored as columns; what cannot be goes record by record."""
        if block.columns and self._options.kind != "token":
            try:
                return await (self._take_columns if self._options.kind == "event" else self._take_people)(block, run)
            except Unusual:
                pass
        return await self._take_records(block, first, run)

    async def _take_records(self, block: Block, first: int, run: Run) -> Awaitable[Refused]:
        batches, refused = await asyncio.to_thread(make_batches, block, first, run, self._options)
        copies: list[asyncio.Future[Any]] = []
        for batch in batches:
            answer, copied = await self._upload(batch, run)
            refused |= answer
            if copied is not None:
                copies.append(copied)
        return asyncio.ensure_future(_wait(copies, refused))

    async def _take_people(self, block: Block, run: Run) -> Awaitable[Refused]:
        stores = (self._stores.ledger, self._stores.facts, self._account)
        left, copied = await store_newcomers(*stores, to_profiles(block), self._limits, run.now)
        if not left:
            return asyncio.ensure_future(_wait([copied], {}))
        # No cell of a column is an operation, so no row has a key that its place would be part of.
        others = await self._take_records(select_rows(block, left), 0, run)

        async def wait() -> Refused:
            await copied
            return {left[place]: wrong for place, wrong in (await others).items()}

        return asyncio.ensure_future(wait())

    async def _take_columns(self, block: Block, run: Run) -> Awaitable[Refused]:
        stores = (self._stores.ledger, self._stores.facts, self._account)
        events, refused = await asyncio.to_thread(check_columns, block, self._options, run)
        copied = await store_events(*stores, events, self._limits, run.now)
        return asyncio.ensure_future(_wait([copied], refused))

    async def _upload(self, batch: UploadBatch, run: Run) -> tuple[Refused, asyncio.Future[Any] | None]:
        """Upload a batch, once under its key; what a run before this one stored is not stored again."""
        ledger, facts = self._stores.ledger, self._stores.facts
        key = IdempotencyKey(self._account.id, batch.key, b"import") if batch.key else None
        if key is not None:
            kept = await ledger.write(lambda connection: idempotency.keep(connection, key, "", run.now))
            if kept is not None and kept.answer:
                return msgspec.json.decode(kept.answer, type=Refused), None
        given = (ledger, facts, self._account, {"d": batch.records}, run.now)
        result, copied = await start_upload(*given, system=True, key=key, limits=self._limits)
        refused: Refused = {}
        for number, one in zip(result.numbers, result.unprocessed, strict=True):
            sentence = one["error"].rpartition("Skipped record number : ")[0]
            refused[batch.places[number]] = Wrong(one["code"], forget_place(sentence))
        if key is not None:
            await copied
            text = msgspec.json.encode(refused).decode()
            await ledger.write(lambda connection: idempotency.complete(connection, key, text))
        return refused, copied


def check_columns(block: Block, options: Options, run: Run) -> tuple[EncodedEvents, Refused]:
    """Return the events of a block that are right, encoded, and why the others are refused. Raises Unusual."""
    refused: Refused = {}
    encoder = Encoder(run.now)
    events, doubtful = encoder.encode(to_columns(block, options, run, refused))
    wrong = sorted({*doubtful, *block.wrong, *refused})
    if not wrong:
        return events, {}
    some = select_rows(block, wrong)
    for number, record in enumerate(to_records(some, options)):
        reason = some.wrong.get(number) or encoder.explain(record)
        if reason is None:
            raise Unusual
        refused[wrong[number]] = reason if isinstance(reason, Wrong) else Wrong(reason.code, forget_place(reason.error))
    return events.leave_out({*wrong}), refused


def select_rows(block: Block, rows: Sequence[int]) -> Block:
    """Return these rows of a block that lies in columns."""
    import pyarrow as pa

    places = pa.array(rows, pa.int64())
    return msgspec.structs.replace(
        block,
        lines=[block.lines[place] for place in rows],
        columns=[column.select(places) for column in block.columns],
        wrong={number: block.wrong[place] for number, place in enumerate(rows) if place in block.wrong},
    )


def _has_nested(column: Column) -> bool:
    return not isinstance(column.values, Cells) and any(isinstance(one, list | dict) for one in column.values)


def to_profiles(block: Block) -> ProfileColumns:
    """Return a block's columns as those of profiles. Raises Unusual for names beside the identity, for times, and for
    columns that hold lists or objects."""
    columns = {name: column for name, column in zip(block.names, block.columns, strict=True) if name}
    identities = columns.pop("identity", None)
    unusual = {"type", "profileData", "ts", *IDENTITY_KINDS} & columns.keys()
    if identities is None or unusual or any(map(_has_nested, columns.values())):
        raise Unusual
    return ProfileColumns(identities, columns, block.read_cell, block.wrong)


def to_columns(block: Block, options: Options, run: Run, refused: Refused) -> EventColumns:
    """Return a block's columns as those of events. Times that are not understood are None, and noted as refused. Raises
    Unusual for columns that hold lists or objects."""
    keys: dict[str, Column] = {}
    props: dict[str, Column] = {}
    count = len(block)
    names, times = fill(options.event, count), fill(None, count)
    for name, column in zip(block.names, block.columns, strict=True):
        if name in ("type", "evtData") or _has_nested(column):
            raise Unusual
        if name in IDENTITY_KINDS:
            keys[name] = column
        elif name == "evtName":
            names = column.change_odd(".", lambda one: one or options.event)
        elif name == "ts":
            times = column
        elif name:
            props[name] = column
    at = _read_times(times, options, run, refused)
    return EventColumns(range(count), keys, at, names, props, block.read_cell)


def _read_times(column: Column, options: Options, run: Run, refused: Refused) -> Any:
    """Return times as an Arrow array of epoch seconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wrong: dict[int, Wrong] = {}

    def read(code: int, cell: Any) -> int | None:
        if cell is None or cell == "":
            return int(run.now)
        if type(cell) is str and cell.isascii() and cell.isdigit() and len(cell) == 10 and "0" < cell[0] < "4":
            return int(cell)
        try:
            return read_time(cell, options.zone)
        except UnreadTime as error:
            wrong[code] = bad_time(error)
            return None

    if isinstance(column.values, Texts | NumberCells):
        array = column.values.array
        if pc.all(match(array.cast(pa.string()), SECONDS)).as_py():
            return array.cast(pa.int64()).take(column.codes)
    at = column.spread([read(code, cell) for code, cell in enumerate(column.values)], pa.int64())
    if wrong:
        refused.update({place: wrong[code] for place, code in enumerate(column.codes.to_pylist()) if code in wrong})
    return at


async def _wait(copies: list[asyncio.Future[Any]], refused: Refused) -> Refused:
    await asyncio.gather(*copies)
    return refused
