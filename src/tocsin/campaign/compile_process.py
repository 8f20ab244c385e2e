"""A process in which contents are compiled: what takes long there takes nobody else's interpreter.

The server writes pieces of work to its socket, and reads what came of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import structlog

from tocsin.errors import Problem
from tocsin.log import configure_log
from tocsin.store.child_process import BUFFER_BYTES, kill, live_with, read_frame, start_child, write_frame

log = structlog.get_logger()

T = TypeVar("T")

NUMBER = struct.Struct(">Q")  # of a piece of work, before it and before what came of it
THREADS = 4
SWITCH_SECONDS = 0.001  # between two that compile; Python's own 5 ms are a long wait for one that takes 1
SILENT_SECONDS = 10.0  # with work and without any answer; `metering.py` ends a content after some 50 ms
CHECK_SECONDS = 1.0
TROUBLE_SECONDS = 5.0  # before it may be started again
ENDED = "the content could not be compiled; try again"


class CompileProcess:
    """The process, as the server sees it: started when it is wanted, and again when it is wanted after it died."""

    def __init__(self, silent_seconds: float = SILENT_SECONDS, trouble_seconds: float = TROUBLE_SECONDS) -> None:
        self._silent_seconds, self._trouble_seconds = silent_seconds, trouble_seconds
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._heard = 0.0  # since when nothing was answered while there was work, in monotonic seconds
        self._number = 0

    @property
    def up(self) -> bool:
        return self._writer is not None

    def start(self) -> None:
        """Begin to start it, when it neither runs nor is about to."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def begin(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have `work` done there, while the process is `up`. Return a future of what it returns or raises, or of
        Problem 503 when the process ends meanwhile."""
        assert self._writer is not None
        told = pickle.dumps(work)
        self._number += 1
        self._heard = self._heard if self._waiting else time.monotonic()
        found = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        write_frame(self._writer, NUMBER.pack(self._number) + told)
        return found

    async def aclose(self) -> None:
        """End the process."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        try:
            await self._run_once()
        except Exception:
            log.exception("the process that compiles contents failed")
        await asyncio.sleep(self._trouble_seconds)

    async def _run_once(self) -> None:
        process, reader, writer = await start_child("tocsin.campaign.compile_process")
        checking = asyncio.create_task(self._check_regularly(process))
        try:
            while frame := await read_frame(reader):
                self._writer = writer  # the first frame says that it is ready
                self._receive(frame)
        finally:
            self._writer = None
            self._give_up()
            checking.cancel()
            writer.close()
            kill(process)
            await process.wait()

    def _receive(self, frame: bytes) -> None:
        self._heard = time.monotonic()
        (number,) = NUMBER.unpack_from(frame)
        result, error = pickle.loads(frame[NUMBER.size :])  # noqa: S301 - of our own process
        found = self._waiting.pop(number, None)
        if found is None or found.done():  # «ready», or nobody waits any more
            return
        if error is None:
            found.set_result(result)
        else:
            found.set_exception(error)

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if waiting:
            log.error("the process that compiles contents ended", contents=len(waiting))
        for found in waiting.values():
            if not found.done():
                found.set_exception(Problem(ENDED, code=503, status=503, retry_after=1))

    async def _check_regularly(self, process: asyncio.subprocess.Process) -> None:
        """End it when it has work and answers nothing."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if self._waiting and time.monotonic() - self._heard > self._silent_seconds:
                log.error("the process that compiles contents hangs and is ended")
                kill(process)
                return


def main(descriptor: int, parent: int) -> None:
    """Do the work that comes over an inherited socket until its other end is closed."""
    configure_log()
    live_with(parent)
    os.nice(10)
    sys.setswitchinterval(SWITCH_SECONDS)
    import tocsin.campaign.send
    import tocsin.campaign.spec  # noqa: F401 - loaded before the first piece of work waits for it

    gc.freeze()
    asyncio.run(_serve(socket.socket(fileno=descriptor)))
    os._exit(0)  # what is still being compiled must not keep it


async def _serve(sock: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=BUFFER_BYTES)
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(THREADS)
    write_frame(writer, _write_answer(0, None, None))  # «ready»
    while frame := await read_frame(reader):
        done = loop.run_in_executor(threads, _do, frame)
        done.add_done_callback(partial(_answer, writer))


def _do(frame: bytes) -> bytes:
    (number,) = NUMBER.unpack_from(frame)
    try:
        return _write_answer(number, pickle.loads(frame[NUMBER.size :])(), None)  # noqa: S301 - of our own server
    except Problem as problem:
        return _write_answer(number, None, problem)
    except Exception:  # a bug; the server raises it where the work was asked for
        return _write_answer(number, None, RuntimeError(traceback.format_exc()))


def _write_answer(number: int, result: Any, error: Exception | None) -> bytes:
    return NUMBER.pack(number) + pickle.dumps((result, error))


def _answer(writer: asyncio.StreamWriter, done: asyncio.Future[bytes]) -> None:
    write_frame(writer, done.result())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
