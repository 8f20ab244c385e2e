"""The data folder of one machine: the lock on it, and where the server that runs on it answers."""

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
RESTORING = "restoring"  # is there while `tocsin restore` fills the folder


class RunningServer(msgspec.Struct, frozen=True):
    """A server that runs on a folder: where it answers, and the token that proves a caller can read the folder."""

    url: str
    token: str


@contextmanager
def lock_folder(data: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keep every other process off the embedded stores while the context lasts; make the folder when it is new.

    Raises Misconfigured when another process holds the lock for `patience` seconds more: a command that only looks for
    a server holds it for a moment. The lock is the kernel's (flock): it ends with the process, however that ends.
    """
    refuse_half_restored(data)
    with hold_folder(data, patience=patience):
        yield


@contextmanager
def hold_folder(data: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Do what `lock_folder` does, also in a folder that is being restored."""
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


def refuse_half_restored(data: Path) -> None:
    """Raise Misconfigured for a folder that `tocsin restore` has not finished."""
    if (data / RESTORING).exists():
        raise Misconfigured(f"{data} holds half of a restore. Empty the folder, and run `tocsin restore` again.")


def forget_address(data: Path) -> None:
    """Remove the address an earlier server left: another program may listen on its port by now."""
    (data / ADDRESS).unlink(missing_ok=True)


def write_address(data: Path, url: str) -> str:
    """Write down where this server answers. Return the token that its `/local/…` routes ask for."""
    token = secrets.token_urlsafe(32)
    path = data / ADDRESS
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(RunningServer(url, token)))
    return token


def find_running(data: Path) -> RunningServer | None:
    """Return the server that runs on this folder, or None: the lock says whether, the file says where.

    Raises Misconfigured while a server is starting.
    """
    refuse_half_restored(data)
    try:
        with lock_folder(data):
            return None
    except Misconfigured:
        pass
    try:
        return msgspec.json.decode((data / ADDRESS).read_bytes(), type=RunningServer)
    except (OSError, msgspec.DecodeError):
        raise Misconfigured(f"Another tocsin is starting on {data}; try again in a moment.") from None
