"""The couriers of a server: processes that send, so that the server's own interpreter is free to claim and settle.

With none, the server sends by itself. Either way a `Road` carries batches and says what came of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Callable, Mapping

import msgspec
import structlog
from sqlalchemy import Connection, select

from tocsin.batch import Batch, Sent
from tocsin.courier import Errand, Report, read_frame, write_frame
from tocsin.errors import Problem
from tocsin.guard import NO_RULES, Rules
from tocsin.lane import Credential, Lane, Lanes
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Receipt
from tocsin.providers.transport import Transport
from tocsin.store import schema
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

BATCH_SECONDS = 900.0  # for one batch; a courier that needs longer hangs, and is ended
BUFFER_BYTES = 4 * 1024 * 1024
LOST = Receipt(outcome=Outcome.UNKNOWN, code="courier lost")


class Courier:
    """One process, started when first needed and again after it died."""

    def __init__(self, rules: Rules) -> None:
        self.busy = 0
        self._rules = rules
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Sent | None]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def carry(self, credential: Credential, batch: Batch) -> Sent:
        """What came of a batch. When the process dies under it nobody knows."""
        self.busy += 1
        try:
            writer = await self._start()
            number = next(self._numbers)
            self._waiting[number] = asked = asyncio.get_running_loop().create_future()
            write_frame(writer, msgspec.msgpack.encode(Errand(number, credential, batch)))
            with contextlib.suppress(ConnectionError):  # the reader answers for what was waiting
                await writer.drain()
            sent = await asyncio.wait_for(asked, BATCH_SECONDS)
        except TimeoutError:
            log.error("a courier hangs and is ended", provider=credential.name)
            await self.aclose()
            sent = None
        finally:
            self.busy -= 1
        return sent or Sent(dict.fromkeys(range(len(batch.parcels)), LOST))

    async def _start(self) -> asyncio.StreamWriter:
        async with self._starting:
            if self._writer is None:
                ours, theirs = socket.socketpair()
                with theirs:
                    self._process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "tocsin.courier", str(theirs.fileno()), str(self._rules.ramp_seconds)),
                        pass_fds=(theirs.fileno(),),
                        stdin=asyncio.subprocess.DEVNULL,
                        env=os.environ,
                    )
                reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=BUFFER_BYTES)
                self._reading = asyncio.create_task(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = msgspec.msgpack.Decoder(Report)
        while frame := await read_frame(reader):
            report = decoder.decode(frame)
            asked = self._waiting.pop(report.number, None)
            if asked is not None and not asked.done():
                asked.set_result(report.sent)
        writer.close()
        if self._writer is writer:
            self._writer = None
        if self._waiting:
            log.error("a courier died; what it had under way is unknown", batches=len(self._waiting))
        while self._waiting:
            _, asked = self._waiting.popitem()
            if not asked.done():
                asked.set_result(None)

    async def aclose(self) -> None:
        """Ends the process; what it has under way is unknown."""
        writer, process, reading = self._writer, self._process, self._reading
        self._writer = self._process = self._reading = None
        if writer is not None:
            writer.close()
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()
        if reading is not None:
            await reading


class Route:
    """A road by way of the couriers."""

    def __init__(self, couriers: list[Courier], credential: Credential):
        self.name = credential.name
        self.paused_until = 0.0
        self.climbs_from = 0.0
        self.credential = credential
        self._couriers = couriers

    async def carry(self, batch: Batch) -> Sent:
        """Hands a batch to the courier with the least to do."""
        courier = min(self._couriers, key=lambda one: one.busy)
        if self.climbs_from:
            batch = msgspec.structs.replace(batch, climbs_from=self.climbs_from)
        sent = await courier.carry(self.credential, batch)
        self.paused_until = max(self.paused_until, sent.paused_until)
        self.climbs_from = max(self.climbs_from, sent.climbs_from)
        return sent


class Fleet:
    """The roads of every account, over so many couriers; 0: in this process."""

    def __init__(self, ledger: Ledger, couriers: int, clock: Callable[[], float], rules: Rules = NO_RULES):
        self._ledger = ledger
        self._couriers = [Courier(rules) for _ in range(couriers)]
        self._transport = Transport()
        self._lanes = Lanes(self._transport, clock, rules)
        self._routes: dict[tuple[str, str], Route] = {}

    async def of(self, account_id: str) -> Mapping[str, Lane | Route]:
        """An account's roads by platform. A platform without one has no provider set."""
        credentials = await self._ledger.read(lambda connection: read_credentials(connection, account_id))
        return {BY_NAME[one.name].platform: self._find(one) for one in credentials}

    def _find(self, credential: Credential) -> Lane | Route:
        if not self._couriers:
            return self._lanes.get(credential)
        key = (credential.account_id, credential.name)
        if key not in self._routes or self._routes[key].credential != credential:
            self._routes[key] = Route(self._couriers, credential)
        return self._routes[key]

    async def aclose(self) -> None:
        """Ends every courier and closes every connection."""
        for courier in self._couriers:
            await courier.aclose()
        await self._transport.aclose()


def require_provider(connection: Connection, account_id: str, channel: str) -> None:
    """Raises Problem when a channel that has one provider of its name has none set: sms and webpush."""
    table = schema.provider
    mine = (table.c.account_id == account_id, table.c.name == channel)
    if channel in BY_NAME and connection.scalar(select(table.c.name).where(*mine)) is None:
        raise Problem(f"No {channel} provider is set for this account; `tocsin provider set {channel}` sets one")


def read_credentials(connection: Connection, account_id: str) -> list[Credential]:
    table = schema.provider
    rows = connection.execute(
        select(table.c.name, table.c.settings, table.c.changed_at, table.c.trusted).where(
            table.c.account_id == account_id
        )
    )
    return [Credential(account_id, name, settings, at, bool(trusted)) for name, settings, at, trusted in rows]
