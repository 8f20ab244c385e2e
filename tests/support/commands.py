"""Commands of tocsin in processes of their own, used as `subprocess` is; they are forks of one process that has
imported everything: `command_server.py`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

SERVER = Path(__file__).parent / "command_server.py"
MEASURED_COMMAND = Path(__file__).parent / "measured_command.py"
LONGEST_SECONDS = 300.0  # a benchmark on a busy machine


class Command:
    """A running `tocsin ARGUMENTS`, with what tests use of a Popen. program: `tocsin`, or the path of a script."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
        program: str = "tocsin",
    ):
        self.args = [program, *arguments]
        self.returncode: int | None = None
        request = {
            "arguments": self.args,
            "environment": os.environ | dict(environment or {}),
            "folder": str(folder or Path.cwd()),
        }
        told, tell = os.pipe()
        self._told = os.fdopen(told, "rb")
        with Path(os.devnull).open("r+b") as nothing:
            streams = [(one or nothing).fileno() for one in (stdin, stdout, stderr)]
            socket.send_fds(_start_server(), [json.dumps(request).encode()], [*streams, tell])
        os.close(tell)
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._read_end(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises TimeoutExpired."""
        code = self._read_end(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read_end(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            waiting = select.poll()  # `select.select` takes no descriptor above 1,023
            waiting.register(self._told, select.POLLIN)
            if waiting.poll(None if seconds is None else 1000 * seconds):
                self.returncode = int(self._told.readline())
                self._told.close()
        return self.returncode


def run_bytes(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    given: bytes = b"",
    program: str = "tocsin",
) -> subprocess.CompletedProcess[bytes]:
    """What a command said and how it ended. given: what it reads from its standard input."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(given)
        stdin.seek(0)
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        command = Command(*arguments, environment=environment, folder=folder, program=program, **streams)
        try:
            code = command.wait(LONGEST_SECONDS)
        finally:
            command.kill()
        said = []
        for one in (stdout, stderr):
            one.seek(0)
            said.append(one.read())
    return subprocess.CompletedProcess(command.args, code, *said)


def run(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    program: str = "tocsin",
) -> subprocess.CompletedProcess[str]:
    """The same, of a command that speaks in texts and is told nothing."""
    done = run_bytes(*arguments, environment=environment, folder=folder, program=program)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@contextlib.contextmanager
def running(log: IO[bytes], *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """As `tocsin.demo.stage.running`: the process id of a command that is ready, and runs while the context lasts."""
    said, say = os.pipe()
    with os.fdopen(said, "rb") as lines:
        with os.fdopen(say, "wb") as stdout:
            command = Command(*arguments, environment=environment, stdout=stdout, stderr=log)
        try:
            assert lines.readline(), f"{command.args} did not start; see {log.name}"
            yield command.pid
        finally:
            command.terminate()
            command.wait(LONGEST_SECONDS)


@functools.cache
def _start_server() -> socket.socket:
    """The connection to this process's server of commands, which ends with it; in a fork, to the one it comes from."""
    if asking := os.environ.pop("COMMAND_SERVER", ""):
        return socket.socket(fileno=int(asking))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # its threads would not be in a fork
        )

    def end() -> None:
        ours.close()
        process.wait(LONGEST_SECONDS)

    atexit.register(end)
    return ours
