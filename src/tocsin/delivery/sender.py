"""A sender: a process that renders, signs and sends what the worker has claimed. It opens no store.

The worker writes batches to its socket and reads their results. When the worker's process ends, for whatever reason,
the socket closes and the sender exits: what it had in flight is claimed in the ledger, and reported as unknown there.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import struct
import sys
import time

import msgspec
import structlog

from tocsin.delivery.batch import Batch, BatchResult
from tocsin.delivery.circuit_breaker import BreakerRules
from tocsin.delivery.lane import Lanes
from tocsin.log import configure_log
from tocsin.providers.credential import Credential
from tocsin.providers.transport import Transport

log = structlog.get_logger()

BUFFER_BYTES = 4 * 1024 * 1024
LENGTH = struct.Struct(">I")


class SenderRequest(msgspec.Struct, frozen=True, array_like=True):
    """One batch for a sender."""

    number: int
    credential: Credential
    batch: Batch


class SenderReply(msgspec.Struct, frozen=True, array_like=True):
    """The result of a batch; None after a bug: nobody knows what was sent."""

    number: int
    result: BatchResult | None


def main(descriptor: int, rules: BreakerRules) -> None:
    """Run a sender on an inherited socket until its other end is closed."""
    configure_log()
    for name in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches the whole group: the server decides when to end
        signal.signal(name, signal.SIG_IGN)
    os.nice(10)
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # messages come and go without cycles
    asyncio.run(_serve(socket.socket(fileno=descriptor), rules))
    os._exit(0)  # a thread that still talks to a relay must not keep it


async def _serve(sock: socket.socket, rules: BreakerRules) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=BUFFER_BYTES)
    decoder, encoder = msgspec.msgpack.Decoder(SenderRequest), msgspec.msgpack.Encoder()
    tasks: set[asyncio.Task[None]] = set()
    async with Transport() as transport:
        lanes = Lanes(transport, time.time, rules)

        async def run(request: SenderRequest) -> None:
            try:
                result: BatchResult | None = await lanes.get(request.credential).send_batch(request.batch)
            except Exception:
                log.exception("a batch broke off", provider=request.credential.name)
                result = None
            write_frame(writer, encoder.encode(SenderReply(request.number, result)))
            await writer.drain()

        while frame := await read_frame(reader):
            task = asyncio.create_task(run(decoder.decode(frame)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        os._exit(0)


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the next frame; empty at the end of the stream."""
    try:
        (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def write_frame(writer: asyncio.StreamWriter, content: bytes) -> None:
    """Write a frame: its length in four bytes, big-endian, then the content."""
    writer.write(LENGTH.pack(len(content)))
    writer.write(content)


if __name__ == "__main__":
    main(int(sys.argv[1]), BreakerRules(slow_start_seconds=float(sys.argv[2])))
