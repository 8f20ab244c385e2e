"""Processes of tocsin: what a command answered, and the senders of a server."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any


def read_answer(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    """The JSON in the last line of a command's output, which must have ended with this code; else what it said."""
    assert done.returncode == code, f"{done.args} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def children(pid: int) -> list[int]:
    """The senders of a server, as the kernel knows them."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread ended meanwhile
            found += map(int, path.read_text().split())
    return [one for one in found if b"tocsin.delivery.sender" in command(one)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended before the file was opened, or before it was read
        return b""
