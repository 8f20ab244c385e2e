"""What every process that a server starts has in common: how it is started and what it inherits, how it ends with its
parent, and the frames in which the two talk."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Mapping

BUFFER_BYTES = 4 * 1024 * 1024
LENGTH = struct.Struct(">I")
PR_SET_PDEATHSIG = 1  # prctl(2), Linux
# Of a server's environment. Proxies have names in small letters too; the last is of the tests that measure coverage.
INHERITED = re.compile(
    r"PATH|HOME|USER|TMPDIR|TZ|LANG|LC_\w+|PYTHON\w+|VIRTUAL_ENV|LD_\w+|DYLD_\w+|SSL_CERT_FILE|SSL_CERT_DIR|OPENSSL_CONF"
    r"|(?i:https?_proxy|all_proxy|no_proxy)|COVERAGE_FOLDER"
)


def make_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: what Python, TLS and proxies read, and none of our settings. It opens no
    store, and gets what it needs with its work."""
    return {name: value for name, value in ours.items() if INHERITED.fullmatch(name)}


async def start_child(
    module: str, *arguments: str
) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamWriter]:
    """Start `python -m module DESCRIPTOR PARENT …`, and return the process and our end of the socket whose other end is
    its DESCRIPTOR. PARENT is our own number, for `live_with`. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid()), *arguments),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=make_environment(os.environ),
            )
        except BaseException:
            ours.close()
            raise
    return process, *await asyncio.open_unix_connection(sock=ours, limit=BUFFER_BYTES)


def kill(process: asyncio.subprocess.Process) -> None:
    """End a process at once, when it has not ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def live_with(parent: int) -> None:
    """Let this process end when its parent does and not before: the kernel ends it with a parent that is killed, and
    Ctrl-C, which reaches the whole group, is the parent's to decide about. Exit at once when the parent has ended."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


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
