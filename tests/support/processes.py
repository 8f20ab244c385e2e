"""Processes of tocsin: what a command answered, and the senders of a server."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any


def read_answer(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    """The JSON in the last line of a command's output, which must have ended with this code; else what it said."""
    assert done.returncode == code, f"{done.args} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def children(pid: int, module: str = "tocsin.delivery.sender") -> list[int]:
    """The senders of a server, or its processes of another module, as the kernel knows them."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread ended meanwhile
            found += map(int, path.read_text().split())
    return [one for one in found if module.encode() in command(one)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended before the file was opened, or before it was read
        return b""


def find_settings(pid: int) -> list[str]:
    """The names of our settings in the environment of a process."""
    names = [one.partition(b"=")[0].decode() for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    assert "PATH" in names or "PATH" not in os.environ
    return [name for name in names if name.startswith("TOCSIN_")]
