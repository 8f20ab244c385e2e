"""The sender pool: processes that send, so that the worker's own interpreter is free to claim and settle. A pool of 0
sends in the worker's process.
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
    """One sender process, as the worker sees it: started when first needed, and again after it died."""

    def __init__(self, rules: BreakerRules) -> None:
        self.batches = 0  # in flight
        self._rules = rules
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[BatchResult | None]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def send_batch(self, credential: Credential, batch: Batch) -> BatchResult:
        """Send a batch. When the process dies or hangs meanwhile, every message of it is unknown."""
        self.batches += 1
        try:
            writer = await self._start()
            number = next(self._numbers)
            self._waiting[number] = reply = asyncio.get_running_loop().create_future()
            write_frame(writer, msgspec.msgpack.encode(SenderRequest(number, credential, batch)))
            with contextlib.suppress(ConnectionError):  # `_read` ends what was waiting
                await writer.drain()
            result = await asyncio.wait_for(reply, BATCH_SECONDS)
        except TimeoutError:
            log.error("a sender hangs and is ended", provider=credential.name)
            await self.aclose()
            result = None
        finally:
            self.batches -= 1
        return result or BatchResult(dict.fromkeys(range(len(batch.messages)), LOST))

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
            waiter = self._waiting.pop(reply.number, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(reply.result)
        writer.close()
        if self._writer is writer:
            self._writer = None
        if self._waiting:
            log.error("a sender died; what it had in flight is unknown", batches=len(self._waiting))
        while self._waiting:
            _, waiter = self._waiting.popitem()
            if not waiter.done():
                waiter.set_result(None)

    async def aclose(self) -> None:
        """End the process; what it has in flight is unknown."""
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
    """Sends one credential's batches through sender processes. Knows of a pause from their replies."""

    def __init__(self, processes: list[SenderProcess], credential: Credential):
        self.name = credential.name
        self.paused_until = 0.0
        self.slow_start_from = 0.0
        self.credential = credential
        self._processes = processes

    async def send_batch(self, batch: Batch) -> BatchResult:
        """Send a batch through the process with the fewest in flight."""
        process = min(self._processes, key=lambda one: one.batches)
        if self.slow_start_from:
            batch = msgspec.structs.replace(batch, slow_start_from=self.slow_start_from)
        result = await process.send_batch(self.credential, batch)
        self.paused_until = max(self.paused_until, result.paused_until)
        self.slow_start_from = max(self.slow_start_from, result.slow_start_from)
        return result


class SenderPool:
    """The senders of every account, over `processes` sender processes; 0: in this process."""

    def __init__(self, ledger: Ledger, processes: int, clock: Callable[[], float], rules: BreakerRules = NO_RULES):
        self._ledger = ledger
        self._processes = [SenderProcess(rules) for _ in range(processes)]
        self._transport = Transport()
        self._lanes = Lanes(self._transport, clock, rules)
        self._remote: dict[tuple[str, str], RemoteSender] = {}

    async def for_account(self, account_id: str) -> Mapping[str, Lane | RemoteSender]:
        """Return an account's senders by platform. A platform without one has no provider set."""
        credentials = await self._ledger.read(lambda connection: read_credentials(connection, account_id))
        return {BY_NAME[one.name].platform: self._find(one) for one in credentials}

    def _find(self, credential: Credential) -> Lane | RemoteSender:
        if not self._processes:
            return self._lanes.get(credential)
        key = (credential.account_id, credential.name)
        if key not in self._remote or self._remote[key].credential != credential:
            self._remote[key] = RemoteSender(self._processes, credential)
        return self._remote[key]

    async def aclose(self) -> None:
        """End every process and close every connection."""
        for process in self._processes:
            await process.aclose()
        await self._transport.aclose()
