"""The senders of a server: processes that send, so that the server's own interpreter is free to claim and settle.

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

from tocsin.delivery.batch import Batch, BatchResult
from tocsin.delivery.circuit_breaker import NO_RULES, BreakerRules
from tocsin.delivery.lane import Lane, Lanes
from tocsin.delivery.sender import SenderReply, SenderRequest, read_frame, write_frame
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Receipt
from tocsin.providers.credential import Credential, read_credentials
from tocsin.providers.transport import Transport
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

BATCH_SECONDS = 900.0  # for one batch; a sender that needs longer hangs, and is ended
BUFFER_BYTES = 4 * 1024 * 1024
LOST = Receipt(outcome=Outcome.UNKNOWN, code="sender lost")


class SenderProcess:
    """One process, started when first needed and again after it died."""

    def __init__(self, rules: BreakerRules) -> None:
        self.busy = 0
        self._rules = rules
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[BatchResult | None]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def send_batch(self, credential: Credential, batch: Batch) -> BatchResult:
        """What came of a batch. When the process dies under it nobody knows."""
        self.busy += 1
        try:
            writer = await self._start()
            number = next(self._numbers)
            self._waiting[number] = asked = asyncio.get_running_loop().create_future()
            write_frame(writer, msgspec.msgpack.encode(SenderRequest(number, credential, batch)))
            with contextlib.suppress(ConnectionError):  # the reader answers for what was waiting
                await writer.drain()
            sent = await asyncio.wait_for(asked, BATCH_SECONDS)
        except TimeoutError:
            log.error("a sender hangs and is ended", provider=credential.name)
            await self.aclose()
            sent = None
        finally:
            self.busy -= 1
        return sent or BatchResult(dict.fromkeys(range(len(batch.messages)), LOST))

    async def _start(self) -> asyncio.StreamWriter:
        async with self._starting:
            if self._writer is None:
                ours, theirs = socket.socketpair()
                with theirs:
                    self._process = await asyncio.create_subprocess_exec(
                        *(
                            sys.executable,
                            "-m",
                            "tocsin.delivery.sender",
                            str(theirs.fileno()),
                            str(self._rules.slow_start_seconds),
                        ),
                        pass_fds=(theirs.fileno(),),
                        stdin=asyncio.subprocess.DEVNULL,
                        env=os.environ,
                    )
                reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=BUFFER_BYTES)
                self._reading = asyncio.create_task(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = msgspec.msgpack.Decoder(SenderReply)
        while frame := await read_frame(reader):
            reply = decoder.decode(frame)
            asked = self._waiting.pop(reply.number, None)
            if asked is not None and not asked.done():
                asked.set_result(reply.sent)
        writer.close()
        if self._writer is writer:
            self._writer = None
        if self._waiting:
            log.error("a sender died; what it had under way is unknown", batches=len(self._waiting))
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


class RemoteSender:
    """A sender by way of the senders."""

    def __init__(self, senders: list[SenderProcess], credential: Credential):
        self.name = credential.name
        self.paused_until = 0.0
        self.slow_start_from = 0.0
        self.credential = credential
        self._senders = senders

    async def send_batch(self, batch: Batch) -> BatchResult:
        """Hands a batch to the process with the least to do."""
        process = min(self._senders, key=lambda one: one.busy)
        if self.slow_start_from:
            batch = msgspec.structs.replace(batch, slow_start_from=self.slow_start_from)
        sent = await process.send_batch(self.credential, batch)
        self.paused_until = max(self.paused_until, sent.paused_until)
        self.slow_start_from = max(self.slow_start_from, sent.slow_start_from)
        return sent


class SenderPool:
    """The senders of every account, over so many senders; 0: in this process."""

    def __init__(self, ledger: Ledger, senders: int, clock: Callable[[], float], rules: BreakerRules = NO_RULES):
        self._ledger = ledger
        self._senders = [SenderProcess(rules) for _ in range(senders)]
        self._transport = Transport()
        self._lanes = Lanes(self._transport, clock, rules)
        self._routes: dict[tuple[str, str], RemoteSender] = {}

    async def for_account(self, account_id: str) -> Mapping[str, Lane | RemoteSender]:
        """An account's senders by platform. A platform without one has no provider set."""
        credentials = await self._ledger.read(lambda connection: read_credentials(connection, account_id))
        return {BY_NAME[one.name].platform: self._find(one) for one in credentials}

    def _find(self, credential: Credential) -> Lane | RemoteSender:
        if not self._senders:
            return self._lanes.get(credential)
        key = (credential.account_id, credential.name)
        if key not in self._routes or self._routes[key].credential != credential:
            self._routes[key] = RemoteSender(self._senders, credential)
        return self._routes[key]

    async def aclose(self) -> None:
        """Ends every process and closes every connection."""
        for process in self._senders:
            await process.aclose()
        await self._transport.aclose()
