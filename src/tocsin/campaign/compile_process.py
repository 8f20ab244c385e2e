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
from typing import Any, TypeVar, cast

import structlog

from tocsin.errors import Problem
from tocsin.log import configure_log
from tocsin.store.child_process import live_with, make_environment, read_frame, write_frame

log = structlog.get_logger()

T = TypeVar("T")
Work = Callable[[], Any]

NUMBER = struct.Struct(">Q")  # of a piece of work, before it and before what came of it
THREADS = 4
SWITCH_SECONDS = 0.001  # between two that compile; Python's own 5 ms are a long wait for one that takes 1
BUFFER_BYTES = 4 * 1024 * 1024
LATE_SECONDS = 10.0  # of one piece of work, which the limits of templates end in a hundredth of that
CHECK_SECONDS = 1.0


class CompileProcess:
    """The process, as the server sees it: started when it is wanted, and again when it is wanted after it died."""

    def __init__(self, late_seconds: float = LATE_SECONDS) -> None:
        self._late_seconds = late_seconds
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, tuple[float, asyncio.Future[Any]]] = {}  # in the order of their times
        self._number = 0

    @property
    def up(self) -> bool:
        return self._writer is not None

    def start(self) -> None:
        """Begin to start it, when it neither runs nor is about to."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns there; call it only while the process is `up`. Raise what it raises, and Problem
        503 when the process ends meanwhile."""
        assert self._writer is not None
        self._number += 1
        number, found = self._number, asyncio.get_running_loop().create_future()
        self._waiting[number] = time.monotonic(), found
        write_frame(self._writer, NUMBER.pack(number) + pickle.dumps(work))
        return cast(T, await found)

    async def aclose(self) -> None:
        """End the process."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tocsin.campaign.compile_process", str(theirs.fileno()), str(os.getpid())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=make_environment(os.environ),
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=BUFFER_BYTES)
        checking = asyncio.create_task(self._check_regularly(process))
        try:
            while frame := await read_frame(reader):
                self._writer = writer  # the first frame says that it is ready
                self._receive(frame)
        finally:
            self._writer = None
            checking.cancel()
            writer.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            self._give_up()

    def _receive(self, frame: bytes) -> None:
        (number,) = NUMBER.unpack_from(frame)
        result, error = pickle.loads(frame[NUMBER.size :])  # noqa: S301 - of our own process
        _, found = self._waiting.pop(number, (0.0, None))
        if found is None or found.done():  # nobody waits any more
            return
        if error is None:
            found.set_result(result)
        else:
            found.set_exception(error)

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if waiting:
            log.error("the process that compiles contents ended", contents=len(waiting))
        for _, found in waiting.values():
            if not found.done():
                found.set_exception(Problem("the content could not be compiled; try again", code=503, status=503))

    async def _check_regularly(self, process: asyncio.subprocess.Process) -> None:
        """End it when a piece of work does not end."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            since = next((since for since, _ in self._waiting.values()), None)
            if since is not None and time.monotonic() - since > self._late_seconds:
                log.error("a content does not end compiling; its process is ended")
                process.kill()
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
    os._exit(0)


async def _serve(sock: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=BUFFER_BYTES)
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(THREADS)
    write_frame(writer, _write_answer(0, None, None))  # «ready»
    while frame := await read_frame(reader):
        done = loop.run_in_executor(threads, _do, frame)
        done.add_done_callback(partial(_answer, writer))
    os._exit(0)


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
