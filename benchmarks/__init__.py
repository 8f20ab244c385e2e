"""`tocsin bench`: numbers, each beside the thing it is compared with, in the same run on the same machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tocsin.demo.stage import running


class Reading(msgspec.Struct, frozen=True):
    """One measured number. `of` is what it is compared with, `ratio` this number divided by that one's; `p95` stands
    beside a median."""

    name: str
    value: float
    unit: str
    of: str = ""
    ratio: float | None = None
    p95: float | None = None


def report(bench: str, arguments: dict[str, Any], readings: list[Reading], *, as_json: bool) -> None:
    """Prints the readings as a table, or as one JSON object on the last line of stdout."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    if as_json:
        body = {"bench": bench, "arguments": arguments, "machine": machine, "readings": readings}
        print(msgspec.json.encode(body).decode(), flush=True)
        return
    table = Table(title=f"tocsin bench {bench} · {machine}", title_justify="left")
    for heading, side in (("what", "left"), ("value", "right"), ("unit", "left"), ("beside", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for one in readings:
        beside = f"{one.ratio:.2f} × {one.of}" if one.ratio is not None else one.of
        p95 = f", p95 {one.p95:,.1f}" if one.p95 is not None else ""
        table.add_row(one.name, f"{one.value:,.1f}", f"{one.unit}{p95}", beside)
    Console().print(table)


@contextmanager
def serving(folder: Path, port: int, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A server on the folder while the context lasts; gives its process id."""
    with (
        (folder / "log").open("ab") as log,
        running(log, "serve", "--data", str(folder), "--port", str(port), environment=environment) as pid,
    ):
        yield pid


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """The most memory a process has held, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
