"""A sender: a process that renders, signs and sends what the worker has claimed. It opens no store.

The worker writes batches to its socket and reads what came of them. When the worker's process ends, for whatever
reason, the kernel ends the sender too; its notes say how far each message had come.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import socket
import sys
import time
from pathlib import Path

import msgspec
import structlog

from tocsin.delivery.batch import Batch
from tocsin.delivery.handover import NoteFile
from tocsin.delivery.outgoing import Answers, OutgoingLanes, make_provider
from tocsin.log import configure_log
from tocsin.providers.contract import Credential
from tocsin.providers.transport import Transport
from tocsin.store.child_process import BUFFER_BYTES, live_with, read_frame, write_frame

log = structlog.get_logger()

ALIVE_SECONDS = 2.0  # between two reports, if only to say that this process still turns
GATHER_SECONDS = 0.004  # answers of this time are one report


class SenderRequest(msgspec.Struct, frozen=True, array_like=True):
    """A batch for a lane, or (without one) the time before which it hands nothing over, in epoch seconds."""

    credential: Credential
    batch: Batch | None
    hold_until: float = 0.0


def main(descriptor: int, parent: int, notes: Path) -> None:
    """Run a sender on an inherited socket until its other end is closed."""
    configure_log()
    live_with(parent)
    file = NoteFile(notes)
    if not file.lock():  # somebody reads the notes already: the worker is dead
        os._exit(1)
    os.nice(10)
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # messages come and go without cycles
    asyncio.run(_serve(socket.socket(fileno=descriptor), file))
    os._exit(0)  # a thread that still talks to a relay must not keep it


async def _serve(sock: socket.socket, notes: NoteFile) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=BUFFER_BYTES)
    decoder = msgspec.msgpack.Decoder(SenderRequest)
    reporter = Reporter(writer)
    async with Transport() as transport:
        lanes = OutgoingLanes(functools.partial(make_provider, transport), notes, reporter.open, time.time)
        reporter.send()  # «ready»
        alive = asyncio.create_task(_stay_heard(lanes, reporter))
        while frame := await read_frame(reader):
            request = decoder.decode(frame)
            lane = lanes.get(request.credential)
            if request.batch is None:
                lane.hold(request.hold_until)
            else:
                lane.put(request.batch)
        alive.cancel()
        os._exit(0)


async def _stay_heard(lanes: OutgoingLanes, reporter: Reporter) -> None:
    """Report now and then while messages are under way: who says nothing for long hangs in one of them."""
    while True:
        await asyncio.sleep(ALIVE_SECONDS)
        if lanes.busy:
            reporter.open()


class Reporter:
    """Gathers answers for a moment, and writes them to the worker."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._encoder = msgspec.msgpack.Encoder()
        self._answers = Answers()
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> Answers:
        """Return the answers that are written next."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self.send)
        return self._answers

    def send(self) -> None:
        """Write the answers of this moment."""
        answers, self._answers, self._timer = self._answers, Answers(), None
        write_frame(self._writer, self._encoder.encode(answers))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
