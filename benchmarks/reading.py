"""Measured numbers, and how they are printed."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table


class Reading(msgspec.Struct, frozen=True):
    """One measured number.

    of: what it is compared with. ratio: this number divided by that one. p95: beside a median, in the same unit.
    """

    name: str
    value: float
    unit: str
    of: str = ""
    ratio: float | None = None
    p95: float | None = None


def report(bench: str, arguments: dict[str, Any], readings: list[Reading], *, as_json: bool) -> None:
    """Print the readings as a table, or as one JSON object on the last line of stdout."""
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


def print_progress(text: str) -> None:
    """Print a line about what is going on to stderr: stdout is for the readings."""
    print(text, file=sys.stderr, flush=True)
