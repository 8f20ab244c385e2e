"""The data folder of one machine: who has it, and how the commands reach the server that runs on it."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tocsin.errors import Misconfigured

LOCK = "serve.lock"
ADDRESS = "serve.json"


class RunningServer(msgspec.Struct, frozen=True):
    """A server that runs on a folder: where it answers, and the token that proves a caller can read the folder."""

    url: str
    token: str


@contextmanager
def lock_folder(data: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keeps every other process off the embedded stores while it lasts. Raises Misconfigured when one has had them for
    `patience` seconds: a command that only looks holds the folder for a moment. The lock is the kernel's: it ends with
    the process, however that ends."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + patience
    with (data / LOCK).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise Misconfigured(
                        f"Another tocsin runs on {data}. Stop it first, or give another --data."
                    ) from None
                time.sleep(0.05)
        yield


def forget_address(data: Path) -> None:
    """Removes what an earlier server wrote, so that nobody calls an address that is no longer ours."""
    (data / ADDRESS).unlink(missing_ok=True)


def write_address(data: Path, url: str) -> str:
    """Writes down where this server answers; gives the token its routes for this machine ask for."""
    token = secrets.token_urlsafe(32)
    path = data / ADDRESS
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(RunningServer(url, token)))
    return token


def find_running(data: Path) -> RunningServer | None:
    """The server on this folder, if one runs: the lock says so, the file only where."""
    try:
        with lock_folder(data):
            return None
    except Misconfigured:
        pass
    try:
        return msgspec.json.decode((data / ADDRESS).read_bytes(), type=RunningServer)
    except (OSError, msgspec.DecodeError):
        raise Misconfigured(f"Another tocsin is starting on {data}; try again in a moment.") from None
