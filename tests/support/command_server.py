"""Runs commands of tocsin in forks of a process that has imported all of it: `python command_server.py DESCRIPTOR`.

A command of its own takes two seconds to import what it needs, three where its lines are counted, and the suite runs
hundreds of them. A fork is a process like theirs, with its own arguments, environment, folder and standard streams. The
socket takes requests of `support.commands`; this process has one thread, or a fork would have the locks of the others.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

REQUEST_BYTES = 1 << 20
STREAMS = 3
ASKING = "COMMAND_SERVER"  # the variable with the descriptor that `support.commands` asks with in a fork
# What commands import beside tocsin's modules when they open a store. chDB is not among them: it has threads.
LIBRARIES = (
    *("alembic.command", "clickhouse_connect", "pyarrow.compute"),
    *("sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite"),
)


def load() -> None:
    """Import what commands need, and keep it out of garbage collection, whose marks would copy every page of it."""
    import tocsin

    for module in pkgutil.walk_packages(tocsin.__path__, "tocsin."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def serve(first: socket.socket) -> list[str]:
    """Fork for each request, and say in the pipe that came with it what became of the fork. A fork may ask in its turn.
    Return twice: in a fork with what it shall run, and with nothing when the first asker is gone."""
    ended, wake = os.pipe()
    for descriptor in (ended, wake):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    askers = {first.fileno(): first}
    while True:
        ready, _, _ = select.select([*askers, ended], [], [])
        if ended in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(ended, 4096)
            report_ends(running)
        for asker in [askers[one] for one in ready if one != ended]:
            body, descriptors, _, _ = socket.recv_fds(asker, REQUEST_BYTES, STREAMS + 1)
            if not body:
                askers.pop(asker.fileno()).close()
                if asker is first:
                    for pid in running:  # what a suite that was killed has left
                        os.kill(pid, signal.SIGKILL)
                    return []
                continue
            *streams, told = descriptors
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if not pid:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.set_wakeup_fd(-1)
                for one in (*askers.values(), ours):
                    one.close()
                for number in (ended, wake, told, *running.values()):
                    os.close(number)
                return become(json.loads(body), streams, theirs.detach())
            askers[ours.fileno()] = ours
            theirs.close()
            running[pid] = told
            os.write(told, f"{pid}\n".encode())
            for number in streams:
                os.close(number)


def report_ends(running: dict[int, int]) -> None:
    """Write the exit codes of the forks that have ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        told = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # who started it has gone
            os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(told)


def become(request: dict[str, Any], streams: list[int], asking: int) -> list[str]:
    """Take on the environment, folder and streams of a request. asking: a descriptor to ask for forks with. Return its
    program and arguments."""
    for place, descriptor in enumerate(streams):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ[ASKING] = str(asking)
    if "PYTHONFAULTHANDLER" in os.environ:
        faulthandler.enable()
    os.chdir(request["folder"])
    arguments: list[str] = request["arguments"]
    return arguments


def run(program: str, *arguments: str) -> NoReturn:
    """Run a program, and end this process as the interpreter would, but for its freeing of every object of every
    module, for a tenth of a second."""
    sys.argv = [program, *arguments]
    code: object = 0
    try:
        if program == "tocsin":
            from tocsin.cli import main

            main()
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # as conftest's: scripts import `support`
    load()
    if wanted := serve(socket.socket(fileno=int(sys.argv[1]))):
        run(*wanted)
