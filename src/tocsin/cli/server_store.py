"""Where `tocsin import` brings the rows it read while a server has the stores open: events as blocks that are made
here, so that the server has only to find their people and to insert; everything else as uploads of a thousand."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
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
from tocsin.ingest.column import Unusual
from tocsin.ingest.event_columns import COPIES, EncodedEvents, list_properties, make_block
from tocsin.ingest.record import IDENTITY_KINDS, PROPERTIES
from tocsin.store.data_folder import RunningServer

PIECE = 10 * COPIES  # rows of a block, whose bytes are a body; always thousands, as a file's uploads are
QUOTED = 3  # bytes of a text in JSON beside its own: quotes and a comma
NICE = 10  # of the threads that read and make blocks: sending goes before importing


def step_back() -> None:
    """Let the thread that calls this, and those that it starts, have the processor when nobody else wants it."""
    with contextlib.suppress(OSError):  # where a thread has no priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))


class ServerStore:
    """The server that runs on the folder."""

    def __init__(self, running: RunningServer, account: Account, options: Options):
        self._running = running
        self._account = account
        self._options = options
        self._admitted = (set[str](), set[str]())  # names of events and of their properties that the server knows
        # One block at a time, piece by piece: with four at once a million events took 7 s instead of 9, and the p99 of
        # a send was 55 ms instead of 25.
        self._turn = asyncio.Lock()

    async def take(self, block: Block, first: int, run: Run) -> Awaitable[Refused]:
        """See `Store`."""
        # By `identity` alone: whose a device is may change, and where a row names a person twice their order says it.
        if self._options.kind == "event" and [name for name in block.names if name in IDENTITY_KINDS] == ["identity"]:
            pieces = [range(start, min(start + PIECE, len(block))) for start in range(0, len(block), PIECE)]
            return asyncio.ensure_future(self._store_all(block, pieces, first, run))
        return _done(await self._upload(block, first, run))

    async def _store_all(self, block: Block, pieces: Sequence[range], first: int, run: Run) -> Refused:
        refused: Refused = {}
        async with self._turn:  # in the order of the file: a block that is noted has none before it that is not
            for rows in pieces:
                found = await self._store(block, rows, first, run)
                refused |= {rows.start + place: wrong for place, wrong in found.items()}
        return refused

    async def _store(self, block: Block, rows: range, first: int, run: Run) -> Refused:
        """Store some rows, as columns if they can be; return which of them are refused, by their places among them."""
        part = await asyncio.to_thread(select_rows, block, rows)
        try:
            events, refused = await asyncio.to_thread(check_columns, part, self._options, run)
            await self._store_columns(events, len(refused))
            return refused
        except Unusual:
            return await self._upload(part, first + rows.start, run)

    async def _store_columns(self, events: EncodedEvents, refused: int) -> None:
        import pyarrow as pa

        if not len(events.rows):
            return
        if len(events.props) > PROPERTIES:
            raise Unusual
        column = events.keys["identity"]
        await self._admit({*events.names.values}, {*list_properties(events)})
        values, users, found = list(column.values), list[int](), list[float]()
        while len(users) < len(values):
            asked = _take_some(values, len(users))
            answer = await self._ask("/local/people", {"kind": "identity", "values": asked})
            if answer["users"] is None:
                raise Unusual
            users += answer["users"]
            found.append(answer["found"])
        await self._store_block(events, column.spread(users, pa.uint32()), min(found), refused)

    async def _admit(self, names: set[str], properties: set[str]) -> None:
        """Have the server know the names of some events. Raises Unusual where it does not take them."""
        if names <= self._admitted[0] and properties <= self._admitted[1]:
            return
        asked = {"kind": "identity", "values": [], "names": sorted(names), "properties": sorted(properties)}
        if (await self._ask("/local/people", asked))["users"] is None:
            raise Unusual
        self._admitted[0].update(names)
        self._admitted[1].update(properties)

    async def _store_block(self, events: EncodedEvents, users: Any, found: float, refused: int) -> None:
        """Store events as a block, or as two where they are too large for a body. found: when their users were."""
        body = await asyncio.to_thread(make_block, self._account, events, users)
        if len(body) <= BODY_BYTES:
            said = f"found={found}&processed={len(users)}&unprocessed={refused}"
            await self._ask(f"/local/events?{said}", body)
            return
        middle = _find_middle(events.rows)
        first, second = events.leave_out(range(middle, len(users))), events.leave_out(range(middle))
        await self._store_block(first, users.slice(0, middle), found, refused)
        await self._store_block(second, users.slice(middle), found, 0)

    async def _upload(self, block: Block, first: int, run: Run) -> Refused:
        batches, refused = await asyncio.to_thread(make_batches, block, first, run, self._options)
        for batch in batches:
            refused |= await self._send(batch)
        return refused

    async def _send(self, batch: UploadBatch) -> Refused:
        answer = await self._ask("/local/upload", {"d": batch.records}, batch.key)
        refused: Refused = {}
        for one in answer["unprocessed"]:
            sentence, _, number = one["error"].rpartition("Skipped record number : ")
            refused[batch.places[int(number) - 1]] = Wrong(one["code"], forget_place(sentence))
        return refused

    async def _ask(self, path: str, body: Any, key: str | None = None) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self._running, path, self._account.id, body, 600, key)


def _find_middle(rows: Sequence[int]) -> int:
    """Return a place near the middle where another thousand of the file's rows begins. Raises Unusual for none."""
    start = rows[len(rows) // 2] // COPIES * COPIES
    for boundary in (start, start + COPIES):
        if 0 < (middle := bisect.bisect_left(rows, boundary)) < len(rows):
            return middle
    raise Unusual


def _take_some(values: Sequence[str], start: int) -> list[str]:
    """Return values from one on, as many as fit into a body, and one at least."""
    taken, size = list[str](), 0
    for value in values[start:]:
        size += len(value.encode()) + QUOTED
        if taken and size > BODY_BYTES:
            break
        taken.append(value)
    return taken


def _done(refused: Refused) -> asyncio.Future[Refused]:
    future: asyncio.Future[Refused] = asyncio.get_running_loop().create_future()
    future.set_result(refused)
    return future
