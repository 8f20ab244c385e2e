"""A Tocsin to measure: its folder, its process and its callers."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tocsin.account import Account, create_account
from tocsin.demo.stage import running
from tocsin.store.ledger import Ledger


@contextmanager
def new_folder() -> Iterator[Path]:
    """Make a data folder that is removed with the context."""
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        yield Path(name)


def make_caller(ledger: Ledger) -> tuple[Account, dict[str, str]]:
    """Make an account; return it with the headers of its requests."""
    account, passcode = create_account(ledger, "bench", "UTC", time.time())
    return account, {
        "X-CleverTap-Account-Id": account.id,
        "X-CleverTap-Passcode": passcode,
        "Content-Type": "application/json",
    }


OFTEN = {"TOCSIN_CREATE_PER_SECOND": "1000"}  # for campaigns that are over in less than a second


@contextmanager
def serving(folder: Path, port: int, environment: dict[str, str] | None = None) -> Iterator[int]:
    """Run a server on the folder while the context lasts; its process id is the context's value."""
    with (
        (folder / "log").open("ab") as log,
        running(log, "serve", "--data", str(folder), "--port", str(port), environment=environment) as pid,
    ):
        yield pid


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, its finished children left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """Return the most memory a process has held, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def family(pid: int) -> list[int]:
    """Return a process and its children: the server first, then its senders."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [pid, *map(int, text.split())]
