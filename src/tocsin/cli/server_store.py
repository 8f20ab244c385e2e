"""Where `tocsin import` brings the rows it read while a server has the stores open: events as blocks that are made
here, so that the server has only to find their people and to insert; everything else as uploads of a thousand."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Sequence
from typing import Any

from tocsin.account import Account
from tocsin.cli.local_server import ask
from tocsin.cli.record_file import Block, Options, Wrong
from tocsin.cli.record_store import (
    BODY_BYTES,
    Refused,
    Run,
    UploadBatch,
    check_columns,
    forget_place,
    make_batches,
    select_rows,
)
from tocsin.ingest import RECORDS
from tocsin.ingest.column import Unusual
from tocsin.ingest.event_columns import COPIES, EncodedEvents, list_properties, make_block
from tocsin.ingest.record import IDENTITY_KINDS, PROPERTIES
from tocsin.store.data_folder import RunningServer

PIECE = 10 * COPIES  # rows of a block, whose bytes are a body
NICE = 10  # of the threads that read and make blocks: sending goes before importing


def step_back() -> None:
    """Let the thread that calls this, and those that it starts, have the processor when nobody else wants it."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class ServerStore:
    """The server that runs on the folder."""

    def __init__(self, running: RunningServer, account: Account, options: Options):
        self._running = running
        self._account = account
        self._options = options
        self._admitted = (set[str](), set[str]())  # names of events and of their properties that the server knows
        # One piece at a time: with four 1,000,000 events took 7 s in place of 9, and the p99 of a send 55 ms for 25.
        self._turn = asyncio.Lock()

    async def take(self, block: Block, first: int, run: Run) -> Awaitable[Refused]:
        """See `Store`."""
        # Where a row names a person twice, the order of rows says whose a device is.
        if self._options.kind == "event" and sum(name in IDENTITY_KINDS for name in block.names) == 1:
            pieces = [range(start, min(start + PIECE, len(block))) for start in range(0, len(block), PIECE)]
            return asyncio.ensure_future(self._store_all(block, pieces, first, run))
        refused: Refused = {}
        batches, wrong = await asyncio.to_thread(make_batches, block, first, run, self._options)
        for batch in batches:
            refused |= await self._send(batch)
        return _done(refused | wrong)

    async def _store_all(self, block: Block, pieces: Sequence[range], first: int, run: Run) -> Refused:
        refused: Refused = {}
        for rows, found in zip(
            pieces, await asyncio.gather(*(self._store(block, rows, first, run) for rows in pieces)), strict=True
        ):
            refused |= {rows.start + place: wrong for place, wrong in found.items()}
        return refused

    async def _store(self, block: Block, rows: range, first: int, run: Run) -> Refused:
        """Store some rows, as columns if they can be; return which of them are refused, by their places among them."""
        async with self._turn:
            part = await asyncio.to_thread(select_rows, block, rows)
            try:
                events, refused = await asyncio.to_thread(check_columns, part, self._options, run)
                await self._store_columns(events)
                return refused
            except Unusual:
                batches, refused = await asyncio.to_thread(make_batches, part, first + rows.start, run, self._options)
        for batch in batches:
            refused |= await self._send(batch)
        return refused

    async def _store_columns(self, events: EncodedEvents) -> None:
        import pyarrow as pa

        if not len(events.rows):
            return
        if len(events.props) > PROPERTIES:
            raise Unusual
        [(kind, column)] = events.keys.items()
        names, properties = {*events.names.values}, {*list_properties(events)}
        asked: dict[str, Any] = {"kind": kind, "values": list(column.values)}
        if not (names <= self._admitted[0] and properties <= self._admitted[1]):
            asked |= {"names": sorted(names), "properties": sorted(properties)}
        answer = await self._ask("/local/people", asked)
        if answer["users"] is None:
            raise Unusual
        for known, more in zip(self._admitted, (names, properties), strict=True):
            known.update(more)
        found, users = answer["found"], column.spread(answer["users"], pa.uint32())
        body = await asyncio.to_thread(make_block, self._account, events, users)
        if len(body) > BODY_BYTES:
            raise Unusual
        await self._ask(f"/local/events?found={found}&records={len(events.rows)}", body)

    async def _send(self, batch: UploadBatch) -> Refused:
        answer = await self._ask("/local/upload", {"d": batch.records}, batch.key)
        refused: Refused = {}
        for one in answer["unprocessed"]:
            sentence, _, number = one["error"].rpartition("Skipped record number : ")
            refused[batch.places[int(number) - 1]] = Wrong(one["code"], forget_place(sentence))
        return refused

    async def _ask(self, path: str, body: Any, key: str | None = None) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self._running, path, self._account.id, body, 600, key)


def _done(refused: Refused) -> asyncio.Future[Refused]:
    future: asyncio.Future[Refused] = asyncio.get_running_loop().create_future()
    future.set_result(refused)
    return future


assert PIECE % RECORDS == 0  # rows of an upload are those of one thousand of a file
